"""The multi-channel slope and decay block (MCSD), all that is published of Yan's architecture.

Features are cut into C channels of D_c. A section mixes tokens by weights that are fixed for each
channel, strictly past ones, and gates the result by a map of the current token:

    slope:   V' = s V,    s_nj = e^(-(n - j) beta_i) / sum,       Theta_s = silu(V') * U        (1)
    decay:   E' = d E,    d_nj = alpha_i^(n - j), normalised,     Theta_d = E' * sigmoid(F)     (2)
    beta_i = 2^(-8 (i + 1) / C)          alpha_i = 1 - 2^(-5 - i)          j < n, n = 0, 1, ...

The first token has only itself: s_00 = d_00 = 1. Both mix by one recurrence, fixed and diagonal, a
long convolution, up to a number that depends on the position alone:

    h_n = a h_(n-1) + v_n     V'_n = h_(n-1) / sum_(j<n) a^j, a = e^-beta     E'_n = a h_(n-1)  (3)

The slope section is RWKV-4's wkv with all keys 0 and the current token left out, or attention whose
queries are 0 and whose position bias is ALiBi's; the decay section is RetNet's recurrence with
constant queries and keys.

Sources: [M] MCSD (2406.12230), [Y] "Yan: A Linear-Time and Stable-Memory Model", an unpublished
report in the same group's repository (Yxsz-RockAI/paper). They have the same equations under the
same numbers; [Y] calls V what [M] calls E, and E what [M] calls V. No code, no weights are public.

| here                      | source                                           | standing      |
| ------------------------- | ------------------------------------------------ | ------------- |
| U, V; F, E                | Eq. 1, 7                                         | specified     |
| beta, s, first row of s   | Eq. 2, 3 of [M]; [Y] has a row of -inf           | specified     |
| alpha, d, first row of d  | Eq. 8, 9                                         | specified     |
| state, (3)                | Eq. 14 to 19; they keep V'_n itself, not its sum | specified     |
| gate of the decay section | Eq. 12: sigmoid                                  | specified     |
| gate "silu"               | Eq. 6 of [M]; "sigmoid": Eq. 6 of [Y]            | specified, *  |
| decay_norm "features"     | Eq. 20: RMSNorm of each channel's E'             | specified, *  |
| decay_norm "rows"         | Eq. 9: RMSNorm of the rows of d                  | specified, *  |
| fusion "sum"              | Fig. 1 and Eq. 20, 21: nothing follows the sum   | specified, *  |
| fusion "concat"           | Eq. 13; 2 D features, of which nothing is said   | specified, *  |
| map back to D of "concat" | something must come between Eq. 13 and residual  | conjecture    |
| projection "full", D x D  | "Linear" of Fig. 1; fits the published sizes     | reconstructed |
| projection "channel"      | the shapes printed with Eq. 1, 7; too few        | specified, *  |
| 0 for -inf in Eq. 9       | an RMSNorm of -inf is not a number; Fig. 3       | reconstructed |
| "rows" at other lengths   | row_length stays what it was in training         | conjecture    |
| eps, no gain, no biases   | nothing is said                                  | conjecture    |
| initialisation            | nothing is said                                  | conjecture    |

* in conflict with another statement of the same source, or of the other.

Further inconsistencies: the two readings of the norm are the paper's training and its inference
form and do not agree; E' at the first token is E_0 by Eq. 9 and 0 by Eq. 17 (here: E_0); Fig. 1 of
[M] sends F through the decay and E to the gate, against Eq. 11 and 12. By default the inference
form, Eq. 16 to 21, which leaves nothing open.
"""

from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from ntlib.mixers.protocol import Mixer, check_heads, check_input
from ntlib.ops.long_conv import long_conv

CPU = torch.device("cpu")
EPS = 1e-6  # of both readings of the norm
OPTIONS = {
    "gate": ("silu", "sigmoid"),
    "decay_norm": ("features", "rows", "none"),
    "fusion": ("sum", "concat"),
    "projection": ("full", "channel"),
}


@dataclass(frozen=True)
class MCSDConfig:
    """One block; defaults: [M]'s inference form. The other readings are for ablations."""

    n_channels: int = 10  # C; 10 at D = 2560, 12 at 3072: channels of 256 features
    # which sections run side by side; [M]'s Fig. 9 also trains one alone, and one of them twice
    sections: tuple[str, ...] = ("slope", "decay")
    gate: str = "silu"  # on the slope section's history
    decay_norm: str = "features"  # "none": Eq. 17 to 19 as they stand
    row_length: int = 4096  # N of Eq. 9, the training length; for decay_norm="rows" alone
    fusion: str = "sum"
    projection: str = "full"

    def build(self, d_model: int) -> "MCSD":
        return MCSD(d_model, self)


