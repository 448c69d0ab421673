"""The landing page's table: what the book found, in a few rows."""

from pathlib import Path

import yaml

HEAD = """```{list-table}
:header-rows: 1
:widths: 52 30 18

* - Claim
  - Measured
  - Verdict
"""


def table(ledger: Path, collected: dict[str, dict]) -> str:
    """MyST table of the claims that a chapter has reported on, in the ledger's order.

    `ledger` is the YAML list of claims; `collected` maps a claim's id to its record with `verdict`
    and `values`, as the chapters' outputs hold them.
    """
    claims = yaml.safe_load(ledger.read_text(encoding="utf-8"))
    entries = claims["claims"] if isinstance(claims, dict) else claims
    rows = [_row(entry, collected[entry["id"]]) for entry in entries if entry["id"] in collected]
    if not rows:
        return "*No chapter has reported a verdict yet.*"
    return HEAD + "".join(rows) + "```"


def _row(entry: dict, record: dict) -> str:
    claim = " ".join(entry["translation"].split())
    if entry.get("chapter"):
        claim = f"[{claim}](../notebooks/{entry['chapter']}.ipynb)"
    values = "; ".join(f"{name} {value:.3g}" for name, value in record["values"].items())
    return f"* - {claim}\n  - {values}\n  - **{record['verdict']}**\n"
