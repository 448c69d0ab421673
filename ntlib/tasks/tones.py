"""Which of several frequency bands a noisy tone lies in, at any sampling rate.

The signal is a function of time, so that sampling it more sparsely changes the number of steps and
nothing else: what a model in continuous time can follow by its step alone (S4, 2111.00396,
Sec. 4.3, on speech sampled at half the rate).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from ntlib.tasks.batch import Batch, Scored


@dataclass(frozen=True)
class Tones(Scored):
    """Inputs (batch, length, 1): sin(2 pi f t + phase) + noise, 0 <= t < 1; targets (batch, 1): the
    band of f.

    The bands' borders are evenly spaced in log f from `lowest` to `highest`; f is log-uniform
    within its band and the phase uniform, so that no fixed sample tells anything. `length` is also
    the sampling rate: `dataclasses.replace(task, length=task.length // 2)` has the same tones at
    half of it.
    """

    length: int = 128
    """Samples per sequence."""
    classes: int = 8
    """Bands."""
    lowest: float = 2.0
    """Periods in a sequence."""
    highest: float = 24.0
    """Periods in a sequence; half the length must be more."""
    noise: float = 0.3
    """Standard deviation of the noise in each sample, independent of the rate."""

    vocab_size = None  # inputs are real numbers

    def __post_init__(self) -> None:
        if self.classes < 2:
            raise ValueError(f"classes must be at least 2, got {self.classes}")
        if not 0 < self.lowest < self.highest:
            raise ValueError(f"lowest must be in (0, highest = {self.highest}), got {self.lowest}")
        if self.length <= 2 * self.highest:
            raise ValueError(
                f"length must exceed 2 * highest = {2 * self.highest}, got {self.length}"
            )
        if self.noise < 0:
            raise ValueError(f"noise must not be negative, got {self.noise}")

    def sample(self, batch_size: int, generator: torch.Generator) -> Batch:
        """Draw tones; every band alike."""
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, got {batch_size}")
        labels = torch.randint(self.classes, (batch_size, 1), generator=generator)
        within, turn = torch.rand(2, batch_size, 1, generator=generator)
        octaves = math.log(self.highest / self.lowest)
        frequency = self.lowest * (octaves * (labels + within) / self.classes).exp()
        time = torch.arange(self.length) / self.length
        tone = (2 * math.pi * (frequency * time + turn)).sin()
        noise = torch.randn(tone.shape, generator=generator)
        return Batch((tone + self.noise * noise)[..., None], labels)
