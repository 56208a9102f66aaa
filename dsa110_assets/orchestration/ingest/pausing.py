"""Halting by a person of ingest, or of all new runs; runs that have begun are completed. A halt survives restarts."""

from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

from dsa110_assets.archive import files

INGEST, ALL = ".ingest-paused.json", ".draining.json"
"""Files in the archive that record a halt: of runs from the inbox, or of all runs that have not begun."""


@dataclass(frozen=True)
class Pause:
    """A halt: by whom, when (UTC) and why."""

    by: str
    at: str
    reason: str


def paused(root: Path, what: str = INGEST) -> Pause | None:
    """The pause in force for an archive's ingest, or for all runs, as `what` says; None if there is none."""
    record = files.read_json(root / what)
    return Pause(**record) if record else None


def pause(root: Path, by: str, reason: str, what: str = INGEST) -> Pause:
    """Halt ingest, or all new runs, until `resume`; the halt survives restarts."""
    new_pause = Pause(by, datetime.now(UTC).isoformat(timespec="seconds"), reason)
    with files.typed_errors(f"{root / what}"):
        files.write_json(root / what, asdict(new_pause))
    return new_pause


def resume(root: Path, what: str = INGEST) -> None:
    """End a pause."""
    with files.typed_errors(f"{root / what}"):
        (root / what).unlink(missing_ok=True)


def halted(root: Path) -> list[str]:
    """A sentence for each halt in force."""
    drained, ingest = paused(root, ALL), paused(root)
    messages = [f"nothing new is begun: drained by {drained.by} since {drained.at}: {drained.reason}"] if drained else []
    return [*messages, f"ingest is paused by {ingest.by} since {ingest.at}: {ingest.reason}"] if ingest else messages
