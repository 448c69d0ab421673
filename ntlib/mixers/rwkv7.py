"""The time mix of RWKV-7 ("Goose"): a memory that takes out what a key holds before it writes.

With delta_t = x_(t-1) - x_t, x^s = x + delta * x_s for each s of r, w, k, v, a, g, and per head

    r, k, v = W_r x^r, W_k x^k, W_v x^v                g = sigmoid(x^g g_1) g_2
    log w = -e^(-1/2) sigmoid(w_0 + tanh(x^w w_1) w_2)          a = sigmoid(a_0 + (x^a a_1) a_2)
    v <- v + (v_first - v) * sigmoid(v_0 + (x^v v_1) v_2)      in every layer but the first      (1)
    kappa = k * k_k, divided by its length             k~ = k * (1 + (a - 1) * k_a)
    S_t = (diag(w) - c (a * kappa) kappa^T) S_(t-1) + k~ v^T                y_t = S_t^T r        (2)
    o = W_o ((norm(y) + (r . (r_k * k~)) v) * g)                                                 (3)

| here          | RWKV-7 (2503.14456), Sec. 4            | official checkpoints                |
| ------------- | -------------------------------------- | ----------------------------------- |
| x_s           | mu_s, Eq. 3                            | x_r, x_w, x_k, x_v, x_a, x_g        |
| w             | w_t                                    | w0, w1 (D, rank), w2 (rank, D)      |
| a             | a_t, in-context learning rate          | a0, a1, a2                          |
| (1), values   | v_t, v_(t,0), Eq. 10                   | v0, v1, v2; v_first                 |
| kappa, k_k    | kappa^_t, xi: the removal key          | k_k                                 |
| k~, k_a       | k~_t, alpha: the replacement key       | k_a                                 |
| S             | wkv_t^T: here (key, value)             |                                     |
| r_k           | rho: the current token's bonus         | r_k (heads, N)                      |
| norm          | LayerNorm of each head on its own      | ln_x, a GroupNorm, eps 64e-5        |
| c             | 1                                      | none: see `step`                    |

(1) follows the code: Eq. 10 prints its mixture the other way round. kappa comes from k as it is
before k_a changes it. Names, shapes and the initialisation are the official code's (RWKV-LM,
RWKV-v7/train_temp); the matrices *1 and *2 multiply rows from the right. In its files the first
block has v0, v1, v2, too; nothing reads them and here they are not.

Values are shared: a model asks the first layer's `forward_with_values` and hands the values that it
returns to every later layer, which hands them on. Without them a layer keeps its own values.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ntlib.mixers.protocol import Mixer, check_heads, check_input, split_heads
from ntlib.mixers.rwkv5 import HeadState
from ntlib.mixers.rwkv_init import channel, depth, fraction, set_
from ntlib.mixers.token_shift import token_shift
from ntlib.ops.compiled import kernels_serve
from ntlib.ops.delta_rule import delta_rule, step
from ntlib.ops.rwkv7_step_kernel import rwkv7_step

_DECAY_BOUND = 0.6065306597126334  # e^(-1/2): no decay is below e^-0.6065 = 0.545


@dataclass(frozen=True)
class RWKV7Config:
    """RWKV-7's time mix.

    A rank that is None follows the rule of RWKV-LM, a power of the width rounded to 32s, which
    gives the ranks of nearly all released models; files tell theirs by their shapes.
    """

    head_size: int = 64  # N, in all released models
    decay_rank: int | None = None  # of w1, w2; None: 1.8 sqrt(D)
    rate_rank: int | None = None  # of a1, a2; None: 1.8 sqrt(D)
    value_rank: int | None = None  # of v1, v2; None: 1.3 sqrt(D)
    gate_rank: int | None = None  # of g1, g2; None: 0.6 D^0.8
    # c of (2). At 1, as released, no eigenvalue of the transition is below -0.46; at 2 they reach
    # -1, so that one step can swap two things: state tracking needs that.
    step: float = 1.0
    eps: float = 64e-5  # of the norm of heads: 1e-5 for y / 8
    layer: int = 0  # the initialisation depends on the depth, and only later layers have (1)
    n_layers: int = 1

    def build(self, d_model: int) -> "RWKV7":
        return RWKV7(d_model, self)

    def ranks(self, d_model: int) -> dict[str, int]:
        """Of the low-rank maps behind w, a, v (not in the first layer) and g."""
        root = d_model**0.5
        found = {
            "w": self.decay_rank or _rounded(1.8 * root),
            "a": self.rate_rank or _rounded(1.8 * root),
            "v": self.value_rank or _rounded(1.3 * root),
            "g": self.gate_rank or _rounded(0.6 * d_model**0.8),
        }
        if self.layer == 0:
            del found["v"]
        return found


class RWKV7(Mixer):
    """Eq. (1) to (3); state: a HeadState, as of versions 5 and 6."""

    def __init__(self, d_model: int, config: RWKV7Config):
        super().__init__()
        depth(config.layer, config.n_layers)  # refuses an impossible layer right here
        if not 0 < config.step <= 2:
            raise ValueError(f"step must be in (0, 2], beyond which S grows; got {config.step}")
        self.config, self.d_model = config, d_model
        self.n_heads = check_heads(d_model, config.head_size, "head_size")
        for name in "rwkvag":
            self.register_parameter(f"x_{name}", nn.Parameter(torch.zeros(1, 1, d_model)))
        for name, rank in config.ranks(d_model).items():
            if name != "g":
                self.register_parameter(f"{name}0", nn.Parameter(torch.zeros(1, 1, d_model)))
            self.register_parameter(f"{name}1", nn.Parameter(torch.zeros(d_model, rank)))
            self.register_parameter(f"{name}2", nn.Parameter(torch.zeros(rank, d_model)))
        self.k_k = nn.Parameter(torch.zeros(1, 1, d_model))
        self.k_a = nn.Parameter(torch.zeros(1, 1, d_model))
        self.r_k = nn.Parameter(torch.zeros(self.n_heads, config.head_size))
        self.receptance = nn.Linear(d_model, d_model, bias=False)
        self.key = nn.Linear(d_model, d_model, bias=False)
        self.value = nn.Linear(d_model, d_model, bias=False)
        self.output = nn.Linear(d_model, d_model, bias=False)
        self.ln_x = nn.GroupNorm(self.n_heads, d_model, eps=config.eps)

    def reset_parameters(self, generator=None, residual_scale=1.0):
        """The official start: o = 0, since W_o is 0 (residual_scale has nothing to do)."""
        rho, eta = depth(self.config.layer, self.config.n_layers)
        for names, power in (("rg", 0.2), ("wa", 0.9), ("kv", 0.7)):
            for name in names:
                mixture = getattr(self, f"x_{name}")
                set_(mixture, 1 - channel(self.d_model) ** (power * eta))
        size = self.config.head_size
        ramp = fraction(self.d_model) - 0.5
        within = 2 * fraction(size).repeat(self.n_heads) - 1  # -1 ... 1 through every head
        bend = within * within.abs()
        slow = -6 + 6 * fraction(self.d_model) ** (1 + rho**0.3)
        set_(self.w0, slow + 0.5 + 2.5 * bend)
        set_(self.a0, -0.19 + 0.3 * bend + 0.4 * ramp)
        set_(self.k_k, 0.71 - 0.1 * ramp)
        nn.init.constant_(self.k_a, 1.02)
        nn.init.constant_(self.r_k, -0.04)
        if self.config.layer > 0:
            set_(self.v0, 0.73 - 0.4 * ramp)
        for name in "wavg" if self.config.layer > 0 else "wag":
            nn.init.zeros_(getattr(self, f"{name}1"))
            outer = getattr(self, f"{name}2")
            tall = max(1.0, outer.shape[0] / outer.shape[1]) ** 0.5
            nn.init.orthogonal_(outer, gain=0.1 * tall, generator=generator)
        for linear, gain in ((self.receptance, 1), (self.key, 0.1), (self.value, 1)):
            nn.init.orthogonal_(linear.weight, gain=gain, generator=generator)
        nn.init.zeros_(self.output.weight)
        last = (1 + self.config.layer) / self.config.n_layers
        nn.init.constant_(self.ln_x.weight, last**0.7)
        nn.init.zeros_(self.ln_x.bias)

    def init_state(self, batch_size, capacity=0):
        last = self.key.weight.new_zeros(batch_size, self.d_model)
        shape = (batch_size, self.n_heads, self.config.head_size, self.config.head_size)
        return HeadState(last, last.new_zeros(shape, dtype=self._work()))

    def forward(self, x, state=None, values=None, form: str | None = None):
        """See Mixer.forward; `values` (batch, length, d_model) are the first layer's, `form` forces
        one of the operator's forms."""
        return self.forward_with_values(x, state, values, form)[:2]

    def step(self, x_t, state, values=None):
        """See Mixer.step; `values` (batch, d_model) are the first layer's."""
        return self.step_with_values(x_t, state, values)[:2]

    def forward_with_values(self, x, state=None, values=None, form: str | None = None):
        """Outputs, state and the values for the next layer: `values`, or in the first layer its
        own."""
        check_input(x, self.d_model)
        last, memory = state or (None, None)
        previous, last = token_shift(x, last)
        r, w, k, v, a, gate, values = self._project(x, previous, values)
        r, log_decay, k, v, removed, kappa = self._recurrence(r, w, k, v, a)
        heads = lambda y: split_heads(y, self.n_heads).transpose(1, 2)  # noqa: E731
        out, memory = delta_rule(
            *(heads(y) for y in (r, k, v, removed, kappa, log_decay)), state=memory, form=form
        )
        y = self._read_out(out.transpose(1, 2).flatten(2), r, k, v, gate)
        return self.output(y), HeadState(last, memory), values

    def step_with_values(self, x_t, state, values=None):
        """One token; see forward_with_values."""
        check_input(x_t, self.d_model, ("batch", "d_model"))
        last, memory = state
        r, w, k, v, a, gate, values = self._project(x_t, last, values)
        if r.dtype == memory.dtype and kernels_serve(r) and not torch.is_grad_enabled():
            parameters = (self.k_k, self.k_a, self.r_k, self.ln_x.weight, self.ln_x.bias)
            constants = (self.config.step, _DECAY_BOUND, self.config.eps)
            y, memory = rwkv7_step((r, w, k, v, a, gate), parameters, memory, *constants)
        else:
            r, log_decay, k, v, removed, kappa = self._recurrence(r, w, k, v, a)
            heads = lambda y: split_heads(y.to(memory.dtype), self.n_heads)  # noqa: E731
            now = (heads(y) for y in (r, k, v, removed, kappa, log_decay.exp()))
            out, memory = step(*now, memory)
            y = self._read_out(out.flatten(1).to(x_t.dtype), r, k, v, gate)
        return self.output(y), HeadState(x_t, memory), values

    def _project(self, x: Tensor, previous: Tensor, values: Tensor | None) -> tuple[Tensor, ...]:
        """(.., d_model) twice -> r, the decay's logits, k, v (1), the rate's logits, g and the
        first layer's values, each (.., d_model)."""
        mixtures = torch.cat([self.x_r, self.x_w, self.x_k, self.x_v, self.x_a, self.x_g])
        mixtures = mixtures if x.dim() == 2 else mixtures[:, None]
        x_r, x_w, x_k, x_v, x_a, x_g = torch.lerp(x, previous, mixtures).unbind()
        r, k, v = self.receptance(x_r), self.key(x_k), self.value(x_v)
        w = self.w0.view(-1) + torch.tanh(x_w @ self.w1) @ self.w2
        a = self.a0.view(-1) + (x_a @ self.a1) @ self.a2
        gate = torch.sigmoid(x_g @ self.g1) @ self.g2
        if self.config.layer == 0:
            values = v
        elif values is not None:
            if values.shape != v.shape:
                raise ValueError(
                    f"values must be shaped as x, {tuple(v.shape)}; got {tuple(values.shape)}"
                )
            mixture = torch.sigmoid(self.v0.view(-1) + (x_v @ self.v1) @ self.v2)
            v = torch.lerp(v, values, mixture)
        return r, w, k, v, a, gate, values

    def _recurrence(self, r: Tensor, w: Tensor, k: Tensor, v: Tensor, a: Tensor):
        """What enters (2): r, log w, k~, v, -c a * kappa, kappa."""
        log_decay = -_DECAY_BOUND * torch.sigmoid(w.to(self._work()))
        a = torch.sigmoid(a)
        kappa = F.normalize(split_heads(k * self.k_k.view(-1), self.n_heads), dim=-1).flatten(-2)
        k = k + k * (a - 1) * self.k_a.view(-1)
        return r, log_decay, k, v, -self.config.step * a * kappa, kappa

    def _read_out(self, y: Tensor, r: Tensor, k: Tensor, v: Tensor, gate: Tensor) -> Tensor:
        """Eq. (3) without W_o; all (.., d_model)."""
        normed = self.ln_x(y.reshape(-1, self.d_model)).view(y.shape)
        weight = split_heads(r * k, self.n_heads).mul(self.r_k).sum(-1, keepdim=True)
        return (normed + (weight * split_heads(v, self.n_heads)).flatten(-2)) * gate

    def _work(self) -> torch.dtype:
        # bfloat16 has no decay between 0.996 and 1
        return torch.promote_types(self.key.weight.dtype, torch.float32)


def _rounded(rank: float) -> int:
    return max(32, round(rank / 32) * 32)
