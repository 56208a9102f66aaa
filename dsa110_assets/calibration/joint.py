"""Bandpass B and gains G fitted jointly to reduced sums, by alternating least squares."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numba import njit, prange
from numpy.typing import NDArray

from dsa110_assets.calibration import stefcal
from dsa110_assets.calibration.options import SolveOptions
from dsa110_assets.calibration.reduction import Sums

_ROUGH = 1e-3
"""Tolerance of the fits that only choose the starting point."""
_START_CHANNELS = 64
"""Number of channels on which the start is chosen: enough for gains to a few percent, at a tenth of the work."""
_NEGLIGIBLE = 1e-3
"""Share of the noise variance: a round that lowers chi-squared by less than this per parameter moved parameters by 3 % of their
errors, mostly those of dead receptors: working ones are settled after two rounds."""


@dataclass(frozen=True)
class State:
    """B (pol, channel, antenna) and G (interval, pol, antenna), with masks of where they are solved, and the information they rest on."""

    b: NDArray[np.complex128]
    b_ok: NDArray[np.bool_]
    b_information: NDArray[np.float64]
    g: NDArray[np.complex128]
    g_ok: NDArray[np.bool_]
    g_information: NDArray[np.float64]
    iterations: int
    unconverged: int


def alternate(sums: Sums, n_ant: int, options: SolveOptions) -> tuple[State, int, bool]:
    """Fit B and G in turn. Return them, the number of rounds, and whether the fit settled.

    It has settled if neither changes any more, or if a round no longer improves the fit noticeably relative to the noise.
    The second criterion alone suits only noisy data. The first alone is never met while the gain of a dead
    receptor, which nothing determines, drifts.
    """
    if sums.times_mjd.size == 1:
        return _normalised(_round(sums, _blank(sums, n_ant), options)), 1, True
    state = _normalised(_round(sums, _start(sums, n_ant, options), options))
    rounds, chi2, settled = 1, float(residual(sums, state).sum()), False
    while rounds < options.max_rounds and not settled:
        rounds += 1
        before, chi2_before = state, chi2
        state = _normalised(_round(sums, state, options))
        chi2 = float(residual(sums, state).sum())
        change = max(_change(before.b, state.b, state.b_ok), _change(before.g, state.g, state.g_ok))
        settled = change <= 10 * options.tolerance or chi2_before - chi2 <= _negligible_drop(sums, state, chi2)
    return state, rounds, settled


def _negligible_drop(sums: Sums, state: State, chi2: float) -> float:
    """Return the largest negligible improvement of chi-squared: a share of the noise variance per parameter."""
    parameters = 2 * (int(state.b_ok.sum()) + int(state.g_ok.sum()))
    return _NEGLIGIBLE * parameters * chi2 / max(1, 2 * int(sums.count.sum()) - parameters)


def _start(sums: Sums, n_ant: int, options: SolveOptions) -> State:
    """Return the starting point: G fitted on a few channels, B unknown.

    If phases change within the transit, a first sum over all of it can decorrelate; the single interval with the
    strongest model does not. Both are tried, and the one that fits the data better is taken.
    """
    rough = replace(options, tolerance=max(options.tolerance, _ROUGH))
    few_channels = _channels(sums, slice(None, None, -(-sums.r.shape[2] // _START_CHANNELS)))
    strongest = int(np.argmax(few_channels.d.sum(axis=(1, 2, 3), dtype=np.float64)))
    starts = [_round(few_channels, _blank(few_channels, n_ant, only), rough) for only in (None, strongest)]
    best = min(starts, key=lambda start: float(residual(few_channels, start).sum()))
    blank = _blank(sums, n_ant)
    return replace(blank, g=best.g, g_ok=best.g_ok, g_information=best.g_information)


def _channels(sums: Sums, keep: slice) -> Sums:
    r, d = np.ascontiguousarray(sums.r[:, :, keep]), np.ascontiguousarray(sums.d[:, :, keep])
    return replace(sums, r=r, d=d, energy=sums.energy[:, :, keep], count=sums.count[:, :, keep])


def _round(sums: Sums, state: State, options: SolveOptions) -> State:
    """Fit B with G fixed, then G with B fixed."""
    return _gain(sums, _bandpass(sums, state, options), options)


def _blank(sums: Sums, n_ant: int, only: int | None = None) -> State:
    """Return a state without solutions: B unknown (0), G = 1 in all intervals, or only in interval `only`."""
    n_int, n_pol, n_chan, _ = sums.r.shape
    g_ok = np.ones((n_int, n_pol, n_ant), dtype=np.bool_)
    if only is not None:
        g_ok[np.arange(n_int) != only] = False
    b = np.zeros((n_pol, n_chan, n_ant), dtype=np.complex128)
    no_information = np.zeros(g_ok.shape)
    return State(b, b != 0, np.zeros(b.shape), np.ones(g_ok.shape, dtype=np.complex128), g_ok, no_information, 0, 0)


def _bandpass(sums: Sums, state: State, options: SolveOptions) -> State:
    """Fit B with G fixed."""
    _, n_pol, n_chan, n_base = sums.r.shape
    n_ant = state.b.shape[2]
    r, d = np.empty((n_pol, n_chan, n_base), np.complex64), np.empty((n_pol, n_chan, n_base), np.float32)
    _over_intervals(sums.r, sums.d, state.g, state.g_ok, sums.ant1, sums.ant2, r, d)
    start = np.where(state.b_ok, state.b, 0).reshape(-1, n_ant)
    fit = _fit(r.reshape(-1, n_base), d.reshape(-1, n_base), sums, start, options)
    shape = state.b.shape
    b, b_ok = fit.gains.reshape(shape), fit.solved.reshape(shape)
    return _counted(replace(state, b=b, b_ok=b_ok, b_information=fit.information.reshape(shape)), fit)


def _gain(sums: Sums, state: State, options: SolveOptions) -> State:
    """Fit G with B fixed."""
    n_int, n_pol, _, n_base = sums.r.shape
    n_ant = state.b.shape[2]
    r, d = np.empty((n_int, n_pol, n_base), np.complex64), np.empty((n_int, n_pol, n_base), np.float32)
    _over_channels(sums.r, sums.d, state.b, state.b_ok, sums.ant1, sums.ant2, r, d)
    start = np.where(state.g_information > 0, state.g, 0).reshape(-1, n_ant)
    fit = _fit(r.reshape(-1, n_base), d.reshape(-1, n_base), sums, start, options)
    shape = state.g.shape
    g, g_ok = fit.gains.reshape(shape), fit.solved.reshape(shape)
    return _counted(replace(state, g=g, g_ok=g_ok, g_information=fit.information.reshape(shape)), fit)


def _fit(
    r: NDArray[np.complex64],
    d: NDArray[np.float32],
    sums: Sums,
    start: NDArray[np.complex128],
    options: SolveOptions,
) -> stefcal.Fit:
    return stefcal.fit(
        r, d, sums.ant1, sums.ant2, start.shape[1], start=start, tolerance=options.tolerance,
        min_baselines=options.min_baselines_per_antenna, max_iterations=options.max_iterations,
    )  # fmt: skip


def _counted(state: State, fit: stefcal.Fit) -> State:
    solvable = fit.solved.any(axis=1)
    return replace(
        state,
        iterations=max(state.iterations, int(fit.iterations.max(initial=0))),
        unconverged=int((~fit.converged[solvable]).sum()),
    )


def _normalised(state: State) -> State:
    """Move each receptor's mean gain over intervals from G into B: the data determine only the product of the two."""
    number = state.g_ok.sum(axis=0)
    g = np.where(state.g_ok, state.g, 0)
    total = g.sum(axis=0)
    mean = np.abs(g).sum(axis=0) / np.maximum(number, 1) * np.exp(1j * np.angle(total))
    mean = np.where((number > 0) & (mean != 0), mean, 1)
    return replace(
        state,
        g=state.g / mean,
        b=state.b * mean[:, None],
        g_information=state.g_information * np.abs(mean) ** 2,
        b_information=state.b_information / np.abs(mean[:, None]) ** 2,
    )


