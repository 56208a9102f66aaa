"""Flux that sources lose in CLEAN because of their neighbours' sidelobes."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from dsa110_assets.imaging.options import ImagingOptions
from dsa110_assets.imaging.tile import make_tile
from dsa110_assets.photometry.forced import measure_forced
from dsa110_assets.photometry.options import PhotometryOptions
from dsa110_assets_tests.imaging import synthetic


def test_sources_in_a_crowd_keep_their_fluxes() -> None:
    """25 sources of 8 to 60 mJy in a narrow band, where sidelobes are high. Their mean flux is right to the 1 % that averaging
    may lose (half of `smearing`), and so is each flux. CLEAN that stops as early as it may leaves 3 % of them in sidelobes."""
    rng = np.random.default_rng(1)
    cells = (np.stack(np.mgrid[-2:3, -2:3], axis=-1).reshape(-1, 2) + rng.uniform(-0.3, 0.3, (25, 2))) * 0.3
    flux = 1e-3 * 10 ** rng.uniform(np.log10(8), np.log10(60), 25)
    sources = [(east, north, jy) for (east, north), jy in zip(cells, flux, strict=True)]
    options = ImagingOptions(field_deg=1.8, spectral_index=0.0, drift_terms=0, threads=1)
    vis = synthetic.observe(sources, n_times=8, n_subbands=4, n_channels=8, noise_jy=1e-3, autos=False)
    tile = make_tile(vis, options)
    at = np.rad2deg([synthetic.position_rad(vis.phase_centres_rad[0], east, north) for east, north in cells])
    noise = np.full(tile.image.shape, tile.rms_jy, np.float32)
    measured = measure_forced(tile.image, noise, tile.header, pd.DataFrame(at, columns=["ra_deg", "dec_deg"]), PhotometryOptions())
    ratio = measured["flux_jy"].to_numpy() / flux
    assert ratio.mean() == pytest.approx(1.0, abs=options.smearing / 2)
    assert ratio.std() < options.smearing / 2
