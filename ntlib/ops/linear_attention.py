"""Linear attention with a fixed decay per head: one matrix-valued recurrence, three forms.

    S_t = gamma S_{t-1} + k_t v_t^T          o_t = S_t^T q_t                                    (1)

| here        | RetNet (2307.08621)                | Linear Transformer (2006.16236)       |
| ----------- | ---------------------------------- | ------------------------------------- |
| q, k, v     | Q, K, V, Eq. 5 (already rotated)   | phi(Q), phi(K), V, Eq. 7              |
| state S     | S_n, Eq. 6                         | S_i, Eq. 18                           |
| log_decay   | log gamma, Eq. 8; per head         | none (gamma = 1)                      |
| normalise   | (not used)                         | division by phi(Q) Z_i, Eq. 12 and 19 |
| chunkwise   | Eq. 7 (see below)                  | (not in the paper)                    |

The three forms compute the same function. `recurrent` is the definition. `parallel` unrolls (1)
into one masked matrix product, quadratic in length. `chunkwise` is parallel inside chunks and
recurrent between them: linear in length and made of matrix products. RetNet's Eq. 7 as printed in
arXiv v1 lacks the decay zeta of the values inside a chunk and reads the state after the chunk
instead of the one before it; the form here is the one that follows from (1).

Decays enter as logarithms, so gamma^n = exp(n log gamma) is exact down to an underflow to zero,
which is then the right value. Work and state are float32 for bfloat16 and float16 inputs, since
those types cannot hold a decay such as 1 - 2^-12.
"""

import torch
from jaxtyping import Float
from torch import Tensor

# Measured on two AVX-512 cores: equally fast from 64 to 128, slower on either side.
DEFAULT_CHUNK_SIZE = 64


def linear_attention(
    q: Float[Tensor, "batch heads length d_k"],
    k: Float[Tensor, "batch heads length d_k"],
    v: Float[Tensor, "batch heads length d_v"],
    log_decay: Float[Tensor, " heads"] | None = None,
    *,
    state: Float[Tensor, "batch heads d_k d_state"] | None = None,
    normalise: bool = False,
    form: str | None = None,
    chunk_size: int = DEFAULT_CHUNK_SIZE,
) -> tuple[Float[Tensor, "batch heads length d_v"], Float[Tensor, "batch heads d_k d_state"]]:
    """Evaluate (1) over a sequence and return outputs and the final state.

    `log_decay` is log gamma per head, <= 0; None means gamma = 1. With `normalise` each output is
    divided by the sum of its weights q_t . k_s gamma^(t-s); the sum is carried as one more value
    column, so the state is (d_k, d_v + 1). `form` is "recurrent", "parallel" or "chunkwise"; None
    takes the cheapest for the length.

    Raises ValueError for shapes that do not fit, an empty sequence, a positive log_decay, an
    unknown form or chunk_size < 1.
    """
    _check(q, k, v, log_decay, state, normalise, chunk_size)
    out_dtype, work = v.dtype, torch.promote_types(v.dtype, torch.float32)
    q, k, v = q.to(work), k.to(work), v.to(work)
    log_decay = q.new_zeros(q.shape[1]) if log_decay is None else log_decay.to(work)
    if normalise:
        v = torch.cat([v, v.new_ones(*v.shape[:-1], 1)], dim=-1)
    if state is None:
        state = q.new_zeros(*q.shape[:2], q.shape[-1], v.shape[-1])

    length = q.shape[2]
    form = form or (
        "recurrent" if length == 1 else "parallel" if length <= chunk_size else "chunkwise"
    )
    if form == "recurrent":
        out, state = recurrent(q, k, v, log_decay, state.to(work))
    elif form == "parallel":
        out, state = parallel(q, k, v, log_decay, state.to(work))
    elif form == "chunkwise":
        out, state = chunkwise(q, k, v, log_decay, state.to(work), chunk_size)
    else:
        raise ValueError(f"form must be 'recurrent', 'parallel' or 'chunkwise', got {form!r}")
    if normalise:
        out = out[..., :-1] / out[..., -1:]
    return out.to(out_dtype), state


def recurrent(q, k, v, log_decay, state):
    """Eq. (1), token by token: O(length d_k d_v) work, O(d_k d_v) memory. The definition."""
    decay = log_decay.exp()
    outputs = []
    # unbind, not indexing: the backward of x[:, :, t] would write a full-size gradient for every t
    for q_t, k_t, v_t in zip(q.unbind(2), k.unbind(2), v.unbind(2), strict=True):
        out, state = step(q_t, k_t, v_t, decay, state)
        outputs.append(out)
    return torch.stack(outputs, dim=2), state


