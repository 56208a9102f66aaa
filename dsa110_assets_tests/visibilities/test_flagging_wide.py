"""Wide and moving interference: the statistic against its definition, and the interference that is flagged and left."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
from ducc0 import wgridder
from numpy.typing import NDArray

from dsa110_assets.simulator import receiver
from dsa110_assets.simulator.options import FixedSource, SimulationOptions, parse_fault
from dsa110_assets.simulator.schedule import schedule
from dsa110_assets.simulator.simulate import simulate
from dsa110_assets.telescope import astrometry, band
from dsa110_assets.visibilities import coherence, flagging, phasing, reader, standing
from dsa110_assets.visibilities.options import FlaggingOptions
from dsa110_assets.visibilities.types import Visibilities
from dsa110_assets_tests.visibilities import contamination

OPTIONS = SimulationOptions(
    start="2026-01-26T04:52:00", groups=1, antennas=24, channels=8, seed=3, rfi_tones=0, rfi_bursts=0.0, dead_receptors=0,
    dead_antennas=0,
)  # fmt: skip
"""A calibrator of 8.6 Jy drifts through."""
SIGMA_JY = receiver.noise_sigma_jy(6500, band.channel_width_hz(8))
ALWAYS = "start_s=0,duration_s=400"


def observed(folder: Path, options: SimulationOptions) -> Visibilities:
    simulate(folder, options)
    return reader.read_group({int(path.stem[-2:]): path for path in folder.glob("*.hdf5")})


@dataclass
class Case:
    """The result of flagging one kind of interference: fractions of samples, and an image's rms over that from noise alone."""

    caught: float
    lost: float
    noise: float
    noise_unflagged: float


@pytest.fixture(scope="module")
def clean(tmp_path_factory: pytest.TempPathFactory) -> Visibilities:
    return observed(tmp_path_factory.mktemp("clean"), OPTIONS)


@pytest.fixture(scope="module")
def judge(clean: Visibilities, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Case]:
    """Add the faults' interference to the clean observation, flag it, and compare with the truth and with noise alone."""
    empty = dataclasses.replace(OPTIONS, population=False, variables=False, calibrator="none")
    noise = observed(tmp_path_factory.mktemp("noise"), empty)
    group = schedule(OPTIONS)[0]
    gains, cross = contamination.gains(OPTIONS, group), ~clean.is_auto

    def make(*texts: str, engine: Literal["own", "aoflagger"] = "own", rfi_tones: int = 0) -> Case:
        planted = dataclasses.replace(OPTIONS, faults=tuple(map(parse_fault, texts)), rfi_tones=rfi_tones)
        truth = contamination.visibilities(planted, group)
        dirty = dataclasses.replace(clean, data=clean.data + gains * truth[..., None])
        flagged, report = flagging.flag(dirty, FlaggingOptions(engine=engine))
        assert report.judged_wide == (engine == "own")
        bad, amplitude = flagged.flags[:, cross].any(axis=-1), np.abs(truth[:, cross])
        use = ~flagged.flags & cross[:, None, None]
        both = noise.data / gains + truth[..., None]
        noise_rms = image_rms(noise, noise.data / gains, use)
        everything = np.broadcast_to(cross[:, None, None], use.shape)
        strong = amplitude > SIGMA_JY
        return Case(
            caught=float(bad[strong].sum() / max(np.count_nonzero(strong), 1)), lost=float(bad[amplitude == 0].mean()),
            noise=image_rms(noise, both, use) / noise_rms, noise_unflagged=image_rms(noise, both, everything) / noise_rms,
        )  # fmt: skip

    return make


