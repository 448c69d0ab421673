"""The delta rule: the battery, a plain loop in NumPy, other people's code, and the edges."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from ntlib.ops.compiled import reference
from ntlib.ops.delta_rule import delta_rule
from tests.fla_peer import import_naive
from tests.ops import battery
from tests.ops.battery import relative

FORMS = ("recurrent", "parallel", "chunkwise", "compiled")
SEQUENCES = ("q", "k", "v", "a", "b")
DECAYS = ("none", "head", "channel", "head and token", "channel and token")


def inputs(length, generator, decay="channel and token", batch=2, heads=3, d_k=6, d_v=5):
    """As RWKV-7 makes them: b of length 1, a = -rate * b with rates in (0, 1), so that no
    eigenvalue of the transition exceeds 1."""

    def draw(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    q, k, b, rate = (draw(batch, heads, length, d_k) for _ in range(4))
    b = F.normalize(b, dim=-1)
    given = {"q": q, "k": k, "v": draw(batch, heads, length, d_v), "a": -rate.sigmoid() * b, "b": b}
    shape = {
        "head": (heads,),
        "channel": (heads, d_k),
        "head and token": (batch, heads, length),
        "channel and token": (batch, heads, length, d_k),
    }
    if decay != "none":
        given["log_decay"] = -0.6 * draw(*shape[decay]).sigmoid()
    return given


def operator(decay):
    time = dict.fromkeys(SEQUENCES, 2)
    if decay.endswith("token"):
        time["log_decay"] = 2
    return battery.Operator(
        call=lambda given, state, form: delta_rule(
            **given, state=None if state is None else state[0], form=form, chunk_size=4
        ),
        inputs=lambda length, generator: inputs(length, generator, decay),
        state=lambda given, generator: (
            torch.randn(2, 3, 6, 5, generator=generator, dtype=torch.float64),
        ),
        forms=FORMS,
        time=time,
        out_time=2,
        keep_float32=frozenset({"log_decay"}),
    )


@pytest.mark.parametrize("decay", DECAYS)
@pytest.mark.parametrize("check", battery.CHECKS, ids=lambda check: check.__name__)
def test_battery(check, decay):
    check(operator(decay))


def some(length, decay="channel and token", seed=0, dtype=torch.float64, **sizes):
    given = inputs(length, torch.Generator().manual_seed(seed), decay, **sizes)
    return {name: x.to(dtype) for name, x in given.items()}


def test_the_definition_in_numpy():
    given = some(7)
    q, k, v, a, b, log_decay = (x.numpy() for x in given.values())
    state = np.random.default_rng(0).standard_normal((2, 3, 6, 5))
    out, final = delta_rule(**given, state=torch.from_numpy(state), form="recurrent")
    for n, h in np.ndindex(2, 3):
        s = state[n, h]
        for t in range(7):
            transition = np.diag(np.exp(log_decay[n, h, t])) + np.outer(a[n, h, t], b[n, h, t])
            s = transition @ s + np.outer(k[n, h, t], v[n, h, t])
            assert np.allclose(out[n, h, t], s.T @ q[n, h, t], rtol=1e-12, atol=1e-12)
        assert np.allclose(final[n, h], s, rtol=1e-12, atol=1e-12)


@settings(max_examples=25, deadline=None)
@given(
    length=st.integers(1, 70),
    chunk_size=st.integers(1, 40),
    d_k=st.sampled_from([1, 3, 4, 64, 70]),
    d_v=st.sampled_from([1, 3, 4, 64, 70]),
    decay=st.sampled_from(DECAYS),
    strength=st.sampled_from([0.0, 1e-4, 1.0, 80.0]),
)
def test_forms_agree_whatever_the_sizes(length, chunk_size, d_k, d_v, decay, strength):
    given = some(length, decay, seed=length, batch=1, heads=2, d_k=d_k, d_v=d_v)
    if "log_decay" in given:
        given["log_decay"] *= strength
    results = {}
    for form in ("recurrent", "chunkwise", "compiled"):
        leaves = {name: x.clone().requires_grad_() for name, x in given.items()}
        out, final = delta_rule(**leaves, form=form, chunk_size=chunk_size)
        (out.sin().sum() + final.cos().sum()).backward()
        results[form] = [out, final, *(leaf.grad for leaf in leaves.values())]
    for form in ("chunkwise", "compiled"):
        for ours, definition in zip(results[form], results["recurrent"], strict=True):
            assert (ours - definition).abs().max() <= 1e-10 * definition.abs().max().clamp(min=1)


@pytest.mark.parametrize("form", ["parallel", "chunkwise", "compiled"])
def test_extreme_decays_in_float32(form):
    """Decays down to e^-50 a token among weak ones: sums of logarithms reach -1600, and a weak
    decay after strong ones keeps its digits."""
    length = 64
    given = some(length, dtype=torch.float32)
    strong = torch.rand(given["log_decay"].shape, generator=torch.Generator().manual_seed(1)) < 0.5
    strong[:, :, -8:] = False
    given["log_decay"] = torch.where(strong, -50.0, 0.02 * given["log_decay"])
    exact = battery.outcome(BARE, leaves(given, torch.float64), (), "recurrent")
    ours = battery.outcome(BARE, leaves(given, torch.float32), (), form)
    battery.assert_same(ours, exact, 1e-5, form)
    given["log_decay"] = torch.full_like(given["log_decay"], -50.0)
    exact = battery.outcome(BARE, leaves(given, torch.float64), (), "recurrent")
    ours = battery.outcome(BARE, leaves(given, torch.float32), (), form)
    battery.assert_same(ours, exact, 1e-5, form)


BARE = battery.Operator(
    call=lambda given, state, form: delta_rule(**given, form=form, chunk_size=32),
    inputs=None,
    state=None,
    forms=FORMS,
    time={},
)


def leaves(given, dtype):
    return {name: x.detach().clone().to(dtype).requires_grad_() for name, x in given.items()}


@pytest.mark.slow
def test_a_million_steps_in_float32():
    """Without decay or strong rates errors could pile up; they stay within 1e-4 of float64."""
    given = some(2**20, batch=1, heads=1, d_k=4, d_v=4)
    given["log_decay"] *= 1e-3
    exact, exact_final = delta_rule(**given)
    out, final = delta_rule(**{name: x.float() for name, x in given.items()})
    assert out.isfinite().all()
    assert relative(out.double(), exact) < 1e-4
    assert relative(final.double(), exact_final) < 1e-4


def test_the_switch_takes_the_readable_form():
    given = some(33)
    compiled = battery.outcome(BARE, leaves(given, torch.float64), (), None)
    with reference():
        readable = battery.outcome(BARE, leaves(given, torch.float64), (), None)
        with torch.no_grad():
            assert torch.equal(delta_rule(**given)[0], delta_rule(**given, form="chunkwise")[0])
    battery.assert_same(compiled, readable, 1e-12, "compiled")


def test_an_unused_final_state_needs_no_gradient():
    given = leaves(some(5), torch.float64)
    out, _ = delta_rule(**given)
    out.sum().backward()
    assert all(x.grad.isfinite().all() for x in given.values())


def with_gradients(run, *tensors):
    """Outputs of run(*tensors), a tuple, and the gradients of a weighted sum of them."""
    tensors = [x.clone().requires_grad_() for x in tensors]
    outputs = run(*tensors)
    loss = sum(battery.wave(x, 1.0) for x in outputs)
    return [*(x.detach() for x in outputs), *torch.autograd.grad(loss, tensors)]


def assert_equal_results(ours, theirs, tolerance=1e-5):
    for x, y in zip(ours, theirs, strict=True):
        assert relative(x, y) < tolerance


@pytest.mark.peers
@pytest.mark.parametrize("form", FORMS)
def test_delta_net_as_fla_has_it(form):
    """Theirs multiplies q by d_k^-1/2."""
    naive = import_naive("delta_rule/naive")
    given = some(64, "none", dtype=torch.float32, d_k=16, d_v=8)
    q, k, v = given["q"], given["b"], given["v"]
    beta = torch.rand(2, 3, 64, generator=torch.Generator().manual_seed(2))
    ours = with_gradients(
        lambda q, k, v, beta: delta_rule(
            q / 4, beta[..., None] * k, v, -beta[..., None] * k, k, form=form
        ),
        *(q, k, v, beta),
    )
    assert_equal_results(ours, with_gradients(naive.delta_rule_recurrence, q, k, v, beta))
    assert_equal_results(ours[:2], naive.delta_rule_chunkwise(q, k, v, beta))


@pytest.mark.peers
@pytest.mark.parametrize("form", FORMS)
def test_gated_delta_net_as_fla_has_it(form):
    """Theirs has time before heads and decays the state before it removes from it."""
    naive = import_naive("gated_delta_rule/naive")
    given = some(64, "head and token", dtype=torch.float32, d_k=16, d_v=8)
    q, k, v, log_alpha = given["q"], given["b"], given["v"], given["log_decay"]
    beta = torch.rand(2, 3, 64, generator=torch.Generator().manual_seed(2))

    def run(q, k, v, beta, log_alpha):
        written = beta[..., None] * k
        return delta_rule(
            q / 4, written, v, -log_alpha.exp()[..., None] * written, k, log_alpha, form=form
        )

    def theirs(q, k, v, beta, log_alpha):
        swapped = (x.transpose(1, 2) for x in (q, k, v, beta, log_alpha))
        out, final = naive.naive_recurrent_gated_delta_rule(*swapped, output_final_state=True)
        return out.transpose(1, 2), final

    ours = with_gradients(run, q, k, v, beta, log_alpha)
    assert_equal_results(ours, with_gradients(theirs, q, k, v, beta, log_alpha))
    q, k, v, log_alpha, beta = (x.transpose(1, 2) for x in (q, k, v, log_alpha, beta))
    out, final = naive.naive_chunk_gated_delta_rule(
        q, k, v, log_alpha, beta, output_final_state=True
    )
    assert_equal_results(ours[:2], (out.transpose(1, 2), final))


@pytest.mark.peers
@pytest.mark.parametrize("form", FORMS)
def test_diagonal_plus_low_rank_as_fla_has_it(form):
    """RWKV-7's transition. Their alpha is our b, their beta our a."""
    naive = import_naive("generalized_delta_rule/dplr/naive")
    given = some(64, dtype=torch.float32, d_k=16, d_v=8)
    state = torch.randn(2, 3, 16, 8, generator=torch.Generator().manual_seed(2))
    tensors = (*given.values(), state)
    ours = with_gradients(
        lambda q, k, v, a, b, log_decay, state: delta_rule(
            q / 4, k, v, a, b, log_decay, state=state, form=form
        ),
        *tensors,
    )
    swapped = lambda q, k, v, a, b, *rest: naive.dplr_recurrence(q, k, v, b, a, *rest)  # noqa: E731
    assert_equal_results(ours, with_gradients(swapped, *tensors))
    q, k, v, a, b, log_decay, state = tensors
    assert_equal_results(ours[:2], naive.dplr_chunkwise(q, k, v, b, a, log_decay, state))


@pytest.mark.usefixtures("own_errors")
def test_bad_input_is_named():
    given = some(4)
    with pytest.raises(ValueError, match="q, k, a, b must be"):
        delta_rule(**given | {"a": given["a"][..., :2]})
    with pytest.raises(ValueError, match="log_decay must be <= 0"):
        delta_rule(**given | {"log_decay": -given["log_decay"]})
    with pytest.raises(ValueError, match=r"log_decay must be \(heads,\), .* got \(2, 3\)"):
        delta_rule(**given | {"log_decay": given["log_decay"][:, :, 0, 0]})
    with pytest.raises(ValueError, match="state must be"):
        delta_rule(**given, state=torch.zeros(2, 3, 6, 4, dtype=torch.float64))
    with pytest.raises(ValueError, match="got 'chunked'"):
        delta_rule(**given, form="chunked")
    with pytest.raises(ValueError, match="chunk_size must be at least 1, got 0"):
        delta_rule(**given, chunk_size=0)
