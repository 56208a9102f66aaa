"""Numbers in a form for people."""

from __future__ import annotations

MINUTE_S, HOUR_S, DAY_S = 60.0, 3600.0, 86400.0
STEPS = ((DAY_S * 730, DAY_S * 365.25, "years"), (DAY_S * 3, DAY_S, "days"), (HOUR_S * 2, HOUR_S, "h"), (MINUTE_S * 2, MINUTE_S, "min"))
"""(shortest span [s], unit [s], name of the unit) for spans of time, largest first."""


def size(size_bytes: float) -> str:
    """A number of bytes in the largest unit that fits: 1.4 GB."""
    for unit in ("B", "kB", "MB", "GB"):
        if abs(size_bytes) < 1000:
            return f"{size_bytes:.3g} {unit}"
        size_bytes /= 1000
    return f"{size_bytes:.3g} TB"


def duration(seconds: float | None) -> str:
    """A span of time in the largest unit that fits: 40 s, 12 min, 5.2 h, 306 days."""
    if seconds is None:
        return "–"
    for least, unit_s, unit in STEPS:
        if abs(seconds) >= least:
            number = seconds / unit_s
            return f"{number:.0f} {unit}" if abs(number) >= 10 else f"{number:.1f} {unit}"
    return f"{seconds:.0f} s"
