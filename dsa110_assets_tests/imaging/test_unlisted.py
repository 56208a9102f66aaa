"""A source beyond the image that no catalogue has."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from dsa110_assets.imaging import unlisted
from dsa110_assets.imaging.options import ImagingOptions
from dsa110_assets.imaging.tile import make_tile
from dsa110_assets_tests.imaging.synthetic import observe

OPTIONS = ImagingOptions(field_deg=2.0, threads=1)
INSIDE = (0.2, 0.3, 0.5)
BEYOND = (0.3, -1.4, 2.0)
"""1.4 degrees off, beyond an image of 2 degrees a side: its flux changes by a factor of two as it drifts through the beam."""


def test_a_source_beyond_the_image_is_found_and_taken_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """With the source subtracted, the image has the radiometer's rms (5 %, as without any source).

    If it is left in, the rms after CLEAN is still at least half as large again.
    """
    vis = observe([INSIDE, BEYOND], n_times=24, n_subbands=8, n_channels=2, noise_jy=1.0, primary_beam=True)
    tile = make_tile(vis, OPTIONS)
    assert tile.figures["unlisted"] >= 1
    assert tile.figures["rms_over_radiometer"] == pytest.approx(1, abs=0.08)
    reference = make_tile(observe([INSIDE], n_times=24, n_subbands=8, n_channels=2, noise_jy=1.0, primary_beam=True), OPTIONS)
    assert "unlisted" not in reference.figures  # in a clean tile no search is made
    assert tile.figures["peak_jy"] == pytest.approx(reference.figures["peak_jy"], abs=3 * reference.rms_jy)
    # both have the same noise, so the difference is the source's residual: a part of the noise
    assert np.abs(tile.image - reference.image).max() < 5 * reference.rms_jy
    monkeypatch.setattr(unlisted, "EXCESS", np.inf)
    left_in = make_tile(vis, OPTIONS)
    assert left_in.figures["rms_over_radiometer"] > 1.5


def test_sources_inside_do_not_hide_a_fainter_one_beyond(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two sources of 25 times the rms, too faint for points, and one of 0.8 Jy beyond the image, apparently 12 times the rms. This is
    less than the sidelobes of those inside may be, but these are known. Subtracted, it leaves 1 % of the rms; left in, a fifth.
    """
    inside = [(0.2, 0.3, 0.064), (-0.3, 0.1, 0.064)]
    vis = observe([*inside, (*BEYOND[:2], 0.8)], n_times=24, n_subbands=8, n_channels=2, noise_jy=1.0, primary_beam=True)
    tile = make_tile(vis, OPTIONS)
    assert tile.figures["points"] == 0
    assert tile.figures["unlisted"] >= 1
    assert tile.figures["rms_over_radiometer"] == pytest.approx(1, abs=0.08)
    monkeypatch.setattr(unlisted, "EXCESS", np.inf)
    assert make_tile(vis, OPTIONS).figures["rms_over_radiometer"] > 1.15


def test_a_tile_that_is_only_noisy_keeps_its_data(monkeypatch: pytest.MonkeyPatch) -> None:
    """A search made without reason finds nothing: the image is the same, bit for bit."""
    vis = observe([INSIDE], n_times=12, n_subbands=8, noise_jy=1.0)
    plain = replace(OPTIONS, drift_terms=0, spectral_index=0.0)
    before = make_tile(vis, plain)
    monkeypatch.setattr(unlisted, "EXCESS", 0.0)
    searched = make_tile(vis, plain)
    assert searched.figures["unlisted"] == 0
    np.testing.assert_array_equal(searched.image, before.image)
