"""Mamba's block with parts exchanged or taken out: what its ablations train.

| here          | Mamba (2312.00752)                                                             |
| ------------- | ------------------------------------------------------------------------------ |
| gate=False    | the block without the right-hand branch of Fig. 3: "no gate", Table 1          |
| d_conv=1      | no convolution: a scale per channel and the nonlinearity are left              |
| fixed         | what does not depend on the token: not "selective", Table 7                    |
| system="S4D"  | an LTI system where the selective scan was: Table 1, "Mamba" with S4           |

With nothing changed it is ntlib.mixers.mamba, whose parameters these are. Departure from the
official code: a fixed B or C is one vector for all channels, as a selected one is, instead of one
per channel.
"""

from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ntlib.mixers.mamba_init import draw_step_bias, draw_uniform
from ntlib.mixers.protocol import Mixer, check_input
from ntlib.mixers.s4d import S4DConfig, S4DKernel
from ntlib.ops.selective_scan import selective_scan
from ntlib.ops.short_conv import short_conv

SELECTED = ("delta", "B", "C")


@dataclass(frozen=True)
class MambaVariantConfig:
    """As it stands Mamba; raises ValueError for parts that do not exist."""

    system: str = "S6"  # the selective scan, or "S4D": a complex diagonal system per channel
    fixed: tuple[str, ...] = ()  # of SELECTED: parameters instead of functions of the token
    gate: bool = True
    d_state: int = 16  # N; of S4D the real size, twice its complex numbers
    d_conv: int = 4  # tokens that the convolution sees
    expand: int = 2  # channels inside are expand * d_model
    dt_min: float = 0.001  # Delta starts log-uniform between these
    dt_max: float = 0.1

    def __post_init__(self):
        if self.system not in ("S6", "S4D"):
            raise ValueError(f"system must be 'S6' or 'S4D', got {self.system!r}")
        if not set(self.fixed) <= set(SELECTED):
            raise ValueError(f"fixed must hold names of {SELECTED}, got {self.fixed}")
        if self.system == "S4D" and self.fixed:
            raise ValueError(f"fixed must be empty for S4D, which selects nothing: {self.fixed}")

    def build(self, d_model: int) -> "MambaVariant":
        return MambaVariant(d_model, self)


class VariantState(NamedTuple):
    """What a token leaves to those after it."""

    conv: Tensor  # (batch, d_conv - 1, d_inner), the convolution's last inputs, oldest first
    system: Tensor  # (batch, d_inner, d_state), or half as many complex numbers


class SelectiveSystem(nn.Module):
    """The selective scan with its parameters; see ntlib.mixers.mamba."""

    def __init__(self, channels: int, dt_rank: int, config: MambaVariantConfig):
        super().__init__()
        self.config, N = config, config.d_state
        widths = {"delta": dt_rank, "B": N, "C": N}
        self.widths = {name: w for name, w in widths.items() if name not in config.fixed}
        rows = sum(self.widths.values())
        self.x_proj = nn.Linear(channels, rows, bias=False) if rows else None
        self.dt_proj = nn.Linear(dt_rank, channels, bias=False) if "delta" in self.widths else None
        self.dt_bias = nn.Parameter(torch.empty(channels))
        self.B, self.C = (
            nn.Parameter(torch.empty(N)) if name in config.fixed else None for name in "BC"
        )
        self.A_log = nn.Parameter(torch.empty(channels, N))
        self.D = nn.Parameter(torch.empty(channels))

    @torch.no_grad()
    def reset_parameters(self, generator):
        for layer in filter(None, (self.x_proj, self.dt_proj)):
            draw_uniform(layer.weight, layer.in_features, generator)
        bounds = self.config.dt_min, self.config.dt_max
        draw_step_bias(self.dt_bias, bounds, self.config.dt_min, generator)
        if self.B is not None:
            self.B.fill_(1.0)  # as in S4D: B is 1 and C normal
        if self.C is not None:
            self.C.normal_(generator=generator)
        self.A_log.copy_(torch.arange(1, self.config.d_state + 1).log().expand_as(self.A_log))
        self.D.fill_(1.0)

    def init_state(self, batch_size: int) -> Tensor:
        dtype = torch.promote_types(self.D.dtype, torch.float32)
        return self.A_log.new_zeros(batch_size, *self.A_log.shape, dtype=dtype)

    def forward(self, x: Tensor, gate: Tensor | None, state: Tensor | None):
        selected = {}
        if self.x_proj is not None:
            parts = self.x_proj(x).split(list(self.widths.values()), dim=-1)
            selected = dict(zip(self.widths, parts, strict=True))
        delta = self.dt_bias.expand_as(x)
        if self.dt_proj is not None:
            delta = delta + self.dt_proj(selected["delta"])
        shape = *x.shape[:2], self.config.d_state
        B = selected.get("B") if self.B is None else self.B.expand(shape)
        C = selected.get("C") if self.C is None else self.C.expand(shape)
        A = -self.A_log.exp()
        return selective_scan(x, F.softplus(delta), A, B, C, self.D, gate, state=state)


