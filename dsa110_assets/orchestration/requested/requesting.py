"""Turns what a person asks for into a request that is kept (`archive.requested`), and finds its tiles and grid."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import dagster as dg

from dsa110_assets.archive import naming, requested
from dsa110_assets.archive.requested import Request
from dsa110_assets.errors import ConfigurationError, NotFoundError
from dsa110_assets.orchestration.calibrating import calibrators
from dsa110_assets.orchestration.specification import recipes
from dsa110_assets.telescope import timegrid

if TYPE_CHECKING:
    from astropy.io.fits import Header

    from dsa110_assets.archive.product import Product
    from dsa110_assets.archive.store import Archive
    from dsa110_assets.mosaics.options import CoaddOptions
    from dsa110_assets.sky.calibrators import Calibrator

QUICK_PIXELS = 3.0
"""Pixels across the beam's minor axis in the quick tier, which has a quarter of the science tier's pixels. Fits lose nothing, but the
brightest pixel is up to 4 ln 2 (0.5 sqrt(2) / 3)^2 = 15 % below a peak between pixels."""
LARGEST_RADIUS_DEG = 30.0
FIELD = "request"
_TEXT, _NUMBER = dg.String, dg.Float


@dataclass(frozen=True)
class MosaicSelection:
    """A person's request as given: the tiles of a time [`since`, `until`) (UTC), `tiles` by product id or partition, or those whose
    middle is within `timespan_min` / 2 of the transit of `calibrator` that is nearest to the time `at` (default: the newest tile).

    With `centre_deg` (ICRS), or a calibrator, the grid holds a circle of `radius_deg`, and only tiles that reach into it count.
    """

    since: datetime | None = None
    until: datetime | None = None
    tiles: tuple[str, ...] = ()
    centre_deg: tuple[float, float] | None = None
    radius_deg: float = 1.0
    calibrator: str = ""
    at: datetime | None = None
    timespan_min: float = 60.0
    tier: requested.Tier = "science"


def resolve(archive: "Archive", name: str, selection: MosaicSelection, by: str) -> Request:
    """Return the complete request, for which there is at least one tile.

    Raises NotFoundError if there is no such tile or calibrator, and ConfigurationError if `selection` contradicts itself.
    """
    naming.named(name)
    _require_one_way(selection)
    request = Request(name, *_when(archive, selection), by, datetime.now(UTC), tier=selection.tier, **_where(archive, selection))
    if selection.tiles:
        request = replace(request, tiles=tuple(_partition(archive, tile) for tile in selection.tiles))
    if not tiles(archive, request):
        existing = archive.partitions("tile_image")
        span = f"tiles are of {existing[0]} to {existing[-1]}" if existing else "there is none yet"
        raise NotFoundError(
            f"no usable tile_image of {requested.describe(request)}: {span}; `dsa110 products --asset tile_image` lists them"
        )
    return request


def tiles(archive: "Archive", request: Request) -> "list[Product]":
    """The usable tiles of a request whose data exist, in order of time."""
    since, until = (timegrid.datetime_to_mjd(moment) for moment in (request.since, request.until))
    first = timegrid.key(request.since - timegrid.OBSERVATION_WINDOW)
    near = recipes.all_usable(archive, "tile_image", first, timegrid.key(request.until), removed=False)
    near = [tile for tile in near if since - timegrid.ROUNDING_D <= float(tile.metadata["mjd_start"]) < until]
    if request.tiles:
        near = [tile for tile in near if tile.partition in request.tiles]
    return [tile for tile in near if _reaches(tile, request)]


def grid(request: Request, tiles: "Sequence[Product]", options: "CoaddOptions") -> "tuple[CoaddOptions, Header | None]":
    """Return the options for coadding the tiles, and the grid to coadd them on (None: one that holds them all)."""
    from dsa110_assets.mosaics.grid import around

    pixel_arcsec = options.pixel_arcsec or min(float(tile.metadata["pixel_arcsec"]) for tile in tiles)
    if request.tier == "quick":
        coarse = min(float(tile.metadata["beam_minor_arcsec"]) for tile in tiles) / QUICK_PIXELS
        options = replace(options, pixel_arcsec=max(pixel_arcsec, coarse))
        pixel_arcsec = options.pixel_arcsec
    target = around(*request.centre_deg, request.radius_deg, pixel_arcsec / 3600) if request.centre_deg else None
    return options, target


FIELDS = {
    FIELD: dg.Field(
        {
            "since": dg.Field(_TEXT, is_required=False, description="observations that begin from this UTC time on"),
            "until": dg.Field(_TEXT, is_required=False, description="and before this one"),
            "tiles": dg.Field([_TEXT], is_required=False, description="tiles by product id or partition, in place of a time"),
            "centre_deg": dg.Field([_NUMBER], is_required=False, description="right ascension and declination, ICRS [deg]"),
            "radius_deg": dg.Field(_NUMBER, is_required=False, description="of the circle about the centre [deg], default 1"),
            "calibrator": dg.Field(_TEXT, is_required=False, description="the tiles around its transit, centred on it"),
            "at": dg.Field(_TEXT, is_required=False, description="the transit nearest to this UTC time; default: to the newest tile"),
            "timespan_min": dg.Field(_NUMBER, is_required=False, description="minutes around the transit, default 60"),
            "tier": dg.Field(
                dg.Enum("tier", [dg.EnumValue("science"), dg.EnumValue("quick")]), is_required=False,
                description="quick: a quarter of the pixels",
            ),
            "by": dg.Field(_TEXT, is_required=False, description="who asks"),
        },
        is_required=False,
        description="what a new mosaic is made of; empty: as the earlier request of this partition's name says",
    )
}  # fmt: skip
"""The launchpad's fields for a requested mosaic."""


