"""Linear attention: the battery, a plain loop in NumPy, other people's code, and the edges."""

import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file

from benchmarks import golden_ssd
from ntlib.mixers.retention import retention_log_decay
from ntlib.ops.compiled import reference
from ntlib.ops.linear_attention import linear_attention
from tests.fla_peer import import_naive
from tests.ops import battery
from tests.ops.battery import relative

FORMS = ("recurrent", "parallel", "chunkwise", "compiled")
DECAYS = ("none", "head", "channel", "head and token", "channel and token")
KINDS = {
    f"{decay}{', bonus' * bonus}{', normalised' * normalise}": (decay, bonus, normalise)
    for decay in DECAYS
    for bonus in (False, True)
    for normalise in (False, True)
}


def drawn(length, generator, decay, bonus, positive=False, batch=2, heads=3, d_k=6, d_v=5):
    """Inputs by name; q, k and u positive on request, so that sums of weights are not near 0."""

    def draw(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    sign = torch.abs if positive else torch.clone
    named = {name: sign(draw(batch, heads, length, d_k)) for name in "qk"}
    named["v"] = draw(batch, heads, length, d_v)
    shape = {
        "head": (heads,),
        "channel": (heads, d_k),
        "head and token": (batch, heads, length),
        "channel and token": (batch, heads, length, d_k),
    }
    if decay != "none":
        named["log_decay"] = -draw(*shape[decay]).sigmoid()
    if bonus:
        named["bonus"] = sign(draw(heads, d_k))
    return named


def operator(kind):
    decay, bonus, normalise = KINDS[kind]
    time = dict.fromkeys("qkv", 2) | ({"log_decay": 2} if decay.endswith("token") else {})

    def state(named, generator):
        state = torch.randn(2, 3, 6, 5 + normalise, generator=generator, dtype=torch.float64)
        return (state.abs() if normalise else state,)

    return battery.Operator(
        call=lambda named, state, form: linear_attention(
            **named,
            state=None if state is None else state[0],
            normalise=normalise,
            form=form,
            chunk_size=11,
        ),
        inputs=lambda length, generator: drawn(length, generator, decay, bonus, normalise),
        state=state,
        forms=FORMS,
        time=time,
        out_time=2,
        keep_float32=frozenset({"log_decay"}),
    )


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("check", battery.CHECKS, ids=lambda check: check.__name__)
def test_battery(check, kind):
    check(operator(kind))


def some(length, kind, seed=0, dtype=torch.float64, **sizes):
    decay, bonus, _ = KINDS[kind]
    named = drawn(length, torch.Generator().manual_seed(seed), decay, bonus, **sizes)
    return {name: x.to(dtype) for name, x in named.items()}


def leaves(named, dtype):
    return {name: x.detach().to(dtype, copy=True).requires_grad_() for name, x in named.items()}


def bare(chunk_size=64):
    """Without a state, for inputs of any size."""
    return battery.Operator(
        call=lambda named, state, form: linear_attention(**named, form=form, chunk_size=chunk_size),
        inputs=None,
        state=None,
        forms=FORMS,
        time={},
    )


@pytest.mark.parametrize("bonus", [False, True])
def test_every_decay_in_numpy(bonus):
    kind = "channel and token" + ", bonus" * bonus
    named = some(7, kind)
    q, k, v, log_decay = (named[name].numpy() for name in ("q", "k", "v", "log_decay"))
    state = np.random.default_rng(0).standard_normal((2, 3, 6, 5))
    out, final = linear_attention(**named, state=torch.from_numpy(state), form="recurrent")
    for n, h in np.ndindex(2, 3):
        s = state[n, h]
        for t in range(7):
            new = np.diag(np.exp(log_decay[n, h, t])) @ s + np.outer(k[n, h, t], v[n, h, t])
            seen = new
            if bonus:
                u = named["bonus"][h].numpy()
                seen = s + np.outer(u * k[n, h, t], v[n, h, t])
            assert np.allclose(out[n, h, t], seen.T @ q[n, h, t], rtol=1e-12, atol=1e-12)
            s = new
        assert np.allclose(final[n, h], s, rtol=1e-12, atol=1e-12)


@settings(max_examples=40, deadline=None)
@given(
    length=st.integers(1, 300),
    chunk_size=st.integers(1, 80),
    d_k=st.sampled_from([1, 3, 31, 32, 33, 64]),
    d_v=st.sampled_from([1, 5, 32, 65]),
    kind=st.sampled_from([kind for kind in KINDS if "normalised" not in kind]),
    strength=st.sampled_from([0.0, 1e-4, 1.0, 80.0]),
)
def test_forms_agree_whatever_the_sizes(length, chunk_size, d_k, d_v, kind, strength):
    named = some(length, kind, seed=length, batch=1, heads=2, d_k=d_k, d_v=d_v)
    if "log_decay" in named:
        named["log_decay"] *= strength
    op, forms = bare(chunk_size), ("chunkwise", "compiled") if length > 70 else FORMS[1:]
    definition = battery.outcome(op, leaves(named, torch.float64), (), "recurrent")
    for form in forms:
        ours = battery.outcome(op, leaves(named, torch.float64), (), form)
        battery.assert_same(ours, definition, 1e-10, form)


@pytest.mark.parametrize("kind", ["head and token", "channel and token", "channel, bonus"])
@pytest.mark.parametrize("form", FORMS[1:])
def test_extreme_decays_in_float32(form, kind):
    """Down to e^-50 a token among weak ones: sums of logarithms reach thousands, and a weak decay
    after strong ones keeps its digits."""
    named = some(150, kind, dtype=torch.float32)
    named["v"] /= 10  # the loss is a sine of the outputs: large ones would magnify their errors
    generator = torch.Generator().manual_seed(1)
    strong = torch.rand(named["log_decay"].shape, generator=generator) < 0.5
    mixed = torch.where(strong, -50.0, 1e-3 * named["log_decay"])
    for log_decay in (mixed, torch.full_like(mixed, -50.0), torch.full_like(mixed, -300.0)):
        named["log_decay"] = log_decay
        exact = battery.outcome(bare(), leaves(named, torch.float64), (), "recurrent")
        ours = battery.outcome(bare(), leaves(named, torch.float32), (), form)
        assert all(x.isfinite().all() for x in ours.values())
        battery.assert_same(ours, exact, 1e-5, form)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["head", "channel and token, bonus"])
