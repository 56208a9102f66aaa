"""The goal table: the goal of each row of the contract, and the figure that is compared with it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import isnan, nan

from common import Row


@dataclass(frozen=True)
class Goal:
    """One goal. `value` computes the figure from the rows, nan if not measured. With `most` it must be at most `limit`, else at least."""

    stage: str
    wanted: str
    unit: str
    limit: float
    value: Callable[[Sequence[Row]], float]
    most: bool = True

    def met(self, value: float) -> bool:
        return value <= self.limit if self.most else value >= self.limit


def _own(rows: Sequence[Row], stage: str, engine: str = "dsa110_assets") -> Row | None:
    found = [r for r in rows if r.stage.startswith(stage) and r.engine.startswith(engine) and not r.peer and r.wall_s]
    return found[0] if found else None


def _peer(rows: Sequence[Row], stage: str, engine: str) -> Row | None:
    found = [r for r in rows if r.stage.startswith(stage) and engine.lower() in r.engine.lower() and r.wall_s]
    return found[0] if found else None


def wall(stage: str, engine: str = "dsa110_assets") -> Callable[[Sequence[Row]], float]:
    def value(rows: Sequence[Row]) -> float:
        row = _own(rows, stage, engine)
        return row.median_s if row else nan

    return value


def peak(stage: str) -> Callable[[Sequence[Row]], float]:
    def value(rows: Sequence[Row]) -> float:
        row = _own(rows, stage)
        return row.peak_gib if row else nan

    return value


def times(stage: str, engine: str) -> Callable[[Sequence[Row]], float]:
    """Ratio of the peer's median wall time to ours."""

    def value(rows: Sequence[Row]) -> float:
        own, peer = _own(rows, stage), _peer(rows, stage, engine)
        return peer.median_s / own.median_s if own and peer else nan

    return value


def accuracy(stage: str, name: str) -> Callable[[Sequence[Row]], float]:
    def value(rows: Sequence[Row]) -> float:
        row = _own(rows, stage)
        return float(row.accuracy.get(name, nan)) if row else nan

    return value


CONVERT, FLAG, SOLVE, APPLY, TILE = "UVH5 to measurement set", "flagging", "solve B and G", "calibrate and average", "tile image"
GOALS = (
    Goal(CONVERT, "wall time", "s", 6, wall(CONVERT)),
    Goal(CONVERT, "times faster than pyuvdata, checks off", "", 5, times(CONVERT, "pyuvdata"), most=False),
    Goal(CONVERT, "peak memory", "GiB", 2, peak(CONVERT)),
    Goal(FLAG, "wall time", "s", 4, wall(FLAG)),
    Goal(SOLVE, "wall time, start-up included", "s", 5, wall(SOLVE)),
    Goal(SOLVE, "times faster than CASA", "", 10, times(SOLVE, "CASA"), most=False),
    Goal(SOLVE, "gain error over the noise limit", "", 1.05, accuracy(SOLVE, "over noise limit")),
    Goal(APPLY, "wall time", "s", 4, wall(APPLY)),
    Goal(TILE, "wall time", "s", 25, wall(TILE)),
    Goal(TILE, "times faster than WSClean", "", 3, times(TILE, "WSClean"), most=False),
    Goal(TILE, "times faster than tclean", "", 12, times(TILE, "tclean"), most=False),
    Goal(TILE, "peak memory", "GiB", 4, peak(TILE)),
    Goal("whole group", "wall time", "s", 40, wall("whole group")),
    Goal("whole group", "peak memory", "GiB", 6, peak("whole group")),
    Goal("hour mosaic", "wall time", "s", 3, wall("hour mosaic")),
    Goal("forced photometry", "wall time", "s", 2, wall("forced photometry", "dsa110_assets, whole process")),
    Goal("forced photometry", "measuring alone", "s", 2, wall("forced photometry", "dsa110_assets, measuring")),
    Goal("light curves and metrics", "wall time", "s", 10, wall("light curves and metrics")),
    Goal("last subband to first step", "wall time", "s", 20, wall("last subband to first step")),
    Goal("overhead of a run", "wall time", "s", 4, wall("overhead of a run")),
    Goal("tick of the planner", "CPU with 1,000 nights in the index", "s", 5, accuracy("tick of the planner", "s at 1000")),
)


def table(rows: Sequence[Row]) -> str:
    """Markdown table of all goals with measured figures. The text of RESULTS.md explains what limits those not met."""
    lines = ["| stage | what | goal | measured | met |", "|---|---|---|---|---|"]
    for goal in GOALS:
        value = goal.value(rows)
        shown, met = ("not measured", "") if isnan(value) else (f"{value:.2f} {goal.unit}".strip(), "yes" if goal.met(value) else "**no**")
        sign = "≤" if goal.most else "≥"
        lines.append(f"| {goal.stage} | {goal.wanted} | {sign} {goal.limit:g} {goal.unit}".rstrip() + f" | {shown} | {met} |")
    return "\n".join(lines) + "\n"
