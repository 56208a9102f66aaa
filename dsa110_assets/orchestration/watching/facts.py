"""What conditions are judged by: how archive, inbox, runs, disks and services stand now. Each is found out once, when first asked."""

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
    """One look. What is observed goes by the clock the inbox goes by, `moment`; what happens here by `now`."""

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
        """From when on something that happened once is told of."""
        return max(self.now - timedelta(hours=self.limits.recent_h), alerts.watched_since(self.archive))

    # -- runs --

    @cached_property
    def runs(self) -> list[history.Run]:
        """The newest runs, newest first."""
        return history.runs(self.home)

    @cached_property
    def failed(self) -> list[history.FailedRun]:
        """Failed runs that nothing has made good since, newest first."""
        began = alerts.watched_since(self.archive)
        return [one for one in history.failed(self.home, self.archive) if one.ended_at >= began]

    def silent_runs(self, longest: timedelta) -> list[tuple[history.Run, timedelta]]:
        """Runs that began, are not done, and have said nothing for longer than this; and for how long."""
        begun = [one for one in self.runs if one.status in ("STARTING", "STARTED", "CANCELING")]
        ages = [(one, self.now - (history.last_event(self.home, one.run_id) or one.began_at or one.asked_at)) for one in begun]
        return [(one, age) for one, age in ages if age > longest]

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
        """Since when observations of the last day are without a usable calibration; None while there is one, or no observation."""
        if not self.groups:
            return None
        stale_h = self.limits.calibration_stale_h
        if self.calibration is not None:
            over = timegrid.mjd_to_datetime(self.calibration.nearest.mid_mjd) + timedelta(hours=stale_h)
            return over if self.calibration.age_h > stale_h else None
        without = [key for key in self.archive.without("subband_group", "calibrated_ms") if key >= (self.groups[0].partition or "")]
        return timegrid.parse_key(min(without, default=self.groups[-1].partition or ""))

    @cached_property
    def unsolved_transits(self) -> list[tuple[str, datetime]]:
        """Calibrators whose transit of the last day was observed, is over for long enough, and left no table set in force."""
        until_mjd = timegrid.datetime_to_mjd(self.moment - timedelta(hours=self.limits.transit_solved_h))
        there = {group.id: float(group.metadata["mjd_start"]) for group in self.groups if "mjd_start" in group.metadata}
        seen = tuple(sorted(name for name, mjd in there.items() if mjd < until_mjd))
        return [
            (name, timegrid.mjd_to_datetime(mjd))
            for name, mjd in _transits(self.archive, self.settings.transits, seen)
            if not self._is_solved(mjd)
        ]

    def _is_solved(self, mjd: float) -> bool:
        from dsa110_assets.archive import caltable_registry as registry

        return bool(registry.sets(self.archive, registry.ACTIVE, (mjd - SAME_TRANSIT_D, mjd + SAME_TRANSIT_D)))

    @cached_property
    def waiting(self) -> int:
        """Observations that are not imaged: those taken up, and those in the inbox that are ready and nobody took."""
        from dsa110_assets.orchestration.planning import plan

        taken = len(self.archive.without("subband_group", "tile_image"))
        return taken + len(plan.scan_for_display(self.archive, self.settings).ready())

    @cached_property
    def last_file(self) -> datetime | None:
        """When the newest file of the inbox was written; None of an empty one. Raises what `inbox.listing` does."""
        names = inbox.listing(self.settings.inbox)
        stamps = [one.mtime_ns for one in (*names.finished, *names.written, *(file for file, _ in names.misnamed))]
        return datetime.fromtimestamp(max(stamps) / 1e9, UTC) if stamps else None

    # -- products --

    @cached_property
    def failing(self) -> "list[Product]":
        """Products of late against which checks speak, oldest first."""
        return self.archive.failing(self.since)

    def newest_since(self, asset: str, hours: float) -> "list[Product]":
        """The newest product of an asset, if it was published in the last hours and since this archive is watched."""
        start = max(self.now - timedelta(hours=hours), alerts.watched_since(self.archive))
        return [one for one in self.archive.newest(asset) if one.created_at >= start]

    @cached_property
    def put_aside(self) -> list[quarantine.Quarantined]:
        """What was quarantined of late and not let go."""
        return [one for one in quarantine.quarantined(self.archive) if one.at >= self.since]

    # -- this machine --

    @cached_property
    def disks(self) -> list[tuple[str, disks.Disk]]:
        """The disks of the archive and, if it is another, of the inbox; the first with how soon it is full."""
        root, other = self.archive.root, self.settings.inbox
        published = self.archive.published_bytes(self.now - disks.FILL_WINDOW)
        found = [("archive", disks.disk(root, published, other, self.now))]
        if other.is_dir() and other.stat().st_dev != root.stat().st_dev:
            found.append(("inbox", disks.disk(other, 0, None, self.now)))
        return [(name, one) for name, one in found if one is not None]

    @cached_property
    def last_backup(self) -> datetime | None:
        """When the newest backup was made that was verified; None if there is none."""
        made = alerts.remembered(self.archive, VERIFIED)
        there = _backups(self.settings.backups_path, int(time.monotonic() // 60))
        return max((at for name, at in there if made is not None and name <= made), default=None)

    @cached_property
    def daemon(self) -> str:
        """What is wrong with Dagster's daemon; '' if nothing, or if it never ran here."""
        return signs.missed(self.archive, self.home, self.limits, self.now, self.watching_since)

    @property
    def daemon_may_be_silent(self) -> bool:
        """Whether the daemon is, or will be if it does not give the sign of life that it has left out."""
        return bool(self.daemon) or signs.may_be_missed_soon(self.archive, self.now)

    @cached_property
    def silent_services(self) -> list[tuple[str, float]]:
        """Services and workers but the daemon that gave no sign of life for too long, and for how long [s]."""
        beats = {name: at for name, at in sorted(alerts.beats(self.archive).items()) if name != signs.DAEMON}
        ages = {name: (self.now - max(at, self.watching_since or at)).total_seconds() for name, at in beats.items()}
        return [(name, age_s) for name, age_s in ages.items() if age_s > self.limits.service_silent_s]


@lru_cache(maxsize=8)
def _transits(archive: "Archive", options: "TransitOptions", groups: tuple[str, ...]) -> tuple[tuple[str, float], ...]:
    """The transits worth solving that fall into these observations: (calibrator, MJD), by time."""
    from dsa110_assets.orchestration.calibrating import calibrators
    from dsa110_assets.sky.calibrators import load

    nights: dict[str, list[Product]] = {}
    for group_id in groups:
        product = archive.get(group_id)
        nights.setdefault(timegrid.night_of(product.partition or ""), []).append(product)
    listed = calibrators.known(archive) or load()
    found = [one for those in nights.values() for _, one in calibrators.observed_transits(those, listed, options)]
    return tuple((one.calibrator.alias or one.calibrator.name, one.mjd) for one in found)


@lru_cache(maxsize=2)
def _backups(directory: Path, _minute: int) -> Sequence[tuple[str, datetime]]:
    """Names and times of the finished backups, looked for once a minute: each is a folder of many files."""
    return [(one.path.name, one.at) for one in backup.backups(directory)]