def test_a_million_tokens_in_float32(kind):
    """Horizons of 1000 and more. Rounding w to float32 changes a horizon of n tokens by 6e-8 n of
    itself; errors beyond the horizon are forgotten, too."""
    named = some(2**20, kind, batch=1, heads=1, d_k=2, d_v=2, dtype=torch.float32)
    named["log_decay"] *= 1e-3
    out, state = linear_attention(**named)
    exact, exact_state = linear_attention(**{name: x.double() for name, x in named.items()})
    assert relative(out.double(), exact) < 1e-4
    assert relative(state.double(), exact_state) < 1e-4


def test_memory_in_either_order_gives_the_same():
    """(batch, length, heads, d), cut out of a wider tensor, and heads that share keys."""
    wide = torch.randn(2, 40, 3, 17, generator=torch.Generator().manual_seed(0))
    q, v = wide[..., :6].transpose(1, 2), wide[..., 6:17].transpose(1, 2)
    k = wide[:, :, :1, 3:9].transpose(1, 2).expand(-1, 3, -1, -1)
    views = (x.detach().requires_grad_() for x in (q, k, v))
    copies = (x.detach().contiguous().requires_grad_() for x in (q, k, v))
    results = []
    for q, k, v in (tuple(views), tuple(copies)):
        out, state = linear_attention(q, k, v, form="compiled")
        results.append((out, state, *torch.autograd.grad((out.sin().sum()), (q, k, v))))
    for ours, expected in zip(*results, strict=True):
        assert torch.equal(ours, expected)


@pytest.mark.parametrize("kind", ["head", "channel and token, bonus"])
def test_the_reference_switch_takes_another_way_to_the_same(kind):
    named = some(100, kind)
    with_kernel = linear_attention(**named)
    with reference():
        without = linear_attention(**named)
        assert not torch.equal(with_kernel[0], without[0])
    for ours, theirs in zip(with_kernel, without, strict=True):
        assert relative(ours, theirs) < 1e-12


def gradients(out, final, named):
    loss = out.double().sin().sum() + (0 if final is None else final.double().sin().sum())
    return torch.autograd.grad(loss, list(named.values()))


def held_to(peer, named, final=True):
    """Outputs, final states and gradients of the kernel and of `peer(named)`, in float32."""
    results = []
    for call in (linear_attention, peer):
        given = leaves(named, torch.float32)
        out, state = call(**given)
        state = state if final else None
        results.append([out, *([state] if final else []), *gradients(out, state, given)])
    for ours, theirs in zip(*results, strict=True):
        assert relative(ours, theirs) < 1e-5


