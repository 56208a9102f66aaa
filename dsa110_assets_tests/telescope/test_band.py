"""The frequency table against the correlator's formula and its published channel centres."""

import numpy as np
import pytest

from dsa110_assets.telescope import band


@pytest.mark.parametrize(
    ("subband", "first_mhz", "last_mhz"),
    [(0, 1498.643188477, 1487.168579102), (7, 1416.611938, 1405.137329), (15, 1322.861938, 1311.387329)],
)
def test_channel_centres_are_the_writers(subband: int, first_mhz: float, last_mhz: float) -> None:
    """Values from a run of the telescope's writer, quoted to 1e-6 MHz: 1 Hz."""
    frequencies = band.subband_frequencies_hz(subband)
    assert frequencies.shape == (48,)
    assert abs(frequencies[0] / 1e6 - first_mhz) < 1e-6
    assert abs(frequencies[-1] / 1e6 - last_mhz) < 1e-6


def test_band_is_ascending_even_and_complete() -> None:
    frequencies = band.band_frequencies_hz()
    assert frequencies.size == 768
    np.testing.assert_array_equal(np.diff(frequencies), 244140.625)  # exact in binary
    assert abs(frequencies.mean() - 1405.0153e6) < 50  # published to 100 Hz
    assert frequencies[-1] == band.subband_frequencies_hz(0)[0]


@pytest.mark.parametrize("n_channels", [1, 4, 8, 48, 384])
def test_coarser_channels_are_means_of_the_fine_ones(n_channels: int) -> None:
    fine = band.subband_frequencies_hz(5, 384)
    expected = fine.reshape(n_channels, -1).mean(axis=1)
    np.testing.assert_allclose(band.subband_frequencies_hz(5, n_channels), expected, rtol=1e-15)


@pytest.mark.parametrize("call", [lambda: band.channel_width_hz(7), lambda: band.subband_frequencies_hz(16)])
def test_wrong_arguments_are_refused(call) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(ValueError, match="must"):
        call()


def test_every_channel_belongs_to_its_subband() -> None:
    for subband in range(16):
        assert {band.subband_of(f) for f in band.subband_frequencies_hz(subband, 384)} == {subband}


@pytest.mark.parametrize("frequency_hz", [1.28e9, 1.4990e9])
def test_outside_the_band_is_refused(frequency_hz: float) -> None:
    with pytest.raises(ValueError, match="outside"):
        band.subband_of(frequency_hz)
