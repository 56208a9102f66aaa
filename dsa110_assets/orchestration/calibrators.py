"""Which calibrator transits the observations hold, and which table set an observation gets."""

from collections import defaultdict
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from dsa110_assets.orchestration import inbox
from dsa110_assets.telescope import timegrid

if TYPE_CHECKING:
    from dsa110_assets.archive.product import Product
    from dsa110_assets.archive.store import Archive
    from dsa110_assets.calibration.select import Choice
    from dsa110_assets.calibration.transits import Transit
    from dsa110_assets.settings import Settings
    from dsa110_assets.sky.calibrators import Calibrator

CATALOG_FILE = "calibrator_catalog.parquet"
SAME_STRIP_DEG = 0.05
"""Pointing is stable to 0.001 deg within a campaign."""
FAINTEST_SHARE = 0.2
"""Of a strip's calibrators in a night, those with less than this share of the best one's apparent flux are not
solved: their tables would be noisier than the best one's are old."""
VALIDITY_D = 0.5
"""A set is good for half a day either way, until the next transit of the same calibrator is nearer."""


def known(archive: "Archive") -> "tuple[Calibrator, ...]":
    """The calibrators of the published `calibrator_catalog`; none while it is not there."""
    product = archive.current("calibrator_catalog", None)
    return () if product is None else _read(product.path / CATALOG_FILE)


@lru_cache(maxsize=4)
def _read(path: Path) -> "tuple[Calibrator, ...]":
    """A published catalog, which never changes."""
    import pandas as pd

    from dsa110_assets.sky import calibrator_catalog

    return calibrator_catalog.from_frame(pd.read_parquet(path))


def observed_transits(sets: "Sequence[Product]", listed: "Sequence[Calibrator]") -> "list[tuple[Product, Transit]]":
    """The transits worth solving that fall into these measurement sets, by time; at most one per set.

    Of one strip, sources of other catalogues are taken only where no steady listed calibrator was seen, and
    variable ones only if there is no other.
    """
    strips: dict[float, list[Product]] = defaultdict(list)
    for product in sorted(sets, key=lambda p: p.partition or ""):
        dec = float(product.metadata["pointing_dec_deg"])
        strip = next((other for other in strips if abs(other - dec) <= SAME_STRIP_DEG), dec)
        strips[strip].append(product)
    found = [pair for dec, members in strips.items() for pair in _of_strip(members, dec, listed)]
    return sorted(found, key=lambda pair: pair[1].mjd)


def _of_strip(members: "Sequence[Product]", dec_deg: float, listed: "Sequence[Calibrator]") -> "list[tuple[Product, Transit]]":
    from dsa110_assets.calibration import transits

    start = min(float(p.metadata["mjd_start"]) for p in members)
    end = max(float(p.metadata["mjd_end"]) for p in members)
    best: dict[str, tuple[Product, Transit]] = {}
    for transit in transits.rank(transits.transits(listed, start, end, dec_deg)):
        holding = [p for p in members if float(p.metadata["mjd_start"]) <= transit.mjd < float(p.metadata["mjd_end"])]
        if holding:
            best.setdefault(holding[0].id, (holding[0], transit))
    trusted = transits.most_trusted([transit for _, transit in best.values()])
    brightest = max((transit.apparent_flux_jy for transit in trusted), default=0.0)
    return [
        (product, transit)
        for product, transit in best.values()
        if transit in trusted and transit.apparent_flux_jy >= FAINTEST_SHARE * brightest
    ]


def choose_for(archive: "Archive", settings: "Settings", product: "Product", *, used: str | None = None) -> "tuple[Choice, Product]":
    """The table set for a measurement set, and the caltables product that holds it. WaitingError if there is none.

    Of the sets whose data retention took only the one `used` so far counts: what was made with it is as it would be now.
    """
    from dsa110_assets.archive import caltable_registry as registry
    from dsa110_assets.calibration import select

    everything = registry.sets(archive)
    refused = {one.set_id.partition("/")[2] for one in everything if one.status == registry.REJECTED}
    active = [one for one in everything if one.status == registry.ACTIVE and (not one.removed or one.set_id == used)]
    offered = [one for one in active if one.set_id.partition("/")[2] not in refused]
    middle = (float(product.metadata["mjd_start"]) + float(product.metadata["mjd_end"])) / 2
    dec_deg = float(product.metadata["pointing_dec_deg"])
    choice = select.choose(
        offered, middle, dec_deg, frozenset(product.metadata["antennas"]), settings.choose,
        due_transit_mjd=_due_transit(middle, dec_deg, known(archive)),
    )  # fmt: skip
    return choice, archive.get(choice.set.set_id.partition("/")[0])


def _due_transit(mjd: float, dec_deg: float, listed: "Sequence[Calibrator]") -> float | None:
    """The nearest transit of the strip that is still to come or to be solved; None for observations of the past."""
    from dsa110_assets.calibration import transits

    now = timegrid.MJD_UNIX_EPOCH + inbox.now_s() / 86400
    if now - mjd > 2 * VALIDITY_D:
        return None
    solved_by = now - timegrid.HOUR.total_seconds() / 86400
    coming = transits.transits(listed, max(solved_by, mjd - VALIDITY_D), mjd + VALIDITY_D, dec_deg)
    return min((t.mjd for t in transits.most_trusted(coming)), key=lambda t: abs(t - mjd), default=None)


def set_name(transit: "Transit", product: "Product", fingerprint: str) -> str:
    """The name of a transit's table set: calibrator, observation, and what it was solved from and with.

    Solving the same again gives the same name, so a rejection still holds.
    """
    import re

    import xxhash

    # other catalogues' names have blanks, and are of any length
    calibrator = re.sub(r"[^A-Za-z0-9.+-]+", "_", transit.calibrator.name).lstrip("_.+-")[:40]
    key = xxhash.xxh3_64_hexdigest(f"{product.digest}|{fingerprint}".encode())[:8]
    return f"{calibrator}-{(product.partition or '').replace('-', '').replace(':', '')}-{key}"
