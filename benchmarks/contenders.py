"""A contender: one implementation of one layer or operator, as functions that can be timed."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from ntlib.measuring import tensor_bytes
from ntlib.mixers.protocol import MixerConfig

D_MODEL = 256
DECODE_STEPS = 32
CONTEXT = 1024  # tokens that attention has read before the decoding steps that are timed
SHAPES = ((4, 1024), (1, 4096))  # sequences, tokens
SEED = 0


@dataclass(frozen=True)
class Contender:
    """`inputs` are differentiated together with `parameters`; one without parameters and inputs
    that need a gradient has no backward pass."""

    forward: Callable[..., Tensor]
    parameters: list[Tensor] = field(default_factory=list)
    # () -> (x_t -> output): a decoder that starts anew at each call
    decoder: Callable[[], Callable[[Tensor], object]] | None = None
    state_traffic: int = 0  # bytes of state that a decoding step reads and writes
    trains: bool = True
    batches: bool = True  # can read more than one sequence at once


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(SEED)


def sequences(batch: int, length: int, width: int = D_MODEL) -> Tensor:
    return torch.randn(batch, length, width, generator=generator())


def ours(config: MixerConfig, d_model: int = D_MODEL) -> Contender:
    """One of the book's mixers."""
    mixer = config.build(d_model)
    mixer.reset_parameters(generator())
    with torch.no_grad():
        # attention decodes after CONTEXT tokens; what others pay does not depend on them
        start = mixer.init_state(1, CONTEXT + DECODE_STEPS)
        _, after = mixer(sequences(1, CONTEXT, d_model), start)
    # all that is there is read; a state of constant size is written, too
    traffic = tensor_bytes(after) + tensor_bytes(mixer.init_state(1))
    decoder = decoder_of(mixer.step, after)
    return Contender(lambda x: mixer(x)[0], list(mixer.parameters()), decoder, traffic)


def decoder_of(step: Callable[[Tensor, Any], tuple[Tensor, Any]], start: Any):
    """A Contender's decoder from a function (x_t, state) -> (y_t, state)."""

    def decoder():
        state = start

        def advance(x_t):
            nonlocal state
            y_t, state = step(x_t, state)
            return y_t

        return advance

    return decoder


def forward_call(contender: Contender, *inputs: Tensor) -> Callable[[], object]:
    @torch.no_grad()
    def run():
        return contender.forward(*inputs)

    return run


def training_call(contender: Contender, *inputs: Tensor) -> Callable[[], object]:
    """Forward and backward: gradients of all parameters and of the inputs, which in a model belong
    to the layer below."""
    inputs = [x.detach().requires_grad_() for x in inputs]
    leaves = [*inputs, *(p for p in contender.parameters if p.requires_grad)]
    with torch.no_grad():
        shape = contender.forward(*inputs).shape
    grad = torch.randn(shape, generator=generator())

    def run():
        # a parameter may be without a part in the output (an implementation's spare ones)
        return torch.autograd.grad(contender.forward(*inputs), leaves, grad, allow_unused=True)

    return run


def decoding_call(contender: Contender, d_model: int = D_MODEL) -> Callable[[], object]:
    """DECODE_STEPS tokens, one sequence."""
    x_t = torch.randn(1, d_model, generator=generator())

    @torch.no_grad()
    def run():
        step = contender.decoder()
        for _ in range(DECODE_STEPS):
            step(x_t)

    return run
