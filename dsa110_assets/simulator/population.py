"""The random population of sources, which depends only on seed and ICRS position."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from dsa110_assets.simulator.options import SimulationOptions
from dsa110_assets.sky.model import SkyModel
from dsa110_assets.sky.names import position_name

_LOG_FLUX = np.log10([1e-4, 1e-3, 0.0025, 0.005, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 100.0])
_LOG_COUNTS = np.log10([1500, 105, 53, 30, 16.9, 6.6, 1.75, 0.40, 0.055, 0.0085, 0.0009, 2e-5])
"""Integral 1.4 GHz counts N(>S) per square degree against S [Jy], interpolated by power laws: NVSS above 2.5 mJy (Blake
& Wall 2002, Condon et al. 1998), deep fields below."""

_CELL_DEG = 1.0
_STREAM_POPULATION = 3
_INDEX_MEAN, _INDEX_SCATTER = -0.7, 0.2
Float = NDArray[np.float64]


def counts_per_deg2(flux_jy: float) -> float:
    """Sources per square degree brighter than `flux_jy` [Jy, 1e-4 to 100] at 1.4 GHz."""
    return float(10 ** np.interp(np.log10(flux_jy), _LOG_FLUX, _LOG_COUNTS))


def population(options: SimulationOptions, cells: list[tuple[int, int]]) -> SkyModel:
    """The sources of the given sky cells. Names are 'SIM' plus the ICRS position, spectral indices -0.7 +- 0.2."""
    parts = [_cell_sources(options, *cell) for cell in cells]
    stacked = np.concatenate(parts) if parts else np.zeros((0, 4))
    ra_deg, dec_deg, flux, index = stacked.T
    return SkyModel(
        names=tuple(position_name("SIM", a, d) for a, d in zip(ra_deg, dec_deg, strict=True)),
        ra_rad=np.deg2rad(ra_deg),
        dec_rad=np.deg2rad(dec_deg),
        flux_jy=flux,
        spectral_index=index,
    )


def cells_near(ra_rad: Float, dec_rad: Float, radius_deg: float) -> list[tuple[int, int]]:
    """The cells (declination row, number in the row) that may contain a point within the radius of any direction."""
    cells: set[tuple[int, int]] = set()
    for ra, dec in zip(np.rad2deg(ra_rad) % 360, np.rad2deg(dec_rad), strict=True):
        for row in range(_row(max(dec - radius_deg, -90.0)), _row(min(dec + radius_deg, 90.0)) + 1):
            n = _cells_in_row(row)
            far_dec = min(abs(row * _CELL_DEG - 90) + _CELL_DEG, 90.0)
            ratio = np.sin(np.deg2rad(radius_deg)) / max(np.cos(np.deg2rad(far_dec)), 1e-9)
            half = 180.0 if ratio >= 1 else min(np.rad2deg(np.arcsin(ratio)) + 360.0 / n, 180.0)
            first, last = int(np.floor((ra - half) / 360 * n)), int(np.floor((ra + half) / 360 * n))
            cells.update((row, k % n) for k in range(first, last + 1))
    return sorted(cells)


def _row(dec_deg: float) -> int:
    return int(min(np.floor((dec_deg + 90) / _CELL_DEG), 180 / _CELL_DEG - 1))


def _cells_in_row(row: int) -> int:
    """Number of cells in a row; cells are about one square degree in size."""
    return max(1, round(360 / _CELL_DEG * float(np.cos(np.deg2rad((row + 0.5) * _CELL_DEG - 90)))))


def _cell_sources(options: SimulationOptions, row: int, number: int) -> Float:
    """(n, 4): ra, dec [deg], flux at 1.4 GHz [Jy], spectral index; uniform on the sphere inside the cell."""
    rng = np.random.default_rng([options.seed, _STREAM_POPULATION, row, number])
    n_cells = _cells_in_row(row)
    low, high = np.sin(np.deg2rad(np.array([row, row + 1]) * _CELL_DEG - 90))
    area = (high - low) * 360 / n_cells * 180 / np.pi
    brighter_min, brighter_max = counts_per_deg2(options.flux_min_jy), counts_per_deg2(options.flux_max_jy)
    n = int(rng.poisson(options.source_density * area * (brighter_min - brighter_max)))
    ra = (number + rng.uniform(size=n)) * 360 / n_cells
    dec = np.rad2deg(np.arcsin(rng.uniform(low, high, size=n)))
    # fluxes follow the counts: draw N(>S) uniformly and invert it for S
    flux = 10 ** np.interp(np.log10(rng.uniform(brighter_max, brighter_min, size=n)), _LOG_COUNTS[::-1], _LOG_FLUX[::-1])
    return np.stack([ra, dec, flux, rng.normal(_INDEX_MEAN, _INDEX_SCATTER, size=n)], axis=1)
