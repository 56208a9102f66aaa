"""Figures and rules for a solution. Dead receptors are counted as such, not as flags.

A good bandpass table of the real array has 28 % of its solutions flagged; 63 dead receptors explain all but
1 % of that. Absolute phases wrap, so phase scatter is measured relative to each receptor's mean.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from itertools import combinations
from typing import Protocol

import numpy as np
from numba import njit, prange
from numpy.typing import NDArray

from dsa110_assets.calibration.apply import total_gains
from dsa110_assets.calibration.field_fit import SIGNIFICANT_SIGMA
from dsa110_assets.calibration.gains import Gains
from dsa110_assets.calibration.reduction import Sums
from dsa110_assets.calibration.solve import Solution
from dsa110_assets.visibilities.types import Visibilities

_CLOSURE_ANTENNAS = 12
"""Closure is measured on this many antennas: 220 triangles, 495 quadrangles per polarisation."""
_PARTS = 8
"""Baseline ranges summed in parallel; each baseline is summed by one thread, whatever the number of threads."""


class Thresholds(Protocol):
    """The limits `problems` needs."""

    @property
    def max_solution_flag_fraction(self) -> float: ...
    @property
    def min_solution_snr(self) -> float: ...
    @property
    def min_gain_amplitude(self) -> float: ...
    @property
    def max_gain_amplitude(self) -> float: ...
    @property
    def max_closure_phase_deg(self) -> float: ...
    @property
    def max_closure_excess(self) -> float: ...
    @property
    def max_reduced_chi2(self) -> float: ...
    @property
    def max_field_flux_difference(self) -> float: ...
    @property
    def max_calibrator_offset_arcsec(self) -> float: ...
    @property
    def min_receptor_flux_ratio(self) -> float: ...


def assess(solution: Solution, vis: Visibilities, sums: Sums) -> dict[str, float]:
    """Return figures of a solution, and of the data `vis` it was solved on and corrected by.

    `sums` are those of `vis` against its model. They are corrected as a whole, with the gains at their intervals' centres.

    Per table ("bandpass_", "gain_"): the figures of `table_figures`. dead_receptors, dead_antennas: numbers among those
    in the data. gain_amplitude: median over living receptors; _min and _max: their extremes over it.
    gain_phase_scatter_deg: rms over time about each receptor's mean. closure_phase_deg, closure_amplitude: rms closure phase and rms
    of the logarithm of closure amplitude, of data over model. flux_ratio: mean of data over model; receptor_flux_ratio_min: the
    least such mean over one receptor's baselines. NaN where no data are left.
    """
    present = vis.active_antennas
    dead = solution.bandpass.dead_receptors
    top, bottom = corrected(solution, vis, sums)
    phases, amplitudes = closures(sums, top, bottom, dead)
    power = float(bottom.sum())
    return {
        **table_figures("bandpass", solution.bandpass),
        **table_figures("gain", solution.gains),
        **_amplitudes(solution.bandpass, dead),
        "gain_phase_scatter_deg": _phase_scatter_deg(solution.gains),
        "dead_receptors": float(dead[present].sum()),
        "dead_antennas": float(dead[present].all(axis=1).sum()),
        "n_antennas": float(present.size),
        "receptor_flux_ratio_min": _worst_receptor(sums, top.real, bottom, ~dead),
        "closure_phase_deg": math.degrees(_rms(phases)),
        "closure_amplitude": _rms(amplitudes),
        "flux_ratio": float(top.sum().real) / power if power > 0 else math.nan,
        "reduced_chi2": float(solution.report.get("reduced_chi2", math.nan)),
    }


def table_figures(name: str, gains: Gains) -> dict[str, float]:
    """Return {name}_flag_fraction (living receptors), _flag_fraction_raw (all) and _snr (median) of a table.

    Cells no receptor has a solution in (missing subbands) do not count, except in the raw fraction.
    """
    alive = ~gains.dead_receptors
    solvable = ~gains.flags.all(axis=(1, 3))
    flags = np.moveaxis(gains.flags, 2, 1)[solvable][:, alive]
    snr = gains.snr[~gains.flags]
    return {
        f"{name}_flag_fraction": float(flags.mean()) if flags.size else 1.0,
        f"{name}_flag_fraction_raw": float(gains.flags.mean()),
        f"{name}_snr": float(np.median(snr)) if snr.size else 0.0,
    }


def _amplitudes(bandpass: Gains, dead: NDArray[np.bool_]) -> dict[str, float]:
    if dead.all():
        return dict.fromkeys(("gain_amplitude", "gain_amplitude_min", "gain_amplitude_max"), math.nan)
    amplitudes = np.where(bandpass.flags, np.nan, np.abs(bandpass.values)).transpose(1, 3, 0, 2)[~dead]
    medians = np.nanmedian(amplitudes, axis=(1, 2))
    median = float(np.median(medians)) or math.nan  # gains of zero are no gains
    return {
        "gain_amplitude": median,
        "gain_amplitude_min": float(medians.min()) / median,
        "gain_amplitude_max": float(medians.max()) / median,
    }


def _phase_scatter_deg(gains: Gains) -> float:
    """Return the rms phase [deg] over time relative to each living receptor's mean phase; 0 for one interval."""
    unit = np.where(gains.flags, 0, np.exp(1j * np.angle(gains.values)))
    mean = unit.sum(axis=0, keepdims=True)
    relative = np.angle(unit * np.exp(-1j * np.angle(mean)))[~gains.flags]
    return float(np.rad2deg(np.sqrt(np.mean(relative**2)))) if relative.size else math.nan


