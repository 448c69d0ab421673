"""The elementwise scan: every channel is a first-order recurrence of its own.

    h_t = a_t h_t-1 + b_t                                                                       (1)

| here      | S5 (2208.04933)                            | Mamba (2312.00752)                   |
| --------- | ------------------------------------------ | ------------------------------------ |
| a         | Lambda bar, Eq. 6; fixed, complex          | A bar, Eq. 4; depends on the token   |
| b         | B bar u_t                                  | B bar x_t                            |
| h         | x_t, Eq. 5                                 | h_t, Eq. 2a                          |
| _combine  | the binary operator of Appendix H          | (the scan of Sec. 3.3.2)             |

`a` is taken as it is, not as a logarithm: it may be 0, negative, complex, or larger than 1.

Forms: `recurrent` is the definition. `parallel` uses that steps compose: first (a, b), then
(a', b') is (a' a, a' b + b'), an associative operation, so that log2(length) rounds suffice.
`chunkwise` runs all chunks side by side, then carries states from chunk to chunk: twice the work,
chunk_size + length / chunk_size rounds. `compiled` is (1) in a kernel. The two in the middle
multiply the a's of a whole window with one another: where such a product overflows, they may return
NaN although h is finite.
"""

import torch
from jaxtyping import Inexact
from torch import Tensor

from ntlib.ops.compiled import kernels_serve
from ntlib.ops.scan_kernel import Scan, run_forward

DEFAULT_CHUNK_SIZE = 64


def scan(
    a: Inexact[Tensor, "..."],
    b: Inexact[Tensor, "batch length channels"],
    *,
    state: Inexact[Tensor, "batch channels"] | None = None,
    form: str | None = None,
    chunk_size: int = DEFAULT_CHUNK_SIZE,
) -> tuple[Inexact[Tensor, "batch length channels"], Inexact[Tensor, "batch channels"]]:
    """Evaluate (1) over a sequence; return h after every token, and the last h.

    `a` is (batch, length, channels), or (channels,) if it is the same for all tokens. If one of a,
    b and state is complex, h is. `state` is h before the first token, None means 0. h has b's
    precision, the final state at least float32's. `form` is "recurrent", "parallel", "chunkwise" or
    "compiled"; None takes the kernel where it can run.

    Raises ValueError for shapes that do not fit, an empty sequence, an unknown form or
    chunk_size < 1.
    """
    _check(a, b, state, chunk_size)
    given = [x for x in (a, b, state) if x is not None]
    work = torch.promote_types(b.dtype, torch.float32)
    out_dtype = b.dtype
    if any(x.is_complex() for x in given):
        work = work.to_complex()
        out_dtype = work
    a, b = a.to(work), b.to(work)
    state = b.new_zeros(b.shape[0], b.shape[2]) if state is None else state.to(work)
    form = form or _choose(a, b, state, chunk_size)
    if form == "compiled":
        h, final = compiled(a, b, state)
    elif form == "recurrent":
        h, final = recurrent(a, b, state)
    elif form == "parallel":
        h, final = parallel(a, b, state)
    elif form == "chunkwise":
        h, final = chunkwise(a, b, state, chunk_size)
    else:
        raise ValueError(
            f"form must be 'recurrent', 'parallel', 'chunkwise' or 'compiled', got {form!r}"
        )
    return h.to(out_dtype), final


def recurrent(a, b, state):
    """Eq. (1), token by token. The definition."""
    states = []
    # unbind, not indexing: the backward of b[:, t] would write a full-size gradient for every t
    for a_t, b_t in zip(a.expand(b.shape).unbind(1), b.unbind(1), strict=True):
        state = a_t * state + b_t
        states.append(state)
    return torch.stack(states, dim=1), state


def parallel(a, b, state):
    """log2(length) rounds: after round k every token has seen the 2^k tokens that end with it."""
    a = a.expand(b.shape)
    b = torch.cat([b[:, :1] + a[:, :1] * state[:, None], b[:, 1:]], dim=1)
    reach, length = 1, b.shape[1]
    while reach < length:
        a_both, b_both = _combine(a[:, :-reach], b[:, :-reach], a[:, reach:], b[:, reach:])
        a, b = torch.cat([a[:, :reach], a_both], dim=1), torch.cat([b[:, :reach], b_both], dim=1)
        reach *= 2
    return b, b[:, -1]


def _combine(a_first, b_first, a_then, b_then):
    """Two steps of (1) in one: h -> a_then (a_first h + b_first) + b_then."""
    return a_then * a_first, a_then * b_first + b_then


def chunkwise(a, b, state, chunk_size):
    """Recurrent inside all chunks at once, then from chunk to chunk."""
    chunk_size = min(chunk_size, b.shape[1])
    whole = b.shape[1] - b.shape[1] % chunk_size
    a = a.expand(b.shape)
    chunks = (x[:, :whole].unflatten(1, (-1, chunk_size)).unbind(2) for x in (a, b))
    product, inner = [], []  # of a since the chunk began; h with a chunk that began from 0
    for a_j, b_j in zip(*chunks, strict=True):
        product.append(a_j * product[-1] if product else a_j)
        inner.append(a_j * inner[-1] + b_j if inner else b_j)
    before, final = _carry(product[-1], inner[-1], state)
    h = torch.stack(inner, dim=2) + torch.stack(product, dim=2) * before[:, :, None]
    h = h.flatten(1, 2)
    if whole < b.shape[1]:
        rest, final = recurrent(a[:, whole:], b[:, whole:], final)
        h = torch.cat([h, rest], dim=1)
    return h, final


def _carry(a, b, state):
    """The state before each chunk, and after the last."""
    before = []
    for a_c, b_c in zip(a.unbind(1), b.unbind(1), strict=True):
        before.append(state)
        state = a_c * state + b_c
    return torch.stack(before, dim=1), state


def compiled(a, b, state):
    """The kernel; without gradients no autograd around it."""
    inputs = (a if a.dim() == 3 else a[None, None], b, state)
    if torch.is_grad_enabled() and any(x.requires_grad for x in inputs):
        return Scan.apply(*inputs)
    return run_forward(*inputs)


def _choose(a, b, state, chunk_size) -> str:
    if kernels_serve(a, b, state):
        return "compiled"
    length = b.shape[1]
    return "recurrent" if length == 1 else "parallel" if length <= chunk_size else "chunkwise"


def _check(a, b, state, chunk_size):
    if b.dim() != 3 or (a.shape != b.shape and a.shape != b.shape[2:]):
        raise ValueError(
            "b must be (batch, length, channels), a the same or (channels,); "
            f"got a {tuple(a.shape)}, b {tuple(b.shape)}"
        )
    batch, length, channels = b.shape
    if length == 0:
        raise ValueError("length must be at least 1, got 0 in b")
    if state is not None and state.shape != (batch, channels):
        raise ValueError(
            f"state must be (batch, channels) = {(batch, channels)}, got {tuple(state.shape)}"
        )
    if chunk_size < 1:
        raise ValueError(f"chunk_size must be at least 1, got {chunk_size}")
