"""Pathfinder: labels agree with connected components, and only following a path gives them."""

import doctest

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage
from sklearn.ensemble import HistGradientBoostingClassifier

from ntlib.tasks import Pathfinder, pathfinder
from ntlib.tasks.pathfinder import DASH, DOT
from tests.tasks.blind import accuracy_of_linear_model
from tests.tasks.sequences import draw


def images(batch):
    side = round(batch.inputs.shape[1] ** 0.5)
    return batch.inputs.reshape(-1, side, side).numpy()


def components(image):
    """Paths as numbers per pixel: pixels belong together from distance 2 (one gap) on, found by
    growing every pixel by one to the right and below before joining neighbours."""
    grown = ndimage.grey_dilation(image, size=(2, 2), origin=(-1, -1))
    return ndimage.label(grown > 0, structure=np.ones((3, 3)))[0]


def test_drawn_examples_are_real():
    assert doctest.testmod(pathfinder) == (0, 3)


@given(
    side=st.integers(12, 40),
    dashes=st.integers(2, 6),
    bend=st.floats(0, 0.5),
    seed=st.integers(0, 2**31),
)
@settings(max_examples=25, deadline=None)
def test_labels_are_what_a_search_finds(side, dashes, bend, seed):
    task = Pathfinder(side, min(dashes, side // 4), bend)
    batch = draw(task, 8, seed)
    for image, label in zip(images(batch), batch.targets[:, 0].tolist(), strict=True):
        paths = components(image)
        assert paths.max() == 2 + task.distractors
        one, two = np.argwhere(image == DOT)
        assert (paths[tuple(one)] == paths[tuple(two)]) == bool(label)


def test_every_image_has_the_same_amount_of_ink():
    batch = draw(Pathfinder(16), 200, 0)
    assert set(np.unique(images(batch))) == {0, DASH, DOT}
    assert len(set((batch.inputs > 0).sum((1, 2)).tolist())) == 1
    assert ((batch.inputs == DOT).sum((1, 2)) == 2).all()
    assert 0.35 < batch.targets.double().mean() < 0.65


def test_the_dots_are_equally_far_apart_in_both_classes():
    batch = draw(Pathfinder(16), 6000, 0)
    dots = np.array([np.argwhere(image == DOT) for image in images(batch)])
    apart = np.sort(np.abs(dots[:, 0] - dots[:, 1]), axis=1)
    labels = batch.targets[:, 0].numpy()
    means = [apart[labels == label].mean(axis=0) for label in (0, 1)]
    spread = apart.std(axis=0) * (4 / len(apart)) ** 0.5
    assert (np.abs(means[0] - means[1]) < 4 * spread).all()


@pytest.mark.slow
@pytest.mark.parametrize("side", [16, 32])
def test_blind_models_are_near_chance(side):
    batch = draw(Pathfinder(side), 8000, 0)
    assert accuracy_of_linear_model(batch.inputs, batch.targets) < 0.54
    dots = np.array([np.argwhere(image == DOT).ravel() for image in images(batch)])
    labels = batch.targets[:, 0].numpy()
    trees = HistGradientBoostingClassifier().fit(dots[:6000], labels[:6000])
    assert trees.score(dots[6000:], labels[6000:]) < 0.57  # they see the dots' places alone


def test_batches_are_seeded():
    task = Pathfinder(16)
    assert torch.equal(draw(task, 5, 1).inputs, draw(task, 5, 1).inputs)
    assert not torch.equal(draw(task, 5, 1).inputs, draw(task, 5, 2).inputs)
    assert draw(task, 5, 1).inputs.shape == (5, 256, 1)
    assert draw(task, 5, 1).targets.shape == (5, 1)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Pathfinder(11), "side must be at least 12, got 11"),
        (lambda: Pathfinder(dashes=1), r"dashes must be in \[2, side / 3 = 5\], got 1"),
        (lambda: Pathfinder(bend=2), r"bend must be in \[0, 1\], got 2"),
        (lambda: draw(Pathfinder(), 0, 0), "batch_size must be at least 1, got 0"),
    ],
)
def test_bad_arguments_are_named(make, words):
    with pytest.raises(ValueError, match=words):
        make()
