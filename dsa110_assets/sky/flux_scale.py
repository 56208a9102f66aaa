"""The flux scale of the platform: Perley & Butler (2017), ApJS 230, 7, table 6.

log10 S[Jy] = sum a_i (log10 nu[GHz])^i. The coefficients agree with CASA's `PerleyButler2017Coeffs` table.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from dsa110_assets.errors import NotFoundError

N_COEFFICIENTS = 6

_COEFFICIENTS: dict[str, tuple[float, ...]] = {
    "3C48": (1.3253, -0.7553, -0.1914, 0.0498),
    "3C123": (1.8017, -0.7884, -0.1035, -0.0248, 0.0090),
    "3C138": (1.0088, -0.4981, -0.1552, -0.0102, 0.0223),
    "3C147": (1.4516, -0.6961, -0.2007, 0.0640, -0.0464, 0.0289),
    "3C196": (1.2872, -0.8530, -0.1534, -0.0200, 0.0201),
    "3C286": (1.2481, -0.4507, -0.1798, 0.0357),
    "3C295": (1.4701, -0.7658, -0.2780, -0.0347, 0.0399),
    "3C353": (1.8627, -0.6938, -0.0998, -0.0732),
    "3C380": (1.2320, -0.7909, 0.0947, 0.0976, -0.1794, -0.1566),
    "CYGA": (3.3498, -1.0022, -0.2246, 0.0227, 0.0425),
}


def standards() -> tuple[str, ...]:
    """Return the names of the sources that define the scale ('3C48', ..., 'CYGA')."""
    return tuple(_COEFFICIENTS)


def coefficients(name: str) -> NDArray[np.float64]:
    """Return the polynomial's a_0..a_5, shape (6,) float64, zero-padded. Raises NotFoundError if `name` is not a
    standard."""
    try:
        published = _COEFFICIENTS[name.upper().replace(" ", "")]
    except KeyError:
        raise NotFoundError(f"{name!r} is not a Perley-Butler 2017 standard; those are {', '.join(standards())}") from None
    return np.pad(np.array(published, dtype=np.float64), (0, N_COEFFICIENTS - len(published)))


def evaluate_jy(polynomials: NDArray[np.float64], frequency_hz: ArrayLike) -> NDArray[np.float64]:
    """Return the flux densities [Jy] of log-polynomials (..., 6) at frequencies [Hz] (n,): shape (..., n) float64."""
    log_ghz = np.log10(np.asarray(frequency_hz, dtype=np.float64) / 1e9)
    powers = log_ghz[None, ...] ** np.arange(N_COEFFICIENTS).reshape(-1, *[1] * log_ghz.ndim)
    return np.asarray(10.0 ** np.tensordot(polynomials, powers, axes=(-1, 0)))


def perley_butler_2017_jy(name: str, frequency_hz: ArrayLike) -> NDArray[np.float64]:
    """Return the flux density [Jy] of a standard at frequencies [Hz]; same shape, float64. NaN in gives NaN out.

    Raises NotFoundError for a source that is not on the scale.
    """
    return evaluate_jy(coefficients(name), frequency_hz)
