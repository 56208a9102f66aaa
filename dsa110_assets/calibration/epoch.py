"""What an observation says of its antennas: gains since the tables were solved, delays that jumped, receptors that are lost.

Asked of the sums of `comparison`, antenna by antenna and receptor by receptor. A departure from 1 is believed as far as
the even and the odd integrations agree on it: the product of the two halves' departures has their true variance as its
mean, whatever the noise, and an estimate of variance sigma^2 about a spread v is shrunk by v / (v + sigma^2) (James & Stein
1961). Receptors that stand out of that spread are corrected in full. Nothing is applied that does not improve
chi-squared of the half it was not fitted to.

The common amplitude of all receptors is no gain but the flux scale: it is told apart, and its square is data over model.
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
"""A tenth of a nanosecond turns by 3 degrees from the middle of the band to its edge, and loses 0.05 % of a source."""
_LEAST_BANDPASS = 0.02
_SIGNIFICANT = 3.0
_FARTHEST = 2.0
"""What the antenna farthest from all others takes up of a resolved source is some six times the misfit: it must not stand out."""
_INCOHERENT = 0.5
"""A receptor whose baselines differ by half the sky from any gain of it shows another sky."""
_WRONG_SKY, _OF_ITS_OWN = 0.25, 3.0
"""If most receptors differ by a quarter of it, it is the model that is not the sky, and nothing is said of antennas; and a
receptor shows another sky only if it differs by three times what is usual."""
_FEWEST = 4
_ROUNDS = 5


@dataclass(frozen=True)
class EpochGains:
    """Gains since the tables: V_calibrated(ij) = g_i conj(g_j) V_true(ij).

    gains  (interval, antenna, block, pol) complex128 without delays, as they are to be applied: 1 where nothing is; their
           median amplitude over receptors is 1.
    delay_ns  (antenna, pol), 0 where none is applied; about the mean of the blocks' frequencies.
    measured, error  (antenna, pol): the gain of the whole observation as fitted, and its error per real part; NaN where there
           was nothing to fit. common: their median amplitude.
    lost   (antenna, pol) receptors that do not see the sky. changed: those whose bandpass changed, about
           the median of all.
    drift_amplitude, drift_phase_rad: the true spread of the receptors that do not stand out. stand_out (antenna, pol).
    gain_chi2: how much chi-squared of unseen data fell by what is applied; 0 where nothing is.
    variance: of a complex sample of weight 1, after the fit. judged: whether the field is bright, and known, well enough to say anything.
    misfit: what baselines differ by from any gains' product, as part of the signal: a model that is not the sky.
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
        """What is applied: "none", "phase", "amplitude", "phase+amplitude", with "+delay" where delays jumped."""
        turned = bool(np.any(np.abs(np.angle(self.gains)) > 1e-9))
        scaled = bool(np.any(np.abs(np.abs(self.gains) - 1) > 1e-9))
        parts = ["phase"] * turned + ["amplitude"] * scaled + ["delay"] * bool(np.any(self.delay_ns != 0))
        return "+".join(parts) or "none"

    def unjudged(self) -> EpochGains:
        """The same fits, of which nothing is believed: nothing is applied and no receptor is lost."""
        none = np.zeros(self.lost.shape, np.bool_)
        return replace(
            self, gains=np.ones_like(self.gains), delay_ns=np.zeros_like(self.delay_ns), lost=none, changed=none, stand_out=none,
            drift_amplitude=0.0, drift_phase_rad=0.0, gain_chi2=0.0, misfit=0.0, judged=False,
        )  # fmt: skip

    def without_shift(self, positions_m: Float) -> EpochGains:
        """The same but for what a shift of the whole sky would be: phases linear in positions_m (antenna, 3), in every interval.

        Where all places of the model were found in the data themselves, with the tables' phases, the data cannot tell of one,
        and each round of fits to the other's result walks on. Fitted to receptors that do not stand out.
        """
        seen = np.isfinite(self.measured) & ~self.lost
        antenna, pol = np.nonzero(seen & ~self.stand_out)
        if not antenna.size:
            return self
        design = np.concatenate([np.eye(2)[pol], positions_m[antenna]], axis=1)
        phases = np.angle(self.gains.mean(axis=2))[:, antenna, pol]
        slopes = np.linalg.lstsq(design, phases.T, rcond=None)[0][2:]
        turn = np.exp(-1j * (positions_m @ slopes)).T[:, :, None, None]
        return replace(self, gains=np.where(seen[:, None], self.gains * turn, self.gains))


