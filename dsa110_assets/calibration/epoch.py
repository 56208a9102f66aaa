"""Antenna gains of one observation: changes since the tables were solved, delay jumps, and receptors that see no sky.

Gains are fitted to the sums of `comparison`, for each antenna and receptor. A departure from 1 is trusted as far as
the even and the odd integrations agree on it. The mean product of the two halves' departures is their true variance,
whatever the noise, and an estimate of variance sigma^2 about a spread v is shrunk by v / (v + sigma^2) (James & Stein
1961). Receptors that stand out of that spread are corrected in full. Gains are applied only if they improve
chi-squared of the half they were not fitted to.

The common amplitude of all receptors is not a gain but the flux scale. It is kept separate, and its square is data over model.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from dsa110_assets.calibration import delays, stefcal
from dsa110_assets.calibration.comparison import Comparison
from dsa110_assets.calibration.epoch_options import EpochOptions

Float = NDArray[np.float64]
Complex = NDArray[np.complex128]
_DELAY_SIGMA, _BLOCK_SIGMA = 6.0, 6.0
_LEAST_DELAY_NS = 0.1
"""A delay of 0.1 ns turns the phase by 3 degrees from the middle of the band to its edge, and loses 0.05 % of a source's flux."""
_LEAST_BANDPASS = 0.02
_SIGNIFICANT = 3.0
_FARTHEST = 2.0
"""The gain of the antenna farthest from all others absorbs about six times the misfit of a resolved source: that antenna must not
stand out."""
_INCOHERENT = 0.5
"""A receptor whose baselines differ by half the sky's amplitude from any gain times the model sees another sky."""
_WRONG_SKY, _ABOVE_TYPICAL = 0.25, 3.0
"""If most receptors differ by a quarter of the sky's amplitude, the model is wrong, and antennas are not judged. A receptor
sees another sky only if it differs by three times the median receptor's value."""
_FEWEST = 4
_ROUNDS = 5


@dataclass(frozen=True)
class EpochGains:
    """Gains since the tables: V_calibrated(ij) = g_i conj(g_j) V_true(ij).

    gains  (interval, antenna, block, pol) complex128 without delays, as applied: 1 where nothing is applied; their
           median amplitude over receptors is 1.
    delay_ns  (antenna, pol), 0 where none is applied; the phase is 0 at the mean of the blocks' frequencies.
    measured, error  (antenna, pol): the fitted gain of the whole observation, and its error per real part; NaN where there
           was nothing to fit. common: their median amplitude.
    lost   (antenna, pol) receptors that do not see the sky. changed: those whose bandpass changed relative to
           the median of all.
    drift_amplitude, drift_phase_rad: the true spread of the receptors that do not stand out. stand_out (antenna, pol).
    gain_chi2: by how much the applied gains lowered chi-squared of data they were not fitted to; 0 where none are applied.
    variance: of a complex sample of weight 1, after the fit. judged: whether the field is bright enough, and its model good enough,
    to judge antennas.
    misfit: departure of baselines from the product of any antenna gains (closure errors), as part of the signal: the model's error.
    """

    gains: Complex
    delay_ns: Float
    measured: Complex
    error: Float
    common: float
    lost: NDArray[np.bool_]
    changed: NDArray[np.bool_]
    stand_out: NDArray[np.bool_]
    drift_amplitude: float
    drift_phase_rad: float
    gain_chi2: float
    variance: float
    judged: bool
    misfit: float = 0.0

    @property
    def applied(self) -> str:
        """The kinds of correction applied: "none", "phase", "amplitude", "phase+amplitude", with "+delay" where delays jumped."""
        turned = bool(np.any(np.abs(np.angle(self.gains)) > 1e-9))
        scaled = bool(np.any(np.abs(np.abs(self.gains) - 1) > 1e-9))
        parts = ["phase"] * turned + ["amplitude"] * scaled + ["delay"] * bool(np.any(self.delay_ns != 0))
        return "+".join(parts) or "none"

    def unjudged(self) -> EpochGains:
        """Return the same fits with no correction applied and no receptor lost."""
        none = np.zeros(self.lost.shape, np.bool_)
        return replace(
            self, gains=np.ones_like(self.gains), delay_ns=np.zeros_like(self.delay_ns), lost=none, changed=none, stand_out=none,
            drift_amplitude=0.0, drift_phase_rad=0.0, gain_chi2=0.0, misfit=0.0, judged=False,
        )  # fmt: skip

    def without_shift(self, positions_m: Float) -> EpochGains:
        """Return the gains without what a shift of the whole sky would cause: phases linear in positions_m (antenna, 3), in every interval.

        If all positions of the model were fitted to the data themselves, which carry the tables' phases, the data cannot determine
        such a shift. It would then grow from round to round, as gains and positions are fitted to each other's result. The shift is
        fitted to receptors that do not stand out.
        """
        sees_sky = np.isfinite(self.measured) & ~self.lost
        antenna, pol = np.nonzero(sees_sky & ~self.stand_out)
        if not antenna.size:
            return self
        design = np.concatenate([np.eye(2)[pol], positions_m[antenna]], axis=1)
        phases = np.angle(self.gains.mean(axis=2))[:, antenna, pol]
        slopes = np.linalg.lstsq(design, phases.T, rcond=None)[0][2:]
        shift_phasor = np.exp(-1j * (positions_m @ slopes)).T[:, :, None, None]
        return replace(self, gains=np.where(sees_sky[:, None], self.gains * shift_phasor, self.gains))


