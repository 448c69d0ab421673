"""What a model costs, from its configuration alone: parameters, floating-point operations, bytes
moved, bytes of state.

Operations are counted as torch.utils.flop_counter does: two per multiply-add of a matrix product,
nothing for elementwise work around the mixers, and the full square of a causal score matrix; for
recurrences see ntlib.cost_kinds. Bytes moved by a decoding step are the least possible: each
weight and each number of state read once, and what changes written once.
"""

from dataclasses import dataclass
from typing import Protocol

from ntlib.cost_kinds import MixerCost
from ntlib.mixer_costs import mixer_cost
from ntlib.mixers.protocol import MixerConfig


class Config(Protocol):
    """What a configuration says about its model beside its mixers."""

    vocab_size: int
    d_model: int
    tied: bool  # one table for embedding and head
    mixers: tuple[MixerConfig, ...]  # one for every layer
    ffn_matrices: int  # numbers in the matrices of one feed-forward layer
    block_vectors: int  # numbers in the norms and biases of one block, without those of its mixer
    final_norm: int  # numbers in the norm before the head


def parameters(config: Config, *, embeddings: bool = True) -> int:
    """Number of parameters of a model, counted without building it."""
    table = config.vocab_size * config.d_model * (1 if config.tied else 2)
    return _block_parameters(config) + config.final_norm + (table if embeddings else 0)


def state_bytes(config: Config, context: int, batch_size: int = 1, number_bytes: int = 4) -> int:
    """Bytes of state of all layers after `context` tokens."""
    numbers = sum(mixer.state_numbers(context) for mixer in _mixers(config))
    return batch_size * numbers * number_bytes


def prefill_flops(config: Config, length: int, batch_size: int = 1) -> int:
    """Operations of a forward pass over whole sequences; a training step takes three times as
    many."""
    mixing = sum(mixer.prefill_flops(length) for mixer in _mixers(config))
    matrices = len(config.mixers) * config.ffn_matrices + config.d_model * config.vocab_size
    return batch_size * (mixing + 2 * length * matrices)


@dataclass(frozen=True)
class StepCost:
    """One decoding step for a whole batch."""

    flops: int
    weight_bytes: int  # read once for the whole batch
    state_bytes: int  # read and written for every sequence

    @property
    def bytes(self) -> int:
        return self.weight_bytes + self.state_bytes


def decode_step(
    config: Config,
    context: int,
    batch_size: int = 1,
    *,
    number_bytes: int = 4,
    head: bool = True,
) -> StepCost:
    """Operations and bytes of one step after `context` tokens; `head=False` leaves out the output
    layer."""
    mixers, head_numbers = _mixers(config), config.d_model * config.vocab_size * head
    matrices = len(mixers) * config.ffn_matrices + head_numbers
    flops = sum(mixer.step_flops(context) for mixer in mixers) + 2 * matrices
    traffic = sum(mixer.step_state_traffic(context) for mixer in mixers)
    weights = _block_parameters(config) + head_numbers
    return StepCost(batch_size * flops, weights * number_bytes, batch_size * traffic * number_bytes)


def _mixers(config: Config) -> list[MixerCost]:
    """The cost of every layer's mixer."""
    return [mixer_cost(mixer, config.d_model) for mixer in config.mixers]


def _block_parameters(config: Config) -> int:
    """Numbers in all blocks."""
    mixers = _mixers(config)
    others = config.ffn_matrices + config.block_vectors
    return sum(mixer.parameters for mixer in mixers) + len(mixers) * others
