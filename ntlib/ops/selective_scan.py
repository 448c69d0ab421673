"""Mamba's selective scan: per channel a diagonal system whose step and matrices depend on the
token.

    h_t = exp(delta_t A) * h_t-1 + (delta_t x_t) B_t          y_t = h_t C_t + D x_t             (1)

| here          | Mamba (2312.00752)                          | official code (selective_scan_ref) |
| ------------- | ------------------------------------------- | ---------------------------------- |
| x             | x, Algorithm 2; (B, L, D)                   | u; (B, D, L)                       |
| delta         | Delta, Algorithm 2, after tau_Delta         | delta, after softplus              |
| A             | A, diagonal, (D, N); negative               | A                                  |
| B, C          | B, C, Algorithm 2; (B, L, N)                | B, C; (B, N, L)                    |
| D             | (not in the equations)                      | D                                  |
| gate          | the second branch of Fig. 3                 | z                                  |
| exp(delta A)  | A bar, Eq. 4                                | deltaA                             |
| delta B       | B bar, see below                            | deltaB_u                           |
| state h       | h, Eq. 2a                                   | x, last_state                      |

The output is multiplied by SiLU(gate), where a gate is given. Departure of the official code that
we follow: it discretises A by Eq. 4 (zero-order hold), but B by delta B, Euler's rule, instead of
Eq. 4's (exp(delta A) - 1) / A B.

For every token and channel there are d_state numbers h. `parallel` stores them all, `chunkwise`
those of a chunk; `compiled` keeps them in the processor's cache (selective_scan_kernel).
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from ntlib.ops.compiled import kernels_serve
from ntlib.ops.scan import scan
from ntlib.ops.selective_scan_backward_kernel import SelectiveScan
from ntlib.ops.selective_scan_kernel import run_forward

DEFAULT_CHUNK_SIZE = 64


def selective_scan(
    x: Float[Tensor, "batch length channels"],
    delta: Float[Tensor, "batch length channels"],
    A: Float[Tensor, "channels d_state"],
    B: Float[Tensor, "batch length d_state"],
    C: Float[Tensor, "batch length d_state"],
    D: Float[Tensor, " channels"] | None = None,
    gate: Float[Tensor, "batch length channels"] | None = None,
    *,
    state: Float[Tensor, "batch channels d_state"] | None = None,
    form: str | None = None,
    chunk_size: int = DEFAULT_CHUNK_SIZE,
) -> tuple[Float[Tensor, "batch length channels"], Float[Tensor, "batch channels d_state"]]:
    """Evaluate (1) over a sequence, gate the outputs, and return them and the final state.

    `delta` is >= 0 and `A` <= 0: decays are at most 1. `D` None means 0, `gate` None no gate,
    `state` None zeros. `form` is "recurrent", "parallel", "chunkwise" or "compiled"; None takes the
    kernel where it can run. `chunk_size` concerns "chunkwise".

    Raises ValueError for shapes that do not fit, an empty sequence, an unknown form or
    chunk_size < 1.
    """
    _check(x, delta, A, B, C, D, gate, state, chunk_size)
    dtype, work = x.dtype, torch.promote_types(x.dtype, torch.float32)
    x, delta, A, B, C = (i.to(work) for i in (x, delta, A, B, C))
    D = A.new_zeros(A.shape[0]) if D is None else D.to(work)
    gate = None if gate is None else gate.to(work)
    state = A.new_zeros(x.shape[0], *A.shape) if state is None else state.to(work)
    form = form or _choose(x, delta, A, B, C, D, gate, state)
    if form == "compiled":
        y, state = compiled(x, delta, A, B, C, D, gate, state)
        return y.to(dtype), state
    if form == "recurrent":
        y, state = recurrent(x, delta, A, B, C, state)
    elif form == "parallel":
        y, state = parallel(x, delta, A, B, C, state)
    elif form == "chunkwise":
        y, state = chunkwise(x, delta, A, B, C, state, chunk_size)
    else:
        raise ValueError(
            f"form must be 'recurrent', 'parallel', 'chunkwise' or 'compiled', got {form!r}"
        )
    y = y + D * x
    return (y if gate is None else y * F.silu(gate)).to(dtype), state


def recurrent(x, delta, A, B, C, state):
    """Eq. (1) without D, token by token. The definition."""
    outputs = []
    # unbind, not indexing: the backward of x[:, t] would write a full-size gradient for every t
    tokens = (i.unbind(1) for i in (x, delta, B, C))
    for x_t, delta_t, B_t, C_t in zip(*tokens, strict=True):
        decay, added = _discretise(x_t, delta_t, A, B_t)
        state = decay * state + added
        outputs.append((state @ C_t[..., None]).squeeze(-1))
    return torch.stack(outputs, dim=1), state


def parallel(x, delta, A, B, C, state):
    """All states of all tokens at once, (batch, length, channels, d_state), by `scan`."""
    decay, added = _discretise(x, delta, A, B)
    states, final = scan(
        decay.flatten(2), added.flatten(2), state=state.flatten(1), form="parallel"
    )
    y = (states.unflatten(2, A.shape) @ C[..., None]).squeeze(-1)
    return y, final.view(state.shape)


def chunkwise(x, delta, A, B, C, state, chunk_size):
    """Parallel inside chunks, recurrent between them: memory for the states of a chunk."""
    outputs = []
    chunks = (i.split(chunk_size, dim=1) for i in (x, delta, B, C))
    for x_c, delta_c, B_c, C_c in zip(*chunks, strict=True):
        y, state = parallel(x_c, delta_c, A, B_c, C_c, state)
        outputs.append(y)
    return torch.cat(outputs, dim=1), state


def compiled(x, delta, A, B, C, D, gate, state):
    """The kernels; without gradients no state is kept."""
    inputs = (x, delta, A, B, C, D, gate, state)
    if torch.is_grad_enabled() and any(i is not None and i.requires_grad for i in inputs):
        return SelectiveScan.apply(*inputs)
    return run_forward(*inputs, keep=False)[:2]


def _discretise(x, delta, A, B):
    """A bar = exp(delta A) and B bar x = (delta x) B, (..., channels, d_state)."""
    return (delta[..., None] * A).exp(), (delta * x)[..., None] * B[..., None, :]


def _choose(x, *others) -> str:
    if kernels_serve(x, *others):
        return "compiled"
    return "recurrent" if x.shape[1] == 1 else "chunkwise"


def _check(x, delta, A, B, C, D, gate, state, chunk_size):
    if x.dim() != 3 or delta.shape != x.shape or (gate is not None and gate.shape != x.shape):
        raise ValueError(
            "x, delta and gate must be (batch, length, channels), the same; got "
            f"{tuple(x.shape)}, {tuple(delta.shape)}, {None if gate is None else tuple(gate.shape)}"
        )
    batch, length, channels = x.shape
    if length == 0:
        raise ValueError("length must be at least 1, got 0 in x")
    if A.dim() != 2 or A.shape[0] != channels:
        raise ValueError(f"A must be (channels, d_state) = ({channels}, .), got {tuple(A.shape)}")
    expected = {
        "B": (B, (batch, length, A.shape[1])),
        "C": (C, (batch, length, A.shape[1])),
        "D": (D, (channels,)),
        "state": (state, (batch, *A.shape)),
    }
    for name, (value, shape) in expected.items():
        if value is not None and tuple(value.shape) != shape:
            raise ValueError(f"{name} must be {shape}, got {tuple(value.shape)}")
    if chunk_size < 1:
        raise ValueError(f"chunk_size must be at least 1, got {chunk_size}")
