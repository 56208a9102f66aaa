"""The platform's uptime: spans of time in which its daemon looked after the runs, kept in the archive."""

from datetime import datetime
from pathlib import Path

from dsa110_assets.archive import files

FILE = ".uptime.json"
GAP_S = 120.0
"""A gap between looks longer than this counts as downtime; looks come every few seconds."""
EVERY_S = 30.0
"""How often the current span is extended in the file. It is not done more often because the file is made durable each time."""
MOST_SPANS = 2000


def spans(root: Path) -> list[tuple[float, float]]:
    """The spans [unix s] in which the platform was at work, oldest first."""
    stored = files.read_json(root / FILE)
    return [(float(begin), float(end)) for begin, end in stored] if isinstance(stored, list) else []


def note(root: Path, now_s: float) -> None:
    """Record that the platform is at work now. If the clock was set back, a new span begins."""
    known = spans(root)
    begin, end = known[-1] if known else (now_s, -GAP_S)
    if 0.0 <= now_s - end < EVERY_S:
        return
    goes_on = 0.0 <= now_s - end <= GAP_S
    updated = [*known[:-1], (begin, now_s)] if goes_on else [*known, (now_s, now_s)]
    with files.typed_errors(f"{root / FILE}"):
        files.write_json(root / FILE, updated[-MOST_SPANS:])


def share(root: Path, since: datetime, until: datetime) -> tuple[float | None, float]:
    """The fraction of a time in which the platform was at work, and the seconds of that time for which this is known, from the first note
    on; (None, 0.0) if it is not known for any of it."""
    known = spans(root)
    first_s, last_s = max(since.timestamp(), known[0][0] if known else until.timestamp()), until.timestamp()
    if last_s <= first_s:
        return None, 0.0
    worked_s = sum(max(0.0, min(end, last_s) - max(begin, first_s)) for begin, end in known)
    return worked_s / (last_s - first_s), last_s - first_s
