"""What every mixer offers, so that the language model, the tests, the benchmarks and the plots
treat all alike."""

from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor, nn


@runtime_checkable
class MixerConfig(Protocol):
    """A frozen dataclass that describes a mixer independently of the width it is used at."""

    def build(self, d_model: int) -> "Mixer":
        """The mixer at this width.

        Raises ValueError if the width does not divide into the heads.
        """
        ...


class Mixer(nn.Module):
    """A causal map from (batch, length, d_model) to the same, with a state that makes it
    resumable."""

    def forward(
        self, x: Float[Tensor, "batch length d_model"], state: Any = None
    ) -> tuple[Float[Tensor, "batch length d_model"], Any]:
        """A whole sequence, continuing from `state` if one is given; returns outputs and the state
        after the last token."""
        raise NotImplementedError

    def step(
        self, x_t: Float[Tensor, "batch d_model"], state: Any
    ) -> tuple[Float[Tensor, "batch d_model"], Any]:
        """One token.

        The cost does not depend on its position, except for attention, whose cache grows.
        """
        raise NotImplementedError

    def init_state(self, batch_size: int, capacity: int = 0) -> Any:
        """The state before the first token: nested tuples of tensors, whose bytes are the mixer's
        memory.

        `capacity` is the number of tokens to reserve room for; only states that grow with length
        use it.
        """
        raise NotImplementedError

    def reset_parameters(
        self, generator: torch.Generator | None = None, residual_scale: float = 1.0
    ) -> None:
        """Draw the initial weights from `generator` alone; those of the output map are multiplied
        by `residual_scale`."""
        raise NotImplementedError


def check_input(
    x: Tensor, d_model: int, dims: tuple[str, ...] = ("batch", "length", "d_model")
) -> None:
    """Raise ValueError unless x has the named dimensions, none of them empty, and the last of size
    d_model."""
    if x.dim() != len(dims) or x.shape[-1] != d_model or 0 in x.shape:
        raise ValueError(
            f"x must be ({', '.join(dims)}), not empty, with d_model = {d_model}; "
            f"got {tuple(x.shape)}"
        )


def check_heads(width: int, n_heads: int, what: str = "n_heads", whole: str = "d_model") -> int:
    """width / n_heads; raises ValueError, naming both, unless it is whole."""
    if n_heads < 1 or width % n_heads:
        raise ValueError(f"{what} must divide {whole} = {width}, got {n_heads}")
    return width // n_heads


def split_heads(
    x: Float[Tensor, "*batch width"], n_heads: int
) -> Float[Tensor, "*batch heads head_dim"]:
    """Cut the last dimension into heads."""
    return x.unflatten(-1, (n_heads, -1))
