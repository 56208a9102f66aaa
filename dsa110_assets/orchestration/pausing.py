"""Ingest, paused by a person: nothing more is taken up from the inbox; what was taken up is made."""

from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

from dsa110_assets.archive import files

FILE = ".ingest-paused.json"


@dataclass(frozen=True)
class Pause:
    """Who paused ingest, when (UTC) and why."""

    by: str
    at: str
    reason: str


def paused(root: Path) -> Pause | None:
    """The pause that an archive's ingest is in; None if it is not paused."""
    told = files.read_json(root / FILE)
    return Pause(**told) if told else None


def pause(root: Path, by: str, reason: str) -> Pause:
    """Pause ingest until `resume`, also over restarts."""
    made = Pause(by, datetime.now(UTC).isoformat(timespec="seconds"), reason)
    with files.typed_errors(f"{root / FILE}"):
        files.write_json(root / FILE, asdict(made))
    return made


def resume(root: Path) -> None:
    """Take a pause back."""
    with files.typed_errors(f"{root / FILE}"):
        (root / FILE).unlink(missing_ok=True)
