"""What a mixer costs, from its configuration alone; `ntlib.cost_model` puts whole models together.

ntlib.cost_kinds says what is counted.
"""

from dataclasses import replace

from ntlib.cost_kinds import (
    AttentionCost,
    ChunkedAttentionCost,
    MatrixStateCost,
    MixerCost,
    StateCost,
    StridedAttentionCost,
)
from ntlib.mixers.attention import AttentionConfig
from ntlib.mixers.complex_ema import ComplexEMAConfig
from ntlib.mixers.dss import DSSConfig
from ntlib.mixers.ema import DampedEMAConfig
from ntlib.mixers.linear_attention import LinearAttentionConfig
from ntlib.mixers.mamba import MambaConfig
from ntlib.mixers.mamba2 import Mamba2Config
from ntlib.mixers.mcsd import MCSDConfig
from ntlib.mixers.mega import MegaConfig
from ntlib.mixers.megalodon import MegalodonConfig
from ntlib.mixers.protocol import MixerConfig
from ntlib.mixers.retention import RetentionConfig
from ntlib.mixers.rwkv4 import RWKV4Config
from ntlib.mixers.rwkv5 import RWKV5Config
from ntlib.mixers.rwkv6 import RWKV6Config
from ntlib.mixers.rwkv7 import RWKV7Config
from ntlib.mixers.s4 import S4Config
from ntlib.mixers.s4d import S4DConfig
from ntlib.mixers.s4d_average import S4DAverageConfig
from ntlib.mixers.s5 import S5Config
from ntlib.mixers.sequence_norm import sequence_norm_parameters
from ntlib.mixers.timestep_norm import TimestepNormConfig
from ntlib.ops.linear_attention import DEFAULT_CHUNK_SIZE


def mixer_cost(config: MixerConfig, d_model: int) -> MixerCost:
    """The cost of a mixer at a width. Raises TypeError for a mixer that has no cost here."""
    match config:
        case AttentionConfig():
            d_kv = d_model * (config.n_kv_heads or config.n_heads) // config.n_heads
            if config.stride:
                return StridedAttentionCost(d_model, d_kv, stride=config.stride)
            return AttentionCost(d_model, d_kv, config.window)
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
        case MambaConfig():
            return _mamba(d_model, config)
        case Mamba2Config():
            return _mamba2(d_model, config)
        case RWKV4Config():
            # the sums of wkv and their exponent, two exponentials each for the output and the state
            return StateCost(4 * d_model**2, 5 * d_model, 4 * d_model, 23 * d_model)
        case RWKV5Config():
            return _rwkv_heads(d_model, config.head_size, 5 * d_model**2, 8 * d_model)
        case RWKV6Config():
            low_rank = 10 * d_model * config.mix_rank + 2 * d_model * config.decay_rank
            return _rwkv_heads(d_model, config.head_size, 5 * d_model**2 + low_rank, 10 * d_model)
        case RWKV7Config():
            return _rwkv7(d_model, config)
        case S4DConfig():
            return _s4d(d_model, config)
        case S4DAverageConfig():
            return _s4d_system(d_model, config.system())
        case S4Config():
            return _s4(d_model, config)
        case DSSConfig():
            pairs = d_model * config.d_state // 2
            vectors = 2 * pairs + config.d_state + 4 * d_model
            return StateCost(2 * d_model**2, vectors, 2 * pairs, 14 * pairs)  # as _s4d
        case S5Config():
            return _s5(d_model, config)
        case DampedEMAConfig():
            return _damped_ema(d_model, config)
        case ComplexEMAConfig():
            cells = d_model * config.states
            # q h + p x and Re(eta h): 6 + 4 and 4 real operations per complex number
            return StateCost(0, 4 * cells + 2 * d_model, 2 * cells, 14 * cells)
        case TimestepNormConfig():
            return _timestep_norm(d_model, config)
        case MCSDConfig():
            return _mcsd(d_model, config)
        case MegaConfig():
            return _mega(d_model, config)
        case MegalodonConfig():
            return _megalodon(d_model, config)
    raise TypeError(f"no cost model for a mixer of type {type(config).__name__}")


