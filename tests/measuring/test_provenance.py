"""Provenance is complete, serialisable and honest about the commit."""

import json
import subprocess

from ntlib.measuring import environment
from ntlib.measuring.provenance import cpu_name, git_commit
from ntlib.results import REQUIRED_ENVIRONMENT


def test_environment_has_what_records_require():
    facts = json.loads(json.dumps(environment()))
    assert set(REQUIRED_ENVIRONMENT) <= set(facts)
    assert facts["cpu"] == cpu_name()
    assert facts["memory_bytes"] > 2**28
    assert facts["cores"] >= 1


def test_commit_says_when_files_differ(tmp_path):
    assert git_commit(tmp_path) is None

    def git(*arguments):
        identity = ["-c", "user.name=n", "-c", "user.email=e@example.org"]
        subprocess.run(["git", *identity, *arguments], cwd=tmp_path, check=True)

    git("init", "-q")
    (tmp_path / "file").write_text("a")
    git("add", "file")
    git("commit", "-q", "-m", "first")
    commit = git_commit(tmp_path)
    assert len(commit) == 40
    (tmp_path / "file").write_text("b")
    assert git_commit(tmp_path) == commit + "+"


def test_the_allocators_settings_are_told(monkeypatch):
    monkeypatch.setenv("MALLOC_MMAP_MAX_", "0")
    assert environment()["allocator"]["MALLOC_MMAP_MAX_"] == "0"
    monkeypatch.delenv("MALLOC_MMAP_MAX_")
    assert "MALLOC_MMAP_MAX_" not in environment()["allocator"]
