"""The facts that conditions are judged by: the state of archive, inbox, runs, disks and services now. Each is determined once, on first
use."""

import time
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from functools import cached_property, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from dsa110_assets.archive import alerts, backup, quarantine
from dsa110_assets.errors import NotFoundError, WaitingError
from dsa110_assets.orchestration.ingest import inbox
from dsa110_assets.orchestration.watching import disks, history, signs
from dsa110_assets.telescope import timegrid

if TYPE_CHECKING:
    from dsa110_assets.archive.product import Product
    from dsa110_assets.archive.store import Archive
    from dsa110_assets.calibration.options import TransitOptions
    from dsa110_assets.calibration.select import Choice
    from dsa110_assets.settings import Settings
    from dsa110_assets.thresholds import Thresholds

DAY = timedelta(days=1)
SAME_TRANSIT_D = 0.02
"""A table set within this of a transit [d] was solved from it."""
VERIFIED = "verified backup"


class Facts:
    """The facts of one look. Observations are timed by `moment`, the clock of the inbox; events on this machine by `now`."""

    def __init__(
        self, archive: "Archive", settings: "Settings", limits: "Thresholds", refused: str | None = None, now: datetime | None = None,
        watching_since: datetime | None = None,
    ) -> None:  # fmt: skip
        self.archive, self.settings, self.limits, self.refused = archive, settings, limits, refused
        self.now = now or datetime.now(UTC)
        self.moment = datetime.fromtimestamp(inbox.now_s(), UTC)
        self.home = settings.home_path
        self.watching_since = watching_since

    @cached_property
    def since(self) -> datetime:
        """The time from which single events are reported."""
        return max(self.now - timedelta(hours=self.limits.recent_h), alerts.watched_since(self.archive))

    # -- runs --

    @cached_property
    def runs(self) -> list[history.Run]:
        """The newest runs, newest first."""
        return history.runs(self.home)

    @cached_property
    def failed(self) -> list[history.FailedRun]:
        """Failed runs whose assets no later run has made, newest first."""
        began = alerts.watched_since(self.archive)
        return [one for one in history.failed(self.home, self.archive) if one.ended_at >= began]

    def silent_runs(self, longest: timedelta) -> list[tuple[history.Run, timedelta]]:
        """Runs that began, are not done, and had no event for longer than this, each with how long."""
        begun = [run for run in self.runs if run.status in ("STARTING", "STARTED", "CANCELING")]
        ages = [(run, self.now - (history.last_event(self.home, run.run_id) or run.began_at or run.asked_at)) for run in begun]
        return [(run, age) for run, age in ages if age > longest]

    # -- observations and calibration --

    @cached_property
    def groups(self) -> "list[Product]":
        """The observations of the last day, oldest first."""
        start = self.moment - DAY
        newest = self.archive.newest("subband_group")
        if not newest or timegrid.parse_key(newest[0].partition or "") < start:
            return []
        return self.archive.products("subband_group", timegrid.key(start), removed=True)

    @cached_property
    def calibration(self) -> "Choice | None":
        """The calibration in force for the last observation; None if there is none."""
        from dsa110_assets.orchestration.calibrating import calibrators

        try:
            return calibrators.in_force(self.archive, self.settings, float(self.groups[-1].metadata["mjd_start"]))
        except (WaitingError, NotFoundError):
            return None

    @cached_property
    def uncalibrated_since(self) -> datetime | None:
        """The time since which observations of the last day have no usable calibration; None if there is one, or no observation."""
        if not self.groups:
            return None
        stale_h = self.limits.calibration_stale_h
        if self.calibration is not None:
            stale_at = timegrid.mjd_to_datetime(self.calibration.nearest.mid_mjd) + timedelta(hours=stale_h)
            return stale_at if self.calibration.age_h > stale_h else None
        without = [key for key in self.archive.without("subband_group", "calibrated_ms") if key >= (self.groups[0].partition or "")]
        return timegrid.parse_key(min(without, default=self.groups[-1].partition or ""))

    @cached_property
    def unsolved_transits(self) -> list[tuple[str, datetime]]:
        """Calibrators with a transit in the last day that was observed, ended long enough ago, and left no table set in force."""
        until_mjd = timegrid.datetime_to_mjd(self.moment - timedelta(hours=self.limits.transit_solved_h))
        start_mjds = {group.id: float(group.metadata["mjd_start"]) for group in self.groups if "mjd_start" in group.metadata}
        observed = tuple(sorted(name for name, mjd in start_mjds.items() if mjd < until_mjd))
        return [
            (name, timegrid.mjd_to_datetime(mjd))
            for name, mjd in _transits(self.archive, self.settings.transits, observed)
            if not self._is_solved(mjd)
        ]

    def _is_solved(self, mjd: float) -> bool:
        from dsa110_assets.archive import caltable_registry as registry

        return bool(registry.sets(self.archive, registry.ACTIVE, (mjd - SAME_TRANSIT_D, mjd + SAME_TRANSIT_D)))

    @cached_property
    def waiting(self) -> int:
        """The number of observations not imaged yet: those accepted, and those ready in the inbox that no run has accepted."""
        from dsa110_assets.orchestration.planning import plan

        accepted = len(self.archive.without("subband_group", "tile_image"))
        return accepted + len(plan.scan_for_display(self.archive, self.settings).ready())

    @cached_property
    def last_file(self) -> datetime | None:
        """When the newest file of the inbox was written; None if the inbox is empty. Raises the same errors as `inbox.listing`."""
        names = inbox.listing(self.settings.inbox)
        stamps = [one.mtime_ns for one in (*names.finished, *names.written, *(file for file, _ in names.misnamed))]
        return datetime.fromtimestamp(max(stamps) / 1e9, UTC) if stamps else None

    # -- products --

    @cached_property
    def failing(self) -> "list[Product]":
        """Recent products that failed any check, oldest first."""
        return self.archive.failing(self.since)

    def newest_since(self, asset: str, hours: float) -> "list[Product]":
        """The newest product of an asset, if it was published in these last hours and after this archive was first watched."""
        start = max(self.now - timedelta(hours=hours), alerts.watched_since(self.archive))
        return [one for one in self.archive.newest(asset) if one.created_at >= start]

    @cached_property
    def recently_quarantined(self) -> list[quarantine.Quarantined]:
        """Recently quarantined files that were not released."""
        return [one for one in quarantine.quarantined(self.archive) if one.at >= self.since]

    # -- this machine --

    @cached_property
    def disks(self) -> list[tuple[str, disks.Disk]]:
        """The disk of the archive and, if it is a different one, that of the inbox. Only the first has an estimate of when it is full."""
        archive_root, inbox_root = self.archive.root, self.settings.inbox
        published = self.archive.published_bytes(self.now - disks.FILL_WINDOW)
        found = [("archive", disks.disk(archive_root, published, inbox_root, self.now))]
        if inbox_root.is_dir() and inbox_root.stat().st_dev != archive_root.stat().st_dev:
            found.append(("inbox", disks.disk(inbox_root, 0, None, self.now)))
        return [(name, one) for name, one in found if one is not None]

    @cached_property
    def last_backup(self) -> datetime | None:
        """When the newest verified backup was made; None if there is none."""
        newest_verified = alerts.remembered(self.archive, VERIFIED)
        backups = _backups(self.settings.backups_path, int(time.monotonic() // 60))
        return max((at for name, at in backups if newest_verified is not None and name <= newest_verified), default=None)

    @cached_property
    def daemon(self) -> str:
        """What is wrong with Dagster's daemon; '' if nothing is, or if it never ran here."""
        return signs.daemon_problem(self.archive, self.home, self.limits, self.now, self.watching_since)

    @property
    def daemon_may_be_silent(self) -> bool:
        """Whether the daemon is silent, or will soon count as silent because its last sign of life is overdue."""
        return bool(self.daemon) or signs.may_be_missed_soon(self.archive, self.now)

    @cached_property
    def silent_services(self) -> list[tuple[str, float]]:
        """Services and workers, except the daemon, that gave no sign of life for too long, each with how long [s]."""
        beats = {name: at for name, at in sorted(alerts.beats(self.archive).items()) if name != signs.DAEMON}
        ages = {name: (self.now - max(at, self.watching_since or at)).total_seconds() for name, at in beats.items()}
        return [(name, age_s) for name, age_s in ages.items() if age_s > self.limits.service_silent_s]


@lru_cache(maxsize=8)
def _transits(archive: "Archive", options: "TransitOptions", groups: tuple[str, ...]) -> tuple[tuple[str, float], ...]:
    """The transits worth solving in these observations: (calibrator, MJD), by time."""
    from dsa110_assets.orchestration.calibrating import calibrators
    from dsa110_assets.sky.calibrators import load

    nights: dict[str, list[Product]] = {}
    for group_id in groups:
        product = archive.get(group_id)
        nights.setdefault(timegrid.night_of(product.partition or ""), []).append(product)
    calibrator_list = calibrators.known(archive) or load()
    transits = [transit for products in nights.values() for _, transit in calibrators.observed_transits(products, calibrator_list, options)]
    return tuple((transit.calibrator.alias or transit.calibrator.name, transit.mjd) for transit in transits)


@lru_cache(maxsize=2)
def _backups(directory: Path, _minute: int) -> Sequence[tuple[str, datetime]]:
    """Names and times of the finished backups. The result is cached for a minute, because each backup is a folder of many files."""
    return [(one.path.name, one.at) for one in backup.backups(directory)]
