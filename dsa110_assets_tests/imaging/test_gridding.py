"""The gridder against the measurement equation, evaluated directly."""

from __future__ import annotations

import numpy as np
import pytest

from dsa110_assets.imaging.gridding import Gridder

N_PIXELS = 64


def _uvw(n_rows: int = 180, w_lambda: float = 700.0) -> np.ndarray:
    """uvw in wavelengths: baselines of up to 2800, and w scaled to `w_lambda`."""
    return np.random.default_rng(3).uniform(-1, 1, (n_rows, 3)) * [2000.0, 2000.0, w_lambda]


def _directions(pixel_rad: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    offset = (np.arange(N_PIXELS) - N_PIXELS // 2) * pixel_rad
    m, l = np.meshgrid(offset, -offset, indexing="ij")
    return l, m, np.sqrt(1 - l**2 - m**2)


def _phase(uvw: np.ndarray, pixel_rad: float) -> np.ndarray:
    """(sample, ny, nx) phases of the telescope's sign, in FITS's orientation."""
    l, m, n = _directions(pixel_rad)
    return 2 * np.pi * (uvw[:, 0, None, None] * l + uvw[:, 1, None, None] * m + uvw[:, 2, None, None] * (n - 1))


@pytest.mark.parametrize(("field_deg", "w_lambda"), [(4.0, 700.0), (4.0, 90.0), (4.0, 20.0), (4.0, 0.0), (20.0, 700.0)])
@pytest.mark.parametrize("epsilon", [1e-2, 1e-3, 1e-4, 1e-5, 1e-6, 1e-8])
def test_image_and_visibilities_agree_with_the_direct_transform_to_epsilon(epsilon: float, field_deg: float, w_lambda: float) -> None:
    uvw = _uvw(w_lambda=w_lambda)
    pixel_rad = np.deg2rad(field_deg) / N_PIXELS
    rng = np.random.default_rng(5)
    image = rng.standard_normal((N_PIXELS, N_PIXELS))
    data = rng.standard_normal(180) + 1j * rng.standard_normal(180)
    weights = rng.uniform(0.5, 2, 180)
    phase = _phase(uvw, pixel_rad)
    gridder = Gridder(uvw, N_PIXELS, pixel_rad, epsilon)
    if w_lambda == 0:
        assert gridder.terms() == (epsilon >= 1e-5)
    elif field_deg == 20:
        assert gridder.terms() == 0
    elif w_lambda == 20 and epsilon >= 1e-4:
        assert 2 <= gridder.terms() <= 4

    direct_visibilities = np.einsum("kyx,yx->k", np.exp(1j * phase), image)
    direct_image = np.einsum("k,kyx->yx", weights * data, np.exp(-1j * phase)).real
    for ours, direct in (
        (gridder.to_visibilities(image), direct_visibilities),
        (gridder.to_image(data, weights), direct_image),
    ):
        assert np.linalg.norm(ours - direct) <= epsilon * np.linalg.norm(direct)


@pytest.mark.parametrize(("epsilon", "w_lambda", "tolerance"), [(9e-6, 700.0, 2e-13), (1e-4, 20.0, 2e-6), (1e-4, 700.0, 2e-6)])
def test_the_transforms_are_adjoint_to_rounding(epsilon: float, w_lambda: float, tolerance: float) -> None:
    """<V, A I> = <A' V, I>, whatever epsilon: 2e-13 in double precision (ducc's own test), 1e-7 times a few in single."""
    uvw = _uvw(w_lambda=w_lambda)
    rng = np.random.default_rng(6)
    image = rng.standard_normal((N_PIXELS, N_PIXELS))
    data = rng.standard_normal(180) + 1j * rng.standard_normal(180)
    gridder = Gridder(uvw, N_PIXELS, np.deg2rad(4) / N_PIXELS, epsilon)
    visibility_side = np.vdot(data, gridder.to_visibilities(image)).real
    image_side = np.vdot(gridder.to_image(data, np.ones(data.shape)), image)
    scale = np.linalg.norm(data) * np.linalg.norm(gridder.to_visibilities(image))
    assert visibility_side == pytest.approx(image_side, abs=tolerance * scale)


def test_a_flat_gridder_ignores_w() -> None:
    uvw = _uvw()
    image = np.random.default_rng(7).standard_normal((N_PIXELS, N_PIXELS))
    level = Gridder(uvw * [1, 1, 0], N_PIXELS, 1e-3, 1e-4).to_visibilities(image)
    # to rounding of complex64 in sums of 4096 pixels
    np.testing.assert_allclose(Gridder(uvw, N_PIXELS, 1e-3, 1e-4, flat=True).to_visibilities(image), level, atol=1e-3)


def test_single_precision_is_used_down_to_its_limit() -> None:
    ones = np.ones((N_PIXELS, N_PIXELS))
    for epsilon, expected in ((1e-5, np.complex64), (9e-6, np.complex128)):
        assert Gridder(_uvw(), N_PIXELS, 1e-3, epsilon).to_visibilities(ones).dtype == expected