class FilterSystem(nn.Module):
    """S4D and its skip in the scan's place: time-invariant."""

    def __init__(self, channels: int, config: MambaVariantConfig):
        super().__init__()
        system = S4DConfig(config.d_state, dt_min=config.dt_min, dt_max=config.dt_max)
        self.kernel = S4DKernel(channels, system)
        self.D = nn.Parameter(torch.empty(channels))

    def reset_parameters(self, generator):
        self.kernel.reset_parameters(generator)
        nn.init.ones_(self.D)

    def init_state(self, batch_size: int) -> Tensor:
        return self.kernel.init_state(batch_size)

    def forward(self, x: Tensor, gate: Tensor | None, state: Tensor | None):
        y, state = self.kernel(x, state)
        y = torch.addcmul(y, x, self.D)
        return (y if gate is None else y * F.silu(gate)), state


class MambaVariant(Mixer):
    """State: a VariantState of constant size."""

    def __init__(self, d_model: int, config: MambaVariantConfig):
        super().__init__()
        self.d_model, self.config = d_model, config
        self.d_inner = config.expand * d_model
        branches = 1 + config.gate
        self.in_proj = nn.Linear(d_model, branches * self.d_inner, bias=False)
        # holds the parameters under their published names; short_conv computes
        self.conv1d = nn.Conv1d(self.d_inner, self.d_inner, config.d_conv, groups=self.d_inner)
        if config.system == "S4D":
            self.system = FilterSystem(self.d_inner, config)
        else:
            self.system = SelectiveSystem(self.d_inner, -(-d_model // 16), config)
        self.out_proj = nn.Linear(self.d_inner, d_model, bias=False)
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self, generator=None, residual_scale=1.0):
        for layer in (self.in_proj, self.out_proj):
            draw_uniform(layer.weight, layer.in_features, generator)
        for parameter in self.conv1d.parameters():
            draw_uniform(parameter, self.config.d_conv, generator)
        self.out_proj.weight.mul_(residual_scale)
        self.system.reset_parameters(generator)

    def init_state(self, batch_size, capacity=0):
        weight = self.in_proj.weight
        dtype = torch.promote_types(weight.dtype, torch.float32)
        conv = weight.new_zeros(batch_size, self.config.d_conv - 1, self.d_inner, dtype=dtype)
        return VariantState(conv, self.system.init_state(batch_size))

    def forward(self, x, state: Any = None):
        check_input(x, self.d_model)
        conv, system = state or (None, None)
        x, *gate = (F.linear(x, weight) for weight in self.in_proj.weight.split(self.d_inner))
        taps, bias = self.conv1d.weight.squeeze(1), self.conv1d.bias
        x, conv = short_conv(x, taps, bias, state=conv, activation="silu")
        y, system = self.system(x, gate[0] if gate else None, system)
        return self.out_proj(y), VariantState(conv, system)

    def step(self, x_t, state):
        check_input(x_t, self.d_model, ("batch", "d_model"))
        y, state = self(x_t[:, None], state)
        return y[:, 0], state
