"""Alternating least squares for antenna gains (StEFCal: Salvini & Wijnholds 2014, A&A 571, A97).

Works on the sums of `reduction`: minimise sum_ij D_ij |g_i g_j^*|^2 - 2 Re(conj(g_i g_j^*) R_ij), whose
stationary point is g_i = sum_j R_ij g_j / sum_j D_ij |g_j|^2 with R_ji = conj(R_ij).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numba import njit, prange
from numpy.typing import NDArray


@dataclass(frozen=True)
class Fit:
    """Gains of independent problems: `gains` (problem, antenna) complex128, 1 where not `solved`;
    `information` (problem, antenna) float64 = sum_j D_ij |g_j|^2; `iterations`, `converged` (problem,)."""

    gains: NDArray[np.complex128]
    solved: NDArray[np.bool_]
    information: NDArray[np.float64]
    iterations: NDArray[np.int64]
    converged: NDArray[np.bool_]


def fit(
    r: NDArray[np.complex64],
    d: NDArray[np.float32],
    ant1: NDArray[np.int32],
    ant2: NDArray[np.int32],
    n_antennas: int,
    *,
    start: NDArray[np.complex128] | None = None,
    min_baselines: int = 4,
    tolerance: float = 1e-9,
    max_iterations: int = 500,
) -> Fit:
    """Fit each row of `r`, `d` (problem, baseline) separately.

    Antennas with fewer than `min_baselines` baselines of D > 0 to other solved antennas are not solved.
    `start` (problem, antenna) are first guesses, 0 where unknown. Stops when an antenna-mean relative change
    falls below `tolerance`.
    """
    n = r.shape[0]
    gains = np.ones((n, n_antennas), dtype=np.complex128)
    guess = np.zeros((n, n_antennas), dtype=np.complex128) if start is None else start
    solved = np.zeros((n, n_antennas), dtype=np.bool_)
    information = np.zeros((n, n_antennas))
    iterations = np.zeros(n, dtype=np.int64)
    converged = np.zeros(n, dtype=np.bool_)
    _fit_all(
        r, d, ant1, ant2, guess, min_baselines, tolerance, max_iterations,
        gains, solved, information, iterations, converged,
    )  # fmt: skip
    return Fit(gains, solved, information, iterations, converged)


@njit(cache=True, parallel=True)
def _fit_all(  # type: ignore[no-untyped-def]
    r,
    d,
    ant1,
    ant2,
    guess,
    min_baselines,
    tolerance,
    max_iterations,
    gains,
    solved,
    information,
    iterations,
    converged,
):
    for k in prange(r.shape[0]):
        _connected(d[k], ant1, ant2, min_baselines, solved[k])
        if not solved[k].any():
            continue
        _first_guess(r[k], d[k], ant1, ant2, solved[k], guess[k], gains[k])
        iterations[k], converged[k] = _iterate(r[k], d[k], ant1, ant2, solved[k], tolerance, max_iterations, gains[k], information[k])


@njit(cache=True)
def _connected(d, ant1, ant2, min_baselines, solved):  # type: ignore[no-untyped-def]
    """Mark antennas with at least `min_baselines` baselines among the marked ones."""
    solved[:] = True
    changed = True
    while changed:
        changed = False
        baselines = np.zeros(solved.size, dtype=np.int64)
        for b in range(d.size):
            if d[b] > 0 and solved[ant1[b]] and solved[ant2[b]]:
                baselines[ant1[b]] += 1
                baselines[ant2[b]] += 1
        for a in range(solved.size):
            if solved[a] and baselines[a] < min_baselines:
                solved[a] = False
                changed = True


@njit(cache=True)
def _first_guess(r, d, ant1, ant2, solved, guess, gains):  # type: ignore[no-untyped-def]
    """Set the first guess to `guess`, or where that is 0, to phases relative to the strongest antenna and the mean amplitude.

    All phases zero may be a saddle point; a row of R is already near the solution.
    """
    strength = np.zeros(solved.size)
    total_r, total_d = 0.0, 0.0
    for b in range(d.size):
        if d[b] > 0 and solved[ant1[b]] and solved[ant2[b]]:
            size = abs(r[b])
            strength[ant1[b]] += size
            strength[ant2[b]] += size
            total_r += size
            total_d += d[b]
    amplitude = np.sqrt(total_r / total_d) if total_r > 0 else 1.0
    strongest = np.argmax(strength)
    for a in range(solved.size):
        gains[a] = amplitude if solved[a] else 1.0
    for b in range(d.size):
        if d[b] > 0 and solved[ant1[b]] and solved[ant2[b]] and abs(r[b]) > 0:
            if ant2[b] == strongest:
                gains[ant1[b]] = amplitude * r[b] / abs(r[b])
            elif ant1[b] == strongest:
                gains[ant2[b]] = amplitude * np.conj(r[b]) / abs(r[b])
    if np.any(guess != 0):
        for a in range(solved.size):
            if solved[a] and guess[a] != 0:
                gains[a] = guess[a]


@njit(cache=True)
def _iterate(r, d, ant1, ant2, solved, tolerance, max_iterations, gains, information):  # type: ignore[no-untyped-def]
    n = gains.size
    top = np.zeros(n, dtype=np.complex128)
    previous = np.zeros(n, dtype=np.complex128)
    for iteration in range(1, max_iterations + 1):
        top[:] = 0
        information[:] = 0
        for b in range(d.size):
            i, j = ant1[b], ant2[b]
            if d[b] > 0 and solved[i] and solved[j]:
                top[i] += r[b] * gains[j]
                top[j] += np.conj(r[b]) * gains[i]
                information[i] += d[b] * (gains[j].real ** 2 + gains[j].imag ** 2)
                information[j] += d[b] * (gains[i].real ** 2 + gains[i].imag ** 2)
        change, size = 0.0, 0.0
        for a in range(n):
            if not solved[a]:
                continue
            previous[a] = gains[a]
            new = top[a] / information[a] if information[a] > 0 else 0j
            # averaging two successive iterates damps the oscillation of simultaneous updates
            gains[a] = new if iteration % 2 else (new + gains[a]) / 2
            change += abs(gains[a] - previous[a]) ** 2
            size += abs(gains[a]) ** 2
        if size == 0:
            return iteration, False
        if change <= tolerance * tolerance * size:
            return iteration, True
    return max_iterations, False
