"""Work halted by a person: ingest, or everything that is new; what was begun is made. It holds over restarts."""

from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

from dsa110_assets.archive import files

INGEST, ALL = ".ingest-paused.json", ".draining.json"
"""What is halted, by the file in the archive that says so: what comes from the inbox, or all runs that have not begun."""


@dataclass(frozen=True)
class Pause:
    """Who halted it, when (UTC) and why."""

    by: str
    at: str
    reason: str


def paused(root: Path, what: str = INGEST) -> Pause | None:
    """The pause that an archive's ingest, or all of it, is in; None if it is in none."""
    told = files.read_json(root / what)
    return Pause(**told) if told else None


def pause(root: Path, by: str, reason: str, what: str = INGEST) -> Pause:
    """Halt ingest, or all that is new, until `resume`, also over restarts."""
    made = Pause(by, datetime.now(UTC).isoformat(timespec="seconds"), reason)
    with files.typed_errors(f"{root / what}"):
        files.write_json(root / what, asdict(made))
    return made


def resume(root: Path, what: str = INGEST) -> None:
    """Take a pause back."""
    with files.typed_errors(f"{root / what}"):
        (root / what).unlink(missing_ok=True)


def halted(root: Path) -> list[str]:
    """What is halted now, a sentence each."""
    drained, one = paused(root, ALL), paused(root)
    found = [f"nothing new is begun: drained by {drained.by} since {drained.at}: {drained.reason}"] if drained else []
    return [*found, f"ingest is paused by {one.by} since {one.at}: {one.reason}"] if one else found