def solve_epoch(sums: Comparison, options: EpochOptions) -> EpochGains:
    """The gains of an observation; antennas without data are neither lost nor changed."""
    delay_ns = _delays(_Fit.of(sums.r.sum(axis=(0, 1)), sums.d.sum(axis=(0, 1)), sums), sums)
    straight = replace(sums, r=sums.r * _turn(delay_ns, sums))
    r, d = straight.r.sum(axis=3), straight.d.sum(axis=3)
    all_r, all_d = r.sum(axis=(0, 1)), d.sum(axis=(0, 1))
    total = _Fit.of(all_r, all_d, sums)
    variance = _variance(straight, total.gains)
    measured, error = np.where(total.solved, total.gains, np.nan).T, _sigma(total, variance) * np.abs(total.gains).T
    error = np.where(np.isfinite(measured), error, np.nan)
    common, lost, judged = _sight(measured, error, options)
    if judged:
        apart = _incoherence(all_r, all_d, sums, total.gains, variance)
        usual = float(np.nanmedian(apart))
        judged = usual < _WRONG_SKY * common
        lost |= np.isfinite(measured) & (np.nan_to_num(apart) > max(_INCOHERENT * common, _OF_ITS_OWN * usual))
    nothing = _nothing(sums, measured, error, common, variance, judged)
    use = np.isfinite(measured) & ~lost
    if not judged or use.sum() < _FEWEST:
        return nothing
    logs = _Logs.of(total, _Fit.of(r.sum(axis=0), d.sum(axis=0), sums), _Fit.of(r, d, sums), use)
    misfit = _misfit(all_r, all_d, sums, total.gains, variance, use)
    feigned = _feigned(straight, total.gains, variance, use, misfit)
    spread = _spread(logs, _sigma(total, variance), misfit, feigned, use, options.outlier_sigma)
    sway = _sway(logs, variance, misfit, use)
    better = _unseen_improvement(r, d, sums, logs, spread, sway, common, use)
    kept = better > 0
    gains = np.exp(_believed(logs.whole, logs.intervals, spread, sway, 1.0)) if kept else np.ones(logs.intervals.shape[1:])
    changed, of_blocks = _changed_bandpasses(straight, total, use, variance, misfit)
    return replace(
        nothing, gains=np.where(use[:, None], gains[:, :, None] * of_blocks, 1), delay_ns=np.where(use, delay_ns, 0), lost=lost,
        changed=changed, stand_out=spread.stand_out | changed | (use & (delay_ns != 0)), drift_amplitude=float(np.sqrt(spread.variance[0])),
        drift_phase_rad=float(np.sqrt(spread.variance[1])), gain_chi2=max(better, 0.0), misfit=misfit,
    )  # fmt: skip


def _sight(measured: Complex, error: Float, options: EpochOptions) -> tuple[float, NDArray[np.bool_], bool]:
    """(median amplitude of the receptors that see the sky, which do not, whether the field is bright enough to tell)."""
    amplitude = np.abs(measured)
    present = np.isfinite(amplitude)
    if not present.any():
        return float("nan"), np.zeros(measured.shape, np.bool_), False
    rough = float(np.median(amplitude[present]))
    seeing = present & (np.nan_to_num(amplitude) > options.lost_below * rough)
    common = float(np.median(amplitude[seeing]))
    lost = present & (np.nan_to_num(amplitude) < options.lost_below * common)
    return common, lost, bool(common > options.least_snr * np.median(error[present]))


def _nothing(sums: Comparison, measured: Complex, error: Float, common: float, variance: float, judged: bool) -> EpochGains:
    none = np.zeros(measured.shape, np.bool_)
    ones = np.ones((sums.first_time.size - 1, sums.n_antennas, sums.block_hz.size, 2), np.complex128)
    return EpochGains(ones, np.zeros(measured.shape), measured, error, common, none, none, none, 0.0, 0.0, 0.0, variance, judged)