def solve_epoch(sums: Comparison, options: EpochOptions) -> EpochGains:
    """Return the gains of an observation. Antennas without data are neither lost nor changed."""
    delay_ns = _delays(_Fit.of(sums.r.sum(axis=(0, 1)), sums.d.sum(axis=(0, 1)), sums), sums)
    without_delays = replace(sums, r=sums.r * _delay_correction(delay_ns, sums))
    r, d = without_delays.r.sum(axis=3), without_delays.d.sum(axis=3)
    all_r, all_d = r.sum(axis=(0, 1)), d.sum(axis=(0, 1))
    total = _Fit.of(all_r, all_d, sums)
    variance = _variance(without_delays, total.gains)
    measured, error = np.where(total.solved, total.gains, np.nan).T, _sigma(total, variance) * np.abs(total.gains).T
    error = np.where(np.isfinite(measured), error, np.nan)
    common, lost, judged = _find_lost(measured, error, options)
    if judged:
        incoherence = _incoherence(all_r, all_d, sums, total.gains, variance)
        typical = float(np.nanmedian(incoherence))
        judged = typical < _WRONG_SKY * common
        lost |= np.isfinite(measured) & (np.nan_to_num(incoherence) > max(_INCOHERENT * common, _ABOVE_TYPICAL * typical))
    uncorrected = _uncorrected(sums, measured, error, common, variance, judged)
    use = np.isfinite(measured) & ~lost
    if not judged or use.sum() < _FEWEST:
        return uncorrected
    logs = _Logs.of(total, _Fit.of(r.sum(axis=0), d.sum(axis=0), sums), _Fit.of(r, d, sums), use)
    misfit = _misfit(all_r, all_d, sums, total.gains, variance, use)
    spurious = _spurious(without_delays, total.gains, variance, use, misfit)
    spread = _spread(logs, _sigma(total, variance), misfit, spurious, use, options.outlier_sigma)
    interval_spread = _interval_spread(logs, variance, misfit, use)
    improvement = _improvement_on_unseen(r, d, sums, logs, spread, interval_spread, common, use)
    kept = improvement > 0
    gains = np.exp(_shrunk(logs.whole, logs.intervals, spread, interval_spread, 1.0)) if kept else np.ones(logs.intervals.shape[1:])
    changed, of_blocks = _changed_bandpasses(without_delays, total, use, variance, misfit)
    return replace(
        uncorrected, gains=np.where(use[:, None], gains[:, :, None] * of_blocks, 1), delay_ns=np.where(use, delay_ns, 0), lost=lost,
        changed=changed, stand_out=spread.stand_out | changed | (use & (delay_ns != 0)), drift_amplitude=float(np.sqrt(spread.variance[0])),
        drift_phase_rad=float(np.sqrt(spread.variance[1])), gain_chi2=max(improvement, 0.0), misfit=misfit,
    )  # fmt: skip


