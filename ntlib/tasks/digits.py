"""Handwritten digits, read one pixel at a time: the 1797 images of 8 x 8 that scikit-learn ships.

They are the test set of a UCI collection (Alpaydin & Kaynak 1998), in the order in which they were
collected. The last fifth is held out in that order: neighbours are often of one hand, and a
shuffled split would test on the hands trained on.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import torch
import torch.nn.functional as F

from ntlib.tasks.batch import Batch, Scored

SIDE = 8
HELD_OUT = 360
"""Images that no training batch contains, about 36 of each digit."""
PERMUTATION_SEED = 1_000_003


@dataclass(frozen=True)
class Digits(Scored):
    """Name the digit from its pixels, row by row: inputs (batch, side ** 2, 1), targets (batch, 1).

    Pixels have mean 0 and variance 1 over the training images. Sides other than 8 are interpolated:
    28 gives the 784 steps of sequential MNIST, with less detail than MNIST has.
    """

    side: int = SIDE
    """Pixels of a row."""
    permuted: bool = False
    """Read the pixels in one fixed random order, so that neighbours in the image are far apart."""

    classes = 10
    vocab_size = None  # inputs are real numbers

    def __post_init__(self) -> None:
        if self.side < SIDE:
            raise ValueError(f"side must be at least {SIDE}, got {self.side}")

    @property
    def length(self) -> int:
        """Pixels of an image."""
        return self.side**2

    def sample(self, batch_size: int, generator: torch.Generator) -> Batch:
        """Training images, drawn with replacement."""
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, got {batch_size}")
        pixels, labels = _sequences(self)
        chosen = torch.randint(len(labels) - HELD_OUT, (batch_size,), generator=generator)
        return Batch(pixels[chosen], labels[chosen])

    def held_out(self, count: int) -> Batch:
        """`count` images spread evenly over those that are held out."""
        if not 1 <= count <= HELD_OUT:
            raise ValueError(f"count must be in [1, {HELD_OUT}], got {count}")
        pixels, labels = _sequences(self)
        chosen = len(labels) - HELD_OUT + torch.arange(count) * HELD_OUT // count
        return Batch(pixels[chosen], labels[chosen])


@cache
def _sequences(task: Digits) -> tuple[torch.Tensor, torch.Tensor]:
    """All images as sequences (images, length, 1), and their labels (images, 1)."""
    from sklearn.datasets import load_digits  # a second of imports, for those who ask for digits

    digits = load_digits()
    images = torch.tensor(digits.images, dtype=torch.float32)
    if task.side != SIDE:
        size = (task.side, task.side)
        images = F.interpolate(images[:, None], size, mode="bilinear", align_corners=False)
    pixels = images.reshape(len(images), -1, 1)
    if task.permuted:
        generator = torch.Generator().manual_seed(PERMUTATION_SEED)
        pixels = pixels[:, torch.randperm(task.length, generator=generator)]
    known = pixels[:-HELD_OUT]
    return (pixels - known.mean()) / known.std(), torch.tensor(digits.target)[:, None]
