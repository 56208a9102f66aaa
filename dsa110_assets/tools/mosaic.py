"""`mosaic`: tiles to one image, from all tiles, those around a direction, or those around a calibrator's transit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from astropy.io.fits import Header
from astropy.wcs import WCS

from dsa110_assets.calibration.transits import transit_mjd
from dsa110_assets.errors import BadDataError, NotFoundError
from dsa110_assets.imaging.fits import read_header
from dsa110_assets.mosaics import coadd, grid, window, write
from dsa110_assets.mosaics.coadd import Mosaic, TileInput
from dsa110_assets.mosaics.options import CoaddOptions
from dsa110_assets.sky import calibrators
from dsa110_assets.telescope import timegrid
from dsa110_assets.tools import outputs
from dsa110_assets.tools.outputs import Progress


@dataclass(frozen=True)
class TileSelection:
    """The choice of tiles and grid: tiles that reach a circle of `radius_deg` about `centre_deg` (ICRS), which is also the grid; or tiles
    whose middle is within `timespan_min` / 2 of `calibrator`'s nearest transit. By default all tiles, on a grid that holds them."""

    centre_deg: tuple[float, float] | None = None
    radius_deg: float = 1.0
    calibrator: str | None = None
    timespan_min: float = 60.0


@dataclass(frozen=True)
class Coadded:
    """`path`: the directory; `tiles`: those in the mosaic; `mosaic`: None for a dry run."""

    path: Path
    tiles: tuple[Path, ...]
    mosaic: Mosaic | None


def mosaic(
    tiles: Sequence[Path],
    out: Path,
    chosen: TileSelection | None = None,
    options: CoaddOptions | None = None,
    *,
    force: bool = False,
    dry_run: bool = False,
    progress: Progress = outputs.nothing,
) -> Coadded:
    """Coadd tiles, which are directories with image.fits and primary-beam.fits as made by `image` and the asset `tile_image`, into the
    directory `out`: mosaic.fits (corrected for the primary beam), noise.fits, weights.fits, preview.png.

    Unlike in the asset `hour_mosaic`, flux scales of different calibrators are left as they are. Raises NotFoundError for an unknown
    calibrator, and if no tile matches `chosen`; BadDataError for a directory that is not a tile; ConfigurationError for an output that
    exists.
    """
    chosen, options = chosen or TileSelection(), options or CoaddOptions()
    outputs.require_new(out, force)
    headers = {path: read_header(path / "image.fits")[0] for path in tiles}
    inputs = {path: _tile(path, header) for path, header in headers.items()}
    target: Header | None = None
    if chosen.centre_deg is not None:
        pixel_deg = options.pixel_arcsec / 3600 or min(_pixel_deg(header) for header in headers.values())
        target = grid.around(*chosen.centre_deg, chosen.radius_deg, pixel_deg)
        inputs = {path: one for path, one in inputs.items() if window.covered(headers[path], target) is not None}
    if chosen.calibrator is not None:
        inputs = _around_transit(inputs, chosen)
    if not inputs:
        raise NotFoundError(f"none of the {len(tiles)} tiles reaches {chosen.centre_deg}; choose another --centre or --radius")
    if dry_run:
        return Coadded(out, tuple(inputs), None)
    progress(0, 1, f"coadding {len(inputs)} tiles")
    recorded_options = {"coadd": asdict(options), "chosen": asdict(chosen)}
    with outputs.making(out, "mosaic", list(inputs), recorded_options, force=force, within=True) as draft:
        coadded = coadd.coadd(list(inputs.values()), target, options)
        write.write_mosaic(coadded, draft.path)
        draft.figures = dict(coadded.figures)
    progress(1, 1, "")
    used = {tile.image_path.parent for tile in coadded.tiles}
    return Coadded(out, tuple(path for path in inputs if path in used), coadded)


def _tile(path: Path, header: Header) -> TileInput:
    missing = [key for key in ("RMS", "MJD-AVG") if key not in header]
    if missing:
        raise BadDataError(f"{path / 'image.fits'}: the header has no {missing[0]}, which a tile of dsa110 image has; image it again")
    return TileInput(path / "image.fits", path / "primary-beam.fits", float(header["RMS"]), str(path), float(header["MJD-AVG"]))


def _pixel_deg(header: Header) -> float:
    return float(WCS(header).celestial.proj_plane_pixel_scales()[0].to_value("deg"))


def _around_transit(inputs: dict[Path, TileInput], chosen: TileSelection) -> dict[Path, TileInput]:
    calibrator = calibrators.find(chosen.calibrator or "")
    away_min = {path: abs(transit_mjd(calibrator.ra_deg, calibrator.dec_deg, tile.mjd) - tile.mjd) * 1440 for path, tile in inputs.items()}
    near = {path: tile for path, tile in inputs.items() if away_min[path] <= chosen.timespan_min / 2}
    if inputs and not near:
        path = min(away_min, key=lambda tile: away_min[tile])
        raise NotFoundError(
            f"no tile within {chosen.timespan_min / 2:g} min of a transit of {calibrator.alias or calibrator.name}; the nearest, {path} of "
            f"{timegrid.mjd_to_datetime(inputs[path].mjd):%Y-%m-%dT%H:%M} UTC, is {away_min[path]:.1f} min from it (--timespan)"
        )
    return near
