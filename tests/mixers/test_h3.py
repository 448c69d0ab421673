"""H3 against its equation, written out."""

import torch

from ntlib.mixers.h3 import H3Config
from tests.ops.battery import relative


def test_the_equation_token_by_token():
    mixer = H3Config(d_state=6).build(10).double()
    mixer.reset_parameters(torch.Generator().manual_seed(0))
    x = torch.randn(15, 10, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    q, k, v = (x @ mixer.in_proj.weight.T).split(10, dim=-1)
    taps, (a, b, c) = mixer.conv1d.weight[:, 0], mixer.kernel.system()
    h, outputs = torch.zeros(10, 3, dtype=a.dtype), []
    for t in range(15):
        shifted = mixer.conv1d.bias + sum(taps[:, 3 - i] * k[t - i] for i in range(4) if i <= t)
        written = shifted * v[t]
        h = a * h + b * written[:, None]
        y = (c * h).sum(-1).real + mixer.D * written
        outputs.append(mixer.out_proj.weight @ (q[t] * y))
    assert relative(mixer(x[None])[0][0], torch.stack(outputs)) < 1e-10
