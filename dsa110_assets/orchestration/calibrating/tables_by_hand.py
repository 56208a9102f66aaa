"""Calibration that a person imports or requests: tables from CASA or from a colleague, and a named calibrator's transit.

Such sets are products of a separate family, which no run makes again or replaces; they are chosen by the same rules as the
platform's own sets.
"""

import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dsa110_assets.archive import caltable_registry as registry
from dsa110_assets.calibration.options import SAME_STRIP_DEG
from dsa110_assets.errors import BadDataError, ConfigurationError, NotFoundError
from dsa110_assets.orchestration import graph
from dsa110_assets.orchestration.assets.calibration import calibrate, register, solve_transit, write_transits
from dsa110_assets.orchestration.assets.catalogues import read_sky_model
from dsa110_assets.orchestration.assets.ingest import MEASUREMENT_SET
from dsa110_assets.orchestration.calibrating import calibrators
from dsa110_assets.orchestration.judging import rules
from dsa110_assets.orchestration.running.publishing import engines
from dsa110_assets.orchestration.specification import recipes
from dsa110_assets.telescope import timegrid

if TYPE_CHECKING:
    from dsa110_assets.archive.product import Product
    from dsa110_assets.archive.store import Archive
    from dsa110_assets.calibration.gains import Gains
    from dsa110_assets.calibration.transits import Transit
    from dsa110_assets.settings import Settings
    from dsa110_assets.sky.model import SkyModel
    from dsa110_assets.thresholds import Thresholds

CODE_VERSION = "1"
ALSO_STOPPING = ("antennas_judged", "gain_drift")
"""Rules that only warn for an observation, whose own gains correct the drift, but that stop an import: tables that are right when
they are made need no correction, and where nothing can be judged they have not been checked."""
_ORDER = "KBG"
MOST_APART_D = 0.5
"""Largest time [d] between the tables of one set; those of one transit span minutes."""


@dataclass(frozen=True)
class Stated:
    """What a person states about tables, in addition to or instead of their contents. None: read from the tables (times MJD UTC)."""

    name: str | None = None
    calibrator: str | None = None
    anchor: str | None = None
    dec_deg: float | None = None
    valid_start_mjd: float | None = None
    valid_end_mjd: float | None = None
    order: tuple[str, ...] = ()


@dataclass(frozen=True)
class Tables:
    """The tables of one set, in the order in which they apply, and the values that are registered for them."""

    paths: tuple[Path, ...]
    gains: "tuple[Gains, ...]"
    name: str
    calibrator: str
    anchor: str
    mid_mjd: float
    valid_start_mjd: float
    valid_end_mjd: float


def folders(directory: Path) -> list[Path]:
    """The folders that hold caltables directly, among `directory` and all folders below it; a table is a folder with a table.dat."""
    if not directory.is_dir():
        raise NotFoundError(f"{directory}: no such directory; name the one that holds the tables")
    tables = [path.parent for path in directory.rglob("table.dat") if not (path.parent.parent / "table.dat").exists()]
    return sorted({table.parent for table in tables})


