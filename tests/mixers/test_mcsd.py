"""MCSD against its paper's equations, written down again here, and the book's recurrences."""

import itertools
import math

import pytest
import torch

from ntlib import cost_model
from ntlib.mixers.mcsd import MCSDConfig, channel_log_decay, weight_matrix
from ntlib.models import presets
from ntlib.models.language_model import count_parameters
from ntlib.ops.linear_attention import linear_attention
from ntlib.ops.long_conv import FORMS, long_conv
from ntlib.ops.scan import scan
from ntlib.ops.wkv import wkv
from tests.mixers.battery import build, close, sequence, steps

C, N = 4, 13  # channels, length
READINGS = [
    {"gate": gate, "decay_norm": norm, "fusion": fusion, "projection": projection}
    for gate, norm, fusion, projection in itertools.product(
        ("silu", "sigmoid"), ("features", "rows", "none"), ("sum", "concat"), ("full", "channel")
    )
]


def slope_weights(beta):
    """Eq. 3, element by element."""
    s = torch.zeros(N, N, dtype=torch.float64)
    s[0, 0] = 1
    for n in range(1, N):
        row = [math.exp(-(n - j) * beta) for j in range(n)]
        s[n, :n] = torch.tensor(row, dtype=torch.float64) / sum(row)
    return s


def decay_weights(alpha, rows):
    """Eq. 9, element by element, with 0 for -inf."""
    d = torch.zeros(N, N, dtype=torch.float64)
    d[0, 0] = 1
    for n in range(1, N):
        for j in range(n):
            d[n, j] = alpha ** (n - j)
    return d / (d.square().mean(-1, keepdim=True) + 1e-6).sqrt() if rows else d


def mapped(linear, x):
    """X W, of all features or of each channel by itself."""
    if linear.weight.dim() == 2:
        return x @ linear.weight.T
    parts = zip(x.chunk(C, dim=-1), linear.weight, strict=True)
    return torch.cat([part @ w.T for part, w in parts], dim=-1)


def by_the_paper(mixer, x):
    """Eq. 1 to 13, or 20 and 21, channel by channel."""
    slope, decay = mixer.sections
    config, outputs = mixer.config, []
    u, v = mapped(slope.current, x).chunk(C, -1), mapped(slope.history, x).chunk(C, -1)
    f, e = mapped(decay.current, x).chunk(C, -1), mapped(decay.history, x).chunk(C, -1)
    for i in range(C):
        history = slope_weights(2 ** (-8 / C * (i + 1))) @ v[i]
        gate = torch.sigmoid(history)
        theta_s = (history * gate if config.gate == "silu" else gate) * u[i]
        history = decay_weights(1 - 2.0 ** (-5 - i), config.decay_norm == "rows") @ e[i]
        if config.decay_norm == "features":
            history = history / (history.square().mean(-1, keepdim=True) + 1e-6).sqrt()
        outputs.append((theta_s, history / (1 + torch.exp(-f[i]))))
    theta_s, theta_d = (torch.cat(part, dim=-1) for part in zip(*outputs, strict=True))
    if config.fusion == "sum":
        return theta_s + theta_d
    return torch.cat([theta_s, theta_d], dim=-1) @ mixer.o.weight.T


@pytest.mark.parametrize("reading", READINGS, ids=lambda r: ", ".join(r.values()))
@torch.no_grad()
def test_parallel_and_recurrent_form_are_the_paper(reading):
    mixer = build(MCSDConfig(C, row_length=N, **reading))
    x = sequence(N)
    wanted = by_the_paper(mixer, x)
    for form in (*FORMS, "matrix"):
        assert close(mixer(x, form=form)[0], wanted, 1e-12), form
    assert close(steps(mixer, x)[0], wanted, 1e-12)
    for a, b in zip(mixer(x, form="matrix")[1].sums, steps(mixer, x)[1].sums, strict=True):
        assert close(a, b, 1e-12)


