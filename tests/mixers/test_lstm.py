"""The LSTM mixer against its equations, and what only a nonlinear state can do."""

import torch

from ntlib.mixers.lstm import LSTMConfig


def test_equals_the_equations():
    mixer = LSTMConfig().build(6).double()
    mixer.reset_parameters(torch.Generator().manual_seed(0))
    x = torch.randn(2, 9, 6, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    weights, recurrent = mixer.cell.weight_ih_l0, mixer.cell.weight_hh_l0
    h = c = torch.zeros(2, 6, dtype=torch.float64)
    outputs = []
    for x_t in x.unbind(1):
        gates = x_t @ weights.T + mixer.cell.bias_ih_l0 + h @ recurrent.T + mixer.cell.bias_hh_l0
        i, f, g, o = gates.chunk(4, dim=-1)
        c = f.sigmoid() * c + i.sigmoid() * g.tanh()
        h = o.sigmoid() * c.tanh()
        outputs.append(mixer.o(h))
    y, state = mixer(x)
    assert torch.allclose(y, torch.stack(outputs, 1), atol=1e-12)
    assert torch.allclose(state.c, c, atol=1e-12)


def test_forget_gates_start_open():
    mixer = LSTMConfig(forget_bias=2.0).build(4)
    mixer.reset_parameters(torch.Generator().manual_seed(0))
    bias = mixer.cell.bias_ih_l0 + mixer.cell.bias_hh_l0
    assert bias.tolist() == [0.0] * 4 + [2.0] * 4 + [0.0] * 8