def _change(before: NDArray[np.complex128], after: NDArray[np.complex128], ok: NDArray[np.bool_]) -> float:
    size = float(np.linalg.norm(after[ok]))
    return float(np.linalg.norm((after - before)[ok])) / size if size else 0.0


def residual(sums: Sums, state: State) -> NDArray[np.float64]:
    """Return sum w |V - g g^* M|^2, (interval, pol, channel), never negative."""
    modelled = np.zeros(sums.energy.shape)
    _explained(sums.r, sums.d, state.b, state.b_ok, state.g, state.g_ok, sums.ant1, sums.ant2, modelled)
    return np.maximum(sums.energy - modelled, 0)


@njit(cache=True, parallel=True)
def _over_intervals(r, d, g, g_ok, ant1, ant2, r_out, d_out):  # type: ignore[no-untyped-def]
    n_int, n_pol, n_chan, n_base = r.shape
    for c in prange(n_chan):
        for p in range(n_pol):
            for b in range(n_base):
                i, j = ant1[b], ant2[b]
                top, bottom = 0j, 0.0
                for s in range(n_int):
                    if g_ok[s, p, i] and g_ok[s, p, j]:
                        z = g[s, p, i] * np.conj(g[s, p, j])
                        top += r[s, p, c, b] * np.conj(z)
                        bottom += d[s, p, c, b] * (z.real * z.real + z.imag * z.imag)
                r_out[p, c, b] = top
                d_out[p, c, b] = bottom


@njit(cache=True, parallel=True)
def _over_channels(r, d, bandpass, b_ok, ant1, ant2, r_out, d_out):  # type: ignore[no-untyped-def]
    n_int, n_pol, n_chan, n_base = r.shape
    for k in prange(n_int * n_pol):
        s, p = k // n_pol, k % n_pol
        top = np.zeros(n_base, dtype=np.complex128)
        bottom = np.zeros(n_base)
        for c in range(n_chan):
            for b in range(n_base):
                i, j = ant1[b], ant2[b]
                if b_ok[p, c, i] and b_ok[p, c, j]:
                    z = bandpass[p, c, i] * np.conj(bandpass[p, c, j])
                    top[b] += r[s, p, c, b] * np.conj(z)
                    bottom[b] += d[s, p, c, b] * (z.real * z.real + z.imag * z.imag)
        for b in range(n_base):
            r_out[s, p, b] = top[b]
            d_out[s, p, b] = bottom[b]


@njit(cache=True, parallel=True)
def _explained(r, d, bandpass, b_ok, g, g_ok, ant1, ant2, out):  # type: ignore[no-untyped-def]
    n_int, n_pol, n_chan, n_base = r.shape
    for c in prange(n_chan):
        for s in range(n_int):
            for p in range(n_pol):
                total = 0.0
                for b in range(n_base):
                    i, j = ant1[b], ant2[b]
                    if b_ok[p, c, i] and b_ok[p, c, j] and g_ok[s, p, i] and g_ok[s, p, j]:
                        z = bandpass[p, c, i] * g[s, p, i] * np.conj(bandpass[p, c, j] * g[s, p, j])
                        total += 2 * (r[s, p, c, b] * np.conj(z)).real
                        total -= d[s, p, c, b] * (z.real * z.real + z.imag * z.imag)
                out[s, p, c] = total
