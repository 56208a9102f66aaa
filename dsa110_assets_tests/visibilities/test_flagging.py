"""Each flagging step separately, on data whose bad samples are known."""

import dataclasses

import numpy as np
import pytest

from dsa110_assets.simulator import array as arrays
from dsa110_assets.simulator import interference, receiver
from dsa110_assets.simulator.options import SimulationOptions
from dsa110_assets.simulator.schedule import schedule
from dsa110_assets.simulator.simulate import simulate
from dsa110_assets.telescope import band
from dsa110_assets.visibilities import flag_kernels, flagging, reader, sumthreshold
from dsa110_assets.visibilities.options import FlaggingOptions

ONLY = FlaggingOptions(clip_amplitude=0, engine="none", mad_sigma=0, extend_fraction=1)
"""Zeros, autocorrelations and dead receptors only."""


@pytest.fixture
def noisy(observe, tmp_path):  # type: ignore[no-untyped-def]
    """8 antennas, 24 integrations, 32 channels of noise with sigma 0.01 per part, one subband of five
    missing.
    """
    observation = observe(n_times=24, n_channels=8, subbands=(0, 1, 2, 4), noise=0.01)
    return reader.read_group(observation.write_all(tmp_path), 5)


def edited(vis, change):  # type: ignore[no-untyped-def]
    data = vis.data.copy()
    change(data)
    return dataclasses.replace(vis, data=data)


def test_zeros_are_flagged(noisy) -> None:  # type: ignore[no-untyped-def]
    """Trap 12: the file says nothing is flagged."""

    def zero(data) -> None:  # type: ignore[no-untyped-def]
        data[3, 7, 20:25, 1] = 0

    assert not noisy.flags[3, 7, 20:25].any()
    flagged, report = flagging.flag(edited(noisy, zero), ONLY)
    assert flagged.flags[3, 7, 20:25, 1].all()
    assert not flagged.flags[3, 7, 20:25, 0].any()
    assert report.causes["zeros"] == pytest.approx(5 / (24 * 28 * 32 * 2))
    assert not noisy.flags[3, 7, 20:25].any()  # the input is not changed


def test_autos_are_flagged_and_kept(noisy) -> None:  # type: ignore[no-untyped-def]
    flagged, _ = flagging.flag(noisy, ONLY)
    assert flagged.flags[:, noisy.is_auto].all()
    assert flagged.data is noisy.data
    assert flagged.weights is noisy.weights
    missing = np.all(noisy.weights == 0, axis=(0, 1, 3))
    assert not flagged.flags[:, ~noisy.is_auto][:, :, ~missing].any()
    assert flagged.flags[:, :, missing].all()


def test_amplitudes_above_the_clip_limit_are_flagged(noisy) -> None:  # type: ignore[no-untyped-def]
    def burst(data) -> None:  # type: ignore[no-untyped-def]
        data[5, 4, 20, 0] = 0.6j
        data[5, 4, 21, 0] = 0.49

    flagged, report = flagging.flag(edited(noisy, burst), dataclasses.replace(ONLY, clip_amplitude=0.5))
    assert flagged.flags[5, 4, 20, 0]
    assert not flagged.flags[5, 4, 21, 0]
    assert report.causes["clip"] == pytest.approx(1 / (24 * 28 * 32 * 2))


def test_receptors_that_write_zeros_are_flagged(noisy) -> None:  # type: ignore[no-untyped-def]
    """Antenna 3 writes zeros in 98 % of its XX samples and is dead; antenna 5 in 60 %, and is alive. YY is unaffected."""
    rng = np.random.default_rng(1)

    def kill(data) -> None:  # type: ignore[no-untyped-def]
        for antenna, part in ((3, 0.98), (5, 0.6)):
            rows = (noisy.ant1 == antenna) | (noisy.ant2 == antenna)
            block = data[:, rows, :, 0]
            block[rng.random(block.shape) < part] = 0
            data[:, rows, :, 0] = block

    flagged, report = flagging.flag(edited(noisy, kill), ONLY)
    assert report.dead_receptors == [(3, 0)]
    rows = (noisy.ant1 == 3) | (noisy.ant2 == 3)
    assert flagged.flags[:, rows, :, 0].all()
    assert not flagged.flags[:, rows & ~noisy.is_auto][..., 1][..., :8].any()


def test_fraction_is_receptor_aware(noisy) -> None:  # type: ignore[no-untyped-def]
    """Trap 19: three dead antennas of eight and an absent subband are not 'flagged data'."""

    def kill(data) -> None:  # type: ignore[no-untyped-def]
        for antenna in (1, 2, 6):
            data[:, (noisy.ant1 == antenna) | (noisy.ant2 == antenna)] = 0

    _, report = flagging.flag(edited(noisy, kill), ONLY)
    assert {antenna for antenna, _ in report.dead_receptors} == {1, 2, 6}
    assert report.fraction == 0
    # 10 of 28 baselines are alive in 32 of 40 channels.
    assert report.fraction_raw == pytest.approx(1 - 10 / 28 * 32 / 40)


