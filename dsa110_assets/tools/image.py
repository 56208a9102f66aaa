"""`image`: a calibrated measurement set to an image, with all intermediate products."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from astropy.io import fits as astropy_fits
from astropy.io.fits import Header
from astropy.wcs import WCS

from dsa110_assets.errors import BadDataError, ConfigurationError
from dsa110_assets.imaging import fits, spectra, tile
from dsa110_assets.imaging.options import ImagingOptions
from dsa110_assets.imaging.restoring import Beam, set_beam
from dsa110_assets.imaging.tile import Mask, TileImage
from dsa110_assets.mosaics.beams import common_beam, to_beam
from dsa110_assets.sky import model as sky_model
from dsa110_assets.sky.model import SkyModel
from dsa110_assets.telescope import astrometry, band
from dsa110_assets.tools import data, outputs, terms
from dsa110_assets.tools.data import Part
from dsa110_assets.tools.outputs import Progress
from dsa110_assets.visibilities import measurement_set
from dsa110_assets.visibilities.types import Visibilities

Engine = Literal["own", "casa"]
CUBE = "cube.fits"
MASKS = ("auto", "none", "catalogue")
QUICK: dict[str, Any] = {
    "deconvolver": "quick", "smearing": 0.1, "pixels_per_beam": 3.0, "epsilon": 1e-3, "clean_iterations": 3000,
    "max_major_cycles": 3, "auto_threshold_sigma": 3.0,
}  # fmt: skip
"""The options of a quick look, which goes without: residuals from the visibilities of all but the brightest, narrow cells, fine pixels,
polarisation."""
_UNMASKED_SIGMA = 3.0
"""Without an automatic mask CLEAN goes no deeper than this many times the rms: at 1 it took noise for components, and fluxes fell 2 %."""
_MASK_BEAMS = 1.5
"""The default radius of a catalogue mask, in major axes of the beam."""


@dataclass(frozen=True)
class Imaged:
    """`path`: the directory made, for a cube that of all subbands; `tiles`: the images by subband, or a single one under -1."""

    path: Path
    tiles: dict[int, TileImage]

    @property
    def tile(self) -> TileImage:
        """The single image. Raises KeyError for a cube."""
        return self.tiles[-1]


def quick(options: ImagingOptions) -> ImagingOptions:
    """The options of a quick look, which takes under 10 s for the whole array on two cores.

    Fluxes of sources above 30 times the noise are good to 5 %, positions to a tenth of the beam; the residual has up to 1.5 times
    the noise of a full image (a test compares with the truth; the documentation covers the whole array).
    """
    return replace(options, **QUICK)


def image(
    ms: Path,
    out: Path,
    options: ImagingOptions | None = None,
    part: Part | None = None,
    *,
    mask: str | Path = "auto",
    mask_radius_arcsec: float = 0.0,
    catalogues: Sequence[Path] | None = (),
    engine: Engine = "own",
    cube: bool = False,
    spectral_terms: int = 1,
    force: bool = False,
    dry_run: bool = False,
    progress: Progress = outputs.nothing,
) -> Imaged:
    """Make the directory `out` with image.fits, image-pb.fits (corrected for the primary beam), residual.fits, model.fits, psf.fits,
    primary-beam.fits, preview.png, and points.csv (bright points with spectral indices), like the asset `tile_image`.

    `mask`: "auto", "none", "catalogue" (circles of `mask_radius_arcsec`, 0: 1.5 beams, around catalogue sources), or a FITS image
    on any grid that is not 0 where sources are; with all but "auto", CLEAN stops at 3 times the rms or above. `catalogues` add to the
    packaged calibrators: bright sources beyond the image are subtracted, and fluxes compared; with None, neither is done. `cube`: every
    subband separately on one grid, in out/sb03 and so on, and all at one beam in cube.fits. `spectral_terms` 2: also image.tt0.fits,
    image.tt1.fits, alpha.fits and alpha-error.fits, from four parts of the band (`terms`). Raises BadDataError for a raw set or an
    empty part, ConfigurationError for an output that exists.
    """
    options, part = options or ImagingOptions(), part or Part()
    outputs.require_new(out, force)
    if engine == "casa" and mask not in MASKS[:2]:
        raise ConfigurationError(f"--mask {mask}: masks are not supported with CASA's imager; leave it out, or take --engine own")
    vis = data.read_calibrated(ms, part)
    if mask != "auto":
        options = replace(options, auto_mask_sigma=0.0, auto_threshold_sigma=max(options.auto_threshold_sigma, _UNMASKED_SIGMA))
    sky = sky_model.from_frame(data.read_sources(catalogues)) if catalogues is not None else None
    masking = _masking(mask, mask_radius_arcsec, sky)
    if part.stokes != "I" or options.deconvolver == "quick":
        sky = None
    quarters = _parts_of_band(ms, vis, part) if spectral_terms > 1 else ()
    if quarters and cube:
        raise ConfigurationError("--cube makes one image for each subband, and --spectral-terms 2 fits parts of the band; choose one")
    parts = {number: replace(part, subbands=(number, number)) for number in data.subbands_in(vis)} if cube else {-1: part}
    recorded_options: dict[str, Any] = {
        "imaging": asdict(options),
        "part": asdict(part),
        "mask": str(mask),
        "catalogues": catalogues,
        "engine": engine,
    }
    recorded_options |= {"spectral_terms": spectral_terms}
    if dry_run:
        return Imaged(out, {})
    tiles: dict[int, TileImage] = {}
    with outputs.making(out, "image", [ms, *(catalogues or ())], recorded_options, force=force, within=True) as draft:
        for done, (number, subset) in enumerate(parts.items()):
            progress(done, len(parts), f"imaging {ms.name}" + (f", sb{number:02d}" if cube else ""))
            subset_vis = data.read_calibrated(ms, subset) if cube else vis
            tile_image = _made(ms, subset_vis, subset, options, sky, masking, engine, draft.path)
            tile_image.header["STOKES"] = part.stokes
            tiles[number] = tile_image
            options = _on_grid_of(tile_image, options) if cube else options
            _write(tile_image, draft.path / f"sb{number:02d}" if cube else draft.path)
            if not cube:
                draft.figures = dict(tile_image.figures)
        if quarters:
            same_grid, split = _on_grid_of(tiles[-1], options), []
            for done, subset in enumerate(quarters):
                progress(done, len(quarters), f"imaging {ms.name}, subbands {subset.subbands}")
                split.append(_made(ms, data.read_calibrated(ms, subset), subset, same_grid, sky, masking, engine, draft.path))
            terms.write(terms.taylor_terms(split), draft.path)
        if cube:
            draft.figures = {f"sb{number:02d}": dict(tile_image.figures) for number, tile_image in tiles.items()}
            _write_cube(tiles, draft.path / CUBE)
        progress(len(parts), len(parts), "")
    return Imaged(out, tiles)


def _made(
    ms: Path, vis: Visibilities, part: Part, options: ImagingOptions, sky: SkyModel | None,
    masking: Callable[[Header, Beam], Mask] | None, engine: Engine, work: Path,
) -> TileImage:  # fmt: skip
    if engine == "own":
        return tile.make_tile(vis, options, sky, masking)
    from dsa110_assets.engines import casa_imaging

    with tempfile.TemporaryDirectory(prefix=".casa-", dir=work) as scratch:
        if not part.whole:
            ms = Path(scratch) / "part.ms"
            measurement_set.write(vis, ms, unit="Jy")
        return casa_imaging.make_tile(ms, options, sky, work_dir=Path(scratch))


def _parts_of_band(ms: Path, vis: Visibilities, part: Part) -> list[Part]:
    """Parts of the band, as equal in width as the subbands allow. Raises BadDataError if the data have fewer than two subbands."""
    groups = [group for group in np.array_split(data.subbands_in(vis), terms.PARTS) if group.size]
    if len(groups) < 2:
        raise BadDataError(f"{ms}: a spectral index needs two subbands, there is {len(groups)}; leave --spectral-terms out")
    return [replace(part, subbands=(int(group[0]), int(group[-1]))) for group in groups]


def _on_grid_of(made: TileImage, options: ImagingOptions) -> ImagingOptions:
    """Options that give images the same pixels as `made`. The field is a little smaller, so that rounding adds no pixel."""
    pixel_deg = float(made.header["CDELT2"])
    return replace(options, pixel_arcsec=3600 * pixel_deg, field_deg=made.image.shape[0] * pixel_deg * (1 - 1e-9))


def _write(made: TileImage, directory: Path) -> None:
    directory.mkdir(exist_ok=True)
    fits.write_tile(made, directory)
    spectra.point_table(made).to_csv(directory / "points.csv", index=False)


def _masking(mask: str | Path, radius_arcsec: float, sky: SkyModel | None) -> Callable[[Header, Beam], Mask] | None:
    """A function that makes the mask once the image's grid and beam are known; None if CLEAN makes its own or needs none."""
    if mask in MASKS[:2]:
        return None
    if mask == "catalogue":
        if sky is None:
            raise ConfigurationError("--mask catalogue needs a catalogue; leave --no-catalogue out")
        return lambda header, beam: catalogue_mask(header, sky, radius_arcsec or _MASK_BEAMS * 3600 * beam.bmaj_deg)
    values, mask_header = fits.read_plane(Path(mask))
    if not np.any(np.nan_to_num(values)):
        raise BadDataError(f"{mask}: the mask is 0 everywhere; nothing would be cleaned")
    return lambda header, _: _regridded(values != 0, mask_header, header)


