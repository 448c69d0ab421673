"""Looking up in strings, motifs, phone books and source code: what is asked for can be found, once,
and stands where the order says."""

import doctest
from dataclasses import replace
from typing import get_args

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ntlib.tasks import (
    IGNORED,
    Copying,
    Digits,
    MotifRecall,
    Needle,
    NGramLookup,
    PhoneBook,
    lookup,
    motif_recall,
    phonebook,
)
from ntlib.tasks.batch import Batch, shares_right
from ntlib.tasks.corpus import load_corpus
from ntlib.tasks.lookup import Order
from ntlib.tasks.motif_recall import FUZZY_RECALL, IN_CONTEXT_RECALL, NOISY_RECALL
from tests.tasks.sequences import (
    check_seeded_and_well_formed,
    draw,
)

TASKS = [
    NGramLookup(),
    NGramLookup(order="both"),
    IN_CONTEXT_RECALL,
    NOISY_RECALL,
    FUZZY_RECALL,
    PhoneBook(entries=5),
    Needle(haystack=100, needles=3),
]
orders = st.sampled_from(get_args(Order))
seeds = st.integers(0, 2**31)


def whole(batch, row=0):
    """All tokens of a sequence, with the last target."""
    return [*batch.inputs[row].tolist(), batch.targets[row, -1].item()]


def answer(targets):
    return targets[targets != IGNORED].tolist()


@pytest.mark.parametrize(("module", "examples"), [(lookup, 4), (motif_recall, 4), (phonebook, 4)])
def test_drawn_examples_are_real(module, examples):
    assert doctest.testmod(module) == (0, examples)


@pytest.mark.parametrize("task", TASKS, ids=lambda task: type(task).__name__)
def test_batches_are_seeded_and_well_formed(task):
    check_seeded_and_well_formed(task)
    assert torch.equal(task.held_out(4).inputs, task.held_out(4).inputs)
    batch = draw(task, 5, 1)
    # scored tokens, but for the last, are what comes next
    following = batch.targets[:, :-1] != IGNORED
    assert torch.equal(batch.targets[:, :-1][following], batch.inputs[:, 1:][following])
    assert len(task.words(batch.inputs[0])) > 0
    assert "." in task.words(batch.targets[0])


@given(
    symbols=st.integers(8, 26),
    key=st.integers(2, 4),
    size=st.integers(1, 4),
    slack=st.integers(0, 8),
    more=st.integers(0, 5),
    order=orders,
    seed=seeds,
)
@settings(max_examples=60, deadline=None)
def test_the_ngram_occurs_once_and_the_answer_follows_it(
    symbols, key, size, slack, more, order, seed
):
    low = key + size + slack
    task = NGramLookup(symbols, key, size, low, low + more, order)
    batch = draw(task, 3, seed)
    for row in range(3):
        said = answer(batch.targets[row])
        assert (batch.targets[row, -size:] != IGNORED).all()
        given_ = whole(batch, row)[:-size]
        parts = " ".join(map(str, given_)).split(" 1 ")
        parts = [[int(word) for word in part.split() if word not in "01"] for part in parts]
        number = {"after": 2, "before": 2, "both": 3, "twice": 4}[order]
        assert len(parts) == number
        asked = parts[0] if order in ("before", "both") else parts[1]
        string = parts[1] if order in ("before", "both") else parts[0]
        if order == "both":
            assert parts[2] == asked
        if order == "twice":
            assert parts[2:] == parts[:2]
        places = [i for i in range(len(string)) if string[i : i + key] == asked]
        assert len(places) == 1
        assert string[places[0] + key :][:size] == said
        assert low <= len(string) <= low + more


def test_every_place_of_an_ngram_and_every_length_occurs():
    task = NGramLookup(key=2, answer=2, min_length=5, max_length=6)
    batch = draw(task, 500, 0)
    padded = (batch.inputs[:, 0] == task.PAD).double().mean()
    assert padded == pytest.approx(0.5, abs=0.1)
    string, asked = batch.inputs[:, :6], batch.inputs[:, 7:9]
    place = (string.unfold(1, 2, 1) == asked[:, None]).all(-1).int().argmax(1)
    assert set(place.tolist()) == {0, 1, 2}


