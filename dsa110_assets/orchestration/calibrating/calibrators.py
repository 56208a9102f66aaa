"""Which calibrator transits the observations hold, and which table sets an observation gets."""

from collections import defaultdict
from collections.abc import Sequence, Set
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from dsa110_assets.calibration.options import SAME_STRIP_DEG
from dsa110_assets.orchestration.ingest import inbox
from dsa110_assets.telescope import timegrid

if TYPE_CHECKING:
    from dsa110_assets.archive.product import Product
    from dsa110_assets.archive.store import Archive
    from dsa110_assets.calibration.options import TransitOptions
    from dsa110_assets.calibration.select import Choice
    from dsa110_assets.calibration.transits import Transit
    from dsa110_assets.settings import Settings
    from dsa110_assets.sky.calibrators import Calibrator
    from dsa110_assets.visibilities.types import Visibilities

CATALOG_FILE = "calibrator_catalog.parquet"


def known(archive: "Archive") -> "tuple[Calibrator, ...]":
    """The calibrators of the published `calibrator_catalog`; none if there is no such product yet."""
    product = archive.current("calibrator_catalog", None)
    return () if product is None else _read(product.path / CATALOG_FILE)


@lru_cache(maxsize=4)
def _read(path: Path) -> "tuple[Calibrator, ...]":
    """Read a published catalog; the result is cached because products never change."""
    import pyarrow.parquet as pq

    from dsa110_assets.sky import calibrators

    return calibrators.from_rows(pq.ParquetFile(path).read().to_pylist())  # read_table loads pandas


def observed_transits(
    sets: "Sequence[Product]", listed: "Sequence[Calibrator]", options: "TransitOptions"
) -> "list[tuple[Product, Transit]]":
    """Return the transits worth solving that fall into these measurement sets, in order of time; at most one per set.

    In one strip, sources of other catalogues are used only if no steady listed calibrator was observed, and
    variable ones only if there is no other.
    """
    strips: dict[float, list[Product]] = defaultdict(list)
    for product in sorted(sets, key=lambda p: p.partition or ""):
        dec = float(product.metadata["pointing_dec_deg"])
        strip = next((other for other in strips if abs(other - dec) <= SAME_STRIP_DEG), dec)
        strips[strip].append(product)
    solvable = [pair for dec, members in strips.items() for pair in _of_strip(members, dec, listed, options)]
    return sorted(solvable, key=lambda pair: pair[1].mjd)


def _of_strip(
    members: "Sequence[Product]", dec_deg: float, listed: "Sequence[Calibrator]", options: "TransitOptions"
) -> "list[tuple[Product, Transit]]":
    from dsa110_assets.calibration import transits

    start = min(float(p.metadata["mjd_start"]) for p in members)
    end = max(float(p.metadata["mjd_end"]) for p in members)
    best: dict[str, tuple[Product, Transit]] = {}
    limits = {"max_dec_offset_deg": options.max_dec_offset_deg, "min_flux_jy": options.min_flux_jy}
    for transit in transits.rank(transits.transits(listed, start, end, dec_deg, **limits)):
        holding = [p for p in members if float(p.metadata["mjd_start"]) <= transit.mjd < float(p.metadata["mjd_end"])]
        if holding:
            best.setdefault(holding[0].id, (holding[0], transit))
    trusted = transits.most_trusted([transit for _, transit in best.values()])
    brightest = max((transit.apparent_flux_jy for transit in trusted), default=0.0)
    accepted = [
        (product, transit)
        for product, transit in best.values()
        if transit in trusted and transit.apparent_flux_jy >= options.min_share * brightest
    ]
    return accepted[: options.most or None]  # in order of rank


def name_field(ms_path: Path, frame: "Visibilities", options: "TransitOptions") -> str:
    """Name the field of the integration in which a listed calibrator transits after it, as 3C286_t12; return the name, '' if none does.

    Only the packaged list is used, which does not depend on imported catalogues, so that the same files make the same measurement set.
    """
    import numpy as np

    from dsa110_assets.calibration import transits
    from dsa110_assets.sky.calibrators import load
    from dsa110_assets.visibilities import ms_subtables

    half_d, dec_deg = frame.interval_s / 2 / 86400, float(np.degrees(frame.pointing_dec_rad))
    start, end = float(frame.times_mjd[0]) - half_d, float(frame.times_mjd[-1]) + half_d
    limits = {"max_dec_offset_deg": options.max_dec_offset_deg, "min_flux_jy": options.min_flux_jy}
    ranked = transits.rank(transits.transits(load(), start, end, dec_deg, **limits))
    if not ranked:
        return ""
    index = int(np.abs(frame.times_mjd - ranked[0].mjd).argmin())
    name = f"{ranked[0].calibrator.alias or ranked[0].calibrator.name}_t{index}"
    ms_subtables.name_field(ms_path, index, name)
    return name


def choose_for(
    archive: "Archive", settings: "Settings", product: "Product", *, used: Set[str] = frozenset()
) -> "tuple[Choice, tuple[Product, ...]]":
    """Return the table sets for a measurement set, and the caltables products that hold them, that of the nearest set first. Raises
    WaitingError if there is none.

    Sets whose data retention removed count only if `used` so far: products made with them are still up to date.
    """
    middle = (float(product.metadata["mjd_start"]) + float(product.metadata["mjd_end"])) / 2
    dec_deg, antennas = float(product.metadata["pointing_dec_deg"]), frozenset(product.metadata["antennas"])
    choice = _choose(archive, settings, middle, dec_deg, antennas, used)
    holding = dict.fromkeys(table_set.set_id.partition("/")[0] for table_set in choice.sets)
    return choice, tuple(archive.get(product_id) for product_id in holding)