def _find_lost(measured: Complex, error: Float, options: EpochOptions) -> tuple[float, NDArray[np.bool_], bool]:
    """Return the median amplitude of the receptors that see the sky, the mask of those that do not, and whether the field is bright
    enough to judge them."""
    amplitude = np.abs(measured)
    present = np.isfinite(amplitude)
    if not present.any():
        return float("nan"), np.zeros(measured.shape, np.bool_), False
    rough = float(np.median(amplitude[present]))
    seeing = present & (np.nan_to_num(amplitude) > options.lost_below * rough)
    common = float(np.median(amplitude[seeing]))
    lost = present & (np.nan_to_num(amplitude) < options.lost_below * common)
    return common, lost, bool(common > options.least_snr * np.median(error[present]))


def _uncorrected(sums: Comparison, measured: Complex, error: Float, common: float, variance: float, judged: bool) -> EpochGains:
    none = np.zeros(measured.shape, np.bool_)
    ones = np.ones((sums.first_time.size - 1, sums.n_antennas, sums.block_hz.size, 2), np.complex128)
    return EpochGains(ones, np.zeros(measured.shape), measured, error, common, none, none, none, 0.0, 0.0, 0.0, variance, judged)


@dataclass(frozen=True)
class _Fit:
    """Antenna gains of independent problems (..., antenna). In each problem the median phase of the antennas is 0."""

    gains: Complex
    solved: NDArray[np.bool_]
    information: Float

    @staticmethod
    def of(r: Complex, d: Float, sums: Comparison) -> _Fit:
        """Fit gains to sums (..., baseline)."""
        shape = (*r.shape[:-1], sums.n_antennas)
        flat_r, flat_d = r.reshape(-1, r.shape[-1]).astype(np.complex64), d.reshape(-1, d.shape[-1]).astype(np.float32)
        start = np.ones((flat_r.shape[0], sums.n_antennas), np.complex128)
        fit = stefcal.fit(flat_r, flat_d, sums.ant1, sums.ant2, sums.n_antennas, start=start, tolerance=1e-6, max_iterations=200)
        solved = fit.solved & (fit.information > 0) & (fit.gains != 0)
        unit = np.where(solved, np.exp(1j * np.angle(fit.gains)), 0)
        relative = np.where(solved, np.angle(fit.gains * np.exp(-1j * np.angle(unit.sum(axis=1, keepdims=True)))), np.nan)
        # the median, because with the mean a few antennas whose phase jumped would shift all the others
        median = np.array([np.median(row[is_solved]) if is_solved.any() else 0.0 for row, is_solved in zip(relative, solved, strict=True)])
        gains = np.where(solved, np.abs(fit.gains) * np.exp(1j * (np.nan_to_num(relative) - median[:, None])), 1)
        return _Fit(gains.reshape(shape), solved.reshape(shape), np.where(solved, fit.information, 0).reshape(shape))


def _delays(blocks: _Fit, sums: Comparison) -> Float:
    """Return delay jumps [ns] (antenna, pol), from gains (pol, block, antenna); 0 where none is significant.

    The median delay of all receptors is subtracted: it belongs to no antenna and is only a phase between the blocks.
    """
    if sums.block_hz.size < 3:
        return np.zeros((sums.n_antennas, 2))
    unit = np.where(blocks.solved, np.exp(1j * np.angle(blocks.gains)), 0).transpose(2, 0, 1)
    fitted_ns = delays.peak_delay_ns(unit, sums.block_hz, float(sums.block_hz.mean()))
    n = np.abs(unit).sum(axis=-1)
    fitted_ns -= np.array([np.median(fitted_ns[n[:, p] > 2, p]) if (n[:, p] > 2).any() else 0.0 for p in range(2)])
    residual = unit * delays.phasor(-fitted_ns, sums.block_hz, float(sums.block_hz.mean()))
    relative = np.angle(residual * np.exp(-1j * np.angle(residual.sum(axis=-1, keepdims=True))))
    scatter = np.sqrt(np.sum(np.abs(unit) * relative**2, axis=-1) / np.maximum(n - 2, 1))
    span_hz = np.sqrt(np.sum((sums.block_hz - sums.block_hz.mean()) ** 2))
    error_ns = 1e9 * scatter / (2 * np.pi * span_hz)
    # a receptor that sees no sky has phases of noise, to which any delay fits: they scatter by a radian or more
    significant = (np.abs(fitted_ns) > np.maximum(_DELAY_SIGMA * error_ns, _LEAST_DELAY_NS)) & (scatter < 0.5) & (n > 2)
    return np.where(significant, fitted_ns, 0.0)


