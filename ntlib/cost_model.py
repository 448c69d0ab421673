"""What a model costs, from its configuration alone: parameters, floating-point operations, bytes
moved, bytes of state.

Operations are counted as torch.utils.flop_counter does: two per multiply-add of a matrix product,
nothing for elementwise work, and the full square of a causal score matrix. Bytes moved by a
decoding step are the least possible: each weight and each number of state read once, and what
changes written once.
"""

from dataclasses import dataclass
from typing import Protocol

from ntlib.mixers.attention import AttentionConfig
from ntlib.mixers.linear_attention import LinearAttentionConfig
from ntlib.mixers.protocol import MixerConfig
from ntlib.mixers.retention import RetentionConfig
from ntlib.models.language_model import ModelConfig
from ntlib.ops.linear_attention import DEFAULT_CHUNK_SIZE


class MixerCost(Protocol):
    """Costs of one mixer layer, for one sequence."""

    parameters: int

    def state_numbers(self, context: int) -> int:
        """Numbers kept after `context` tokens."""
        ...

    def prefill_flops(self, length: int) -> int:
        """Matrix products of a whole sequence."""
        ...

    def step_flops(self, context: int) -> int:
        """Arithmetic of one decoding step that follows `context` tokens."""
        ...

    def step_state_traffic(self, context: int) -> int:
        """Numbers of state that one decoding step reads and writes."""
        ...


@dataclass(frozen=True)
class AttentionCost:
    """Softmax attention: quadratic to read, a cache that grows."""

    d_model: int
    d_kv: int  # n_kv_heads x head_dim

    @property
    def parameters(self):
        return 2 * self.d_model * (self.d_model + self.d_kv)

    def state_numbers(self, context):
        return 2 * self.d_kv * context

    def prefill_flops(self, length):
        return 2 * length * self.parameters + 4 * length**2 * self.d_model

    def step_flops(self, context):
        return 2 * self.parameters + 4 * (context + 1) * self.d_model

    def step_state_traffic(self, context):
        return self.state_numbers(context + 1)  # reads what was there, writes one token


@dataclass(frozen=True)
class MatrixStateCost:
    """Linear attention and retention: n_heads states of d_k x d_v, whatever the length."""

    projections: int  # numbers in the weight matrices
    vectors: int  # numbers in weights that are no matrices (norms)
    n_heads: int
    d_k: int  # per head
    d_v: int  # per head, with the column of a normaliser if there is one
    chunk_size: int

    @property
    def parameters(self):
        return self.projections + self.vectors

    def state_numbers(self, context):
        return self.n_heads * self.d_k * self.d_v

    def prefill_flops(self, length):
        chunk = min(self.chunk_size, length)
        whole, rest = length - length % chunk, length % chunk
        scores = whole * chunk + rest**2  # pairs of positions in the same chunk
        mixing = 2 * scores * (self.d_k + self.d_v) + 4 * length * self.d_k * self.d_v
        return 2 * length * self.projections + self.n_heads * mixing

    def step_flops(self, context):
        return 2 * self.projections + 5 * self.state_numbers(
            context
        )  # decay, rank-one update, read

    def step_state_traffic(self, context):
        return 2 * self.state_numbers(context)  # all of it is read and written


def mixer_cost(config: MixerConfig, d_model: int) -> MixerCost:
    """The cost of a mixer at a width. Raises TypeError for a mixer that has no cost here."""
    match config:
        case AttentionConfig():
            return AttentionCost(
                d_model, d_model * (config.n_kv_heads or config.n_heads) // config.n_heads
            )
        case LinearAttentionConfig():
            head_dim = d_model // config.n_heads
            return MatrixStateCost(
                4 * d_model**2, 0, config.n_heads, head_dim, head_dim + 1, DEFAULT_CHUNK_SIZE
            )
        case RetentionConfig():
            d_v = config.value_dim or round(config.value_factor * d_model)
            columns = d_v // config.n_heads + config.row_normalisation
            return MatrixStateCost(
                projections=2 * d_model**2 + 3 * d_model * d_v,
                vectors=2 * d_v if config.head_norm == "group" else 0,
                n_heads=config.n_heads,
                d_k=d_model // config.n_heads,
                d_v=columns,
                chunk_size=config.chunk_size,
            )
    raise TypeError(f"no cost model for a mixer of type {type(config).__name__}")


def parameters(config: ModelConfig, *, embeddings: bool = True) -> int:
    """Number of parameters of a model, counted without building it."""
    table = config.vocab_size * config.d_model * (1 if config.tied else 2)
    return (
        _block_parameters(config) * config.n_layers + config.d_model + (table if embeddings else 0)
    )


def state_bytes(
    config: ModelConfig, context: int, batch_size: int = 1, number_bytes: int = 4
) -> int:
    """Bytes of state of all layers after `context` tokens."""
    numbers = mixer_cost(config.mixer, config.d_model).state_numbers(context)
    return batch_size * config.n_layers * numbers * number_bytes


def prefill_flops(config: ModelConfig, length: int, batch_size: int = 1) -> int:
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
    config: ModelConfig,
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


def _ffn_parameters(config: ModelConfig) -> int:
    return (2 if config.ffn == "gelu" else 3) * config.d_model * config.ffn_dim


def _block_parameters(config: ModelConfig) -> int:
    return (
        mixer_cost(config.mixer, config.d_model).parameters
        + _ffn_parameters(config)
        + config.d_model * (2 if config.ffn_dim else 1)  # norms
    )
