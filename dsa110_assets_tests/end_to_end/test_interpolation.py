"""Gains that drift between two transits: visibilities corrected with the nearest tables and with interpolated ones, against the truth.

The instrument's gains vary as a sinusoid of one day's period, by 0.3 in ln amplitude and 0.3 radian, each receptor with its own phase.
Two calibrators transit two hours apart. There are no epoch gains, as in a field too faint for them.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from dsa110_assets.calibration import calibrated, caltables, night
from dsa110_assets.calibration.chosen import tables_for
from dsa110_assets.calibration.options import SolveOptions
from dsa110_assets.calibration.select import CaltableSet, ChooseOptions, choose
from dsa110_assets.calibration.transits import Transit
from dsa110_assets.simulator.options import FixedSource, SimulationOptions
from dsa110_assets.simulator.simulate import simulate
from dsa110_assets.sky import model
from dsa110_assets.sky.calibrators import LIST_SPECTRAL_INDEX, Calibrator
from dsa110_assets.telescope import astrometry
from dsa110_assets.visibilities import measurement_set
from dsa110_assets.visibilities.ingest import ingest
from dsa110_assets.visibilities.predict import predict

DEC_DEG, DRIFT, APART_H = 16.27, 0.3, 2.0
MIDDLES_MJD = 61066.2 + np.array([0.0, APART_H / 24, APART_H / 48])
"""Middle times of the two transits' observations and of the observation midway between them."""
FLUXES_JY = (10.0, 10.0, 2.0)


@dataclass(frozen=True)
class Field:
    """An observation whose only source is at the middle of its track: the flagged measurement set, and the source."""

    ms: Path
    calibrator: Calibrator

    def solve(self, place: Path, mjd: float) -> CaltableSet:
        """Solve and register the transit of the field's source, as the platform does."""
        vis, transit = measurement_set.read(self.ms), Transit(self.calibrator, mjd, 0.0, 1.0)
        solution = night.calibrate_transit(vis, model.from_calibrator(self.calibrator), transit, SolveOptions())
        (place / self.calibrator.name).mkdir()
        paths = tuple(place / self.calibrator.name / f"{gains.kind}.cal" for gains in solution.tables)
        for gains, path in zip(solution.tables, paths, strict=True):
            caltables.write(gains, path, self.ms)
        mid = solution.report["mid_mjd"]
        antennas = frozenset(solution.report["antennas"])
        return CaltableSet(
            self.calibrator.name, paths, mid, mid - 0.5, mid + 0.5, DEC_DEG, antennas, self.calibrator.name, "true", "active"
        )


@pytest.fixture(scope="module")
def fields(tmp_path_factory: pytest.TempPathFactory) -> list[Field]:
    """The first transit, the second, and the observation between them."""
    place = tmp_path_factory.mktemp("drifting")
    centres = np.rad2deg(astrometry.meridian_icrs_rad(MIDDLES_MJD, np.deg2rad(DEC_DEG)))
    observed = []
    for number, (mjd, (ra_deg, dec_deg), flux_jy) in enumerate(zip(MIDDLES_MJD, centres, FLUXES_JY, strict=True)):
        name = f"S{number}"
        source = FixedSource(name, float(ra_deg), float(dec_deg), flux_jy, LIST_SPECTRAL_INDEX)
        start = np.datetime64("1858-11-17") + np.timedelta64(round((mjd * 86400 - 154.6) * 1e3), "ms")
        options = SimulationOptions(
            start=str(start), groups=1, antennas=16, channels=8, dec_deg=DEC_DEG, population=False, variables=False, calibrator="none",
            fixed_sources=(source,), gain_drift=DRIFT, dead_antennas=0, dead_receptors=0, noise_scale=0.02, rfi_tones=0, rfi_bursts=0.0,
            restart_every=0,
        )  # fmt: skip
        simulate(place / name, options)
        ingest({int(path.stem[-2:]): path for path in (place / name).glob("*.hdf5")}, place / f"{name}.ms")
        observed.append(Field(place / f"{name}.ms", Calibrator(name, None, source.ra_deg, source.dec_deg, flux_jy, "A", "P", None, False)))
    return observed


def errors(path: Path, sky: model.SkyModel) -> tuple[float, float]:
    """Return two errors of a calibrated set. The first is the rms over baselines and polarisations of corrected / true visibility - 1,
    with visibilities averaged over time and band. The second is the mean real part of the same ratio - 1: the flux error at the source
    in a naturally weighted map."""
    vis = measurement_set.read(path)
    cross = ~vis.is_auto
    true = predict(vis, sky)[:, cross, :, None]
    weights = np.where(vis.flags, 0, vis.weights)[:, cross]
    ratio = (weights * vis.data[:, cross] * true.conj()).sum(axis=(0, 2)) / (weights * np.abs(true) ** 2).sum(axis=(0, 2))
    return float(np.sqrt(np.mean(np.abs(ratio - 1) ** 2))), float(ratio.real.mean() - 1)


def test_between_two_transits_a_drift_is_followed(fields: list[Field], tmp_path: Path) -> None:
    """In an hour a sinusoid of amplitude 0.3 departs from its value at the nearer transit by at most 0.3 sin(15 deg) = 0.078. Midway
    between both transits interpolation leaves its curvature, at most 0.3 (1 - cos 15 deg) = 0.010. For amplitude and phase of two
    antennas, the rms over all phases is sqrt 2 times that: 0.110 and 0.0145. Over amplitudes and phases of 32 receptors the rms scatters
    by 0.71 / sqrt 64 / 2 = 4.5 %. Amplitudes are interpolated, not their logarithms: they come out too large by 0.078^2 / 2 sin^2,
    0.0015 in the mean, and fluxes too small by twice as much. Noise is 2e-4.
    """
    first, second, between = fields
    sets = [field.solve(tmp_path, mjd) for field, mjd in zip((first, second), MIDDLES_MJD, strict=False)]
    sky, antennas = model.from_calibrator(between.calibrator), sets[0].antennas
    measured = {}
    for interpolated in (False, True):
        choice = choose(sets, float(MIDDLES_MJD[2]), DEC_DEG, antennas, ChooseOptions(interpolate=interpolated))
        assert len(choice.sets) == 1 + interpolated
        tables, figures = tables_for(choice, between.ms)
        assert figures.get("receptors_not_interpolated", []) == figures.get("receptors_of_one_set", []) == []
        path = tmp_path / f"{interpolated}.ms"
        calibrated.calibrate_set(between.ms, tables, path)
        measured[interpolated] = errors(path, sky)
    start, bend = (DRIFT * np.sqrt(2) * turn for turn in (np.sin(np.pi / 12), 1 - np.cos(np.pi / 12)))
    of_amplitudes = -0.003
    assert measured[False][0] == pytest.approx(start, rel=3 * 0.045)
    assert measured[True][0] == pytest.approx(np.hypot(bend, of_amplitudes), rel=3 * 0.045)
    # the mean over 32 receptors of twice the curvature of ln amplitudes, each of rms bend / 2
    assert measured[True][1] == pytest.approx(of_amplitudes, abs=3 * bend / np.sqrt(32))
