"""Stock tclean as an engine, against the truth and against our own imager."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from astropy.wcs import WCS

from dsa110_assets.engines import casa_imaging
from dsa110_assets.imaging.options import ImagingOptions
from dsa110_assets.imaging.tile import make_tile
from dsa110_assets.telescope import astrometry
from dsa110_assets.visibilities import measurement_set, phasing

OPTIONS = ImagingOptions(field_deg=1.0, pixel_arcsec=12.0, weighting="natural", auto_mask_sigma=5.0, clean_iterations=2000)
FLUX_JY = 5.0


@pytest.mark.casa
def test_same_sky_as_our_own_imager(observation, tmp_path):
    """A source 0.25 deg off: its position within 0.1 beam, its flux within 3 % of the truth and of our own imager's."""
    obs = observation(
        sources=((0.2, 0.15, FLUX_JY),), n_times=8, n_subbands=8, n_channels=2, noise=0.5,
        station_numbers=(1, 6, 12, 19, 27, 35, 41, 47, 68, 74, 80, 86, 92, 97, 102),
    )  # fmt: skip
    rng = np.random.default_rng(1)
    noise = 0.5 * (rng.normal(size=obs.vis.data.shape) + 1j * rng.normal(size=obs.vis.data.shape))
    vis = replace(obs.vis, data=(np.repeat(obs.model[..., None], 2, axis=-1) + noise).astype(np.complex64))
    vis = phasing.to_common_centre(vis)
    measurement_set.write(vis, tmp_path / "tile.ms")
    theirs = casa_imaging.make_tile(tmp_path / "tile.ms", OPTIONS, work_dir=tmp_path)
    ours = make_tile(vis, OPTIONS)
    assert [path.name for path in tmp_path.iterdir()] == ["tile.ms"]
    ra = obs.vis.phase_centres_rad[0, 0] + math.radians(0.2) / math.cos(obs.vis.pointing_dec_rad)
    dec = obs.vis.phase_centres_rad[0, 1] + math.radians(0.15)
    # the average attenuation of the source by `conftest`: a Gaussian of 1.7 deg in distance from each pointing
    l, m, _ = astrometry.lmn(ra, dec, obs.vis.phase_centres_rad)
    spectrum = (obs.vis.frequencies_hz / 1.4e9) ** -0.7
    truth_jy = FLUX_JY * np.exp(-(l**2 + m**2) / math.radians(1.7) ** 2).mean() * spectrum.mean()
    for tile in (theirs, ours):
        row, column = np.unravel_index(np.argmax(tile.image), tile.image.shape)
        found_ra, found_dec = WCS(tile.header).celestial.pixel_to_world_values(column, row)
        away = astrometry.separation_deg(ra, dec, math.radians(float(found_ra)), math.radians(float(found_dec)))
        # the brightest pixel is within half a diagonal of the source, whatever the beam
        assert away < 0.75 * OPTIONS.pixel_arcsec / 3600
        assert tile.image.max() == pytest.approx(truth_jy, rel=0.03)
    assert theirs.image.max() == pytest.approx(ours.image.max(), rel=0.03)
    # natural weights leave nothing to choose: the same dirty beam, to the accuracy of CASA's gridding
    assert np.std(theirs.psf - ours.psf) < 0.003
    assert theirs.beam.bmaj_deg == pytest.approx(ours.beam.bmaj_deg, rel=0.05)
    assert theirs.beam.bmin_deg == pytest.approx(ours.beam.bmin_deg, rel=0.05)
    # CASA stops at 3 sigma, ours goes on to 1 sigma where components are
    assert theirs.rms_jy == pytest.approx(ours.rms_jy, rel=0.3)
    # figures of Stokes Q, and the search for unlisted sources beyond the image and for resolved ones, need the visibilities
    assert set(theirs.figures) == {name for name in ours.figures if not name.startswith(("q_", "unlisted", "resolved"))}