def corrected(solution: Solution, vis: Visibilities, sums: Sums) -> tuple[NDArray[np.complex128], NDArray[np.float64]]:
    """Return sum w V conj(M) and sum w |M|^2 (pol, baseline) of corrected data, w being the corrected weights.

    V / z with weight w |z|^2, z = g_i conj(g_j), turns r into r conj(z) and d into d |z|^2.
    """
    gains, good = total_gains(replace(vis, times_mjd=sums.times_mjd), solution.tables)
    gains = np.ascontiguousarray(np.where(good, gains, 0).transpose(0, 3, 2, 1))
    shape = sums.r.shape
    gains = np.broadcast_to(gains, (shape[0], shape[1], shape[2], gains.shape[3]))
    top, bottom = np.zeros((shape[1], shape[3]), complex), np.zeros((shape[1], shape[3]))
    _collect(sums.r, sums.d, gains, sums.ant1, sums.ant2, top, bottom)
    return top, bottom


@njit(cache=True, parallel=True)
def _collect(r, d, gains, ant1, ant2, top, bottom):  # type: ignore[no-untyped-def]
    n_int, n_pol, n_chan, n_base = r.shape
    for part in prange(_PARTS):
        first, last = part * n_base // _PARTS, (part + 1) * n_base // _PARTS
        for s in range(n_int):
            for p in range(n_pol):
                for c in range(n_chan):
                    for b in range(first, last):
                        z = gains[s, p, c, ant1[b]] * np.conj(gains[s, p, c, ant2[b]])
                        top[p, b] += r[s, p, c, b] * np.conj(z)
                        bottom[p, b] += d[s, p, c, b] * (z.real * z.real + z.imag * z.imag)


def _worst_receptor(sums: Sums, top: NDArray[np.float64], bottom: NDArray[np.float64], alive: NDArray[np.bool_]) -> float:
    """Return the least ratio of sum w Re(V conj M) to sum w |M|^2 over the baselines of one living receptor; NaN if one has no data.

    Least squares makes the ratio 1 for every solved receptor, whatever the noise: that is its normal equation. With another
    receptor's gains its phases are random, and the ratio is near 0.
    """
    ratios = []
    for pol in range(2):
        shares = [np.bincount(ends, part[pol], alive.shape[0]) for part in (top, bottom) for ends in (sums.ant1, sums.ant2)]
        measured, expected = shares[0] + shares[1], shares[2] + shares[3]
        present = np.union1d(sums.ant1, sums.ant2)
        living = present[alive[present, pol]]
        ratios += [float(measured[a] / expected[a]) if expected[a] > 0 else math.nan for a in living]
    return float(np.min(ratios)) if ratios else math.nan


def closures(
    sums: Sums, top: NDArray[np.complex128], bottom: NDArray[np.float64], dead: NDArray[np.bool_]
) -> tuple[list[float], list[float]]:
    """Return closure phases [rad] and logarithms of closure amplitudes of data over model, from `corrected`, on up to 12 antennas."""
    phases: list[float] = []
    amplitudes: list[float] = []
    ratios = np.where(bottom > 0, top / np.where(bottom > 0, bottom, 1), 0)
    for pol in range(2):
        edge: dict[tuple[int, int], complex] = {}
        for i, j, r in zip(sums.ant1, sums.ant2, ratios[pol], strict=True):
            if r != 0:
                edge[int(i), int(j)] = complex(r)
                edge[int(j), int(i)] = complex(r).conjugate()
        alive = sorted({i for i, _ in edge if not dead[i, pol]})
        spread = np.unique(np.linspace(0, len(alive) - 1, min(len(alive), _CLOSURE_ANTENNAS)).round().astype(int))
        chosen = [alive[k] for k in spread]
        for a, b, c in combinations(chosen, 3):
            if {(a, b), (b, c), (c, a)} <= edge.keys():
                phases.append(float(np.angle(edge[a, b] * edge[b, c] * edge[c, a])))
        for a, b, c, d in combinations(chosen, 4):
            if {(a, b), (c, d), (a, c), (b, d)} <= edge.keys():
                amplitudes.append(math.log(abs(edge[a, b] * edge[c, d]) / abs(edge[a, c] * edge[b, d])))
    return phases, amplitudes