def read(directory: Path, stated: Stated, validity_days: float) -> Tables:
    """Read the tables in a directory. Raises BadDataError if there are none, or if they differ in array or lie too far apart in time, and
    ConfigurationError if `stated` contradicts them."""
    from dsa110_assets.calibration import caltables

    paths = [path.parent for path in sorted(directory.glob("*/table.dat"))]
    if not paths:
        raise BadDataError(f"{directory} holds no caltable (a folder with a table.dat); name the folder that the tables lie in")
    if stated.order:
        absent = [name for name in stated.order if directory / name not in paths]
        if absent or len(stated.order) != len(paths):
            raise ConfigurationError(
                f"--order names {', '.join(stated.order)}; there is {', '.join(path.name for path in paths)}: name all"
            )
        paths = [directory / name for name in stated.order]
    tables = [(path, caltables.read(path)) for path in paths]
    if not stated.order:  # delays, bandpass, gains; gains of longer intervals before those of shorter ones
        tables.sort(key=lambda table: (_ORDER.index(table[1].kind), -table[1].interval_s))
    if len({gains.antenna_names for _, gains in tables}) > 1:
        raise BadDataError(f"{directory}: its tables are of different antennas; put each array's in a folder of its own")
    times = [float(t) for _, gains in tables for t in gains.times_mjd]
    middle = (min(times) + max(times)) / 2
    if max(times) - min(times) > MOST_APART_D:
        raise BadDataError(
            f"{directory}: its tables are {max(times) - min(times):.1f} days apart; put each transit's in a folder of its own"
        )
    calibrator = stated.calibrator or next((gains.field_name for _, gains in tables if gains.field_name), "unknown")
    start, end = (
        middle + offset_d if bound is None else bound
        for bound, offset_d in ((stated.valid_start_mjd, -validity_days), (stated.valid_end_mjd, validity_days))
    )
    if not start <= middle <= end:
        raise ConfigurationError(
            f"the tables are of MJD {middle:.4f}, outside the validity {start:.4f} to {end:.4f}; choose a validity that includes it"
        )
    name = re.sub(r"[^A-Za-z0-9_.+-]+", "_", stated.name or f"{calibrator}-{directory.name}").lstrip("_.+-")[:60]
    return Tables(
        tuple(path for path, _ in tables), tuple(gains for _, gains in tables), name, calibrator, stated.anchor or "", middle, start, end
    )  # fmt: skip


def import_set(
    archive: "Archive", settings: "Settings", thresholds: "Thresholds", directory: Path, stated: Stated, by: str, check: Path | None = None
) -> registry.RegisteredSet:
    """Register unchanged copies of the tables in `directory`, if a measurement set calibrated with them is sound.

    That measurement set is at `check`, or else the archive's nearest in time (of the strip `stated`). If it is not sound, nothing is
    registered and BadDataError is raised, which lists everything that is wrong.
    """
    tables = read(directory, stated, settings.transits.validity_days)
    near = None if check else _nearest(archive, tables.mid_mjd, stated.dec_deg)
    ms_path = check or (near.path / MEASUREMENT_SET if near else None)
    if ms_path is None:
        strip = "" if stated.dec_deg is None else f" at {stated.dec_deg:g} deg"
        raise NotFoundError(f"the archive has no measurement set{strip} to check the tables against; name one: --check MS")
    anchor = tables.anchor or _anchor(archive, tables.calibrator)
    with archive.hold(*([near.id] if near else [])):
        antennas, dec_deg, figures, problems = _checked(archive, settings, thresholds, tables, ms_path)
    if problems:
        raise BadDataError(f"{directory} is not registered: with its tables {ms_path} is not sound: {'; '.join(problems)}")
    origin = {"imported_from": str(directory.absolute()), "by": by, "checked_with": near.id if near else str(ms_path),
              "order": [path.name for path in tables.paths]}  # fmt: skip
    with _draft(archive, tables.name, tables.mid_mjd, (), origin) as draft:
        (draft.path / tables.name).mkdir()
        copies = [Path(shutil.copytree(path, draft.path / tables.name / path.name)) for path in tables.paths]
        registry.register(
            draft, tables.name, copies, mid_mjd=tables.mid_mjd, valid_start_mjd=tables.valid_start_mjd,
            valid_end_mjd=tables.valid_end_mjd, dec_deg=dec_deg if stated.dec_deg is None else stated.dec_deg,
            antennas=antennas, calibrator=tables.calibrator, anchor=anchor,
            figures={**figures, **origin, "refant": tables.gains[0].antenna_names[tables.gains[0].refant]},
        )  # fmt: skip
    return registry.get(archive, f"{draft.product.id}/{tables.name}")


