"""Measurement of one mosaic: forced fluxes at known positions, association of blind detections, names for new sources."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
from astropy.io import fits
from astropy.wcs import WCS
from numpy.typing import NDArray

from dsa110_assets.errors import BadDataError
from dsa110_assets.imaging.fits import read_plane
from dsa110_assets.photometry.association import associate, name_new, offsets_arcsec
from dsa110_assets.photometry.blind import SIZE_COLUMNS, find_in_scene
from dsa110_assets.photometry.forced import OFFSETS, SIZE, covered, measure_scene, prepare, set_fluxes
from dsa110_assets.photometry.options import PhotometryOptions
from dsa110_assets.photometry.quality import Quality

DEFAULT_SPECTRAL_INDEX = -0.7
_CENTRE_SHARE = 0.1
"""Of its FWHM: the possible separation of a resolved source's centres in surveys with different beams."""
FIT_COLUMNS = ("integrated_jy", "integrated_err_jy", "major_arcsec", "minor_arcsec", "pa_deg")
MEASUREMENT_COLUMNS = (
    "source_id",
    "ra_deg",
    "dec_deg",
    "epoch",
    "mjd",
    "frequency_hz",
    "kind",
    "flux_jy",
    "flux_err_jy",
    "rms_jy",
    "snr",
    "detected",
    "limit_jy",
    "peak_jy",
    *FIT_COLUMNS,
    *SIZE_COLUMNS,
    "extent_sigma",
    "ra_err_arcsec",
    "dec_err_arcsec",
    "quality",
    "n_tiles",
    "catalogue_flux_jy",
    "mosaic_id",
    "ra_offset_arcsec",
    "dec_offset_arcsec",
)


def frequency_hz(header: fits.Header) -> float:
    """Frequency [Hz] of an image: its FREQ axis, else RESTFRQ or FREQ; NaN if it names none."""
    for axis in range(1, int(header.get("NAXIS", 0)) + 3):
        if str(header.get(f"CTYPE{axis}", "")).startswith("FREQ"):
            return float(header[f"CRVAL{axis}"])
    for key in ("RESTFRQ", "RESTFREQ", "FREQ"):
        if header.get(key):
            return float(header[key])
    return float(WCS(header).wcs.restfrq) or np.nan


def catalogue_flux_jy(known: pd.DataFrame, at_hz: float) -> NDArray[np.float64]:
    """Return catalogue fluxes [Jy] scaled to `at_hz` with each spectral index (-0.7 if unknown); NaN if unknown."""
    if "flux_jy" not in known:
        return np.full(len(known), np.nan)
    flux = np.asarray(known["flux_jy"], np.float64)
    if "frequency_hz" not in known or not np.isfinite(at_hz):
        return flux
    index = np.asarray(known["spectral_index"], np.float64) if "spectral_index" in known else np.full(len(known), np.nan)
    ratio = at_hz / np.asarray(known["frequency_hz"], np.float64)
    scale = ratio ** np.where(np.isfinite(index), index, DEFAULT_SPECTRAL_INDEX)
    return np.asarray(flux * np.where(np.isfinite(scale), scale, 1.0))