@given(
    keys=st.integers(3, 8),
    values=st.integers(3, 8),
    sizes=st.tuples(st.integers(1, 3), st.integers(1, 3), st.integers(1, 3)),
    pairs=st.integers(1, 3),
    noise=st.sampled_from([0.0, 0.3]),
    length=st.integers(11, 60),
    seed=seeds,
)
@settings(max_examples=60, deadline=None)
def test_keys_keep_their_values_and_are_asked_once_known(
    keys, values, sizes, pairs, noise, length, seed
):
    shortest, key_size = sorted(sizes[:2])
    task = MotifRecall(keys, values, 4, length, pairs, key_size, sizes[2], shortest, noise)
    batch = draw(task, 3, seed)
    for row in range(3):
        known, slots = {}, slots_of(task, whole(batch, row), batch.targets[row].tolist())
        for key, value, scored in slots:
            assert shortest <= len(set(key)) == len(key) <= key_size
            assert 1 <= len(set(value)) == len(value) <= sizes[2]
            assert scored == [key in known] * len(value)
            assert known.setdefault(key, value) == value
        assert len(known) <= pairs
        assert all(slots[-1][2])


def slots_of(task, tokens, targets):
    """(key, value, whether each of its tokens is scored) of all slots without noise."""
    first_value, first_noise = 1 + task.keys, 1 + task.keys + task.values
    slots = []
    for place, token in enumerate(tokens):
        scored = place > 0 and targets[place - 1] != IGNORED
        if first_value <= token < first_noise:
            slots[-1][1].append(token)
            slots[-1][2].append(scored)
        elif 0 < token < first_value:
            if not slots or slots[-1][1]:
                slots.append(([], [], []))
            slots[-1][0].append(token)
        assert first_value <= token < first_noise or not scored
    return [(tuple(key), tuple(value), scored) for key, value, scored in slots]


def test_noise_has_its_share_and_tests_have_the_longest_keys():
    tokens = draw(NOISY_RECALL, 200, 0).inputs
    assert (tokens > 16).double().mean().item() == pytest.approx(0.2, abs=0.01)
    batch = FUZZY_RECALL.held_out(4)
    for row in range(4):
        slots = slots_of(FUZZY_RECALL, whole(batch, row), batch.targets[row].tolist())
        assert {len(key) for key, _, _ in slots} == {3}
        assert {len(value) for _, value, _ in slots} == {1, 2, 3}


@given(entries=st.integers(3, 12), digits=st.integers(1, 10), order=orders, seed=seeds)
@settings(max_examples=40, deadline=None)
def test_the_phone_book_holds_the_number(entries, digits, order, seed):
    task = PhoneBook(entries, digits, order)
    batch = draw(task, 2, seed)
    said = bytes(answer(batch.targets[1])).decode()
    text = bytes(whole(batch, 1)).decode()
    assert text.endswith(said)
    parts = text.removesuffix(said).split("\n\n")
    name = parts[0] if order in ("before", "both") else parts[2]
    book = parts[1:3] if order in ("before", "both") else parts[:2]
    lines, shown = (part.split("\n") for part in book)
    assert len({line[:4] for line in lines}) == len(lines) == entries
    assert lines.count(name + said) == 1
    assert len(set(shown)) == 2
    assert set(shown) <= set(lines) - {name + said}
    assert len(said) == digits
    assert said[0] in "6789"
    expected = {
        "after": [*book, name],
        "before": [name, *book, ""],
        "both": [name, *book, name],
        "twice": [*book, name] * 2,
    }
    assert parts == expected[order]