@dataclass(frozen=True)
class _Fit:
    """Antenna gains of independent problems (..., antenna), each with the phases of its antennas about 0 on the whole."""

    gains: Complex
    solved: NDArray[np.bool_]
    information: Float

    @staticmethod
    def of(r: Complex, d: Float, sums: Comparison) -> _Fit:
        """Of sums (..., baseline)."""
        shape = (*r.shape[:-1], sums.n_antennas)
        flat_r, flat_d = r.reshape(-1, r.shape[-1]).astype(np.complex64), d.reshape(-1, d.shape[-1]).astype(np.float32)
        start = np.ones((flat_r.shape[0], sums.n_antennas), np.complex128)
        fit = stefcal.fit(flat_r, flat_d, sums.ant1, sums.ant2, sums.n_antennas, start=start, tolerance=1e-6, max_iterations=200)
        solved = fit.solved & (fit.information > 0) & (fit.gains != 0)
        unit = np.where(solved, np.exp(1j * np.angle(fit.gains)), 0)
        about = np.where(solved, np.angle(fit.gains * np.exp(-1j * np.angle(unit.sum(axis=1, keepdims=True)))), np.nan)
        # the median of phases, or a few antennas that turned would turn all others
        middle = np.array([np.median(row[ok]) if ok.any() else 0.0 for row, ok in zip(about, solved, strict=True)])
        gains = np.where(solved, np.abs(fit.gains) * np.exp(1j * (np.nan_to_num(about) - middle[:, None])), 1)
        return _Fit(gains.reshape(shape), solved.reshape(shape), np.where(solved, fit.information, 0).reshape(shape))


def _delays(blocks: _Fit, sums: Comparison) -> Float:
    """Delays [ns] (antenna, pol) that jumped, from gains (pol, block, antenna); 0 where none is significant.

    All receptors' median delay is nobody's: it only turns the blocks against one another.
    """
    if sums.block_hz.size < 3:
        return np.zeros((sums.n_antennas, 2))
    unit = np.where(blocks.solved, np.exp(1j * np.angle(blocks.gains)), 0).transpose(2, 0, 1)
    found = delays.peak_delay_ns(unit, sums.block_hz, float(sums.block_hz.mean()))
    n = np.abs(unit).sum(axis=-1)
    found -= np.array([np.median(found[n[:, p] > 2, p]) if (n[:, p] > 2).any() else 0.0 for p in range(2)])
    left = unit * delays.phasor(-found, sums.block_hz, float(sums.block_hz.mean()))
    about = np.angle(left * np.exp(-1j * np.angle(left.sum(axis=-1, keepdims=True))))
    scatter = np.sqrt(np.sum(np.abs(unit) * about**2, axis=-1) / np.maximum(n - 2, 1))
    span_hz = np.sqrt(np.sum((sums.block_hz - sums.block_hz.mean()) ** 2))
    error_ns = 1e9 * scatter / (2 * np.pi * span_hz)
    # a receptor without sky has phases of noise, in which any delay is found: they scatter by a radian or more
    real = (np.abs(found) > np.maximum(_DELAY_SIGMA * error_ns, _LEAST_DELAY_NS)) & (scatter < 0.5) & (n > 2)
    return np.where(real, found, 0.0)


def _turn(delay_ns: Float, sums: Comparison) -> Complex:
    """What takes the delays out of r: (1, 1, pol, block, baseline)."""
    slopes = delays.phasor(-delay_ns, sums.block_hz, float(sums.block_hz.mean()))  # antenna, pol, block
    pair = slopes[sums.ant1] * np.conj(slopes[sums.ant2])
    return np.asarray(pair.transpose(1, 2, 0)[None, None])


