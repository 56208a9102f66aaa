"""Taylor terms and spectral indices: right for simulated sources within their errors, and blank where they are undetermined."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from astropy.wcs import WCS

from dsa110_assets.errors import BadDataError, ConfigurationError
from dsa110_assets.imaging.fits import read_image, read_plane
from dsa110_assets.imaging.options import ImagingOptions
from dsa110_assets.tools.image import image
from dsa110_assets.tools.terms import LEAST_SNR
from dsa110_assets.visibilities import measurement_set
from dsa110_assets.visibilities.types import Visibilities
from dsa110_assets_tests.imaging.synthetic import observe, position_rad

PIVOT_HZ = 1.4e9
SOURCES = {(0.0, 0.0): (3.0, -0.7), (0.3, -0.4): (2.0, 0.8), (-0.5, 0.2): (1.5, -1.5), (0.4, 0.5): (0.05, 0.0)}
"""(east, north) [deg]: flux [Jy] at 1.4 GHz and spectral index. The last one is too faint for an index."""
OPTIONS = ImagingOptions(field_deg=2.0, pixels_per_beam=4.5, threads=1)
IMAGING = 0.001
"""The error that imaging adds to a flux in one part of the band but not in another, as far as noise let it be measured."""


@pytest.fixture(scope="module")
def vis() -> Visibilities:
    total = None
    for number, (place, (flux, index)) in enumerate(SOURCES.items()):
        noise_jy = 0.0 if number else 0.2
        source_vis = observe([(*place, flux)], n_antennas=20, n_times=8, n_channels=1, noise_jy=noise_jy, primary_beam=True, smeared=True)
        steep = (source_vis.frequencies_hz / PIVOT_HZ) ** index
        if number:
            source_vis = replace(source_vis, data=source_vis.data * steep[:, None].astype(np.float32))
        else:  # the noise is the same at every frequency
            clean = observe([(*place, flux)], n_antennas=20, n_times=8, n_channels=1, primary_beam=True, smeared=True)
            source_vis = replace(source_vis, data=(source_vis.data + clean.data * (steep - 1)[:, None]).astype(np.complex64))
        total = source_vis if total is None else replace(total, data=total.data + source_vis.data)
    assert total is not None
    return total


def test_indices_are_those_of_the_sources(vis: Visibilities, tmp_path: Path) -> None:
    path = tmp_path / "a.ms"
    measurement_set.write(vis, path, unit="Jy")
    out = image(path, tmp_path / "a", OPTIONS, catalogues=None, spectral_terms=2).path
    tt0 = read_image(out / "image.tt0.fits")
    planes = {name: read_plane(out / f"{name}.fits")[0] for name in ("image.tt0", "image.tt1", "alpha", "alpha-error")}
    reference_hz = float(tt0.header["RESTFRQ"])
    lever = np.std(vis.frequencies_hz / reference_hz)
    centre = vis.phase_centres_rad[0]
    for place, (flux, index) in SOURCES.items():
        x, y = WCS(tt0.header).celestial.wcs_world2pix(*np.rad2deg(position_rad(centre, *place)), 0)
        near = np.s_[round(float(y)) - 1 : round(float(y)) + 2, round(float(x)) - 1 : round(float(x)) + 2]
        row, column = np.unravel_index(np.argmax(planes["image.tt0"][near]), (3, 3))
        values = {name: float(plane[near][row, column]) for name, plane in planes.items()}
        if flux < 1:
            assert np.isnan(values["alpha"])
            assert np.isnan(values["alpha-error"])
            continue
        # noise, and the error that imaging adds to the slope through four parts: that of their mean, over the band's lever arm
        error = np.hypot(values["alpha-error"], IMAGING / (np.sqrt(4) * lever))
        assert abs(values["alpha"] - index) < 4 * error, (place, values)
        assert values["image.tt1"] == pytest.approx(values["alpha"] * values["image.tt0"], rel=1e-5)
        # a peak between pixels of 4.5 a beam is up to 4 ln 2 (0.5 sqrt(2) / 4.5)^2 = 7 % below the flux
        expected = flux * (reference_hz / PIVOT_HZ) ** index
        assert 0.92 * expected < values["image.tt0"] < 1.02 * expected
        # the error is that of a line through the band: 1 / (S/N x lever arm), 3 % more for four parts than for all channels
        assert values["alpha-error"] < 1.2 / (LEAST_SNR * lever)
    with_index = np.isfinite(planes["alpha"])
    assert 0 < with_index.mean() < 0.01
    assert np.isnan(planes["image.tt0"][~np.isfinite(planes["image.tt1"])]).all()


def test_data_without_a_spectral_index_are_refused(vis: Visibilities, tmp_path: Path) -> None:
    path = tmp_path / "a.ms"
    channels = vis.frequencies_hz.size // 16
    one_subband = replace(
        vis, data=vis.data[:, :, :channels], flags=vis.flags[:, :, :channels], weights=vis.weights[:, :, :channels],
        frequencies_hz=vis.frequencies_hz[:channels],
    )  # fmt: skip
    measurement_set.write(one_subband, path, unit="Jy")
    with pytest.raises(BadDataError, match=r"a.ms: a spectral index needs two subbands, there is 1; leave --spectral-terms out"):
        image(path, tmp_path / "a", OPTIONS, spectral_terms=2)
    full_band = tmp_path / "b.ms"
    measurement_set.write(vis, full_band, unit="Jy")
    with pytest.raises(ConfigurationError, match="choose one"):
        image(full_band, tmp_path / "b", OPTIONS, spectral_terms=2, cube=True)
    assert {one_subband.name for one_subband in tmp_path.iterdir()} == {"a.ms", "b.ms"}
