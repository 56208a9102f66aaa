"""`convert`: subband files to measurement sets, for a window of time or around a calibrator's transits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Literal

import numpy as np

from dsa110_assets.calibration.options import SolveOptions
from dsa110_assets.calibration.transits import REFERENCE_HZ, transit_mjd
from dsa110_assets.errors import BadDataError, NotFoundError, SilentWrongnessError
from dsa110_assets.sky import calibrators
from dsa110_assets.sky.calibrators import Calibrator
from dsa110_assets.telescope import astrometry, band, beam, timegrid
from dsa110_assets.tools import outputs
from dsa110_assets.tools.outputs import Progress
from dsa110_assets.visibilities import measurement_set, uvh5
from dsa110_assets.visibilities.grouping import SubbandGroup, group_headers
from dsa110_assets.visibilities.ingest import ingest
from dsa110_assets.visibilities.options import FlaggingOptions
from dsa110_assets.visibilities.reader import Engine
from dsa110_assets.visibilities.uvh5 import SubbandHeader

NAME_SKEW_D = 75 / 1440
"""The time stamp in a file's name is within this of its data: it is the time when the file was opened, after a restart minutes before
the data."""
DAY_S = 86400.0
MIN_SUBBANDS = 14
State = Literal["wanted", "made", "exists", "incomplete"]


@dataclass(frozen=True)
class GroupSelection:
    """The groups to select: those that start in since <= t < until (UTC; None: unbounded); with a calibrator, only those with data
    within `around_min` minutes of its transit; 0 selects the group in which it transits."""

    since: datetime | None = None
    until: datetime | None = None
    calibrator: str | None = None
    around_min: float = 0.0


@dataclass(frozen=True)
class Converted:
    """A group and its outcome. `path`: its measurement set, whether or not it exists. `transit_mjd` UTC [d], NaN without a calibrator.
    `flag_fraction`: that of cross-correlations, NaN unless the set was made now."""

    group: SubbandGroup
    path: Path
    state: State
    transit_mjd: float = np.nan
    flag_fraction: float = np.nan


@dataclass(frozen=True)
class Selection:
    """Groups in time order, each with the calibrator's transit nearest to it (NaN without a calibrator); and (path, reason) of the files
    that are in no group."""

    groups: tuple[tuple[SubbandGroup, float], ...]
    unusable: tuple[tuple[Path, str], ...]


def select(inbox: Path | Sequence[Path], selection: GroupSelection | None = None) -> Selection:
    """The groups of a directory, or the single group of individually named files.

    Raises NotFoundError if there are none, with the groups that exist; BadDataError for a named file that cannot be used or belongs to
    another observation.
    """
    if not isinstance(inbox, Path):
        return Selection(((_one_group(inbox), np.nan),), ())
    selection = selection or GroupSelection()
    calibrator = calibrators.find(selection.calibrator) if selection.calibrator else None
    headers, unusable = _headers(inbox, selection, calibrator)
    groups = group_headers(headers)
    rejected = [one for group in groups for one in group.rejected]
    selected = [(group, _transit_near(group, calibrator)) for group in groups if group.files and _starts_within(group, selection)]
    if not selected:
        raise NotFoundError(f"{inbox}: no group of subband files {_span(selection)}; {_alternatives(groups, unusable)}")
    if calibrator is not None:
        selected = _around(selected, calibrator, selection.around_min, inbox)
    return Selection(tuple(selected), (*unusable, *rejected))


def convert(
    inbox: Path | Sequence[Path],
    out: Path,
    selection: GroupSelection | None = None,
    *,
    flagging: FlaggingOptions | None = None,
    engine: Engine = "direct",
    n_subbands: int = band.N_SUBBANDS,
    min_subbands: int = MIN_SUBBANDS,
    skip_existing: bool = False,
    force: bool = False,
    dry_run: bool = False,
    progress: Progress = outputs.nothing,
) -> list[Converted]:
    """Write the groups of `select` as flagged measurement sets into the directory `out`, like the asset `measurement_set`.

    A set is named after its 5-minute window, as in 20260125T2225.ms. Groups with fewer than `min_subbands` of the `n_subbands`
    are left out (state "incomplete"); absent subbands are flagged. A set that exists is left as it is with `skip_existing`,
    and replaced with `force`. `dry_run`: nothing is written. Raises what `select` and `ingest` raise, ConfigurationError for a set
    that exists, SilentWrongnessError for a written set that `measurement_set.problems` finds fault with.
    """
    flagging = flagging or FlaggingOptions()
    options = {"flagging": asdict(flagging), "engine": engine, "n_subbands": n_subbands}
    selected = select(inbox, selection).groups
    planned = [_planned(group, transit, out, min(min_subbands, n_subbands), n_subbands, skip_existing) for group, transit in selected]
    todo = [item for item in planned if item.state == "wanted"]
    for item in todo:
        outputs.require_new(item.path, force)
    if dry_run:
        return planned
    made: dict[Path, Converted] = {}
    for number, item in enumerate(todo):
        progress(number, len(todo), item.path.name)
        files = {subband: header.path for subband, header in item.group.files.items()}
        with outputs.making(item.path, "convert", list(files.values()), options, force=force) as draft:
            _, report = ingest(files, draft.path, n_subbands=n_subbands, options=flagging, engine=engine)
            if problems := measurement_set.problems(draft.path):
                raise SilentWrongnessError(f"{item.path}: {'; '.join(problems)}; report this")
            draft.figures = {"flag_fraction": report.fraction, "missing_subbands": item.group.missing(n_subbands)}
        made[item.path] = Converted(item.group, item.path, "made", item.transit_mjd, float(report.fraction))
    progress(len(todo), len(todo), "")
    return [made.get(item.path, item) for item in planned]


def set_name(group: SubbandGroup) -> str:
    """The name of a group's measurement set: its window, without the characters that cause trouble in file systems and casacore."""
    return group.observation.replace("-", "").replace(":", "") + ".ms"


