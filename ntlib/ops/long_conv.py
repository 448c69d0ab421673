"""The long convolution: a diagonal linear time-invariant system per channel, in its four forms.

    h_t = a ⊙ h_{t-1} + b x_t          y_t = Re(c . h_t)                                        (1)
    y = K * x + (what the initial state adds),   K_l = Re sum_n c_n b_n a_n^l                   (2)

| here        | S4D (2206.11893)             | Mega (2209.10655), Eq. 1 |
| ----------- | ---------------------------- | ------------------------ |
| a = e^log_a | A-bar                        | 1 - alpha delta, real    |
| b           | B-bar                        | alpha beta               |
| c           | 2 C (see below)              | eta                      |
| state h     | x_k                          | h_t                      |
| K           | K-bar, a Vandermonde product | K                        |

`recurrent` is the definition. `parallel` is (2), K by a Vandermonde product and an FFT,
O(length log length). `chunkwise` cuts the Toeplitz matrix of K into chunks, whose off-diagonal
blocks have rank `states`: matrix products, linear in length. `compiled` is the recurrence with all
states of a token kept in cache, forward and backward; its decays near 1 keep more digits than
float32 has, since what is rounded is a - 1. On noise of 2^20 tokens in float32 it is within 2e-5 of
float64 for real decays up to 1 - 1e-6, within 2e-4 for complex ones of modulus up to 1 - 1e-4.

States of a real system come in conjugate pairs. With one of each pair in a, b, c the caller doubles
c; nothing is doubled here. Real a, b, c (an exponential moving average) take a cheaper kernel.

A convolution from the right, y_t = sum_l K_l x_{t+l}, is long_conv on x.flip(1), flipped back. It
counts lag 0, which a two-sided layer then counts twice (Mega does; S4 shifts the second kernel by
one: y_t = sum_l K_l x_{t+1+l}). `two_sided` takes either.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float, Inexact
from torch import Tensor

from ntlib.ops.compiled import kernels_serve
from ntlib.ops.long_conv_kernel import LANES, Recurrence
from ntlib.ops.state_space import powers, real_product, vandermonde_kernel

DEFAULT_CHUNK_SIZE = 64
FORMS = ("recurrent", "parallel", "chunkwise", "compiled")


def long_conv(
    x: Float[Tensor, "batch length channels"],
    log_a: Inexact[Tensor, "channels states"],
    b: Inexact[Tensor, "channels states"],
    c: Inexact[Tensor, "channels states"],
    *,
    state: Inexact[Tensor, "batch channels states"] | None = None,
    form: str | None = None,
    chunk_size: int = DEFAULT_CHUNK_SIZE,
) -> tuple[Float[Tensor, "batch length channels"], Inexact[Tensor, "batch channels states"]]:
    """Evaluate (1) over a sequence and return outputs and the final state.

    `log_a` is the logarithm of a, real part <= 0; log_a, b, c are all real or all complex, and so
    is the state (float32 or complex64 at least). `form` is one of FORMS; None takes
    "recurrent" for one token, for more "compiled" on a CPU and "parallel" elsewhere.

    Raises ValueError for shapes that do not fit, an empty sequence, parameters of which some are
    complex and some real, Re log_a > 0, an unknown form or chunk_size < 1.
    """
    _check(x, log_a, b, c, state, chunk_size)
    out_dtype, work = x.dtype, torch.promote_types(x.dtype, torch.float32)
    numbers = work.to_complex() if log_a.is_complex() else work
    x, b, c = x.to(work), b.to(numbers), c.to(numbers)
    if state is None:
        state = b.new_zeros(x.shape[0], *b.shape)
    state = state.to(numbers)
    if form is None:
        fast = kernels_serve(x, log_a, b, c, state)
        form = "recurrent" if x.shape[1] == 1 else "compiled" if fast else "parallel"
    if form == "recurrent":
        out, state = recurrent(x, log_a, b, c, state)
    elif form == "parallel":
        out, state = parallel(x, log_a, b, c, state)
    elif form == "chunkwise":
        out, state = chunkwise(x, log_a, b, c, state, chunk_size)
    elif form == "compiled":
        out, state = compiled(x, log_a, b, c, state)
    else:
        raise ValueError(f"form must be one of {FORMS}, got {form!r}")
    return out.to(out_dtype), state


def recurrent(x, log_a, b, c, state):
    """Eq. (1), token by token. The definition."""
    a = _decay(log_a, state.dtype)
    outputs = []
    for x_t in x.unbind(1):
        out, state = step(x_t, a, b, c, state)
        outputs.append(out)
    return torch.stack(outputs, dim=1), state


def step(
    x_t: Float[Tensor, "batch channels"],
    a: Inexact[Tensor, "channels states"],
    b: Inexact[Tensor, "channels states"],
    c: Inexact[Tensor, "channels states"],
    state: Inexact[Tensor, "batch channels states"],
) -> tuple[Float[Tensor, "batch channels"], Inexact[Tensor, "batch channels states"]]:
    """One token of (1); here `a` is the decay itself."""
    state = a * state + b * x_t[..., None]
    return (c * state).sum(-1).real, state


def parallel(x, log_a, b, c, state):
    """Eq. (2): O(length log length) for the outputs, O(length states) for the final state."""
    length = x.shape[1]
    out = fft_conv(x, vandermonde_kernel(log_a, (c * b), length))
    from_state = vandermonde_kernel(log_a, c * _decay(log_a, c.dtype) * state, length)
    return out + from_state.transpose(1, 2), _advance(x, log_a, b, state)


def _advance(x, log_a, b, state):
    """a^length h + sum_s a^(length - 1 - s) b x_s, the sum cut in two levels as the kernel's."""
    batch, length, channels = x.shape
    inner = max(1, int(length**0.5))
    outer = -(-length // inner)
    x = F.pad(x, (0, 0, outer * inner - length, 0)).view(batch, outer, inner, channels)
    fine = powers(log_a, inner).flip(-1).to(state.dtype)
    sums = torch.einsum("boic,cni->bocn", x.to(state.dtype), fine)
    coarse = powers(log_a, outer, inner).flip(-1).to(state.dtype)
    total = powers(log_a, 1, first=1, stride=length)[..., 0].to(state.dtype)
    return total * state + b * torch.einsum("bocn,cno->bcn", sums, coarse)


def chunkwise(x, log_a, b, c, state, chunk_size):
    """Parallel inside chunks, recurrent between them."""
    length = x.shape[1]
    chunk_size = min(chunk_size, length)
    whole = length - length % chunk_size
    chunks = x[:, :whole].unflatten(1, (-1, chunk_size))
    out, state = _whole_chunks(chunks, log_a, b, c, state)
    if whole < length:
        rest, state = _whole_chunks(x[:, None, whole:], log_a, b, c, state)
        out = torch.cat([out, rest], dim=1)
    return out, state


def _whole_chunks(x, log_a, b, c, state):
    """x is (batch, chunks, size, channels). With channels in front all is matrix products."""
    batch, chunks, size, channels = x.shape
    x = x.permute(3, 2, 0, 1).reshape(channels, size, batch * chunks)
    decays = powers(log_a, size + 1).to(state.dtype)  # a^0 ... a^size, (channels, states, size + 1)
    added = _pairs(b[..., None] * decays[..., :-1].flip(-1)) @ x  # what each chunk adds to h
    added = _unpairs(added, state.is_complex()).unflatten(-1, (batch, chunks))
    before, h = [], state.permute(1, 2, 0)
    for chunk in added.unbind(-1):
        before.append(h)
        h = decays[..., -1:] * h + chunk
    before = torch.stack(before, dim=-1).flatten(2)  # (channels, states, batch * chunks)
    inner = _toeplitz(real_product((c * b)[:, None], decays[..., :-1])[:, 0]) @ x
    cross = real_product((c[..., None] * decays[..., 1:]).transpose(1, 2), before)
    out = (inner + cross).view(channels, size, batch, chunks).permute(2, 3, 1, 0)
    return out.reshape(batch, chunks * size, channels), h.permute(2, 0, 1)


def _toeplitz(kernel: Float[Tensor, "channels size"]) -> Float[Tensor, "channels size size"]:
    """K_{t-s} on and below the diagonal, 0 above it."""
    size = kernel.shape[-1]
    t = torch.arange(size, device=kernel.device)
    return F.pad(kernel, (size - 1, 0))[:, t[:, None] - t + size - 1]


def _pairs(z):
    """A complex matrix as a real one, imaginary parts below real ones."""
    return torch.cat([z.real, z.imag], dim=1) if z.is_complex() else z


def _unpairs(z, is_complex):
    return torch.complex(*z.chunk(2, dim=1)) if is_complex else z


def compiled(x, log_a, b, c, state):
    """Eq. (1) by the kernel. Channels are laid out in blocks of 16, the last one padded."""
    exact = log_a.to(torch.promote_types(log_a.dtype, torch.float64)).exp()
    near = exact.real.detach().round()
    rest = (exact - near).to(state.dtype)
    parameters = [near.to(x.dtype)]
    for values in (rest, b, c):
        parameters += [values.real, values.imag] if values.is_complex() else [values]
    parts = torch.view_as_real(state) if state.is_complex() else state[..., None]
    out, final = Recurrence.apply(x, _blocks(torch.stack(parameters, -1)), _blocks(parts))
    final = (
        final.unflatten(-1, (-1, LANES))
        .permute(0, 1, 4, 2, 3)
        .flatten(1, 2)[:, : x.shape[2]]
        .contiguous()
    )
    return out, torch.view_as_complex(final) if state.is_complex() else final[..., 0]


def _blocks(values: Tensor) -> Tensor:
    """(..., channels, states, parts) -> (..., blocks, states, parts * LANES)."""
    values = F.pad(values, (0, 0, 0, 0, 0, -values.shape[-3] % LANES))
    return values.unflatten(-3, (-1, LANES)).movedim(-3, -1).flatten(-2).contiguous()


def _decay(log_a, dtype):
    return log_a.to(torch.promote_types(log_a.dtype, torch.float64)).exp().to(dtype)


def fft_conv(
    x: Float[Tensor, "batch length channels"], kernel: Float[Tensor, "channels lags"]
) -> Float[Tensor, "batch length channels"]:
    """y_t = sum_{l <= t} K_l x_{t-l}, causal: the transform is as long as both together, so that
    nothing wraps around. Rounding (1e-7 of the largest output in float32) does reach every output.
    """
    length = x.shape[1]
    work = torch.promote_types(x.dtype, torch.float32)
    kernel = kernel[:, :length].to(work)
    size = _fast_size(length + kernel.shape[1] - 1)
    spectrum = torch.fft.rfft(x.to(work).transpose(1, 2), n=size) * torch.fft.rfft(kernel, n=size)
    return torch.fft.irfft(spectrum, n=size)[..., :length].transpose(1, 2).to(x.dtype)


def _fast_size(at_least: int) -> int:
    """The smallest 2^i, 3 2^i or 5 2^i that is large enough, even: transforms of it are fast."""
    bits = max(1, (at_least - 1).bit_length())
    return min(
        m << e for m, e in ((5, bits - 3), (3, bits - 2), (1, bits)) if e > 0 and m << e >= at_least
    )


def two_sided(
    x: Float[Tensor, "batch length channels"], from_left, from_right, first_lag: int
) -> Float[Tensor, "batch length channels"]:
    """from_left(x) plus from_right run over the reversed sequence. Both are causal maps of (batch,
    length, channels). The second sees x_{t + first_lag} and later: 0 counts the present twice
    (Mega), 1 once (S4)."""
    right = from_right(x.flip(1)).flip(1)
    return from_left(x) + F.pad(right[:, first_lag:], (0, 0, 0, min(first_lag, x.shape[1])))


def _check(x, log_a, b, c, state, chunk_size):
    if x.dim() != 3 or log_a.dim() != 2 or not log_a.shape == b.shape == c.shape:
        raise ValueError(
            "x must be (batch, length, channels), log_a, b and c (channels, states), the same; got "
            f"{tuple(x.shape)}, {tuple(log_a.shape)}, {tuple(b.shape)}, {tuple(c.shape)}"
        )
    if log_a.shape[0] != x.shape[2]:
        raise ValueError(
            f"log_a must have as many rows as x has channels = {x.shape[2]}, got {log_a.shape[0]}"
        )
    if x.shape[1] == 0:
        raise ValueError("length must be at least 1, got 0 in x")
    if chunk_size < 1:
        raise ValueError(f"chunk_size must be at least 1, got {chunk_size}")
    if len({log_a.is_complex(), b.is_complex(), c.is_complex()}) > 1 or (
        state is not None and state.is_complex() != log_a.is_complex()
    ):
        raise ValueError(
            "log_a, b, c and state must be all real or all complex, got "
            + ", ".join(str(v.dtype) for v in (log_a, b, c, state) if v is not None)
        )
    if bool((log_a.real > 0).any()):
        raise ValueError(
            "log_a must have real parts <= 0 (decays of modulus at most 1), "
            f"got a maximum of {log_a.real.max().item():g}"
        )
    if state is not None and tuple(state.shape) != (x.shape[0], *log_a.shape):
        raise ValueError(
            f"state must be (batch, channels, states) = {(x.shape[0], *log_a.shape)}, "
            f"got {tuple(state.shape)}"
        )
