"""A language model as RWKV's author publishes it, from our mixers: small, with random weights.

Its state_dict has the names and shapes of an official .pth file.
"""

import torch
from torch import nn

from ntlib.mixers.protocol import MixerConfig

VOCABULARY, D_MODEL, LAYERS = 50, 128, 3


class Block(nn.Module):
    def __init__(self, att, ffn, first):
        super().__init__()
        if first:
            self.ln0 = nn.LayerNorm(D_MODEL)
        self.ln1, self.ln2 = nn.LayerNorm(D_MODEL), nn.LayerNorm(D_MODEL)
        self.att, self.ffn = att.build(D_MODEL), ffn.build(D_MODEL)


class Stack(nn.Module):
    def __init__(self, configs: list[tuple[MixerConfig, MixerConfig]]):
        """One (time mix, channel mix) a layer. All weights are random: the official start would
        leave most of the model unused."""
        super().__init__()
        self.emb = nn.Embedding(VOCABULARY, D_MODEL)
        self.blocks = nn.ModuleList(Block(*pair, i == 0) for i, pair in enumerate(configs))
        self.ln_out = nn.LayerNorm(D_MODEL)
        self.head = nn.Linear(D_MODEL, VOCABULARY, bias=False)
        generator = torch.Generator().manual_seed(len(configs))
        for block in self.blocks:
            block.att.reset_parameters(generator)
            block.ffn.reset_parameters(generator)
        for parameter in self.parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            parameter.data += noise * (D_MODEL**-0.5 if parameter.dim() == 2 else 0.3)

    def forward(self, tokens):
        """(batch, length) -> logits (batch, length, vocabulary)."""
        return self._run(self.emb(tokens), lambda mixer, x: mixer(x)[0])

    def steps(self, tokens):
        """The same, token by token."""
        mixers = [mixer for block in self.blocks for mixer in (block.att, block.ffn)]
        states = {mixer: mixer.init_state(len(tokens)) for mixer in mixers}

        def step(mixer, x_t):
            y_t, states[mixer] = mixer.step(x_t, states[mixer])
            return y_t

        return torch.stack([self._run(self.emb(t), step) for t in tokens.unbind(1)], dim=1)

    def _run(self, x, mix):
        x = self.blocks[0].ln0(x)
        for block in self.blocks:
            x = x + mix(block.att, block.ln1(x))
            x = x + mix(block.ffn, block.ln2(x))
        return self.head(self.ln_out(x))


def relative(a, b):
    return ((a - b).abs().max() / b.abs().max()).item()