def _delay_correction(delay_ns: Float, sums: Comparison) -> Complex:
    """Return the phasors that remove the delays from r: (1, 1, pol, block, baseline)."""
    slopes = delays.phasor(-delay_ns, sums.block_hz, float(sums.block_hz.mean()))  # antenna, pol, block
    pair = slopes[sums.ant1] * np.conj(slopes[sums.ant2])
    return np.asarray(pair.transpose(1, 2, 0)[None, None])


def _variance(sums: Comparison, gains: Complex) -> float:
    """Return the variance of complex samples of weight 1, with gains (pol, antenna): the median over baselines, because a broken
    antenna is on few of them."""
    z = gains[:, sums.ant1] * np.conj(gains[:, sums.ant2])
    axes = (0, 1, 3)
    chi2 = sums.energy.sum(axes) - 2 * (np.conj(z) * sums.r.sum(axes)).real + np.abs(z) ** 2 * sums.d.sum(axes)
    count = sums.count.sum(axes)
    return float(np.median(chi2[count > 0] / count[count > 0])) if (count > 0).any() else float("nan")


def _sigma(fit: _Fit, variance: float) -> Float:
    """Return the error of ln|g|, which is also that of the phase [rad], (..., antenna, pol); NaN where there is no information."""
    size = np.abs(fit.gains) ** 2 * fit.information
    return np.asarray(np.swapaxes(np.sqrt(variance / 2 / np.where(size > 0, size, np.nan)), -1, -2))


def _incoherence(r: Complex, d: Float, sums: Comparison, gains: Complex, variance: float) -> Float:
    """Return by how much a receptor's baselines differ from its gain times the others', relative to the sky's amplitude and beyond
    the noise: (antenna, pol), from r, d (pol, baseline); NaN without data. It is the median over baselines: a broken partner spoils one.

    Exchanged correlation products show a sky with wrong phases on every baseline. A small gain fits that best, but does not make the
    residual smaller.
    """
    z = gains[:, sums.ant1] * np.conj(gains[:, sums.ant2])
    incoherence = np.full((sums.n_antennas, 2), np.nan)
    for antenna in np.union1d(sums.ant1, sums.ant2):
        of_antenna = (sums.ant1 == antenna) | (sums.ant2 == antenna)
        partner = np.where(sums.ant1 == antenna, sums.ant2, sums.ant1)[of_antenna]
        for p in range(2):
            weight = d[p, of_antenna] * np.abs(gains[p, partner]) ** 2
            has_data = weight > 0
            if has_data.any():
                residual = np.abs(r[p, of_antenna] - d[p, of_antenna] * z[p, of_antenna])[has_data] ** 2 / (
                    d[p, of_antenna][has_data] * weight[has_data]
                )
                noise = np.log(2) * variance * float(np.median(1 / weight[has_data]))
                incoherence[antenna, p] = np.sqrt(max(float(np.median(residual)) - noise, 0.0))
    return incoherence


def _misfit(r: Complex, d: Float, sums: Comparison, gains: Complex, variance: float, use: NDArray[np.bool_]) -> float:
    """Return the root mean square of the real or imaginary part of R / (D z) - 1 over baselines, beyond the noise, from r, d
    (pol, baseline); 0 unless it is significant. An antenna cannot cause it, so it is model error: a resolved source, or sources missing
    from the model."""
    pairs = use.T[:, sums.ant1] & use.T[:, sums.ant2] & (d > 0)
    z = gains[:, sums.ant1] * np.conj(gains[:, sums.ant2])
    if not pairs.any():
        return 0.0
    z, r, d = z[pairs], r[pairs], d[pairs]
    share = 1 - use.sum() / max(z.size, 1)  # the fraction of the noise that the fit leaves
    excess = d * np.abs(r / (d * z) - 1) ** 2 - share * variance / np.abs(z) ** 2
    if excess.sum() < _SIGNIFICANT * variance * np.sqrt(z.size):
        return 0.0
    return float(np.sqrt(excess.sum() / d.sum() / 2))


