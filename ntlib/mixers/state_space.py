"""What the mixers made of a linear time-invariant system share (S4, S4D, DSS, S5, Mega's EMA)."""

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ntlib.mixers.protocol import Mixer


class SystemParameters(nn.Module):
    """Parameters of a system, kept in float32 at least: cast to bfloat16 a step of 0.001 would be
    0.4% off, and a phase after 1000 steps anywhere."""

    _kept: tuple[Any, Any] | None = None

    def system(self) -> tuple[Tensor, ...]:
        """The discrete system that one step needs, from the parameters."""
        raise NotImplementedError

    def kept_system(self) -> tuple[Tensor, ...]:
        """`system()`; without gradients it is computed once and kept until a parameter changes,
        since it would cost more than the step itself."""
        parameters = [*self.parameters(recurse=False), *self.buffers(recurse=False)]
        if torch.is_grad_enabled() or any(p.is_inference() for p in parameters):
            return self.system()
        now = [(id(p), p.data_ptr(), p._version) for p in parameters]
        if self._kept is None or self._kept[0] != now:
            self._kept = now, self.system()
        return self._kept[1]

    def _apply(self, fn, recurse=True):
        def at_least_float32(x):
            y = fn(x)
            return x.to(y.device) if y.dtype in (torch.bfloat16, torch.float16) else y

        return super()._apply(at_least_float32, recurse)


class SampledSystem(SystemParameters):
    """A continuous system, and the step sizes at which it is made discrete."""

    def log_steps(self) -> nn.Parameter:
        """The logarithm of the step sizes."""
        raise NotImplementedError

    @torch.no_grad()
    def resample(self, rate: float) -> None:
        """Multiply all step sizes by `rate`."""
        self.log_steps().add_(math.log(rate))


def sampled_systems(model: nn.Module) -> list[SampledSystem]:
    """Those that a model holds."""
    return [module for module in model.modules() if isinstance(module, SampledSystem)]


def resample(model: nn.Module, rate: float) -> None:
    """Make a trained model serve sequences that are sampled `rate` times as sparsely (2: every
    second sample of what it was trained on; 0.5: twice as many): S5's step_rescale, S4's rate.

    Every step size of every state space is multiplied by `rate`, all else stays.
    Raises ValueError if `model` holds no state space or `rate` is not positive.
    """
    if not rate > 0:
        raise ValueError(f"rate must be positive, got {rate}")
    systems = sampled_systems(model)
    if not systems:
        raise ValueError(f"{type(model).__name__} holds no state space to resample")
    for system in systems:
        system.resample(rate)


def refuse_a_state(bidirectional: bool) -> None:
    """Raise ValueError for a layer that reads its sequence in both directions."""
    if bidirectional:
        raise ValueError("a bidirectional layer needs the whole sequence: it has no state")


class StateSpaceMixer(Mixer):
    """The block around the system, `kernel`, in the official code of S4:
    y = GLU(W gelu(SSM(x) + D x) + bias)."""

    kernel: SampledSystem

    def __init__(self, d_model: int):
        super().__init__()
        self.d_model = d_model
        self.D = nn.Parameter(torch.empty(d_model))
        self.output_linear = nn.Sequential(nn.Linear(d_model, 2 * d_model), nn.GLU(dim=-1))

    def reset_read_out(self, generator, residual_scale):
        """D ~ N(0, 1); W, bias ~ U(-1, 1) / sqrt(d_model), torch's default for a linear map."""
        nn.init.normal_(self.D, generator=generator)
        linear, bound = self.output_linear[0], self.d_model**-0.5
        nn.init.uniform_(linear.weight, -bound, bound, generator=generator)
        nn.init.uniform_(linear.bias, -bound, bound, generator=generator)
        with torch.no_grad():
            linear.weight[: self.d_model] *= residual_scale
            linear.bias[: self.d_model] *= residual_scale

    def read_out(self, x: Tensor, y: Tensor) -> Tensor:
        linear = self.output_linear[0]  # not through the Sequential: a step notices its calls
        y = F.gelu(torch.addcmul(y, x, self.D))
        return F.glu(F.linear(y, linear.weight, linear.bias), dim=-1)
