"""The state of the platform in figures, for the front page, `dsa110 status`, the API and the metrics."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from sqlalchemy.exc import SQLAlchemyError

from dsa110_assets.analyst import AnalystArchive
from dsa110_assets.archive.store import Archive
from dsa110_assets.errors import DsaError, NotFoundError
from dsa110_assets.orchestration.ingest import pausing
from dsa110_assets.orchestration.watching import disks
from dsa110_assets.telescope import timegrid

if TYPE_CHECKING:
    from starlette.requests import Request

    from dsa110_assets.orchestration.ingest.inbox import Inbox
    from dsa110_assets.sky.calibrators import Calibrator

Look = Callable[[Archive], "Inbox"]
"""A look at what the inbox holds that this archive has not taken up."""
_Part = TypeVar("_Part")

SAME_TRANSIT_D = 0.01
STEPS = ("subband_group", "measurement_set", "calibrated_ms", "tile_image")
"""The products of an observation in the graph's order. Repeated here, because loading the graph takes longer than the rest of a status."""
OBSERVATIONS_PER_DAY = 288
"""The number of observations in a day: so many of the newest are searched for the pointing."""


@dataclass(frozen=True)
class TransitRow:
    """A predicted transit of a calibrator; offsets are None while no pointing declination is known."""

    calibrator: str
    alias: str | None
    mjd: float
    utc: str
    ra_deg: float
    dec_deg: float
    dec_offset_deg: float | None
    primary_beam: float | None
    flux_jy: float | None
    anchor: str

    def as_json(self) -> dict[str, Any]:
        """The row as a JSON object."""
        return asdict(self)


@dataclass(frozen=True)
class Status:
    """What was processed, what waits, what failed, and what comes next.

    `waiting` are observations that are not imaged yet, including those in the inbox that are not taken up, which `inbox_groups`
    counts by state (ready, waiting, unusable; None where the inbox was not looked at); `inbox_files` are files in no group, with the
    reason. `failed_checks` are those of severity ERROR of the last two nights, `troubles` what could not be found out, `halted`
    what a person has halted.
    """

    now: str
    archive: str
    inbox: str | None
    products: dict[str, int]
    latest_observation: str | None
    latest_night: str | None
    latest_counts: dict[str, int]
    waiting: list[dict[str, str]]
    quarantined: list[dict[str, Any]]
    rejected: list[dict[str, Any]]
    held: list[dict[str, Any]]
    pointing_dec_deg: float | None
    calibration: dict[str, Any] | None
    next_transit: dict[str, Any] | None
    disk: disks.Disk | None
    latest_figures: dict[str, float] = field(default_factory=dict)
    inbox_groups: dict[str, int] | None = None
    inbox_files: list[dict[str, str]] = field(default_factory=list)
    failed_checks: list[dict[str, Any]] = field(default_factory=list)
    troubles: list[str] = field(default_factory=list)
    halted: list[str] = field(default_factory=list)

    def as_json(self) -> dict[str, Any]:
        """The status as a JSON object."""
        return asdict(self)


def status(archive: AnalystArchive, inbox: Path | None = None, now: datetime | None = None, look: Look | None = None) -> Status:
    """Return the archive's state at `now` (default: the clock's). Reads the index, and the inbox if there is a `look`, but no product.

    What cannot be found out (a damaged catalogue, an inbox that is away) is None, with the reason among `troubles`.
    """
    moment = now or datetime.now(UTC)
    latest = next((product.partition for product in archive.store.newest("subband_group")), None)
    night = timegrid.night_of(latest) if latest else None
    strip = pointing_dec_deg(archive)
    troubles: list[str] = []
    seen = part(troubles, "the inbox", lambda: look(archive.store) if look else None)
    published = archive.store.published_bytes(moment - disks.FILL_WINDOW)
    return Status(
        now=moment.isoformat(timespec="seconds"),
        archive=str(archive.root),
        inbox=str(inbox) if inbox else None,
        products=dict(sorted(archive.store.count().items())),
        latest_observation=latest,
        latest_night=night,
        latest_counts=dict(sorted(archive.store.count(None, night, night).items())) if night else {},
        waiting=[*_not_taken_up(seen), *waiting(archive.store)],
        quarantined=quarantined(archive),
        rejected=[{"product_id": p.id, "reason": p.reason} for p in archive.store.products(state="rejected")],
        held=[{"product_id": product_id, "reason": reason} for product_id, reason in archive.store.held().items()],
        pointing_dec_deg=strip,
        calibration=part(troubles, "the calibration", lambda: calibration_state(archive, moment, latest)),
        next_transit=part(troubles, "the next transit", lambda: next_transit(strip, moment, known_calibrators(archive))),
        disk=part(troubles, "the disk", lambda: disks.disk(archive.root, published, inbox, moment)),
        latest_figures=_figures(archive.store),
        inbox_groups=None if seen is None else _by_state(seen),
        inbox_files=[] if seen is None else [{"path": str(p), "reason": r} for p, r in (*seen.waiting, *seen.unusable)],
        failed_checks=failed_checks(archive.store, night),
        troubles=troubles,
        halted=pausing.halted(archive.root),
    )