def _spurious(sums: Comparison, gains: Complex, variance: float, use: NDArray[np.bool_], misfit: float) -> float:
    """Return the spurious gain change that a model of this misfit may cause, in the real or imaginary part of the whole band's gains.

    A resolved source departs from its model by the same amount in both halves of the band, and gains absorb as much of that as they
    leave. Sources that the model lacks change their phase on nearly every baseline between the two halves. These departures are
    independent, and the gain of an antenna absorbs their mean over its baselines. The part that both halves have in common, plus twice
    its error, is counted as the first kind.
    """
    half = sums.block_hz.size // 2
    pairs = use.T[:, sums.ant1] & use.T[:, sums.ant2]
    if not (misfit > 0 and half > 0):
        return misfit
    r, d = sums.r.sum(axis=(0, 1)), sums.d.sum(axis=(0, 1))
    z = (gains[:, sums.ant1] * np.conj(gains[:, sums.ant2]))[pairs]
    low, high = (part.sum(axis=1)[pairs] for part in (r[:, :half], r[:, half:]))
    d_low, d_high = (part.sum(axis=1)[pairs] for part in (d[:, :half], d[:, half:]))
    if not np.any(d_low * d_high):  # no baseline was seen in both halves
        return misfit
    product = ((low - d_low * z) * np.conj(high - d_high * z)).real / np.abs(z) ** 2
    error = variance * np.sqrt(np.sum(d_low * d_high / np.abs(z) ** 4) / 2)
    common = (float(product.sum()) + 2 * float(error)) / (2 * float((d_low * d_high).sum()))
    common = min(max(common, 0.0), misfit**2)
    antennas = max(int(use.any(axis=1).sum()), 2)
    return float(np.sqrt(common + (misfit**2 - common) / (antennas - 1)))


@dataclass(frozen=True)
class _Logs:
    """ln g, its real part relative to the receptors' median. Arrays (..., antenna, pol) complex, 0 where not in use.

    whole (3, antenna, pol): fitted to the even half, the odd half, and both. intervals (3, interval, antenna, pol): the same three,
    relative to the whole observation's gain of both halves. parts: the fit of each interval and half.
    """

    whole: Complex
    intervals: Complex
    parts: _Fit

    @staticmethod
    def of(total: _Fit, halves: _Fit, parts: _Fit, use: NDArray[np.bool_]) -> _Logs:
        whole = np.stack([_log(g, use) for g in (*halves.gains, total.gains)])
        whole -= np.where(use, np.median(whole.real[:, use], axis=1)[:, None, None], 0)
        relative = _log(parts.gains / total.gains, use & np.swapaxes(parts.solved, -1, -2).all(axis=(0, 1)))
        both = relative.mean(axis=1)
        return _Logs(whole, np.stack([relative[:, 0], relative[:, 1], both]), parts)


def _log(gains: Complex, use: NDArray[np.bool_]) -> Complex:
    """Return ln g of gains (..., pol, antenna) as (..., antenna, pol); 0 where not in use."""
    g = np.swapaxes(gains, -1, -2)
    return np.asarray(np.log(np.where(use & (g != 0), g, 1)))


@dataclass(frozen=True)
class _Spread:
    """variance (2,): true variance of ln|g| and of the phases of receptors that do not stand out; sigma (antenna, pol): the noise
    of ln|g| and of the phase; stand_out (antenna, pol)."""

    variance: Float
    sigma: Float
    stand_out: NDArray[np.bool_]

    def shares(self, samples: float) -> tuple[Float, Float]:
        """Return the shrinkage factors (0 to 1) of departures in ln|g| and in phase, for a fit to this fraction of the samples."""
        noise = self.sigma**2 / samples
        shrinkage = [
            np.where(self.stand_out, 1.0, spread_variance / np.maximum(spread_variance + noise, 1e-30)) for spread_variance in self.variance
        ]
        return shrinkage[0], shrinkage[1]


