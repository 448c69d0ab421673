"""Causal depthwise convolution of small width: every channel mixes its last few tokens.

    y_t = act(b + sum_j w_j x_(t - width + 1 + j)),   j = 0 ... width - 1                       (1)

| here               | official code (mamba_ssm, causal_conv1d)                              |
| ------------------ | --------------------------------------------------------------------- |
| weight             | conv1d.weight, (channels, 1, width); here without the middle dimension |
| bias               | conv1d.bias                                                           |
| state              | conv_state, (batch, channels, width); there it holds the current token, too |
| activation         | activation, "silu" (= "swish") or None                                |

The papers draw it as a box "conv" (Mamba, 2312.00752, Fig. 3) and give no equation. The last tap,
j = width - 1, multiplies the current token: what torch's Conv1d computes (a correlation) after
width - 1 zeros have been put in front of the sequence.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from ntlib.ops.compiled import kernels_serve
from ntlib.ops.short_conv_kernel import ShortConv


def short_conv(
    x: Float[Tensor, "batch length channels"],
    weight: Float[Tensor, "channels width"],
    bias: Float[Tensor, " channels"] | None = None,
    *,
    state: Float[Tensor, "batch before channels"] | None = None,
    activation: str | None = None,
    form: str | None = None,
) -> tuple[Float[Tensor, "batch length channels"], Float[Tensor, "batch before channels"]]:
    """Evaluate (1) over a sequence; return outputs and the state after it.

    `state` is the last width - 1 inputs, oldest first; None means zeros. `activation` is None or
    "silu". `form` is "recurrent", "parallel" or "compiled"; None takes the kernel where it can run.

    Raises ValueError for shapes that do not fit, an empty sequence, an unknown activation or form.
    """
    _check(x, weight, bias, state, activation)
    dtype, work = x.dtype, torch.promote_types(x.dtype, torch.float32)
    x, weight = x.to(work), weight.to(work)
    bias = x.new_zeros(x.shape[2]) if bias is None else bias.to(work)
    tail = weight.shape[1] - 1
    state = x.new_zeros(x.shape[0], tail, x.shape[2]) if state is None else state.to(work)
    form = form or ("compiled" if kernels_serve(x, weight, bias, state) else "parallel")
    if form == "recurrent":
        y, state = recurrent(x, weight, bias, state, activation)
        return y.to(dtype), state
    if form == "parallel":
        y = parallel(x, weight, bias, state, activation)
    elif form == "compiled":
        y = ShortConv.apply(x, weight, bias, state, activation == "silu")
    else:
        raise ValueError(f"form must be 'recurrent', 'parallel' or 'compiled', got {form!r}")
    return y.to(dtype), _last(x, state)


def recurrent(x, weight, bias, state, activation):
    """Eq. (1), token by token. The definition."""
    outputs = []
    # unbind, not indexing: the backward of x[:, t] would write a full-size gradient for every t
    for x_t in x.unbind(1):
        y_t, state = short_conv_step(x_t, weight, bias, state, activation)
        outputs.append(y_t)
    return torch.stack(outputs, dim=1), state


def parallel(x, weight, bias, state, activation):
    """One product with the whole shifted sequence per tap."""
    length, extended = x.shape[1], torch.cat([state, x], dim=1)
    y = bias
    for j, tap in enumerate(weight.unbind(1)):
        y = y + tap * extended[:, j : j + length]
    return _activate(y, activation)


def short_conv_step(
    x_t: Float[Tensor, "batch channels"],
    weight: Float[Tensor, "channels width"],
    bias: Float[Tensor, " channels"] | None,
    state: Float[Tensor, "batch before channels"],
    activation: str | None = None,
) -> tuple[Float[Tensor, "batch channels"], Float[Tensor, "batch before channels"]]:
    """One token of Eq. (1); work and state in the state's dtype, the output in that of x_t."""
    window = torch.cat([state, x_t[:, None].to(state.dtype)], dim=1)
    y = (window * weight.to(state.dtype).T).sum(1)
    if bias is not None:
        y = y + bias
    return _activate(y, activation).to(x_t.dtype), window[:, 1:]


def _activate(y: Tensor, activation: str | None) -> Tensor:
    return F.silu(y) if activation == "silu" else y


def _last(x: Tensor, state: Tensor) -> Tensor:
    """The last width - 1 inputs, as a copy: a view would keep the whole sequence in memory."""
    tail, length = state.shape[1], x.shape[1]
    if length >= tail:
        return x[:, length - tail :].clone()
    return torch.cat([state[:, length:], x], dim=1)


def _check(x, weight, bias, state, activation):
    if x.dim() != 3:
        raise ValueError(f"x must be (batch, length, channels), got {tuple(x.shape)}")
    batch, length, channels = x.shape
    if length == 0:
        raise ValueError("length must be at least 1, got 0 in x")
    if weight.dim() != 2 or weight.shape[0] != channels or weight.shape[1] == 0:
        raise ValueError(
            f"weight must be (channels, width) = ({channels}, at least 1), "
            f"got {tuple(weight.shape)}"
        )
    if bias is not None and bias.shape != (channels,):
        raise ValueError(f"bias must be (channels,) = ({channels},), got {tuple(bias.shape)}")
    expected = (batch, weight.shape[1] - 1, channels)
    if state is not None and tuple(state.shape) != expected:
        raise ValueError(
            f"state must be (batch, width - 1, channels) = {expected}, got {tuple(state.shape)}"
        )
    if activation not in (None, "silu"):
        raise ValueError(f"activation must be None or 'silu', got {activation!r}")
