"""Finds the observations that were calibrated before nearer tables were available, and makes only these again."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields
from datetime import datetime
from typing import TYPE_CHECKING, Any

from dsa110_assets.archive import caltable_registry as registry
from dsa110_assets.errors import ConfigurationError, WaitingError
from dsa110_assets.orchestration.calibrating import calibrators
from dsa110_assets.orchestration.running.process import ProcessReport, Progress, SideBySide, process
from dsa110_assets.orchestration.specification import recipes
from dsa110_assets.telescope import timegrid

if TYPE_CHECKING:
    from dsa110_assets.archive.store import Archive
    from dsa110_assets.settings import Settings


@dataclass(frozen=True)
class Improvement:
    """An observation for which nearer tables are available: the set it was calibrated with, the set it would get now, and the
    distances of both in time [h]."""

    observation: str
    used: str
    better: str
    used_h: float
    better_h: float


def improvements(archive: "Archive", settings: "Settings", since: datetime | None, until: datetime | None) -> list[Improvement]:
    """The observations of a span whose tables are still good but no longer the nearest.

    Observations calibrated with tables that were rejected since are left out: every `dsa110 process` makes them again anyway.
    """
    known = {table_set.set_id: table_set for table_set in registry.sets(archive, registry.ACTIVE)}
    results = []
    for calibrated in archive.products("calibrated_ms", since, until, removed=True):
        used = known.get(str(calibrated.metadata.get("caltable_set")))
        product = recipes.usable(archive, "measurement_set", calibrated.partition)
        if used is None or product is None or (until is not None and timegrid.parse_key(calibrated.partition or "") >= until):
            continue
        try:
            choice, _ = calibrators.choose_for(archive, settings, product, used=registry.used_by(calibrated.metadata))
        except WaitingError:
            continue
        middle = (float(product.metadata["mjd_start"]) + float(product.metadata["mjd_end"])) / 2
        used_h = 24 * abs(used.mid_mjd - middle)
        if choice.nearest.set_id != used.set_id and choice.age_h < used_h:
            results.append(Improvement(product.partition or "", used.set_id, choice.nearest.set_id, used_h, choice.age_h))
    return results


def improve(
    settings: "Settings",
    since: datetime | None = None,
    until: datetime | None = None,
    through: str | None = None,
    dry_run: bool = False,
    progress: Callable[[Progress], None] | None = None,
    *,
    side_by_side: SideBySide | None = None,
) -> ProcessReport:
    """Make the observations with `improvements` again, and what follows from them; the windows between them are not examined."""
    from dsa110_assets.archive.store import Archive

    with Archive(settings.archive, settings.database_url) as archive:
        found = improvements(archive, settings, since, until)
    reports = [
        process(settings, start, end, through, dry_run, progress, side_by_side=side_by_side)
        for start, end in _spans([improvement.observation for improvement in found])
    ]
    if not reports and through is not None:
        _require_asset(through)
    return _merged(reports)


def _require_asset(through: str) -> None:
    from dsa110_assets.orchestration.graph import specifications

    if through not in specifications():
        raise ConfigurationError(f"--through {through}: no such asset; there are {', '.join(specifications())}")


def _spans(observations: Sequence[str]) -> Iterator[tuple[datetime, datetime]]:
    """[start, end) of each series of consecutive windows."""
    starts = sorted(timegrid.parse_key(key) for key in observations)
    while starts:
        first = last = starts.pop(0)
        while starts and starts[0] - last == timegrid.OBSERVATION_WINDOW:
            last = starts.pop(0)
        yield first, last + timegrid.OBSERVATION_WINDOW


def _merged(reports: Sequence[ProcessReport]) -> ProcessReport:
    """One report that sums those of several runs."""
    summed: dict[str, Any] = {field.name: field.default for field in fields(ProcessReport)}
    for report in reports:
        summed = {name: value + getattr(report, name) for name, value in summed.items()}
    return ProcessReport(**summed)