def at_most_every(seconds: float, look: Look) -> Look:
    """The same look, whose result is reused for `seconds`, because pages and metrics may be requested at any rate."""
    lock, last = threading.Lock(), dict[Path, tuple[float, "Inbox"]]()

    def looking(archive: Archive) -> Inbox:
        with lock:
            then, seen = last.get(archive.root, (-math.inf, None))
            if seen is None or time.monotonic() - then > seconds:
                seen = look(archive)
                last[archive.root] = time.monotonic(), seen
            return seen

    return looking


def of(request: Request) -> Status:
    """The status for a request to the portal."""
    state = request.app.state
    return status(state.archive, state.inbox, look=state.look)


def part(troubles: list[str], what: str, find: Callable[[], _Part]) -> _Part | None:
    """Return what `find` finds; if it fails, None, and the reason is added to the troubles."""
    try:
        return find()
    except (DsaError, OSError, LookupError, ValueError, SQLAlchemyError) as error:
        troubles.append(f"{what}: {error}")
        return None


def waiting(store: Archive) -> list[dict[str, str]]:
    """Observations that are known but not imaged yet, and the step that each needs next; newest first."""
    first, *steps, last = STEPS
    keys = store.without(first, last)
    next_step = dict.fromkeys(keys, last)
    for asset in reversed(steps):  # the earliest missing step is written last, so it counts
        done = store.among(asset, keys)
        next_step |= {key: asset for key in keys if key not in done}
    return [{"observation": key, "next": next_step[key], "reason": ""} for key in reversed(keys)]


def _not_taken_up(seen: Inbox | None) -> list[dict[str, str]]:
    """The observations of the inbox that have no manifest of their files, newest first."""
    reasons = {"ready": "{}; not taken up yet", "waiting": "{}", "unusable": "{}; will be quarantined at the next look"}
    return [
        {"observation": one.observation, "next": "subband_group", "reason": reasons[one.state].format(one.reason)}
        for one in reversed(seen.candidates if seen else ())
    ]


def _by_state(seen: Inbox) -> dict[str, int]:
    """How many of the inbox's observations are in each state."""
    states = [one.state for one in seen.candidates]
    return {state: states.count(state) for state in ("ready", "waiting", "unusable")}


def failed_checks(store: Archive, night: str | None) -> list[dict[str, Any]]:
    """Failed checks of severity ERROR of the products of this night (a date) and the one before."""
    if night is None:
        return []
    from dsa110_assets.orchestration.judging import checks

    before = (timegrid.parse_key(night) - timegrid.NIGHT).strftime("%Y-%m-%d")
    return [asdict(one) for one in checks.failed(store.failing_of(before, night))]


def quarantined(archive: AnalystArchive) -> list[dict[str, Any]]:
    """What was quarantined because it cannot be used, with the reasons."""
    from dsa110_assets.archive import quarantine
    from dsa110_assets.plain_json import jsonable

    return [jsonable(entry) for entry in quarantine.quarantined(archive.store)]


def calibration_state(archive: AnalystArchive, moment: datetime, observation: str | None) -> dict[str, Any] | None:
    """The calibration in force at the latest observation, and its age then and now [h]; None if none."""
    at = timegrid.parse_key(observation) if observation else moment
    try:
        found = archive.caltables(at=at)
    except NotFoundError:
        return None
    now_mjd = timegrid.datetime_to_mjd(moment)
    return {
        "set_id": found.set_id,
        "calibrator": found.calibrator,
        "anchor": found.anchor,
        "mjd": found.mid_mjd,
        "age_h": 24 * (now_mjd - found.mid_mjd),
        "age_at_latest_observation_h": 24 * abs(timegrid.datetime_to_mjd(at) - found.mid_mjd),
        "status": found.status,
        "weight": found.weight,
        "interpolated_with": [{"set_id": one.set_id, "weight": one.weight} for one in found.sets[1:]],
    }


def pointing_dec_deg(archive: AnalystArchive) -> float | None:
    """The apparent declination [deg] of the latest observation that records it; None if none of the last day does."""
    for number in (1, OBSERVATIONS_PER_DAY):  # usually the last records it, and the rest of the day need not be read
        for product in archive.store.newest("subband_group", number):
            value = product.metadata.get("pointing_dec_deg")
            if isinstance(value, int | float):
                return float(value)
    return None