def _mamba(d_model: int, config: MambaConfig) -> StateCost:
    d_inner, rank = config.expand * d_model, config.dt_rank or -(-d_model // 16)
    cells = d_inner * config.d_state
    return StateCost(
        projections=d_inner * (3 * d_model + 2 * rank + 2 * config.d_state),
        vectors=d_inner * (config.d_conv + 3) + cells,  # convolution, its bias, that of Delta, D, A
        state=cells + d_inner * (config.d_conv - 1),
        # e^(Delta A) h + (Delta x) B, read by C: 7 per cell; the convolution
        recurrence=7 * cells + 2 * config.d_conv * d_inner,
    )


def _mamba2(d_model: int, config: Mamba2Config) -> StateCost:
    d_inner = config.expand * d_model
    n_heads = d_inner // config.head_dim
    mixed = d_inner + 2 * config.n_groups * config.d_state  # channels of the convolution
    cells = d_inner * config.d_state
    return StateCost(
        projections=d_model * (2 * d_inner + mixed + n_heads),
        vectors=mixed * (config.d_conv + 1) + 3 * n_heads + d_inner,  # Delta, A, D; the norm
        state=cells + mixed * (config.d_conv - 1),
        recurrence=5 * cells + 2 * config.d_conv * mixed,  # decay, rank-one update and read
    )


def _rwkv_heads(d_model: int, head_size: int, projections: int, vectors: int) -> StateCost:
    """Version 5 and 6: matrix states, and the last token."""
    cells = d_model * head_size
    # decay, rank-one update and read, 5 per cell; the bonus is a scalar product and a multiple of v
    return StateCost(projections, vectors, cells + d_model, 5 * cells + 5 * d_model)


def _rwkv7(d_model: int, config: RWKV7Config) -> StateCost:
    ranks, cells = config.ranks(d_model), d_model * config.head_size
    return StateCost(
        projections=4 * d_model**2 + 2 * d_model * sum(ranks.values()),
        # 6 mixtures, an offset of each low-rank map but the gate's, k_k, k_a, r_k, the norm
        vectors=(6 + len(ranks) - 1 + 3 + 2) * d_model,
        state=cells + d_model,
        # decay, read under kappa, two rank-one updates, read: 1 + 4 x 2 per cell; the bonus
        recurrence=9 * cells + 5 * d_model,
    )


def _s4d(d_model: int, config: S4DConfig) -> StateCost:
    system = _s4d_system(d_model, config)
    return replace(system, projections=2 * d_model**2, vectors=system.vectors + 2 * d_model)


def _s4d_system(d_model: int, config: S4DConfig) -> StateCost:
    """The systems and their skips, without the map of the outputs."""
    pairs = d_model * config.d_state // 2  # complex numbers of state
    learned_b = config.learn_b or config.init == "legs"
    directions = 1 + config.bidirectional
    return StateCost(
        projections=0,
        vectors=2 * pairs * (1 + directions + learned_b) + 2 * d_model,  # D, dt
        state=2 * pairs * (2 - directions),
        # a h + b x and Re(c h): 6 + 4 and 4 real operations per complex number
        recurrence=14 * pairs * directions,
    )


def _s4(d_model: int, config: S4Config) -> StateCost:
    pairs, half = d_model * config.d_state // 2, config.d_state // 2
    rank = 2 if config.measure == "legt" else 1
    directions = 1 + config.bidirectional
    systems = (config.n_ssm or d_model) * half  # poles, p, b
    vectors = systems * 2 * (2 + rank) + 2 * pairs * directions + 4 * d_model
    # a diagonal step, and two scalar products and two updates for each rank of the low-rank part
    recurrence = (20 + 32 * rank) * pairs * directions
    return StateCost(2 * d_model**2, vectors, 2 * pairs * (2 - directions), recurrence)


def _damped_ema(d_model: int, config: DampedEMAConfig) -> StateCost:
    cells = d_model * config.states  # h <- a h + b x and c h
    directions = 1 + config.bidirectional
    vectors = 4 * cells * directions + d_model
    return StateCost(0, vectors, cells * (2 - directions), 5 * cells * directions)


def _mega(d_model: int, config: MegaConfig) -> ChunkedAttentionCost:
    d_k, d_v = config.z_dim, config.value_dim or 2 * d_model
    average = mixer_cost(config.average_config(), d_model)
    simple = config.position_bias == "simple"
    longest = config.chunk_size or config.max_positions
    return ChunkedAttentionCost(
        projections=d_model * (3 * d_v + d_k + 2 * d_model),
        # biases of the maps, two vectors each for q and k, the position bias, the norm
        vectors=average.vectors
        + (2 * d_v + d_k + 3 * d_model)
        + 4 * d_k
        + (2 * longest - 1 if simple else 2 * d_k)
        + sequence_norm_parameters(config.norm, d_model),
        d_k=d_k,
        d_v=d_v,
        chunk_size=config.chunk_size,
        recurrent=average,
        streams=not config.bidirectional,
    )


def _timestep_norm(d_model: int, config: TimestepNormConfig) -> StateCost:
    # a token's own mean and variance, the difference from the running mean and its scaling
    return StateCost(0, 2 * d_model, 2 * config.groups, 7 * d_model)


def _megalodon(d_model: int, config: MegalodonConfig) -> ChunkedAttentionCost:
    d_k, d_v = config.z_dim, config.value_dim or 2 * d_model
    average = mixer_cost(ComplexEMAConfig(config.states), d_model)
    norm = mixer_cost(TimestepNormConfig(config.norm_groups), d_model)
    feed_forward = (2 + config.swiglu) * d_model * config.ffn_dim
    return ChunkedAttentionCost(
        projections=d_model * (3 * d_v + d_k + d_model) + feed_forward,
        # biases of the maps, two vectors each for q and k, the norms
        vectors=average.vectors
        + norm.vectors
        + (2 * d_v + d_k + d_model)
        + 4 * d_k
        + (3 * d_model if config.ffn_dim else d_model),
        d_k=d_k,
        d_v=d_v,
        chunk_size=config.chunk_size,
        recurrent=StateCost(0, 0, average.state + norm.state, average.recurrence + norm.recurrence),
    )


def _mcsd(d_model: int, config: MCSDConfig) -> StateCost:
    sections, blocks = len(config.sections), 1
    if config.projection == "channel":
        blocks = config.n_channels
    fused = sections * d_model**2 if config.fusion == "concat" else 0
    return StateCost(
        projections=2 * sections * d_model**2 // blocks + fused,
        vectors=0,
        state=sections * d_model,
        recurrence=3 * sections * d_model,  # h <- a h + v, and what the position makes of it
    )


def _s5(d_model: int, config: S5Config) -> StateCost:
    pairs, directions = config.d_state // 2, 1 + config.bidirectional
    gate = d_model**2 * (2 if config.gate == "full" else 1)
    biases = 2 * d_model if config.gate == "full" else d_model
    return StateCost(
        # b x and Re(C h) are real matrix products; both are read at every step
        projections=gate + 2 * pairs * d_model * (1 + directions),
        vectors=biases + d_model + 3 * pairs,  # D; poles and steps
        state=2 * pairs * (2 - directions),
        recurrence=8 * pairs * directions,  # a h + u
    )
