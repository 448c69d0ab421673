"""Token shift: every position also sees the token before it.

A sub-layer of RWKV reads a mixture of its (normalised) input x_t and x_(t-1); before the first
token x_(-1) = 0. All versions share the shift; how the two are mixed is the version's own:

    version 4, 5       mu x_t + (1 - mu) x_(t-1)              mu = time_mix_*
    version 6, 7       x_t + m (x_(t-1) - x_t)                m = time_maa_*, x_*: 1 - mu
"""

import torch
from jaxtyping import Float
from torch import Tensor


def token_shift(
    x: Float[Tensor, "batch length d"], last: Float[Tensor, "batch d"] | None = None
) -> tuple[Float[Tensor, "batch length d"], Float[Tensor, "batch d"]]:
    """The sequence one position later, `last` (None: zeros) in front; and x's last token, which is
    the `last` of what follows."""
    first = x.new_zeros(x.shape[0], 1, x.shape[2]) if last is None else last[:, None].to(x.dtype)
    return torch.cat([first, x[:, :-1]], dim=1), x[:, -1].clone()  # a view would keep all of x
