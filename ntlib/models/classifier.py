"""One label for a whole sequence, of tokens or of real numbers: the encoder of the Long Range Arena
around any mixer.

    h = encoder(inputs);   h += dropout(mixer(norm(h)));   h += dropout(feed_forward(norm(h)));
    logits = head(pool(norm(h)))

The published block of S4 (2111.00396, App. D.2; models/s4/s4.py of the official repository) is
mixer -> GELU -> dropout -> linear map to 2 d_model -> GLU -> dropout -> residual. In this book
GELU, map and GLU belong to the state-space mixers, and their block has no feed-forward layer; of
the two dropouts the last is kept. Attention comes with the feed-forward layer of a Transformer,
Mega with the block of ntlib.models.mega, which has norms, residuals and gate of its own.
"""

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Shaped
from torch import Tensor, nn

from ntlib.mixers.mega import MegaConfig
from ntlib.mixers.protocol import MixerConfig
from ntlib.models import mega
from ntlib.models.language_model import FeedForward


@dataclass(frozen=True)
class ClassifierConfig:
    """Everything that fixes a classifier's parameters."""

    classes: int  # labels
    vocab_size: int | None  # of the input; None: real numbers, `channels` of them at a step
    d_model: int  # width of the residual stream
    n_layers: int  # blocks
    mixer: MixerConfig
    ffn_dim: int  # hidden width of the feed-forward layer (SwiGLU; Mega's is plain); 0: none
    channels: int = 1  # numbers at a step, where the input has no vocabulary
    pool: str = "mean"  # or "last": what the head reads of all steps
    # or "batch", as in S4's runs on most tasks of the Arena; before the mixer (Mega's own norm is
    # its mixer's), and before the head
    norm: str = "layer"
    dropout: float = 0.0  # share of a sublayer's outputs set to 0 in training; not with Mega

    def build(self, generator: torch.Generator | None = None) -> "Classifier":
        """The model with initial weights from `generator`."""
        return Classifier(self, generator)


class Classifier(nn.Module):
    """Sequences to logits of (batch, 1, classes): one scored position, so that training and scores
    are those of every other task."""

    def __init__(self, config: ClassifierConfig, generator: torch.Generator | None = None):
        super().__init__()
        if config.n_layers < 1:
            raise ValueError(f"n_layers must be at least 1, got {config.n_layers}")
        if config.pool not in ("mean", "last"):
            raise ValueError(f"pool must be 'mean' or 'last', got {config.pool!r}")
        self.config = config
        if config.vocab_size is None:
            self.encoder = nn.Linear(config.channels, config.d_model)
        else:
            self.encoder = nn.Embedding(config.vocab_size, config.d_model)
        block = MegaBlock if isinstance(config.mixer, MegaConfig) else ClassifierBlock
        self.blocks = nn.ModuleList(block(config) for _ in range(config.n_layers))
        self.norm = make_norm(config)
        self.head = nn.Linear(config.d_model, config.classes)
        self.reset_parameters(generator)

    @torch.no_grad()
    def reset_parameters(self, generator: torch.Generator | None = None) -> None:
        """As ntlib.models.language_model: unit variance, and less for what is added repeatedly."""
        config = self.config
        d_model, sublayers = config.d_model, 2 if config.ffn_dim else 1
        shrink = (sublayers * config.n_layers) ** -0.5
        self.encoder.weight.normal_(generator=generator)
        if config.vocab_size is None:
            self.encoder.bias.normal_(generator=generator)  # or layer norm would keep signs only
        self.head.weight.normal_(std=d_model**-0.5, generator=generator)
        self.head.bias.zero_()
        for block in self.blocks:
            block.reset_parameters(generator, shrink)

    def forward(
        self, inputs: Shaped[Tensor, "batch length ..."], states: None = None
    ) -> tuple[Float[Tensor, "batch 1 classes"], None]:
        """Logits; inputs are (batch, length) tokens or (batch, length, channels) numbers."""
        config = self.config
        expected = 2 if config.vocab_size is not None else 3
        if inputs.dim() != expected or 0 in inputs.shape:
            kinds = "(batch, length) tokens", f"(batch, length, {config.channels}) numbers"
            raise ValueError(
                f"inputs must be {kinds[expected - 2]}, not empty, got {tuple(inputs.shape)}"
            )
        h = self.encoder(inputs)
        for block in self.blocks:
            h = block(h)
        h = self.norm(h)
        h = h.mean(1, keepdim=True) if config.pool == "mean" else h[:, -1:]
        return self.head(h), None


