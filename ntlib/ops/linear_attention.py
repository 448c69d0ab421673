"""Linear attention with every kind of decay: one matrix-valued recurrence, four forms.

    S_t = diag(w_t) S_{t-1} + k_t v_t^T         o_t = S_t^T q_t                                 (1)
                                  with a bonus: o_t = S_{t-1}^T q_t + (q_t . (u * k_t)) v_t     (2)

| here      | Linear Transformer (2006.16236) | RetNet (2307.08621) | SSD of Mamba-2 (2405.21060) |
| --------- | ------------------------------- | ------------------- | --------------------------- |
| q, k, v   | phi(Q), phi(K), V, Eq. 7        | Q, K, V, Eq. 5      | C, B, Delta x               |
| state S   | S_i, Eq. 18                     | S_n, Eq. 6          | h, transposed, Eq. 1        |
| log_decay | none (w = 1)                    | log gamma, Eq. 8    | Delta A                     |
| normalise | phi(Q) Z_i, Eq. 12 and 19       | (not used)          | (not used)                  |
| chunkwise | (not in the paper)              | Eq. 7 (see below)   | Sec. 6                      |

RWKV-5 and 6 (2404.05892) call q receptance r and u the bonus; GLA (2312.06635) has no bonus and
writes alpha_t for w_t. Who decays how is seen from the number of dimensions of log_decay: (heads,)
RetNet; (heads, d_k) RWKV-5; (batch, heads, length) Mamba-2; (batch, heads, length, d_k) RWKV-6 and
GLA.

The forms compute the same function. `recurrent` is the definition. `parallel` unrolls (1) into one
masked matrix product, quadratic in length. `chunkwise` is parallel inside chunks and recurrent
between them: linear in length and made of matrix products. `compiled` is a kernel for CPUs.
RetNet's Eq. 7 as printed in arXiv v1 lacks the decay zeta of the values inside a chunk and reads
the state after the chunk instead of the one before it; the form here follows from (1).

Decays enter as logarithms <= 0 and only their sums are exponentiated, never differences of sums and
never anything positive: all forms are exact down to an underflow to zero, which is then the right
value. Work and state are float32 for bfloat16 and float16 inputs, since those types cannot hold a
decay such as 1 - 2^-12.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from ntlib.ops.compiled import kernels_serve
from ntlib.ops.linear_attention_chunkwise import chunkwise
from ntlib.ops.linear_attention_compiled import compiled

# Measured on two AVX-512 cores: equally fast from 64 to 128, slower on either side.
DEFAULT_CHUNK_SIZE = 64


def linear_attention(
    q: Float[Tensor, "batch heads length d_k"],
    k: Float[Tensor, "batch heads length d_k"],
    v: Float[Tensor, "batch heads length d_v"],
    log_decay: Float[Tensor, "..."] | None = None,
    *,
    bonus: Float[Tensor, "heads d_k"] | None = None,
    state: Float[Tensor, "batch heads d_k d_state"] | None = None,
    normalise: bool = False,
    form: str | None = None,
    chunk_size: int = DEFAULT_CHUNK_SIZE,
) -> tuple[Float[Tensor, "batch heads length d_v"], Float[Tensor, "batch heads d_k d_state"]]:
    """Evaluate (1), or (2) if there is a bonus, over a sequence; return outputs and final state.

    `log_decay` is log w, <= 0: (heads,), (heads, d_k), (batch, heads, length) or (batch, heads,
    length, d_k); None means w = 1. With `normalise` each output is divided by the sum of its
    weights; the sum is carried as one more value column, so the state is (d_k, d_v + 1). `form` is
    "recurrent", "parallel", "chunkwise" or "compiled"; None takes the cheapest for the device and
    the length: on a CPU the kernel, which was faster than chunks of matrix products for every kind
    of decay and every size tried. Kernels read memory in the order (batch, length, heads, .)
    without a copy.

    Raises ValueError for shapes that do not fit, an empty sequence, a positive log_decay, an
    unknown form or chunk_size < 1.
    """
    _check(q, k, v, log_decay, bonus, state, normalise, chunk_size)
    out_dtype, work = v.dtype, torch.promote_types(v.dtype, torch.float32)
    q, k, v = q.to(work), k.to(work), v.to(work)
    log_decay = q.new_zeros(q.shape[1]) if log_decay is None else log_decay.to(work)
    bonus = None if bonus is None else bonus.to(work)
    if normalise:
        v = torch.cat([v, v.new_ones(*v.shape[:-1], 1)], dim=-1)
    if state is None:
        state = q.new_zeros(*q.shape[:2], q.shape[-1], v.shape[-1])
    state = state.to(work)

    form = form or _cheapest(q, k, v, log_decay, bonus, state, chunk_size)
    if form == "recurrent":
        out, state = recurrent(q, k, v, log_decay, bonus, state)
    elif form == "parallel":
        out, state = chunkwise(q, k, v, log_decay, bonus, state, q.shape[2])  # a single chunk
    elif form == "chunkwise":
        out, state = chunkwise(q, k, v, log_decay, bonus, state, chunk_size)
    elif form == "compiled":
        out, state = compiled(q, k, v, log_decay, bonus, state)
    else:
        raise ValueError(
            f"form must be 'recurrent', 'parallel', 'chunkwise' or 'compiled', got {form!r}"
        )
    if normalise:
        out = out[..., :-1] / out[..., -1:]
    return out.to(out_dtype), state


def _cheapest(q, k, v, log_decay, bonus, state, chunk_size):
    length = q.shape[2]
    if kernels_serve(q, k, v, log_decay, bonus, state):
        return "compiled"
    return "recurrent" if length == 1 else "parallel" if length <= chunk_size else "chunkwise"


def recurrent(q, k, v, log_decay, bonus, state):
    """Eq. (1) or (2), token by token: O(length d_k d_v) work, O(d_k d_v) memory. The definition."""
    decay = log_decay.exp()
    if log_decay.dim() <= 2:
        decays = [decay] * q.shape[2]
    else:
        decays = (decay[..., None] if decay.dim() == 3 else decay).unbind(2)
    outputs = []
    # unbind, not indexing: the backward of x[:, :, t] would write a full-size gradient for every t
    for q_t, k_t, v_t, decay_t in zip(q.unbind(2), k.unbind(2), v.unbind(2), decays, strict=True):
        out, state = step(q_t, k_t, v_t, decay_t, state, bonus)
        outputs.append(out)
    return torch.stack(outputs, dim=2), state


def step(
    q: Float[Tensor, "batch heads d_k"],
    k: Float[Tensor, "batch heads d_k"],
    v: Float[Tensor, "batch heads d_v"],
    decay: Float[Tensor, "..."],
    state: Float[Tensor, "batch heads d_k d_v"],
    bonus: Float[Tensor, "heads d_k"] | None = None,
) -> tuple[Float[Tensor, "batch heads d_v"], Float[Tensor, "batch heads d_k d_v"]]:
    """One token of Eq. (1) or (2); here `decay` is w itself: (heads,), (heads, d_k) or
    (batch, heads, d_k), with d_k or 1 numbers for each head.

    Bound by memory: the state is read and written once.
    """
    decay = decay[:, None, None] if decay.dim() == 1 else decay[..., None]
    new = (decay * state).addcmul_(k[..., :, None], v[..., None, :])
    if bonus is None:
        return (q[..., None, :] @ new).squeeze(-2), new
    own = (q * bonus * k).sum(-1, keepdim=True)
    return (q[..., None, :] @ state).squeeze(-2).addcmul(own, v), new


def _check(q, k, v, log_decay, bonus, state, normalise, chunk_size):
    if q.dim() != 4 or q.shape != k.shape or q.shape[:3] != v.shape[:3]:
        raise ValueError(
            "q, k, v must be (batch, heads, length, d_k), the same, and (.., d_v); "
            f"got {tuple(q.shape)}, {tuple(k.shape)}, {tuple(v.shape)}"
        )
    batch, heads, length, d_k = q.shape
    if length == 0:
        raise ValueError("length must be at least 1, got 0 in q, k, v")
    if chunk_size < 1:
        raise ValueError(f"chunk_size must be at least 1, got {chunk_size}")
    if log_decay is not None:
        names = ("heads", "heads, d_k", "batch, heads, length", "batch, heads, length, d_k")
        shapes = ((heads,), (heads, d_k), (batch, heads, length), (batch, heads, length, d_k))
        if log_decay.dim() not in (1, 2, 3, 4):
            raise ValueError(f"log_decay must have 1 to 4 dimensions, got {log_decay.dim()}")
        name, shape = names[log_decay.dim() - 1], shapes[log_decay.dim() - 1]
        if tuple(log_decay.shape) != shape:
            raise ValueError(
                f"log_decay must be ({name}{',' * (len(shape) == 1)}) = {shape}, "
                f"got {tuple(log_decay.shape)}"
            )
        if (highest := log_decay.detach().max().item()) > 0:
            raise ValueError(
                f"log_decay must be <= 0 (a decay in (0, 1]), got a maximum of {highest:g}"
            )
    if bonus is not None and tuple(bonus.shape) != (heads, d_k):
        raise ValueError(f"bonus must be (heads, d_k) = {heads, d_k}, got {tuple(bonus.shape)}")
    expected = (batch, heads, d_k, v.shape[3] + normalise)
    if state is not None and tuple(state.shape) != expected:
        raise ValueError(
            f"state must be (batch, heads, d_k, d_v{' + 1' * normalise}) = {expected}, "
            f"got {tuple(state.shape)}"
        )
