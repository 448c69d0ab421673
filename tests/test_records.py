"""Recording an experiment, and telling whether the code that made a record has changed."""

import json
from dataclasses import replace

import pytest
from click.testing import CliRunner

from ntlib import dependencies, experiments, records, results
from ntlib.__main__ import main
from ntlib.mixers.retention import RetentionConfig
from ntlib.models.language_model import ModelConfig
from ntlib.tasks import InductionHeads
from ntlib.training import TrainConfig

TASK = InductionHeads(vocab_size=8, length=16)
MODEL = ModelConfig(TASK.vocab_size, 16, 1, RetentionConfig(2), ffn_dim=24)
RUN = experiments.Run("RetNet", MODEL, TASK, TrainConfig(4, 8, 1e-2, eval_every=2, held_out=8))


@pytest.fixture
def define(monkeypatch):
    """define(run) makes two seeds of it the record "small"."""

    def small(run):
        grid = experiments.grid([run], seeds=(0, 1))
        measure = lambda folder, workers: experiments.run_grid(  # noqa: E731
            grid, workers=1, checkpoints=folder
        )
        columns = records.TRAINING_COLUMNS
        record = records.Record("smoke", (0, 1), columns, lambda: grid, measure)
        monkeypatch.setitem(records.RECORDS, "small", record)

    return small


@pytest.fixture
def kept(define, tmp_path):
    """The folder of the record "small", just made."""
    define(RUN)
    path = records.record("small", tmp_path / "checkpoints", directory=tmp_path / "results")
    assert path == tmp_path / "results" / "small.csv"
    return path.parent


def edit(folder, change):
    sidecar = folder / "small.json"
    provenance = json.loads(sidecar.read_text())
    change(provenance)
    sidecar.write_text(json.dumps(provenance))


def test_a_record_says_what_made_it(kept):
    frame, provenance = results.load("small", kept)
    assert set(frame) == set(records.TRAINING_COLUMNS)
    assert len(frame) == 4
    assert provenance["command"] == "python -m ntlib record small"
    (machine,) = provenance["machines"]
    assert machine["runs"] == 2
    assert machine["seconds"] > 0
    named = set(provenance["sources"])
    own = {"experiments.py", "training.py", "tasks/synthetic.py", "mixers/retention.py"}
    assert {f"ntlib/{name}" for name in own} < named
    assert not named & {"ntlib/records.py", "ntlib/tasks/text.py", "ntlib/mixers/mamba.py"}


def test_a_record_is_fresh_until_its_code_changes(kept):
    assert records.state("small", kept) == ("fresh", [])
    edit(kept, lambda made: made["sources"].update({"ntlib/training.py": "0"}))
    edit(kept, lambda made: made["sources"].update({"ntlib/gone.py": "0"}))
    reasons = ["ntlib/training.py changed", "ntlib/gone.py is no longer used"]
    assert records.state("small", kept) == ("stale", reasons)


def test_a_record_is_stale_when_its_runs_are_defined_otherwise(kept, define):
    define(replace(RUN, train=replace(RUN.train, lr=2e-2)))
    assert records.state("small", kept) == ("stale", ["its runs are defined otherwise now"])


def test_older_records_are_read_and_unknown(kept):
    for key in results.OPTIONAL:
        edit(kept, lambda made, key=key: made.pop(key))
    assert records.state("small", kept)[0] == "unknown"


def test_every_record_is_made_of_code_that_exists():
    for name, record in records.RECORDS.items():
        try:
            runs = record.runs()
        except ValueError as error:
            assert "no recorded results 'tuning-" in str(error)  # noqa: PT017
            continue  # its rates come from a record that is still to be made
        assert runs, name
        assert all((dependencies.ROOT / path).is_file() for path in record.sources())


def test_a_record_whose_rates_are_gone_is_stale(kept, monkeypatch):
    record = records.RECORDS["small"]
    gone = replace(record, runs=lambda: results.load("no-such-record"))
    monkeypatch.setitem(records.RECORDS, "small", gone)
    state, (reason,) = records.state("small", kept)
    assert state == "stale"
    assert "no recorded results 'no-such-record'" in reason


def test_changed_code_gives_a_run_another_name(monkeypatch):
    before = RUN.key()
    assert before == RUN.key()
    monkeypatch.setattr(experiments, "_sources", lambda modules: {"ntlib/training.py": "0"})
    assert RUN.key() != before


def test_the_command_lists_every_committed_record():
    shown = CliRunner().invoke(main, ["results"])
    assert shown.exit_code == 0
    for path in results.DIRECTORY.glob("*.csv"):
        assert path.stem in shown.output


def test_the_command_refuses_unknown_names():
    shown = CliRunner().invoke(main, ["record", "nothing"])
    assert shown.exit_code == 2
    assert "name must be one of tuning-text" in shown.output