def _planned(group: SubbandGroup, transit: float, out: Path, least: int, n_subbands: int, skip_existing: bool) -> Converted:
    path = out / set_name(group)
    if n_subbands - len(group.missing(n_subbands)) < least:
        return Converted(group, path, "incomplete", transit)
    return Converted(group, path, "exists" if skip_existing and path.exists() else "wanted", transit)


def _one_group(files: Sequence[Path]) -> SubbandGroup:
    if not files:
        raise NotFoundError("no subband file is named; name the files of one group, or a directory")
    groups = group_headers([uvh5.read_header(path) for path in files])
    if len(groups) > 1:
        times = ", ".join(group.observation for group in groups)
        raise BadDataError(
            f"{files[0]} and others belong to {len(groups)} observations ({times}); name the files of one, or their directory"
        )
    (group,) = groups
    if group.rejected:
        path, reason = group.rejected[0]
        raise BadDataError(f"{path}: {reason}; leave it out", path)
    return group


def _headers(inbox: Path, selection: GroupSelection, calibrator: Calibrator | None) -> tuple[list[SubbandHeader], list[tuple[Path, str]]]:
    """Headers of the files that may be selected, judging by their names, and (path, reason) of files that cannot be used."""
    if not inbox.is_dir():
        raise NotFoundError(f"{inbox}: no such directory; name an inbox, or the subband files of one group")
    headers: list[SubbandHeader] = []
    unusable: list[tuple[Path, str]] = []
    for path in sorted(inbox.glob("*.hdf5")):
        try:
            stamp, _ = uvh5.parse_name(path)
            if _named_near(timegrid.datetime_to_mjd(uvh5.stamp_time(stamp, path)), selection, calibrator):
                headers.append(uvh5.read_header(path))
        except BadDataError as error:
            unusable.append((path, str(error)))
    return headers, unusable