def test_most_antennas_dead_does_not_kill_the_rest(noisy) -> None:  # type: ignore[no-untyped-def]
    """Six of eight dead: the last two have 6/7 of their baselines flagged, and stay alive."""

    def kill(data) -> None:  # type: ignore[no-untyped-def]
        for antenna in (1, 2, 3, 4, 5, 6):
            data[:, (noisy.ant1 == antenna) | (noisy.ant2 == antenna)] = 0

    _, report = flagging.flag(edited(noisy, kill), dataclasses.replace(ONLY, dead_fraction=0.8))
    assert sorted({antenna for antenna, _ in report.dead_receptors}) == [1, 2, 3, 4, 5, 6]


def test_median_clip(noisy) -> None:  # type: ignore[no-untyped-def]
    """7 sigma above a Rayleigh median is 0.058 at sigma 0.01: 0.1 is flagged, noise (chance 4e-8) is not."""
    rng = np.random.default_rng(4)
    hit = (rng.random(noisy.data.shape) < 0.01) & ~noisy.is_auto[:, None, None] & (noisy.weights > 0)

    def spikes(data) -> None:  # type: ignore[no-untyped-def]
        data[hit] = 0.1

    flagged, report = flagging.flag(edited(noisy, spikes), dataclasses.replace(ONLY, mad_sigma=7))
    cross = ~noisy.is_auto
    np.testing.assert_array_equal(flagged.flags[:, cross][noisy.weights[:, cross] > 0], hit[:, cross][noisy.weights[:, cross] > 0])
    assert report.causes["median"] == pytest.approx(hit.sum() / (24 * 28 * 32 * 2))


def test_noise_free_sources_are_not_rfi(observe, meridian_radec, tmp_path) -> None:  # type: ignore[no-untyped-def]
    """Without noise the spread of amplitudes is zero; a 10 Jy calibrator must not be clipped."""
    observation = observe(n_times=24, n_channels=8)
    ra, dec = meridian_radec(observation, observation.mjd_start)
    observation.sources = [(ra + 0.005, dec, 0.05), (ra - 0.01, dec, 0.01)]
    _, report = flagging.flag(reader.read_group(observation.write_all(tmp_path), 2), FlaggingOptions())
    assert report.fraction == 0


@pytest.mark.parametrize(
    ("where", "whole"),
    [
        (np.s_[6, 9, 20:38, 0], np.s_[6, 9, :, 0]),
        (np.s_[2:16, 9, 30, 1], np.s_[:, 9, 30, 1]),
    ],
)
def test_mostly_flagged_spectra_and_time_series_are_flagged(noisy, where, whole) -> None:  # type: ignore[no-untyped-def]
    """If more than half of a spectrum or of a time series is flagged, all of it is flagged, and nothing else."""

    def zero(data) -> None:  # type: ignore[no-untyped-def]
        data[where] = 0

    flagged, _ = flagging.flag(edited(noisy, zero), dataclasses.replace(ONLY, extend_fraction=0.5))
    assert flagged.flags[whole].all()
    expected = noisy.flags.copy()
    expected[:, noisy.is_auto] = True
    expected[whole] = True
    np.testing.assert_array_equal(flagged.flags, expected)


def test_a_channel_bad_on_most_baselines_is_flagged_on_all(noisy) -> None:  # type: ignore[no-untyped-def]
    cross = np.flatnonzero(~noisy.is_auto)

    def zero(data) -> None:  # type: ignore[no-untyped-def]
        data[:, cross[:20], 33, 0] = 0

    flagged, _ = flagging.flag(edited(noisy, zero), dataclasses.replace(ONLY, extend_fraction=0.5))
    assert flagged.flags[:, :, 33, 0].all()
    assert not flagged.flags[:, cross, 33, 1].any()


@pytest.mark.parametrize(("engine", "cause", "lost"), [("own", "sumthreshold", 0.015), ("aoflagger", "aoflagger", 0.03)])
def test_interference_is_found_and_noise_is_left(noisy, engine, cause, lost) -> None:  # type: ignore[no-untyped-def]
    """A carrier of 8 sigma and a burst of 5 sigma over 16 channels are flagged, and little clean noise is lost.

    AOFlagger's strategy loses about 1 % of Gaussian noise at a base threshold of 1.2. So does the package's own engine on these
    few channels (1.1 % measured on this noise alone): its backgrounds come from 32 samples of each 4-channel block.
    """
    carrier, burst = np.s_[:, :, 30, :], np.s_[13, :, 16:32, :]

    def interfere(data) -> None:  # type: ignore[no-untyped-def]
        data[carrier] += 0.08
        data[burst] += 0.05

    flagged, report = flagging.flag(edited(noisy, interfere), dataclasses.replace(ONLY, engine=engine))
    cross = ~noisy.is_auto
    assert flagged.flags[carrier][:, cross].mean() > 0.95
    assert flagged.flags[burst][cross].mean() > 0.9
    clean = np.ones(noisy.data.shape, bool)
    clean[carrier], clean[burst] = False, False
    clean &= (noisy.weights > 0) & cross[:, None, None]
    assert flagged.flags[clean].mean() < lost
    assert report.causes[cause] > 0.03


