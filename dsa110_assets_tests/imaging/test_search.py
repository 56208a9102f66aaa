"""Bright sources in residual visibilities, also when hardly any visibilities are left."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from dsa110_assets.errors import BadDataError
from dsa110_assets.imaging.options import ImagingOptions
from dsa110_assets.imaging.search import bright_sources
from dsa110_assets.imaging.tile import make_tile
from dsa110_assets_tests.imaging.synthetic import observe

JY = 5.0
NOISE_JY = 0.1


def test_a_bright_source_is_found_with_its_flux() -> None:
    """In a naturally weighted dirty image the peak is the flux, to 2 % for an offset of a third of a pixel of a quarter of a beam."""
    sources = bright_sources(observe([(0.1, 0.2, JY)], n_antennas=8, n_times=6, n_subbands=4, noise_jy=NOISE_JY), 0.5)
    assert sources.flux_jy[0] == pytest.approx(JY, rel=0.02)


@pytest.mark.parametrize("left", [1, 2, 3])
def test_a_few_baselines_give_no_sources_and_no_image(left: int) -> None:
    """Their dirty beam is a pattern of stripes. The search, a part of calibration, finds nothing and continues; imaging reports what is
    wrong."""
    vis = observe([(0.1, 0.2, JY)], n_antennas=8, n_times=6, n_subbands=4, noise_jy=NOISE_JY)
    flags = np.ones_like(vis.flags)
    flags[:, np.flatnonzero(vis.ant1 != vis.ant2)[:left]] = False
    assert len(bright_sources(replace(vis, flags=flags), 0.5)) == 0
    if left == 1:
        with pytest.raises(BadDataError, match="no elliptical core: the uv coverage is too poor to image"):
            make_tile(replace(vis, flags=flags), ImagingOptions(field_deg=2.0, threads=1))