def image_rms(frame: Visibilities, data: NDArray[np.complex64], use: NDArray[np.bool_]) -> float:
    """Rms of the dirty image of Stokes I, natural weights, 256 pixels of 40 arcsec about the middle of the track."""
    phased = phasing.to_common_centre(dataclasses.replace(frame, data=np.ascontiguousarray(data)))
    good = use.all(axis=-1)
    values = np.where(good, phased.data.mean(axis=-1), 0).astype(np.complex64)
    n = values.shape[0] * values.shape[1]
    image = wgridder.vis2dirty(
        uvw=phased.uvw_m.reshape(n, 3), freq=phased.frequencies_hz, vis=values.reshape(n, -1), npix_x=256, npix_y=256,
        pixsize_x=40 / 206265, pixsize_y=40 / 206265, epsilon=1e-4, do_wgridding=False,
    )  # fmt: skip
    return float(image.std() / np.count_nonzero(good))


@pytest.mark.parametrize(
    "text",
    [
        "satellite:*:power_jy=3", "satellite:*:power_jy=30", "satellite:*:power_jy=1000", "satellite:*:power_jy=1000,rate_deg_s=0.3",
        "wide_rfi:*:power_jy=10", "wide_rfi:*:power_jy=300", f"wide_rfi:*:power_jy=3,{ALWAYS}", f"wide_rfi:*:power_jy=100,{ALWAYS}",
        f"satellite:*:power_jy=30,{ALWAYS},azimuth_deg=200,elevation_deg=60,width_mhz=20,centre_mhz=1381.05",
    ],
)  # fmt: skip
def test_wide_interference_is_found(judge: Callable[..., Case], text: str) -> None:
    """At most 2 % of the samples with interference above a sigma of noise are left, and an image is at most 3 % noisier.

    Left are the first and last integration, which interference covers in part, and edge cells: 1 in 100 for 8 cells and 17
    integrations. Edges are found to the channel: one channel, of the 33 at most that have interference, is just too weak and is
    left. Of clean channels 1 in 740 is taken for interference at 3 sigma, with those behind it, up to a cell of 4 and the 4 that its
    differences reach: at 2 edges 2 x 8 x 8 / 740 = 0.17 of the 95 clean channels, 0.2 %. A channel beside the interference is also
    flagged if it is a sigma above usual, 1 in 6 at each of 2 edges: 0.35 %, if only one sum over time judges the edge.
    """
    case = judge(text)
    assert case.caught > 0.98
    assert case.lost < 0.005
    assert case.noise < 1.03
    assert case.noise_unflagged > case.noise


@pytest.mark.parametrize("text", ["radar:*", "comb:*", "hopping:*"])
def test_narrow_and_short_interference_is_found(judge: Callable[..., Case], text: str) -> None:
    """At least as much interference is found as by AOFlagger, and less than a tenth as much clean data is lost: 0.5 %. Between hops
    this consists of 1 in 6 of 66 channels in 2801, those a sigma above usual, and 0.2 % that single baselines flag. The whole array
    finds what single baselines and antennas leave: an image is at most 3 % noisier."""
    own, peer = judge(text), judge(text, engine="aoflagger")
    assert own.caught >= peer.caught - 0.001
    assert own.lost < 0.1 * peer.lost
    assert own.lost < 0.005
    assert own.caught > 0.99
    assert own.noise < 1.03


def test_hops_within_steady_interference_do_not_hide_it(judge: Callable[..., Case]) -> None:
    """The amplitude backgrounds contain a satellite that lasts 200 of 309 s, so they cannot show it between hops. With hops added, no
    more of both is left than of the satellite alone: 2 %, and an image is at most 3 % noisier."""
    case = judge("satellite:*", "hopping:*")
    assert case.caught > 0.98
    assert case.noise < 1.03


@pytest.mark.parametrize("wide", ["wide_rfi:*:power_jy=100", "satellite:*:power_jy=30", f"wide_rfi:*:power_jy=3,{ALWAYS}"])
@pytest.mark.parametrize("cell", [15, 16, 19])
def test_a_carrier_hides_no_wide_interference(judge: Callable[..., Case], clean: Visibilities, wide: str, cell: int) -> None:
    """A carrier lies on the border of two cells, in the middle of the 35 MHz or at their edge. The differences of four cells contain it,
    so none of them can show the wide interference. No more is left, or lost, than without it: 2 % and 0.5 %; an image is at most 3 %
    noisier."""
    border = clean.frequencies_hz[4 * cell - 1 : 4 * cell + 1].mean() / 1e6
    centre = clean.frequencies_hz[63:65].mean() / 1e6
    case = judge(f"{wide},centre_mhz={centre:.4f}", f"wide_rfi:*:power_jy=300,width_mhz=2,centre_mhz={border:.4f},{ALWAYS}")
    assert case.caught > 0.98
    assert case.lost < 0.005
    assert case.noise < 1.03


