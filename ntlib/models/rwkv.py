"""RWKV language models, versions 4, 5.2, 6 and 7.

    h = ln0(emb(tokens));   h += att(ln1(h));   h += ffn(ln2(h));   logits = head(ln_out(h))

att is the version's time mix (ntlib.mixers.rwkv4 ... rwkv7), ffn its channel mix. What sets the
skeleton apart from ntlib.models.language_model: the embedding has a norm of its own (stored in
block 0), norms are LayerNorms with weights and biases, the feed-forward layer looks at the token
before and therefore has a state, and in version 7 all time mixes share the values of the first.

Parameters have the names and shapes of the author's .pth files; see ntlib.models.rwkv_weights.

| here    | official code (RWKV-LM) | papers                                       |
| ------- | ----------------------- | -------------------------------------------- |
| att     | att, RWKV_Tmix          | time mixing, RWKV-4 (2305.13048) Sec. 3.1    |
| ffn     | ffn, RWKV_CMix          | channel mixing, RWKV-4 Eq. 18                |
| values  | v_first                 | v_0 of value residual, RWKV-7 (2503.14456)   |
"""

from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from ntlib.mixers.rwkv4 import RWKV4Config
from ntlib.mixers.rwkv5 import RWKV5Config
from ntlib.mixers.rwkv6 import RWKV6Config
from ntlib.mixers.rwkv7 import RWKV7Config
from ntlib.mixers.rwkv_channel_mix import ChannelMixConfig
from ntlib.models.stack import Stack

TimeMixConfig = RWKV4Config | RWKV5Config | RWKV6Config | RWKV7Config
_VERSION = {RWKV4Config: 4, RWKV5Config: 5, RWKV6Config: 6, RWKV7Config: 7}


@dataclass(frozen=True)
class RWKVConfig:
    """Everything that fixes a model's parameters."""

    vocab_size: int  # 50277: GPT-NeoX's (the Pile), 65536: World
    d_model: int  # width of the residual stream
    n_layers: int  # blocks, each one time mix and one channel mix
    # the time mix of every block, and by its type the version; its layer is set block by block
    mixer: TimeMixConfig
    ffn_dim: int | None = None  # hidden width of the channel mix; None: the version's rule

    @property
    def version(self) -> int:
        """4, 5 (that is 5.2), 6 or 7."""
        return _VERSION[type(self.mixer)]

    def build(self, generator: torch.Generator | None = None) -> "RWKV":
        """The model with initial weights from `generator`."""
        return RWKV(self, generator)


class BlockState(NamedTuple):
    """What a block remembers; None: nothing yet."""

    att: Any  # of the time mix
    ffn: Tensor | None  # of the channel mix: the last token, (batch, d_model)


class Block(nn.Module):
    """One residual block."""

    def __init__(self, config: RWKVConfig, layer: int):
        super().__init__()
        d_model, place = config.d_model, {"layer": layer, "n_layers": config.n_layers}
        self.shares_values = config.version == 7
        if layer == 0:
            self.ln0 = nn.LayerNorm(d_model)  # of the embedding
        self.ln1 = nn.LayerNorm(d_model)
        self.ln2 = nn.LayerNorm(d_model)
        self.att = replace(config.mixer, **place).build(d_model)
        self.ffn = ChannelMixConfig(config.version, config.ffn_dim, **place).build(d_model)

    def init_state(self, batch_size: int, capacity: int = 0) -> BlockState:
        """See Mixer.init_state."""
        return BlockState(
            self.att.init_state(batch_size, capacity), self.ffn.init_state(batch_size, capacity)
        )

    def forward(self, h, state, values=None):
        """`values` are those of the first block, which version 7 hands from block to block."""
        state = state or BlockState(None, None)
        if self.shares_values:
            mixed, att, values = self.att.forward_with_values(self.ln1(h), state.att, values)
        else:
            mixed, att = self.att(self.ln1(h), state.att)
        h = h + mixed
        mixed, ffn = self.ffn(self.ln2(h), state.ffn)
        return h + mixed, BlockState(att, ffn), values

    def step(self, h, state, values=None):
        """One token; see forward."""
        if self.shares_values:
            mixed, att, values = self.att.step_with_values(self.ln1(h), state.att, values)
        else:
            mixed, att = self.att.step(self.ln1(h), state.att)
        h = h + mixed
        mixed, ffn = self.ffn.step(self.ln2(h), state.ffn)
        return h + mixed, BlockState(att, ffn), values


class RWKV(Stack):
    """Tokens to next-token logits; the states have constant size.

    Weights are drawn from `generator`, so that a seed fixes them on any number of threads.
    """

    def __init__(self, config: RWKVConfig, generator: torch.Generator | None = None):
        super().__init__()
        if config.n_layers < 1:
            raise ValueError(f"n_layers must be at least 1, got {config.n_layers}")
        self.config = config
        self.emb = nn.Embedding(config.vocab_size, config.d_model)
        self.blocks = nn.ModuleList(Block(config, i) for i in range(config.n_layers))
        self.ln_out = nn.LayerNorm(config.d_model)
        self.head = nn.Linear(config.d_model, config.vocab_size, bias=False)
        self.reset_parameters(generator)

    @property
    def embedding(self) -> nn.Embedding:
        """The table of tokens, under the name that it has in every model."""
        return self.emb

    def reset_parameters(self, generator: torch.Generator | None = None) -> None:
        """The official start: every block adds nothing, and ln0 makes full-sized vectors of a table
        that is almost 0, so that few steps change it much (RWKV-LM, "SmallInitEmb")."""
        vocab, d_model = self.emb.weight.shape
        if self.config.version == 4:
            size = 1e-4 * max(vocab, d_model) ** 0.5
            nn.init.orthogonal_(self.emb.weight, gain=size, generator=generator)
        else:
            nn.init.uniform_(self.emb.weight, -1e-4, 1e-4, generator=generator)
        tall = max(1.0, vocab / d_model) ** 0.5
        nn.init.orthogonal_(self.head.weight, gain=0.5 * tall, generator=generator)
        for block in self.blocks:
            block.att.reset_parameters(generator)
            block.ffn.reset_parameters(generator)

    def embed(self, tokens: Int[Tensor, "*any"]) -> Float[Tensor, "*any d_model"]:
        """The table and its norm."""
        return self.blocks[0].ln0(self.emb(tokens))

    def normalise(self, h: Float[Tensor, "*any d_model"]) -> Float[Tensor, "*any d_model"]:
        """See Stack."""
        return self.ln_out(h)

    def _through(self, h, states, one_token=False):
        after, values = [], None  # of the first time mix, shared by all in version 7
        for block, state in zip(self.blocks, states, strict=True):
            run = block.step if one_token else block
            h, state, values = run(h, state, values)
            after.append(state)
        return h, after

    def init_states(self, batch_size: int, capacity: int = 0) -> list[BlockState]:
        """The states before the first token; `capacity` changes nothing: they do not grow."""
        return [block.init_state(batch_size, capacity) for block in self.blocks]
