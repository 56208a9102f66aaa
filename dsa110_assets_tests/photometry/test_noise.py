"""The clipped statistics of a box against their definition."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from dsa110_assets.photometry import noise


def by_definition(values: NDArray[np.float64]) -> tuple[float, float, int]:
    """Median, 1.4826 MAD and number of the values within 3 sigma of the median, clipped repeatedly."""
    for _ in range(10):
        median = float(np.median(values))
        sigma = 1.482602 * float(np.median(np.abs(values - median)))
        inside = values[np.abs(values - median) <= noise._CLIP * sigma]
        if inside.size in (values.size, 0, 1, 2):
            break
        values = inside
    return median, sigma, values.size


@pytest.mark.parametrize("n", [1, 2, 3, 4, 40, 41, 3600])
@pytest.mark.parametrize("kind", ["noise", "sources", "ties", "all the same", "skewed"])
def test_clipped_statistics_are_those_of_the_definition(n: int, kind: str) -> None:
    """They agree to the last bit, because the same numbers are subtracted and halved."""
    rng = np.random.default_rng(n)
    values = {
        "noise": rng.normal(0.3, 1.0, n),
        "sources": rng.normal(size=n) + 50 * (rng.random(n) < 0.1),
        "ties": rng.integers(-3, 4, n).astype(float),
        "all the same": np.full(n, 2.5),
        "skewed": rng.exponential(size=n) ** 3,
    }[kind]
    median, sigma, low, high = noise._clipped(np.sort(values))
    assert (median, sigma, high - low) == by_definition(values)


FORM = np.array([8 * np.log(2) / 36.0, 0.0, 8 * np.log(2) / 36.0])
"""A round beam of 6 pixels FWHM."""


def smooth_noise(shape: tuple[int, int], seed: int) -> NDArray[np.float32]:
    """Unit noise correlated like the beam."""
    white = np.random.default_rng(seed).standard_normal(shape)
    image = gaussian_filter(white, 6 / np.sqrt(8 * np.log(2)), mode="wrap")
    return (image / image.std()).astype(np.float32)


def measured(image: NDArray[np.float32]) -> noise.LocalNoise:
    return noise.measure_noise(image, np.ones_like(image), FORM, 16.0, 2.0, True)


def test_noise_alone_is_its_scatter(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 20,000 beams a fraction of 3e-7 is below -5 sigma. The scatter over a square of 800 pixels averages 20,000 beams: 1 to 1 %."""
    image = smooth_noise((800, 800), 4)
    scale = measured(image).scale
    assert abs(float(scale.mean()) - 1) < 0.03
    monkeypatch.setattr(noise, "_DEEP", np.inf)
    np.testing.assert_array_equal(scale, measured(image).scale)


def test_the_local_noise_follows_the_deepest_troughs() -> None:
    """One box has peaks of both signs, at most 12 sigma: its noise is a fifth of the deepest trough, and elsewhere it is the scatter."""
    image = smooth_noise((800, 800), 5)
    rng = np.random.default_rng(6)
    for sign in (1, -1) * 6:
        y, x = rng.integers(390, 470, 2)
        kernel = noise.gaussian_kernel(FORM, (9, 9))
        image[y - 9 : y + 10, x - 9 : x + 10] += np.float32(sign * rng.uniform(8, 12)) * kernel.astype(np.float32)
    local = measured(image)
    deepest = -float(image.min())
    assert deepest > 8
    x, y = (grid.ravel().astype(float) for grid in np.meshgrid(np.arange(390, 470), np.arange(390, 470)))
    background, scale = local.at(x, y)
    assert scale.min() == pytest.approx((deepest + float(np.median(background))) / 5, rel=0.02)
    assert (image[390:470, 390:470].ravel() / scale).max() < 5 * 12 / 8  # the highest peak over the deepest trough
    far = np.array([100.0, 700.0])
    np.testing.assert_allclose(local.at(far, far)[1], 1, atol=4 * 0.045)
