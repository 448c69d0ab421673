"""The operators alone: inputs at default sizes, what others offer, and the least work.

Sizes are those of the mixers at width 256: 512 channels and 16 numbers of state each for Mamba, 4
heads of 64 x 64 for the matrix states. Slots per cell of state and token, exponentials apart, are
counted from the recurrences, for forward plus backward with states computed again; arrays are those
that must be read or written, gradients included.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.contenders import SHAPES, Contender, generator
from benchmarks.limits import Work
from ntlib.ops.delta_rule import delta_rule
from ntlib.ops.linear_attention import linear_attention
from ntlib.ops.long_conv import long_conv
from ntlib.ops.scan import scan
from ntlib.ops.selective_scan import selective_scan
from ntlib.ops.short_conv import short_conv
from ntlib.ops.wkv import wkv
from tests.fla_peer import import_naive

HEADS, D_HEAD = 4, 64
CHANNELS, D_STATE = 512, 16  # Mamba's


@dataclass(frozen=True)
class Operator:
    """One operator at its default size."""

    ours: Callable[..., Tensor]
    inputs: Callable[[int, int], tuple[Tensor, ...]]  # batch, length
    work: Callable[[int], Work]  # of a forward pass over this many tokens
    training_work: Callable[[int], Work]  # of forward and backward
    peers: dict[str, Callable[[], Contender]]
    shapes: tuple[tuple[int, int], ...] = SHAPES


def draw(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=generator())


def cells(per_token: int, slots: float, numbers: float, exponentials: float = 0):
    """Work per token: `slots` and `exponentials` for each of `per_token` cells of state, and
    `numbers` float32 numbers moved."""
    return lambda tokens: Work(
        tokens * per_token * slots, 4 * tokens * numbers, tokens * per_token * exponentials
    )


def heads(*names_and_widths) -> Callable[[int, int], list[Tensor]]:
    """Tensors (batch, heads, length, width) that lie in memory as a projection leaves them."""
    return lambda batch, length: [
        draw(batch, length, HEADS, width).transpose(1, 2) for width in names_and_widths
    ]


def peer(function: Callable[..., Tensor], trains: bool = True) -> Contender:
    return Contender(function, trains=trains)


# --- scan and selective scan ---------------------------------------------------------------------


def scan_inputs(batch, length):
    return torch.rand(batch, length, CHANNELS, generator=generator()), draw(batch, length, CHANNELS)


def torch_associative_scan(compiled: bool) -> Contender:
    from torch._higher_order_ops.associative_scan import associative_scan

    def combine(first, second):
        return first[0] * second[0], second[0] * first[1] + second[1]

    def run(a, b):
        return associative_scan(combine, (a, b), dim=1, combine_mode="generic")[1]

    if not compiled:
        return peer(run)
    run = torch.compile(run)
    try:
        run(torch.ones(1, 8, 1), torch.ones(1, 8, 1))
    except Exception as error:  # whatever the compiler behind it raises, without a C++ compiler
        raise ImportError(f"torch.compile does not work here: {error}") from error
    return peer(run)


def selective_scan_inputs(batch, length):
    x, dt = draw(batch, length, CHANNELS), F.softplus(draw(batch, length, CHANNELS) - 3)
    A = -torch.arange(1.0, D_STATE + 1).repeat(CHANNELS, 1)
    return x, dt, A, draw(batch, length, D_STATE), draw(batch, length, D_STATE), draw(CHANNELS)


def mambapy_selective_scan() -> Contender:
    from mambapy.mamba import MambaBlock, MambaConfig

    block = MambaBlock(MambaConfig(d_model=CHANNELS // 2, n_layers=1))
    return peer(block.selective_scan)


# --- matrix states -------------------------------------------------------------------------------


def fixed_decay_inputs(batch, length):
    q, k, v = heads(D_HEAD, D_HEAD, D_HEAD)(batch, length)
    return q, k, v, torch.log1p(-(2.0 ** (-5 - torch.arange(HEADS))))


def per_head_inputs(batch, length):
    q, k, v = heads(D_HEAD, D_HEAD, D_HEAD)(batch, length)
    return q, k, v, -torch.rand(batch, length, HEADS, generator=generator()).transpose(1, 2)


def per_channel_inputs(batch, length):
    q, k, v, w = heads(D_HEAD, D_HEAD, D_HEAD, D_HEAD)(batch, length)
    return q, k, v, -0.1 * w.exp(), draw(HEADS, D_HEAD)


def delta_inputs(batch, length):
    q, k, v, b, w = heads(*[D_HEAD] * 5)(batch, length)
    b = F.normalize(b, dim=-1)
    return q, k, v, -0.5 * b, b, -0.1 * w.exp()


def fla_chunk_simple_gla(chunk_size: int, fixed: bool) -> Contender:
    function = import_naive("simple_gla/naive").naive_chunk_simple_gla

    def run(q, k, v, log_decay):
        q, k, v = (x.transpose(1, 2) for x in (q, k, v))  # theirs puts length before heads
        log_decay = log_decay.expand(q.shape[:3]) if fixed else log_decay.transpose(1, 2)
        return function(q, k, v, log_decay, chunk_size=chunk_size)[0]

    return peer(run)


def fla_retention() -> Contender:
    function = import_naive("retention/naive").naive_retention
    return peer(lambda q, k, v, log_decay: function(q, k, v))


def fla_rwkv6(form: str) -> Contender:
    function = getattr(import_naive(f"rwkv6/{form}_naive"), f"naive_{form}_rwkv6")

    def run(q, k, v, w, u):
        out = function(q, k, v, w, u)
        return out if form == "chunk" else out[0]

    return peer(run, trains=form == "recurrent")  # autograd refuses the chunked one


def fla_dplr(form: str) -> Contender:
    function = getattr(import_naive("generalized_delta_rule/dplr/naive"), f"dplr_{form}")

    def run(q, k, v, a, b, w):
        return function(q, k, v, b, a, w)[0]  # their alpha reads the state, as b does here

    return peer(run, trains=form == "chunkwise")  # the loop's backward takes four times as long


# --- elementwise and convolutions ----------------------------------------------------------------


def wkv_inputs(batch, length):
    k, v = draw(batch, length, 256), draw(batch, length, 256)
    return k, v, -torch.rand(256, generator=generator()), draw(256)


def transformers_wkv() -> Contender:
    from transformers.models.rwkv.modeling_rwkv import rwkv_linear_attention_cpu

    return peer(lambda k, v, w, u: rwkv_linear_attention_cpu((-w).log(), u, k, v)[0])


def s4d_inputs(batch, length):
    states = 32  # of 32 conjugate pairs one each: N = 64
    decay = 0.01 * torch.complex(
        torch.full((256, states), -0.5), torch.arange(states).expand(256, states) * 3.14
    )
    b, c = (torch.complex(draw(256, states), draw(256, states)) for _ in range(2))
    return draw(batch, length, 256), decay, b, c


def ema_inputs(batch, length):
    log_a = -0.1 * torch.rand(256, 16, generator=generator())
    return draw(batch, length, 256), log_a, draw(256, 16), draw(256, 16)


def short_conv_inputs(batch, length):
    return draw(batch, length, CHANNELS), draw(CHANNELS, 4), draw(CHANNELS)


def torch_conv1d() -> Contender:
    conv = nn.functional.conv1d

    def run(x, weight, bias):
        y = conv(x.mT, weight[:, None], bias, padding=3, groups=CHANNELS)[..., : x.shape[1]]
        return F.silu(y).mT

    return peer(run)


MATRIX = HEADS * D_HEAD**2  # cells per token
WIDTH = HEADS * D_HEAD

OPERATORS: dict[str, Operator] = {
    "scan": Operator(
        lambda a, b: scan(a, b)[0],
        scan_inputs,
        cells(CHANNELS, 1, 3 * CHANNELS),
        cells(CHANNELS, 4, 8 * CHANNELS),
        {
            "torch associative_scan, compiled": lambda: torch_associative_scan(True),
            "torch associative_scan": lambda: torch_associative_scan(False),
        },
        shapes=((4, 4096),),
    ),
    "selective scan": Operator(
        lambda *inputs: selective_scan(*inputs)[0],
        selective_scan_inputs,
        cells(CHANNELS * D_STATE, 4, 3 * CHANNELS + 2 * D_STATE, exponentials=1),
        cells(CHANNELS * D_STATE, 15, 8 * CHANNELS + 6 * D_STATE, exponentials=2),
        {"mambapy pscan": mambapy_selective_scan},
    ),
    "linear attention, fixed decay per head": Operator(
        lambda q, k, v, w: linear_attention(q, k, v, w)[0],
        fixed_decay_inputs,
        cells(MATRIX, 2, 4 * WIDTH),
        cells(MATRIX, 7, 11 * WIDTH),
        {
            "fla chunks of 64": lambda: fla_chunk_simple_gla(64, fixed=True),
            "fla parallel": fla_retention,
        },
    ),
    "linear attention, decay per head and token": Operator(
        lambda q, k, v, w: linear_attention(q, k, v, w)[0],
        per_head_inputs,
        cells(MATRIX, 2, 4 * WIDTH),
        cells(MATRIX, 7, 11 * WIDTH),
        {"fla chunks of 64": lambda: fla_chunk_simple_gla(64, fixed=False)},
    ),
    "linear attention, decay per channel and token": Operator(
        lambda q, k, v, w, u: linear_attention(q, k, v, w, bonus=u)[0],
        per_channel_inputs,
        cells(MATRIX, 3, 5 * WIDTH),
        cells(MATRIX, 10, 14 * WIDTH),
        {
            "fla chunks of 32": lambda: fla_rwkv6("chunk"),
            "fla loop": lambda: fla_rwkv6("recurrent"),
        },
    ),
    "wkv": Operator(
        lambda *inputs: wkv(*inputs)[0],
        wkv_inputs,
        cells(256, 8, 3 * 256, exponentials=2),
        cells(256, 40, 10 * 256, exponentials=12),
        {"transformers loop": transformers_wkv},
    ),
    "delta rule": Operator(
        lambda *inputs: delta_rule(*inputs)[0],
        delta_inputs,
        cells(MATRIX, 5, 7 * WIDTH),
        cells(MATRIX, 19, 20 * WIDTH),
        {
            "fla chunks of 32": lambda: fla_dplr("chunkwise"),
            "fla loop": lambda: fla_dplr("recurrence"),
        },
    ),
    "long convolution, complex": Operator(
        lambda *inputs: long_conv(*inputs)[0],
        s4d_inputs,
        cells(256 * 32, 6, 2 * 256),
        cells(256 * 32, 20, 5 * 256),
        {},
    ),
    "long convolution, real": Operator(
        lambda *inputs: long_conv(*inputs)[0],
        ema_inputs,
        cells(256 * 16, 2, 2 * 256),
        cells(256 * 16, 7, 5 * 256),
        {},
    ),
    "short convolution with SiLU": Operator(
        lambda x, weight, bias: short_conv(x, weight, bias, activation="silu")[0],
        short_conv_inputs,
        cells(CHANNELS, 6, 2 * CHANNELS, exponentials=1),
        cells(CHANNELS, 24, 5 * CHANNELS, exponentials=2),
        {"torch grouped Conv1d": torch_conv1d},
    ),
}
