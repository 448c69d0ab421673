"""The battery: what every operator must satisfy in every form.

An operator's test file describes it once, as an Operator, and runs CHECKS over it. The form
"compiled" is the kernel; `forms[0]` is the definition that the others are held to.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

import pytest
import torch
from torch import Tensor

FLOAT64_TOLERANCE, FLOAT32_TOLERANCE = 1e-10, 1e-5
LENGTHS = (1, 2, 7, 16, 33)


@dataclass
class Operator:
    """One operator in one configuration, described to the battery."""

    # (inputs, state or None, form) -> output and state: a tensor or a flat tuple of tensors
    call: Callable[[dict[str, Tensor], tuple[Tensor, ...] | None, str], tuple]
    # (length, generator) -> float64 or complex128 inputs by name, batch size 2
    inputs: Callable[[int, torch.Generator], dict[str, Tensor]]
    # (inputs, generator) -> a state that is not zero
    state: Callable[[dict[str, Tensor], torch.Generator], tuple[Tensor, ...]]
    forms: tuple[str, ...]
    time: dict[str, int]  # dimension of time in each input that has one
    out_time: int = 1
    # inputs that low precision must not touch (decays near 1)
    keep_float32: frozenset[str] = field(default_factory=frozenset)


def relative(a: Tensor, b: Tensor) -> float:
    """Largest difference, relative to the largest entry of b."""
    return ((a - b).abs().max() / b.abs().max().clamp(min=1e-30)).item()


def prepared(op: Operator, length: int, dtype=torch.float64, seed=0):
    """Inputs and a state, as leaves that need gradients."""
    generator = torch.Generator().manual_seed(seed)
    inputs = op.inputs(length, generator)
    state = op.state(inputs, generator)
    cast = lambda x: x.to(dtype.to_complex() if x.is_complex() else dtype)  # noqa: E731
    inputs = {name: cast(x).requires_grad_() for name, x in inputs.items()}
    return inputs, tuple(cast(x).requires_grad_() for x in state)


def parts(state) -> tuple[Tensor, ...]:
    return (state,) if isinstance(state, Tensor) else tuple(state)


def wave(x: Tensor, frequency: float) -> Tensor:
    """A number that every entry of x changes, each by another amount."""
    real = torch.view_as_real(x) if x.is_complex() else x
    weights = torch.linspace(0.5, 1.5, real.numel(), dtype=torch.float64).view(real.shape)
    return ((frequency * real.double()).sin() * weights).sum()


def outcome(op: Operator, inputs, state, form) -> dict[str, Tensor]:
    """Output, final state and the gradient of both with respect to every input and the state."""
    out, final = op.call(inputs, state, form)
    final = parts(final)
    named = inputs | {f"state {i}": x for i, x in enumerate(state)}
    loss = wave(out, 1.0) + sum(wave(x, 0.7) for x in final)
    grads = torch.autograd.grad(loss, list(named.values()), allow_unused=True)
    grads = {
        f"gradient of {name}": torch.zeros_like(x) if grad is None else grad
        for (name, x), grad in zip(named.items(), grads, strict=True)
    }
    finals = {f"final state {i}": x.detach() for i, x in enumerate(final)}
    return {"output": out.detach()} | finals | grads


def assert_same(ours: dict[str, Tensor], definition: dict[str, Tensor], tolerance: float, where):
    """Relative to the largest entry, or to a thousandth where all entries are smaller."""
    for name, expected in definition.items():
        error = (ours[name] - expected).abs().max() / expected.abs().max().clamp(min=1e-3)
        assert error <= tolerance, f"{name}, {where}: relative error {error:.1e}"


def forms_agree_in_float64(op):
    """Outputs, final states and all gradients."""
    for length in LENGTHS:
        inputs, state = prepared(op, length, seed=length)
        definition = outcome(op, inputs, state, op.forms[0])
        for form in op.forms[1:]:
            ours = outcome(op, inputs, state, form)
            assert_same(ours, definition, FLOAT64_TOLERANCE, f"{form}, length {length}")


def forms_agree_in_float32(op):
    for length in LENGTHS:
        inputs, state = prepared(op, length, torch.float32, seed=length)
        exact_inputs = {
            name: x.detach().to(torch.promote_types(x.dtype, torch.float64))
            for name, x in inputs.items()
        }
        exact_inputs = {name: x.requires_grad_() for name, x in exact_inputs.items()}
        exact_state = tuple(
            x.detach().to(torch.promote_types(x.dtype, torch.float64)).requires_grad_()
            for x in state
        )
        definition = outcome(op, exact_inputs, exact_state, op.forms[0])
        for form in op.forms:
            ours = outcome(op, inputs, state, form)
            assert_same(ours, definition, FLOAT32_TOLERANCE, f"{form}, length {length}")


def no_state_is_a_state_of_its_own(op):
    """Without a state: the same in every form."""
    for length in (1, 7):
        inputs, _ = prepared(op, length)
        definition = outcome_without_state(op, inputs, op.forms[0])
        for form in op.forms[1:]:
            ours = outcome_without_state(op, inputs, form)
            assert_same(ours, definition, FLOAT64_TOLERANCE, form)


def outcome_without_state(op, inputs, form):
    out, final = op.call(inputs, None, form)
    return {"output": out} | {f"final state {i}": x for i, x in enumerate(parts(final))}


def gradients_match_finite_differences(op):
    inputs, state = prepared(op, 5)
    names, leaves = list(inputs), list(inputs.values())

    def run(*values):
        given = dict(zip(names, values[: len(names)], strict=True))
        out, final = op.call(given, tuple(values[len(names) :]), form)
        return out, *parts(final)

    for form in op.forms:
        assert torch.autograd.gradcheck(run, (*leaves, *state), fast_mode=True), form


def may_be_cut_anywhere(op):
    length = 9
    inputs, state = prepared(op, length)
    with torch.no_grad():
        for form in op.forms:
            whole, final = op.call(inputs, state, form)
            for cut in range(1, length):
                first, second = split(op, inputs, cut, length)
                out_1, middle = op.call(first, state, form)
                out_2, end = op.call(second, parts(middle), form)
                assert relative(torch.cat([out_1, out_2], dim=op.out_time), whole) < 1e-11, (
                    form,
                    cut,
                )
                for ours, theirs in zip(parts(end), parts(final), strict=True):
                    assert relative(ours, theirs) < 1e-11, f"{form}, cut at {cut}"


def split(op, inputs, cut, length):
    sides = []
    for start, size in ((0, cut), (cut, length - cut)):
        sides.append(
            {
                name: x.narrow(op.time[name], start, size) if name in op.time else x
                for name, x in inputs.items()
            }
        )
    return sides


def no_output_depends_on_what_follows(op):
    length, cut = 17, 9
    inputs, state = prepared(op, length)
    changed, _ = prepared(op, length, seed=1)
    with torch.no_grad():
        mixed = {
            name: torch.cat(
                [
                    x.narrow(op.time[name], 0, cut),
                    changed[name].narrow(op.time[name], cut, length - cut),
                ],
                op.time[name],
            )
            if name in op.time
            else x
            for name, x in inputs.items()
        }
        for form in op.forms:
            before = op.call(inputs, state, form)[0].narrow(op.out_time, 0, cut)
            after = op.call(mixed, state, form)[0].narrow(op.out_time, 0, cut)
            assert relative(after, before) < 1e-12, form


def strided_inputs_are_read_right(op):
    """Views that are not contiguous: the last dimension walked in steps of two."""
    inputs, state = prepared(op, 7)
    spread = {
        name: torch.stack([x, torch.full_like(x, float("nan"))], dim=-1).detach()[..., 0]
        for name, x in inputs.items()
    }
    with torch.no_grad():
        for form in op.forms:
            assert (
                relative(op.call(spread, state, form)[0], op.call(inputs, state, form)[0]) < 1e-13
            ), form


def bfloat16_inputs_keep_a_float32_state(op):
    inputs, state = prepared(op, 33, torch.float32)
    with torch.no_grad():
        rounded = {
            name: x if name in op.keep_float32 or x.is_complex() else x.bfloat16()
            for name, x in inputs.items()
        }
        exact = {name: x.float() if not x.is_complex() else x for name, x in rounded.items()}
        for form in op.forms:
            out, final = op.call(rounded, state, form)
            expected, expected_final = op.call(exact, state, form)
            assert out.dtype == torch.bfloat16, form
            assert all(x.dtype in (torch.float32, torch.complex64) for x in parts(final)), form
            assert relative(out.float(), expected) < 1e-2, form
            for ours, theirs in zip(parts(final), parts(expected_final), strict=True):
                assert relative(ours, theirs) < 1e-2, form


def inputs_and_state_are_left_alone(op):
    inputs, state = prepared(op, 7)
    copies = [x.detach().clone() for x in (*inputs.values(), *state)]
    for form in op.forms:
        outcome(op, inputs, state, form)
        for x, copy in zip((*inputs.values(), *state), copies, strict=True):
            assert torch.equal(x, copy), form


def an_empty_sequence_is_refused(op):
    inputs, state = prepared(op, 2)
    empty = {
        name: x.narrow(op.time[name], 0, 0) if name in op.time else x for name, x in inputs.items()
    }
    for form in op.forms:
        with pytest.raises(ValueError, match="length must be at least 1"):
            op.call(empty, state, form)


CHECKS = [
    forms_agree_in_float64,
    forms_agree_in_float32,
    no_state_is_a_state_of_its_own,
    gradients_match_finite_differences,
    may_be_cut_anywhere,
    no_output_depends_on_what_follows,
    strided_inputs_are_read_right,
    bfloat16_inputs_keep_a_float32_state,
    inputs_and_state_are_left_alone,
    an_empty_sequence_is_refused,
]
