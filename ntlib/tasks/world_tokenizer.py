"""The World tokenizer of RWKV: a fixed vocabulary of byte strings, always the longest match.

There are no merges to apply: at every position of the text, written as UTF-8, the longest token
that fits is taken (a walk down a trie). The vocabulary contains all 256 bytes, so that anything can
be encoded, and bytes that are not UTF-8, too. Token 0 ends a text and has no bytes.

The vocabulary, rwkv_vocab_v20230424.txt, comes with the `rwkv` package and with BlinkDL's
repositories; it is not part of this project.
"""

import ast
import importlib.util
import re
from collections.abc import Iterable
from pathlib import Path

VOCABULARY = "rwkv_vocab_v20230424.txt"
END = 0
"""The token that ends a text; it has no bytes."""
UNKNOWN = "\N{REPLACEMENT CHARACTER}".encode()
"""Stands for a token that a model may predict (its table is a round number) but that none is."""

_TOKEN = -1  # the key in a node of the trie under which the token that ends there is kept


class WorldTokenizer:
    """Text and bytes to tokens and back."""

    end = END

    def __init__(self, tokens: dict[int, bytes]):
        """`tokens`: id to bytes. Raises ValueError if there is a byte that no token is."""
        single = {value[0] for value in tokens.values() if len(value) == 1}
        if absent := sorted(set(range(256)) - single):
            raise ValueError(
                f"a vocabulary must contain all 256 bytes, these are absent: {bytes(absent)!r}"
            )
        self._bytes = tokens
        self.vocab_size = max(tokens) + 1  # a model's table must be at least as long
        self._trie: dict = {}  # a node leads from each byte that may follow to the next node
        for number, value in tokens.items():
            node = self._trie
            for byte in value:
                node = node.setdefault(byte, {})
            node[_TOKEN] = number

    @classmethod
    def from_file(cls, path: Path) -> "WorldTokenizer":
        """Read a vocabulary: a line `id literal length` per token, the literal a Python string or
        bytes, the length that of its bytes.

        Literals are read as data, never evaluated. Raises ValueError that names a line that is
        none.
        """
        tokens: dict[int, bytes] = {}
        with path.open(encoding="utf-8", errors="surrogateescape") as file:
            for number, line in enumerate(file, start=1):
                try:
                    token, value = _parse(line)
                    if token in tokens:
                        raise ValueError(f"id {token} is given a second time")
                except (ValueError, SyntaxError) as error:
                    raise ValueError(f"{path}, line {number}: {error}") from None
                tokens[token] = value
        return cls(tokens)

    def encode(self, text: str | bytes) -> list[int]:
        """Tokens of a text, or of any bytes. Bytes that Python reads from a command line as lone
        surrogates are the bytes again."""
        data = text.encode(errors="surrogateescape") if isinstance(text, str) else text
        tokens, start = [], 0
        while start < len(data):
            node, end = self._trie, start
            for position in range(start, len(data)):
                node = node.get(data[position])
                if node is None:
                    break
                if _TOKEN in node:
                    token, end = node[_TOKEN], position + 1
            tokens.append(token)
            start = end
        return tokens

    def token_bytes(self, token: int) -> bytes:
        """What a token stands for: nothing for END, UTF-8's replacement for an unused number."""
        return b"" if token == END else self._bytes.get(token, UNKNOWN)

    def decode(self, tokens: Iterable[int]) -> str:
        """The text; what is not UTF-8 becomes U+FFFD."""
        return b"".join(map(self.token_bytes, tokens)).decode(errors="replace")


def _parse(line: str) -> tuple[int, bytes]:
    """The id and the bytes of one line."""
    match = re.fullmatch(r"(\d+) (b?['\"].*['\"]) (\d+)", line.rstrip("\n"), flags=re.ASCII)
    if not match:
        raise ValueError(f"expected `id literal length`, got {line.rstrip()[:60]!r}")
    number, literal, length = match.groups()
    value = ast.literal_eval(literal)
    if isinstance(value, str):
        value = value.encode()
    if not isinstance(value, bytes) or not value:
        raise ValueError(f"expected a string or bytes, not empty, got {literal[:60]}")
    if len(value) != int(length):
        raise ValueError(f"{literal[:60]} has {len(value)} bytes, not {length}")
    if int(number) == END:
        raise ValueError(f"id {END} ends a text and cannot have bytes")
    return int(number), value


def find_vocabulary() -> Path | None:
    """The vocabulary in an installed `rwkv` package, which is not imported; None without one."""
    found = importlib.util.find_spec("rwkv")
    folders = found.submodule_search_locations if found else None
    paths = [Path(folder) / VOCABULARY for folder in folders or ()]
    return next((path for path in paths if path.is_file()), None)