def keep_asked(archive: "Archive", partition: str, config: Mapping[str, Any]) -> None:
    """Keep the request in a run config, if there is one, as the request of this partition.

    Raises NotFoundError if the config has none and nothing was ever requested by this name; otherwise as `resolve` and
    `requested.keep`.
    """
    if not naming.is_named(partition):
        raise NotFoundError(f"{partition!r} is no partition of requested mosaics: write {naming.NAME_MARK} and a name, such as @virgo_2026")
    name, fields = partition.removeprefix(naming.NAME_MARK), dict(config.get(FIELD, {}))
    if not fields:
        requested.find(archive, name)
        return
    by = fields.pop("by", "web UI")
    times = {key: _time(key, fields[key]) for key in ("since", "until", "at") if key in fields}
    plain = {"tiles": tuple(fields.get("tiles", ()))}
    if "centre_deg" in fields:
        if len(fields["centre_deg"]) != 2:
            raise ConfigurationError(f"centre_deg={fields['centre_deg']}: write right ascension and declination [deg], as [218.5, 16.3]")
        plain["centre_deg"] = tuple(fields["centre_deg"])
    requested.keep(archive, resolve(archive, name, MosaicSelection(**{**fields, **times, **plain}), by))


def _time(key: str, text: str) -> datetime:
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise ConfigurationError(f"{key}={text!r} is no time; write 2026-01-25T22:25 (UTC)") from None
    return moment.astimezone(UTC) if moment.tzinfo else moment.replace(tzinfo=UTC)


def _require_one_way(selection: MosaicSelection) -> None:
    """Raise ConfigurationError unless the tiles are selected in exactly one way and all values are within range."""
    ways = {"a time": selection.since or selection.until, "tiles": selection.tiles, "a calibrator": selection.calibrator}
    chosen = [name for name, value in ways.items() if value]
    if len(chosen) != 1:
        raise ConfigurationError(
            f"a mosaic is of a time (since and until), of tiles, or of a calibrator's transit; given is {' and '.join(chosen) or 'none'}"
        )
    if (selection.since is None) != (selection.until is None):
        raise ConfigurationError("a time has two ends: give both since and until")
    if selection.since and selection.until and selection.until <= selection.since:
        raise ConfigurationError(f"until {selection.until:%Y-%m-%dT%H:%M} is not after since {selection.since:%Y-%m-%dT%H:%M}")
    if selection.calibrator and selection.centre_deg:
        raise ConfigurationError(f"the mosaic about {selection.calibrator} is centred on it; leave the centre {selection.centre_deg} out")
    if selection.centre_deg and not (0 <= selection.centre_deg[0] < 360 and -90 <= selection.centre_deg[1] <= 90):
        raise ConfigurationError(f"the centre {selection.centre_deg} is outside the sky: RA is 0 to 360, declination -90 to 90 deg")
    if not 0 < selection.radius_deg <= LARGEST_RADIUS_DEG:
        raise ConfigurationError(f"the radius {selection.radius_deg:g} deg is not in 0 to {LARGEST_RADIUS_DEG:g} deg; choose another")
    if not 0 < selection.timespan_min <= 1440:
        raise ConfigurationError(f"the timespan {selection.timespan_min:g} min is not in 0 to 1440 min; choose another")


