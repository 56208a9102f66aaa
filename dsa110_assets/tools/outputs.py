"""What a tool makes: under a temporary name until it is whole, with its provenance beside it."""

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
"""Called with what is done, what there is to do, and what is being worked on."""
RECORD = "provenance.json"


@dataclass
class Draft:
    """What is being made: written to `path`, a file or a directory. `figures` go into its record."""

    path: Path
    figures: dict[str, Any] = field(default_factory=dict)


def nothing(done: int, total: int, label: str, /) -> None:
    """The progress of who wants none."""


def record_of(path: Path, *, within: bool = False) -> Path:
    """Where the provenance of a file or directory is: beside it, or `within` a directory whose contents are ours to name."""
    return path / RECORD if within else path.with_name(f"{path.name}.{RECORD}")


def require_new(path: Path, force: bool) -> None:
    """Raise ConfigurationError if `path` exists, unless `force` is to replace it and a tool made it."""
    if not path.exists():
        return
    if not force:
        raise ConfigurationError(f"{path} exists; name another output, or replace it with --force")
    if not (record_of(path).is_file() or record_of(path, within=True).is_file()):
        raise ConfigurationError(f"{path} exists and has no {RECORD}, so that no tool made it; name another output, or remove it yourself")


@contextmanager
def making(
    path: Path, tool: str, inputs: Sequence[Path], options: Mapping[str, Any], *, force: bool = False, within: bool = False
) -> Iterator[Draft]:
    """A draft that becomes `path` when the block ends well, and leaves nothing when it does not.

    Its record holds the tool and the package's version, when it was made, `inputs` with size and time of change, `options`
    and the draft's figures. `within`: the draft is a directory, which is made. Raises ConfigurationError as `require_new`.
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
    """What an input was: its whole path, and when it was changed last; the size of a file."""
    facts = path.stat()
    told: dict[str, Any] = {"path": path.resolve(), "changed": datetime.fromtimestamp(facts.st_mtime, UTC)}
    return told if path.is_dir() else told | {"size_bytes": facts.st_size}


def _replace(draft: Path, path: Path) -> None:
    """Rename, what was there before moved aside for as long as that takes: a directory cannot be renamed onto another."""
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
