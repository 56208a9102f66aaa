"""Wide and moving interference: the statistic against its definition, and kinds of interference, found and left."""

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

from dsa110_assets.simulator import contamination, receiver
from dsa110_assets.simulator.options import FixedSource, SimulationOptions, parse_fault
from dsa110_assets.simulator.schedule import schedule
from dsa110_assets.simulator.simulate import simulate
from dsa110_assets.telescope import astrometry, band
from dsa110_assets.visibilities import coherence, flagging, phasing, reader
from dsa110_assets.visibilities.options import FlaggingOptions
from dsa110_assets.visibilities.types import Visibilities

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
    """What flagging makes of one kind: parts of samples, and how much noisier an image is than from noise alone."""

    caught: float
    lost: float
    noise: float
    noise_unflagged: float


@pytest.fixture(scope="module")
def clean(tmp_path_factory: pytest.TempPathFactory) -> Visibilities:
    return observed(tmp_path_factory.mktemp("clean"), OPTIONS)


@pytest.fixture(scope="module")
def judge(clean: Visibilities, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Case]:
    """Plant a fault's interference in the clean observation, flag it, compare with the truth and with noise alone."""
    empty = dataclasses.replace(OPTIONS, population=False, variables=False, calibrator="none")
    noise = observed(tmp_path_factory.mktemp("noise"), empty)
    group = schedule(OPTIONS)[0]
    gains, cross = contamination.gains(OPTIONS, group), ~clean.is_auto

    def make(text: str, engine: Literal["own", "aoflagger"] = "own") -> Case:
        truth = contamination.visibilities(dataclasses.replace(OPTIONS, faults=(parse_fault(text),)), group)
        dirty = dataclasses.replace(clean, data=clean.data + gains * truth[..., None])
        flagged, report = flagging.flag(dirty, FlaggingOptions(engine=engine))
        assert report.judged_wide == (engine == "own")
        bad, amplitude = flagged.flags[:, cross].any(axis=-1), np.abs(truth[:, cross])
        use = ~flagged.flags & cross[:, None, None]
        both = noise.data / gains + truth[..., None]
        alone = image_rms(noise, noise.data / gains, use)
        everything = np.broadcast_to(cross[:, None, None], use.shape)
        strong = amplitude > SIGMA_JY
        return Case(
            caught=float(bad[strong].sum() / max(np.count_nonzero(strong), 1)), lost=float(bad[amplitude == 0].mean()),
            noise=image_rms(noise, both, use) / alone, noise_unflagged=image_rms(noise, both, everything) / alone,
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
    """Of samples with more interference than a sigma of noise at most 2 % are left; an image is no noisier than 3 %.

    Left are the integration at either end, of which interference takes a part, and edge cells: of 8 cells and 17
    integrations 1 in 100. Clean data lost are one cell of 5.9 MHz on either side at most: 2 of the 24 cells that stay
    clean, over the time it lasts.
    """
    found = judge(text)
    assert found.caught > 0.98
    assert found.lost < 2 / 24
    assert found.noise < 1.03
    assert found.noise_unflagged > found.noise


@pytest.mark.parametrize("text", ["radar:*", "comb:*", "hopping:*"])
def test_narrow_and_short_interference_is_found(judge: Callable[..., Case], text: str) -> None:
    """At least as much is found as by AOFlagger, less than half as much of the clean data lost, and of the noise that
    interference made of an image a five-hundredth is left: the weak slopes of its spectrum on some baselines."""
    own, peer = judge(text), judge(text, "aoflagger")
    assert own.caught >= peer.caught - 0.001
    assert own.lost < 0.5 * peer.lost
    assert own.noise < 1 + own.noise_unflagged / 500


def test_what_is_left_raises_the_noise_by_little(judge: Callable[..., Case]) -> None:
    """From 0.1 to 500 Jy. Found is what is 6 sigma above noise in the largest windows, for all the time and 8 cells:
    6 x sqrt(70/36 / (276 baselines x 8 samples x 192 cells)) = 1.3 % of the noise power, over some gaps 2 %; sidelobes and
    averaging leave a third of the amplitude, so that is reached at 0.6 Jy of sigma 1.06. Weaker interference that stands
    still adds up in the image (to half of its noise at 0.3 Jy); above it is found but for edges, below 10 % of the noise.
    """
    for power in (1, 2, 5, 50, 500):
        assert judge(f"satellite:*:power_jy={power}").noise < 1.1, power
        assert judge(f"wide_rfi:*:power_jy={power},{ALWAYS}").noise < 1.1, power
    for power in (0.1, 0.3):
        weak = judge(f"wide_rfi:*:power_jy={power},{ALWAYS}")
        assert weak.noise < 1.5
        assert weak.noise < 1.01 * weak.noise_unflagged


@pytest.mark.parametrize("sources", [0, 1, 2])
def test_clean_data_are_left(sources: int, tmp_path: Path) -> None:
    """Without interference less than half a percent is lost, with one or two sources of 20 Jy drifting through too;
    the search for wide interference takes nothing: 6 sigma in some 1e5 windows are met once in 1e4 observations."""
    group = schedule(OPTIONS)[0]
    ra, dec = np.rad2deg(astrometry.meridian_icrs_rad([group.mjd_mid], np.deg2rad(OPTIONS.dec_deg))[0])
    fixed = FixedSource("one", ra + 0.3, dec + 0.2, 20.0), FixedSource("two", ra - 0.6, dec - 0.7, 20.0)
    vis = observed(tmp_path, dataclasses.replace(OPTIONS, fixed_sources=fixed[:sources], dead_receptors=1, dead_antennas=1))
    _, report = flagging.flag(vis)
    assert report.fraction < 0.005
    assert report.causes["coherent"] == 0
    assert report.judged_wide == 1


def test_powers_of_differences_against_their_definition() -> None:
    """Six baselines, some samples flagged: the sums of every cell, one by one."""
    rng = np.random.default_rng(5)
    shape = 3, 6, 40, 2
    data = (rng.normal(size=shape) + 1j * rng.normal(size=shape)).astype(np.complex64)
    flags = rng.random(shape) < 0.05
    flags[1:] = False
    ant1, ant2 = np.array([0, 0, 0, 1, 1, 2], np.int32), np.array([0, 1, 2, 1, 2, 2], np.int32)
    lengths = np.array([0, 100.0, 30.0, 0, 600.0, 0])
    state = coherence.Coherence(ant1, ant2, lengths, shape, 8, 244140.625, 12.885)
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


def test_the_scatter_of_noise_is_what_sigma_says() -> None:
    """Of a mean of n powers of second differences: sqrt(70/36 / n), from 4000 spectra of noise (1.1 % error, 4 sigma)."""
    rng = np.random.default_rng(6)
    noise = rng.normal(size=(4000, 2, 400)).view(np.float64)
    values = noise[:, 0] + 1j * noise[:, 1]
    power = np.abs(values[:, :-6] - 2 * values[:, 3:-3] + values[:, 6:]) ** 2 / 12
    assert power.mean() == pytest.approx(1, abs=0.01)
    n = power.shape[1]
    assert power.mean(axis=1).std() == pytest.approx(np.sqrt(70 / 36 / n), rel=0.05)


def test_windows_are_found_and_trimmed() -> None:
    """Noise with a block of 5 integrations and 6 cells, 4 sigma above it in each: found, and at most two columns beyond."""
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
    sums[0] *= 5  # not the noise that autocorrelations say: not judged
    assert not coherence.search(sums, number, 6.0)[0].any()
