"""The delta rule: a matrix-valued memory that can take back what it wrote.

    S_t = (diag(w_t) + a_t b_t^T) S_{t-1} + k_t v_t^T          o_t = S_t^T q_t                  (1)

The row b_t^T S_{t-1} is what the memory holds under the key b_t; the rank-one term writes it again
under a_t. With a_t = -beta_t b_t that removes a share beta_t of it: one step of gradient descent on
|S^T k - v|^2, the delta rule of Widrow and Hoff.

| here      | DeltaNet (2406.06484)  | Gated DeltaNet (2412.06464)  | RWKV-7 (2503.14456)       |
| --------- | ---------------------- | ---------------------------- | ------------------------- |
| equation  | Sec. 2, delta rule     | Sec. 3, gated delta rule     | Sec. 4, wkv_t             |
| state S   | S_t^T                  | S_t^T                        | wkv_t^T                   |
| q         | q_t                    | q_t                          | r_t                       |
| k, v      | beta_t k_t, v_t        | beta_t k_t, v_t              | k~_t, v_t                 |
| b         | k_t                    | k_t                          | kappa^_t                  |
| a         | -beta_t k_t            | -alpha_t beta_t k_t          | -a_t * kappa^_t           |
| log_decay | none (w = 1)           | log alpha_t, one per head    | log w_t, one per channel  |

The papers write the state as (d_v, d_k) and multiply it from the right; here it is (d_k, d_v), as
everywhere in the book, so every transition matrix is the transpose of theirs: RWKV-7's
diag(w) - kappa^^T (a * kappa^), from the right, is diag(w) - (a * kappa^) kappa^^T from the left.

Forms: `recurrent` is the definition. `chunkwise` (the WY or UT form of DeltaNet, Sec. 3) finds all
rows c_t = b_t^T S_{t-1} of a chunk by one triangular solve, since each depends linearly on those
before it; the rest is linear attention with two kinds of pairs, (k, v) and (a, c). `parallel` is
one chunk that holds the whole sequence. `compiled` is the recurrence in
ntlib.ops.delta_rule_kernel.

Decays enter as logarithms and meet in products over s < r <= t, each computed from its own sum of
logarithms, which is <= 0: nothing overflows, and what underflows is zero. Work and state are
float32 for bfloat16 and float16 inputs.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from ntlib.ops.compiled import kernels_serve
from ntlib.ops.delta_rule_kernel import delta_rule_compiled

# Pairs of tokens and channels are written out, chunk_size numbers per number of the keys: larger
# chunks cost memory, smaller ones more turns of the loop.
DEFAULT_CHUNK_SIZE = 16


def delta_rule(
    q: Float[Tensor, "batch heads length d_k"],
    k: Float[Tensor, "batch heads length d_k"],
    v: Float[Tensor, "batch heads length d_v"],
    a: Float[Tensor, "batch heads length d_k"],
    b: Float[Tensor, "batch heads length d_k"],
    log_decay: Float[Tensor, "..."] | None = None,
    *,
    state: Float[Tensor, "batch heads d_k d_v"] | None = None,
    form: str | None = None,
    chunk_size: int = DEFAULT_CHUNK_SIZE,
) -> tuple[Float[Tensor, "batch heads length d_v"], Float[Tensor, "batch heads d_k d_v"]]:
    """Evaluate (1) over a sequence and return outputs and the final state.

    `log_decay` is log w <= 0: None (w = 1), (heads,) or (heads, d_k) for a fixed decay, (batch,
    heads, length) or (batch, heads, length, d_k) for one that depends on the data. `form` is
    "recurrent", "parallel", "chunkwise" or "compiled"; None takes "compiled" on a CPU and elsewhere
    the cheapest for the length. `chunk_size` matters to "chunkwise" only and changes no result.

    Raises ValueError for shapes that do not fit, an empty sequence, a positive log_decay, an
    unknown form or chunk_size < 1.
    """
    log_decay = _check(q, k, v, a, b, log_decay, state, chunk_size)
    out_dtype, work = v.dtype, torch.promote_types(v.dtype, torch.float32)
    q, k, v, a, b, log_decay = (x.to(work) for x in (q, k, v, a, b, log_decay))
    shape = (*q.shape[:2], q.shape[-1], v.shape[-1])
    state = q.new_zeros(shape) if state is None else state.to(work)

    if form is None:
        if kernels_serve(q, k, v, a, b, log_decay, state):
            form = "compiled"
        else:
            length = q.shape[2]
            form = (
                "recurrent" if length == 1 else "parallel" if length <= chunk_size else "chunkwise"
            )
    if form == "compiled":
        out, state = delta_rule_compiled(q, k, v, a, b, log_decay, state)
    elif form == "recurrent":
        out, state = recurrent(q, k, v, a, b, log_decay, state)
    elif form == "parallel":
        out, state = chunkwise(q, k, v, a, b, log_decay, state, q.shape[2])
    elif form == "chunkwise":
        out, state = chunkwise(q, k, v, a, b, log_decay, state, min(chunk_size, q.shape[2]))
    else:
        raise ValueError(
            f"form must be 'recurrent', 'parallel', 'chunkwise' or 'compiled', got {form!r}"
        )
    return out.to(out_dtype), state


def recurrent(q, k, v, a, b, log_decay, state):
    """Eq. (1), token by token: O(length d_k d_v) work, O(d_k d_v) memory. The definition."""
    decay = log_decay.exp().expand(-1, -1, q.shape[2], -1)
    outputs = []
    # unbind, not indexing: the backward of x[:, :, t] would write a full-size gradient for every t
    for now in zip(*(x.unbind(2) for x in (q, k, v, a, b, decay)), strict=True):
        out, state = step(*now, state)
        outputs.append(out)
    return torch.stack(outputs, dim=2), state


def step(
    q: Float[Tensor, "batch heads d_k"],
    k: Float[Tensor, "batch heads d_k"],
    v: Float[Tensor, "batch heads d_v"],
    a: Float[Tensor, "batch heads d_k"],
    b: Float[Tensor, "batch heads d_k"],
    decay: Float[Tensor, "#batch #heads #d_k"],
    state: Float[Tensor, "batch heads d_k d_v"],
) -> tuple[Float[Tensor, "batch heads d_v"], Float[Tensor, "batch heads d_k d_v"]]:
    """One token of Eq. (1); here `decay` is w itself."""
    held = b[..., None, :] @ state  # what the memory holds under b, (batch, heads, 1, d_v)
    state = decay[..., :, None] * state
    state = state.addcmul_(a[..., :, None], held).addcmul_(k[..., :, None], v[..., None, :])
    return (q[..., None, :] @ state).squeeze(-2), state


def chunkwise(q, k, v, a, b, log_decay, state, chunk_size):
    """Inside a chunk that starts from S_0, with D_ts the decay from token s to token t,

        c_t = b_t^T D_{t-1,0} S_0 + sum_{s<t} b_t^T D_{t-1,s} (a_s c_s + k_s v_s)              (2)

    is a unit triangular system for the rows c_t. O(length chunk_size (d_k + d_v)) work.
    """
    length = q.shape[2]
    log_decay = log_decay.expand(-1, -1, length, -1)
    # a last chunk that is short is filled with tokens that decay, write and remove nothing
    fill = (0, 0, 0, -length % chunk_size)
    q, k, v, a, b, log_decay = (
        F.pad(x, fill).unflatten(2, (-1, chunk_size)) for x in (q, k, v, a, b, log_decay)
    )
    until_t, between = _decays(log_decay)
    until_before_t = F.pad(until_t[..., :-1, :], (0, 0, 1, 0), value=1.0)
    before = F.pad(between[..., :-1, :, :], (0, 0, 0, 0, 1, 0))  # D_{t-1,s}, zero unless s < t
    b_k, b_a = _scores(b, (k, a), before)
    q_k, q_a = _scores(q, (k, a), between)

    # (2) solved for both of its sources at once: c = c_of_state S_0 + c_of_values
    system = torch.eye(chunk_size, dtype=q.dtype, device=q.device) - b_a
    sources = torch.cat([b * until_before_t, b_k @ v], dim=-1)
    solved = torch.linalg.solve_triangular(system, sources, upper=False, unitriangular=True)
    c_of_state, c_of_values = solved.split((q.shape[-1], v.shape[-1]), dim=-1)

    until_end = between[..., -1, :, :]
    k_end, a_end = (k * until_end).transpose(-1, -2), (a * until_end).transpose(-1, -2)
    parts = (
        q * until_t,
        q_k @ v,
        q_a,
        c_of_state,
        c_of_values,
        k_end @ v,
        a_end,
        until_t[..., -1, :],
    )
    outputs = []
    for q_0, inner, q_a, c_0, c_v, written, a_end, decay in zip(
        *(x.unbind(2) for x in parts), strict=True
    ):
        c = c_0 @ state + c_v
        outputs.append(q_0 @ state + inner + q_a @ c)
        state = decay[..., :, None] * state + written + a_end @ c
    return torch.cat(outputs, dim=2)[:, :, :length], state


def _decays(log_decay):
    """Decay from the start of the chunk until after token t, (.., t, channel), and from token s to
    token t, (.., t, s, channel), zero for s > t.

    Each exponent is its own sum over s < r <= t. A difference of two sums from the start would
    lose the digits of a weak decay that follows strong ones.
    """
    size = log_decay.shape[-2]
    until_t = log_decay.cumsum(-2).exp()
    causal = torch.ones(size, size, dtype=torch.bool, device=log_decay.device).tril()
    addends = log_decay[..., :, None, :].masked_fill(~causal.tril(-1)[..., None], 0.0)
    between = addends.cumsum(-3).masked_fill(~causal[..., None], float("-inf")).exp()
    return until_t, between


def _scores(left, rights, between):
    """sum_i left_ti right_si between_tsi for each of `rights`."""
    if between.shape[-1] == 1:  # one decay per head: it leaves the sum
        return [(left @ right.transpose(-1, -2)) * between.squeeze(-1) for right in rights]
    decayed = left[..., :, None, :] * between
    return [torch.einsum("...tsi,...si->...ts", decayed, right) for right in rights]


def _check(q, k, v, a, b, log_decay, state, chunk_size):
    """Raises ValueError or returns log_decay in four dimensions, of size 1 where it does not
    vary."""
    if q.dim() != 4 or not q.shape == k.shape == a.shape == b.shape or q.shape[:3] != v.shape[:3]:
        raise ValueError(
            "q, k, a, b must be (batch, heads, length, d_k), the same, and v (.., d_v); got "
            + ", ".join(str(tuple(x.shape)) for x in (q, k, a, b, v))
        )
    batch, heads, length, d_k = q.shape
    if length == 0:
        raise ValueError("length must be at least 1, got 0 in q, k, v, a, b")
    if chunk_size < 1:
        raise ValueError(f"chunk_size must be at least 1, got {chunk_size}")
    expected = (batch, heads, d_k, v.shape[3])
    if state is not None and tuple(state.shape) != expected:
        raise ValueError(
            f"state must be (batch, heads, d_k, d_v) = {expected}, got {tuple(state.shape)}"
        )
    if log_decay is None:
        return q.new_zeros(1, 1, 1, 1)
    shapes = ((heads,), (heads, d_k), (batch, heads, length), (batch, heads, length, d_k))
    if tuple(log_decay.shape) not in shapes:
        raise ValueError(
            "log_decay must be (heads,), (heads, d_k), (batch, heads, length) or (batch, heads, "
            f"length, d_k), one of {shapes}; got {tuple(log_decay.shape)}"
        )
    largest = log_decay.max().item() if log_decay.numel() else 0.0
    if largest > 0:
        raise ValueError(
            f"log_decay must be <= 0 (a decay in (0, 1]), got a maximum of {largest:g}"
        )
    fixed = log_decay.dim() <= 2
    log_decay = log_decay if log_decay.dim() in (2, 4) else log_decay[..., None]
    return log_decay[None, :, None] if fixed else log_decay
