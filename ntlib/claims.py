"""The claims ledger: what the notes state, what the chapters measured, and the verdict.

``data/claims.yaml`` holds the statements with the bounds that a number must keep to support them.
A chapter calls :func:`report`; :func:`collect` reads the reports out of executed notebooks, and
:func:`ledger_page` and :func:`summary_table` write them up.
"""

from __future__ import annotations

import html
import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from functools import cache
from pathlib import Path

import yaml
from IPython.display import display

LEDGER = Path(__file__).resolve().parents[1] / "data" / "claims.yaml"
MIME_TYPE = "application/vnd.ntlib.claim+json"
STATUSES = ("open", "planned")
UNTESTED = "not yet tested"


@dataclass(frozen=True)
class Claim:
    """One statement of the notes; the fields are explained at the head of ``data/claims.yaml``."""

    id: str
    title: str
    subject: str
    chapter: str | None
    status: str
    original: str
    translation: str
    source: str
    test: str
    quantity: Mapping[str, str] | None
    bounds: tuple[float | None, float | None] | None

    def __post_init__(self) -> None:
        if self.status not in STATUSES:
            raise ValueError(f"claim {self.id!r}: status must be one of {STATUSES}")
        if (self.status == "planned") != (self.chapter is None):
            raise ValueError(f"claim {self.id!r}: chapter must be null exactly while planned")
        if self.status == "open" and (self.quantity is None or self.bounds is None):
            raise ValueError(f"claim {self.id!r}: an open claim needs quantity and bounds")
        if self.bounds is not None:
            low, high = self.bounds
            if low is None and high is None:
                raise ValueError(f"claim {self.id!r}: bounds without a bound support anything")
            if low is not None and high is not None and low > high:
                raise ValueError(f"claim {self.id!r}: bounds {low} and {high} are the wrong way")

    def verdict(self, values: Mapping[str, float]) -> str:
        """All values within bounds: "supported"; none: "contradicted"; else "qualified"."""
        if self.bounds is None:
            raise ValueError(f"claim {self.id!r} has no bounds in the ledger yet; add them first")
        if not values:
            raise ValueError(f"values for claim {self.id!r} are empty; give at least one number")
        for name, value in values.items():
            if not math.isfinite(value):
                raise ValueError(f"value {name!r} for claim {self.id!r} is {value}, not a number")
        low, high = self.bounds
        within = [
            (low is None or value >= low) and (high is None or value <= high)
            for value in values.values()
        ]
        return "supported" if all(within) else "qualified" if any(within) else "contradicted"

    def written(self, value: float) -> str:
        """A number in the claim's format."""
        return format(value, self.quantity["format"])

    def bounds_in_words(self) -> str:
        """For example "between 7.5 and 9.5"."""
        low, high = (None if bound is None else self.written(bound) for bound in self.bounds)
        if low is None:
            return f"at most {high}"
        return f"at least {low}" if high is None else f"between {low} and {high}"


def load_ledger(path: Path = LEDGER) -> dict[str, Claim]:
    """All claims by id, in the ledger's order; raises ``ValueError`` that names a faulty entry."""
    names = {field.name for field in fields(Claim)}
    ledger: dict[str, Claim] = {}
    for entry in yaml.safe_load(path.read_text(encoding="utf-8")):
        claim_id = entry.get("id", "without id")
        if set(entry) != names:
            raise ValueError(
                f"claim {claim_id!r}: missing {sorted(names - set(entry))}, "
                f"unknown {sorted(set(entry) - names)}"
            )
        if claim_id in ledger:
            raise ValueError(f"claim {claim_id!r} stands twice in {path.name}")
        bounds = None if entry["bounds"] is None else tuple(entry["bounds"])
        ledger[claim_id] = Claim(**{**entry, "bounds": bounds})
    return ledger


def report(claim_id: str, values: Mapping[str, float], conditions: str = "") -> None:
    """Display the verdict on a claim, for the reader and, as JSON, for the ledger page.

    values: what was measured, by a short name of the condition: {"batch 8": 3.1}; the first one
    stands in the summary on the landing page.
    conditions: what the numbers have in common: machine, width, data type.
    """
    claim = _claim(claim_id)
    numbers = {name: float(value) for name, value in values.items()}
    verdict = claim.verdict(numbers)
    record = {
        "id": claim_id,
        "verdict": verdict,
        "values": numbers,
        "order": list(numbers),  # notebook files sort the keys of values
        "conditions": conditions,
    }
    plain = f"{claim.title}: {verdict} ({_listed(claim, numbers)})"
    display({"text/plain": plain, "text/html": _box(claim, record), MIME_TYPE: record}, raw=True)


def collect(notebooks: Iterable[Path]) -> dict[str, dict]:
    """Claim id -> what :func:`report` displayed, plus ``chapter``, from executed notebooks."""
    collected: dict[str, dict] = {}
    for path in map(Path, notebooks):
        cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
        for output in (output for cell in cells for output in cell.get("outputs", [])):
            record = output.get("data", {}).get(MIME_TYPE)
            if record is None:
                continue
            claim_id = _claim(record["id"]).id
            if claim_id in collected:
                raise ValueError(
                    f"claim {claim_id!r} is reported in {collected[claim_id]['chapter']} and again "
                    f"in {path.stem}; put all values into one report"
                )
            values = {name: record["values"][name] for name in record["order"]}
            collected[claim_id] = {**record, "values": values, "chapter": path.stem}
    return collected


