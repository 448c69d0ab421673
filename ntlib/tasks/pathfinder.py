"""Pathfinder: are two dots the ends of one dashed path? An image, read one pixel at a time.

After Linsley et al. (1805.08315) and the Long Range Arena (2011.04006), with an own generator of
small images. Every image has two paths of equal length and some shorter ones; the dots mark either
both ends of one path or one end of each. An image is kept only if both pairs of ends are
equally far apart, and a coin then says which pair is marked: but for the dots, images of both
classes come from one distribution, and the dots' distance tells nothing.

A dash has two pixels, a gap between dashes one. Pixels of different paths are three or more apart,
so that a dash continues where another begins at two pixels from its end.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numba
import numpy as np
import torch

from ntlib.tasks.batch import Batch, Scored

DASH, DOT = 0.5, 1.0  # brightness; the background is 0
CLEARANCE = 2  # pixels around a path that no other path enters
ATTEMPTS = 200  # starts of a path before the whole image is begun anew


@dataclass(frozen=True)
class Pathfinder(Scored):
    """Inputs (batch, side ** 2, 1), row by row; targets (batch, 1), 1 if one path joins the dots.

    Drawn with side 12, where # is a dash and o a dot:

    >>> batch = Pathfinder(side=12).sample(1, torch.Generator().manual_seed(5))
    >>> print(drawing(batch.inputs[0]))
    ············
    ············
    ············
    ·o#·##······
    ·······##···
    ············
    ##·##·····#·
    ··········o·
    ············
    ············
    ··#·#···#·#·
    ·#···#·#···#
    >>> batch.targets.tolist()
    [[1]]
    """

    side: int = 16
    """Pixels of a row; the Arena has 32, and 128 in Path-X."""
    dashes: int = 4
    """Of a long path, the dots' own included: the knob of difficulty, 6, 9 and 14 in the paper."""
    bend: float = 0.3
    """Standard deviation, in radians per pixel, of the change of direction."""

    classes = 2
    vocab_size = None  # inputs are real numbers

    def __post_init__(self) -> None:
        if self.side < 12:
            raise ValueError(f"side must be at least 12, got {self.side}")
        if not 2 <= self.dashes <= self.side // 3:
            raise ValueError(
                f"dashes must be in [2, side / 3 = {self.side // 3}], got {self.dashes}"
            )
        if not 0 <= self.bend <= 1:
            raise ValueError(f"bend must be in [0, 1], got {self.bend}")

    @property
    def length(self) -> int:
        """Pixels of an image."""
        return self.side**2

    @property
    def path(self) -> int:
        """Pixels of a long path, gaps included."""
        return 3 * self.dashes - 1

    @property
    def distractors(self) -> int:
        """Shorter paths, of half as many dashes."""
        return self.side // 8

    def sample(self, batch_size: int, generator: torch.Generator) -> Batch:
        """Draw images; each label is a fair coin."""
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, got {batch_size}")
        random = np.random.default_rng(torch.randint(2**62, (), generator=generator).item())
        labels = torch.randint(2, (batch_size, 1), generator=generator)
        images = torch.zeros(batch_size, self.side, self.side)
        short = 3 * (self.dashes // 2) - 1
        lengths = np.array([self.path] * 2 + [short] * self.distractors)
        _draw(random, labels[:, 0].numpy(), images.numpy(), lengths, self.bend)
        return Batch(images.reshape(batch_size, -1, 1), labels)


def drawing(pixels: torch.Tensor) -> str:
    """One image of (length, 1) pixels to read."""
    side = math.isqrt(len(pixels))
    rows = (pixels.reshape(side, side) / DASH).int().tolist()
    return "\n".join("".join("·#o"[pixel] for pixel in row) for row in rows)


@numba.njit(cache=True)
def _draw(random, labels, images, lengths, bend):
    """Fill the images."""
    side, last = images.shape[1], lengths[0] - 1
    paths = np.empty((len(lengths), lengths[0], 2), np.int64)
    for i in range(len(labels)):
        done, here, there = False, 0, 0
        while not done:
            taken = np.zeros((side, side), np.bool_)
            here, there = last * random.integers(0, 2), last * random.integers(0, 2)
            done = (
                _lay(random, paths[:1], lengths[:1], taken, bend)
                and _lay_as_far(random, paths[0], paths[1], here, there, taken, bend)
                and _lay(random, paths[2:], lengths[2:], taken, bend)
            )
        for path, length in zip(paths, lengths):
            for j in range(length):
                if j % 3 < 2:
                    images[i, path[j, 0], path[j, 1]] = DASH
        for row, column in (
            paths[0, here],
            paths[0, last - here] if labels[i] else paths[1, there],
        ):
            images[i, row, column] = DOT


@numba.njit(cache=True)
def _lay(random, paths, lengths, taken, bend):
    """Lay paths, each clear of what is taken; False if one found no room."""
    for path, length in zip(paths, lengths):
        attempt = 0
        while not _path(random, path[:length], taken, bend):
            attempt += 1
            if attempt == ATTEMPTS:
                return False
        _take(path[:length], taken)
    return True


@numba.njit(cache=True)
def _lay_as_far(random, one, two, here, there, taken, bend):
    """Lay path two so that its end `there` lies from end `here` of path one as the latter's other
    end does, up to a quarter turn or a reflection; False if there was no room."""
    side, last = len(taken), len(one) - 1
    empty = np.zeros((side, side), np.bool_)
    for _ in range(ATTEMPTS):
        if not _path(random, two, empty, bend):
            continue
        apart = one[last - here] - one[here]
        if random.integers(0, 2):
            apart = apart[::-1]
        goal = one[here] + apart * (2 * random.integers(0, 2, 2) - 1)
        two += goal - two[there]
        clear = two.min() >= 0 and two.max() < side
        for j in range(len(two)):
            clear = clear and not taken[two[j, 0], two[j, 1]]
        if clear:
            _take(two, taken)
            return True
    return False


@numba.njit(cache=True)
def _take(path, taken):
    """Close a path and its surroundings to others."""
    for row, column in path:
        taken[
            max(row - CLEARANCE, 0) : row + CLEARANCE + 1,
            max(column - CLEARANCE, 0) : column + CLEARANCE + 1,
        ] = True


@numba.njit(cache=True)
def _path(random, path, taken, bend):
    """A walk to neighbouring pixels with a slowly turning direction; False if it runs into the
    border, another path or itself."""
    side = len(taken)
    y, x = random.uniform(0, side - 1), random.uniform(0, side - 1)
    angle = random.uniform(0, 2 * math.pi)
    for j in range(len(path)):
        row, column = round(y), round(x)
        if not (0 <= row < side and 0 <= column < side) or taken[row, column]:
            return False
        for before in range(j - CLEARANCE):
            apart = max(abs(path[before, 0] - row), abs(path[before, 1] - column))
            if apart <= CLEARANCE:
                return False
        path[j, 0], path[j, 1] = row, column
        angle += bend * random.normal()
        longest = max(abs(math.sin(angle)), abs(math.cos(angle)))
        y += math.sin(angle) / longest
        x += math.cos(angle) / longest
    return True
