"""What was calibrated before nearer tables were there: found, and made again, and nothing else."""

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
    """An observation that nearer tables are there for: the set it was calibrated with and the one it would get, and their
    distances in time [h]."""

    observation: str
    used: str
    better: str
    used_h: float
    better_h: float


def improvements(archive: "Archive", settings: "Settings", since: datetime | None, until: datetime | None) -> list[Improvement]:
    """The observations of a span whose tables are still good, and not the nearest any more.

    What was calibrated with tables that were rejected since is no question of better: every `dsa110 process` makes it again.
    """
    known = {one.set_id: one for one in registry.sets(archive, registry.ACTIVE)}
    found = []
    for made in archive.products("calibrated_ms", since, until, removed=True):
        used = known.get(str(made.metadata.get("caltable_set")))
        product = recipes.usable(archive, "measurement_set", made.partition)
        if used is None or product is None or (until is not None and timegrid.parse_key(made.partition or "") >= until):
            continue
        try:
            choice, _ = calibrators.choose_for(archive, settings, product, used=registry.used_by(made.metadata))
        except WaitingError:
            continue
        middle = (float(product.metadata["mjd_start"]) + float(product.metadata["mjd_end"])) / 2
        used_h = 24 * abs(used.mid_mjd - middle)
        if choice.nearest.set_id != used.set_id and choice.age_h < used_h:
            found.append(Improvement(product.partition or "", used.set_id, choice.nearest.set_id, used_h, choice.age_h))
    return found


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
    """Make the observations with `improvements` again, and what follows from them; the windows between are not looked at."""
    from dsa110_assets.archive.store import Archive

    with Archive(settings.archive, settings.database_url) as archive:
        found = improvements(archive, settings, since, until)
    reports = [
        process(settings, start, end, through, dry_run, progress, side_by_side=side_by_side)
        for start, end in _spans([one.observation for one in found])
    ]
    if not reports and through is not None:
        _require_asset(through)
    return _together(reports)


def _require_asset(through: str) -> None:
    from dsa110_assets.orchestration.graph import specifications

    if through not in specifications():
        raise ConfigurationError(f"--through {through}: no such asset; there are {', '.join(specifications())}")


def _spans(observations: Sequence[str]) -> Iterator[tuple[datetime, datetime]]:
    """[start, end) of windows that follow each other."""
    starts = sorted(timegrid.parse_key(key) for key in observations)
    while starts:
        first = last = starts.pop(0)
        while starts and starts[0] - last == timegrid.OBSERVATION_WINDOW:
            last = starts.pop(0)
        yield first, last + timegrid.OBSERVATION_WINDOW


def _together(reports: Sequence[ProcessReport]) -> ProcessReport:
    """One report of several runs."""
    summed: dict[str, Any] = {field.name: field.default for field in fields(ProcessReport)}
    for one in reports:
        summed = {name: value + getattr(one, name) for name, value in summed.items()}
    return ProcessReport(**summed)