class MCSDState(NamedTuple):
    """h of (3) for every section, and how many tokens are in it."""

    sums: tuple[Tensor, ...]  # each (batch, d_model), float32 at least
    position: int


@lru_cache
@torch.inference_mode(False)  # what is kept must serve training, too
def channel_log_decay(
    section: str, n_channels: int, device: torch.device = CPU
) -> Float[Tensor, " channels"]:
    """log a of every channel, float64: -beta_i or log alpha_i.

    Raises ValueError for an unknown section.
    """
    i = torch.arange(n_channels, dtype=torch.float64, device=device)
    if section == "slope":
        return -(2.0 ** (-8 / n_channels * (i + 1)))
    if section == "decay":
        return torch.log1p(-(2.0 ** (-5 - i)))
    raise ValueError(f"sections must be 'slope' or 'decay', got {section!r}")


def weight_matrix(
    section: str, config: MCSDConfig, length: int
) -> Float[Tensor, "channels length length"]:
    """s of Eq. 3 or d of Eq. 9 as the paper builds them, float64: the training form."""
    n = torch.arange(length, dtype=torch.float64)
    lags, past = n[:, None] - n, (n[:, None] > n)
    logs = lags * channel_log_decay(section, config.n_channels)[:, None, None]
    logs = logs.masked_fill(~past, -torch.inf)
    logs[:, 0, 0] = 1 if section == "slope" else 0
    if section == "slope":
        return logs.softmax(-1)
    weights = logs.exp()
    if config.decay_norm != "rows":
        return weights
    mean_square = weights.square().sum(-1, keepdim=True) / config.row_length
    return weights * torch.rsqrt(mean_square + EPS)


class ChannelLinear(nn.Module):
    """A map of its own for each channel, W of Eq. 1 in the shape printed there."""

    def __init__(self, n_channels: int, width: int):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(n_channels, width, width))

    def forward(self, x):
        channels = x.unflatten(-1, (self.weight.shape[0], -1))
        return torch.einsum("...ci,coi->...co", channels, self.weight).flatten(-2)


class Section(nn.Module):
    """A map of the current token (U or F), one of the past (V or E), and fixed weights between."""

    def __init__(self, kind: str, d_model: int, config: MCSDConfig):
        super().__init__()
        channel_log_decay(kind, config.n_channels)  # refuses an unknown section right here
        self.kind, self.config = kind, config
        self.width = check_heads(d_model, config.n_channels, "n_channels")
        if config.projection == "full":
            self.current = nn.Linear(d_model, d_model, bias=False)
            self.history = nn.Linear(d_model, d_model, bias=False)
        else:
            self.current = ChannelLinear(config.n_channels, self.width)
            self.history = ChannelLinear(config.n_channels, self.width)

    def forward(self, x: Tensor, total: Tensor, position: int, form: str | None):
        """Theta of a sequence, and h of (3) after it; `total` is h before it, `position` the number
        of tokens in that."""
        values = self.history(x)
        if form == "matrix":
            mixed, total = self._by_matrix(values)
            return self._gate(x, mixed), total
        logs = self._log_decay(x.device).repeat_interleave(self.width)[:, None]
        ones = torch.ones_like(logs, dtype=total.dtype)
        sums, final = long_conv(values, logs, ones, ones, state=total[..., None], form=form)
        past = torch.cat([total[:, None].to(sums.dtype), sums[:, :-1]], dim=1)
        return self._gate(x, self._weigh(values, past, position)), final[..., 0]

    def step(self, x_t: Tensor, total: Tensor, position: int):
        """One token; see forward."""
        value = self.history(x_t)
        mixed = self._weigh(value[:, None], total[:, None].to(value.dtype), position)[:, 0]
        decay = self._log_decay(x_t.device).exp().to(total.dtype).repeat_interleave(self.width)
        return self._gate(x_t, mixed), decay * total + value

    def _weigh(self, values: Tensor, past: Tensor, position: int) -> Tensor:
        """V' or E' from sums of a^(n - 1 - j) over the past; the first token has only itself."""
        n = torch.arange(position, position + values.shape[1], device=values.device)[:, None]
        factors = self._factors(n.double()).to(values.dtype).repeat_interleave(self.width, dim=1)
        return torch.where(n == 0, values, past) * factors

    def _factors(self, n: Float[Tensor, "length 1"]) -> Float[Tensor, "length channels"]:
        """What the sums of a^(n - 1 - j) are multiplied by, with n tokens before; at n = 0 what the
        token itself is."""
        logs, first, n = self._log_decay(n.device), n == 0, n.clamp(1)
        if self.kind == "slope":
            return torch.expm1(logs) / torch.expm1(n * logs)  # 1 / sum_(j<n) a^j
        if self.config.decay_norm != "rows":
            return torch.where(first, 1.0, logs.exp().expand(len(n), -1))
        squares = (2 * logs).exp() * torch.expm1(2 * n * logs) / torch.expm1(2 * logs)
        squares = torch.where(first, 1.0, squares)
        scale = torch.rsqrt(squares / self.config.row_length + EPS)
        return torch.where(first, 1.0, logs.exp()) * scale

    def _by_matrix(self, values: Tensor) -> tuple[Tensor, Tensor]:
        """Eq. 5 or 11, and the sum after the last token."""
        length, work = values.shape[1], torch.promote_types(values.dtype, torch.float32)
        channels = values.unflatten(-1, (self.config.n_channels, self.width))
        matrix = weight_matrix(self.kind, self.config, length).to(values)
        mixed = torch.einsum("cnm,bmcd->bncd", matrix, channels).flatten(-2)
        logs = self._log_decay(values.device)
        lags = torch.arange(length - 1, -1, -1, device=values.device)
        weights = (lags[:, None] * logs).exp().to(work)
        return mixed, torch.einsum("mc,bmcd->bcd", weights, channels.to(work)).flatten(1)

    def _log_decay(self, device: torch.device) -> Tensor:
        return channel_log_decay(self.kind, self.config.n_channels, device)

    def _gate(self, x: Tensor, mixed: Tensor) -> Tensor:
        """(1) or (2): who is gated by whom differs."""
        if self.kind == "slope":
            gate = F.silu if self.config.gate == "silu" else torch.sigmoid
            return gate(mixed) * self.current(x)
        if self.config.decay_norm == "features":
            channels = mixed.unflatten(-1, (-1, self.width))
            mixed = F.rms_norm(channels, (self.width,), eps=EPS).flatten(-2)
        return mixed * torch.sigmoid(self.current(x))


