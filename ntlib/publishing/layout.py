"""Where things lie in a checkout of the book."""

from dataclasses import dataclass
from pathlib import Path

import click
import yaml


@dataclass(frozen=True)
class Layout:
    """The folders of one checkout; `root` holds `_toc.yml`, `notebooks/` and `ntlib/`."""

    root: Path

    @property
    def notebooks(self) -> Path:
        """Chapters with their committed outputs."""
        return self.root / "notebooks"

    @property
    def build(self) -> Path:
        """Everything that can be made again."""
        return self.root / "_build"

    def executed(self, profile: str) -> Path:
        """Where chapters run under `profile` lie; the book's own profile has the short name."""
        return self.build / ("executed" if profile == "book" else f"executed-{profile}")

    def chapters(self, only: str = "") -> list[Path]:
        """Notebooks in reading order; `only` holds names or parts of names, comma-separated.

        Raises click.UsageError where a name matches nothing.
        """
        paths = sorted(self.notebooks.glob("*.ipynb"))
        wanted = [part.strip() for part in only.split(",") if part.strip()]
        for part in wanted:
            if not any(part in path.stem for path in paths):
                names = ", ".join(path.stem for path in paths) or "no notebook at all"
                raise click.UsageError(f"no notebook matches {part!r}; there is {names}")
        return [path for path in paths if not wanted or any(part in path.stem for part in wanted)]

    def toc_documents(self) -> list[str]:
        """Every document that `_toc.yml` names, without suffix, in reading order."""
        toc = yaml.safe_load((self.root / "_toc.yml").read_text(encoding="utf-8"))
        return [toc["root"], *_files(toc)]


def _files(node: object) -> list[str]:
    if isinstance(node, list):
        return [name for item in node for name in _files(item)]
    if not isinstance(node, dict):
        return []
    own = [node["file"]] if "file" in node else []
    return own + [name for value in node.values() for name in _files(value)]