def test_retention_of_fla():
    """They scale q by d_k^-0.5 and know RetNet's decays only."""
    naive = import_naive("retention/naive")
    named = some(50, "none", d_v=6)
    decay = {"log_decay": retention_log_decay(3).float()}
    given, expected = leaves(named, torch.float32), leaves(named, torch.float32)
    out, _ = linear_attention(**given, **decay)
    theirs = naive.naive_retention(*(expected[name] for name in "qkv")) * 6**0.5
    assert relative(out, theirs) < 1e-5
    for ours, grad in zip(
        gradients(out, None, given), gradients(theirs, None, expected), strict=True
    ):
        assert relative(ours, grad) < 1e-5


def test_gated_linear_attention_of_fla():
    """Time before heads; they scale q by d_k^-0.5."""
    naive = import_naive("gla/naive").naive_recurrent_gla

    def theirs(q, k, v, log_decay):
        swapped = (x.transpose(1, 2) for x in (q * 6**0.5, k, v, log_decay))
        out, state = naive(*swapped, output_final_state=True)
        return out.transpose(1, 2), state

    held_to(theirs, some(50, "channel and token"))


def test_simple_gated_linear_attention_of_fla():
    naive = import_naive("simple_gla/naive")

    def theirs(q, k, v, log_decay):
        swapped = (x.transpose(1, 2) for x in (q, k, v, log_decay))
        out, state = naive.naive_recurrent_simple_gla(*swapped, scale=1.0)
        return out.transpose(1, 2), state

    held_to(theirs, some(50, "head and token"))


def test_rwkv6_of_fla():
    naive = import_naive("rwkv6/recurrent_naive").naive_recurrent_rwkv6

    def theirs(q, k, v, log_decay, bonus):
        return naive(q, k, v, log_decay, bonus, scale=1.0, output_final_state=True)

    held_to(theirs, some(50, "channel and token, bonus"))


@pytest.mark.parametrize("form", FORMS)
def test_the_minimal_ssd_of_mamba_2(form):
    """Numbers of the official code: data/golden/ssd-minimal."""
    expected = load_file(golden_ssd.TARGET)
    provenance = json.loads(golden_ssd.TARGET.with_suffix(".json").read_text())
    assert provenance["seed"] == golden_ssd.SEED
    named = {name: x.requires_grad_() for name, x in golden_ssd.inputs().items()}
    q, k, v = (named[name].transpose(1, 2) for name in "CBX")
    state = named["state"].transpose(-1, -2)
    out, final = linear_attention(q, k, v, named["A"].transpose(1, 2), state=state, form=form)
    out, final = out.transpose(1, 2), final.transpose(-1, -2)
    grads = torch.autograd.grad(golden_ssd.loss(out, final), list(named.values()))
    ours = {"Y": out, "final": final}
    ours |= {f"gradient of {name}": grad for name, grad in zip(named, grads, strict=True)}
    for name, x in ours.items():
        assert relative(x, expected[name]) < 1e-12, name


def inputs(length, *, batch=2, heads=3, d_k=4, d_v=5, dtype=torch.float64, seed=0, decay=True):
    generator = torch.Generator().manual_seed(seed)
    q, k = (
        torch.randn(batch, heads, length, d_k, generator=generator, dtype=dtype) for _ in range(2)
    )
    v = torch.randn(batch, heads, length, d_v, generator=generator, dtype=dtype)
    state = torch.randn(batch, heads, d_k, d_v, generator=generator, dtype=dtype)
    log_decay = -torch.rand(heads, generator=generator, dtype=dtype) if decay else None
    return q, k, v, log_decay, state


def test_the_definition_in_numpy():
    q, k, v, log_decay, state = inputs(7)
    out, final = linear_attention(q, k, v, log_decay, state=state, form="recurrent")
    s = state.numpy().copy()
    for t in range(7):
        s = np.exp(log_decay.numpy())[None, :, None, None] * s + np.einsum(
            "bhk,bhv->bhkv", k[:, :, t], v[:, :, t]
        )
        assert np.allclose(
            out[:, :, t], np.einsum("bhk,bhkv->bhv", q[:, :, t], s), rtol=1e-12, atol=1e-12
        )
    assert np.allclose(final, s, rtol=1e-12)


