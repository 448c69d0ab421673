"""Mega language models.

    h = sqrt(d_model) embed_tokens(tokens);   h = mega(h);   h += fc2(silu(fc1(norm(h))));
    logits = output_projection(final_norm(h))

What sets the skeleton apart from ntlib.models.language_model: the gated attention has its norm and
its residual inside (ntlib.mixers.mega), the gate deciding how much of h stays; maps have biases;
norms are those of the mixer. Post-norm models (prenorm=False) normalise what each layer returns,
and have no final norm.

| here             | Mega (2209.10655)                 | the official code                         |
| ---------------- | --------------------------------- | ----------------------------------------- |
| mega_layer       | gated attention                   | mega_layer, MovingAverageGatedAttention   |
| nffn             | the feed-forward layer of a block | nffn, NormalizedFeedForwardNetwork        |
| embed_tokens ... |                                   | the same names, fairseq/models/mega_lm.py |
| ffn_dim          | d_FFN                             | decoder_ffn_embed_dim                     |

Departures: no dropout; a plain head where the paper's WikiText-103 model has an adaptive softmax.
"""

from dataclasses import dataclass
from typing import Protocol

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from ntlib.mixers.mega import MegaConfig, MegaState
from ntlib.mixers.position_bias import INIT_STD
from ntlib.mixers.sequence_norm import SequenceNorm, sequence_norm_parameters
from ntlib.models.stack import Stack


@dataclass(frozen=True)
class MegaModelConfig:
    """Everything that fixes a model's parameters."""

    vocab_size: int
    d_model: int  # width of the residual stream
    n_layers: int  # blocks, each one gated attention and one feed-forward layer
    mixer: MegaConfig  # causal; its norm and its place (prenorm) are those of the whole model
    ffn_dim: int  # hidden width of the feed-forward layer; in the paper that of the values
    tied: bool = False  # share embedding and head, as in the paper's enwik8 model

    @property
    def mixers(self) -> tuple[MegaConfig, ...]:
        """The mixer of every layer."""
        return (self.mixer,) * self.n_layers

    @property
    def ffn_matrices(self) -> int:
        """Numbers in the matrices of one feed-forward layer."""
        return 2 * self.d_model * self.ffn_dim

    @property
    def block_vectors(self) -> int:
        """Numbers in the biases and the norm of one feed-forward layer."""
        norm = sequence_norm_parameters(self.mixer.norm, self.d_model)
        return self.ffn_dim + self.d_model + norm

    @property
    def final_norm(self) -> int:
        """Numbers in the norm before the head, where there is one."""
        if not self.mixer.prenorm:
            return 0
        return sequence_norm_parameters(self.mixer.norm, self.d_model)

    def build(self, generator: torch.Generator | None = None) -> "MegaModel":
        """The model with initial weights from `generator`."""
        return MegaModel(self, generator)


class BlockConfig(Protocol):
    """What a block needs to know of its model."""

    d_model: int
    mixer: MegaConfig
    ffn_dim: int


class NormalisedFeedForward(nn.Module):
    """x + fc2(silu(fc1(norm(x)))), or with prenorm=False norm(x + fc2(silu(fc1(x))))."""

    def __init__(self, d_model: int, dim: int, norm: str, prenorm: bool):
        super().__init__()
        self.prenorm = prenorm
        self.norm = SequenceNorm(norm, d_model)
        self.fc1 = nn.Linear(d_model, dim)
        self.fc2 = nn.Linear(dim, d_model)

    def reset_parameters(self, generator: torch.Generator | None = None) -> None:
        """As published: N(0, 0.02^2), biases 0."""
        self.norm.reset_parameters()
        for linear in (self.fc1, self.fc2):
            nn.init.normal_(linear.weight, std=INIT_STD, generator=generator)
            nn.init.zeros_(linear.bias)

    def forward(self, x: Tensor) -> Tensor:
        y = x + self.fc2(F.silu(self.fc1(self.norm(x) if self.prenorm else x)))
        return y if self.prenorm else self.norm(y)


class Block(nn.Module):
    """One gated attention and one feed-forward layer, both with their residuals inside."""

    def __init__(self, config: BlockConfig):
        super().__init__()
        mixer = config.mixer
        self.mega_layer = mixer.build(config.d_model)
        self.nffn = NormalisedFeedForward(config.d_model, config.ffn_dim, mixer.norm, mixer.prenorm)

    def reset_parameters(self, generator: torch.Generator | None = None) -> None:
        """As published."""
        self.mega_layer.reset_parameters(generator)
        self.nffn.reset_parameters(generator)

    def forward(self, h, state=None):
        h, state = self.mega_layer(h, state)
        return self.nffn(h), state

    def step(self, h, state):
        """One token; see forward."""
        h, state = self.mega_layer.step(h, state)
        return self.nffn(h), state


class MegaModel(Stack):
    """Tokens to next-token logits; with chunks the states have bounded size.

    Weights are drawn from `generator`, so that a seed fixes them on any number of threads. Raises
    ValueError for a bidirectional mixer: it would see the tokens that it predicts.
    """

    def __init__(self, config: MegaModelConfig, generator: torch.Generator | None = None):
        super().__init__()
        if config.mixer.bidirectional:
            raise ValueError("mixer must be causal in a language model, got bidirectional=True")
        self.config, d_model = config, config.d_model
        self.embed_tokens = nn.Embedding(config.vocab_size, d_model)
        self.layers = nn.ModuleList(Block(config) for _ in range(config.n_layers))
        self.final_norm = SequenceNorm(config.mixer.norm, d_model) if config.mixer.prenorm else None
        self.output_projection = nn.Linear(d_model, config.vocab_size, bias=False)
        if config.tied:
            self.output_projection.weight = self.embed_tokens.weight
        self.reset_parameters(generator)

    @property
    def embedding(self) -> nn.Embedding:
        """The table of tokens, under the name that it has in every model."""
        return self.embed_tokens

    @property
    def blocks(self) -> nn.ModuleList:
        """The blocks, under the name that they have in every model."""
        return self.layers

    @property
    def head(self) -> nn.Linear:
        """The map to logits, under the name that it has in every model."""
        return self.output_projection

    def reset_parameters(self, generator: torch.Generator | None = None) -> None:
        """As published; the embedding is multiplied by sqrt(d_model) where it is read."""
        std = self.config.d_model**-0.5
        nn.init.normal_(self.embed_tokens.weight, std=std, generator=generator)
        nn.init.normal_(self.output_projection.weight, std=std, generator=generator)
        for block in self.layers:
            block.reset_parameters(generator)
        if self.final_norm is not None:
            self.final_norm.reset_parameters()

    def embed(self, tokens: Int[Tensor, "*any"]) -> Float[Tensor, "*any d_model"]:
        """The table, scaled to entries of size one."""
        return self.config.d_model**0.5 * self.embed_tokens(tokens)

    def normalise(self, h: Float[Tensor, "*any d_model"]) -> Float[Tensor, "*any d_model"]:
        """See Stack; post-norm blocks have done it."""
        return h if self.final_norm is None else self.final_norm(h)

    def init_states(self, batch_size: int, capacity: int = 0) -> list[MegaState]:
        """The states before the first token; see ntlib.mixers.protocol.Mixer.init_state."""
        return [block.mega_layer.init_state(batch_size, capacity) for block in self.layers]
