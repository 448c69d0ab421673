"""Where the weights of Mamba, Mamba-2 and Mamba-3 start."""

import math

import torch
from torch import Tensor, nn


def draw_uniform(weight: Tensor, inputs: int, generator: torch.Generator | None = None) -> None:
    """Fills `weight` uniformly within 1 / sqrt(inputs): torch's default for linear maps and
    convolutions, which the released code keeps."""
    bound = inputs**-0.5
    nn.init.uniform_(weight, -bound, bound, generator=generator)


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