def _placed(known: pd.DataFrame, blind: pd.DataFrame, match: NDArray[np.int64], options: PhotometryOptions) -> pd.DataFrame:
    """Return the positions and sizes to measure with: known sources, then new ones, with SIZE_COLUMNS, OFFSETS and `shape_err_jy`.

    A known size is kept, so that a light curve is measured with one size. A known source without a size gets that of this hour
    if it is certainly resolved and no other known source is within it; a new source gets a size if it is likely resolved. In
    both cases `shape_err_jy` is the error of the flux with the fitted shape.
    """
    names = ["ra_deg", "dec_deg", *SIZE_COLUMNS, *OFFSETS]
    out = known.reindex(columns=[*names, "shape_err_jy"]).astype(np.float64)
    resolved = (blind["quality"].to_numpy(np.int64) & int(Quality.RESOLVED)) > 0
    certain = resolved & (match >= 0) & (blind["extent_sigma"].to_numpy(np.float64) > options.known_resolved_sigma)
    sized = np.flatnonzero(certain & ~(out[SIZE].to_numpy()[match] > 0)) if len(out) else np.empty(0, np.int64)
    sized = np.array([k for k in sized if not _has_neighbour(out, int(match[k]), float(blind["major_arcsec"].iloc[k]))], np.int64)
    known_rows, blind_rows = out.iloc[match[sized]], blind.iloc[sized]
    columns = [out.columns.get_loc(name) for name in (*SIZE_COLUMNS, *OFFSETS, "shape_err_jy")]
    places = (frame[name].to_numpy(np.float64) for frame in (known_rows, blind_rows) for name in ("ra_deg", "dec_deg"))
    out.iloc[match[sized], columns] = np.column_stack([blind_rows[list(SIZE_COLUMNS)], *offsets_arcsec(*places), blind_rows["flux_err_jy"]])
    unmatched = blind[match < 0]
    new = unmatched.reindex(columns=[*names, "shape_err_jy"])
    new["shape_err_jy"] = unmatched["flux_err_jy"].where(resolved[match < 0])
    return pd.concat([part for part in (out, new) if len(part)] or [out], ignore_index=True)


def _has_neighbour(known: pd.DataFrame, index: int, fwhm_arcsec: float) -> bool:
    """Return whether another known source lies within the fitted width of one: together they are not a resolved source."""
    ra, dec = known["ra_deg"].to_numpy(), known["dec_deg"].to_numpy()
    north = 3600 * (dec - dec[index])
    east = 3600 * ((ra - ra[index] + 180) % 360 - 180) * np.cos(np.deg2rad(dec[index]))
    near = np.hypot(east, north) < fwhm_arcsec
    near[index] = False
    return bool(near.any())


def _assemble(
    forced: pd.DataFrame,
    blind: pd.DataFrame,
    known: pd.DataFrame,
    match: NDArray[np.int64],
    options: PhotometryOptions,
) -> pd.DataFrame:
    """Return forced rows (known positions, then new ones) with the columns of the blind fits."""
    row_of = match.copy()
    row_of[match < 0] = len(known) + np.arange(int((match < 0).sum()))
    out = forced.drop(columns=["x_pixel", "y_pixel"]).reset_index(drop=True)
    for name in (*FIT_COLUMNS, "extent_sigma"):
        out[name] = np.nan
        out.loc[row_of, name] = blind[name].to_numpy()
    for name in ("ra_err_arcsec", "dec_err_arcsec"):
        out[name] = np.nan
        out.loc[row_of, name] = np.hypot(blind[name].to_numpy(), options.systematic_arcsec)
    matched_rows = out.loc[row_of]
    east, north = offsets_arcsec(
        matched_rows["ra_deg"].to_numpy(),
        matched_rows["dec_deg"].to_numpy(),
        blind["ra_deg"].to_numpy(),
        blind["dec_deg"].to_numpy(),
    )
    out["ra_offset_arcsec"], out["dec_offset_arcsec"] = np.nan, np.nan
    out.loc[row_of, "ra_offset_arcsec"], out.loc[row_of, "dec_offset_arcsec"] = east, north
    shape_bits = int(Quality.EXTENDED | Quality.BAD_FIT | Quality.PEAK_ONLY)
    quality = out["quality"].to_numpy().copy()
    quality[row_of] |= blind["quality"].to_numpy() & shape_bits
    out["quality"] = quality
    return out


def _matched(blind: pd.DataFrame, known: pd.DataFrame, beam_arcsec: float, options: PhotometryOptions) -> NDArray[np.int64]:
    """Match blind detections with `associate` and the options' limits; the centre of a resolved source is uncertain by a tenth of
    its size."""
    size = np.nan_to_num(np.where(blind["quality"] & int(Quality.RESOLVED), blind["major_arcsec"], 0.0))
    errors = {name: np.hypot(blind[name], _CENTRE_SHARE * size) for name in ("ra_err_arcsec", "dec_err_arcsec")}
    return associate(
        blind.assign(**errors),
        known,
        de_ruiter=options.de_ruiter,
        systematic_arcsec=options.systematic_arcsec,
        max_separation_arcsec=np.maximum(options.max_separation_beams * beam_arcsec, size / 2),
    )


