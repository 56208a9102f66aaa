"""From the telescope's files to a tile: simulated with unit gains, read, phased and imaged."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from dsa110_assets.imaging.options import ImagingOptions
from dsa110_assets.imaging.tile import make_tile
from dsa110_assets.simulator.options import FixedSource, SimulationOptions
from dsa110_assets.simulator.simulate import simulate
from dsa110_assets.sky.model import SkyModel
from dsa110_assets.telescope import astrometry
from dsa110_assets.telescope.timegrid import GROUP_S, datetime_to_mjd, parse_key
from dsa110_assets.visibilities import grouping, phasing, reader, uvh5


@pytest.mark.parametrize("start", ["2026-01-25T22:25:00", "2026-01-26T00:00:00"])
def test_the_image_of_a_simulated_group_shows_its_sky(tmp_path: Path, start: str) -> None:
    """Fluxes within 1.5 %, positions within a twentieth of the beam, noise equal to the radiometer's.

    The sources lie up to 0.7 degree off; at 1.5 MHz and 12.9 s that loses up to 0.5 % on the longest
    baselines.
    """
    plain = {"population": False, "variables": False, "calibrator": "none", "gain_amplitude": 1.0}
    quiet = {
        "gain_scatter": 0.0,
        "gain_night_scatter": 0.0,
        "gain_drift": 0.0,
        "rfi_tones": 0,
        "rfi_bursts": 0.0,
    }
    common = dict(start=start, groups=1, antennas=24, channels=8, dead_antennas=0, dead_receptors=0, **plain, **quiet)
    empty = SimulationOptions(**common)
    mid = datetime_to_mjd(parse_key(start[:16])) + GROUP_S / 2 / 86400
    ra, dec = np.rad2deg(astrometry.meridian_icrs_rad([mid], np.deg2rad(empty.dec_deg))[0])
    offsets = [(0.05, 0.02, 1.0), (-0.55, 0.3, 2.0), (0.4, -0.6, 1.5)]
    sources = tuple(
        FixedSource(f"s{i}", (ra + east / np.cos(np.deg2rad(dec))) % 360, dec + north, flux)
        for i, (east, north, flux) in enumerate(offsets)
    )
    simulate(tmp_path, SimulationOptions(**common, fixed_sources=sources))
    headers = [uvh5.read_header(path) for path in sorted(tmp_path.glob("*.hdf5"))]
    (group,) = grouping.group_headers(headers)
    vis = phasing.to_common_centre(reader.read_group({s: h.path for s, h in group.files.items()}, 16))
    sky = SkyModel(
        tuple(s.name for s in sources),
        np.deg2rad([s.ra_deg for s in sources]),
        np.deg2rad([s.dec_deg for s in sources]),
        np.array([s.flux_jy for s in sources]),
        np.array([s.spectral_index for s in sources]),
        1.4e9,
    )
    tile = make_tile(vis, ImagingOptions(field_deg=2.2, threads=1), sky)
    assert tile.figures["reference_count"] == 3
    assert tile.figures["flux_ratio"] == pytest.approx(1.0, abs=0.015)
    beam_arcsec = tile.figures["beam_minor_arcsec"]
    assert abs(tile.figures["astrometry_ra_arcsec"]) < 0.05 * beam_arcsec
    assert abs(tile.figures["astrometry_dec_arcsec"]) < 0.05 * beam_arcsec
    assert tile.figures["rms_over_radiometer"] == pytest.approx(1.0, abs=0.1)
    assert tile.figures["sefd_jy"] == pytest.approx(6500, rel=0.05)