class ClassifierBlock(nn.Module):
    """One residual block."""

    def __init__(self, config: ClassifierConfig):
        super().__init__()
        self.mixer_norm = make_norm(config)
        self.mixer = config.mixer.build(config.d_model)
        self.dropout = Dropout(config.dropout)
        self.ffn = None
        if config.ffn_dim:
            self.ffn_norm = make_norm(config)
            self.ffn = FeedForward(config.d_model, config.ffn_dim, "swiglu")
            self.ffn_dropout = Dropout(config.dropout)

    def forward(self, h):
        h = h + self.dropout(self.mixer(self.mixer_norm(h))[0])
        return h if self.ffn is None else h + self.ffn_dropout(self.ffn(self.ffn_norm(h)))

    def reset_parameters(self, generator, shrink):
        self.mixer.reset_parameters(generator, residual_scale=shrink)
        self.dropout.reset_parameters(generator)
        if self.ffn is None:
            return
        self.ffn_dropout.reset_parameters(generator)
        for linear in (self.ffn.up, self.ffn.gate):
            nn.init.normal_(linear.weight, std=linear.in_features**-0.5, generator=generator)
        down = self.ffn.down
        nn.init.normal_(down.weight, std=shrink * down.in_features**-0.5, generator=generator)


class MegaBlock(mega.Block):
    """Mega's block, without states."""

    def __init__(self, config: ClassifierConfig):
        super().__init__(config)
        if config.dropout:
            raise ValueError(f"dropout must be 0 with Mega's block, got {config.dropout}")

    def forward(self, h):
        return super().forward(h)[0]

    def reset_parameters(self, generator, shrink):
        super().reset_parameters(generator)  # the gate weighs what is added: nothing to shrink


class Dropout(nn.Module):
    """Dropout whose noise depends on the model's seed and the number of calls alone, both kept with
    the weights: a run that is continued draws on, whatever else draws in its process."""

    def __init__(self, share: float):
        super().__init__()
        if not 0 <= share < 1:
            raise ValueError(f"dropout must be in [0, 1), got {share}")
        self.share = share
        self.register_buffer("seed", torch.zeros((), dtype=torch.int64))
        self.register_buffer("calls", torch.zeros((), dtype=torch.int64))

    @torch.no_grad()
    def reset_parameters(self, generator: torch.Generator | None = None) -> None:
        self.seed.random_(2**62, generator=generator)

    def forward(self, x):
        if not self.training or self.share == 0:
            return x
        generator = torch.Generator(x.device).manual_seed(int(self.seed + self.calls))
        self.calls += 1
        kept = torch.rand(x.shape, generator=generator, device=x.device) >= self.share
        return x * kept / (1 - self.share)


class SequenceBatchNorm(nn.BatchNorm1d):
    """Batch norm of (batch, length, d_model): statistics over sequences and steps."""

    def forward(self, x):
        return super().forward(x.transpose(1, 2)).transpose(1, 2)


def make_norm(config: ClassifierConfig) -> nn.Module:
    """The norm that `config` asks for."""
    kinds: dict[str, Any] = {"layer": nn.LayerNorm, "batch": SequenceBatchNorm}
    if config.norm not in kinds:
        raise ValueError(f"norm must be 'layer' or 'batch', got {config.norm!r}")
    return kinds[config.norm](config.d_model)
