"""Tones: their spectrum lies in the band of the label, at every rate."""

from dataclasses import replace

import pytest
import torch

from ntlib.tasks import Tones
from tests.tasks.sequences import draw


def test_the_loudest_frequency_lies_in_the_band():
    task = Tones(length=256, noise=0)
    inputs, targets = draw(task, 500, 0)
    assert inputs.shape == (500, 256, 1)
    padded = torch.fft.rfft(inputs[..., 0], n=16 * 256).abs().argmax(1) / 16
    borders = 2.0 * 12.0 ** (torch.arange(9) / 8)
    # a tone of few periods is broad: half a period of slack
    assert (padded > borders[targets[:, 0]] - 0.5).all()
    assert (padded < borders[targets[:, 0] + 1] + 0.5).all()
    assert set(targets.flatten().tolist()) == set(range(8))


def test_half_the_rate_gives_every_other_sample():
    task = Tones(noise=0)
    full, half = draw(task, 5, 3), draw(replace(task, length=64), 5, 3)
    torch.testing.assert_close(full.inputs[:, ::2], half.inputs)
    assert torch.equal(full.targets, half.targets)


def test_noise_does_not_depend_on_the_rate():
    for length in (64, 128):
        clean, noisy = (draw(Tones(length, noise=s), 400, 0).inputs for s in (0, 0.3))
        assert (noisy - clean).std() == pytest.approx(0.3, rel=0.02)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Tones(classes=1), "classes must be at least 2, got 1"),
        (lambda: Tones(lowest=30), r"lowest must be in \(0, highest = 24.0\), got 30"),
        (lambda: Tones(length=48), "length must exceed 2 \\* highest = 48.0, got 48"),
        (lambda: Tones(noise=-1), "noise must not be negative, got -1"),
        (lambda: draw(Tones(), 0, 0), "batch_size must be at least 1, got 0"),
    ],
)
def test_bad_arguments_are_named(make, words):
    with pytest.raises(ValueError, match=words):
        make()