def test_the_own_engine_flags_more_interference_than_aoflagger(tmp_path) -> None:  # type: ignore[no-untyped-def]
    """With the simulator's carriers and bursts, the package's own engine catches more than AOFlagger and loses less clean data.

    Caught: flagged samples among those with interference above 1 sigma of noise; lost: flagged samples among those without any
    interference, of live receptors. A calibrator of 8 Jy (7 sigma a sample) drifts through the beam meanwhile.
    """
    options = SimulationOptions(start="2026-01-26T04:52:00", groups=1, antennas=16, channels=8, seed=3, rfi_bursts=3.0, dead_receptors=0)
    simulate(tmp_path, options)
    vis = reader.read_group({int(path.stem[-2:]): path for path in tmp_path.glob("*.hdf5")})
    array, group = arrays.build(options), schedule(options)[0]
    flashes = interference.bursts(options, group, array)
    assert flashes
    truth = np.zeros((*vis.data.shape[:3],))
    ant1, ant2 = array.baselines
    order = np.lexsort((np.maximum(ant1, ant2), np.minimum(ant1, ant2)))
    for subband in range(16):
        frequencies = band.subband_frequencies_hz(subband, 8)
        added = np.zeros((24, order.size, 8), complex)
        interference.add(
            added, array, interference.tones(options), flashes, np.deg2rad(options.dec_deg), frequencies,
            band.channel_width_hz(8), options.seed,
        )  # fmt: skip
        truth[:, :, 128 - 8 * (subband + 1) :][:, :, :8] = np.abs(added)[:, order, ::-1]
    strong, clean = truth > receiver.noise_sigma_jy(options.sefd_jy, band.channel_width_hz(8)), truth == 0
    caught, lost = {}, {}
    for engine in ("own", "aoflagger"):
        flagged, report = flagging.flag(vis, FlaggingOptions(engine=engine))
        dead = {antenna for antenna, _ in report.dead_receptors}
        live = ~vis.is_auto & ~np.isin(vis.ant1, list(dead)) & ~np.isin(vis.ant2, list(dead))
        caught[engine] = flagged.flags[:, live][strong[:, live]].mean()
        lost[engine] = flagged.flags[:, live][clean[:, live]].mean()
    assert caught["own"] > 0.95
    assert caught["own"] >= caught["aoflagger"]
    assert lost["own"] <= lost["aoflagger"]


def test_the_rank_operator_follows_its_definition() -> None:
    """All intervals of random lines by brute force: a sample is flagged if an interval around it has a flagged part >= 1 - eta."""
    rng = np.random.default_rng(8)
    for part in (0.05, 0.3, 0.6):
        line = rng.random(60) < part
        expected = np.zeros(60, bool)
        for low in range(60):
            for high in range(low + 1, 61):
                if line[low:high].sum() >= 0.8 * (high - low) - 1e-4:
                    expected[low:high] = True
        hit = line.astype(np.uint8)[None]
        sumthreshold.extend(hit, np.float32(0.2))
        np.testing.assert_array_equal(hit[0], expected)


def test_flagging_is_deterministic_and_keeps_flags(noisy) -> None:  # type: ignore[no-untyped-def]
    before = noisy.flags | (np.random.default_rng(0).random(noisy.flags.shape) < 0.02)
    first, report = flagging.flag(dataclasses.replace(noisy, flags=before))
    second, again = flagging.flag(dataclasses.replace(noisy, flags=before))
    np.testing.assert_array_equal(first.flags, second.flags)
    assert report == again
    assert np.all(first.flags[before])
    assert report.causes["file"] == pytest.approx(0.02, abs=0.002)


def test_missing_data_alone_are_all_flagged(noisy) -> None:  # type: ignore[no-untyped-def]
    gone = dataclasses.replace(
        noisy,
        data=np.zeros_like(noisy.data),
        flags=np.ones_like(noisy.flags),
        weights=np.zeros_like(noisy.weights),
    )
    flagged, report = flagging.flag(gone)
    assert flagged.flags.all()
    assert report.fraction_raw == 1


def test_median_clip_of_many_rows_is_nearly_exact() -> None:
    """With more rows than are sampled, the threshold is within 3 % (3 sigma) of the threshold from all rows.

    Amplitudes just below the lower and just above the upper edge of that range test this.
    """
    rng = np.random.default_rng(11)
    data = (rng.normal(size=(24, 1000, 3, 2)) + 1j * rng.normal(size=(24, 1000, 3, 2))).astype(np.complex64)
    amplitude = np.abs(data).reshape(-1, 3, 2)
    middle = np.median(amplitude, axis=0)
    limit = middle + 5 * 1.4826 * np.median(np.abs(amplitude - middle), axis=0)
    data[0, 0] = 0.97 * limit
    data[0, 1] = 1.03 * limit
    flags = np.zeros(data.shape, bool)
    flag_kernels.median_clip(data, flags, 5.0)
    assert not flags[0, 0].any()
    assert flags[0, 1].all()
    assert flags.mean() < 1e-3
