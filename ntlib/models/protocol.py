"""What every language model offers, so that training, generation and the experiments treat all
alike."""

from collections.abc import Iterator
from typing import Any, Protocol

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn


class Config(Protocol):
    """A frozen dataclass that fixes a model's parameters."""

    vocab_size: int
    d_model: int
    n_layers: int

    def build(self, generator: torch.Generator | None = None) -> "Model":
        """The model; a seeded `generator` fixes its initial weights."""
        ...


class Model(Protocol):
    """Tokens to next-token logits, resumable anywhere by its states."""

    config: Config
    embedding: nn.Embedding
    head: nn.Linear

    def __call__(
        self, tokens: Int[Tensor, "batch length"], states: list[Any] | None = None
    ) -> tuple[Float[Tensor, "batch length vocab"], list[Any]]:
        """Logits of every position and the states after the last one."""
        ...

    def hidden(
        self, tokens: Int[Tensor, "batch length"], states: list[Any] | None = None
    ) -> tuple[Float[Tensor, "batch length d_model"], list[Any]]:
        """What the head reads, and the states: a prompt needs logits of its last position only."""
        ...

    def step(
        self, token: Int[Tensor, " batch"], states: list[Any]
    ) -> tuple[Float[Tensor, "batch vocab"], list[Any]]:
        """Logits after one more token."""
        ...

    def init_states(self, batch_size: int, capacity: int = 0) -> list[Any]:
        """The states before the first token; see ntlib.mixers.protocol.Mixer.init_state."""
        ...

    def parameters(self) -> Iterator[nn.Parameter]:
        """All weights."""
        ...
