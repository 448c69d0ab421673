"""What the official initialisations of RWKV-4, 5 and 6 share: they depend on where a layer stands.

| here       | official code (RWKV-LM)                                          |
| ---------- | ---------------------------------------------------------------- |
| rho        | ratio_0_to_1 = layer / (n_layers - 1): 0 in the first, 1 in the last layer |
| eta        | ratio_1_to_almost0 = 1 - layer / n_layers: 1 in the first layer  |
| channel    | ddd or x: i / d_model                                            |
| fraction   | n / (width - 1)                                                  |
| zigzag     | (n + 1) % 3 - 1: 0, 1, -1, 0, 1, -1, ...                         |

Deep layers look back further: their decays are slower and their mixtures hold more of the previous
token than the first layers'.
"""

import torch
from torch import Tensor, nn


def depth(layer: int, n_layers: int) -> tuple[float, float]:
    """(rho, eta) of a layer; rho is 0 where there is one layer only, for which the official code
    divides by 0.

    Raises ValueError unless 0 <= layer < n_layers.
    """
    if not 0 <= layer < n_layers:
        raise ValueError(f"layer must be in 0 ... n_layers - 1 = {n_layers - 1}, got {layer}")
    return layer / max(n_layers - 1, 1), 1 - layer / n_layers


def channel(d_model: int) -> Tensor:
    """i / d_model, float32 (d_model,)."""
    return torch.arange(d_model) / d_model


def fraction(width: int) -> Tensor:
    """n / (width - 1), float32 (width,), from 0 to 1."""
    return torch.arange(width) / max(width - 1, 1)


def zigzag(width: int) -> Tensor:
    """0, 1, -1, 0, 1, -1, ..., float32 (width,)."""
    return (torch.arange(width) + 1).remainder(3).float() - 1


def head_decay(layer: int, n_layers: int, width: int) -> Tensor:
    """time_decay of versions 5 and 6 by channel: the decay's exponent is -exp of it."""
    rho, _ = depth(layer, n_layers)
    return -6 + 5 * fraction(width) ** (0.7 + 1.3 * rho)


def head_bonus(layer: int, n_layers: int, width: int) -> Tensor:
    """time_faaaa of versions 5 and 6 by channel."""
    rho, _ = depth(layer, n_layers)
    return rho * (1 - fraction(width)) + 0.1 * zigzag(width)


def set_(parameter: nn.Parameter, value: Tensor) -> None:
    """Copy numbers into a parameter of as many, in its order."""
    with torch.no_grad():
        parameter.copy_(value.view(parameter.shape))
