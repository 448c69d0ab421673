"""A residual language model around any mixer: the same skeleton for every architecture of the book.

    h = embedding(tokens);   h += mixer(norm(h));   h += feed_forward(norm(h));   logits =
    head(norm(h))

Pre-norm with RMSNorm (1910.07467) and SwiGLU (2002.05202), the skeleton of Llama (2302.13971) and
of RetNet's released code. Without feed-forward layers it is that of Mamba (2312.00752, Sec. 3.4).
"""

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from ntlib.mixers.protocol import MixerConfig
from ntlib.models.stack import Stack


@dataclass(frozen=True)
class ModelConfig:
    """Everything that fixes a model's parameters."""

    vocab_size: int  # 256 for bytes
    d_model: int  # width of the residual stream
    n_layers: int  # blocks, each one mixer and one feed-forward layer, if there is one
    # what moves information along the sequence: one for all layers or, in a hybrid, one for each
    mixer: MixerConfig | tuple[MixerConfig, ...]
    # hidden width of the feed-forward layer; 8/3 d_model costs as much as a plain one of 4 d_model;
    # 0: no such layer, as in Mamba
    ffn_dim: int
    # "swiglu" or "geglu" (three matrices; RetNet's code takes the latter), "gelu" (two; RetNet's
    # paper)
    ffn: str = "swiglu"
    tied: bool = (
        False  # share embedding and head, where the vocabulary would dominate a small model
    )
    norm_eps: float = 1e-6  # of every RMSNorm

    def __post_init__(self):
        if isinstance(self.mixer, tuple) and len(self.mixer) != self.n_layers:
            raise ValueError(
                f"mixer must be one for all or one for each of the n_layers = {self.n_layers} "
                f"layers, got {len(self.mixer)}"
            )

    @property
    def mixers(self) -> tuple[MixerConfig, ...]:
        """The mixer of every layer."""
        return self.mixer if isinstance(self.mixer, tuple) else (self.mixer,) * self.n_layers

    @property
    def ffn_matrices(self) -> int:
        """Numbers in the matrices of one feed-forward layer."""
        return (2 if self.ffn == "gelu" else 3) * self.d_model * self.ffn_dim

    @property
    def block_vectors(self) -> int:
        """Numbers in the norms of one block."""
        return (2 if self.ffn_dim else 1) * self.d_model

    @property
    def final_norm(self) -> int:
        """Numbers in the norm before the head."""
        return self.d_model

    def build(self, generator: torch.Generator | None = None) -> "LanguageModel":
        """The model with initial weights from `generator`."""
        return LanguageModel(self, generator)


class FeedForward(nn.Module):
    """Gated: W_down (f(W_gate x) * W_up x), f = silu (SwiGLU) or gelu (GEGLU).

    Plain: W_down gelu(W_up x).
    """

    def __init__(self, d_model: int, dim: int, kind: str):
        super().__init__()
        if kind not in ("swiglu", "geglu", "gelu"):
            raise ValueError(f"ffn must be 'swiglu', 'geglu' or 'gelu', got {kind!r}")
        self.activation = F.silu if kind == "swiglu" else F.gelu
        self.up = nn.Linear(d_model, dim, bias=False)
        self.gate = nn.Linear(d_model, dim, bias=False) if kind != "gelu" else None
        self.down = nn.Linear(dim, d_model, bias=False)

    def forward(self, x):
        if self.gate is None:
            return self.down(self.activation(self.up(x)))
        return self.down(self.activation(self.gate(x)) * self.up(x))


class Block(nn.Module):
    """One residual block."""

    def __init__(self, config: ModelConfig, mixer: MixerConfig):
        super().__init__()
        self.mixer_norm = nn.RMSNorm(config.d_model, eps=config.norm_eps)
        self.mixer = mixer.build(config.d_model)
        self.ffn = None
        if config.ffn_dim:
            self.ffn_norm = nn.RMSNorm(config.d_model, eps=config.norm_eps)
            self.ffn = FeedForward(config.d_model, config.ffn_dim, config.ffn)

    def forward(self, h, state=None):
        mixed, state = self.mixer(self.mixer_norm(h), state)
        return self._feed_forward(h + mixed), state

    def step(self, h, state):
        mixed, state = self.mixer.step(self.mixer_norm(h), state)
        return self._feed_forward(h + mixed), state

    def _feed_forward(self, h):
        return h if self.ffn is None else h + self.ffn(self.ffn_norm(h))


class LanguageModel(Stack):
    """Tokens to next-token logits.

    Weights are drawn from `generator`, so that a seed fixes them on any number of threads.
    """

    def __init__(self, config: ModelConfig, generator: torch.Generator | None = None):
        super().__init__()
        self.config = config
        self.embedding = nn.Embedding(config.vocab_size, config.d_model)
        self.blocks = nn.ModuleList(Block(config, mixer) for mixer in config.mixers)
        self.norm = nn.RMSNorm(config.d_model, eps=config.norm_eps)
        self.head = nn.Linear(config.d_model, config.vocab_size, bias=False)
        if config.tied:
            self.head.weight = self.embedding.weight
        self.reset_parameters(generator)

    def reset_parameters(self, generator: torch.Generator | None = None) -> None:
        """Unit-variance maps everywhere; what writes into the residual stream is divided by the
        root of how often that happens: sqrt(2 n_layers) with feed-forward layers (GPT-2)."""
        d_model, layers_per_block = self.config.d_model, 2 if self.config.ffn_dim else 1
        shrink = (layers_per_block * self.config.n_layers) ** -0.5
        nn.init.normal_(self.embedding.weight, std=d_model**-0.5, generator=generator)
        nn.init.normal_(self.head.weight, std=d_model**-0.5, generator=generator)
        for block in self.blocks:
            block.mixer.reset_parameters(generator, residual_scale=shrink)
            if block.ffn is None:
                continue
            for linear in filter(None, (block.ffn.up, block.ffn.gate)):
                nn.init.normal_(linear.weight, std=d_model**-0.5, generator=generator)
            nn.init.normal_(
                block.ffn.down.weight, std=shrink * self.config.ffn_dim**-0.5, generator=generator
            )

    def normalise(self, h: Float[Tensor, "*any d_model"]) -> Float[Tensor, "*any d_model"]:
        """See Stack."""
        return self.norm(h)

    def init_states(self, batch_size: int, capacity: int = 0) -> list[Any]:
        """The state of every mixer before the first token; see Mixer.init_state."""
        return [block.mixer.init_state(batch_size, capacity) for block in self.blocks]


def count_parameters(model: nn.Module, *, embeddings: bool = True) -> int:
    """Number of parameters, shared ones once; without `embeddings`, input and output embeddings are
    left out."""
    left_out = set() if embeddings else {id(model.embedding.weight), id(model.head.weight)}
    return sum(p.numel() for p in model.parameters() if id(p) not in left_out)
