"""The ledger's rules, the verdicts, and the way from a chapter's report to the page."""

import json
import re
from dataclasses import replace

import pytest
import yaml

from ntlib import claims

SPEED, MEMORY = "retnet-decoding-speed", "retnet-memory"
ENTRY = {
    "id": "some-claim",
    "title": "A claim",
    "subject": "Attention",
    "chapter": "01_attention",
    "status": "open",
    "original": "注意力",
    "translation": "Attention",
    "source": "A paper.",
    "test": "A number.",
    "quantity": {"name": "ratio", "format": ".1f"},
    "bounds": [1, 2],
}


@pytest.fixture
def shown(monkeypatch):
    bundles = []
    monkeypatch.setattr(claims, "display", lambda bundle, raw: bundles.append(bundle))
    return bundles


def notebook(path, bundles):
    outputs = [{"output_type": "display_data", "data": bundle} for bundle in bundles]
    cells = [{"cell_type": "markdown"}, {"cell_type": "code", "outputs": outputs}]
    path.write_text(json.dumps({"cells": cells}, sort_keys=True))  # as nbformat does
    return path


def ledger(tmp_path, *changes):
    path = tmp_path / "claims.yaml"
    path.write_text(yaml.safe_dump([ENTRY | change for change in changes], allow_unicode=True))
    return claims.load_ledger(path)


def test_the_committed_ledger_is_complete():
    entries = claims.load_ledger()
    assert {
        "attention-quadratic",
        "kv-cache-grows",
        "linear-attention-is-rnn",
        "retnet-three-forms",
        SPEED,
        MEMORY,
    } <= set(entries)
    for claim in entries.values():
        assert re.fullmatch(r"[a-z0-9-]+", claim.id)
        assert re.search(r"[\u4e00-\u9fff]", claim.original)
        assert claim.source.strip().endswith((".", "%"))
        assert len(claim.title) < 60
        if claim.quantity is not None:
            assert claim.written(1.0)
    # One heading per subject on the page.
    subjects = [claim.subject for claim in entries.values()]
    assert len(set(subjects)) == sum(a != b for a, b in zip([None, *subjects], subjects))


@pytest.mark.parametrize(
    ("values", "verdict"),
    [
        ({"a": 1, "b": 2}, "supported"),
        ({"a": 0.9, "b": 2.1}, "contradicted"),
        ({"a": 0.9, "b": 2}, "qualified"),
    ],
)
def test_verdicts(tmp_path, values, verdict):
    (claim,) = ledger(tmp_path, {}).values()
    assert claim.verdict(values) == verdict


def test_a_claim_without_bounds_has_no_verdict(tmp_path):
    planned = {"status": "planned", "chapter": None, "bounds": None}
    with pytest.raises(ValueError, match="has no bounds in the ledger yet"):
        ledger(tmp_path, planned)["some-claim"].verdict({"a": 1})


def test_one_sided_bounds(tmp_path):
    low = ledger(tmp_path, {"bounds": [1, None]})["some-claim"]
    high = ledger(tmp_path, {"bounds": [None, 1]})["some-claim"]
    assert (low.verdict({"a": 99}), low.bounds_in_words()) == ("supported", "at least 1.0")
    assert (high.verdict({"a": 99}), high.bounds_in_words()) == ("contradicted", "at most 1.0")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"status": "done"}, "status must be one of"),
        ({"chapter": None}, "null exactly while planned"),
        ({"status": "planned"}, "null exactly while planned"),
        ({"bounds": None}, "an open claim needs quantity and bounds"),
        ({"bounds": [None, None]}, "support anything"),
        ({"bounds": [2, 1]}, "the wrong way"),
        ({"extra": 1}, r"unknown \['extra'\]"),
    ],
)
def test_faulty_entries_are_named(tmp_path, change, message):
    with pytest.raises(ValueError, match=f"'some-claim'.*{message}"):
        ledger(tmp_path, change)


def test_a_missing_field_and_a_double_id_are_named(tmp_path):
    path = tmp_path / "claims.yaml"
    path.write_text(yaml.safe_dump([{k: v for k, v in ENTRY.items() if k != "test"}]))
    with pytest.raises(ValueError, match=r"'some-claim': missing \['test'\]"):
        claims.load_ledger(path)
    with pytest.raises(ValueError, match="'some-claim' stands twice"):
        ledger(tmp_path, {}, {})