def measure_mosaic(
    mosaic_path: Path,
    noise_path: Path,
    catalogue: pd.DataFrame,
    options: PhotometryOptions,
    epoch: str,
    mjd: float,
    product_id: str,
) -> pd.DataFrame:
    """Return MEASUREMENT_COLUMNS of every known source inside a mosaic's coverage, detected or not, and of every new one.

    `catalogue` holds source_id, ra_deg, dec_deg of catalogued sources and of earlier discoveries (optional flux_jy,
    frequency_hz, spectral_index, ra/dec_err_arcsec, and SIZE_COLUMNS with OFFSETS from an earlier hour): passing the
    discoveries keeps their names stable, passing the sizes keeps the shape they are measured with. Known sources are kind
    'forced' at the catalogue position; their *_offset_arcsec give the position of a blind fit, if any, relative to it. Blind
    detections that match no known source are kind 'blind' with a new 'DSA_J' name, measured together with the known ones.

    flux_jy is a point's flux, or with the RESOLVED bit the integrated flux of an ellipse. Its size is the known one, or else
    the one fitted in this hour (`known_resolved_sigma` for known sources, `resolved_sigma` for new ones), and the error then
    includes that of the shape. deconvolved_*_arcsec, _deg are its size (NaN: a point); peak_jy is the flux as a point
    [Jy/beam], which is measured in the same way in every hour; extent_sigma is the significance of the extent in this hour;
    integrated_jy and the other fit columns are those of the blind free fit. Non-detections are rows with limit_jy; sources on
    missing pixels are rows with NaN and the NAN bit. n_tiles is the header's NTILES, 0 if it has none. Raises NotFoundError
    without a file, BadDataError for unreadable or unequal images and those without any data.
    """
    image, header = read_plane(mosaic_path)
    noise, _ = read_plane(noise_path)
    if not (noise > 0).any() or not image.any():
        raise BadDataError(f"{mosaic_path}: all pixels are 0, or {noise_path.name} has no positive noise; make the mosaic again")
    scene = prepare(image, noise, header, options)
    known = catalogue.drop_duplicates("source_id").reset_index(drop=True)
    inside = covered(scene, known["ra_deg"].to_numpy(np.float64), known["dec_deg"].to_numpy(np.float64))
    known = known[inside].reset_index(drop=True)
    blind = find_in_scene(scene, options)
    match = _matched(blind, known, scene.geometry.bmin_deg * 3600, options)
    new, places = blind[match < 0], _placed(known, blind, match, options)
    forced = measure_scene(scene, places, options)
    flux, error = forced["flux_jy"].to_numpy(), forced["flux_err_jy"].to_numpy()
    fitted = places["shape_err_jy"].where(np.isfinite(flux), np.nan).to_numpy(np.float64)
    set_fluxes(forced, flux, np.fmax(error, fitted), options)
    forced[list(SIZE_COLUMNS)] = places[list(SIZE_COLUMNS)]
    out = _assemble(forced, blind, known, match, options)
    names = name_new(new["ra_deg"].to_numpy(), new["dec_deg"].to_numpy(), set(catalogue["source_id"].astype(str)))
    out["source_id"] = [*known["source_id"].astype(str), *names]
    out["kind"] = ["forced"] * len(known) + ["blind"] * len(new)
    out["epoch"], out["mjd"], out["mosaic_id"] = epoch, float(mjd), product_id
    out["frequency_hz"] = frequency_hz(header)
    out["n_tiles"] = int(header.get("NTILES", 0))
    out["catalogue_flux_jy"] = np.r_[catalogue_flux_jy(known, frequency_hz(header)), np.full(len(new), np.nan)]
    return out[list(MEASUREMENT_COLUMNS)]