@torch.no_grad()
def test_the_inference_form_of_the_paper():
    """Eq. 16 and 19 as they stand give rows 2, 3, ... of Eq. 3 and 9, whatever S_1 was for Eq. 16,
    and if it was 0 for Eq. 19."""
    v = torch.randn(N, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    for i in range(C):
        beta, alpha = 2 ** (-8 / C * (i + 1)), 1 - 2.0 ** (-5 - i)
        slope, decay = torch.full_like(v[0], 99.0), torch.zeros_like(v[0])
        for n in range(1, N):
            z = sum(math.exp(-j * beta) for j in range(n))
            slope = (1 - 1 / z) * slope + v[n - 1] / z
            decay = alpha * decay + alpha * v[n - 1]
            assert close(slope, (slope_weights(beta) @ v)[n], 1e-12)
            assert close(decay, (decay_weights(alpha, rows=False) @ v)[n], 1e-12)


def history(seed=0):
    """Values of one feature per channel, and their past: shifted by one token, its first row 0."""
    generator = torch.Generator().manual_seed(seed)
    values = torch.randn(2, N, C, generator=generator, dtype=torch.float64)
    return values, torch.cat([torch.zeros(2, 1, C, dtype=torch.float64), values[:, :-1]], dim=1)


def mixed(kind, values):
    """What the section makes of the values, after the first token, where it has no past."""
    matrix = weight_matrix(kind, MCSDConfig(C, decay_norm="none"), N)
    return torch.einsum("cnm,bmc->bnc", matrix, values)[:, 1:]


@torch.no_grad()
def test_both_sections_are_long_convolutions():
    values, past = history()
    for kind in ("slope", "decay"):
        logs = channel_log_decay(kind, C)[:, None]
        ones = torch.ones_like(logs)
        sums, _ = long_conv(past, logs, ones, logs.exp())  # a h_(n-1)
        count, _ = long_conv(torch.ones_like(past), logs, ones, logs.exp())
        if kind == "slope":
            sums[:, 1:] /= count[:, :-1]
        assert close(sums[:, 1:], mixed(kind, values), 1e-12)


@torch.no_grad()
def test_the_slope_section_is_a_scan_whose_decays_depend_on_the_position():
    values, past = history()
    logs, n = channel_log_decay("slope", C), torch.arange(1, N)[:, None]
    share = torch.expm1(logs) / torch.expm1(n * logs)  # 1 / Z_n of Eq. 16
    h, _ = scan((1 - share).expand(2, -1, -1), share * past[:, 1:])
    assert close(h, mixed("slope", values), 1e-12)


@torch.no_grad()
def test_the_slope_section_is_wkv_of_rwkv4_without_keys():
    values, _ = history()
    no_bonus = torch.full((C,), -1e9, dtype=torch.float64)
    out, _ = wkv(torch.zeros_like(values), values, channel_log_decay("slope", C), no_bonus)
    assert close(out[:, 1:], mixed("slope", values), 1e-12)


@torch.no_grad()
def test_the_slope_section_is_attention_that_asks_nothing():
    """Queries of 0, ALiBi's biases, and a mask that hides the current token."""
    values, _ = history()
    n = torch.arange(N, dtype=torch.float64)
    slopes = torch.tensor([2 ** (-8 * (head + 1) / C) for head in range(C)], dtype=torch.float64)
    bias = (slopes[:, None, None] * (n - n[:, None])).masked_fill(n >= n[:, None], -torch.inf)
    q = torch.zeros(2, C, N - 1, 3, dtype=torch.float64)
    k = torch.randn(2, C, N, 3, dtype=torch.float64)
    out = torch.nn.functional.scaled_dot_product_attention(
        q, k, values.mT[..., None], attn_mask=bias[:, 1:]
    )
    assert close(out[..., 0].mT, mixed("slope", values), 1e-12)


@torch.no_grad()
def test_the_decay_section_is_retention_with_constant_queries_and_keys():
    values, _ = history()
    ones = torch.ones(2, C, N, 1, dtype=torch.float64)
    logs = channel_log_decay("decay", C)
    out, _ = linear_attention(ones, ones, values.mT[..., None], logs)
    assert close((logs.exp()[:, None] * out[..., 0])[..., :-1].mT, mixed("decay", values), 1e-12)


@torch.no_grad()
def test_the_two_norms_of_the_paper_do_not_agree():
    """Training (Eq. 9) normalises weights, inference (Eq. 20) features, with the same weights."""
    x = sequence(N)
    outs = [
        build(MCSDConfig(C, row_length=N, decay_norm=norm))(x)[0] for norm in ("rows", "features")
    ]
    assert not close(outs[0], outs[1], 0.5)


def test_half_lives():
    """Slopes reach from one token to 177, decays from 22 to thousands, at the published C = 10."""
    lives = [-math.log(2) / channel_log_decay(kind, 10) for kind in ("slope", "decay")]
    assert [round(t, 1) for t in lives[0][[0, 4, 9]].tolist()] == [1.2, 11.1, 177.4]
    assert [round(t) for t in lives[1][[0, 4, 9]].tolist()] == [22, 355, 11356]


SIZES = {"1.6B": 1.6, "3B": 3.0, "10B": 10.0}


@pytest.mark.parametrize(
    ("changes", "billions"),
    [
        ({}, [1.26, 2.10, 9.06]),
        ({"fusion": "concat"}, [1.42, 2.36, 10.19]),
        ({"projection": "channel"}, [0.98, 1.63, 6.98]),
    ],
    ids=["full", "concat", "channel"],
)
def test_published_sizes_want_full_projections(changes, billions):
    """Without embeddings, with a GeGLU of 4 D. Embeddings that fill up the smallest size to 1.6B
    make the largest 9.5B or 10.4B with full projections, and 7.7B with those of Eq. 1's shapes."""
    configs = [presets.mcsd(size, 8, MCSDConfig(**changes)) for size in SIZES]
    counts = [cost_model.parameters(config, embeddings=False) / 1e9 for config in configs]
    assert [round(count, 2) for count in counts] == billions
    with torch.device("meta"):
        model = configs[0].build()
    assert count_parameters(model, embeddings=False) / 1e9 == pytest.approx(counts[0])
    largest = counts[2] + (1.6 - counts[0]) * 3072 / 2560
    assert (abs(largest / 10 - 1) < 0.06) == ("projection" not in changes)


def test_the_small_model_has_the_parameters_of_the_transformer():
    models = [presets.small(name, 256).build() for name in ("Yan", "Transformer")]
    ours, theirs = map(count_parameters, models)
    assert abs(ours / theirs - 1) < 0.005


def test_errors_are_named():
    with pytest.raises(ValueError, match="n_channels must divide d_model = 25, got 4"):
        MCSDConfig(4).build(25)
    with pytest.raises(ValueError, match="sections must be 'slope' or 'decay', got 'memory'"):
        MCSDConfig(4, sections=("memory",)).build(24)
    with pytest.raises(ValueError, match="sections must name at least one"):
        MCSDConfig(4, sections=()).build(24)
    with pytest.raises(ValueError, match="fusion must be one of sum, concat, got 'product'"):
        MCSDConfig(4, fusion="product").build(24)
    with pytest.raises(ValueError, match="row_length must be at least 1, got 0"):
        MCSDConfig(4, row_length=0).build(24)
    mixer = MCSDConfig(4).build(24)
    with pytest.raises(ValueError, match="it continues no state"):
        mixer(torch.zeros(1, 2, 24), mixer.init_state(1), form="matrix")
