"""The battery: what every mixer must satisfy.

Each check takes a configuration; test_battery.py runs all over all.
"""

import copy

import torch

from ntlib.mixers.protocol import Mixer, MixerConfig

D_MODEL = 24


def build(config: MixerConfig, dtype=torch.float64) -> Mixer:
    mixer = config.build(D_MODEL)
    generator = torch.Generator().manual_seed(0)
    mixer.reset_parameters(generator)
    for parameter in mixer.parameters():
        if not parameter.any():  # what starts at zero would hide all that it multiplies
            torch.nn.init.normal_(parameter, std=D_MODEL**-0.5, generator=generator)
    return mixer.to(dtype)


def sequence(length, batch=2, dtype=torch.float64, seed=1):
    return torch.randn(
        batch, length, D_MODEL, generator=torch.Generator().manual_seed(seed), dtype=torch.float64
    ).to(dtype)


def tensors(state):
    """All tensors of a nested state, in a fixed order."""
    if isinstance(state, torch.Tensor):
        return [state]
    return [t for part in state for t in tensors(part)] if isinstance(state, (tuple, list)) else []


def close(a, b, tolerance=1e-10):
    return (a - b).abs().max() <= tolerance * b.abs().max().clamp(min=1e-3)


def steps(mixer, x):
    state, outputs = mixer.init_state(x.shape[0], capacity=x.shape[1]), []
    for x_t in x.unbind(1):
        y_t, state = mixer.step(x_t, state)
        outputs.append(y_t)
    return torch.stack(outputs, dim=1), state


def forward_equals_steps(config):
    mixer, x = build(config), sequence(19)
    with torch.no_grad():
        assert close(steps(mixer, x)[0], mixer(x)[0])


def steps_need_no_capacity(config):
    mixer, x = build(config), sequence(9)
    with torch.no_grad():
        state, outputs = mixer.init_state(2), []
        for x_t in x.unbind(1):
            y_t, state = mixer.step(x_t, state)
            outputs.append(y_t)
        assert close(torch.stack(outputs, dim=1), mixer(x)[0])


def may_be_cut_anywhere(config):
    mixer, x = build(config), sequence(13)
    with torch.no_grad():
        whole = mixer(x)[0]
        for cut in range(1, 13):
            first, state = mixer(x[:, :cut])
            second, state = mixer(x[:, cut:], state)
            assert close(torch.cat([first, second], dim=1), whole), f"cut at {cut}"


def gradients_flow_through_a_cut(config):
    mixer, x = build(config), sequence(11).requires_grad_()
    whole = torch.autograd.grad(mixer(x)[0].sin().sum(), x)[0]
    first, state = mixer(x[:, :5])
    second, _ = mixer(x[:, 5:], state)
    assert close(torch.autograd.grad(first.sin().sum() + second.sin().sum(), x)[0], whole)


def is_causal(config):
    mixer, x = build(config), sequence(17)
    changed = x.clone()
    changed[:, 9:] = sequence(17, seed=2)[:, 9:]
    with torch.no_grad():
        before, after = mixer(x)[0], mixer(changed)[0]
    assert torch.equal(before[:, :9], after[:, :9]) or close(before[:, :9], after[:, :9], 1e-13)
    assert not close(before[:, 9:], after[:, 9:], 1e-3)


def batch_entries_do_not_mix(config):
    mixer, x = build(config), sequence(12, batch=3)
    with torch.no_grad():
        assert close(mixer(x)[0][1:2], mixer(x[1:2])[0], 1e-12)


def gradients_match_finite_differences(config):
    mixer, x = build(config), sequence(4, batch=1).requires_grad_()
    assert torch.autograd.gradcheck(lambda inp: mixer(inp)[0], (x,), fast_mode=True)
    names, weights = zip(*mixer.named_parameters(), strict=True)
    assert torch.autograd.gradcheck(
        lambda *w: torch.func.functional_call(
            mixer, dict(zip(names, w, strict=True)), (x.detach(),)
        )[0],
        tuple(w.detach().clone().requires_grad_() for w in weights),
        fast_mode=True,
    )


def low_precision_stays_close(config):
    x = sequence(512)
    with torch.no_grad():
        exact = build(config)(x)[0]
        for dtype, tolerance in ((torch.float32, 1e-4), (torch.bfloat16, 0.1)):
            out = build(config, dtype)(x.to(dtype))[0]
            assert out.dtype == dtype
            assert out.isfinite().all()
            assert close(out.double(), exact, tolerance)


def state_survives_a_copy(config):
    """A state is plain tensors and numbers: a copy continues as the original does."""
    mixer, x = build(config), sequence(8)
    with torch.no_grad():
        _, state = mixer(x)
        kept = copy.deepcopy(state)
        assert close(mixer(x, kept)[0], mixer(x, state)[0], 1e-13)


def state_dict_round_trips(config):
    mixer, x = build(config), sequence(6)
    other = config.build(D_MODEL).double()
    other.load_state_dict(mixer.state_dict())
    with torch.no_grad():
        assert torch.equal(mixer(x)[0], other(x)[0])


def weights_come_from_the_generator(config):
    first, second = build(config), build(config)
    assert all(
        torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True)
    )


def inference_mode_leaves_nothing_behind(config):
    """What is computed once and kept must serve a later backward pass, too."""
    mixer, x = build(config), sequence(7)
    with torch.inference_mode():
        mixer(x)
        steps(mixer, x)
    mixer(x)[0].sum().backward()


def the_meta_device_leaves_nothing_behind(config):
    with torch.device("meta"):
        config.build(D_MODEL)
    mixer = build(config)
    assert mixer(sequence(3))[0].device.type == "cpu"


CHECKS = [
    inference_mode_leaves_nothing_behind,
    the_meta_device_leaves_nothing_behind,
    forward_equals_steps,
    steps_need_no_capacity,
    may_be_cut_anywhere,
    gradients_flow_through_a_cut,
    is_causal,
    batch_entries_do_not_mix,
    gradients_match_finite_differences,
    low_precision_stays_close,
    state_survives_a_copy,
    state_dict_round_trips,
    weights_come_from_the_generator,
]
