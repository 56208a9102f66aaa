"""Solve for antenna gains: bandpass B (whole transit) and gains G (per interval), amplitude and phase.

The data are reduced once (`reduction`). B and G are then fitted jointly by alternating: B per channel with G
fixed, G per interval with B fixed. No amplitude is normalised away: B carries the flux scale, G averages to 1.
XX and YY are solved separately.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dsa110_assets.calibration import delays
from dsa110_assets.calibration.gains import DEAD_FRACTION, Gains
from dsa110_assets.calibration.joint import State, alternate, residual
from dsa110_assets.calibration.options import SolveOptions
from dsa110_assets.calibration.reduction import Sums, reduce
from dsa110_assets.calibration.reference import choose_refant, rotate
from dsa110_assets.errors import BadDataError
from dsa110_assets.visibilities.predict import Prediction
from dsa110_assets.visibilities.types import Visibilities

__all__ = ["Solution", "SolveOptions", "solve"]


@dataclass(frozen=True)
class Solution:
    """The result of `solve`. `report`: plain numbers and strings about reference antenna and convergence."""

    bandpass: Gains
    gains: Gains
    delays: Gains | None
    report: dict[str, Any]

    @property
    def tables(self) -> tuple[Gains, ...]:
        """All tables, in the order in which they are applied."""
        return (self.delays, self.bandpass, self.gains) if self.delays else (self.bandpass, self.gains)


def solve(vis: Visibilities, model: NDArray[np.complex64], options: SolveOptions, *, field_name: str = "") -> Solution:
    """Solve `vis` against `model` (time, baseline, channel; Stokes I = XX = YY, in vis's phase frame) [Jy].

    Gains are in raw units per sqrt(Jy): V_observed = g_i conj(g_j) V_true. Receptors without data, with
    too few baselines or with an SNR below the minimum are flagged. The reference antenna is the first living
    one of the chain; the report has the choice and the antennas passed over. Raises BadDataError if nothing
    can be solved.
    """
    return solve_sums(vis, sums_for(vis, model, options), options, field_name=field_name)


def sums_for(vis: Visibilities, model: NDArray[np.complex64] | Prediction, options: SolveOptions) -> Sums:
    """Return the sums that `solve_sums` needs: the data reduced over the options' intervals and uv range."""
    return reduce(vis, model, options.gain_solint_s, (options.min_uv_wavelengths, options.max_uv_wavelengths))


def solve_sums(vis: Visibilities, sums: Sums, options: SolveOptions, *, field_name: str = "") -> Solution:
    """Do the same as `solve` with sums already computed; of `vis` only the axes are used."""
    if not (sums.d > 0).any():
        raise BadDataError("no unflagged cross-correlation has a model; look at flags and calibrator position")
    n_ant = len(vis.antennas.names)
    state, rounds, converged = alternate(sums, n_ant, options)
    chi2, variance_b, variance_g = _noise(sums, state)
    b_snr, b_ok = _significance(state.b, state.b_ok, state.b_information, variance_b[..., None], options.min_snr_bandpass)
    g_snr, g_ok = _significance(state.g, state.g_ok, state.g_information, variance_g[..., None], options.min_snr_gain)
    b_ok, g_ok = _without_dead(b_ok, g_ok)
    refant, passed = choose_refant(vis.antennas.names, options.refant_chain, _good_fraction(b_ok, g_ok))
    b, g = _referenced(state.b, b_ok, state.g, g_ok, refant)
    span_s = float(vis.times_mjd[-1] - vis.times_mjd[0]) * 86400 + vis.interval_s
    solint_s = float(np.diff(sums.first_index).max()) * vis.interval_s
    bandpass = Gains(
        "B", np.where(b_ok, b, 1).transpose(2, 1, 0)[None], ~b_ok.transpose(2, 1, 0)[None],
        b_snr.transpose(2, 1, 0)[None].astype(np.float32), np.array([vis.times_mjd.mean()]), span_s,
        vis.frequencies_hz, vis.antennas.names, refant, field_name,
    )  # fmt: skip
    gains = Gains(
        "G", np.where(g_ok, g, 1).transpose(0, 2, 1)[:, :, None], ~g_ok.transpose(0, 2, 1)[:, :, None],
        g_snr.transpose(0, 2, 1)[:, :, None].astype(np.float32), sums.times_mjd, solint_s,
        np.array([vis.frequencies_hz.mean()]), vis.antennas.names, refant, field_name,
    )  # fmt: skip
    delay = None
    if options.solve_delays:
        delay, bandpass = delays.split(bandpass)
    report = {
        "refant": vis.antennas.names[refant],
        "refants_passed_over": passed,
        "rounds": rounds,
        "converged": converged,
        "iterations": state.iterations,
        "unconverged_fits": state.unconverged,
        "reduced_chi2": float(chi2),
        "n_intervals": int(sums.times_mjd.size),
        "n_samples": int(sums.count.sum()),
        "dead_receptor_names": _receptor_names(bandpass, np.unique(np.concatenate([sums.ant1, sums.ant2]))),
    }
    return Solution(bandpass, gains, delay, report)


def _noise(sums: Sums, state: State) -> tuple[float, NDArray[np.float64], NDArray[np.float64]]:
    """Return the variance of unit-weight samples: overall, (pol, channel) for B, (interval, pol) for G.

    It is chi-squared over the number of samples less the number of complex parameters.
    """
    chi2 = residual(sums, state)
    n_b, n_g = state.b_ok.sum(axis=2), state.g_ok.sum(axis=2)
    overall = chi2.sum() / max(1, int(sums.count.sum()) - int(n_b.sum()) - int(n_g.sum()))
    variance_b = chi2.sum(0) / np.maximum(1, sums.count.sum(0) - n_b)
    variance_g = chi2.sum(2) / np.maximum(1, sums.count.sum(2) - n_g)
    return float(overall), variance_b, variance_g


def _significance(
    gains: NDArray[np.complex128],
    ok: NDArray[np.bool_],
    information: NDArray[np.float64],
    variance: NDArray[np.float64],
    min_snr: float,
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Return SNR = |g| / rms complex error (CASA's convention), and the mask of where it suffices."""
    error = np.sqrt(np.maximum(variance, 1e-30) / np.where(information > 0, information, np.inf))
    snr = np.where(ok & (error > 0), np.abs(gains) / np.where(error > 0, error, 1), 0)
    kept = ok & (snr >= min_snr) & (gains != 0)
    return np.where(kept, np.minimum(snr, 1e9), 0), kept


def _without_dead(b_ok: NDArray[np.bool_], g_ok: NDArray[np.bool_]) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Flag receptors that are dead in B or in G in both tables: chance solutions of noise must not be used."""
    b_cells = np.maximum(b_ok.any(axis=2).sum(axis=1), 1)[:, None]
    g_cells = np.maximum(g_ok.any(axis=2).sum(axis=0), 1)[:, None]
    least = 1 - DEAD_FRACTION
    alive = (b_ok.sum(axis=1) > least * b_cells) & (g_ok.sum(axis=0) > least * g_cells)
    return b_ok & alive[:, None], g_ok & alive


def _good_fraction(b_ok: NDArray[np.bool_], g_ok: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Return the share of solvable channels and intervals in which an antenna has solutions, of the worse receptor."""
    b_share = b_ok.sum(axis=1) / np.maximum(b_ok.any(axis=2).sum(axis=1), 1)[:, None]
    g_share = g_ok.sum(axis=0) / np.maximum(g_ok.any(axis=2).sum(axis=0), 1)[:, None]
    return np.asarray(np.minimum(b_share, g_share).min(axis=0))


def _referenced(
    b: NDArray[np.complex128],
    b_ok: NDArray[np.bool_],
    g: NDArray[np.complex128],
    g_ok: NDArray[np.bool_],
    refant: int,
) -> tuple[NDArray[np.complex128], NDArray[np.complex128]]:
    """Return B and G with the reference antenna's phase zero in both."""
    b = np.stack([rotate(b[p], b_ok[p], refant) for p in range(b.shape[0])])
    g = np.stack([rotate(g[:, p], g_ok[:, p], refant) for p in range(g.shape[1])], axis=1)
    return b, g


def _receptor_names(bandpass: Gains, present: NDArray[np.int32]) -> list[str]:
    """Return the dead receptors among the antennas `present` in the data, as '23X'."""
    dead = bandpass.dead_receptors
    return [f"{bandpass.antenna_names[a]}{'XY'[p]}" for a in present for p in range(2) if dead[a, p]]