def _variance(sums: Comparison, gains: Complex) -> float:
    """Of complex samples of weight 1, with gains (pol, antenna): the median over baselines, of which a broken antenna has few."""
    z = gains[:, sums.ant1] * np.conj(gains[:, sums.ant2])
    axes = (0, 1, 3)
    chi2 = sums.energy.sum(axes) - 2 * (np.conj(z) * sums.r.sum(axes)).real + np.abs(z) ** 2 * sums.d.sum(axes)
    count = sums.count.sum(axes)
    return float(np.median(chi2[count > 0] / count[count > 0])) if (count > 0).any() else float("nan")


def _sigma(fit: _Fit, variance: float) -> Float:
    """Error of ln|g| and of the phase [rad] (..., antenna, pol); infinite where nothing is known."""
    size = np.abs(fit.gains) ** 2 * fit.information
    return np.asarray(np.swapaxes(np.sqrt(variance / 2 / np.where(size > 0, size, np.nan)), -1, -2))


def _incoherence(r: Complex, d: Float, sums: Comparison, gains: Complex, variance: float) -> Float:
    """What a receptor's baselines differ by from its gain times the others', over the sky's amplitude, beyond the noise:
    (antenna, pol), of r, d (pol, baseline); NaN without any. The median over baselines, of which a broken partner has one.

    Products that are exchanged have a sky of other phases on every baseline, which a small gain fits best; what is left is no
    smaller for that.
    """
    z = gains[:, sums.ant1] * np.conj(gains[:, sums.ant2])
    found = np.full((sums.n_antennas, 2), np.nan)
    for antenna in np.union1d(sums.ant1, sums.ant2):
        mine = (sums.ant1 == antenna) | (sums.ant2 == antenna)
        other = np.where(sums.ant1 == antenna, sums.ant2, sums.ant1)[mine]
        for p in range(2):
            weight = d[p, mine] * np.abs(gains[p, other]) ** 2
            seen = weight > 0
            if seen.any():
                left = np.abs(r[p, mine] - d[p, mine] * z[p, mine])[seen] ** 2 / (d[p, mine][seen] * weight[seen])
                noise = np.log(2) * variance * float(np.median(1 / weight[seen]))
                found[antenna, p] = np.sqrt(max(float(np.median(left)) - noise, 0.0))
    return found


def _misfit(r: Complex, d: Float, sums: Comparison, gains: Complex, variance: float, use: NDArray[np.bool_]) -> float:
    """Root mean square of either part of R / (D z) - 1 over baselines beyond the noise, of r, d (pol, baseline); 0 unless it is
    significant. An antenna cannot cause it, so a model does: of a source that is resolved, or of too few sources."""
    pairs = use.T[:, sums.ant1] & use.T[:, sums.ant2] & (d > 0)
    z = gains[:, sums.ant1] * np.conj(gains[:, sums.ant2])
    if not pairs.any():
        return 0.0
    z, r, d = z[pairs], r[pairs], d[pairs]
    share = 1 - use.sum() / max(z.size, 1)  # what of the noise the fit leaves
    excess = d * np.abs(r / (d * z) - 1) ** 2 - share * variance / np.abs(z) ** 2
    if excess.sum() < _SIGNIFICANT * variance * np.sqrt(z.size):
        return 0.0
    return float(np.sqrt(excess.sum() / d.sum() / 2))


