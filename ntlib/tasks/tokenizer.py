"""A small byte-level BPE tokenizer (Sennrich et al. 2016; byte level as in GPT-2).

Every string can be encoded, and decoding gives it back exactly: the alphabet is all 256 bytes.
Losses of models with different tokenizers compare in bits per byte, through ``bytes_per_token``.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

END = "<end>"
"""Marks the end of a file; always token 0."""
VOCAB_SIZE = 2048
"""Small, so that small models spend their parameters on the sequence and not on the table."""


def train_tokenizer(texts: Iterable[str], vocab_size: int = VOCAB_SIZE) -> Tokenizer:
    """Learn merges from texts; deterministic. ``vocab_size`` counts the 256 bytes and END."""
    if vocab_size < 257:
        raise ValueError(f"vocab_size must be at least 257 (256 bytes and END), got {vocab_size}")
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer=trainer)
    # The text of END inside a file is text, not the end of the file.
    tokenizer.encode_special_tokens = True
    return tokenizer


def encode_documents(tokenizer: Tokenizer, documents: list[str]) -> np.ndarray:
    """Tokens of all documents in order, each ended by token 0, as one uint16 array."""
    encoded = tokenizer.encode_batch_fast(documents, add_special_tokens=False)
    end = tokenizer.token_to_id(END)
    return np.concatenate([np.array([*one.ids, end], dtype=np.uint16) for one in encoded])


def load_tokenizer(path: Path) -> Tokenizer:
    """Read a tokenizer that ``tokenizer.save`` wrote."""
    tokenizer = Tokenizer.from_file(str(path))
    tokenizer.encode_special_tokens = True  # not part of the file
    return tokenizer