def in_force(archive: "Archive", settings: "Settings", mjd: float) -> "Choice":
    """The calibration in force at a time [MJD UTC], which an observation of that time would get. Raises WaitingError if there is none.

    If there is such an observation, its own middle, pointing and antennas are used. Otherwise the pointing is that of the observation
    nearest in time in the last night that has any, or, without any, that of the nearest set.
    """
    key = timegrid.observation_key(mjd + timegrid.ROUNDING_D)
    group, flagged = archive.current("subband_group", key), archive.current("measurement_set", key, removed=True)
    metadata = {**(group.metadata if group else {}), **(flagged.metadata if flagged else {})}
    middle = (float(metadata["mjd_start"]) + float(metadata["mjd_end"])) / 2 if {"mjd_start", "mjd_end"} <= metadata.keys() else mjd
    dec_deg = metadata.get("pointing_dec_deg")
    pointing = _pointing_near(archive, key, mjd) if dec_deg is None else float(dec_deg)
    return _choose(archive, settings, middle, pointing, frozenset(metadata.get("antennas", ())), frozenset())


def _pointing_near(archive: "Archive", key: str, mjd: float) -> float:
    """The declination [deg] of the observation nearest to a window in the last night that has any, else of the nearest set; 0 if there
    is neither."""
    from dsa110_assets.archive import caltable_registry as registry

    start = timegrid.parse_key(key)
    for night in archive.nights(1, "subband_group", until=key[:10]):
        groups = [p for p in archive.products("subband_group", night, night) if p.partition and "pointing_dec_deg" in p.metadata]
        if groups:
            nearest = min(groups, key=lambda p: abs(timegrid.parse_key(p.partition or key) - start))
            return float(nearest.metadata["pointing_dec_deg"])
    known = registry.sets(archive, registry.ACTIVE)
    return min(known, key=lambda table_set: abs(table_set.mid_mjd - mjd)).dec_deg if known else 0.0


def _choose(archive: "Archive", settings: "Settings", mjd: float, dec_deg: float, antennas: frozenset[str], used: Set[str]) -> "Choice":
    from dsa110_assets.archive import caltable_registry as registry
    from dsa110_assets.archive import naming
    from dsa110_assets.calibration import select

    def solved(table_set: registry.RegisteredSet) -> tuple[str | None, str]:
        """A set's night and name, which are the same in every version of the night's tables."""
        return naming.parse_id(table_set.product_id).partition, table_set.set_id.partition("/")[2]

    options = settings.choose
    near = registry.around(archive, mjd, options.max_age_days)
    everything = near or archive.once("caltable sets", lambda: registry.sets(archive))  # so that the error can say why each is refused
    refused = {solved(table_set) for table_set in everything if table_set.status == registry.REJECTED}
    active = [
        table_set for table_set in everything if table_set.status == registry.ACTIVE and (not table_set.removed or table_set.set_id in used)
    ]
    offered = [table_set for table_set in active if solved(table_set) not in refused]
    choice = select.choose(offered, mjd, dec_deg, antennas, options)
    if not choice.fallback:  # predicting transits takes ten times as long as choosing
        return choice
    due_mjd = _due_transit(mjd, dec_deg, known(archive), settings.transits)
    return select.choose(offered, mjd, dec_deg, antennas, options, due_transit_mjd=due_mjd)


def _due_transit(mjd: float, dec_deg: float, listed: "Sequence[Calibrator]", options: "TransitOptions") -> float | None:
    """The time [MJD] of the nearest transit of the strip that is still to come or to be solved; None for observations of the past."""
    from dsa110_assets.calibration import transits

    now = timegrid.MJD_UNIX_EPOCH + inbox.now_s() / 86400
    validity_d = options.validity_days
    if now - mjd > 2 * validity_d:
        return None
    solved_by = now - timegrid.HOUR.total_seconds() / 86400
    limits = {"max_dec_offset_deg": options.max_dec_offset_deg, "min_flux_jy": options.min_flux_jy}
    coming = transits.transits(listed, max(solved_by, mjd - validity_d), mjd + validity_d, dec_deg, **limits)
    return min((t.mjd for t in transits.most_trusted(coming)), key=lambda t: abs(t - mjd), default=None)


def set_name(transit: "Transit", product: "Product", fingerprint: str) -> str:
    """The name of a transit's table set: calibrator, observation, and a hash of its input and of `fingerprint`.

    Solving the same transit again in the same way gives the same name, so that a rejection still holds.
    """
    import re

    import xxhash

    # names in other catalogues contain blanks and can have any length
    calibrator = re.sub(r"[^A-Za-z0-9.+-]+", "_", transit.calibrator.name).lstrip("_.+-")[:40]
    key = xxhash.xxh3_64_hexdigest(f"{product.digest}|{fingerprint}".encode())[:8]
    return f"{calibrator}-{(product.partition or '').replace('-', '').replace(':', '')}-{key}"