def _rms(values: list[float]) -> float:
    return float(np.sqrt(np.mean(np.square(values)))) if values else math.nan


def problems(figures: Mapping[str, float], thresholds: Thresholds) -> list[str]:
    """Return the problems of a solution with these `assess` figures; an empty list means usable. NaN counts as a problem."""
    found: list[str] = []
    for table in ("bandpass", "gain"):
        flagged, snr = figures[f"{table}_flag_fraction"], figures[f"{table}_snr"]
        if not flagged <= thresholds.max_solution_flag_fraction:
            limit = thresholds.max_solution_flag_fraction
            found.append(f"{flagged:.1%} of living receptors' {table} solutions flagged, limit {limit:.0%}")
        if not snr >= thresholds.min_solution_snr:
            found.append(f"median {table} SNR {snr:.1f} below {thresholds.min_solution_snr:g}")
    least, most = figures["gain_amplitude_min"], figures["gain_amplitude_max"]
    if not least >= thresholds.min_gain_amplitude:
        found.append(f"a receptor's gain is {least:.3f} of the median, limit {thresholds.min_gain_amplitude:g}")
    if not most <= thresholds.max_gain_amplitude:
        found.append(f"a receptor's gain is {most:.1f} times the median, limit {thresholds.max_gain_amplitude:g}")
    if not figures["receptor_flux_ratio_min"] >= thresholds.min_receptor_flux_ratio:
        found.append(
            f"calibrated with these tables, a receptor sees {figures['receptor_flux_ratio_min']:.2f} of the model, "
            f"limit {thresholds.min_receptor_flux_ratio:g}: its gains belong to another receptor or to none"
        )
    if not figures["closure_phase_deg"] <= thresholds.max_closure_phase_deg:
        found.append(
            f"closure phases of {figures['closure_phase_deg']:.1f} deg rms against the model, "
            f"limit {thresholds.max_closure_phase_deg:g}: wrong model or interference"
        )
    return found


def calibrator_problems(name: str, figures: Mapping[str, float], thresholds: Thresholds) -> list[str]:
    """Return the ways in which the calibrator `name` differs from its model, from the figures of `night.calibrator_figures`.

    A figure that could not be determined (NaN) is not a problem here; it is visible in the figures.
    """
    found: list[str] = []
    amplitude, phase_deg = figures["closure_amplitude_excess"], figures["closure_phase_excess_deg"]
    limit = thresholds.max_closure_excess
    if amplitude > limit or math.radians(phase_deg) > limit:
        found.append(
            f"the structure of {name} differs from its model's: closing amplitudes are {amplitude:.1%} and phases {phase_deg:.2f} deg off "
            f"beyond noise, limit {limit:.1%}"
        )
    if figures["radiometer_chi2"] > thresholds.max_reduced_chi2:
        found.append(
            f"the transit of {name} less its model has {figures['radiometer_chi2']:.1f} times the radiometer's variance, "
            f"limit {thresholds.max_reduced_chi2:g}"
        )
    if figures["unknown_gain_error"] > limit:
        found.append(
            f"the transit of {name} has sky signal of {figures['unknown_part']:.1%} of its model that no known or new source accounts for: "
            f"gains may have absorbed {figures['unknown_gain_error']:.1%}, limit {limit:.1%}"
        )
    ratio, error = figures["field_flux_ratio"], figures["field_flux_ratio_error"]
    if abs(ratio - 1) > max(thresholds.max_field_flux_difference, SIGNIFICANT_SIGMA * error):
        found.append(
            f"calibrated on {name}, {figures['field_group_count']:.0f} catalogue sources of its field have {ratio:.3f} +- {error:.3f} "
            f"of their flux, limit {thresholds.max_field_flux_difference:.0%} off 1: its flux is not that of the model"
        )
    offset_arcsec = math.hypot(figures["calibrator_offset_ra_arcsec"], figures["calibrator_offset_dec_arcsec"])
    if offset_arcsec > thresholds.max_calibrator_offset_arcsec:
        found.append(f"{name} is {offset_arcsec:.1f} arcsec from where it is listed, limit {thresholds.max_calibrator_offset_arcsec:g}")
    return found