@pytest.mark.parametrize("wide", ["wide_rfi:*:power_jy=100", "satellite:*:power_jy=100"])
@pytest.mark.parametrize("tones", [2, 6, 12])
def test_carriers_anywhere_hide_no_wide_interference(judge: Callable[..., Case], wide: str, tones: int) -> None:
    """Two carriers are the simulation's default; twelve remove most cells from the search by antennas. At most 2 % of both kinds are
    left, and an image is at most 5 % noisier. Edges in such cells are located by fewer differences, so up to 2 % of clean data are lost."""
    case = judge(wide, rfi_tones=tones)
    assert case.caught > 0.98
    assert case.lost < 0.02
    assert case.noise < 1.05


def test_a_comb_hides_no_wide_interference(judge: Callable[..., Case]) -> None:
    """Lines every 10 MHz, seven channels here, remove every cell from the search by antennas; the channels between the lines show the
    satellite. Some 5 % of the clean data are lost at the satellite's edges, up to the distance from one line to the next."""
    case = judge("satellite:*", "comb:*")
    assert case.caught > 0.98
    assert case.lost < 0.1
    assert case.noise < 1.03


def test_remaining_interference_raises_the_noise_little(judge: Callable[..., Case]) -> None:
    """From 1 to 500 Jy. Interference is found if it is 6 sigma above noise in the largest windows, which span all the time and 8 cells:
    6 x sqrt(70/36 / (276 baselines x 8 samples x 192 cells)) = 1.3 % of the noise power, 2 % with some gaps. Sidelobes and
    averaging leave a third of the amplitude, so this is reached at 0.6 Jy of sigma 1.06. Above that, all is found except edges, below
    10 % of the noise.
    """
    for power in (1, 5, 10, 50, 500):
        for text in (f"satellite:*:power_jy={power}", f"wide_rfi:*:power_jy={power},{ALWAYS}"):
            case = judge(text)
            assert case.noise < 1.1, text
            assert case.lost < 0.005, text


@pytest.mark.parametrize("power_jy", [0.15, 0.2, 0.3, 0.6])
def test_weak_steady_interference_is_found(judge: Callable[..., Case], power_jy: float) -> None:
    """The data are averaged over 24 integrations on the 136 of 276 baselines that see the interference. 6 sigma of 8 cells of 4 channels
    are 6 x sqrt(70/36 / (136 x 2 x 32)) = 9 % of the mean's noise power, which 0.1 Jy reaches and 0.15 Jy exceeds twice over. The
    remainder, the flanks outside its cells, is weaker: an image is at most 3 % noisier, and less noisy than with all samples. At
    0.15 Jy this gain is no larger than the loss from flagging a quarter of the samples."""
    case = judge(f"wide_rfi:*:power_jy={power_jy},{ALWAYS}")
    assert case.noise < 1.03
    assert case.noise < case.noise_unflagged
    assert case.lost < 0.005


def test_interference_that_is_too_weak_is_left(judge: Callable[..., Case]) -> None:
    """Interference of a third of the detectable power adds less than 2 % to an image's noise, and nothing is flagged for it."""
    case = judge(f"wide_rfi:*:power_jy=0.03,{ALWAYS}")
    assert case.noise_unflagged < 1.02
    assert case.lost == 0