def _named_near(mjd: float, selection: GroupSelection, calibrator: Calibrator | None) -> bool:
    """Whether a file with this time stamp may hold data of `selection`."""
    low, high = _bounds(selection)
    if not low - NAME_SKEW_D <= mjd < high + NAME_SKEW_D:
        return False
    if calibrator is None:
        return True
    reach_d = NAME_SKEW_D + (timegrid.GROUP_S / 60 + selection.around_min) / 1440
    return abs(transit_mjd(calibrator.ra_deg, calibrator.dec_deg, mjd) - mjd) <= reach_d


def _bounds(selection: GroupSelection) -> tuple[float, float]:
    low = timegrid.datetime_to_mjd(selection.since) if selection.since else -np.inf
    high = timegrid.datetime_to_mjd(selection.until) if selection.until else np.inf
    return low, high


def _starts_within(group: SubbandGroup, selection: GroupSelection) -> bool:
    low, high = _bounds(selection)
    return low - timegrid.ROUNDING_D <= group.mjd_start < high - timegrid.ROUNDING_D


def _transit_near(group: SubbandGroup, calibrator: Calibrator | None) -> float:
    """The transit nearest to the group's middle [MJD UTC], whatever the day number and the sidereal day."""
    if calibrator is None:
        return np.nan
    return transit_mjd(calibrator.ra_deg, calibrator.dec_deg, float(group.times_mjd.mean()))


def _around(
    groups: list[tuple[SubbandGroup, float]], calibrator: Calibrator, around_min: float, inbox: Path
) -> list[tuple[SubbandGroup, float]]:
    """The groups with data within `around_min` of the transit and with the calibrator in the beam."""
    near = [(group, transit) for group, transit in groups if _gap_s(group, transit) <= around_min * 60]
    name = calibrator.alias or calibrator.name
    if not near:
        group, transit = min(groups, key=lambda one: _gap_s(*one))
        raise NotFoundError(
            f"{inbox}: no group within {around_min:g} min of a transit of {name}; the nearest, {group.observation}, is "
            f"{_gap_s(group, transit) / 60:.1f} min from that of {_utc(transit)} UTC (--around)"
        )
    in_beam = [(group, transit) for group, transit in near if _response(group, transit, calibrator) >= SolveOptions.min_primary_beam]
    if not in_beam:
        group, transit = near[0]
        raise NotFoundError(
            f"{inbox}: {name} transits at {_utc(transit)} UTC outside the beam (response {_response(group, transit, calibrator):.2f}): "
            f"the dishes point at declination {group.pointing_dec_deg:.2f} deg; choose another calibrator (dsa110 transits)"
        )
    return in_beam


def _gap_s(group: SubbandGroup, transit: float) -> float:
    """Time between the transit and the group's data [s]; 0 within the data."""
    half_d = next(iter(group.files.values())).interval_s / 2 / DAY_S
    first, last = float(group.times_mjd[0]) - half_d, float(group.times_mjd[-1]) + half_d
    return max(first - transit, transit - last, 0.0) * DAY_S


def _response(group: SubbandGroup, transit: float, calibrator: Calibrator) -> float:
    """The primary beam's response to the calibrator at its transit."""
    place = np.deg2rad([calibrator.ra_deg]), np.deg2rad([calibrator.dec_deg])
    _, dec_rad = astrometry.icrs_to_apparent_rad(*place, np.array([transit]))
    return float(beam.power(np.abs(np.rad2deg(dec_rad) - group.pointing_dec_deg), REFERENCE_HZ)[0])


def _span(selection: GroupSelection) -> str:
    limits = [f"{word} {time:%Y-%m-%dT%H:%M:%S}" for word, time in (("from", selection.since), ("before", selection.until)) if time]
    return " ".join(["starts", *limits]) if limits else "is usable"


def _alternatives(groups: Sequence[SubbandGroup], unusable: Sequence[tuple[Path, str]]) -> str:
    if groups:
        return f"there are {len(groups)} near, from {groups[0].observation} to {groups[-1].observation}"
    return f"{len(unusable)} files cannot be used, the first because {unusable[0][1]}" if unusable else "`dsa110 groups` lists all groups"


def _utc(mjd: float) -> str:
    return f"{timegrid.mjd_to_datetime(mjd):%Y-%m-%dT%H:%M:%S}"