def step(
    q: Float[Tensor, "batch heads d_k"],
    k: Float[Tensor, "batch heads d_k"],
    v: Float[Tensor, "batch heads d_v"],
    decay: Float[Tensor, " heads"],
    state: Float[Tensor, "batch heads d_k d_v"],
) -> tuple[Float[Tensor, "batch heads d_v"], Float[Tensor, "batch heads d_k d_v"]]:
    """One token of Eq. (1); here `decay` is gamma itself.

    Bound by memory: the state is read and written once.
    """
    state = (decay[:, None, None] * state).addcmul_(k[..., :, None], v[..., None, :])
    return (q[..., None, :] @ state).squeeze(-2), state


def parallel(q, k, v, log_decay, state):
    """(Q K^T * D) V with D_ts = gamma^(t-s) for s <= t: O(length^2) work.

    Adds what the initial state contributes.
    """
    length = q.shape[2]
    scores = (q @ k.transpose(-1, -2)) * decay_mask(log_decay, length)
    out = scores @ v + (q * _powers(log_decay, 1, length + 1)) @ state
    return out, _advance(state, k, v, log_decay)


def chunkwise(q, k, v, log_decay, state, chunk_size):
    """Parallel inside chunks, recurrent between them: O(length (chunk + d_k) d_v) work."""
    length = q.shape[2]
    chunk_size = min(chunk_size, length)
    whole = length - length % chunk_size
    out, state = _whole_chunks(
        q[:, :, :whole], k[:, :, :whole], v[:, :, :whole], log_decay, state, chunk_size
    )
    if whole < length:
        rest, state = parallel(q[:, :, whole:], k[:, :, whole:], v[:, :, whole:], log_decay, state)
        out = torch.cat([out, rest], dim=2)
    return out, state


def _whole_chunks(q, k, v, log_decay, state, chunk_size):
    shape = (-1, chunk_size)
    q, k, v = (x.unflatten(2, shape) for x in (q, k, v))  # (batch, heads, chunks, chunk_size, dim)
    # what a chunk adds to the state, its last token undecayed: zeta_j = gamma^(chunk_size - 1 - j)
    zeta = _powers(log_decay, 0, chunk_size).flip(1)[:, None]
    added = (k * zeta).transpose(-1, -2) @ v
    gamma_chunk = (log_decay * chunk_size).exp()[:, None, None]
    before = []  # the state each chunk starts from
    for chunk in added.unbind(2):
        before.append(state)
        state = gamma_chunk * state + chunk
    inner = ((q @ k.transpose(-1, -2)) * decay_mask(log_decay, chunk_size)[:, None]) @ v
    cross = (q * _powers(log_decay, 1, chunk_size + 1)[:, None]) @ torch.stack(before, dim=2)
    return (inner + cross).flatten(2, 3), state


def decay_mask(
    log_decay: Float[Tensor, " heads"], length: int
) -> Float[Tensor, "heads length length"]:
    """RetNet's D, Eq. 5: gamma^(t-s) on and below the diagonal, 0 above it."""
    t = torch.arange(length, device=log_decay.device)
    lag = (t[:, None] - t).to(log_decay.dtype)
    # clamp before exp: above the diagonal exponents are positive and may overflow; inf * 0 is NaN
    return (lag.clamp(min=0) * log_decay[:, None, None]).exp().tril()


def _powers(log_decay, first, end):
    """gamma^first ... gamma^(end-1), shape (heads, end - first, 1)."""
    exponents = torch.arange(first, end, device=log_decay.device, dtype=log_decay.dtype)
    return (exponents * log_decay[:, None]).exp()[..., None]


def _advance(state, k, v, log_decay):
    length = k.shape[2]
    zeta = _powers(log_decay, 0, length).flip(1)
    return (log_decay * length).exp()[:, None, None] * state + (k * zeta).transpose(-1, -2) @ v


def _check(q, k, v, log_decay, state, normalise, chunk_size):
    if q.dim() != 4 or q.shape != k.shape or q.shape[:3] != v.shape[:3]:
        raise ValueError(
            "q, k, v must be (batch, heads, length, d_k), the same, and (.., d_v); "
            f"got {tuple(q.shape)}, {tuple(k.shape)}, {tuple(v.shape)}"
        )
    if q.shape[2] == 0:
        raise ValueError("length must be at least 1, got 0 in q, k, v")
    if chunk_size < 1:
        raise ValueError(f"chunk_size must be at least 1, got {chunk_size}")
    if log_decay is not None and log_decay.shape != q.shape[1:2]:
        raise ValueError(
            f"log_decay must be (heads,) = ({q.shape[1]},), got {tuple(log_decay.shape)}"
        )
    if log_decay is not None and bool((log_decay > 0).any()):
        raise ValueError(
            "log_decay must be <= 0 (a decay in (0, 1]), "
            f"got a maximum of {log_decay.max().item():g}"
        )
    expected = (*q.shape[:2], q.shape[3], v.shape[3] + normalise)
    if state is not None and tuple(state.shape) != expected:
        raise ValueError(
            f"state must be (batch, heads, d_k, d_v{' + 1' * normalise}) = {expected}, "
            f"got {tuple(state.shape)}"
        )
