"""`photometry`: fluxes of positions, catalogue sources or blind detections in images, and spectra over subband images."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from astropy.io.fits import Header
from astropy.table import Table
from numpy.typing import NDArray

from dsa110_assets.errors import BadDataError, ConfigurationError
from dsa110_assets.imaging.fits import read_image, read_plane
from dsa110_assets.imaging.statistics import robust_rms
from dsa110_assets.photometry.adaptive import join
from dsa110_assets.photometry.blind import find_in_scene
from dsa110_assets.photometry.forced import Scene, covered, measure_scene, prepare
from dsa110_assets.photometry.measure import frequency_hz
from dsa110_assets.photometry.options import PhotometryOptions
from dsa110_assets.sky import catalogues
from dsa110_assets.sky.names import position_name
from dsa110_assets.tools import data, outputs
from dsa110_assets.tools.outputs import Progress

WRITERS: dict[str, Callable[[pd.DataFrame, Path], Any]] = {
    ".csv": lambda table, path: table.to_csv(path, index=False),
    ".parquet": lambda table, path: table.to_parquet(path, index=False),
    ".vot": lambda table, path: _with_units(table).write(str(path), format="votable"),
}
COLUMNS = (
    "source_id", "ra_deg", "dec_deg", "image", "mjd", "frequency_hz", "kind", "flux_jy", "flux_err_jy", "peak_jy", "rms_jy", "snr",
    "detected", "limit_jy", "quality",
)  # fmt: skip
SPECTRUM_COLUMNS = (
    "source_id", "ra_deg", "dec_deg", "frequency_hz", "lowest_hz", "highest_hz", "n_channels", "flux_jy", "flux_err_jy", "snr", "reached",
)  # fmt: skip
_SAME_FREQUENCY = 1e-4
"""A relative frequency difference, less than a channel: images closer than this have the same frequency."""
_UNITS = {"deg": "deg", "hz": "Hz", "jy": "Jy", "arcsec": "arcsec", "mjd": "d"}


@dataclass(frozen=True)
class Sources:
    """The sources to measure: the `positions` of a table; or, without it, the sources of `catalogue` (files in addition to the packaged
    calibrators) that lie in each image; and, if `blind`, also blind detections. `skip_outside`: positions outside an image get no row."""

    positions: Path | None = None
    catalogue: tuple[Path, ...] | None = None
    blind: bool = False
    skip_outside: bool = False


@dataclass(frozen=True)
class Measured:
    """`path` of the table, and the table itself, with COLUMNS, or SPECTRUM_COLUMNS for adaptive spectra."""

    path: Path
    table: pd.DataFrame


@dataclass(frozen=True)
class _Image:
    path: Path
    scene: Scene
    header: Header


def photometry(
    images: Sequence[Path],
    out: Path,
    sources: Sources | None = None,
    options: PhotometryOptions | None = None,
    *,
    noise: Path | None = None,
    peak: bool = False,
    adaptive_snr: float | None = None,
    force: bool = False,
    dry_run: bool = False,
    progress: Progress = outputs.nothing,
) -> Measured:
    """Measure images and write a table (.csv, .parquet or .vot with units), a row for each source and image.

    An image is a FITS file, or a directory made by `image` (then corrected for the primary beam; for a cube, each of its subbands) or by
    `mosaic`. Its noise is the map `noise` (for a single image), the noise recorded in the directory, or the scatter of its pixels. Fluxes
    are forced fits of the beam, like the asset `source_measurements`; `peak`: the brightest pixel within half a beam instead.
    `adaptive_snr`: images are subbands of one field, and rows are spectra that join the fewest neighbouring images to reach this
    signal-to-noise ratio (`photometry.adaptive`). Raises BadDataError for an image without a beam and a position outside an image,
    ConfigurationError for an output that exists.
    """
    sources, options = sources or Sources(catalogue=()), options or PhotometryOptions()
    if out.suffix not in WRITERS:
        raise ConfigurationError(f"{out}: {out.suffix or 'no ending'} is no kind of table; write one of {', '.join(WRITERS)}")
    if noise is not None and len(images) != 1:
        raise ConfigurationError(f"{noise}: one noise map is for one image, and there are {len(images)}; measure them one by one")
    outputs.require_new(out, force)
    images = [part for path in images for part in sorted(path.glob("sb[0-9][0-9]")) or [path]]
    source_table = _source_table(sources)
    recorded_options = {"photometry": asdict(options), "sources": asdict(sources), "peak": peak, "adaptive_snr": adaptive_snr}
    rows = []
    for number, path in enumerate(images):
        progress(number, len(images), f"measuring {path.name}")
        rows.append(_rows(_load(path, noise, options), source_table, sources, options, peak))
    table = pd.concat(rows, ignore_index=True)[list(COLUMNS)]
    if adaptive_snr is not None:
        table = spectra(table, adaptive_snr)
    if not dry_run:
        with outputs.making(out, "photometry", list(images), recorded_options, force=force) as draft:
            WRITERS[out.suffix](table, draft.path)
            draft.figures = {"rows": len(table), "sources": int(table["source_id"].nunique())}
    progress(len(images), len(images), "")
    return Measured(out, table)


def spectra(table: pd.DataFrame, target_snr: float) -> pd.DataFrame:
    """Adaptive spectra from a table of COLUMNS whose images are channels: a row for each bin of each source."""
    out: list[dict[str, Any]] = []
    for source, rows in table.sort_values("frequency_hz").groupby("source_id", sort=False):
        frequency = rows["frequency_hz"].to_numpy(np.float64)
        if not np.isfinite(frequency).all() or np.any(np.diff(frequency) < _SAME_FREQUENCY * frequency[1:]):
            raise BadDataError(f"{rows['image'].iloc[0]}: a spectrum needs images of different, known frequencies; image with --cube")
        for joined in join(rows["flux_jy"].to_numpy(np.float64), rows["flux_err_jy"].to_numpy(np.float64), frequency, target_snr):
            out.append(
                {
                    "source_id": source, "ra_deg": rows["ra_deg"].iloc[0], "dec_deg": rows["dec_deg"].iloc[0],
                    "frequency_hz": joined.frequency_hz, "lowest_hz": frequency[joined.first], "highest_hz": frequency[joined.last],
                    "n_channels": joined.count, "flux_jy": joined.flux_jy, "flux_err_jy": joined.flux_err_jy, "snr": joined.snr,
                    "reached": joined.snr >= target_snr,
                }
            )  # fmt: skip
    return pd.DataFrame(out, columns=list(SPECTRUM_COLUMNS))


def _source_table(sources: Sources) -> pd.DataFrame | None:
    if sources.positions is not None:
        return catalogues.read_positions(sources.positions)
    return data.read_sources(sources.catalogue) if sources.catalogue is not None else None


def _load(path: Path, noise: Path | None, options: PhotometryOptions) -> _Image:
    """An image with its noise map. Raises BadDataError, naming the image, if it has no beam."""
    pixels, sigma, header = _planes(path, noise)
    try:
        return _Image(path, prepare(pixels, sigma, header, options), header)
    except BadDataError as error:
        raise BadDataError(f"{path}: {error}") from error


def _planes(path: Path, noise: Path | None) -> tuple[NDArray[np.float32], NDArray[np.float32], Header]:
    if (path / "mosaic.fits").is_file():
        image = read_image(path / "mosaic.fits")
        return image.data, read_plane(path / "noise.fits")[0], image.header
    if path.is_dir():
        image, beam = read_image(path / "image.fits"), read_plane(path / "primary-beam.fits")[0]
        response = np.where(beam >= float(image.header.get("PBLIMIT", 0.0)), beam, np.float32(np.nan))
        return image.data / response, (_rms(image.data, image.header) / response).astype(np.float32), image.header
    image = read_image(path)
    if noise is not None:
        return image.data, read_plane(noise)[0], image.header
    rms = np.float32(robust_rms(image.data[np.isfinite(image.data)]))
    return image.data, np.where(np.isfinite(image.data), rms, np.float32(np.nan)), image.header


def _rms(pixels: NDArray[np.float32], header: Header) -> float:
    return float(header["RMS"]) if "RMS" in header else robust_rms(pixels)


def _rows(image: _Image, source_table: pd.DataFrame | None, sources: Sources, options: PhotometryOptions, peak: bool) -> pd.DataFrame:
    parts = []
    requested = pd.DataFrame({"source_id": [], "ra_deg": [], "dec_deg": []})
    if source_table is not None:
        inside = covered(image.scene, source_table["ra_deg"].to_numpy(np.float64), source_table["dec_deg"].to_numpy(np.float64))
        if sources.positions is not None and not sources.skip_outside and not inside.all():
            outside = source_table[~inside].iloc[0]
            raise BadDataError(
                f"{sources.positions}: {outside['source_id']} at {outside['ra_deg']:.4f}, {outside['dec_deg']:.4f} deg is outside "
                f"{image.path}; take it out, or leave such positions out with --skip-outside"
            )
        requested = source_table[inside].reset_index(drop=True)
        parts.append(_forced(image, requested, options, peak).assign(kind="peak" if peak else "forced"))
    if sources.blind:
        detections = find_in_scene(image.scene, options)
        names = [position_name("DSA", ra, dec) for ra, dec in zip(detections["ra_deg"], detections["dec_deg"], strict=True)]
        detections = detections.assign(
            source_id=names, kind="blind", detected=detections["snr"] > options.detect_sigma, limit_jy=np.nan
        )  # fmt: skip
        parts.append(detections)
    rows = pd.concat([part for part in parts if len(part)] or [parts[0].reindex(columns=list(COLUMNS))], ignore_index=True)
    mjd = next((float(image.header[key]) for key in ("MJD-AVG", "MJD-OBS") if key in image.header), np.nan)
    return rows.assign(image=str(image.path), mjd=mjd, frequency_hz=frequency_hz(image.header)).reindex(columns=list(COLUMNS))


def _forced(image: _Image, requested: pd.DataFrame, options: PhotometryOptions, peak: bool) -> pd.DataFrame:
    rows = measure_scene(image.scene, requested, options)
    rows.insert(0, "source_id", requested["source_id"].to_numpy())
    if not peak:
        return rows
    flux = np.array([_brightest(image.scene, x, y) for x, y in zip(rows["x_pixel"], rows["y_pixel"], strict=True)])
    error = rows["rms_jy"].to_numpy(np.float64)
    detected = flux > options.detect_sigma * error
    return rows.assign(
        flux_jy=flux, peak_jy=flux, flux_err_jy=error, snr=flux / error, detected=detected,
        limit_jy=np.where(detected, np.nan, options.detect_sigma * error),
    )  # fmt: skip


def _brightest(scene: Scene, x: float, y: float) -> float:
    """The brightest finite pixel within half a minor axis of the beam; NaN if there is none."""
    scale = float(scene.geometry.wcs.proj_plane_pixel_scales()[1].to_value("deg"))
    reach = scene.geometry.bmin_deg / scale / 2
    top, left = max(int(np.floor(y - reach)), 0), max(int(np.floor(x - reach)), 0)
    part = scene.image[top : int(np.ceil(y + reach)) + 1, left : int(np.ceil(x + reach)) + 1]
    rows, columns = np.indices(part.shape)
    near = part[(np.hypot(rows + top - y, columns + left - x) <= reach) & np.isfinite(part)]
    return float(near.max()) if near.size else float("nan")


def _with_units(table: pd.DataFrame) -> Table:
    """The table with units, which follow from the suffixes of its column names."""
    out = Table.from_pandas(table)
    for name in out.colnames:
        unit = _UNITS.get(name.rpartition("_")[2])
        if unit is not None and out[name].dtype.kind == "f":
            out[name].unit = unit
    return out
