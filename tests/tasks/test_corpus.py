"""The default corpus: deterministic, disjoint splits, windows, baselines."""

import math
import os
from dataclasses import replace

import numpy as np
import pytest
import torch

from ntlib.tasks import Corpus, load_corpus, sources
from ntlib.tasks import corpus as corpus_module
from ntlib.tasks.cache import cache_directory, cached


@pytest.fixture(scope="module")
def corpus():
    return load_corpus("bytes")


@pytest.fixture
def tiny():
    stream = torch.arange(100, dtype=torch.uint8) % 7
    return Corpus(
        level="bytes",
        vocab_size=256,
        fingerprint="none",
        train=stream,
        validation=stream,
        test=stream,
        bytes_per_token={"train": 1.0, "validation": 1.0, "test": 1.0},
    )


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def test_splits_have_their_shares(corpus):
    total = len(corpus.train) + len(corpus.validation) + len(corpus.test)
    assert 30e6 < total < 80e6
    for part in (corpus.validation, corpus.test):
        assert 0.03 < len(part) / total < 0.07
        assert part.dtype == torch.uint8


def test_a_fresh_build_has_the_same_content(corpus, tmp_path, monkeypatch):
    monkeypatch.setenv("NTLIB_CACHE", str(tmp_path))
    again = load_corpus("bytes")
    assert again.fingerprint == corpus.fingerprint
    assert torch.equal(again.test, corpus.test)


def test_no_file_and_no_function_of_training_is_in_evaluation(corpus):
    def files(split):
        return bytes(corpus.tokens(split).numpy()).split(b"\0")[:-1]

    def functions(texts):
        return {function for text in texts for function in sources.functions_of(text)}

    def long_lines(text):
        lines = [line.strip() for line in text.split(b"\n")]
        return [line for line in lines if len(line) >= sources.SHORTEST_LINE]

    train = files("train")
    known_functions = functions(train)
    known_lines = {line for text in train for line in long_lines(text)}
    for split in ("validation", "test"):
        texts = files(split)
        assert known_functions.isdisjoint(functions(texts))
        for text in texts:
            lines = long_lines(text)
            assert sum(line in known_lines for line in lines) <= 0.5 * len(lines)


def test_baselines_are_ordered(corpus):
    unigram, bigram = corpus.unigram_loss(), corpus.bigram_loss()
    assert bigram < unigram < math.log(256)
    assert 2.0 < bigram < 3.0


def test_losses_against_a_count_by_hand(tiny):
    few = replace(tiny, vocab_size=7)
    # 0..6 repeat: each symbol 14 or 15 times of 100; each follower certain but for the smoothing.
    counts = np.bincount(np.arange(100) % 7) + 1
    log_p = np.log(counts / counts.sum())
    assert few.unigram_loss() == pytest.approx(-log_p[np.arange(100) % 7].mean())
    followers = np.bincount(np.arange(99) % 7)
    expected = -np.log((followers + 1) / (followers + 7))[np.arange(99) % 7].mean()
    assert few.bigram_loss() == pytest.approx(expected)


def test_counting_in_pieces_changes_nothing(tiny, monkeypatch):
    whole = tiny.unigram_loss(), tiny.bigram_loss()
    monkeypatch.setattr("ntlib.tasks.corpus.COUNTED_AT_ONCE", 13)
    assert (tiny.unigram_loss(), tiny.bigram_loss()) == whole


def test_targets_are_one_ahead_and_seeded(tiny):
    batch = tiny.sample("train", 50, 9, seeded())
    assert batch.inputs.shape == batch.targets.shape == (50, 9)
    assert batch.inputs.dtype == batch.targets.dtype == torch.int64
    assert torch.equal(batch.targets, (batch.inputs + 1) % 7)
    assert torch.equal(batch.inputs, tiny.sample("train", 50, 9, seeded()).inputs)
    assert not torch.equal(batch.inputs, tiny.sample("train", 50, 9, seeded(1)).inputs)


