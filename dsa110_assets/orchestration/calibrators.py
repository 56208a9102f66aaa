"""Which calibrator transits the observations hold, and which table set an observation gets."""

from collections import defaultdict
from collections.abc import Sequence
from typing import TYPE_CHECKING

from dsa110_assets.orchestration import inbox
from dsa110_assets.telescope import timegrid

if TYPE_CHECKING:
    from dsa110_assets.archive.caltable_registry import RegisteredSet
    from dsa110_assets.archive.product import Product
    from dsa110_assets.archive.store import Archive
    from dsa110_assets.calibration.select import CaltableSet, Choice
    from dsa110_assets.calibration.transits import Transit
    from dsa110_assets.settings import Settings

SAME_STRIP_DEG = 0.05
"""Pointing is stable to 0.001 deg within a campaign."""
FAINTEST_SHARE = 0.2
"""Of a strip's calibrators in a night, those with less than this share of the best one's apparent flux are not
solved: their tables would be noisier than the best one's are old."""
VALIDITY_D = 0.5
"""A set is good for half a day either way, until the next transit of the same calibrator is nearer."""


def observed_transits(sets: "Sequence[Product]", settings: "Settings") -> "list[tuple[Product, Transit]]":
    """The transits worth solving that fall into these measurement sets, by time; at most one per set.

    Of one strip variable calibrators are taken only if there is no other.
    """
    strips: dict[float, list[Product]] = defaultdict(list)
    for product in sorted(sets, key=lambda p: p.partition or ""):
        dec = float(product.metadata["pointing_dec_deg"])
        known = next((other for other in strips if abs(other - dec) <= SAME_STRIP_DEG), dec)
        strips[known].append(product)
    found = [pair for dec, members in strips.items() for pair in _of_strip(members, dec)]
    return sorted(found, key=lambda pair: pair[1].mjd)


def _of_strip(members: "Sequence[Product]", dec_deg: float) -> "list[tuple[Product, Transit]]":
    from dsa110_assets.calibration import transits
    from dsa110_assets.sky import calibrators

    start = min(float(p.metadata["mjd_start"]) for p in members)
    end = max(float(p.metadata["mjd_end"]) for p in members)
    best: dict[str, tuple[Product, Transit]] = {}
    for transit in transits.rank(transits.transits(calibrators.load(), start, end, dec_deg)):
        holding = [p for p in members if float(p.metadata["mjd_start"]) <= transit.mjd < float(p.metadata["mjd_end"])]
        if holding:
            best.setdefault(holding[0].id, (holding[0], transit))
    pairs = list(best.values())
    pairs = [p for p in pairs if not p[1].calibrator.variable] or pairs
    brightest = max((transit.apparent_flux_jy for _, transit in pairs), default=0.0)
    return [pair for pair in pairs if pair[1].apparent_flux_jy >= FAINTEST_SHARE * brightest]


def choose_for(archive: "Archive", settings: "Settings", product: "Product") -> "tuple[Choice, Product]":
    """The table set for a measurement set, and the caltables product that holds it. WaitingError if there is none."""
    from dsa110_assets.archive import caltable_registry as registry
    from dsa110_assets.calibration import select

    everything = registry.sets(archive)
    refused = {one.set_id.partition("/")[2] for one in everything if one.status == registry.REJECTED}
    offered = [_as_choosable(one) for one in everything if one.status == registry.ACTIVE and one.set_id.partition("/")[2] not in refused]
    middle = (float(product.metadata["mjd_start"]) + float(product.metadata["mjd_end"])) / 2
    dec_deg = float(product.metadata["pointing_dec_deg"])
    choice = select.choose(
        offered, middle, dec_deg, frozenset(product.metadata["antennas"]), settings.choose,
        due_transit_mjd=_due_transit(middle, dec_deg),
    )  # fmt: skip
    return choice, archive.get(choice.set.set_id.partition("/")[0])


def _as_choosable(one: "RegisteredSet") -> "CaltableSet":
    from dsa110_assets.calibration.select import CaltableSet

    return CaltableSet(
        set_id=one.set_id,
        paths=tuple(str(path) for path in one.paths),
        mid_mjd=one.mid_mjd,
        valid_start_mjd=one.valid_start_mjd,
        valid_end_mjd=one.valid_end_mjd,
        dec_deg=one.dec_deg,
        antennas=one.antennas,
        calibrator=one.calibrator,
        anchor=one.anchor,
        status=one.status,
    )


def _due_transit(mjd: float, dec_deg: float) -> float | None:
    """The nearest transit of the strip that is still to come or to be solved; None for observations of the past."""
    from dsa110_assets.calibration import transits
    from dsa110_assets.sky import calibrators

    now = timegrid.MJD_UNIX_EPOCH + inbox.now_s() / 86400
    if now - mjd > 2 * VALIDITY_D:
        return None
    solved_by = now - timegrid.HOUR.total_seconds() / 86400
    coming = transits.transits(calibrators.load(), max(solved_by, mjd - VALIDITY_D), mjd + VALIDITY_D, dec_deg)
    steady = [t for t in coming if not t.calibrator.variable] or coming
    return min((t.mjd for t in steady), key=lambda t: abs(t - mjd), default=None)


def set_name(transit: "Transit", product: "Product", fingerprint: str) -> str:
    """The name of a transit's table set: calibrator, observation, and what it was solved from and with.

    Solving the same again gives the same name, so a rejection still holds.
    """
    import xxhash

    key = xxhash.xxh3_64_hexdigest(f"{product.digest}|{fingerprint}".encode())[:8]
    return f"{transit.calibrator.name}-{(product.partition or '').replace('-', '').replace(':', '')}-{key}"
