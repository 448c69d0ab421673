"""The tokenizers of published models behind one interface: text to tokens, a token to its bytes.

Bytes, not text: a character may be spread over several tokens, and only a stream of bytes can be
put together again (`text_of`).
"""

import codecs
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Protocol

from tokenizers import Tokenizer, decoders

from ntlib.tasks import world_tokenizer
from ntlib.tasks.world_tokenizer import UNKNOWN, WorldTokenizer

WORLD_ROWS = 65536
"""Rows of the embedding of every model that reads the World vocabulary."""
END_OF_TEXT = "<|endoftext|>"
"""GPT-NeoX's name of the token that ends a text."""


class TextTokenizer(Protocol):
    """What a published model reads and writes."""

    vocab_size: int  # largest token plus one
    end: int | None  # the token that ends a text, if there is one

    def encode(self, text: str) -> list[int]: ...

    def token_bytes(self, token: int) -> bytes: ...


class ByteLevelTokenizer:
    """A byte-level BPE, as GPT-NeoX's for RWKV-4 Pile, from the tokenizer.json of the `tokenizers`
    library."""

    def __init__(self, tokenizer: Tokenizer):
        """Raises ValueError for a tokenizer that is not byte-level."""
        if not isinstance(tokenizer.decoder, decoders.ByteLevel):
            raise ValueError(
                "the tokenizer must be a byte-level BPE as GPT-NeoX's, its decoder is "
                f"{type(tokenizer.decoder).__name__}"
            )
        self._tokenizer = tokenizer
        self._added = {
            number: token.content.encode()
            for number, token in tokenizer.get_added_tokens_decoder().items()
        }
        self.vocab_size = max(tokenizer.get_vocab(with_added_tokens=True).values()) + 1
        self.end = tokenizer.token_to_id(END_OF_TEXT)

    def encode(self, text: str) -> list[int]:
        """Tokens of a text; lone surrogates (bytes of a command line that are no UTF-8) become
        U+FFFD."""
        text = text.encode(errors="surrogateescape").decode(errors="replace")
        return self._tokenizer.encode(text, add_special_tokens=False).ids

    def token_bytes(self, token: int) -> bytes:
        """What a token stands for: nothing for `end`, UTF-8's replacement for an unused number."""
        if token == self.end:
            return b""
        if token in self._added:
            return self._added[token]
        letters = self._tokenizer.id_to_token(token)
        return UNKNOWN if letters is None else bytes(_BYTE_OF_LETTER[letter] for letter in letters)


def _byte_of_letter() -> dict[str, int]:
    """GPT-2's alphabet, in which a byte-level BPE writes tokens: printable bytes of Latin-1 are
    themselves, the others, in order, the letters from U+0100."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    letters = {chr(byte): byte for byte in printable}
    return letters | {chr(0x100 + i): byte for i, byte in enumerate(others)}


_BYTE_OF_LETTER = _byte_of_letter()


def load(path: Path | None, vocab_size: int) -> TextTokenizer:
    """The tokenizer of a model with `vocab_size` rows in its table.

    `path` is a tokenizer.json or a World vocabulary (.txt); without one, a model of the World
    series gets the vocabulary of an installed `rwkv` package. Raises ValueError if there is none,
    if the file is not one, or if it has tokens that the model has no row for.
    """
    if path is None:
        path = world_tokenizer.find_vocabulary() if vocab_size == WORLD_ROWS else None
    if path is None:
        raise ValueError(_where_to_get_one(vocab_size))
    tokenizer = _read(path)
    if tokenizer.vocab_size > vocab_size:
        raise ValueError(
            f"{path} has tokens up to {tokenizer.vocab_size - 1}, but the model's vocabulary is "
            f"{vocab_size}: it is the tokenizer of another model"
        )
    return tokenizer


def _read(path: Path) -> TextTokenizer:
    if not path.is_file():
        raise ValueError(f"there is no tokenizer {path}")
    if path.suffix != ".json":
        return WorldTokenizer.from_file(path)
    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises nothing more precise
        raise ValueError(f"{path} is not a tokenizer of the tokenizers library: {error}") from None
    return ByteLevelTokenizer(tokenizer)


def _where_to_get_one(vocab_size: int) -> str:
    if vocab_size == WORLD_ROWS:
        return (
            f"a vocabulary of {vocab_size} is the World series': give the path of "
            f"{world_tokenizer.VOCABULARY}, or install the rwkv package, which contains it"
        )
    return (
        f"which tokenizer a vocabulary of {vocab_size} belongs to must be told: the path of "
        "20B_tokenizer.json (GPT-NeoX) for models trained on the Pile"
    )


def text_of(pieces: Iterable[bytes]) -> Iterator[str]:
    """Text as soon as it is complete: the first bytes of a character wait for its last.

    What can never become a character is U+FFFD.
    """
    decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
    for piece in pieces:
        if text := decoder.decode(piece):
            yield text
    if rest := decoder.decode(b"", final=True):
        yield rest