def _when(archive: "Archive", selection: MosaicSelection) -> tuple[datetime, datetime]:
    """The times between which the observations begin."""
    if selection.since is not None and selection.until is not None:
        return selection.since, selection.until
    if selection.tiles:
        starts = sorted(timegrid.parse_key(_partition(archive, one)) for one in selection.tiles)
        return starts[0], starts[-1] + timegrid.OBSERVATION_WINDOW
    from dsa110_assets.calibration.transits import transit_mjd

    one = _calibrator(archive, selection)
    newest = archive.newest("tile_image")
    if selection.at is None and not newest:
        raise NotFoundError("there is no tile_image yet: run `dsa110 process`, and see `dsa110 status`")
    near_mjd = timegrid.datetime_to_mjd(selection.at) if selection.at else float(newest[0].metadata["mjd_start"])
    middle = timegrid.mjd_to_datetime(transit_mjd(one.ra_deg, one.dec_deg, near_mjd)) - timedelta(seconds=timegrid.GROUP_S / 2)
    half = timedelta(minutes=selection.timespan_min / 2)
    return middle - half, middle + half


def _where(archive: "Archive", selection: MosaicSelection) -> dict[str, Any]:
    """Centre, radius and calibrator of a request; empty where its tiles determine its place."""
    if selection.calibrator:
        calibrator = _calibrator(archive, selection)
        return {"centre_deg": (calibrator.ra_deg, calibrator.dec_deg), "radius_deg": selection.radius_deg, "calibrator": calibrator.name}
    return {"centre_deg": selection.centre_deg, "radius_deg": selection.radius_deg} if selection.centre_deg else {}


def _calibrator(archive: "Archive", selection: MosaicSelection) -> "Calibrator":
    from dsa110_assets.sky import calibrators as packaged

    return packaged.find(selection.calibrator, calibrators.known(archive) or None)


def _partition(archive: "Archive", tile: str) -> str:
    """The partition of a tile named by its product id or its partition. Raises NotFoundError if there is no usable science tile of it."""
    if naming.is_id(tile):
        product = archive.get(tile)
        if product.asset != "tile_image" or product.trial:
            raise NotFoundError(f"{tile} is no tile_image of science; `dsa110 products --asset tile_image` lists them")
        tile = str(product.partition)
    naming.check_partition(tile)
    usable_tile = recipes.usable(archive, "tile_image", tile)
    if usable_tile is None or usable_tile.removed:
        why = "its data were removed by retention" if usable_tile else "there is none that may be used"
        raise NotFoundError(f"no tile_image {tile}: {why}; `dsa110 products --asset tile_image` lists those there are")
    return tile


def _reaches(tile: "Product", request: Request) -> bool:
    """Whether a tile's field reaches the circle of a request, if it has one."""
    if request.centre_deg is None:
        return True
    import numpy as np

    from dsa110_assets.telescope import astrometry

    middle_mjd = (float(tile.metadata["mjd_start"]) + float(tile.metadata["mjd_end"])) / 2
    place = astrometry.meridian_icrs_rad(middle_mjd, math.radians(float(tile.metadata["pointing_dec_deg"])))[0]
    away_deg = float(astrometry.separation_deg(*place, *np.deg2rad(request.centre_deg)))
    return away_deg <= request.radius_deg + float(tile.metadata["field_deg"]) / 2
