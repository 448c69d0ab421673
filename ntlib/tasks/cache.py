"""A directory on disk for what is slow to build and cheap to read."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

import platformdirs


def cache_directory() -> Path:
    """Where built data is kept: ``$NTLIB_CACHE``, or the user's cache directory."""
    chosen = os.environ.get("NTLIB_CACHE")
    return Path(chosen) if chosen else platformdirs.user_cache_path("ntlib")


def cached(name: str, build: Callable[[Path], None]) -> Path:
    """The directory ``name`` in the cache, filled by ``build(directory)`` if it is not there.

    Built beside its place and then renamed, so that a killed build leaves nothing half done and
    two processes that build at once both end up with a whole directory.
    """
    target = cache_directory() / name
    if target.is_dir():
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix=f".{name}-", dir=target.parent))
    try:
        build(work)
        work.rename(target)
    except OSError:
        if not target.is_dir():  # else another process was faster, with the same content
            raise
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return target
