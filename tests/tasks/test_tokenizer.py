"""The byte-level BPE: exact round trips, determinism, the end-of-file token."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ntlib.tasks.tokenizer import END, encode_documents, load_tokenizer, train_tokenizer

TEXTS = [f"def function_{i}(value):\n    return value + {i}\n" * 3 for i in range(30)]
TOKENIZER = train_tokenizer(TEXTS, vocab_size=300)


@given(st.text())
@settings(max_examples=200, deadline=None)
def test_every_text_comes_back(text):
    ids = TOKENIZER.encode(text).ids
    assert TOKENIZER.decode(ids, skip_special_tokens=False) == text
    assert 0 not in ids


def test_the_text_of_the_end_token_is_text():
    assert TOKENIZER.encode(END).ids != [0]
    assert TOKENIZER.decode(TOKENIZER.encode(END).ids, skip_special_tokens=False) == END


def test_training_twice_gives_the_same(tmp_path):
    assert train_tokenizer(TEXTS, vocab_size=300).to_str() == TOKENIZER.to_str()
    TOKENIZER.save(str(tmp_path / "t.json"))
    loaded = load_tokenizer(tmp_path / "t.json")
    assert loaded.encode(TEXTS[0] + END).ids == TOKENIZER.encode(TEXTS[0] + END).ids


def test_documents_end_with_token_zero():
    tokens = encode_documents(TOKENIZER, ["a", "", "def"])
    assert tokens.dtype == "uint16"
    assert (tokens == 0).sum() == 3
    assert tokens[-1] == 0


def test_frequent_words_are_one_token():
    assert TOKENIZER.get_vocab_size() == 300
    assert len(TOKENIZER.encode("    return value").ids) < 6


def test_refuses_a_vocabulary_without_room_for_bytes():
    with pytest.raises(ValueError, match=r"vocab_size must be at least 257 .* got 256"):
        train_tokenizer(TEXTS, vocab_size=256)