@settings(max_examples=40, deadline=None)
@given(
    length=st.integers(1, 70),
    chunk_size=st.integers(1, 80),
    d_k=st.integers(1, 6),
    d_v=st.integers(1, 6),
    decay=st.sampled_from([None, 0.0, -1e-4, -0.7, -50.0]),
)
def test_forms_agree_in_outputs_states_and_gradients(length, chunk_size, d_k, d_v, decay):
    results = {}
    for form in FORMS:
        q, k, v, _, state = inputs(length, d_k=d_k, d_v=d_v, seed=length)
        log_decay = (
            None
            if decay is None
            else torch.full((3,), decay, dtype=torch.float64) * torch.tensor([1.0, 0.5, 0.1])
        )
        leaves = [q, k, v, state] + ([] if decay is None else [log_decay])
        for leaf in leaves:
            leaf.requires_grad_()
        out, final = linear_attention(
            q, k, v, log_decay, state=state, form=form, chunk_size=chunk_size
        )
        (out.sin().sum() + final.cos().sum()).backward()
        results[form] = [out, final, *(leaf.grad for leaf in leaves)]
    for form in FORMS[1:]:
        for ours, definition in zip(results[form], results["recurrent"], strict=True):
            assert (ours - definition).abs().max() <= 1e-10 * definition.abs().max().clamp(min=1)


@pytest.mark.parametrize("form", FORMS)
def test_gradients_match_finite_differences(form):
    q, k, v, log_decay, state = (
        x.requires_grad_() for x in inputs(5, batch=1, heads=2, d_k=2, d_v=3)
    )
    assert torch.autograd.gradcheck(
        lambda *x: linear_attention(*x[:4], state=x[4], form=form, chunk_size=2),
        (q, k, v, log_decay, state),
    )


@pytest.mark.parametrize("cut", range(1, 9))
@pytest.mark.parametrize("form", FORMS)
def test_a_sequence_may_be_cut_anywhere(form, cut):
    q, k, v, log_decay, state = inputs(9)
    whole, final = linear_attention(q, k, v, log_decay, state=state, form=form, chunk_size=4)
    first, middle = linear_attention(
        *(x[:, :, :cut] for x in (q, k, v)), log_decay, state=state, form=form, chunk_size=4
    )
    second, end = linear_attention(
        *(x[:, :, cut:] for x in (q, k, v)), log_decay, state=middle, form=form, chunk_size=4
    )
    assert relative(torch.cat([first, second], dim=2), whole) < 1e-12
    assert relative(end, final) < 1e-12


@pytest.mark.parametrize("form", FORMS)
def test_normalised_weights_sum_to_one(form):
    q, k, v, _, _ = inputs(33)
    q, k = q.abs(), k.abs()
    out, state = linear_attention(q, k, torch.ones_like(v), normalise=True, form=form, chunk_size=8)
    assert torch.allclose(out, torch.ones_like(out))
    assert state.shape == (2, 3, 4, 6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_low_precision_stays_close_over_a_long_sequence(dtype):
    q, k, v, _, _ = inputs(4096, batch=1, dtype=torch.float64)
    log_decay = torch.log1p(-(2.0 ** -torch.tensor([2.0, 6.0, 12.0], dtype=torch.float64)))
    q, k, v = (x.to(dtype) for x in (q, k, v))
    exact, _ = linear_attention(q.double(), k.double(), v.double(), log_decay)
    out, state = linear_attention(q, k, v, log_decay.float())
    assert state.dtype == torch.float32
    assert out.dtype == dtype
    assert relative(out.double(), exact) < (1e-5 if dtype == torch.float32 else 1e-2)


@pytest.mark.usefixtures("own_errors")
def test_bad_input_is_named():
    q, k, v, log_decay, state = inputs(4)
    with pytest.raises(ValueError, match="length must be at least 1"):
        linear_attention(q[:, :, :0], k[:, :, :0], v[:, :, :0])
    with pytest.raises(ValueError, match="q, k, v must be"):
        linear_attention(q, k[..., :2], v)
    with pytest.raises(ValueError, match="log_decay must be <= 0"):
        linear_attention(q, k, v, -log_decay)
    with pytest.raises(ValueError, match=r"log_decay must be \(heads,\) = \(3,\)"):
        linear_attention(q, k, v, log_decay[:2])
    with pytest.raises(ValueError, match=r"log_decay must be \(heads, d_k\) = \(3, 4\)"):
        linear_attention(q, k, v, log_decay[:, None])
    with pytest.raises(ValueError, match="log_decay must have 1 to 4 dimensions, got 0"):
        linear_attention(q, k, v, log_decay[0])
    with pytest.raises(ValueError, match=r"bonus must be \(heads, d_k\) = \(3, 4\)"):
        linear_attention(q, k, v, bonus=log_decay)
    with pytest.raises(ValueError, match="state must be"):
        linear_attention(q, k, v, state=state[..., :2])
    with pytest.raises(ValueError, match="got 'chunked'"):
        linear_attention(q, k, v, form="chunked")
    with pytest.raises(ValueError, match="chunk_size must be at least 1, got 0"):
        linear_attention(q, k, v, chunk_size=0)
