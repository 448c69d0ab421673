"""wkv, the token mixer of RWKV-4: per channel, a softmax over past tokens whose logits no query
enters; a pair of elementwise recurrences.

    wkv_t = (sum_{i<t} e^(k_i + (t-1-i) w) v_i + e^(u + k_t) v_t) / (the same without v)        (1)

where w = log_decay <= 0. The token just before is not decayed yet; the current one gets the bonus u
instead. With A and B, numerator and denominator of the sums over the past,

    A_t = e^w A_{t-1} + e^(k_t) v_t              B_t = e^w B_{t-1} + e^(k_t)
    wkv_t = (A_{t-1} + e^(u + k_t) v_t) / (B_{t-1} + e^(u + k_t))                               (2)

A and B overflow as soon as some k > 88 in float32. So the state is (a, b, p) with A = a e^p,
B = b e^p, where p is the largest exponent among those summed:

    q = max(p_{t-1}, u + k_t)             f = e^(p_{t-1} - q)           g = e^(u + k_t - q)
    wkv_t = (f a_{t-1} + g v_t) / (f b_{t-1} + g)
    p_t = max(p_{t-1} + w, k_t)           f = e^(p_{t-1} + w - p_t)     g = e^(k_t - p_t)
    a_t = f a_{t-1} + g v_t               b_t = f b_{t-1} + g                                   (3)

| here         | RWKV-4 (2305.13048)                         | official code    |
| ------------ | ------------------------------------------- | ---------------- |
| k, v         | k_t, v_t of the time-mixing block           | k, v             |
| w, log_decay | -w: there w >= 0 is subtracted              | -exp(time_decay) |
| bonus u      | u                                           | time_first       |
| wkv          | wkv_t of the time-mixing block, our (1)     | wkv              |
| a, b, p      | the appendix on RNN-like decoding, our (3)  | aa, bb, pp       |

The sign of w departs from the paper so that log_decay is the logarithm of the factor, as in the
other operators.

Many (a, b, p) stand for the same (A, B). All forms return the one of (3), whose p is the running
maximum p_T = max(p_0 + T w, max_i k_i + (T-1-i) w), and differentiate it as it stands, maximum
included. What reads a state through A and B only, as another call does, has d/dp = a d/da + b d/db,
and for it the maximum's part cancels:

    d/dp_T - a_T d/da_T - b_T d/db_T = 0                                                        (4)

That difference is all that goes back through the maximum (to the one k_i, or p_0, that it is made
of); everything else goes through a and b as if p were a constant.
"""

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from ntlib.ops.compiled import kernels_serve
from ntlib.ops.wkv_kernel import CompiledWKV

# The parallel form makes (batch, length, length, channels) numbers: chunks must stay short.
DEFAULT_CHUNK_SIZE = 16
# The largest exponent of an empty sum. Not -inf: a difference of two of them is 0, not NaN.
NOTHING = -1e30


class WKVState(NamedTuple):
    """(a, b, p) of (3), each (batch, channels), at least float32."""

    numerator: Tensor
    denominator: Tensor
    exponent: Tensor


def empty_state(k: Float[Tensor, "batch *length channels"]) -> WKVState:
    """The state before the first token: nothing summed."""
    work = torch.promote_types(k.dtype, torch.float32)
    zeros = k.new_zeros(k.shape[0], k.shape[-1], dtype=work)
    return WKVState(zeros, zeros, torch.full_like(zeros, NOTHING))


def wkv(
    k: Float[Tensor, "batch length channels"],
    v: Float[Tensor, "batch length channels"],
    log_decay: Float[Tensor, " channels"],
    bonus: Float[Tensor, " channels"],
    *,
    state: tuple[
        Float[Tensor, "batch channels"],
        Float[Tensor, "batch channels"],
        Float[Tensor, "batch channels"],
    ]
    | None = None,
    form: str | None = None,
    chunk_size: int = DEFAULT_CHUNK_SIZE,
) -> tuple[Float[Tensor, "batch length channels"], WKVState]:
    """Evaluate (1) over a sequence and return outputs and the final state.

    `state` is a WKVState (None: nothing read so far); its b must not be negative. `form` is
    "recurrent", "parallel", "chunkwise" or "compiled"; None takes the fastest for the device.

    Raises ValueError for shapes that do not fit, an empty sequence, a positive log_decay, an
    unknown form or chunk_size < 1.
    """
    _check(k, v, log_decay, bonus, state, chunk_size)
    out_dtype, work = v.dtype, torch.promote_types(v.dtype, torch.float32)
    state = empty_state(k.to(work)) if state is None else WKVState(*(x.to(work) for x in state))
    k, v, log_decay, bonus = (x.to(work) for x in (k, v, log_decay, bonus))

    form = form or _fastest_form(k, v, log_decay, bonus, *state, chunk_size=chunk_size)
    if form == "recurrent":
        out, state = recurrent(k, v, log_decay, bonus, state)
    elif form == "parallel":
        out, state = parallel(k, v, log_decay, bonus, state)
    elif form == "chunkwise":
        out, state = chunkwise(k, v, log_decay, bonus, state, chunk_size)
    elif form == "compiled":
        out, final = CompiledWKV.apply(k, v, log_decay, bonus, torch.stack(state))
        state = WKVState(*final.unbind())
    else:
        raise ValueError(
            f"form must be 'recurrent', 'parallel', 'chunkwise' or 'compiled', got {form!r}"
        )
    return out.to(out_dtype), state


