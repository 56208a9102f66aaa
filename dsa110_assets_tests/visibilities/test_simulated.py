"""The package's simulator against this package's reader: the same telescope, described twice."""

import numpy as np
import pytest

from dsa110_assets.simulator.options import Fault, FixedSource, SimulationOptions
from dsa110_assets.simulator.simulate import simulate
from dsa110_assets.sky.model import SkyModel, from_frame
from dsa110_assets.visibilities import flagging, grouping, phasing, reader, uvh5
from dsa110_assets.visibilities.predict import predict

PLAIN = {
    "groups": 1,
    "antennas": 6,
    "channels": 4,
    "subbands": 3,
    "integrations": 6,
    "population": False,
    "variables": False,
    "calibrator": "none",
    "gain_scatter": 0.0,
    "gain_amplitude": 1.0,
    "gain_night_scatter": 0.0,
    "gain_drift": 0.0,
    "dead_antennas": 0,
    "dead_receptors": 0,
    "noise_scale": 0.0,
    "rfi_tones": 0,
    "rfi_bursts": 0.0,
}
START = "2026-01-25T22:26:00"


def meridian_sources(offsets):  # type: ignore[no-untyped-def]
    """Fixed sources at (east, north) degrees from the first integration's meridian direction, dec 16.27."""
    from datetime import datetime

    from dsa110_assets.telescope import astrometry, timegrid

    mjd = timegrid.datetime_to_mjd(datetime.fromisoformat(START))
    ra, dec = np.rad2deg(astrometry.meridian_icrs_rad(mjd, np.radians(16.27))[0])
    return tuple(
        FixedSource(f"S{i}", (ra + east / np.cos(np.radians(dec))) % 360, dec + north, flux)
        for i, (east, north, flux) in enumerate(offsets)
    )


def read(directory, n_subbands=3):  # type: ignore[no-untyped-def]
    headers = [uvh5.read_header(path) for path in sorted(directory.glob("*.hdf5"))]
    (group,) = grouping.group_headers(headers)
    return reader.read_group({s: h.path for s, h in group.files.items()}, n_subbands)


def sky_of(sources) -> SkyModel:  # type: ignore[no-untyped-def]
    ra, dec, flux = (np.array([getattr(s, key) for s in sources]) for key in ("ra_deg", "dec_deg", "flux_jy"))
    return SkyModel(tuple(s.name for s in sources), np.radians(ra), np.radians(dec), flux, np.full(ra.size, -0.7))


SOURCES = meridian_sources([(0.3, -0.2, 2.0), (-0.9, 0.8, 1.0), (1.4, 1.2, 3.0)])


@pytest.mark.parametrize(
    "variant",
    [
        {},
        {"antenna_order": "scrambled"},
        {"negative_channel_width": True},
        {"fs_table": False},
        {"name_shift_s": -105.0},
    ],
)
def test_prediction_equals_simulation(tmp_path, variant) -> None:  # type: ignore[no-untyped-def]
    """Same sky, beam, smearing and frame in every variant the telescope writes (traps 1, 9, 10, 13).

    The simulator works with direction cosines about the meridian, the prediction with antenna delays; both
    smear by first-order rates: 1e-5 of 6 Jy and complex64's 3e-7.
    """
    simulate(tmp_path, SimulationOptions(start=START, fixed_sources=SOURCES, **PLAIN, **variant))
    vis = read(tmp_path)
    model = predict(vis, sky_of(SOURCES))
    cross = ~vis.is_auto
    np.testing.assert_allclose(vis.data[..., 0][:, cross], model[:, cross], atol=2e-5)
    np.testing.assert_allclose(vis.data[..., 1][:, cross], model[:, cross], atol=2e-5)
    common = phasing.to_common_centre(vis)
    np.testing.assert_allclose(common.data[..., 0][:, cross], predict(common, sky_of(SOURCES))[:, cross], atol=2e-5)


def test_a_missing_subband_is_the_only_difference(tmp_path) -> None:  # type: ignore[no-untyped-def]
    """Trap 11, end to end: the present channels are the same, the absent ones flagged with weight 0."""
    options = PLAIN | {"start": START, "fixed_sources": SOURCES}
    simulate(tmp_path / "a", SimulationOptions(**options))
    simulate(tmp_path / "b", SimulationOptions(**options, faults=(Fault("missing_subband", 0, 1),)))
    whole, gap = read(tmp_path / "a"), read(tmp_path / "b")
    assert gap.subbands_missing == (1,)
    present = np.r_[0:4, 8:12]
    np.testing.assert_array_equal(gap.data[:, :, present], whole.data[:, :, present])
    assert gap.flags[:, :, 4:8].all()
    assert np.all(gap.weights[:, :, 4:8] == 0)
    np.testing.assert_array_equal(gap.frequencies_hz, whole.frequencies_hz)