class MCSD(Mixer):
    """Sections side by side, added or concatenated; state: an MCSDState of constant size."""

    def __init__(self, d_model: int, config: MCSDConfig):
        super().__init__()
        _check(config)
        self.d_model, self.config = d_model, config
        self.sections = nn.ModuleList(Section(kind, d_model, config) for kind in config.sections)
        concat = config.fusion == "concat"
        self.o = nn.Linear(len(self.sections) * d_model, d_model, bias=False) if concat else None

    def reset_parameters(self, generator=None, residual_scale=1.0):
        """Maps that keep the variance (a conjecture). residual_scale multiplies the last linear
        factor of what is written: the map of "concat", else U and E. A norm on E' undoes the
        latter."""
        for section in self.sections:
            for linear in (section.current, section.history):
                std = linear.weight.shape[-1] ** -0.5
                nn.init.normal_(linear.weight, std=std, generator=generator)
            if self.o is None:
                written = section.current if section.kind == "slope" else section.history
                with torch.no_grad():
                    written.weight *= residual_scale
        if self.o is not None:
            std = residual_scale * self.o.in_features**-0.5
            nn.init.normal_(self.o.weight, std=std, generator=generator)

    def init_state(self, batch_size, capacity=0):
        weight = next(self.parameters())
        work = torch.promote_types(weight.dtype, torch.float32)
        zeros = weight.new_zeros(batch_size, self.d_model, dtype=work)
        return MCSDState((zeros,) * len(self.sections), 0)

    def forward(self, x, state=None, form: str | None = None):
        """See Mixer.forward; `form` forces one of long_conv's forms, or "matrix": Eq. 5 and 11, the
        paper's training form, which starts from nothing."""
        check_input(x, self.d_model)
        if form == "matrix" and state is not None:
            raise ValueError('form="matrix" is of whole sequences: it continues no state')
        sums, position = state or self.init_state(x.shape[0])
        results = [
            section(x, total, position, form)
            for section, total in zip(self.sections, sums, strict=True)
        ]
        outputs, sums = zip(*results, strict=True)
        return self._fuse(outputs), MCSDState(sums, position + x.shape[1])

    def step(self, x_t, state):
        check_input(x_t, self.d_model, ("batch", "d_model"))
        sums, position = state
        results = [
            section.step(x_t, total, position)
            for section, total in zip(self.sections, sums, strict=True)
        ]
        outputs, sums = zip(*results, strict=True)
        return self._fuse(outputs), MCSDState(sums, position + 1)

    def _fuse(self, outputs: tuple[Tensor, ...]) -> Tensor:
        return sum(outputs) if self.o is None else self.o(torch.cat(outputs, dim=-1))


def _check(config: MCSDConfig) -> None:
    for name, allowed in OPTIONS.items():
        if getattr(config, name) not in allowed:
            raise ValueError(
                f"{name} must be one of {', '.join(allowed)}, got {getattr(config, name)!r}"
            )
    if not config.sections:
        raise ValueError("sections must name at least one section, got none")
    if config.row_length < 1:
        raise ValueError(f"row_length must be at least 1, got {config.row_length}")
