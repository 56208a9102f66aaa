"""The outputs of tools: written under a temporary name until they are complete, with their provenance beside them."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from dsa110_assets import __version__
from dsa110_assets.errors import ConfigurationError
from dsa110_assets.plain_json import jsonable

Progress = Callable[[int, int, str], None]
"""Called with the number of items done, the total, and a label of the current item."""
RECORD = "provenance.json"


@dataclass
class Draft:
    """An output while it is made, written to `path`, a file or a directory. `figures` go into its record."""

    path: Path
    figures: dict[str, Any] = field(default_factory=dict)


def nothing(done: int, total: int, label: str, /) -> None:
    """Ignore progress: the default for callers that want no reports."""


def record_of(path: Path, *, within: bool = False) -> Path:
    """The path of the provenance record of a file or directory: beside it, or `within` a directory whose file names we choose."""
    return path / RECORD if within else path.with_name(f"{path.name}.{RECORD}")


def require_new(path: Path, force: bool) -> None:
    """Raise ConfigurationError if `path` exists, unless `force` is set to replace it and a tool made it."""
    if not path.exists():
        return
    if not force:
        raise ConfigurationError(f"{path} exists; name another output, or replace it with --force")
    if not (record_of(path).is_file() or record_of(path, within=True).is_file()):
        raise ConfigurationError(
            f"{path} exists and has no {RECORD}, so it was not made by a tool; name another output, or remove it yourself"
        )


@contextmanager
def making(
    path: Path, tool: str, inputs: Sequence[Path], options: Mapping[str, Any], *, force: bool = False, within: bool = False
) -> Iterator[Draft]:
    """A draft that becomes `path` when the block ends without an error, and is removed otherwise.

    Its record holds the tool and the package's version, when it was made, `inputs` with size and time of change, `options`
    and the draft's figures. `within`: the draft is a directory, which is created. Raises ConfigurationError as `require_new` does.
    """
    require_new(path, force)
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = Draft(path.with_name(f".{path.name}.part-{os.getpid()}"))
    _remove(draft.path)
    try:
        if within:
            draft.path.mkdir()
        yield draft
        record = {
            "tool": tool,
            "version": __version__,
            "made": datetime.now(UTC),
            "inputs": [_facts(one) for one in inputs],
            "options": options,
            "figures": draft.figures,
        }
        text = json.dumps(jsonable(record), indent=1, allow_nan=False) + "\n"
        if within:
            record_of(draft.path, within=True).write_text(text)
        else:
            draft_record = record_of(draft.path)
            draft_record.write_text(text)
            draft_record.replace(record_of(path))
        _replace(draft.path, path)
    finally:
        _remove(draft.path)
        _remove(record_of(draft.path))


def _facts(path: Path) -> dict[str, Any]:
    """The description of an input: its absolute path, when it was last changed, and for a file its size."""
    status = path.stat()
    facts: dict[str, Any] = {"path": path.resolve(), "changed": datetime.fromtimestamp(status.st_mtime, UTC)}
    return facts if path.is_dir() else facts | {"size_bytes": status.st_size}


def _replace(draft: Path, path: Path) -> None:
    """Rename a draft to its path. An old output is moved aside first, because a directory cannot be renamed onto another."""
    before = path.with_name(f".{path.name}.before-{os.getpid()}")
    if path.exists():
        path.rename(before)
    draft.rename(path)
    _remove(before)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
