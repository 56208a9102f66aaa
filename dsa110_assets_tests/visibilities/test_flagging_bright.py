"""No amplitude is flagged merely for being high, whether from the brightest sources or from the correlator's scale."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from dsa110_assets.simulator.fault_kinds import parse
from dsa110_assets.simulator.options import FixedSource, SimulationOptions
from dsa110_assets.simulator.simulate import simulate
from dsa110_assets.telescope import astrometry
from dsa110_assets.visibilities import flagging, reader
from dsa110_assets.visibilities.types import Visibilities

OPTIONS = SimulationOptions(
    start="2026-01-26T04:52:00", groups=1, antennas=24, channels=8, seed=3, calibrator="none", dead_antennas=0,
    dead_receptors=0, rfi_tones=0, rfi_bursts=0.0,
)  # fmt: skip
CENTRE = np.rad2deg(astrometry.meridian_icrs_rad(np.array([61066.20459]), np.deg2rad(OPTIONS.dec_deg))[0])
"""The array's pointing in the middle of the group."""
SOURCES = {
    "108 Jy": (0.0, 108.0, 0.0),
    "Virgo A": (0.0, 215.0, 60.0),
    "Virgo A, half a degree off": (0.5, 215.0, 60.0),
    "Taurus A": (0.0, 900.0, 360.0),
    "Cygnus A": (0.0, 1600.0, 0.0),
    "900 Jy in the flank of the beam": (0.8, 900.0, 0.0),
}


def observed(place: Path, options: SimulationOptions) -> Visibilities:
    simulate(place, options)
    return reader.read_group({int(path.stem[-2:]): path for path in place.glob("*.hdf5")})


def with_source(off_deg: float, flux_jy: float, major_arcsec: float) -> SimulationOptions:
    source = FixedSource("bright", CENTRE[0], CENTRE[1] + off_deg, flux_jy, -0.5, major_arcsec, 0.7 * major_arcsec)
    return dataclasses.replace(OPTIONS, fixed_sources=(source,))


@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.row(37, cases="fields of 108 to 1600 Jy with less than 0.1 % flagged")
def test_bright_sources_are_left(tmp_path: Path, source: str) -> None:
    """At most 1 in 1000 samples is lost: nothing here is interference."""
    vis = observed(tmp_path, with_source(*SOURCES[source]))
    flagged, report = flagging.flag(vis)
    assert report.fraction < 1e-3
    assert report.dead_receptors == []
    assert np.array_equal(flagged.data, vis.data)


@pytest.mark.row(37)
def test_interference_beside_a_bright_source_is_found(tmp_path: Path) -> None:
    """Interference in Virgo A's field is found as in an empty field, except its weakest edges, which a source of 215 Jy could cause."""
    satellite = parse("satellite:*:power_jy=1000")
    flags = []
    for name, options in (("empty", OPTIONS), ("bright", with_source(*SOURCES["Virgo A"]))):
        flags.append(flagging.flag(observed(tmp_path / name, dataclasses.replace(options, faults=(satellite,))))[0].flags)
    empty, bright = flags
    assert (bright & ~empty).mean() < 0.01
    assert (bright & empty).sum() > 0.9 * empty.sum()


@pytest.mark.parametrize("exponent", [-10, 5, 20])
@pytest.mark.row(37, cases="scales with the same flags")
def test_flags_do_not_depend_on_the_correlators_scale(tmp_path: Path, exponent: int) -> None:
    """Data scaled by a thousandth to a million get exactly the same flags (powers of two cause no rounding)."""
    options = dataclasses.replace(OPTIONS, rfi_tones=2, rfi_bursts=2.0, dead_receptors=2)
    vis = observed(tmp_path, options)
    plain, report = flagging.flag(vis)
    scaled, again = flagging.flag(dataclasses.replace(vis, data=vis.data * np.float32(2.0**exponent)))
    np.testing.assert_array_equal(scaled.flags, plain.flags)
    assert again == report
    assert 0.005 < report.fraction < 0.1