@pytest.mark.parametrize("sources", [0, 1, 2])
def test_clean_data_are_left(sources: int, tmp_path: Path) -> None:
    """Without interference less than half a percent is lost, also with one or two sources of 20 Jy drifting through the beam.
    The search for wide interference flags nothing: 6 sigma in some 1e5 windows occur once in 1e4 observations."""
    group = schedule(OPTIONS)[0]
    ra, dec = np.rad2deg(astrometry.meridian_icrs_rad([group.mjd_mid], np.deg2rad(OPTIONS.dec_deg))[0])
    fixed = FixedSource("one", ra + 0.3, dec + 0.2, 20.0), FixedSource("two", ra - 0.6, dec - 0.7, 20.0)
    vis = observed(tmp_path, dataclasses.replace(OPTIONS, fixed_sources=fixed[:sources], dead_receptors=1, dead_antennas=1))
    _, report = flagging.flag(vis)
    assert report.fraction < 0.005
    assert report.causes["coherent"] == 0
    assert report.judged_wide == 1


def test_powers_of_differences_against_their_definition() -> None:
    """Six baselines, some samples flagged: the sums of every cell are computed one by one."""
    rng = np.random.default_rng(5)
    shape = 3, 6, 40, 2
    data = (rng.normal(size=shape) + 1j * rng.normal(size=shape)).astype(np.complex64)
    flags = rng.random(shape) < 0.05
    flags[1:] = False
    ant1, ant2 = np.array([0, 0, 0, 1, 1, 2], np.int32), np.array([0, 1, 2, 1, 2, 2], np.int32)
    lengths, rates = np.array([0, 100.0, 30.0, 0, 600.0, 0]), np.array([0, 0.1, 2.0, 0, 0, 0])
    state = coherence.Coherence(ant1, ant2, lengths, rates, shape, 8, 244140.625, 12.885)
    state.add(np.arange(4), data[:, :4], np.ascontiguousarray(flags[:, :4]))
    state.add(np.arange(4, 6), data[:, 4:], np.ascontiguousarray(flags[:, 4:]))
    np.testing.assert_array_equal(state._lags, [0, 6, 8, 0, 0, 0])  # half a turn: c / (2 b dnu); at most a cell
    for b in range(6):
        lag = state._lags[b]
        for t, cell, pol in np.ndindex(3, 5, 2):
            power, number = 0.0, 0
            for k in range(cell * 8, cell * 8 + 8):
                if lag and lag <= k < 40 - lag and not flags[t, b, [k - lag, k, k + lag], pol].any():
                    power += abs(data[t, b, k - lag, pol] - 2 * data[t, b, k, pol] + data[t, b, k + lag, pol]) ** 2
                    number += 1
            assert state._counts[b, t, cell, pol] == number
            assert state._powers[b, t, cell, pol] == pytest.approx(power, rel=1e-5)


def test_powers_of_means_against_their_definition() -> None:
    """Four baselines, a twentieth of the samples flagged: differences of means over time, scaled to the noise of a single sample."""
    rng = np.random.default_rng(8)
    shape = 6, 4, 40, 2
    data = (rng.normal(size=shape) + 1j * rng.normal(size=shape)).astype(np.complex64)
    data[:, 3] += 1e3
    flags = rng.random(shape) < 0.05
    flags[:4, 0, 20] = True  # more than half of the time
    lags, rates = np.array([3, 0, 3, 3], np.int32), np.array([0.1, 0.1, 0.8, 0.1])
    state = standing.Standing(lags, rates, 40)
    for part in (np.arange(2), np.arange(2, 4)):
        rows = np.ascontiguousarray(flags[:, part]).reshape(6, 2, -1).view(np.uint8)
        state.add(part, np.ascontiguousarray(data[:, part]).reshape(6, 2, -1).view(np.float32), rows)
    narrowband = np.zeros((4, 40), np.bool_)
    narrowband[0, 11] = True
    powers, counts = state.powers(8, 6, 1e-3, narrowband)
    number = (~flags).sum(axis=0)
    mean = np.where(flags, 0, data).sum(axis=0) / np.maximum(number, 1)
    for cell, pol in np.ndindex(5, 2):
        power, samples = 0.0, 0
        for k in range(max(cell * 8, 3), min(cell * 8 + 8, 37)):
            n = number[0, [k - 3, k, k + 3], pol]
            if (n >= 3).all() and 11 not in (k - 3, k, k + 3):
                power += abs(mean[0, k - 3, pol] - 2 * mean[0, k, pol] + mean[0, k + 3, pol]) ** 2 * 6 / (1 / n @ [1, 4, 1])
                samples += 1
        assert counts[0, 0, cell, pol] == samples
        assert powers[0, 0, cell, pol] == pytest.approx(power, rel=1e-4)
    assert not counts[1:].any()  # a baseline without a lag; one whose phase turns; one with a source too bright


