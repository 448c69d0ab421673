"""A published model continues a text: weights and tokenizer from files, text as it is produced.

Memory does not grow with the text: the weights, one state, and the activations of one piece of the
prompt are all there is.
"""

import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

import torch

from ntlib.models.generation import Sampling, stream
from ntlib.models.protocol import Model
from ntlib.models.published import load_published
from ntlib.tasks import released_tokenizers
from ntlib.tasks.released_tokenizers import TextTokenizer, text_of

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass
class Speed:
    """Tokens and seconds of reading a prompt, and of writing after it."""

    read: int = 0  # tokens of the prompt
    reading: float = 0.0  # seconds until the first new token
    written: int = 0  # new tokens
    writing: float = 0.0  # seconds from the first new token to the last
    ended: bool = False  # by the model itself, with the token that ends a text

    def __str__(self) -> str:
        later = max(self.written - 1, 0)  # the first one comes with the prompt
        text = f"prompt: {self.read} tokens, {_rate(self.read, self.reading)}; "
        text += f"text: {self.written} tokens, {_rate(later, self.writing)}"
        return text + (" (the model ended its text)" if self.ended else "")


def _rate(tokens: int, seconds: float) -> str:
    return f"{tokens / seconds:.1f} tokens/s" if tokens and seconds else "no rate"


@dataclass
class Completion:
    """One continuation; iterating over it yields text, and `speed` fills while it does."""

    model: Model
    tokenizer: TextTokenizer
    prompt: list[int]
    n_tokens: int  # at most so many new ones
    sampling: Sampling
    generator: torch.Generator
    speed: Speed = field(default_factory=Speed)

    def __iter__(self) -> Iterator[str]:
        return text_of(map(self.tokenizer.token_bytes, self._tokens()))

    def _tokens(self) -> Iterator[int]:
        tokens = stream(self.model, torch.tensor([self.prompt]), self.sampling, self.generator)
        self.speed = Speed(read=len(self.prompt))
        start = time.perf_counter()
        for token in islice(tokens, self.n_tokens):
            now = time.perf_counter()
            if not self.speed.written:
                self.speed.reading, start = now - start, now
            self.speed.written += 1
            self.speed.writing = now - start
            if token.item() == self.tokenizer.end:
                self.speed.ended = True
                return
            yield token.item()


def complete(
    weights: Path,
    prompt: str,
    *,
    sampling: Sampling,
    n_tokens: int,
    tokenizer: Path | None = None,
    seed: int = 0,
    dtype: str = "float32",
) -> Completion:
    """What `python -m ntlib generate` prints.

    Raises ValueError that says what is wrong with a file, an option, or an empty prompt.
    """
    if n_tokens < 1:
        raise ValueError(f"tokens must be at least 1, got {n_tokens}")
    model = load_published(weights, DTYPES[dtype])
    beside = weights.with_name("tokenizer.json")  # where transformers has it
    if tokenizer is None and beside.is_file():
        tokenizer = beside
    reader = released_tokenizers.load(tokenizer, model.config.vocab_size)
    tokens = reader.encode(prompt)
    if not tokens:
        raise ValueError("the prompt is empty: there is nothing to continue")
    _warm_up(model)
    generator = torch.Generator().manual_seed(seed)
    return Completion(model, reader, tokens, n_tokens, sampling, generator)


@torch.no_grad()
def _warm_up(model: Model) -> None:
    """Compile the kernels and bring the weights into memory, so that rates are the model's."""
    _, states = model.hidden(torch.zeros(1, 2, dtype=torch.long))
    model.step(torch.zeros(1, dtype=torch.long), states)
