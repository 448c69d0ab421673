"""Digits as sequences: scikit-learn's own images, split by hand, in a fixed order."""

import pytest
import torch
from sklearn.datasets import load_digits
from sklearn.neighbors import KNeighborsClassifier

from ntlib.tasks import Digits
from ntlib.tasks.digits import HELD_OUT


def standardised(images):
    images = torch.tensor(images, dtype=torch.float32).flatten(1)
    known = images[:-HELD_OUT]
    return (images - known.mean()) / known.std()


def test_held_out_images_are_the_last_ones_and_never_trained_on():
    expected = standardised(load_digits().images)
    task = Digits()
    batch = task.held_out(HELD_OUT)
    torch.testing.assert_close(batch.inputs[..., 0], expected[-HELD_OUT:])
    assert batch.targets[:, 0].tolist() == load_digits().target[-HELD_OUT:].tolist()
    drawn = task.sample(4000, torch.Generator().manual_seed(0))
    assert drawn.inputs.shape == (4000, 64, 1)
    assert drawn.targets.shape == (4000, 1)
    known = {tuple(row.tolist()) for row in expected[:-HELD_OUT]}
    assert {tuple(row[:, 0].tolist()) for row in drawn.inputs} <= known
    assert len(set(drawn.targets.flatten().tolist())) == task.classes == 10


def test_neighbours_in_the_file_are_alike():
    """Why the split keeps the file's order: shuffled, it would be easier."""
    x, y = load_digits(return_X_y=True)
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(0)).numpy()
    nearest = KNeighborsClassifier(1)
    scores = [
        nearest.fit(x[o[:-HELD_OUT]], y[o[:-HELD_OUT]]).score(x[o[-HELD_OUT:]], y[o[-HELD_OUT:]])
        for o in (sorted(order), order)
    ]
    assert scores[1] > scores[0] + 0.02


def test_larger_images_show_the_same():
    small, large = Digits(), Digits(28)
    assert large.length == 784
    images = large.held_out(20).inputs.reshape(20, 1, 28, 28)
    shrunk = torch.nn.functional.interpolate(images, (8, 8), mode="area").flatten(1)
    correlation = torch.corrcoef(
        torch.stack([shrunk.flatten(), small.held_out(20).inputs.flatten()])
    )[0, 1]
    assert correlation > 0.95
    assert torch.equal(small.held_out(20).targets, large.held_out(20).targets)


def test_permutation_is_fixed_and_moves_pixels_only():
    plain, permuted = (Digits(permuted=p).held_out(50).inputs for p in (False, True))
    assert not torch.equal(plain, permuted)
    assert torch.equal(plain.sort(1).values, permuted.sort(1).values)
    # a pixel has one new place in all images
    places = [
        next(j for j in range(64) if torch.equal(permuted[:, j], plain[:, i])) for i in (20, 37, 44)
    ]
    assert places != [20, 37, 44]


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Digits(7), "side must be at least 8, got 7"),
        (lambda: Digits().held_out(361), r"count must be in \[1, 360\], got 361"),
        (lambda: Digits().sample(0, torch.Generator()), "batch_size must be at least 1, got 0"),
    ],
)
def test_bad_arguments_are_named(make, words):
    with pytest.raises(ValueError, match=words):
        make()