def _nearest(archive: "Archive", mjd: float, dec_deg: float | None) -> "Product | None":
    """The archive's measurement set nearest in time whose data exist, of the strip at `dec_deg` if given."""
    moment = timegrid.mjd_to_datetime(mjd)
    candidates = archive.products("measurement_set", moment - timegrid.NIGHT, moment + timegrid.NIGHT) or archive.newest("measurement_set")
    usable = [p for p in candidates if "pointing_dec_deg" in p.metadata
              and (dec_deg is None or abs(float(p.metadata["pointing_dec_deg"]) - dec_deg) <= SAME_STRIP_DEG)]  # fmt: skip
    return min(usable, key=lambda p: abs(float(p.metadata["mjd_start"]) - mjd), default=None)


def _anchor(archive: "Archive", calibrator: str) -> str:
    """The anchor of a known calibrator with a flux; for any other calibrator an anchor that says it was imported."""
    from dsa110_assets.calibration.transits import has_flux
    from dsa110_assets.sky import calibrators as listed

    try:
        known = listed.find(calibrator, calibrators.known(archive) or None)
    except NotFoundError:
        return f"imported:{calibrator}"
    return known.anchor if has_flux(known) else f"imported:{calibrator}"


def _checked(
    archive: "Archive", settings: "Settings", thresholds: "Thresholds", tables: Tables, ms_path: Path
) -> tuple[list[str], float, dict[str, float], list[str]]:
    """Calibrate a measurement set with the tables as an observation would be, and judge it by the rules that stop one. Return its
    antennas, its apparent declination [deg], figures, and a list of what is wrong."""
    from dsa110_assets.calibration import apply, verdicts
    from dsa110_assets.visibilities import measurement_set

    with measurement_set.opened(ms_path) as stored:
        frame = stored.frame
        names = [frame.antennas.names[a] for a in frame.active_antennas]
        dec_deg = _apparent_dec_deg(frame.phase_centres_rad[frame.times_mjd.size // 2], float(frame.times_mjd.mean()))
        _, good = apply.total_gains(frame, tables.gains)
    absent = [name for name in names if name not in tables.gains[0].antenna_names]
    solved = int(good[:, frame.active_antennas].any(axis=(0, 2, 3)).sum())
    problems = [f"the tables lack its antennas {', '.join(absent)}"] if absent else []
    if solved < thresholds.min_antennas_kept * len(names):
        problems.append(f"they have solutions for {solved} of its {len(names)} antennas, below {thresholds.min_antennas_kept:g} of them")
    if problems:
        return names, dec_deg, {}, problems
    graph.specifications()  # makes sure that the rules are registered
    with tempfile.TemporaryDirectory(prefix="dsa110-check-") as scratch:
        calibrated_set = calibrate(
            ms_path, tables.gains, settings, _sky(archive), Path(scratch) / "calibrated.ms", "check of imported tables"
        )
    figures: dict[str, Any] = dict(verdicts.UNJUDGED)
    if calibrated_set.observed is not None:
        figures = verdicts.figures(
            calibrated_set.observed, verdicts.table(calibrated_set.observed, calibrated_set.frame, calibrated_set.system_jy, {})
        )
    figures |= {"caltable_dec_offset_deg": 0.0, "n_antennas_without_tables": 0, "caltable_age_h": 0.0,
                "n_receptors_interpolated": 0, "receptors_not_interpolated": [], "receptors_of_one_set": []}  # fmt: skip
    judged = [v for v in rules.judge("calibrated_ms", figures, thresholds) if (v.hard or v.check in ALSO_STOPPING) and not v.passed]
    chosen = {name: float(figures[name]) for name in ("flux_scale", "kept_antenna_fraction", "drift_amplitude", "drift_phase_deg")}
    return names, dec_deg, chosen, [f"{v.check}: {v.reason}" for v in judged]


def _apparent_dec_deg(centre_rad: Any, mjd: float) -> float:
    import numpy as np

    from dsa110_assets.telescope import astrometry

    _, dec = astrometry.icrs_to_apparent_rad(centre_rad[:1], centre_rad[1:], np.array([mjd]))
    return float(np.degrees(dec[0]))


def _sky(archive: "Archive") -> "SkyModel":
    product = recipes.usable(archive, "sky_model", None)
    if product is None:
        raise NotFoundError("there is no sky_model yet to compare with: run `dsa110 process --through sky_model` first")
    sky: SkyModel = read_sky_model(product.path)
    return sky


def solve_set(
    archive: "Archive", settings: "Settings", thresholds: "Thresholds", calibrator: str, night: str | None, by: str
) -> registry.RegisteredSet:
    """Solve a named calibrator's transit in the night's measurement sets (default: the last night that has any).

    Raises NotFoundError, with the time of transit, if no set holds it, and BadDataError if its solution is not sound.
    """
    product, transit = observed(archive, calibrator, night)
    origin = {"solved_by": by, "calibrator": transit.calibrator.name}
    set_name = f"solved-{transit.calibrator.name}"
    with archive.hold(product.id), _draft(archive, set_name, transit.mjd, [product.id], origin) as draft:
        solved = solve_transit(product, transit, _sky(archive), settings, thresholds, draft.path)
        if solved.problems:
            raise BadDataError(f"{transit.calibrator.name} in {product.id} gives no sound tables: {'; '.join(solved.problems)}")
        write_transits(draft.path, [solved])
        register(draft, solved, settings.transits.validity_days)
    return registry.get(archive, f"{draft.product.id}/{solved.name}")


def observed(archive: "Archive", name: str, night: str | None) -> "tuple[Product, Transit]":
    """Return the measurement set of a night that holds a calibrator's transit, and the transit. Raises NotFoundError if there is none."""
    from dsa110_assets.calibration import transits
    from dsa110_assets.sky import calibrators as listed

    calibrator = listed.find(name, calibrators.known(archive) or None)
    when = night or next(iter(archive.nights(1, "measurement_set")), None)
    if when is None:
        raise NotFoundError("there is no measurement set yet to solve: run `dsa110 process --through measurement_set`")
    if not transits.has_flux(calibrator):
        raise NotFoundError(f"{calibrator.name} has no flux in the list and cannot be used for calibration: name another calibrator")
    for product in archive.products("measurement_set", when, when):
        start, end, dec_deg = (float(product.metadata[key]) for key in ("mjd_start", "mjd_end", "pointing_dec_deg"))
        transits_held = transits.transits([calibrator], start, end, dec_deg, max_dec_offset_deg=FARTHEST_DEG, min_flux_jy=0.0)
        if transits_held:
            return product, transits_held[0]
    at = timegrid.mjd_to_datetime(
        transits.transit_mjd(calibrator.ra_deg, calibrator.dec_deg, timegrid.datetime_to_mjd(timegrid.parse_key(when)) + 0.5)
    )
    raise NotFoundError(
        f"no measurement set of {when} holds the transit of {calibrator.name} at {at:%H:%M:%S}, within {FARTHEST_DEG:g} deg of it"
    )


FARTHEST_DEG = 1.4
"""So far off the pointing the power is one half at 1.4 GHz; a calibrator farther away hardly constrains the gains at the centre."""


@contextmanager
def _draft(archive: "Archive", name: str, mjd: float, inputs: Sequence[str], origin: Mapping[str, Any]) -> Iterator[Any]:
    """A draft of a set of the family `registry.BY_HAND`; it stays unpublished if the block raises.

    Its partition is the first window, from the time of the tables on, that no set of another name has, so that only a set of the same
    name is replaced.
    """
    window, key = timegrid.parse_key(timegrid.observation_key(mjd)), ""
    while not key:
        existing = archive.current(registry.BY_HAND, timegrid.key(window), removed=True)
        if existing is None or existing.metadata.get("name") == name:
            key = timegrid.key(window)
        window += timegrid.OBSERVATION_WINDOW
    with archive.publish(
        registry.BY_HAND, key, inputs, settings=dict(origin), code_version=CODE_VERSION, run_id="by-hand", engines=engines()
    ) as draft:
        draft.metadata.update(origin, name=name)
        yield draft