def test_report_shows_the_same_verdict_to_readers_and_programs(shown):
    claims.report(SPEED, {"batch 1": 1.4, "batch 8": 8.31}, conditions="width 4096 & 8k")
    (bundle,) = shown
    assert bundle[claims.MIME_TYPE] == {
        "id": SPEED,
        "verdict": "qualified",
        "values": {"batch 1": 1.4, "batch 8": 8.31},
        "order": ["batch 1", "batch 8"],
        "conditions": "width 4096 & 8k",
    }
    assert bundle["text/plain"] == (
        "RetNet decodes 8.4 times faster: qualified (batch 1: 1.4, batch 8: 8.3)"
    )
    box = bundle["text/html"]
    assert 'class="nt-claim qualified" id="verdict-retnet-decoding-speed"' in box
    assert "batch 8: <strong>8.3</strong>" in box
    assert "width 4096 &amp; 8k" in box
    assert "claims.html#claim-retnet-decoding-speed" in box


@pytest.mark.parametrize(
    ("claim_id", "values", "message"),
    [
        ("no-such-claim", {"a": 1}, "no claim 'no-such-claim' in claims.yaml; there are"),
        (SPEED, {}, "values for claim 'retnet-decoding-speed' are empty"),
        (SPEED, {"a": float("nan")}, "value 'a' .* is nan"),
    ],
)
def test_report_refuses(shown, claim_id, values, message):
    with pytest.raises(ValueError, match=message):
        claims.report(claim_id, values)
    assert shown == []


def test_collect_reads_reports_of_several_notebooks(shown, tmp_path):
    claims.report(SPEED, {"batch 8": 8.3})
    claims.report(MEMORY, {"batch 8": 0.697})
    first = notebook(tmp_path / "02_retnet.ipynb", [{"text/plain": "other"}, shown[0]])
    second = notebook(tmp_path / "03_other.ipynb", [shown[1]])
    collected = claims.collect([first, second])
    assert collected[SPEED]["chapter"] == "02_retnet"
    assert collected[MEMORY]["chapter"] == "03_other"
    assert collected[MEMORY]["verdict"] == "supported"
    with pytest.raises(ValueError, match="reported in 02_retnet and again in 04"):
        claims.collect([first, notebook(tmp_path / "04.ipynb", [shown[0]])])


def test_committed_chapters_report_their_claims_and_no_others():
    entries = claims.load_ledger()
    chapters = sorted((claims.LEDGER.parents[1] / "notebooks").glob("*.ipynb"))
    collected = claims.collect(chapters)
    expected = {
        claim.id for claim in entries.values() if claim.chapter in {path.stem for path in chapters}
    }
    assert set(collected) == expected
    for claim_id, record in collected.items():
        assert record["chapter"] == entries[claim_id].chapter
        # A report must be as new as the ledger's bounds.
        assert record["verdict"] == entries[claim_id].verdict(record["values"])


def test_page_has_a_card_per_claim(shown, tmp_path):
    claims.report(MEMORY, {"batch 8": 0.697, "batch 1": 0.23}, conditions="16 bits")
    collected = claims.collect([notebook(tmp_path / "02_retnet.ipynb", shown)])
    page = claims.ledger_page(collected)
    for claim in claims.load_ledger().values():
        assert page.count(f"(claim-{claim.id})=") == 1
        assert claim.original in page
        assert claim.translation in page
    assert page.startswith("# ")
    assert "按笔记要点简述" in page
    card = page[page.index("(claim-retnet-memory)=") :].split(":::\n")[0]
    assert ":::{div} nt-claim qualified" in card
    assert "- batch 8: **69.7%**" in card
    assert "16 bits" in card
    assert "../notebooks/02_retnet.html#verdict-retnet-memory" in card
    assert page.count("not yet tested") >= len(claims.load_ledger()) - 1


def test_page_without_any_report(monkeypatch):
    ledger = claims.load_ledger()
    planned = {MEMORY: replace(ledger[MEMORY], chapter=None, status="planned")}
    monkeypatch.setattr(claims, "_ledger", lambda: ledger | planned)
    page = claims.ledger_page({})
    assert ".html" not in page
    assert page.count("Its chapter is not written yet.") == 1
    assert "await their chapters" in claims.summary_table({})


def test_summary_shows_the_first_number(shown, tmp_path):
    claims.report(MEMORY, {"batch 8": 0.697, "batch 16": 0.72})
    collected = claims.collect([notebook(tmp_path / "02_retnet.ipynb", shown)])
    rows = [line for line in claims.summary_table(collected).splitlines() if line.startswith("|")]
    assert len({row.count("|") for row in rows}) == 1
    (row,) = [row for row in rows if "70 %" in row]
    assert "supported" in row
    assert "share of memory saved <b>69.7%</b> (batch 8)" in row
    assert "claims.html#claim-retnet-memory" in row
    assert "02_retnet.html#verdict-retnet-memory" in row