def test_powers_of_all_baselines_against_their_definition() -> None:
    """Six baselines, each in units of the median of its cells, without differences that include channels marked on two antennas."""
    rng = np.random.default_rng(11)
    shape, ant1, ant2 = (3, 6, 40, 2), np.array([0, 0, 0, 1, 1, 2], np.int32), np.array([0, 1, 2, 1, 2, 2], np.int32)
    data = (rng.normal(size=shape) + 1j * rng.normal(size=shape)).astype(np.complex64)
    lengths = np.array([0, 100.0, 30.0, 0, 60.0, 0])
    state = coherence.Coherence(ant1, ant2, lengths, 0 * lengths, shape, 8, 1e6, 12.885)
    state.add(np.arange(6), data, np.zeros(shape, np.bool_))
    marked = np.zeros((3, 3, 40), np.bool_)
    marked[:2, 1, 17], marked[0, 2, 30] = True, True  # the latter on one antenna only
    sums, numbers = state._edges.cells(marked, np.ones(40), 8)
    expected, count = np.zeros((3, 5)), np.zeros((3, 5))
    for b, t, pol in np.ndindex(6, 3, 2):
        lag = int(state._lags[b])
        if lag == 0:
            continue
        x = data[t, b, :, pol]
        power = {k: abs(x[k - lag] - 2 * x[k] + x[k + lag]) ** 2 for k in range(lag, 40 - lag)}
        unit = np.median([np.mean([v for k, v in power.items() if k // 8 == cell]) for cell in range(5)])
        for k, value in power.items():
            if t != 1 or 17 not in (k - lag, k, k + lag):
                expected[t, k // 8] += value / unit
                count[t, k // 8] += 1
    np.testing.assert_array_equal(numbers[0], count)
    np.testing.assert_allclose(sums[0], expected, rtol=1e-5)


def test_edges_are_found_to_the_channel() -> None:
    """Noise of 28 baselines, 24 integrations and 96 channels, with 10 sigma in 28 of these for half of the time.

    The marks cover 8 more channels on either side, and 2 more integrations. These are all declared clean except those 3 sigma above
    usual, or 1 sigma beside the interference. No sample with interference is declared clean: its first channel has 100 / 6 of the noise
    power.
    """
    rng = np.random.default_rng(9)
    ant1, ant2 = (values.astype(np.int32) for values in np.triu_indices(8))
    shape = 24, ant1.size, 96, 2
    data = (rng.normal(size=shape) + 1j * rng.normal(size=shape)) / np.sqrt(2)
    data[:12, :, 40:68] += 10 * np.exp(2j * np.pi * rng.random((1, ant1.size, 28, 1)))
    lengths = np.where(ant1 == ant2, 0, 100.0)
    state = coherence.Coherence(ant1, ant2, lengths, 0 * lengths, shape, 8, 1e6, 1.0)
    state.add(np.arange(ant1.size), data.astype(np.complex64), np.zeros(shape, np.bool_))
    marks = np.zeros((24, 96), np.bool_)
    marks[:14, 32:76] = True
    clean, rest = state._edges.judge(marks.astype(float), np.zeros((8, 24, 96), np.bool_), np.ones(96), np.full(marks.shape, np.nan))
    assert not rest.any()
    assert not clean[:12, 40:68].any()
    free = marks.copy()
    free[:12, 40:68] = False
    assert clean[free].mean() > 0.9
    assert not clean[~marks].any()


def test_channels_between_hops_are_judged_by_amplitudes() -> None:
    """Noise of 28 baselines, 24 integrations and 96 channels. Every second integration has 10 sigma in two ranges 4 channels apart,
    which all antennas see, and 1 sigma in the channel after the second range, which no antenna sees by itself.

    Between the ranges noise alone has an excess of -2 to 1 sigma in 82 % of 48 samples, with a scatter of 6 %: 60 % is 4 scatters less.
    The channel after the second range has (1.28 - 0.89) / 0.46 sigma in the mean (of a Rice distribution), times sqrt(56) for 56
    samples: 6.4, with a scatter of 1.3, above 3 in 99 %: 90 % is 3 scatters of 12 samples less. If the background is above the samples
    that are not marked, nothing is clean.
    """
    rng = np.random.default_rng(10)
    ant1, ant2 = (values.astype(np.int32) for values in np.triu_indices(8))
    shape, cross = (24, ant1.size, 96, 2), ant1 != ant2
    data = (rng.normal(size=shape) + 1j * rng.normal(size=shape)) / np.sqrt(2)
    power = np.zeros((24, 96))
    power[::2, 40:46], power[::2, 50:56], power[::2, 56] = 10, 10, 1
    data += power[:, None, :, None] * np.exp(2j * np.pi * rng.random((1, ant1.size, 96, 1)))
    lengths = np.where(cross, 100.0, 0.0)
    state = coherence.Coherence(ant1, ant2, lengths, 0 * lengths, shape, 8, 1e6, 1.0)
    state.add(np.arange(ant1.size), data.astype(np.complex64), np.zeros(shape, np.bool_))
    excess = (np.abs(data[:, cross]) - np.sqrt(np.pi / 4)) / np.sqrt(1 - np.pi / 4)
    amplitudes = excess.sum(axis=(1, 3)) / np.sqrt(2 * cross.sum())
    part = np.zeros((24, 96))
    part[::2, 40:56] = 1
    nothing = np.zeros((8, 24, 96), np.bool_)
    clean, rest = state._edges.judge(part, nothing, np.ones(96), amplitudes)
    assert clean[::2, 46:50].mean() > 0.6
    assert not clean[power > 0].any()
    assert not clean[1::2].any()
    assert rest[::2, 56].mean() > 0.9
    assert not rest[:, :40].any()
    above = amplitudes.copy()
    above[1::2, 36:60] -= 8
    assert not state._edges.judge(part, nothing, np.ones(96), above)[0].any()


def test_the_scatter_of_noise_agrees_with_sigma() -> None:
    """The mean of n powers of second differences scatters by sqrt(70/36 / n), from 4000 spectra of noise (1.1 % error, 4 sigma)."""
    rng = np.random.default_rng(6)
    noise = rng.normal(size=(4000, 2, 400)).view(np.float64)
    values = noise[:, 0] + 1j * noise[:, 1]
    power = np.abs(values[:, :-6] - 2 * values[:, 3:-3] + values[:, 6:]) ** 2 / 12
    assert power.mean() == pytest.approx(1, abs=0.01)
    n = power.shape[1]
    assert power.mean(axis=1).std() == pytest.approx(np.sqrt(70 / 36 / n), rel=0.05)


def test_windows_are_found_and_trimmed() -> None:
    """A block of 5 integrations and 6 cells, each 4 sigma above the noise, is found, with at most two columns beyond it."""
    rng = np.random.default_rng(7)
    number = np.full((3, 24, 32), 400.0)
    sums = number * (1 + rng.normal(size=number.shape) * np.sqrt(70 / 36 / 400))
    block = np.s_[1, 8:13, 10:16]
    sums[block] += number[block] * 4 * np.sqrt(70 / 36 / 400)
    hits = coherence.search(sums, number, 6.0)
    assert not hits[[0, 2]].any()
    assert hits[block].mean() > 0.9
    outside = hits[1].copy()
    outside[8:13, 10:16] = False
    assert outside.sum() <= 10
    sums[0] *= 5  # does not agree with the noise from the autocorrelations: not judged
    assert not coherence.search(sums, number, 6.0)[0].any()