def _feigned(sums: Comparison, gains: Complex, variance: float, use: NDArray[np.bool_], misfit: float) -> float:
    """What a model of this misfit may feign in either part of the whole band's gains.

    A resolved source departs from its model alike in both halves of the band, and gains take up as much of it as they leave. Sources
    that the model lacks turn on nearly every baseline by more than that from one half to the other: of these departures, which are
    independent, the gain of an antenna takes up the mean over its baselines. What the halves have in common, and twice its error, is
    counted with the former.
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
    """ln g: its real part about the receptors' median. Each (..., antenna, pol) complex, 0 where not in use.

    whole (half or both = 3, antenna, pol): even, odd, both; intervals (3, interval, antenna, pol) alike, about the whole of
    both. sigma_intervals (interval, antenna, pol): of one half, per unit of variance's root.
    """

    whole: Complex
    intervals: Complex
    parts: _Fit

    @staticmethod
    def of(total: _Fit, halves: _Fit, parts: _Fit, use: NDArray[np.bool_]) -> _Logs:
        whole = np.stack([_log(g, use) for g in (*halves.gains, total.gains)])
        whole -= np.where(use, np.median(whole.real[:, use], axis=1)[:, None, None], 0)
        about = _log(parts.gains / total.gains, use & np.swapaxes(parts.solved, -1, -2).all(axis=(0, 1)))
        both = about.mean(axis=1)
        return _Logs(whole, np.stack([about[:, 0], about[:, 1], both]), parts)


def _log(gains: Complex, use: NDArray[np.bool_]) -> Complex:
    """ln g of gains (..., pol, antenna) as (..., antenna, pol); 0 where not in use."""
    g = np.swapaxes(gains, -1, -2)
    return np.asarray(np.log(np.where(use & (g != 0), g, 1)))


@dataclass(frozen=True)
class _Spread:
    """variance (2,) true variance of ln|g| and of the phases of receptors that do not stand out; sigma (antenna, pol) the noise
    of either; stand_out (antenna, pol)."""

    variance: Float
    sigma: Float
    stand_out: NDArray[np.bool_]

    def shares(self, samples: float) -> tuple[Float, Float]:
        """How far departures in ln|g| and in phase are believed, of a fit to this part of the samples: 0 to 1."""
        noise = self.sigma**2 / samples
        believed = [np.where(self.stand_out, 1.0, v / np.maximum(v + noise, 1e-30)) for v in self.variance]
        return believed[0], believed[1]


def _spread(logs: _Logs, sigma: Float, misfit: float, feigned: float, use: NDArray[np.bool_], outlier: float) -> _Spread:
    """The mean product of both halves' departures, if it is three times its own error above 0 and twice what the model may
    feign. Else there is none to be seen."""
    variance = np.zeros(2)
    even, odd, both = logs.whole
    # the first idea of the spread is the median's, which a broken antenna does not move
    widths = [1.4826 * float(np.median(np.abs(part(both)[use]))) for part in (np.real, np.imag)]
    stand_out = _outside(both, [max(width**2, (_FARTHEST * misfit) ** 2, 1e-30) + 0 * sigma for width in widths], use, outlier)
    for _ in range(_ROUNDS):
        regular = use & ~stand_out
        if regular.sum() < _FEWEST:
            break
        for k, part in enumerate((np.real, np.imag)):
            variance[k] = _agreed(part(even)[regular], part(odd)[regular], 2 * sigma[regular] ** 2, feigned)
        again = _outside(both, [sigma**2 + (_FARTHEST * misfit) ** 2 + v for v in variance], use, outlier)
        if np.array_equal(again, stand_out):
            break
        stand_out = again
    return _Spread(variance, sigma, stand_out)


def _outside(departures: Complex, variances: list[Float], use: NDArray[np.bool_], sigmas: float) -> NDArray[np.bool_]:
    size, phase = (sigmas * np.sqrt(variance) for variance in variances)
    return np.asarray(use & ((np.abs(departures.real) > size) | (np.abs(departures.imag) > phase)))


def _agreed(one: Float, other: Float, noise: Float, feigned: float) -> float:
    """The true variance two measurements of independent noise variances `noise` share, without that which is `feigned`; 0 unless it
    is significant."""
    found = float(np.mean(one * other))
    clear = found > max(_SIGNIFICANT * float(np.mean(noise)) / np.sqrt(one.size), 4 * feigned**2)
    return found - feigned**2 if clear else 0.0


def _sway(logs: _Logs, variance: float, misfit: float, use: NDArray[np.bool_]) -> _Spread:
    """The spread of intervals about the whole observation, of all receptors alike; sigma is that of a whole interval."""
    sigma = np.sqrt(np.mean(_sigma(logs.parts, variance) ** 2 / 2, axis=(0, 1)))
    n_intervals = logs.intervals.shape[1]
    none = np.zeros(use.shape, np.bool_)
    if n_intervals < 2 or not use.any():
        return _Spread(np.zeros(2), sigma, none)
    even, odd = (logs.intervals[h][:, use] for h in range(2))
    noise = np.broadcast_to(2 * sigma[use] ** 2, even.shape)
    variances = [_agreed(part(even).ravel(), part(odd).ravel(), noise.ravel(), misfit) for part in (np.real, np.imag)]
    return _Spread(np.array(variances), sigma, none)


def _believed(whole: Complex, intervals: Complex, spread: _Spread, sway: _Spread, samples: float, which: int = 2) -> Complex:
    """ln g (interval, antenna, pol) as it is believed, of the even half (0), the odd one (1) or both (2)."""
    size, phase = spread.shares(samples)
    s, p = sway.shares(samples)
    w, i = whole[which], intervals[which]
    return np.asarray(size * w.real + s * i.real + 1j * (phase * w.imag + p * i.imag))


def _unseen_improvement(
    r: Complex, d: Float, sums: Comparison, logs: _Logs, spread: _Spread, sway: _Spread, common: float, use: NDArray[np.bool_]
) -> float:
    """How far chi-squared of each half falls by gains from the other half, in units of its variance per sample of weight 1.

    r, d (interval, half, pol, baseline).
    """
    pairs = use.T[:, sums.ant1] & use.T[:, sums.ant2]
    better, scale = 0.0, common**2
    for fitted, tried in ((0, 1), (1, 0)):
        g = np.swapaxes(np.exp(_believed(logs.whole, logs.intervals, spread, sway, 0.5, fitted)), -1, -2)
        z = scale * g[..., sums.ant1] * np.conj(g[..., sums.ant2])
        rt, dt = r[:, tried], d[:, tried]
        gained = 2 * ((np.conj(z) - scale) * rt).real - (np.abs(z) ** 2 - scale**2) * dt
        better += float(np.sum(np.where(pairs, gained, 0)))
    return better


def _update(sums: Comparison, gains: Complex, halves: bool) -> tuple[Complex, Float]:
    """One receptor's gain per block from its baselines, all others' being `gains` (pol, antenna): (half or 1, pol, block,
    antenna), and the information it rests on."""
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
    """(antenna, pol): where both halves agree that a receptor's gain is not the same in all blocks, and their gains about those
    of the whole band, (1, antenna, block, pol), 1 elsewhere.

    The receptors' median is taken out, as of the amplitudes of the whole band: a spectrum that all share is that of a source
    whose index the model has wrong. Of what is about it twice the model's misfit may be feigned.
    """
    n = sums.block_hz.size
    none = np.zeros(use.shape, np.bool_)
    ones = np.ones((1, use.shape[0], n, use.shape[1]), np.complex128)
    if n < 4:
        return none, ones
    each, information = _update(sums, total.gains, halves=True)
    about = _about_median(np.where(information > 0, each / total.gains[:, None], 1), use)
    product = ((about[0] - 1) * np.conj(about[1] - 1)).real.mean(axis=1)  # pol, antenna
    size = np.abs(total.gains) ** 2 * information.mean(axis=(0, 2))
    noise = variance / np.where(size > 0, size, np.inf)
    least = max(_LEAST_BANDPASS**2, (_FARTHEST * misfit) ** 2)
    changed = np.asarray(((product > least) & (product > _BLOCK_SIGMA * noise / np.sqrt(n))).T & use)
    if not changed.any():
        return none, ones
    each, information = _update(sums, total.gains, halves=False)
    both = _about_median(np.where(information > 0, each / total.gains[:, None], 1), use)[0]
    return changed, np.asarray(np.where(changed[:, None], both.transpose(2, 1, 0), 1)[None])


def _about_median(gains: Complex, use: NDArray[np.bool_]) -> Complex:
    """Gains (half, pol, block, antenna) over the median amplitude and phase of those in use (antenna, pol), block by block."""
    seen = np.where(use.T[:, None], gains, np.nan)
    middle = np.ones(gains.shape[:-1])[..., None] * (1 + 0j)
    some = use.any(axis=0)
    logs = np.log(seen[:, some])
    middle[:, some] = np.exp(np.nanmedian(logs.real, axis=-1, keepdims=True) + 1j * np.nanmedian(logs.imag, axis=-1, keepdims=True))
    return np.asarray(gains / middle)
