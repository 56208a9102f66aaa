"""The clipped statistics of a box, against the same by definition."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from dsa110_assets.photometry import noise


def by_definition(values: NDArray[np.float64]) -> tuple[float, float, int]:
    """Median, 1.4826 MAD and number of what is left within 3 sigma of the median, clipped again and again."""
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
    """To the last bit: the same numbers are subtracted and halved."""
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
