"""Token shift: every position also sees the token before it.

A sub-layer of RWKV reads mixtures of its (normalised) input x_t and x_(t-1); before the first token
x_(-1) = 0. All versions share the shift; how the two are mixed is the version's own:

    version 4, 5       mu x_t + (1 - mu) x_(t-1)              mu = time_mix_*
    version 6, 7       x_t + m (x_(t-1) - x_t)                m = time_maa_*, x_*: 1 - mu

with one m for all tokens, or in version 6 one for every token.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from ntlib.mixers.token_shift_kernel import CompiledMix
from ntlib.ops.compiled import kernels_serve


def token_shift(
    x: Float[Tensor, "batch length d"], last: Float[Tensor, "batch d"] | None = None
) -> tuple[Float[Tensor, "batch length d"], Float[Tensor, "batch d"]]:
    """The sequence one position later, `last` (None: zeros) in front; and x's last token, which is
    the `last` of what follows."""
    first = x.new_zeros(x.shape[0], 1, x.shape[2]) if last is None else last[:, None].to(x.dtype)
    return torch.cat([first, x[:, :-1]], dim=1), last_token(x)


def last_token(x: Float[Tensor, "batch length d"]) -> Float[Tensor, "batch d"]:
    """What the next call takes as `last`; not a view, which would keep all of x."""
    return x[:, -1].clone()


def shift_mix(
    x: Float[Tensor, "batch length d"],
    last: Float[Tensor, "batch d"] | None,
    weights: Float[Tensor, "mixtures ... d"],
) -> tuple[Float[Tensor, "batch length d"], ...]:
    """x_t + m (x_(t-1) - x_t) for m = weights[0], weights[1], ...

    `weights` is (n, 1, 1, d) or, with an own m for every token, (n, batch, length, d).
    """
    if not (kernels_serve(x, last, weights) and x.dtype in (torch.float32, torch.float64)):
        return torch.lerp(x, token_shift(x, last)[0], weights).unbind()
    last = x.new_zeros(x.shape[0], x.shape[2]) if last is None else last
    return CompiledMix.apply(x, last, weights)