def _spread(logs: _Logs, sigma: Float, misfit: float, spurious: float, use: NDArray[np.bool_], outlier: float) -> _Spread:
    """Return the true spread of the departures: their mean product over the two halves, if it is three times its own error above 0 and
    its root is twice the spurious change the model may cause. Otherwise the variance is 0."""
    variance = np.zeros(2)
    even, odd, both = logs.whole
    # the spread is first estimated from the median, which a broken antenna does not affect
    widths = [1.4826 * float(np.median(np.abs(part(both)[use]))) for part in (np.real, np.imag)]
    stand_out = _outside(both, [max(width**2, (_FARTHEST * misfit) ** 2, 1e-30) + 0 * sigma for width in widths], use, outlier)
    for _ in range(_ROUNDS):
        regular = use & ~stand_out
        if regular.sum() < _FEWEST:
            break
        for k, part in enumerate((np.real, np.imag)):
            variance[k] = _common_variance(part(even)[regular], part(odd)[regular], 2 * sigma[regular] ** 2, spurious)
        updated = _outside(both, [sigma**2 + (_FARTHEST * misfit) ** 2 + v for v in variance], use, outlier)
        if np.array_equal(updated, stand_out):
            break
        stand_out = updated
    return _Spread(variance, sigma, stand_out)


def _outside(departures: Complex, variances: list[Float], use: NDArray[np.bool_], sigmas: float) -> NDArray[np.bool_]:
    size, phase = (sigmas * np.sqrt(variance) for variance in variances)
    return np.asarray(use & ((np.abs(departures.real) > size) | (np.abs(departures.imag) > phase)))


def _common_variance(first: Float, second: Float, noise: Float, spurious: float) -> float:
    """Return the true variance that two measurements with independent noise share, less that of `spurious` changes; 0 unless it is
    significant. `noise` are the noise variances."""
    covariance = float(np.mean(first * second))
    significant = covariance > max(_SIGNIFICANT * float(np.mean(noise)) / np.sqrt(first.size), 4 * spurious**2)
    return covariance - spurious**2 if significant else 0.0


def _interval_spread(logs: _Logs, variance: float, misfit: float, use: NDArray[np.bool_]) -> _Spread:
    """Return the spread of the intervals' gains about the whole observation's, one value for all receptors; sigma is that of a whole
    interval."""
    sigma = np.sqrt(np.mean(_sigma(logs.parts, variance) ** 2 / 2, axis=(0, 1)))
    n_intervals = logs.intervals.shape[1]
    none = np.zeros(use.shape, np.bool_)
    if n_intervals < 2 or not use.any():
        return _Spread(np.zeros(2), sigma, none)
    even, odd = (logs.intervals[h][:, use] for h in range(2))
    noise = np.broadcast_to(2 * sigma[use] ** 2, even.shape)
    variances = [_common_variance(part(even).ravel(), part(odd).ravel(), noise.ravel(), misfit) for part in (np.real, np.imag)]
    return _Spread(np.array(variances), sigma, none)


def _shrunk(whole: Complex, intervals: Complex, spread: _Spread, interval_spread: _Spread, samples: float, half: int = 2) -> Complex:
    """Return the shrunk ln g (interval, antenna, pol), fitted to the even half (0), the odd half (1) or both (2)."""
    size, phase = spread.shares(samples)
    s, p = interval_spread.shares(samples)
    w, i = whole[half], intervals[half]
    return np.asarray(size * w.real + s * i.real + 1j * (phase * w.imag + p * i.imag))


def _improvement_on_unseen(
    r: Complex, d: Float, sums: Comparison, logs: _Logs, spread: _Spread, interval_spread: _Spread, common: float, use: NDArray[np.bool_]
) -> float:
    """Return by how much gains fitted to one half lower chi-squared of the other, summed over both, without division by the variance.

    r, d (interval, half, pol, baseline).
    """
    pairs = use.T[:, sums.ant1] & use.T[:, sums.ant2]
    improvement, scale = 0.0, common**2
    for fitted, tested in ((0, 1), (1, 0)):
        g = np.swapaxes(np.exp(_shrunk(logs.whole, logs.intervals, spread, interval_spread, 0.5, fitted)), -1, -2)
        z = scale * g[..., sums.ant1] * np.conj(g[..., sums.ant2])
        rt, dt = r[:, tested], d[:, tested]
        chi2_drop = 2 * ((np.conj(z) - scale) * rt).real - (np.abs(z) ** 2 - scale**2) * dt
        improvement += float(np.sum(np.where(pairs, chi2_drop, 0)))
    return improvement


