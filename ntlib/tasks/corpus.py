"""The default corpus as tokens: bytes or a small BPE, in three splits, with simple baselines.

What the text is and how it is split and cleaned: :mod:`ntlib.tasks.sources`. It is built once
(a few seconds; the BPE level about half a minute) and then read from the cache.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cache, partial
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from tokenizers import Tokenizer

from ntlib.tasks import sources, tokenizer
from ntlib.tasks.batch import Batch, at_least
from ntlib.tasks.cache import cached
from ntlib.tasks.sources import SPLITS, Split

Level = Literal["bytes", "bpe"]
LEVELS: tuple[Level, ...] = ("bytes", "bpe")
RULES = 1
"""Counts changes of what the corpus contains, so that an old cache is not taken for a new one."""
END_OF_FILE = 0
"""Token between files, at both levels."""
COUNTED_AT_ONCE = 1 << 22
"""Tokens widened to int64 at a time; all of them would take hundreds of megabytes."""


@dataclass(frozen=True, eq=False)
class Corpus:
    """Three disjoint token streams; files are separated by token 0."""

    level: Level
    vocab_size: int
    fingerprint: str
    """sha256 of the text of all splits: equal fingerprints mean equal experiments."""
    train: torch.Tensor
    validation: torch.Tensor
    test: torch.Tensor
    bytes_per_token: dict[str, float]
    """By split; loss in nats / (ln 2 * bytes_per_token) is bits per byte."""
    _tokenizer: Tokenizer | None = field(default=None, repr=False)

    def tokens(self, split: Split) -> torch.Tensor:
        """The stream of a split, one-dimensional."""
        if split not in SPLITS:
            raise ValueError(f"split must be one of {SPLITS}, got {split!r}")
        return getattr(self, split)

    def sample(
        self, split: Split, batch_size: int, length: int, generator: torch.Generator
    ) -> Batch:
        """Windows at random places: inputs and targets (batch, length), targets one ahead."""
        at_least(batch_size, 1, "batch_size")
        places = self._places(split, length)
        return self._cut(split, torch.randint(places, (batch_size,), generator=generator), length)

    def windows(self, split: Split, length: int, count: int) -> Batch:
        """``count`` windows spread evenly over a split, the same at each call: (count, length)."""
        at_least(count, 1, "count")
        places = self._places(split, length)
        starts = torch.linspace(0, places - 1, count, dtype=torch.float64).long()
        return self._cut(split, starts, length)

    def encode(self, text: str) -> torch.Tensor:
        """Tokens of a text, one-dimensional int64."""
        if self._tokenizer is None:
            return torch.tensor(list(text.encode()), dtype=torch.int64)
        return torch.tensor(self._tokenizer.encode(text).ids, dtype=torch.int64)

    def decode(self, tokens: torch.Tensor | Iterable[int]) -> str:
        """Text of tokens; bytes that are cut within a character become U+FFFD."""
        ids = tokens.tolist() if isinstance(tokens, torch.Tensor) else list(tokens)
        if self._tokenizer is None:
            return bytes(ids).decode(errors="replace")
        return self._tokenizer.decode(ids, skip_special_tokens=False)

    def unigram_loss(self, split: Split = "validation") -> float:
        """Nats per token of token frequencies counted on train, plus one."""
        counts = _counts(self.train, self.vocab_size) + 1
        log_p = (counts / counts.sum()).log()
        seen = _counts(self.tokens(split), self.vocab_size)
        return -(seen * log_p).sum().item() / seen.sum().item()

    def bigram_loss(self, split: Split = "validation") -> float:
        """Nats per token of the next token given one before it, counted on train, plus one."""
        counts = _pair_counts(self.train, self.vocab_size) + 1
        log_p = (counts / counts.sum(dim=1, keepdim=True)).log()
        seen = _pair_counts(self.tokens(split), self.vocab_size)
        return -(seen * log_p).sum().item() / seen.sum().item()

    def _places(self, split: Split, length: int) -> int:
        """How many windows of ``length`` inputs and one more target fit into a split."""
        at_least(length, 1, "length")
        places = len(self.tokens(split)) - length
        if places < 1:
            raise ValueError(
                f"length {length} is too long: the {split} split has "
                f"{len(self.tokens(split))} tokens, of which the last is only a target"
            )
        return places

    def _cut(self, split: Split, starts: torch.Tensor, length: int) -> Batch:
        index = starts[:, None] + torch.arange(length + 1)
        window = self.tokens(split)[index].long()
        return Batch(window[:, :-1], window[:, 1:])


def load_corpus(level: Level = "bytes", *, exact_versions: bool = False) -> Corpus:
    """The default corpus, from the cache if it was built before; cheap to call again.

    level: "bytes" (vocabulary 256) or "bpe" (2048, trained on the train split only).
    exact_versions: raise ``ValueError`` if an installed package differs from the version that the
    book's figures were made with, instead of building a slightly different corpus.
    """
    if level not in LEVELS:
        raise ValueError(f"level must be one of {LEVELS}, got {level!r}")
    versions = sources.installed_versions()
    if exact_versions:
        sources.check_versions(versions)
    key = hashlib.sha256(json.dumps([RULES, versions]).encode()).hexdigest()[:16]
    text = cached(f"corpus-bytes-{key}", _build_bytes)
    directory = text
    if level == "bpe":
        name = f"corpus-bpe-{tokenizer.VOCAB_SIZE}-{key}"
        directory = cached(name, partial(_build_bpe, text))
    return _read(level, directory, text)


def _build_bytes(directory: Path) -> None:
    files = sources.collect()
    digest = hashlib.sha256()
    for split in SPLITS:
        content = b"".join(file.text + b"\0" for file in files if file.split == split)
        digest.update(split.encode() + len(content).to_bytes(8, "big") + content)
        np.save(directory / f"{split}.npy", np.frombuffer(content, dtype=np.uint8))
    (directory / "corpus.json").write_text(json.dumps({"fingerprint": digest.hexdigest()}))


def _build_bpe(text: Path, directory: Path) -> None:
    trained = tokenizer.train_tokenizer(_documents(text, "train"))
    trained.save(str(directory / "tokenizer.json"))
    for split in SPLITS:
        tokens = tokenizer.encode_documents(trained, _documents(text, split))
        np.save(directory / f"{split}.npy", tokens)


def _documents(text: Path, split: Split) -> list[str]:
    content = np.load(text / f"{split}.npy").tobytes()
    return [document.decode(errors="replace") for document in content.split(b"\0")[:-1]]


@cache
def _read(level: Level, directory: Path, text: Path) -> Corpus:
    # Copy-on-write maps: opened at once, read as needed, and shared between processes.
    tokens = {split: np.load(directory / f"{split}.npy", mmap_mode="c") for split in SPLITS}
    sizes = {split: len(np.load(text / f"{split}.npy", mmap_mode="r")) for split in SPLITS}
    bpe = tokenizer.load_tokenizer(directory / "tokenizer.json") if level == "bpe" else None
    return Corpus(
        level=level,
        vocab_size=256 if bpe is None else bpe.get_vocab_size(),
        fingerprint=json.loads((text / "corpus.json").read_text())["fingerprint"],
        # int16: torch has no arithmetic on uint16, and 2048 tokens fit.
        **{split: torch.from_numpy(_signed(tokens[split])) for split in SPLITS},
        bytes_per_token={split: sizes[split] / len(tokens[split]) for split in SPLITS},
        _tokenizer=bpe,
    )


def _signed(tokens: np.ndarray) -> np.ndarray:
    return tokens.view(np.int16) if tokens.dtype == np.uint16 else tokens


def _counts(tokens: torch.Tensor, vocab_size: int) -> torch.Tensor:
    """(vocab_size,) occurrences, float64."""
    parts = tokens.split(COUNTED_AT_ONCE)
    return sum(torch.bincount(part.long(), minlength=vocab_size) for part in parts).double()


def _pair_counts(tokens: torch.Tensor, vocab_size: int) -> torch.Tensor:
    """(vocab_size, vocab_size) occurrences of (before, next), float64."""
    total = torch.zeros(vocab_size**2, dtype=torch.int64)
    for start in range(0, len(tokens) - 1, COUNTED_AT_ONCE):
        part = tokens[start : start + COUNTED_AT_ONCE + 1].long()
        total += torch.bincount(part[:-1] * vocab_size + part[1:], minlength=vocab_size**2)
    return total.double().view(vocab_size, vocab_size)
