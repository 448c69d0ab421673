"""The World tokenizer: the author's tokens, every byte string comes back, bad lines are named."""

import importlib.util
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ntlib.tasks.world_tokenizer import END, WorldTokenizer, find_vocabulary

BYTES = {1 + byte: bytes([byte]) for byte in range(256)}
SMALL = WorldTokenizer(BYTES | {300: b"ab", 301: b"abcd", 302: "中文".encode(), 303: b"\xe4\xb8"})
LINES = [f"{number} {value!r} {len(value)}" for number, value in BYTES.items()]

MIXED = [
    "The quick brown fox.\r\n\t jumps  over   the    lazy dog" + " " * 300,
    "春眠不覺曉,處處聞啼鳥。夜來風雨聲,花落知多少。",
    "def f(x: int) -> int:\n    return {'a': x ** 2, \"b\": r'\\d+'}  # 注释\n" * 3,
    "👩‍👩‍👧‍👦 🇨🇳 ❤️ 🤷🏽‍♀️ ﷽ 𝔘𝔫𝔦𝔠𝔬𝔡𝔢 e\u0301 \u2028\u0085\ufeff\x00",
    "Привет, мир! こんにちは世界 안녕하세요 สวัสดี नमस्ते العربية",
    "3.14159265358979 1234567890 0xdeadbeef == != <=> ======== --------",
]


@pytest.fixture(scope="module")
def vocabulary():
    path = find_vocabulary()
    if path is None:
        pytest.skip("rwkv is not installed (make test installs it from benchmarks/)")
    return path


@pytest.fixture(scope="module")
def world(vocabulary):
    return WorldTokenizer.from_file(vocabulary)


@pytest.fixture(scope="module")
def theirs(vocabulary):
    """The tokenizer of the `rwkv` package, from its file: importing the package is not needed."""
    path = vocabulary.with_name("rwkv_tokenizer.py")
    spec = importlib.util.spec_from_file_location("rwkv_tokenizer_of_the_author", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.TRIE_TOKENIZER(str(vocabulary))


@pytest.mark.parametrize("text", MIXED, ids=range(len(MIXED)))
def test_tokens_are_the_authors(world, theirs, text):
    tokens = world.encode(text)
    assert tokens == theirs.encode(text)
    assert world.decode(tokens) == theirs.decode(tokens) == text


def test_bytes_that_are_not_text(world, theirs):
    data = bytes(range(256)) * 2 + "中文".encode()[:-1] + b"\xff\xfe" + "🤖".encode()[1:]
    tokens = world.encode(data)
    assert tokens == theirs.encodeBytes(data)
    assert b"".join(map(world.token_bytes, tokens)) == data
    assert world.decode(world.encode(b"ok \xff!")) == "ok \ufffd!"


@given(st.one_of(st.text(max_size=60), st.binary(max_size=60)))
@settings(max_examples=300, deadline=None)
def test_any_text_and_any_bytes_agree_with_the_author(world, theirs, data):
    data = data.encode() if isinstance(data, str) else data
    tokens = world.encode(data)
    assert tokens == theirs.encodeBytes(data)
    assert b"".join(map(world.token_bytes, tokens)) == data


def test_sizes_of_the_published_vocabulary(world):
    assert world.vocab_size == 65530  # tokens 0 ... 65529 of the 65536 rows of a model's table
    assert world.token_bytes(65529) == b" " * 128


@given(st.text("abcd中文x", max_size=40))
@settings(max_examples=200, deadline=None)
def test_every_text_comes_back(text):
    assert SMALL.decode(SMALL.encode(text)) == text


def test_the_longest_match_is_taken_and_a_false_start_given_up():
    assert SMALL.encode("abcd") == [301]
    assert SMALL.encode("abce") == [300, 1 + ord("c"), 1 + ord("e")]
    assert SMALL.encode("中") == [303, 1 + 0xAD]
    assert SMALL.encode("") == []


def test_end_and_unused_numbers():
    assert SMALL.token_bytes(END) == b""
    assert SMALL.decode([300, END, 299, 300]) == "ab\ufffdab"


def test_bytes_from_a_command_line_survive():
    """Python hands bytes that are not UTF-8 over as lone surrogates."""
    argument = b"a\xff\xe4".decode(sys.getfilesystemencoding(), "surrogateescape")
    assert SMALL.encode(argument) == SMALL.encode(b"a\xff\xe4")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("oops", "expected `id literal length`, got 'oops'"),
        ("x 'a' 1", "expected `id literal length`"),
        ("400 'a' one", "expected `id literal length`"),
        ("400 'ab' 1", "'ab' has 2 bytes, not 1"),
        ("400 'é' 1", "'é' has 2 bytes, not 1"),
        ("400 '' 0", "expected a string or bytes, not empty"),
        ("400 12 2", "expected `id literal length`"),
        ("400 'a', 'b' 2", "expected a string or bytes, not empty, got 'a', 'b'"),
        ("400 'a 1", "expected `id literal length`"),
        ("400 'a'b' 3", "unterminated string"),
        ("400 __import__('os').abort() 1", "expected `id literal length`"),
        ("400 '' + str(1) + '' 1", "malformed node or string"),
        ("400 '\udcff' 1", "surrogates not allowed"),
        ("5 'z' 1", "id 5 is given a second time"),
        ("0 'z' 1", "id 0 ends a text"),
    ],
    ids=lambda value: value[:12],
)
def test_a_bad_line_is_named(tmp_path, line, message):
    path = tmp_path / "vocabulary.txt"
    path.write_text("\n".join([*LINES, line, "500 'a' 1"]), "utf-8", "surrogateescape")
    with pytest.raises(ValueError, match=rf"vocabulary.txt, line 257: .*{message}"):
        WorldTokenizer.from_file(path)


def test_a_file_round_trips(tmp_path):
    path = tmp_path / "vocabulary.txt"
    path.write_text("\n".join([*LINES, "300 ' ab\\n' 4", "301 '中' 3"]) + "\n", encoding="utf-8")
    tokenizer = WorldTokenizer.from_file(path)
    assert tokenizer.encode(" ab\n中") == [300, 301]
    assert tokenizer.vocab_size == 302


def test_a_vocabulary_without_some_bytes_is_refused():
    with pytest.raises(ValueError, match=r"all 256 bytes, these are absent: b'\\x00A'"):
        WorldTokenizer({n: v for n, v in BYTES.items() if v not in (b"\0", b"A")})