def catalogue_mask(header: Header, sky: SkyModel, radius_arcsec: float) -> Mask:
    """The mask (ny, nx), True within `radius_arcsec` of a source. `header` is that of a tile, which is square about its phase centre."""
    side = 2 * (round(float(header["CRPIX1"])) - 1)
    pixel_deg = float(header["CDELT2"])
    centre = np.deg2rad([float(header["CRVAL1"]), float(header["CRVAL2"])])
    near = sky.select(astrometry.separation_deg(sky.ra_rad, sky.dec_rad, *centre) < side * pixel_deg)
    x, y = WCS(header).celestial.wcs_world2pix(np.rad2deg(near.ra_rad), np.rad2deg(near.dec_rad), 0)
    reach = radius_arcsec / 3600 / pixel_deg
    mask = np.zeros((side, side), dtype=np.bool_)
    for column, row in zip(x, y, strict=True):
        top, left = max(int(row - reach), 0), max(int(column - reach), 0)
        part = np.s_[top : max(int(row + reach) + 2, 0), left : max(int(column + reach) + 2, 0)]
        rows, columns = np.indices(mask[part].shape)
        mask[part] |= np.hypot(rows + top - row, columns + left - column) <= reach
    return mask


def _regridded(mask: Mask, mask_header: Header, header: Header) -> Mask:
    """The mask on the image's grid, by the nearest pixel; False beyond the mask's edge."""
    side = 2 * (round(float(header["CRPIX1"])) - 1)
    columns, rows = np.meshgrid(np.arange(side), np.arange(side))
    x, y = WCS(mask_header).celestial.wcs_world2pix(*WCS(header).celestial.wcs_pix2world(columns, rows, 0), 0)
    inside = (x > -0.5) & (y > -0.5) & (x < mask.shape[1] - 0.5) & (y < mask.shape[0] - 0.5)
    out = np.zeros((side, side), dtype=np.bool_)
    out[inside] = mask[np.rint(y[inside]).astype(int), np.rint(x[inside]).astype(int)]
    return out