def ledger_page(collected: Mapping[str, dict]) -> str:
    """MyST markdown of the page that holds each claim of the notes against its measurement."""
    parts = [_HEAD]
    subject = None
    for claim in _ledger().values():
        if claim.subject != subject:
            subject = claim.subject
            parts.append(f"## {subject}")
        parts.append(_card(claim, collected.get(claim.id)))
    return "\n\n".join(parts) + "\n"


def summary_table(collected: Mapping[str, dict]) -> str:
    """A short MyST table for the landing page: claim, verdict, and the first number measured."""
    lines = ["| The notes say | Verdict | Measured |", "| --- | --- | --- |"]
    open_claims = [claim for claim in _ledger().values() if claim.status == "open"]
    for claim in open_claims:
        record = collected.get(claim.id)
        title = f'<a href="claims.html#{_anchor(claim.id)}">{html.escape(claim.title)}</a>'
        measured = "–"
        if record is not None:
            name, value = next(iter(record["values"].items()))
            number = f"{html.escape(claim.quantity['name'])} <b>{claim.written(value)}</b>"
            measured = _chapter_link(record, f"{claim.subject}:")
            measured += f" {number} ({html.escape(name)})"
        lines.append(f"| {title} | {_badge(record)} | {measured} |")
    planned = len(_ledger()) - len(open_claims)
    if planned:
        lines += ["", f'<a href="claims.html">{planned} more statements</a> await their chapters.']
    return "\n".join(lines) + "\n"


_HEAD = """\
# The notes, claim by claim

This book holds a page of Chinese notes, 《非Transformer结构》, to account. The notes go back to the
article 《谁将替代 Transformer?》 (AI科技评论, 2024-04-11). Each card gives the point of one
statement in condensed wording of our own (按笔记要点简述), where it comes from, how the book tests
it, and what the executed chapter measured. Cards marked （论文） hold headlines of the papers
behind the notes.

A verdict follows from numbers and from bounds that stand in the ledger: **supported** if every
number lies within the bounds, **contradicted** if none does, **qualified** if it depends on the
conditions."""


@cache
def _ledger() -> dict[str, Claim]:
    return load_ledger()


def _claim(claim_id: str) -> Claim:
    if claim_id not in _ledger():
        raise ValueError(f"no claim {claim_id!r} in {LEDGER.name}; there are {list(_ledger())}")
    return _ledger()[claim_id]


def _anchor(claim_id: str) -> str:
    return f"claim-{claim_id}"


def _listed(claim: Claim, values: Mapping[str, float]) -> str:
    return ", ".join(f"{name}: {claim.written(value)}" for name, value in values.items())


def _badge(record: Mapping | None) -> str:
    return f'<span class="nt-verdict">{UNTESTED if record is None else record["verdict"]}</span>'


def _chapter_link(record: Mapping, text: str) -> str:
    href = f"../notebooks/{record['chapter']}.html#verdict-{record['id']}"
    return f'<a href="{href}">{html.escape(text)}</a>'


def _box(claim: Claim, record: Mapping) -> str:
    """What the chapter shows; its id is where the ledger's link leads."""
    numbers = "".join(
        f"<li>{html.escape(name)}: <strong>{claim.written(value)}</strong></li>"
        for name, value in record["values"].items()
    )
    conditions = f"<p>{html.escape(record['conditions'])}</p>" if record["conditions"] else ""
    return (
        f'<div class="nt-claim {record["verdict"]}" id="verdict-{claim.id}">\n'
        f"<p>{_badge(record)} <strong>{html.escape(claim.title)}</strong></p>\n"
        f"<p>{html.escape(claim.quantity['name'].capitalize())}; the claim holds "
        f"{claim.bounds_in_words()}:</p>\n<ul>{numbers}</ul>\n{conditions}"
        f'<p><a href="../book/claims.html#{_anchor(claim.id)}">The claim in the ledger</a></p>\n'
        "</div>"
    )


def _card(claim: Claim, record: Mapping | None) -> str:
    state = "untested" if record is None else record["verdict"]
    lines = [
        f"({_anchor(claim.id)})=",
        f"### {claim.title}",
        "",
        f":::{{div}} nt-claim {state}",
        _badge(record),
        "",
        f'<span lang="zh">{html.escape(claim.original)}</span>',
        "",
        f"*{claim.translation}*",
        "",
        f"**Source.** {claim.source}",
        "",
        f"**Test.** {claim.test}",
        "",
        *_measured(claim, record),
        ":::",
    ]
    return "\n".join(lines)


def _measured(claim: Claim, record: Mapping | None) -> list[str]:
    if record is None:
        later = " Its chapter is not written yet." if claim.status == "planned" else ""
        return [f"**Measured.** {UNTESTED.capitalize()}.{later}"]
    return [
        f"**Measured.** {claim.quantity['name'].capitalize()}; the claim holds "
        f"{claim.bounds_in_words()}.",
        "",
        *(f"- {name}: **{claim.written(value)}**" for name, value in record["values"].items()),
        "",
        *([record["conditions"], ""] if record["conditions"] else []),
        f"**Chapter.** {_chapter_link(record, claim.subject)}",
    ]
