"""`photometry`: fluxes of positions, catalogue sources or whatever is found, in images; and spectra over subband images."""

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
_APART = 1e-4
"""Of a frequency: images closer than this, less than a channel, are of the same one."""
_UNITS = {"deg": "deg", "hz": "Hz", "jy": "Jy", "arcsec": "arcsec", "mjd": "d"}


@dataclass(frozen=True)
class Sources:
    """What is measured: the `positions` of a table; or, without, the sources of `catalogue` (files beside the packaged calibrators)
    that lie in each image; and, if `blind`, what else is found. `skip_outside`: positions outside an image have no row there."""

    positions: Path | None = None
    catalogue: tuple[Path, ...] | None = None
    blind: bool = False
    skip_outside: bool = False


@dataclass(frozen=True)
class Measured:
    """`path` of the table, and the table itself: COLUMNS, or SPECTRUM_COLUMNS of adaptive spectra."""

    path: Path
    table: pd.DataFrame


@dataclass(frozen=True)
class _Seen:
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

    An image is a FITS file, or a directory of `image` (then corrected for the primary beam; of a cube, its subbands), or of
    `mosaic`; its noise is the map `noise` (of one image), what the directory says, or the scatter of its pixels. Fluxes are
    forced fits of the beam, as the asset `source_measurements` has them; `peak`: the brightest pixel within half a beam instead.
    `adaptive_snr`: images are subbands of one field, and rows are spectra with the fewest neighbouring images joined that reach it
    (`photometry.adaptive`). Raises BadDataError for an image without a beam and a position outside an image, ConfigurationError
    for an output that exists.
    """
    sources, options = sources or Sources(catalogue=()), options or PhotometryOptions()
    if out.suffix not in WRITERS:
        raise ConfigurationError(f"{out}: {out.suffix or 'no ending'} is no kind of table; write one of {', '.join(WRITERS)}")
    if noise is not None and len(images) != 1:
        raise ConfigurationError(f"{noise}: one noise map is for one image, and there are {len(images)}; measure them one by one")
    outputs.require_new(out, force)
    images = [part for path in images for part in sorted(path.glob("sb[0-9][0-9]")) or [path]]
    wanted = _wanted(sources)
    told = {"photometry": asdict(options), "sources": asdict(sources), "peak": peak, "adaptive_snr": adaptive_snr}
    rows = []
    for number, path in enumerate(images):
        progress(number, len(images), f"measuring {path.name}")
        rows.append(_rows(_seen(path, noise, options), wanted, sources, options, peak))
    table = pd.concat(rows, ignore_index=True)[list(COLUMNS)]
    if adaptive_snr is not None:
        table = spectra(table, adaptive_snr)
    if not dry_run:
        with outputs.making(out, "photometry", list(images), told, force=force) as draft:
            WRITERS[out.suffix](table, draft.path)
            draft.figures = {"rows": len(table), "sources": int(table["source_id"].nunique())}
    progress(len(images), len(images), "")
    return Measured(out, table)


def spectra(table: pd.DataFrame, target_snr: float) -> pd.DataFrame:
    """Adaptive spectra of a table of COLUMNS whose images are channels: a row for each bin of each source."""
    out: list[dict[str, Any]] = []
    for source, rows in table.sort_values("frequency_hz").groupby("source_id", sort=False):
        frequency = rows["frequency_hz"].to_numpy(np.float64)
        if not np.isfinite(frequency).all() or np.any(np.diff(frequency) < _APART * frequency[1:]):
            raise BadDataError(f"{rows['image'].iloc[0]}: a spectrum needs images of different, known frequencies; image with --cube")
        for one in join(rows["flux_jy"].to_numpy(np.float64), rows["flux_err_jy"].to_numpy(np.float64), frequency, target_snr):
            out.append(
                {
                    "source_id": source, "ra_deg": rows["ra_deg"].iloc[0], "dec_deg": rows["dec_deg"].iloc[0],
                    "frequency_hz": one.frequency_hz, "lowest_hz": frequency[one.first], "highest_hz": frequency[one.last],
                    "n_channels": one.count, "flux_jy": one.flux_jy, "flux_err_jy": one.flux_err_jy, "snr": one.snr,
                    "reached": one.snr >= target_snr,
                }
            )  # fmt: skip
    return pd.DataFrame(out, columns=list(SPECTRUM_COLUMNS))


def _wanted(sources: Sources) -> pd.DataFrame | None:
    if sources.positions is not None:
        return catalogues.read_positions(sources.positions)
    return data.read_sources(sources.catalogue) if sources.catalogue is not None else None


def _seen(path: Path, noise: Path | None, options: PhotometryOptions) -> _Seen:
    """An image with its noise map. Raises BadDataError, naming it, for one without a beam."""
    pixels, sigma, header = _planes(path, noise)
    try:
        return _Seen(path, prepare(pixels, sigma, header, options), header)
    except BadDataError as error:
        raise BadDataError(f"{path}: {error}") from error


def _planes(path: Path, noise: Path | None) -> tuple[NDArray[np.float32], NDArray[np.float32], Header]:
    if (path / "mosaic.fits").is_file():
        found = read_image(path / "mosaic.fits")
        return found.data, read_plane(path / "noise.fits")[0], found.header
    if path.is_dir():
        found, beam = read_image(path / "image.fits"), read_plane(path / "primary-beam.fits")[0]
        response = np.where(beam >= float(found.header.get("PBLIMIT", 0.0)), beam, np.float32(np.nan))
        return found.data / response, (_rms(found.data, found.header) / response).astype(np.float32), found.header
    found = read_image(path)
    if noise is not None:
        return found.data, read_plane(noise)[0], found.header
    rms = np.float32(robust_rms(found.data[np.isfinite(found.data)]))
    return found.data, np.where(np.isfinite(found.data), rms, np.float32(np.nan)), found.header


def _rms(pixels: NDArray[np.float32], header: Header) -> float:
    return float(header["RMS"]) if "RMS" in header else robust_rms(pixels)


def _rows(seen: _Seen, wanted: pd.DataFrame | None, sources: Sources, options: PhotometryOptions, peak: bool) -> pd.DataFrame:
    parts = []
    known = pd.DataFrame({"source_id": [], "ra_deg": [], "dec_deg": []})
    if wanted is not None:
        inside = covered(seen.scene, wanted["ra_deg"].to_numpy(np.float64), wanted["dec_deg"].to_numpy(np.float64))
        if sources.positions is not None and not sources.skip_outside and not inside.all():
            lost = wanted[~inside].iloc[0]
            raise BadDataError(
                f"{sources.positions}: {lost['source_id']} at {lost['ra_deg']:.4f}, {lost['dec_deg']:.4f} deg is outside {seen.path}; "
                "take it out, or leave such positions out with --skip-outside"
            )
        known = wanted[inside].reset_index(drop=True)
        parts.append(_forced(seen, known, options, peak).assign(kind="peak" if peak else "forced"))
    if sources.blind:
        found = find_in_scene(seen.scene, options)
        names = [position_name("DSA", ra, dec) for ra, dec in zip(found["ra_deg"], found["dec_deg"], strict=True)]
        found = found.assign(
            source_id=names, kind="blind", detected=found["snr"] > options.detect_sigma, limit_jy=np.nan
        )  # fmt: skip
        parts.append(found)
    rows = pd.concat([part for part in parts if len(part)] or [parts[0].reindex(columns=list(COLUMNS))], ignore_index=True)
    mjd = next((float(seen.header[key]) for key in ("MJD-AVG", "MJD-OBS") if key in seen.header), np.nan)
    return rows.assign(image=str(seen.path), mjd=mjd, frequency_hz=frequency_hz(seen.header)).reindex(columns=list(COLUMNS))


def _forced(seen: _Seen, known: pd.DataFrame, options: PhotometryOptions, peak: bool) -> pd.DataFrame:
    rows = measure_scene(seen.scene, known, options)
    rows.insert(0, "source_id", known["source_id"].to_numpy())
    if not peak:
        return rows
    flux = np.array([_brightest(seen.scene, x, y) for x, y in zip(rows["x_pixel"], rows["y_pixel"], strict=True)])
    error = rows["rms_jy"].to_numpy(np.float64)
    detected = flux > options.detect_sigma * error
    return rows.assign(
        flux_jy=flux, peak_jy=flux, flux_err_jy=error, snr=flux / error, detected=detected,
        limit_jy=np.where(detected, np.nan, options.detect_sigma * error),
    )  # fmt: skip


def _brightest(scene: Scene, x: float, y: float) -> float:
    """The brightest pixel within half a minor axis of the beam; NaN without any."""
    scale = float(scene.geometry.wcs.proj_plane_pixel_scales()[1].to_value("deg"))
    reach = scene.geometry.bmin_deg / scale / 2
    top, left = max(int(np.floor(y - reach)), 0), max(int(np.floor(x - reach)), 0)
    part = scene.image[top : int(np.ceil(y + reach)) + 1, left : int(np.ceil(x + reach)) + 1]
    rows, columns = np.indices(part.shape)
    near = part[(np.hypot(rows + top - y, columns + left - x) <= reach) & np.isfinite(part)]
    return float(near.max()) if near.size else float("nan")


def _with_units(table: pd.DataFrame) -> Table:
    """The table with units by the ends of its columns' names."""
    out = Table.from_pandas(table)
    for name in out.colnames:
        unit = _UNITS.get(name.rpartition("_")[2])
        if unit is not None and out[name].dtype.kind == "f":
            out[name].unit = unit
    return out