def _write_cube(tiles: dict[int, TileImage], path: Path) -> None:
    """Write all subbands at one common beam, frequency ascending; a missing subband is NaN."""
    beam = common_beam([subband_tile.beam for subband_tile in tiles.values()])
    numbers = range(max(tiles), min(tiles) - 1, -1)
    first = next(iter(tiles.values()))
    cube = np.full((len(numbers), *first.image.shape), np.nan, np.float32)
    for place, number in enumerate(numbers):
        if number in tiles:
            subband_tile = tiles[number]
            cube[place] = to_beam(subband_tile.image, subband_tile.beam, beam, float(subband_tile.header["CDELT2"]), 1)
    header = first.header.copy()
    set_beam(header, beam)
    lowest, step = _frequency_axis(tiles)
    for key, value in (("CTYPE3", "FREQ"), ("CRVAL3", lowest), ("CDELT3", step), ("CRPIX3", 1.0), ("CUNIT3", "Hz")):
        header[key] = value
    header["IMTYPE"] = "restored by subband, not corrected for the primary beam"
    astropy_fits.PrimaryHDU(cube, header).writeto(path, checksum=True)


def _frequency_axis(tiles: dict[int, TileImage]) -> tuple[float, float]:
    """(frequency of the lowest subband's middle, step between middles) [Hz]."""
    middle = float(np.mean(band.subband_frequencies_hz(max(tiles))))
    return middle, band.SUBBAND_WIDTH_HZ