def test_windows_are_fixed_and_reach_both_ends(tiny):
    marked = replace(tiny, validation=torch.arange(100, dtype=torch.uint8))
    batch = marked.windows("validation", length=10, count=4)
    assert batch.inputs[:, 0].tolist() == [0, 29, 59, 89]
    assert batch.targets[-1, -1] == 99
    assert torch.equal(batch.inputs, marked.windows("validation", 10, 4).inputs)
    assert marked.windows("validation", length=99, count=1).targets[0, -1] == 99


def test_sampling_reaches_the_last_place(tiny):
    batch = tiny.sample("train", 200, 98, seeded())
    assert set(batch.inputs[:, 0].tolist()) == {0, 1}


def test_text_round_trip(corpus):
    text = "def f(x):\n\treturn 'γ' * x\n"
    assert corpus.decode(corpus.encode(text)) == text
    assert corpus.decode([0xCE]) == "�"


def test_the_second_load_reads_no_sources(corpus, monkeypatch):
    def fails():
        raise AssertionError("built again")

    monkeypatch.setattr(sources, "collect", fails)
    corpus_module._read.cache_clear()
    assert load_corpus("bytes").fingerprint == corpus.fingerprint


@pytest.mark.slow  # where no cache is: half a minute to train the tokenizer and to encode
def test_bpe_corpus_is_the_same_text_in_fewer_tokens(corpus):
    bpe = load_corpus("bpe")
    assert bpe.fingerprint == corpus.fingerprint
    assert bpe.vocab_size == 2048
    for split in ("train", "validation", "test"):
        assert bpe.bytes_per_token[split] > 2.5
        # int16 holds the vocabulary, and nothing has overflowed.
        assert 0 <= bpe.tokens(split).min() <= bpe.tokens(split).max() < 2048
    files = bytes(corpus.test.numpy()).split(b"\0")[:2]
    start = bpe.test[: len(bpe.encode(files[0].decode())) + 1]
    assert start[-1] == 0
    assert bpe.decode(start[:-1]) == files[0].decode()


@pytest.mark.parametrize(
    ("ask", "message"),
    [
        (lambda c: c.sample("valid", 1, 5, seeded()), r"split must be one of .* got 'valid'"),
        (lambda c: c.sample("train", 0, 5, seeded()), "batch_size must be at least 1, got 0"),
        (lambda c: c.sample("train", 1, 0, seeded()), "length must be at least 1, got 0"),
        (lambda c: c.windows("train", 5, 0), "count must be at least 1, got 0"),
        (lambda c: c.windows("train", 100, 1), "length 100 is too long: .* 100 tokens"),
    ],
)
def test_refuses(tiny, ask, message):
    with pytest.raises(ValueError, match=message):
        ask(tiny)


def test_refuses_an_unknown_level():
    with pytest.raises(ValueError, match=r"level must be one of .* got 'words'"):
        load_corpus("words")


def test_exact_versions_on_demand(monkeypatch):
    monkeypatch.setitem(sources.PACKAGES, "sympy", "0.1")
    load_corpus("bytes")
    with pytest.raises(ValueError, match=r"sympy .* instead of 0.1"):
        load_corpus("bytes", exact_versions=True)


def test_a_failed_build_leaves_nothing(tmp_path, monkeypatch):
    monkeypatch.setenv("NTLIB_CACHE", str(tmp_path))

    def fails(directory):
        (directory / "half").write_text("")
        raise RuntimeError("killed")

    with pytest.raises(RuntimeError):
        cached("thing", fails)
    assert os.listdir(tmp_path) == []


def test_a_faster_process_wins(tmp_path, monkeypatch):
    monkeypatch.setenv("NTLIB_CACHE", str(tmp_path))

    def build(directory):
        other = tmp_path / "thing"
        other.mkdir()
        (other / "content").write_text("theirs")
        (directory / "content").write_text("ours")

    directory = cached("thing", build)
    assert (directory / "content").read_text() == "theirs"
    assert os.listdir(tmp_path) == ["thing"]


def test_cache_directory_without_the_variable(monkeypatch):
    monkeypatch.delenv("NTLIB_CACHE", raising=False)
    assert cache_directory().name == "ntlib"