@pytest.mark.parametrize("kind", ["truncated", "zero_length", "incomplete"])
def test_planted_faults_are_refused(tmp_path, kind) -> None:  # type: ignore[no-untyped-def]
    simulate(tmp_path, SimulationOptions(start=START, fixed_sources=SOURCES, **PLAIN, faults=(Fault(kind, 0, 2),)))
    refused, headers = [], []
    for path in sorted(tmp_path.glob("*.hdf5")):
        try:
            headers.append(uvh5.read_header(path))
        except uvh5.BadDataError as error:
            refused.append((path.name, str(error)))
    assert len(refused) == 1
    assert "_sb02" in refused[0][0]
    (group,) = grouping.group_headers(headers)
    assert group.missing(3) == (2,)


def test_both_engines_agree_on_simulated_files(tmp_path) -> None:  # type: ignore[no-untyped-def]
    simulate(
        tmp_path,
        SimulationOptions(start=START, **(PLAIN | {"noise_scale": 1.0, "gain_scatter": 1.0}), fixed_sources=SOURCES),
    )
    headers = [uvh5.read_header(path) for path in tmp_path.glob("*.hdf5")]
    files = {h.subband: h.path for h in headers}
    direct, peer = (reader.read_group(files, 3, engine=engine) for engine in ("direct", "pyuvdata"))
    np.testing.assert_array_equal(direct.data, peer.data)
    np.testing.assert_array_equal(direct.uvw_m, peer.uvw_m)


def test_flagging_finds_the_simulators_interference(tmp_path) -> None:  # type: ignore[no-untyped-def]
    """A realistic small array: the dead antenna and the tones are found, and little else is lost.

    The interference is the difference between runs with and without it. Where a tone adds less than 3 times the noise it is
    invisible to any flagger and is not required to be found.
    """
    base = PLAIN | {
        "antennas": 12,
        "channels": 24,
        "subbands": 4,
        "integrations": 24,
        "noise_scale": 1.0,
        "gain_amplitude": 0.068,
        "gain_scatter": 1.0,
        "dead_antennas": 1,
        "start": START,
        "fixed_sources": SOURCES,
    }
    truth = simulate(tmp_path / "rfi", SimulationOptions(**(base | {"rfi_tones": 8, "rfi_bursts": 3.0})))
    simulate(tmp_path / "clean", SimulationOptions(**base))
    dirty, clean = read(tmp_path / "rfi", 4), read(tmp_path / "clean", 4)
    flagged, report = flagging.flag(dirty)
    names = {dirty.antennas.names[antenna] for antenna, _ in report.dead_receptors}
    assert names == {str(n) for n in truth["bad_antennas"]["dead_antennas"]}
    added = np.abs(dirty.data - clean.data)
    cross = ~dirty.is_auto & ~np.isin(dirty.ant1, [a for a, _ in report.dead_receptors])
    cross &= ~np.isin(dirty.ant2, [a for a, _ in report.dead_receptors])
    noise = np.median(np.abs(clean.data[:, cross]))
    strong = added[:, cross] > 5 * noise
    assert strong.sum() > 1000
    assert flagged.flags[:, cross][strong].mean() > 0.98
    untouched = added[:, cross] < 0.1 * noise
    assert flagged.flags[:, cross][untouched].mean() < 0.06


def test_catalogue_beside_the_files_predicts_them(tmp_path) -> None:  # type: ignore[no-untyped-def]
    """truth.json's sources alone give the visibilities."""
    truth = simulate(tmp_path, SimulationOptions(start=START, fixed_sources=SOURCES, **PLAIN))
    import pandas as pd

    frame = pd.DataFrame(truth["sources"]).assign(frequency_hz=1.4e9)
    vis = read(tmp_path)
    cross = ~vis.is_auto
    np.testing.assert_allclose(vis.data[..., 0][:, cross], predict(vis, from_frame(frame))[:, cross], atol=2e-5)