def known_calibrators(archive: AnalystArchive | None) -> Sequence[Calibrator]:
    """The archive's own calibrators; the packaged list where there is no archive, or none published yet."""
    from dsa110_assets.orchestration.calibrating import calibrators
    from dsa110_assets.sky.calibrators import load

    return (calibrators.known(archive.store) if archive is not None else ()) or load()


def transits_of_night(night: str, strip_dec_deg: float | None, calibrator: str | None, known: Sequence[Calibrator]) -> list[TransitRow]:
    """Transits of a UTC night by time of day, for a named calibrator, a strip's, or else the flux standards.

    Raises NotFoundError for an unknown calibrator, naming the nearest.
    """
    start = timegrid.datetime_to_mjd(timegrid.parse_key(night))
    return _transits(start, start + 1.0, strip_dec_deg, calibrator, known)


def next_transit(strip_dec_deg: float | None, moment: datetime, known: Sequence[Calibrator]) -> dict[str, Any] | None:
    """The next transit of a calibrator of the strip within a sidereal day; None while no strip is known."""
    if strip_dec_deg is None:
        return None
    start = timegrid.datetime_to_mjd(moment)
    rows = _transits(start, start + 1.0, strip_dec_deg, None, known)
    return min(rows, key=lambda row: row.mjd).as_json() if rows else None


def _transits(start: float, end: float, strip_dec_deg: float | None, name: str | None, known: Sequence[Calibrator]) -> list[TransitRow]:
    from dsa110_assets.calibration import transits
    from dsa110_assets.sky import calibrators

    if name is None and strip_dec_deg is not None:
        found = transits.transits(known, start, end, strip_dec_deg)
        return [_row(t.calibrator, t.mjd, t.dec_offset_deg, t.primary_beam) for t in transits.rank(found)]
    selected = [calibrator for calibrator in known if calibrator.standard] if name is None else [calibrators.find(name, known)]
    rows: list[TransitRow] = []
    for calibrator in selected:
        # a sidereal day is shorter than a day: the last transit before `end` may be the second
        for near in (start, end):
            mjd = transits.transit_mjd(calibrator.ra_deg, calibrator.dec_deg, near)
            known_mjd = [row.mjd for row in rows if row.calibrator == calibrator.name]
            if start <= mjd < end and all(abs(mjd - other) > SAME_TRANSIT_D for other in known_mjd):
                rows.append(_row(calibrator, mjd, *_offset(calibrator, mjd, strip_dec_deg)))
    return sorted(rows, key=lambda row: row.mjd)


def _offset(calibrator: Calibrator, mjd: float, strip_dec_deg: float | None) -> tuple[float | None, float | None]:
    """Apparent declination minus the strip's [deg], and the primary beam's response there at 1.4 GHz."""
    if strip_dec_deg is None:
        return None, None
    import numpy as np

    from dsa110_assets.calibration.transits import REFERENCE_HZ
    from dsa110_assets.telescope import astrometry, beam

    _, dec = astrometry.icrs_to_apparent_rad(np.deg2rad([calibrator.ra_deg]), np.deg2rad([calibrator.dec_deg]), np.array([mjd]))
    offset = float(np.rad2deg(dec[0])) - strip_dec_deg
    return offset, float(beam.power(abs(offset), REFERENCE_HZ))


def _row(calibrator: Calibrator, mjd: float, dec_offset_deg: float | None, primary_beam: float | None) -> TransitRow:
    from dsa110_assets.calibration.transits import REFERENCE_HZ, has_flux

    return TransitRow(
        calibrator=calibrator.name, alias=calibrator.alias, mjd=mjd,
        utc=timegrid.mjd_to_datetime(mjd).isoformat(timespec="seconds"),
        ra_deg=calibrator.ra_deg, dec_deg=calibrator.dec_deg, dec_offset_deg=dec_offset_deg, primary_beam=primary_beam,
        flux_jy=float(calibrator.flux_jy(REFERENCE_HZ)) if has_flux(calibrator) else None, anchor=calibrator.anchor,
    )  # fmt: skip


def _figures(store: Archive) -> dict[str, float]:
    """Figures of the newest image, its measurement set and its calibrated measurement set, for the metrics."""
    found: dict[str, float] = {}
    for tile in store.newest("tile_image"):
        behind = [store.current(asset, tile.partition, removed=True) for asset in ("calibrated_ms", "measurement_set")]
        for product in (*behind, tile):
            metadata = product.metadata if product else {}
            found |= {key: float(value) for key, value in metadata.items() if _is_number(value)}
    return found


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