@given(
    haystack=st.integers(1, 300),
    needles=st.integers(1, 5),
    depth=st.one_of(st.none(), st.floats(0, 1)),
    order=orders,
    seed=seeds,
)
@settings(max_examples=40, deadline=None)
def test_the_needle_is_in_the_haystack(haystack, needles, depth, order, seed):
    task = Needle(haystack, needles, depth=depth, order=order)
    batch = draw(task, 2, seed)
    said = bytes(answer(batch.targets[1]))
    text = bytes(whole(batch, 1)).removesuffix(said)
    size = len("\nkey_Baba = 12345\n")
    context = haystack + needles * size
    start = 0 if order in ("after", "twice") else size - 7 + 2
    hidden, question = text[start : start + context], text[start + context + 2 :][: size - 7]
    if order == "before":
        question = text[: size - 7]
    line = b"\n" + question + said + b"\n"
    assert hidden.count(line) == 1
    assert hidden.count(b"\nkey_") >= needles
    if depth is not None and needles == 1:
        assert hidden.index(line) == round(depth * haystack)


def test_needles_are_trained_and_tested_on_different_text():
    task = Needle(haystack=300)
    source = {split: load_corpus().tokens(split).numpy().tobytes() for split in ("train", "test")}
    front = bytes(replace(task, depth=1.0).held_out(1).inputs[0, :300].tolist())
    windows = load_corpus().windows("validation", 300, 1).inputs
    assert front == bytes(windows[0].tolist())
    assert front not in source["train"]
    assert bytes(draw(replace(task, depth=1.0), 1, 0).inputs[0, :300].tolist()) in source["train"]


def test_a_string_counts_only_as_a_whole():
    i = IGNORED
    targets = torch.tensor([[1, 1, i, 2, 2], [i, 3, 3, 3, i], [4, i, i, i, i], [i, i, i, i, i]])
    predicted = torch.tensor([[1, 1, 0, 2, 0], [0, 3, 3, 3, 0], [0, 0, 0, 0, 0], [0, 0, 0, 0, 0]])
    shares = shares_right(predicted, Batch(targets, targets))
    assert shares == {
        "token_accuracy": 6 / 8,
        "string_accuracy": 2 / 4,
        "sequence_accuracy": 1 / 3,
    }


def test_tasks_become_harder_by_the_field_they_name():
    assert Copying(max_length=8).at(20) == Copying(min_length=20, max_length=20)
    assert PhoneBook().at(70).entries == 70
    assert NGramLookup().at(64).length == 64 + 1 + 3 + 4 - 1
    with pytest.raises(ValueError, match="Digits has no field that makes it harder"):
        Digits().at(3)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: NGramLookup(symbols=1), "symbols must be at least 2, got 1"),
        (lambda: NGramLookup(min_length=6), r"min_length \(key \+ answer\) must be at least 7"),
        (lambda: NGramLookup(order="front"), "order must be one of .*'before'.* got 'front'"),
        (lambda: draw(NGramLookup(2, 1, 1, 60, 60), 1, 0), "no 1-gram of 2 symbols occurs once"),
        (lambda: MotifRecall(pairs=9), "must make pairs = 9 to 100000 .* got 8 and 1: 8"),
        (lambda: MotifRecall(noise=0.2), r"noise_tokens \(with noise\) must be at least 1"),
        (lambda: MotifRecall(noise=1), r"noise must be in \[0, 1\), got 1"),
        (lambda: MotifRecall(length=2), r"length \(two slots.*\) must be at least 3, got 2"),
        (lambda: MotifRecall(shortest_key=2), r"key_size \(shortest_key\) must be at least 2"),
        (lambda: PhoneBook(entries=2), "entries must be at least 3, got 2"),
        (lambda: PhoneBook(entries=9999), "entries must be at most 6400, got 9999"),
        (lambda: Needle(haystack=0), "haystack must be at least 1, got 0"),
        (lambda: Needle(depth=2), r"depth must be in \[0, 1\] or None, got 2"),
        (lambda: draw(Needle(), 0, 0), "batch_size must be at least 1, got 0"),
    ],
)
def test_bad_arguments_are_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()
