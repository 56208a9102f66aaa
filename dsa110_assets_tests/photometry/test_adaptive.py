"""Adaptive bins: the fewest channels that suffice, without the bias of bins chosen by their noise."""

from __future__ import annotations

import numpy as np
import pytest

from dsa110_assets.photometry.adaptive import join


def test_bins_have_the_fewest_channels_that_suffice() -> None:
    """Flux 1 with error 0.2: 5 sigma a channel, so four channels for 10 sigma. The last channels, too few, join the bin before."""
    frequencies = np.arange(16.0)
    bins = join(np.ones(14), np.full(14, 0.2), frequencies[:14], 10.0)
    assert [(one.first, one.last, one.count) for one in bins] == [(0, 3, 4), (4, 7, 4), (8, 13, 6)]
    assert [one.snr for one in bins[:2]] == pytest.approx([10, 10])
    assert bins[0].frequency_hz == 1.5
    assert len(join(np.ones(16), np.full(16, 0.1), frequencies, 10.0)) == 16
    (full_bin,) = join(np.ones(16), np.full(16, 0.2), frequencies, 100.0)
    assert (full_bin.count, full_bin.snr) == (16, pytest.approx(20))


def test_missing_channels_count_for_nothing() -> None:
    flux, error = np.array([np.nan, 1.0, 1.0, np.nan, 3.0]), np.array([0.1, 0.1, 0.2, 0.1, np.nan])
    (joined,) = join(flux, error, np.arange(5.0), 12.0)
    assert (joined.first, joined.last, joined.count) == (1, 2, 2)
    assert joined.flux_jy == pytest.approx(1.0)
    assert joined.flux_err_jy == pytest.approx(1 / np.sqrt(100 + 25))
    assert joined.frequency_hz == pytest.approx(1.2)
    assert join(np.full(3, np.nan), np.ones(3), np.arange(3.0), 5.0) == []


def test_joined_fluxes_are_not_biased_and_their_errors_right() -> None:
    """A spectrum of index -0.7 over 13 % of bandwidth, 3 sigma a channel, joined to 6: pulls over 1,500 sources are normal.

    With about 4 bins each there are 6,000 pulls, whose sd has an error of 0.009 and whose mean one of 0.013; four times these are allowed.
    A source counts once in the mean, because one whose noise is high has more bins. A bin's truth is the mean of the spectrum with the
    bin's weights."""
    rng = np.random.default_rng(3)
    frequencies = np.linspace(1.31e9, 1.49e9, 16)
    truth = (frequencies / 1.4e9) ** -0.7
    error = rng.uniform(0.25, 0.45, 16)
    pulls, means = [], []
    for _ in range(1500):
        before = len(pulls)
        for joined in join(truth + error * rng.normal(size=16), error, frequencies, 6.0):
            part = slice(joined.first, joined.last + 1)
            expected = np.average(truth[part], weights=error[part] ** -2)
            pulls.append((joined.flux_jy - expected) / joined.flux_err_jy)
        means.append(np.mean(pulls[before:]))
    assert len(pulls) > 4000
    assert abs(np.mean(means)) < 0.052
    assert abs(np.std(pulls) - 1) < 0.04