def _fastest_form(k, *tensors, chunk_size):
    if kernels_serve(k, *tensors):
        return "compiled"
    length = k.shape[1]
    return "recurrent" if length == 1 else "parallel" if length <= chunk_size else "chunkwise"


def recurrent(k, v, log_decay, bonus, state):
    """Eq. (3), token by token. The definition."""
    outputs = []
    # unbind, not indexing: the backward of k[:, t] would write a full-size gradient for every t
    for k_t, v_t in zip(k.unbind(1), v.unbind(1), strict=True):
        out, state = step(k_t, v_t, log_decay, bonus, state)
        outputs.append(out)
    return torch.stack(outputs, dim=1), state


def step(
    k: Float[Tensor, "batch channels"],
    v: Float[Tensor, "batch channels"],
    log_decay: Float[Tensor, " channels"],
    bonus: Float[Tensor, " channels"],
    state: WKVState,
) -> tuple[Float[Tensor, "batch channels"], WKVState]:
    """One token of Eq. (3)."""
    a, b, p = state
    now = bonus + k
    q = torch.maximum(p, now)
    old, new = (p - q).exp(), (now - q).exp()
    out = torch.addcmul(old * a, new, v) / torch.addcmul(new, old, b)

    faded = p + log_decay
    p = torch.maximum(faded, k)
    old, new = (faded - p).exp(), (k - p).exp()
    return out, WKVState(torch.addcmul(old * a, new, v), torch.addcmul(new, old, b), p)


def parallel(k, v, log_decay, bonus, state):
    """Eq. (1) as a softmax over i for every t and channel; the initial state is one more entry,
    which stands for b_0 tokens of the mean value a_0 / b_0.

    O(length^2 channels) numbers and exponentials.
    """
    a, b, p = state
    length = k.shape[1]
    t = torch.arange(length, device=k.device)
    lag = (t[:, None] - 1 - t)[..., None]  # (t, i, 1); -1 on the diagonal
    future = torch.full_like(log_decay, -torch.inf)
    # where, not a mask added later: above the diagonal lag * log_decay is positive, e^ may overflow
    shift = torch.where(lag >= 0, lag * log_decay, torch.where(lag == -1, bonus, future))
    logits = k[:, None] + shift  # (batch, t, i, channels)
    initial = p[:, None] + t[:, None] * log_decay  # (batch, t, channels)

    largest = torch.maximum(initial, logits.amax(2)).detach()  # cancels in the quotient
    weights, old = (logits - largest[:, :, None]).exp(), (initial - largest).exp()
    numerator = (weights * v[:, None]).sum(2) + old * a[:, None]
    out = numerator / (weights.sum(2) + old * b[:, None])

    # the state: every token decayed to the end, relative to the largest exponent
    logits = k + (length - 1 - t)[:, None] * log_decay
    initial = p + length * log_decay
    p = torch.maximum(initial, logits.amax(1))
    weights, old = (logits - p[:, None]).exp(), (initial - p).exp()
    return out, WKVState((weights * v).sum(1) + old * a, weights.sum(1) + old * b, p)


def chunkwise(k, v, log_decay, bonus, state, chunk_size):
    """Parallel inside chunks, recurrent between them: O(length chunk_size channels)."""
    outputs = []
    for k_chunk, v_chunk in zip(k.split(chunk_size, 1), v.split(chunk_size, 1), strict=True):
        out, state = parallel(k_chunk, v_chunk, log_decay, bonus, state)
        outputs.append(out)
    return torch.cat(outputs, dim=1), state


def _check(k, v, log_decay, bonus, state, chunk_size):
    if k.dim() != 3 or k.shape != v.shape:
        raise ValueError(
            "k and v must be (batch, length, channels), the same; "
            f"got {tuple(k.shape)} and {tuple(v.shape)}"
        )
    if k.shape[1] == 0:
        raise ValueError("length must be at least 1, got 0 in k and v")
    if chunk_size < 1:
        raise ValueError(f"chunk_size must be at least 1, got {chunk_size}")
    for name, x in (("log_decay", log_decay), ("bonus", bonus)):
        if x.shape != k.shape[2:]:
            raise ValueError(f"{name} must be (channels,) = ({k.shape[2]},), got {tuple(x.shape)}")
    if bool((log_decay > 0).any()):
        raise ValueError(
            "log_decay must be <= 0 (a decay in (0, 1]), "
            f"got a maximum of {log_decay.max().item():g}"
        )
    expected = (k.shape[0], k.shape[2])
    shapes = [] if state is None else [tuple(x.shape) for x in state]
    if state is not None and shapes != [expected] * 3:
        raise ValueError(
            f"state must be three tensors (batch, channels) = {expected}, got {shapes}"
        )
