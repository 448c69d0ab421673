"""`python -m ntlib generate`: text as it is produced, the same for a seed, clear errors."""

import json
import re
import subprocess
import sys

import pytest
import torch
from click.testing import CliRunner
from tokenizers import AddedToken

from ntlib.__main__ import main
from ntlib.models.generation import Sampling, generate
from ntlib.models.published import load_published
from ntlib.tasks.released_tokenizers import load, text_of
from ntlib.tasks.tokenizer import train_tokenizer
from ntlib.tasks.world_tokenizer import WorldTokenizer
from tests import mamba_files
from tests.rwkv_files import random_weights

VOCAB = 300
WORDS = {257: b" the", 258: "中文".encode(), 259: "🤖".encode()[:2]}
PROMPT = "Say the 中文 🤖"


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A random model, and a World vocabulary that its table has more rows than."""
    folder = tmp_path_factory.mktemp("generate")
    torch.save(random_weights(4, vocab=VOCAB, d=64, layers=2, ffn=64), folder / "model.pth")
    tokens = {1 + byte: bytes([byte]) for byte in range(256)} | WORDS
    lines = [f"{number} {value!r} {len(value)}\n" for number, value in tokens.items()]
    (folder / "vocabulary.txt").write_text("".join(lines), encoding="utf-8")
    return folder


def run(files, *options, weights="model.pth", tokenizer="vocabulary.txt", prompt=PROMPT):
    arguments = ["generate", "--weights", str(files / weights), "--prompt", prompt, *options]
    if tokenizer:
        arguments += ["--tokenizer", str(files / tokenizer)]
    return CliRunner().invoke(main, arguments, catch_exceptions=False)


def test_it_prints_what_the_model_generates(files):
    done = run(files, "--tokens", "40", "--temperature", "0")
    assert done.exit_code == 0
    tokenizer = WorldTokenizer.from_file(files / "vocabulary.txt")
    prompt = torch.tensor([tokenizer.encode(PROMPT)])
    tokens = generate(load_published(files / "model.pth"), prompt, 40, Sampling(temperature=0))
    assert done.stdout == tokenizer.decode(tokens[0].tolist()) + "\n"
    assert re.fullmatch(
        rf"prompt: {prompt.shape[1]} tokens, [\d.]+ tokens/s; text: 40 tokens, [\d.]+ tokens/s\n",
        done.stderr,
    )


@pytest.mark.parametrize("version", [1, 2])
def test_it_prints_what_mamba_generates(version, tmp_path):
    """From a folder as its authors publish it, with a tokenizer that is found beside the weights;
    rows of the table are padded to a multiple of 8."""
    save_byte_level(tmp_path / "tokenizer.json")
    weights = mamba_files.random_weights(version, rows=288)
    torch.save(weights, tmp_path / "pytorch_model.bin")
    (tmp_path / "config.json").write_text(json.dumps(mamba_files.config(version, vocab_size=281)))
    options = "--tokens", "600", "--temperature", "0"
    done = run(tmp_path, *options, weights="pytorch_model.bin", tokenizer=None)
    assert done.exit_code == 0
    assert "text: 600 tokens" in done.stderr
    tokenizer = load(tmp_path / "tokenizer.json", 288)
    prompt = torch.tensor([tokenizer.encode(PROMPT)])
    model = load_published(tmp_path / "pytorch_model.bin")
    tokens = generate(model, prompt, 600, Sampling(temperature=0))[0].tolist()
    assert done.stdout == "".join(text_of(map(tokenizer.token_bytes, tokens))) + "\n"


def test_a_seed_fixes_the_text(files):
    first = run(files, "--seed", "1")
    assert first.stdout == run(files, "--seed", "1").stdout
    assert first.stdout != run(files, "--seed", "2").stdout
    one = run(files, "--tokens", "1")
    assert "text: 1 tokens, no rate" in one.stderr


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_other_types(files, dtype):
    done = run(files, "--dtype", dtype, "--tokens", "5")
    assert done.exit_code == 0
    assert "text: 5 tokens" in done.stderr


def test_the_model_may_end_its_text(files):
    weights = random_weights(4, vocab=VOCAB, d=64, layers=2, ffn=64)
    weights["head.weight"][:] = 0  # all tokens alike: greedy takes the first, which ends a text
    torch.save(weights, files / "ends.pth")
    done = run(files, "--temperature", "0", weights="ends.pth")
    assert done.stdout == "\n"
    assert "text: 1 tokens, no rate (the model ended its text)" in done.stderr


def test_text_streams(files):
    """What is printed arrives long before the end."""
    command = [sys.executable, "-m", "ntlib", "generate", "--tokens", str(10**9)]
    command += ["--weights", files / "model.pth", "--tokenizer", files / "vocabulary.txt"]
    with subprocess.Popen([*command, "--prompt", PROMPT], stdout=subprocess.PIPE) as process:
        try:
            assert len(process.stdout.read(30)) == 30
        finally:
            process.kill()


def test_a_character_waits_for_its_last_byte():
    robot = "🤖".encode()
    pieces = [b"a", robot[:1], robot[1:3], b"", robot[3:] + b"b", robot[:2]]
    assert list(text_of(pieces)) == ["a", "🤖b", "\ufffd"]
    assert "".join(text_of([b"\xff", robot[:2], b"ok"])) == "\ufffd\ufffdok"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"weights": "nothing.pth"}, "there is no weight file .*nothing.pth"),
        ({"weights": "vocabulary.txt"}, "vocabulary.txt is no weight file"),
        ({"weights": "layout.pth"}, "layout.pth: weights do not fit .* missing: ln_out.bias"),
        ({"tokenizer": "nothing.txt"}, "there is no tokenizer .*nothing.txt"),
        ({"tokenizer": "model.pth"}, "model.pth, line 1: expected `id literal length`"),
        ({"tokenizer": "bad.json"}, "bad.json is not a tokenizer of the tokenizers library"),
        ({"tokenizer": "words.json"}, "must be a byte-level BPE"),
        ({"tokenizer": "large.txt"}, "has tokens up to 300, but the model's vocabulary is 300"),
        ({"tokenizer": None}, "which tokenizer a vocabulary of 300 belongs to must be told"),
        ({"prompt": ""}, "the prompt is empty"),
        ({"options": ["--tokens", "0"]}, "tokens must be at least 1, got 0"),
        ({"options": ["--temperature", "-1"]}, "temperature must be >= 0, got -1.0"),
        ({"options": ["--top-p", "0"]}, r"top_p must be in \(0, 1\] or None, got 0"),
        ({"options": ["--dtype", "int8"]}, "'int8' is not one of 'float32', 'bfloat16'"),
    ],
    ids=str,
)
def test_errors_are_clear(files, options, message):
    weights = random_weights(4, vocab=VOCAB, d=64, layers=2, ffn=64)
    del weights["ln_out.bias"]
    torch.save(weights, files / "layout.pth")
    (files / "bad.json").write_text("{}")
    (files / "words.json").write_text(
        json.dumps(
            {
                "version": "1.0",
                "added_tokens": [],
                "model": {"type": "WordLevel", "vocab": {"a": 0}, "unk_token": "a"},
            }
        )
    )
    vocabulary = (files / "vocabulary.txt").read_text(encoding="utf-8")
    (files / "large.txt").write_text(vocabulary + "300 'large' 5\n", encoding="utf-8")
    changed = {name: value for name, value in options.items() if name != "options"}
    done = run(files, *options.get("options", ()), **changed)
    assert done.exit_code != 0
    assert re.search(message, done.stderr)
    assert "Traceback" not in done.stderr


@pytest.fixture(scope="module")
def neox(tmp_path_factory):
    """A byte-level BPE with added tokens, as GPT-NeoX's."""
    path = tmp_path_factory.mktemp("bpe") / "tokenizer.json"
    save_byte_level(path)
    return load(path, vocab_size=300)


def save_byte_level(path):
    bpe = train_tokenizer(["def f(x):\n    return 中文 + x\n"] * 3, vocab_size=280)
    bpe.add_tokens([AddedToken("    ", normalized=True)])
    bpe.add_special_tokens(["<|endoftext|>"])
    bpe.save(str(path))


@pytest.mark.parametrize("text", ["def g(y):\n        return y", "中文 🤖 é\x00\xff", "a    b"])
def test_every_text_comes_back_token_by_token(neox, text):
    tokens = neox.encode(text)
    assert "".join(text_of(map(neox.token_bytes, tokens))) == text
    assert all(token < neox.vocab_size for token in tokens)


def test_end_and_unused_numbers_of_a_byte_level_tokenizer(neox):
    assert neox.encode("x<|endoftext|>")[-1] == neox.end
    assert neox.token_bytes(neox.end) == b""
    assert neox.token_bytes(299).decode() == "\ufffd"


def test_bytes_from_a_command_line_that_are_no_text(neox):
    tokens = neox.encode(b"a\xff".decode(errors="surrogateescape"))
    assert "".join(text_of(map(neox.token_bytes, tokens))) == "a\ufffd"
