"""What a model costs, from its configuration alone: parameters, floating-point operations, bytes
moved, bytes of state.

Operations are counted as torch.utils.flop_counter does: two per multiply-add of a matrix product,
nothing for elementwise work around the mixers, and the full square of a causal score matrix; for
recurrences see ntlib.cost_kinds. Bytes moved by a decoding step are the least possible: each
weight and each number of state read once, and what changes written once.
"""

from dataclasses import dataclass

from ntlib.mixer_costs import mixer_cost, sequence_norm_parameters
from ntlib.models.language_model import ModelConfig
from ntlib.models.mega import MegaModelConfig

Config = ModelConfig | MegaModelConfig


def parameters(config: Config, *, embeddings: bool = True) -> int:
    """Number of parameters of a model, counted without building it."""
    table = config.vocab_size * config.d_model * (1 if config.tied else 2)
    blocks, last = _block_parameters(config) * config.n_layers, config.d_model
    if isinstance(config, MegaModelConfig):
        last = _mega_norm(config) if config.mixer.prenorm else 0
    return blocks + last + (table if embeddings else 0)


def state_bytes(config: Config, context: int, batch_size: int = 1, number_bytes: int = 4) -> int:
    """Bytes of state of all layers after `context` tokens."""
    numbers = mixer_cost(config.mixer, config.d_model).state_numbers(context)
    return batch_size * config.n_layers * numbers * number_bytes


def prefill_flops(config: Config, length: int, batch_size: int = 1) -> int:
    """Operations of a forward pass over whole sequences; a training step takes three times as
    many."""
    layer = mixer_cost(config.mixer, config.d_model).prefill_flops(
        length
    ) + 2 * length * _ffn_parameters(config)
    head = 2 * length * config.d_model * config.vocab_size
    return batch_size * (config.n_layers * layer + head)


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
    mixer = mixer_cost(config.mixer, config.d_model)
    head_numbers = config.d_model * config.vocab_size * head
    flops = (
        config.n_layers * (mixer.step_flops(context) + 2 * _ffn_parameters(config))
        + 2 * head_numbers
    )
    traffic = config.n_layers * mixer.step_state_traffic(context)
    weights = config.n_layers * _block_parameters(config) + head_numbers
    return StepCost(batch_size * flops, weights * number_bytes, batch_size * traffic * number_bytes)


def _ffn_parameters(config: Config) -> int:
    """Numbers in the matrices of a feed-forward layer."""
    plain = isinstance(config, MegaModelConfig) or config.ffn == "gelu"
    return (2 if plain else 3) * config.d_model * config.ffn_dim


def _mega_norm(config: MegaModelConfig) -> int:
    return sequence_norm_parameters(config.mixer.norm, config.d_model)


def _block_parameters(config: Config) -> int:
    if isinstance(config, MegaModelConfig):  # biases, and the norm of the feed-forward layer
        vectors = config.ffn_dim + config.d_model + _mega_norm(config)
        return (
            mixer_cost(config.mixer, config.d_model).parameters + _ffn_parameters(config) + vectors
        )
    return (
        mixer_cost(config.mixer, config.d_model).parameters
        + _ffn_parameters(config)
        + config.d_model * (2 if config.ffn_dim else 1)  # norms
    )
