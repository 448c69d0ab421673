"""Recorded results: round trip, schema, and every record that is committed."""

import json

import pandas as pd
import pytest

from ntlib import results

FRAME = pd.DataFrame({"length": [1, 2], "seconds": [0.5, 0.25]})
DESCRIBED = {"length": "tokens", "seconds": "median time of a step, s"}


def save(directory, **changes):
    arguments = {
        "command": "python -m ntlib run speed",
        "seeds": [0, 1],
        "profile": "full",
        "duration_s": 5400.0,
        "columns": DESCRIBED,
        "directory": directory,
    }
    return results.save("speed", FRAME, **(arguments | changes))


def test_round_trip(tmp_path):
    path = save(tmp_path)
    assert path == tmp_path / "speed.csv"
    frame, provenance = results.load("speed", tmp_path)
    pd.testing.assert_frame_equal(frame, FRAME)
    assert set(results.REQUIRED) == set(provenance)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["speed.csv", "speed.json"]
    assert path.stat().st_mode & 0o044 == 0o044


def test_provenance_line(tmp_path):
    save(tmp_path)
    _, provenance = results.load("speed", tmp_path)
    provenance["environment"] |= {
        "date": "2026-01-02T03:04:05+00:00",
        "gpu": None,
        "cpu": "a CPU",
        "threads": 2,
        "torch": "2.13.0",
    }
    assert results.provenance_line(provenance) == (
        "Recorded on 2026-01-02 on a CPU, 2 threads, torch 2.13.0, 2 seeds, 90 min; "
        "again: python -m ntlib run speed"
    )
    provenance["environment"]["gpu"] = "a GPU"
    provenance |= {"seeds": [0], "duration_s": 59.6}
    assert "on a GPU, 2 threads, torch 2.13.0, 1 seed, 60 s;" in results.provenance_line(provenance)
    assert "2.5 h" in results.provenance_line(provenance | {"duration_s": 9000})


@pytest.mark.parametrize("key", results.REQUIRED)
def test_a_missing_key_is_named(tmp_path, key):
    sidecar = save(tmp_path).with_suffix(".json")
    provenance = json.loads(sidecar.read_text())
    del provenance[key]
    sidecar.write_text(json.dumps(provenance))
    with pytest.raises(ValueError, match=f"provenance lacks '{key}'"):
        results.load("speed", tmp_path)


@pytest.mark.parametrize("key", results.REQUIRED_ENVIRONMENT)
def test_a_missing_environment_key_is_named(tmp_path, key):
    sidecar = save(tmp_path).with_suffix(".json")
    provenance = json.loads(sidecar.read_text())
    del provenance["environment"][key]
    sidecar.write_text(json.dumps(provenance))
    with pytest.raises(ValueError, match=f"environment lacks '{key}'"):
        results.load("speed", tmp_path)


def test_a_lost_row_is_noticed(tmp_path):
    path = save(tmp_path)
    path.write_text("\n".join(path.read_text().splitlines()[:-1]) + "\n")
    with pytest.raises(ValueError, match="the CSV has 1 rows, its provenance says 2"):
        results.load("speed", tmp_path)


def test_unknown_and_incomplete_records(tmp_path):
    path = save(tmp_path)
    with pytest.raises(ValueError, match=r"no recorded results 'sped' .* \['speed'\]"):
        results.load("sped", tmp_path)
    renamed = path.rename(tmp_path / "other.csv")
    with pytest.raises(ValueError, match=r"other.csv has no provenance"):
        results.load("other", tmp_path)
    path.with_suffix(".json").rename(renamed.with_suffix(".json"))
    with pytest.raises(ValueError, match="says experiment 'speed', not 'other'"):
        results.load("other", tmp_path)


@pytest.mark.parametrize(
    ("name", "frame", "columns", "message"),
    [
        ("Speed!", FRAME, DESCRIBED, "experiment must consist of .* got 'Speed!'"),
        ("speed", FRAME, {"length": "tokens"}, r"not described: \['seconds'\]"),
        ("speed", FRAME[["length"]], DESCRIBED, r"absent: \['seconds'\]"),
        ("speed", FRAME[:0], DESCRIBED, "frame has no rows"),
    ],
)
def test_save_refuses(tmp_path, name, frame, columns, message):
    with pytest.raises(ValueError, match=message):
        results.save(
            name,
            frame,
            command="c",
            seeds=[0],
            profile="full",
            duration_s=1,
            columns=columns,
            directory=tmp_path,
        )
    assert list(tmp_path.iterdir()) == []


def test_a_failed_write_keeps_the_old_file(tmp_path):
    path = tmp_path / "file.txt"
    results.write_atomically(path, "old")
    with pytest.raises(UnicodeEncodeError):
        results.write_atomically(path, "new \ud800")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_every_committed_record_obeys_the_schema():
    if not results.DIRECTORY.is_dir():
        pytest.skip("no recorded results yet")
    names = {path.stem for path in results.DIRECTORY.glob("*.csv")}
    assert names == {path.stem for path in results.DIRECTORY.glob("*.json")}
    for name in names:
        results.load(name)
    assert sum(path.stat().st_size for path in results.DIRECTORY.iterdir()) < 10e6
