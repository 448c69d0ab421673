"""What every language model of the book does alike: embed, blocks, norm, head, on sequences and
token by token. Which blocks, and under which names its weights are published, each model says."""

from typing import Any

from jaxtyping import Float, Int
from torch import Tensor, nn


class Stack(nn.Module):
    """Tokens to next-token logits, resumable anywhere by its states; see ntlib.models.protocol.

    Subclasses have `blocks` (forward and step, each with a state), `embedding`, `head` and
    `normalise`, and where it is more than the table of tokens, `embed`.
    """

    blocks: nn.ModuleList
    embedding: nn.Embedding
    head: nn.Linear

    def embed(self, tokens: Int[Tensor, "*any"]) -> Float[Tensor, "*any d_model"]:
        """What enters the first block."""
        return self.embedding(tokens)

    def normalise(self, h: Float[Tensor, "*any d_model"]) -> Float[Tensor, "*any d_model"]:
        """What leaves the last block, as the head reads it."""
        raise NotImplementedError

    def forward(
        self, tokens: Int[Tensor, "batch length"], states: list[Any] | None = None
    ) -> tuple[Float[Tensor, "batch length vocab"], list[Any]]:
        """Logits of every position and the states after the last one; continues from `states` if
        given."""
        h, states = self.hidden(tokens, states)
        return self.head(h), states

    def hidden(
        self, tokens: Int[Tensor, "batch length"], states: list[Any] | None = None
    ) -> tuple[Float[Tensor, "batch length d_model"], list[Any]]:
        """What the head reads, and the states: a prompt needs logits of its last position only."""
        if tokens.dim() != 2 or 0 in tokens.shape:
            raise ValueError(
                f"tokens must be (batch, length), not empty, got {tuple(tokens.shape)}"
            )
        h, states = self._through(self.embed(tokens), states or [None] * len(self.blocks))
        return self.normalise(h), states

    def step(
        self, token: Int[Tensor, " batch"], states: list[Any]
    ) -> tuple[Float[Tensor, "batch vocab"], list[Any]]:
        """Logits after one more token."""
        h, states = self._through(self.embed(token), states, one_token=True)
        return self.head(self.normalise(h)), states

    def _through(
        self, h: Tensor, states: list[Any], one_token: bool = False
    ) -> tuple[Tensor, list[Any]]:
        """All blocks, and their states afterwards."""
        after = []
        for block, state in zip(self.blocks, states, strict=True):
            h, state = block.step(h, state) if one_token else block(h, state)
            after.append(state)
        return h, after
