"""Sampling distributions, and generation as repeated full passes."""

import itertools

import pytest
import torch

from ntlib.mixers.attention import AttentionConfig
from ntlib.mixers.retention import RetentionConfig
from ntlib.models.generation import Sampling, generate, stream
from ntlib.models.language_model import LanguageModel, ModelConfig

LOGITS = torch.log(torch.tensor([[0.1, 0.4, 0.2, 0.3]]))


def test_greedy_takes_the_most_probable():
    assert Sampling(temperature=0).probabilities(LOGITS).tolist() == [[0, 1, 0, 0]]


def test_temperature_sharpens():
    assert torch.allclose(
        Sampling(temperature=0.5).probabilities(LOGITS),
        torch.tensor([[0.01, 0.16, 0.04, 0.09]]) / 0.3,
    )


def test_top_k_keeps_k():
    assert torch.allclose(
        Sampling(top_k=2).probabilities(LOGITS), torch.tensor([[0, 4 / 7, 0, 3 / 7]])
    )
    assert torch.allclose(Sampling(top_k=99).probabilities(LOGITS), LOGITS.exp())


@pytest.mark.parametrize(
    ("p", "kept"), [(0.3, [1]), (0.65, [1, 3]), (0.75, [1, 3, 2]), (1.0, [1, 3, 2, 0])]
)
def test_top_p_keeps_the_fewest_that_reach_p(p, kept):
    probabilities = Sampling(top_p=p).probabilities(LOGITS)[0]
    assert probabilities.nonzero().flatten().tolist() == sorted(kept)
    assert torch.isclose(probabilities.sum(), torch.tensor(1.0))


@pytest.mark.parametrize("top_k", [None, 300, 10**6])
@pytest.mark.parametrize("top_p", [0.1, 0.7, 0.999, 1.0, None])
@pytest.mark.parametrize("spread", [0.1, 1.0, 5.0])
def test_ranking_few_candidates_of_many_is_ranking_all(top_k, top_p, spread):
    logits = spread * torch.randn(
        3, 1000, generator=torch.Generator().manual_seed(0), dtype=torch.float64
    )
    for row, got in zip(logits, Sampling(0.8, top_k, top_p).probabilities(logits), strict=True):
        ranked, order = (row / 0.8).sort(descending=True)
        p = ranked[:top_k].softmax(-1)
        kept = int((p.cumsum(-1) - p < (top_p or 2)).sum())
        expected = torch.zeros_like(row)
        expected[order[:kept]] = p[:kept] / p[:kept].sum()
        assert torch.allclose(got, expected, atol=1e-14)


@pytest.mark.parametrize(
    "mixer", [AttentionConfig(2), RetentionConfig(2, chunk_size=4)], ids=["attention", "retention"]
)
@torch.no_grad()
def test_greedy_generation_equals_full_passes(mixer):
    model = LanguageModel(
        ModelConfig(31, 16, 2, mixer, ffn_dim=24), torch.Generator().manual_seed(0)
    )
    text = torch.randint(31, (3, 6), generator=torch.Generator().manual_seed(1))
    new = generate(model, text, 9, Sampling(temperature=0))
    for _ in range(9):
        text = torch.cat([text, model(text)[0][:, -1:].argmax(-1)], dim=1)
    assert torch.equal(new, text[:, 6:])


def test_a_seed_fixes_the_text_and_streams_go_on():
    model = LanguageModel(
        ModelConfig(31, 16, 1, RetentionConfig(2), ffn_dim=24), torch.Generator().manual_seed(0)
    )
    prompt = torch.tensor([[3, 1, 4]])
    first = generate(model, prompt, 5, generator=torch.Generator().manual_seed(7))
    streamed = itertools.islice(
        stream(model, prompt, generator=torch.Generator().manual_seed(7)), 5
    )
    assert torch.equal(first, torch.stack(list(streamed), dim=1))


def test_bad_input_is_named():
    model = LanguageModel(ModelConfig(31, 16, 1, RetentionConfig(2), ffn_dim=24))
    with pytest.raises(ValueError, match=r"prompt must hold ids in \[0, 31\), got 2 ... 31"):
        generate(model, torch.tensor([[2, 31]]), 3)
    with pytest.raises(ValueError, match="prompt must be"):
        generate(model, torch.zeros(1, 0, dtype=torch.long), 3)
    with pytest.raises(ValueError, match="n_tokens must be at least 1, got 0"):
        generate(model, torch.tensor([[2]]), 0)
    for wrong in ({"temperature": -1}, {"top_k": 0}, {"top_p": 0}, {"top_p": 1.5}):
        with pytest.raises(ValueError, match=f"{next(iter(wrong))} must be"):
            Sampling(**wrong)
