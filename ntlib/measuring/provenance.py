"""Where a number came from: machine, software and date."""

from __future__ import annotations

import os
import platform
import subprocess
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path

import numpy as np
import psutil
import torch

# glibc's malloc; torch's huge pages
ALLOCATOR = ("MALLOC_MMAP_MAX_", "MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_")
ALLOCATOR += ("MALLOC_TOP_PAD_", "LD_PRELOAD", "THP_MEM_ALLOC_ENABLE")

REPOSITORY = Path(__file__).resolve().parents[2]


def environment() -> dict[str, object]:
    """The facts that a recorded number must carry; every value is JSON-serialisable.

    ``cores`` are physical, ``threads`` is what torch uses, ``memory_bytes`` is the machine's,
    ``gpu`` and ``git_commit`` are None where there is none, ``ntlib`` where it is not installed.
    ``allocator`` holds the environment variables that change how memory is got from the system.
    """
    return {
        "cpu": cpu_name(),
        "cores": psutil.cpu_count(logical=False) or psutil.cpu_count(),
        "threads": torch.get_num_threads(),
        "memory_bytes": psutil.virtual_memory().total,
        "allocator": {name: os.environ[name] for name in ALLOCATOR if name in os.environ},
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": np.__version__,
        "ntlib": _ntlib_version(),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "git_commit": git_commit(),
    }


def cpu_name() -> str:
    """The processor's marketing name, e.g. "AMD EPYC 7763 64-Core Processor"."""
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            key, _, value = line.partition(":")
            if key.strip() == "model name":
                return value.strip()
    except OSError:
        pass  # not Linux
    return platform.processor() or platform.machine() or "unknown CPU"


def git_commit(directory: Path = REPOSITORY) -> str | None:
    """The checked-out commit, with "+" appended if tracked files differ; None outside of git."""
    try:
        commit = _git(directory, "rev-parse", "HEAD").strip()
        changed = _git(directory, "status", "--porcelain", "--untracked-files=no").strip()
    except (OSError, subprocess.CalledProcessError):
        return None
    return commit + ("+" if changed else "")


def _git(directory: Path, *arguments: str) -> str:
    command = ["git", "-C", str(directory), *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def _ntlib_version() -> str | None:
    try:
        return metadata.version("ntlib")
    except metadata.PackageNotFoundError:
        return None
