"""Equal perplexity: the match, the slices, and the questions, held to models whose answers are
known."""

from dataclasses import replace

import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from ntlib import evaluation_language as language
from ntlib import experiments
from ntlib.tasks import IGNORED, Batch, Text


def tokens(*texts):
    return torch.tensor([list(text.encode()) for text in texts])


class Looker(nn.Module):
    """Says what followed the last earlier occurrence of the present bytes, nearly surely."""

    def forward(self, inputs):
        longest = torch.zeros(*inputs.shape, 256)
        for row, line in enumerate(inputs.tolist()):
            for t in range(len(line)):
                best = max(range(t), key=lambda s: (common(line, s, t), s), default=None)
                if best is not None and common(line, best, t):
                    longest[row, t, line[best + 1]] = 20.0
        return longest, None


def common(line, s, t):
    """Length of the string that ends at both places."""
    n = 0
    while n <= s and line[s - n] == line[t - n]:
        n += 1
    return n


def test_what_was_seen_before():
    seen = language.seen_before(tokens("abcabdab", "aaaaaaaa"))
    assert seen.tolist() == [[0, 0, 0, 1, 2, 0, 1, 2], [0, 1, 2, 3, 4, 5, 6, 7]]


def test_names_that_come_again():
    text = "self.name = name + selfish; self"
    mask = language.repeated_names(tokens(text))[0]
    shown = "".join(c if on else "." for c, on in zip(text, mask.tolist(), strict=True))
    assert shown == "..............me..............lf"


def test_copies_of_a_model_that_looks_back():
    strings = tokens("qwertyuiop", "asdfghjklz")
    scores = language.copies(Looker(), strings)
    assert scores["first accuracy"] == 0
    assert scores["second accuracy"] == 1
    assert scores["second loss"] < 1e-4
    assert scores["first loss"] == pytest.approx(torch.tensor(256.0).log().item(), rel=1e-5)


def test_digits_are_chosen_among_ten():
    inputs = tokens("key_Buta = 70521")[:, :-1]
    targets = torch.full_like(inputs, IGNORED)
    targets[:, -5:] = tokens("70521")

    class Sure(nn.Module):
        def forward(self, given):
            logits = torch.zeros(*given.shape, 256)
            logits[..., ord(" ")] = 50.0  # what is not a digit does not count
            right = F.one_hot(targets.clamp(min=0), 256) * (targets != IGNORED)[..., None]
            return logits + 30.0 * right, None

    class Flat(nn.Module):
        def forward(self, given):
            return torch.zeros(*given.shape, 256), None

    batch = Batch(inputs, targets)
    sure = language.digits(Sure(), batch)
    assert sure["accuracy"] == 1
    assert sure["above chance"] == pytest.approx(torch.tensor(10.0).log().item(), rel=1e-5)
    assert language.digits(Flat(), batch)["above chance"] == pytest.approx(0, abs=1e-6)
    kept = language.without_first(batch).targets
    assert kept[0, -5:].tolist() == [IGNORED, *map(ord, "0521")]


def test_the_questions_fit_the_trained_length():
    for task in (language.NEEDLE, language.PHONE_BOOK):
        assert task.length <= Text().length
    assert 2 * max(language.SNIPPET, language.LETTERS) <= Text().length


def curves(losses):
    """{architecture: losses at steps 10, 20 ...} as rows of one seed."""
    rows = [
        {"architecture": name, "lr": 1e-3, "seed": 0, "step": 10 * (n + 1), "loss": loss}
        for name, values in losses.items()
        for n, loss in enumerate(values)
    ]
    return pd.DataFrame(rows)


def test_models_stop_where_they_are_nearest_to_the_target():
    runs = [language.constant_run(name, 1e-3) for name in ("Transformer", "Mamba", "Yan")]
    runs = [replace(run, train=replace(run.train, steps=40, warmup=0.25)) for run in runs]
    table = curves(
        {
            "Transformer": [2.5, 2.1, 2.02, 2.03],
            "Mamba": [2.02, 2.01, 1.9, 1.8],
            "Yan": [2.5, 2.4, 2.3, 2.2],
        }
    )
    target = language.target_loss(table)
    assert target == 2.02
    stops = language.stopped(runs, table, target)
    assert [(run.architecture, run.train.steps) for run in stops] == [
        ("Transformer", 30),
        ("Mamba", 10),
    ]
    for run, stop in zip(runs, stops, strict=False):
        rates = [stop.train.rate(step) for step in range(stop.train.steps)]
        assert rates == pytest.approx([run.train.rate(step) for step in range(len(rates))])


def test_a_stopped_run_is_the_beginning_of_the_whole_one(tmp_path):
    run = language.constant_run("RetNet", 4e-3, "smoke")
    run = replace(run, train=replace(run.train, steps=6, eval_every=2, held_out=4))
    frame = experiments.run_grid([run], workers=1)
    target = float(frame["loss"][1])
    (stop,) = language.stopped([run], frame, target)
    assert stop.train.steps == 4
    again = experiments.run_grid([stop], workers=1, checkpoints=tmp_path)
    assert again["loss"].iloc[-1] == pytest.approx(target, rel=1e-5)
    examined = language.examine([stop], target, "target", tmp_path, windows=4)
    assert list(examined) == list(language.COLUMNS)
    rows = language.curve_rows([run], frame, target)
    assert rows["step"].tolist() == [6]
    both = pd.concat([rows, examined])
    assert set(both["kind"]) == {"curve", "slice", "ability"}
    gains = language.graded(both)
    assert len(gains) == 1
    assert set(language.TESTS) <= set(gains)
    copied = gains["copy of text: first loss"] - gains["copy of text: second loss"]
    assert gains["copy of text (nats)"].tolist() == copied.tolist()


def test_a_hidden_gap_sums_to_the_difference_in_loss():
    rows = [
        ("Transformer", 0, "seen 0", 2.0, 30),
        ("Transformer", 0, "seen 3", 1.0, 10),
        ("Mamba", 0, "seen 0", 1.8, 30),
        ("Mamba", 0, "seen 3", 1.6, 10),
        ("Mamba", 0, "all", 1.75, 40),
    ]
    columns = ["architecture", "seed", "measure", "value", "tokens"]
    gap = language.hidden_gap(pd.DataFrame(rows, columns=columns))
    assert gap.loc["Mamba"].tolist() == pytest.approx([-0.15, 0.15])
    assert gap.loc["Transformer"].tolist() == [0, 0]


def test_leads_over_the_mean_and_the_best():
    table = pd.DataFrame({"copy": [0.9, 0.4, 0.6]}, index=["Transformer", "Mamba", "RetNet"])
    over_mean, over_best = language.leads(table, ("Mamba", "RetNet", "Yan"))["copy"]
    assert over_mean == pytest.approx(0.4)
    assert over_best == pytest.approx(0.3)
