"""When the platform was at work: spans in which its daemon looked after the runs, kept in the archive."""

from datetime import datetime
from pathlib import Path

from dsa110_assets.archive import files

FILE = ".uptime.json"
GAP_S = 120.0
"""So long without a look is a time without the platform; looks come every few seconds."""
EVERY_S = 30.0
"""A span is written on so often: the file is made durable each time."""
MOST_SPANS = 2000


def spans(root: Path) -> list[tuple[float, float]]:
    """The spans [unix s] in which the platform was at work, oldest first."""
    told = files.read_json(root / FILE)
    return [(float(begin), float(end)) for begin, end in told] if isinstance(told, list) else []


def note(root: Path, now_s: float) -> None:
    """Say that the platform is at work now. A clock that was set back begins another span."""
    known = spans(root)
    begin, end = known[-1] if known else (now_s, -GAP_S)
    if 0.0 <= now_s - end < EVERY_S:
        return
    goes_on = 0.0 <= now_s - end <= GAP_S
    made = [*known[:-1], (begin, now_s)] if goes_on else [*known, (now_s, now_s)]
    with files.typed_errors(f"{root / FILE}"):
        files.write_json(root / FILE, made[-MOST_SPANS:])


def share(root: Path, since: datetime, until: datetime) -> tuple[float | None, float]:
    """The part of a time in which the platform was at work, and of how much [s] this is known: from the first note on; None of none."""
    known = spans(root)
    first_s, last_s = max(since.timestamp(), known[0][0] if known else until.timestamp()), until.timestamp()
    if last_s <= first_s:
        return None, 0.0
    worked_s = sum(max(0.0, min(end, last_s) - max(begin, first_s)) for begin, end in known)
    return worked_s / (last_s - first_s), last_s - first_s
