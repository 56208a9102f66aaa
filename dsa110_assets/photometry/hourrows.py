"""An hour's measurements as rows of a table: the columns added to each row's flux."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from dsa110_assets.imaging import fits
from dsa110_assets.mosaics import shares
from dsa110_assets.mosaics.coadd import TileInput
from dsa110_assets.photometry import blind
from dsa110_assets.photometry.indices import source_indices
from dsa110_assets.photometry.options import PhotometryOptions
from dsa110_assets.photometry.quality import Quality

FILE = "source_measurements.parquet"
TILES = "tiles.parquet"
"""An hour's tiles with their suspicions; bit k of a measurement's `tiles` is its row k."""
LEAST_SHARE = 0.01
"""A tile with less of a position's weight is not listed there."""
SUSPECT_SHARE = 0.1
"""A suspect tile that was published is wrong by some 10 % at most: with a tenth of the weight this is 1 %."""
MOST_CHANCE_DETECTIONS = 1
"""Noise alone gives one negative detection at 5 sigma in ten hours (3e-7 of some 3e5 beams), two in 200."""
ARTEFACT_MARGIN = 1.5
"""New sources brighter than the brightest negative by this factor are not artefacts of its kind."""


def with_tiles(rows: pd.DataFrame, inputs: Sequence[TileInput], table: pd.DataFrame, pb_cutoff: float) -> pd.DataFrame:
    """Return the rows with `tiles`, whose bit k is set if row k of `table` was used, and TILE_SUSPECT where suspect tiles have a
    tenth of the weight.

    The share of a tile whose files are gone is not known: if it is suspect, every row is.
    """
    ra, dec = (rows[name].to_numpy(float) for name in ("ra_deg", "dec_deg"))
    share = shares.tile_shares(inputs, ra, dec, pb_cutoff)
    suspect = (table["suspicion"] != "").to_numpy()
    doubtful = ~(np.where(np.isnan(share), 1.0, share)[suspect].sum(axis=0) <= SUSPECT_SHARE)
    bits = (1 << np.arange(len(inputs), dtype=np.int64))[:, None]
    quality = rows["quality"].to_numpy(np.int64) | np.where(doubtful, int(Quality.TILE_SUSPECT), 0)
    return rows.assign(tiles=np.where(share >= LEAST_SHARE, bits, 0).sum(axis=0), quality=quality)


def with_spectra(rows: pd.DataFrame, points: Iterable[Path], mosaic: Path) -> pd.DataFrame:
    """Return the rows with spectral_index and spectral_index_err, from the bright points of the mosaic's tiles (tables of
    `imaging.spectra`) within half its beam; NaN where no point has an index. Missing tables are skipped."""
    _, beam = fits.read_header(mosaic)
    tables = (pd.read_parquet(path) for path in points if path.exists())
    ra, dec = (rows[name].to_numpy(float) for name in ("ra_deg", "dec_deg"))
    index, error = source_indices(tables, ra, dec, beam.bmin_deg / 2)
    return rows.assign(spectral_index=index, spectral_index_err=error)


def with_doubts(rows: pd.DataFrame, negative_snr: NDArray[np.float64], most_false: float) -> pd.DataFrame:
    """Return the rows with DOUBTFUL_NEW where new sources are no brighter than the detections on the hour's negative image, if
    those are more than chance explains.

    As many false detections are expected among the new sources, and more than the share `most_false` of the new ones is too
    many.
    """
    new, n_false = (rows["kind"] == "blind").to_numpy(), negative_snr.size
    high = n_false > MOST_CHANCE_DETECTIONS and n_false > most_false * int(new.sum())
    like_them = rows["snr"].to_numpy(float) <= ARTEFACT_MARGIN * negative_snr.max(initial=0.0)
    return rows.assign(quality=rows["quality"].to_numpy(np.int64) | np.where(high & new & like_them, int(Quality.DOUBTFUL_NEW), 0))


def negative_detections(mosaic: Path, noise: Path, options: PhotometryOptions) -> NDArray[np.float64]:
    """Return signal-to-noise (n,) of the sources found on the mosaic's negative, where there are none: each is a false detection."""
    image, header = fits.read_plane(mosaic)
    sigma, _ = fits.read_plane(noise)
    return np.asarray(blind.find_sources(-image, sigma, header, options)["snr"], np.float64)
