"""Generation: the prompt in parallel passes, then one step of constant shape per token."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ntlib.models.protocol import Model

# Tokens of a prompt that are read at once: enough to keep the matrix products busy, and a bound on
# what a long prompt needs beside the state.
PIECE = 512


@dataclass(frozen=True)
class Sampling:
    """How a token is drawn from logits. Raises ValueError for values outside their range."""

    temperature: float = 1.0  # logits are divided by it; 0 takes the most probable token (greedy)
    top_k: int | None = None  # keep the k most probable tokens
    top_p: float | None = (
        None  # then keep the fewest tokens whose probability reaches p (nucleus, 1904.09751)
    )

    def __post_init__(self):
        if self.temperature < 0:
            raise ValueError(f"temperature must be >= 0, got {self.temperature}")
        if self.top_k is not None and self.top_k < 1:
            raise ValueError(f"top_k must be at least 1 or None, got {self.top_k}")
        if self.top_p is not None and not 0 < self.top_p <= 1:
            raise ValueError(f"top_p must be in (0, 1] or None, got {self.top_p}")

    def probabilities(self, logits: Float[Tensor, "batch vocab"]) -> Float[Tensor, "batch vocab"]:
        """The distribution that tokens are drawn from: one-hot if greedy."""
        if self.temperature == 0:
            return torch.nn.functional.one_hot(logits.argmax(-1), logits.shape[-1]).to(logits.dtype)
        p = (logits / self.temperature).softmax(-1)
        if self.top_k is None and self.top_p is None:
            return p
        ranked, order = p.topk(self._candidates(p), dim=-1)
        if self.top_k is not None:
            ranked = ranked / ranked.sum(-1, keepdim=True)
        if self.top_p is not None:
            # a token stays if those before it do not reach top_p
            ranked = ranked.masked_fill(ranked.cumsum(-1) - ranked >= self.top_p, 0)
        return torch.zeros_like(p).scatter(-1, order, ranked / ranked.sum(-1, keepdim=True))

    def _candidates(self, p: Float[Tensor, "batch vocab"]) -> int:
        """How many of the most probable tokens to rank: few of a large vocabulary.

        All tokens below (1 - top_p) / vocab together are less than 1 - top_p: they come after
        those that reach top_p.
        """
        vocab = p.shape[-1]
        if self.top_k is not None:
            return min(self.top_k, vocab)
        return max(1, int((p >= (1 - self.top_p) / vocab).sum(-1).max()))


@torch.no_grad()
def stream(
    model: Model,
    prompt: Int[Tensor, "batch length"],
    sampling: Sampling = Sampling(),
    generator: torch.Generator | None = None,
    capacity: int = 0,
) -> Iterator[Int[Tensor, " batch"]]:
    """Yield one token per sequence for as long as asked. `capacity` preallocates caches for that
    many tokens in all.

    Raises ValueError for an empty prompt or token ids outside the vocabulary.
    """
    vocab = model.config.vocab_size
    if prompt.dim() != 2 or 0 in prompt.shape:
        raise ValueError(f"prompt must be (batch, length), not empty, got {tuple(prompt.shape)}")
    if prompt.min() < 0 or prompt.max() >= vocab:
        raise ValueError(
            f"prompt must hold ids in [0, {vocab}), "
            f"got {prompt.min().item()} ... {prompt.max().item()}"
        )
    states = model.init_states(prompt.shape[0], capacity)
    for piece in prompt.split(PIECE, dim=1):
        h, states = model.hidden(piece, states)
    logits = model.head(h[:, -1])
    while True:
        token = torch.multinomial(sampling.probabilities(logits), 1, generator=generator)[:, 0]
        yield token
        logits, states = model.step(token, states)


def generate(
    model: Model,
    prompt: Int[Tensor, "batch length"],
    n_tokens: int,
    sampling: Sampling = Sampling(),
    generator: torch.Generator | None = None,
) -> Int[Tensor, "batch n_tokens"]:
    """The next `n_tokens` tokens of every sequence."""
    if n_tokens < 1:
        raise ValueError(f"n_tokens must be at least 1, got {n_tokens}")
    tokens = stream(model, prompt, sampling, generator, capacity=prompt.shape[1] + n_tokens)
    return torch.stack([next(tokens) for _ in range(n_tokens)], dim=1)
