"""The gridder against the measurement equation, evaluated directly."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.constants import speed_of_light

from dsa110_assets.imaging.gridding import Gridder

N_PIXELS = 64
FREQUENCIES_HZ = np.linspace(1.31e9, 1.5e9, 3)


def _uvw(n_rows: int = 60) -> np.ndarray:
    rng = np.random.default_rng(3)
    return rng.uniform(-1, 1, (n_rows, 3)) * [400.0, 400.0, 150.0]


def _directions(pixel_rad: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    offset = (np.arange(N_PIXELS) - N_PIXELS // 2) * pixel_rad
    m, l = np.meshgrid(offset, -offset, indexing="ij")
    return l, m, np.sqrt(1 - l**2 - m**2)


def _phase(uvw: np.ndarray, pixel_rad: float) -> np.ndarray:
    """(row, channel, ny, nx) phases of the telescope's sign, in FITS's orientation."""
    l, m, n = _directions(pixel_rad)
    path = uvw[:, 0, None, None] * l + uvw[:, 1, None, None] * m + uvw[:, 2, None, None] * (n - 1)
    return 2 * np.pi * path[:, None] * FREQUENCIES_HZ[None, :, None, None] / speed_of_light


@pytest.mark.parametrize("field_deg", [4.0, 20.0])
@pytest.mark.parametrize("epsilon", [1e-2, 1e-3, 1e-4, 1e-5, 1e-6, 1e-8])
def test_image_and_visibilities_agree_with_the_direct_transform_to_epsilon(
    epsilon: float, field_deg: float
) -> None:
    uvw = _uvw()
    pixel_rad = np.deg2rad(field_deg) / N_PIXELS
    rng = np.random.default_rng(5)
    image = rng.standard_normal((N_PIXELS, N_PIXELS))
    data = rng.standard_normal((60, 3)) + 1j * rng.standard_normal((60, 3))
    weights = rng.uniform(0.5, 2, (60, 3))
    phase = _phase(uvw, pixel_rad)
    gridder = Gridder(uvw, FREQUENCIES_HZ, N_PIXELS, pixel_rad, epsilon)

    direct_visibilities = np.einsum("rcyx,yx->rc", np.exp(1j * phase), image)
    direct_image = np.einsum("rc,rcyx->yx", weights * data, np.exp(-1j * phase)).real
    for ours, direct in (
        (gridder.to_visibilities(image), direct_visibilities),
        (gridder.to_image(data, weights), direct_image),
    ):
        assert np.linalg.norm(ours - direct) <= epsilon * np.linalg.norm(direct)


def test_the_transforms_are_adjoint_to_rounding() -> None:
    """<V, A I> = <A' V, I>, whatever epsilon: 2e-13 in double precision (ducc's own test)."""
    uvw = _uvw()
    rng = np.random.default_rng(6)
    image = rng.standard_normal((N_PIXELS, N_PIXELS))
    data = rng.standard_normal((60, 3)) + 1j * rng.standard_normal((60, 3))
    gridder = Gridder(uvw, FREQUENCIES_HZ, N_PIXELS, np.deg2rad(4) / N_PIXELS, 9e-6)
    left = np.vdot(data, gridder.to_visibilities(image)).real
    right = np.vdot(gridder.to_image(data, np.ones(data.shape)), image)
    assert left == pytest.approx(right, rel=2e-13, abs=2e-13 * np.linalg.norm(data) * np.linalg.norm(image))


def test_single_precision_is_used_and_delivers_down_to_its_limit() -> None:
    gridder = Gridder(_uvw(), FREQUENCIES_HZ, N_PIXELS, 1e-3, 1e-5)
    assert gridder.to_visibilities(np.ones((N_PIXELS, N_PIXELS))).dtype == np.complex64
    assert (
        Gridder(_uvw(), FREQUENCIES_HZ, N_PIXELS, 1e-3, 9e-6)
        .to_visibilities(np.ones((N_PIXELS, N_PIXELS)))
        .dtype
        == np.complex128
    )