def _update(sums: Comparison, gains: Complex, halves: bool) -> tuple[Complex, Float]:
    """Return each receptor's gain per block, from its baselines with the gains of all others fixed at `gains` (pol, antenna): (half or 1,
    pol, block, antenna). Also return the information it rests on."""
    axes = (0,) if halves else (0, 1)
    r, d = sums.r.sum(axis=axes, keepdims=True), sums.d.sum(axis=axes, keepdims=True)
    r, d = r.reshape(-1, *r.shape[-3:]), d.reshape(-1, *d.shape[-3:])
    g1, g2 = gains[:, None, sums.ant1], gains[:, None, sums.ant2]
    top, bottom = np.zeros((*r.shape[:3], sums.n_antennas), np.complex128), np.zeros((*r.shape[:3], sums.n_antennas))
    for ends, numerator, denominator in (
        (sums.ant1, r * g2, d * np.abs(g2) ** 2), (sums.ant2, np.conj(r) * g1, d * np.abs(g1) ** 2),
    ):  # fmt: skip
        np.add.at(np.moveaxis(top, -1, 0), ends, np.moveaxis(numerator, -1, 0))
        np.add.at(np.moveaxis(bottom, -1, 0), ends, np.moveaxis(denominator, -1, 0))
    return np.divide(top, bottom, out=np.ones_like(top), where=bottom > 0), bottom


def _changed_bandpasses(
    sums: Comparison, total: _Fit, use: NDArray[np.bool_], variance: float, misfit: float
) -> tuple[NDArray[np.bool_], Complex]:
    """Return the mask (antenna, pol) of receptors whose gain differs between blocks in both halves of the data, and their gains
    relative to those of the whole band, (1, antenna, block, pol), 1 elsewhere.

    The receptors' median is removed, as with the amplitudes of the whole band: a spectrum that all share is that of a source
    with a wrong spectral index in the model. Departures from the median of up to twice the model's misfit may be spurious.
    """
    n = sums.block_hz.size
    none = np.zeros(use.shape, np.bool_)
    ones = np.ones((1, use.shape[0], n, use.shape[1]), np.complex128)
    if n < 4:
        return none, ones
    block_gains, information = _update(sums, total.gains, halves=True)
    relative = _over_median(np.where(information > 0, block_gains / total.gains[:, None], 1), use)
    product = ((relative[0] - 1) * np.conj(relative[1] - 1)).real.mean(axis=1)  # pol, antenna
    size = np.abs(total.gains) ** 2 * information.mean(axis=(0, 2))
    noise = variance / np.where(size > 0, size, np.inf)
    least = max(_LEAST_BANDPASS**2, (_FARTHEST * misfit) ** 2)
    changed = np.asarray(((product > least) & (product > _BLOCK_SIGMA * noise / np.sqrt(n))).T & use)
    if not changed.any():
        return none, ones
    block_gains, information = _update(sums, total.gains, halves=False)
    both = _over_median(np.where(information > 0, block_gains / total.gains[:, None], 1), use)[0]
    return changed, np.asarray(np.where(changed[:, None], both.transpose(2, 1, 0), 1)[None])


def _over_median(gains: Complex, use: NDArray[np.bool_]) -> Complex:
    """Return gains (half, pol, block, antenna) divided by the median amplitude and phase of those in use (antenna, pol), block by block."""
    in_use = np.where(use.T[:, None], gains, np.nan)
    median = np.ones(gains.shape[:-1])[..., None] * (1 + 0j)
    has_receptors = use.any(axis=0)
    logs = np.log(in_use[:, has_receptors])
    median[:, has_receptors] = np.exp(
        np.nanmedian(logs.real, axis=-1, keepdims=True) + 1j * np.nanmedian(logs.imag, axis=-1, keepdims=True)
    )
    return np.asarray(gains / median)
