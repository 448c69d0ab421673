"""Where the step sizes of Mamba, Mamba-2 and Mamba-3 start."""

import math

import torch
from torch import Tensor


def draw_step_bias(
    bias: Tensor,
    bounds: tuple[float, float],
    floor: float,
    generator: torch.Generator | None = None,
) -> None:
    """Fills `bias` so that softplus(bias) is log-uniform within `bounds`, and at least `floor`.

    2312.00752, Sec. 3.6; the floor is the released code's.
    """
    low, high = map(math.log, bounds)
    dt = torch.empty_like(bias, dtype=torch.float64).uniform_(low, high, generator=generator)
    dt = dt.exp().clamp(min=floor)
    bias.copy_(dt + (-torch.expm1(-dt)).log())  # the inverse of softplus
