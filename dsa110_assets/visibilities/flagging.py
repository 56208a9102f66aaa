"""Flagging, in this order: zeros, autocorrelations, clip, interference on each baseline, dead receptors, interference
seen by antennas, wide interference, extension."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray
from scipy.constants import speed_of_light

from dsa110_assets.telescope import timegrid
from dsa110_assets.visibilities import flag_kernels as kernels
from dsa110_assets.visibilities import stacking, sumthreshold
from dsa110_assets.visibilities.coherence import Coherence
from dsa110_assets.visibilities.options import FlaggingOptions
from dsa110_assets.visibilities.stacking import Stack
from dsa110_assets.visibilities.types import Visibilities

N_POLS = 2
ETA = 0.15
"""Eta of the rank operator. With 0.2, clean data beside 35 MHz of 1000 Jy are lost (0.9 %); with 0.1, flanks of bursts remain (0.13 %)."""
_BLOCKS, _NARROWEST_BLOCK = 48, 4
"""A background covers a 48th of the band (3.9 MHz), but at least 4 channels."""
_WIDEST, _FEWEST = 24, 8
"""Windows along frequency are at most a 24th of the band (8 MHz) wide, but at least 8 channels: over more, the sky varies."""


@dataclass(frozen=True)
class FlagReport:
    """The results of flagging.

    causes: fraction of the cross-correlation samples of delivered subbands first flagged by each step. dead_receptors:
    (antenna index, 0 = XX or 1 = YY). fraction: flagged fraction of the cross-correlation samples of live receptors and
    delivered subbands; fraction_raw: of all cross-correlation samples. judged_wide: fraction of the antennas that could
    be searched for wide interference (own engine; see coherence).
    """

    causes: dict[str, float] = field(default_factory=dict)
    dead_receptors: list[tuple[int, int]] = field(default_factory=list)
    fraction: float = 0.0
    fraction_raw: float = 0.0
    judged_wide: float = 0.0


def flag(vis: Visibilities, options: FlaggingOptions | None = None) -> tuple[Visibilities, FlagReport]:
    """Flag raw visibilities; the data and weights are shared with the input, the flags are new.

    Exact zeros are flagged (the correlator writes zeros for lost samples without marking them). Autocorrelations are
    flagged because they must not be imaged; they keep their data. Existing flags stay. Deterministic.
    """
    delivered = kernels.delivered_channels(vis.weights, ~vis.is_auto)
    flagger = Flagger(vis, delivered, options or FlaggingOptions())
    flags = vis.flags.copy()
    flagger.block(np.arange(vis.ant1.size), vis.data, flags)
    return replace(vis, flags=flags), flagger.finish(flags)


class Flagger:
    """Flags an observation some baselines at a time: `block` once for each, then `finish`. The split into blocks does
    not change the result.

    Of `frame` only the geometry is used; delivered (channel,) is False for absent subbands. An engine that compares the
    samples of different baselines (`whole`) needs all of them in one block.
    """

    def __init__(self, frame: Visibilities, delivered: NDArray[np.bool_], options: FlaggingOptions) -> None:
        self._frame, self._delivered, self._options = frame, delivered, options
        self._cross = ~frame.is_auto
        n_times, _, n_channels, _ = frame.data.shape
        self._samples = max(int(delivered.sum()) * int(self._cross.sum()) * n_times * N_POLS, 1)
        self._causes = dict.fromkeys(("file", "zeros", "clip"), 0)
        self._place = np.zeros(len(frame.antennas.names), np.int32)
        self._place[frame.active_antennas] = np.arange(frame.active_antennas.size)
        self._windows = max(n_channels // _WIDEST, _FEWEST)
        self._width = max(n_channels // _BLOCKS, _NARROWEST_BLOCK)
        self._stack: Stack | None = None
        self._coherence: Coherence | None = None
        if options.engine == "own":
            ends, lengths_m = (self._place[frame.ant1], self._place[frame.ant2]), np.linalg.norm(frame.uvw_m[0], axis=1)
            turns = frame.uvw_m[0, :, 0] * np.cos(frame.pointing_dec_rad) * frame.frequencies_hz.mean() / speed_of_light
            rates = turns * timegrid.EARTH_RATE_RAD_S * frame.interval_s
            self._stack = Stack(frame.active_antennas.size, n_channels, n_times)
            self._coherence = Coherence(
                *ends, lengths_m, rates, frame.data.shape, self._width, frame.channel_width_hz, frame.interval_s
            )  # fmt: skip

    @property
    def whole(self) -> bool:
        """Whether all baselines must come in one block."""
        return self._stack is None and bool(self._options.mad_sigma)

    def block(self, baselines: NDArray[np.int64], data: NDArray[np.complex64], flags: NDArray[np.bool_]) -> None:
        """Flag (time, len(baselines), channel, pol) samples of some baselines, in place, including autocorrelations and zeros."""
        options, cross = self._options, self._cross[baselines]
        counts = kernels.screen(data, flags, self._delivered, cross, options.clip_amplitude or np.inf)
        for cause, number in zip(("file", "zeros", "clip"), counts[cross].sum(axis=0), strict=True):
            self._causes[cause] += int(number)
        before = int(counts[cross].sum())
        if self._stack is not None and self._coherence is not None:
            ends = self._place[self._frame.ant1[baselines]], self._place[self._frame.ant2[baselines]]
            excess = np.empty((baselines.size, data.shape[0], data.shape[2]), np.int8)
            sumthreshold.flag_blocks(
                data,
                flags,
                ~cross,
                self._width,
                np.float32(options.threshold_sigma),
                np.float32(options.mad_sigma),
                self._windows,
                np.float32(ETA),
                excess,
            )
            self._stack.add(excess, *ends)
            self._coherence.add(baselines, data, flags)
            before = self._note("sumthreshold", flags, cross, before)
        elif options.engine == "aoflagger":
            from dsa110_assets.engines import aoflagger

            aoflagger.flag(data, flags, cross)
            before = self._note("aoflagger", flags, cross, before)
        if self.whole:
            kernels.median_clip(data, flags, options.mad_sigma)
            self._note("median", flags, cross, before)

    def finish(self, flags: NDArray[np.bool_]) -> FlagReport:
        """Flag, in place, what needs all baselines: dead receptors, interference seen by antennas, wide interference, extension."""
        vis, options, delivered, cross = self._frame, self._options, self._delivered, self._cross
        dead, counts = self._without_dead("dead", flags, kernels.baseline_counts(flags, delivered))
        wide: NDArray[np.bool_] | None = None
        if self._stack is not None and self._coherence is not None:
            ends = self._place[vis.ant1], self._place[vis.ant2]
            known = self._stack.hits(options.threshold_sigma, self._windows, ETA)
            hits = self._coherence.hits(known, self._stack.excess(), options.threshold_sigma)
            stacking.flag(flags, *ends, known & hits)
            counts = self._recounted("antennas", flags, counts)
            stacking.flag(flags, *ends, hits)
            counts = self._recounted("coherent", flags, counts)
            wide = np.asarray(hits.all(axis=0))
        kernels.extend(flags, cross, delivered, options.extend_fraction, wide)
        dead_after, counts = self._without_dead("dead_after", flags, self._recounted("extend", flags, counts))
        dead = sorted({*dead, *dead_after})
        live, n_times = _live(vis, dead), flags.shape[0]
        everywhere = counts if delivered.all() else kernels.baseline_counts(flags, np.ones_like(delivered))
        return FlagReport(
            causes={cause: number / self._samples for cause, number in self._causes.items()},
            dead_receptors=dead,
            fraction=_fraction(counts, n_times * int(delivered.sum()), live & cross[:, None]),
            fraction_raw=_fraction(everywhere, n_times * delivered.size, np.broadcast_to(cross[:, None], live.shape)),
            judged_wide=self._coherence.judged if self._coherence is not None else 0.0,
        )

    def _without_dead(
        self, cause: str, flags: NDArray[np.bool_], counts: NDArray[np.int64]
    ) -> tuple[list[tuple[int, int]], NDArray[np.int64]]:
        """Flag dead receptors; return them and the numbers of samples flagged afterwards."""
        dead = _flag_dead(self._frame, flags, counts / max(flags.shape[0] * int(self._delivered.sum()), 1), self._options.dead_fraction)
        self._causes[cause] = 0
        return dead, self._recounted(cause, flags, counts) if dead else counts

    def _recounted(self, cause: str, flags: NDArray[np.bool_], before: NDArray[np.int64]) -> NDArray[np.int64]:
        """Flagged samples (baseline, pol) in delivered channels after flagging `cause`, whose share is recorded."""
        counts = kernels.baseline_counts(flags, self._delivered)
        self._causes[cause] = int((counts - before)[self._cross].sum())
        return counts

    def _note(self, cause: str, flags: NDArray[np.bool_], cross: NDArray[np.bool_], before: int) -> int:
        after = int(kernels.baseline_counts(flags, self._delivered)[cross].sum())
        self._causes[cause] = self._causes.get(cause, 0) + after - before
        return after


def _flag_dead(vis: Visibilities, flags: NDArray[np.bool_], flagged: NDArray[np.float64], limit: float) -> list[tuple[int, int]]:
    """Flag receptors of which more than `limit` is flagged, worst first; `flagged` (baseline, pol) is the flagged
    fraction.

    Baselines to a dead partner do not count against a receptor, so a few live receptors among many dead ones stay
    alive.
    """
    cross = ~vis.is_auto
    dead: list[tuple[int, int]] = []
    for pol in range(N_POLS):
        alive = np.isin(np.arange(len(vis.antennas.names)), vis.active_antennas)
        while True:
            usable = cross & alive[vis.ant1] & alive[vis.ant2]
            fraction = _per_antenna(vis, flagged[:, pol], usable)
            worst = fraction.max(initial=0.0)
            if worst <= limit:
                break
            alive[fraction == worst] = False
        for antenna in np.setdiff1d(vis.active_antennas, np.flatnonzero(alive)):
            flags[:, (vis.ant1 == antenna) | (vis.ant2 == antenna), :, pol] = True
            dead.append((int(antenna), pol))
    return sorted(dead)


def _per_antenna(vis: Visibilities, values: NDArray[np.float64], usable: NDArray[np.bool_]) -> NDArray[np.float64]:
    """(antenna,) mean of a per-baseline value over the usable baselines of each antenna; 0 without any."""
    n = len(vis.antennas.names)
    ends = np.concatenate([vis.ant1[usable], vis.ant2[usable]])
    total = np.bincount(ends, weights=np.tile(values[usable], 2), minlength=n)
    return np.asarray(total / np.maximum(np.bincount(ends, minlength=n), 1))


def _live(vis: Visibilities, dead: list[tuple[int, int]]) -> NDArray[np.bool_]:
    """(baseline, pol) True where both receptors are alive."""
    alive = np.ones((len(vis.antennas.names), N_POLS), np.bool_)
    for antenna, pol in dead:
        alive[antenna, pol] = False
    return alive[vis.ant1] & alive[vis.ant2]


def _fraction(counts: NDArray[np.int64], samples: int, pairs: NDArray[np.bool_]) -> float:
    """Flagged fraction of the given (baseline, pol) pairs, each of `samples` samples; 1 when there are no pairs."""
    samples *= int(pairs.sum())
    return float(counts[pairs].sum() / samples) if samples else 1.0
