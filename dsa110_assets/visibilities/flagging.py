"""Flagging: zeros, autocorrelations, clip, dead receptors, AOFlagger, median clip, extension; in that
order.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from importlib.resources import as_file, files

import numpy as np
from numpy.typing import NDArray

from dsa110_assets.visibilities import flag_kernels as kernels
from dsa110_assets.visibilities.options import FlaggingOptions
from dsa110_assets.visibilities.types import Visibilities

STRATEGY = "data/flagging.lua"
N_POLS = 2


@dataclass(frozen=True)
class FlagReport:
    """What flagging did.

    causes: part of the cross-correlation samples of delivered subbands first flagged by each step.
    dead_receptors: (antenna index, 0 = XX or 1 = YY). fraction: flagged part of the cross-correlation
    samples of live receptors and delivered subbands; fraction_raw: of all cross-correlation samples.
    """

    causes: dict[str, float] = field(default_factory=dict)
    dead_receptors: list[tuple[int, int]] = field(default_factory=list)
    fraction: float = 0.0
    fraction_raw: float = 0.0


def flag(vis: Visibilities, options: FlaggingOptions | None = None) -> tuple[Visibilities, FlagReport]:
    """Flag raw visibilities; the data and weights are shared with the input, the flags are new.

    Exact zeros are flagged (the correlator writes zeros for what it lost and marks nothing),
    autocorrelations are flagged as they must not be imaged, and keep their data. Existing flags stay.
    Deterministic.
    """
    options = options or FlaggingOptions()
    flags = vis.flags.copy()
    cross = ~vis.is_auto
    delivered = kernels.delivered_channels(vis.weights, cross)
    causes: dict[str, float] = {}
    total = max(int(delivered.sum()) * int(cross.sum()) * flags.shape[0] * N_POLS, 1)
    count = int(kernels.baseline_counts(flags, delivered)[cross].sum())
    causes["file"] = count / total

    def note(cause: str) -> None:
        nonlocal count
        after = int(kernels.baseline_counts(flags, delivered)[cross].sum())
        causes[cause] = (after - count) / total
        count = after

    kernels.flag_zeros(vis.data, flags)
    note("zeros")
    flags[:, ~cross] = True
    if options.clip_amplitude:
        kernels.clip(vis.data, flags, options.clip_amplitude)
    note("clip")
    dead = _flag_dead(vis, flags, delivered, options.dead_fraction)
    note("dead")
    if options.aoflagger:
        _aoflagger(vis, flags, cross)
        note("aoflagger")
    if options.mad_sigma:
        kernels.median_clip(vis.data, flags, options.mad_sigma)
        note("median")
    kernels.extend(flags, cross, delivered, options.extend_fraction)
    note("extend")
    dead = sorted(set(dead) | set(_flag_dead(vis, flags, delivered, options.dead_fraction)))
    note("dead_after")
    live = _live(vis, dead)
    report = FlagReport(
        causes=causes,
        dead_receptors=dead,
        fraction=_fraction(flags, delivered, live & cross[:, None]),
        fraction_raw=_fraction(flags, np.ones_like(delivered), np.broadcast_to(cross[:, None], live.shape)),
    )
    return replace(vis, flags=flags), report


def _flag_dead(
    vis: Visibilities, flags: NDArray[np.bool_], delivered: NDArray[np.bool_], limit: float
) -> list[tuple[int, int]]:
    """Flag receptors of which more than `limit` is flagged, worst first.

    Baselines to a dead partner are not held against a receptor, so a few live ones among many dead stay
    alive.
    """
    cross = ~vis.is_auto
    samples = max(flags.shape[0] * int(delivered.sum()), 1)
    flagged = kernels.baseline_counts(flags, delivered) / samples
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


def _per_antenna(
    vis: Visibilities, values: NDArray[np.float64], usable: NDArray[np.bool_]
) -> NDArray[np.float64]:
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


def _fraction(flags: NDArray[np.bool_], channels: NDArray[np.bool_], pairs: NDArray[np.bool_]) -> float:
    """Flagged part over some channels and (baseline, pol) pairs; 1 when there are none."""
    samples = flags.shape[0] * int(channels.sum()) * int(pairs.sum())
    return float(kernels.baseline_counts(flags, channels)[pairs].sum() / samples) if samples else 1.0


def _aoflagger(vis: Visibilities, flags: NDArray[np.bool_], cross: NDArray[np.bool_]) -> None:
    """Run the packaged strategy on every cross-correlation that has unflagged data, XX and YY together."""
    import aoflagger

    n_times, _, n_channels, _ = vis.data.shape
    flagger = aoflagger.AOFlagger()
    images = flagger.make_image_set(n_times, n_channels, 2 * N_POLS, 2 * N_POLS)
    mask = flagger.make_flag_mask(n_times, n_channels, False)
    with as_file(files("dsa110_assets.visibilities").joinpath(STRATEGY)) as path:
        strategy = flagger.load_strategy_file(str(path))
    for baseline in np.flatnonzero(cross):
        before = flags[:, baseline]
        if before.all():
            continue
        # AOFlagger has one mask for all images: a sample is judged where either polarisation is good.
        mask.set_buffer(np.ascontiguousarray(before.all(axis=2).T))
        for pol in range(N_POLS):
            values = np.where(before[..., pol], 0, vis.data[:, baseline, :, pol]).T
            images.set_image_buffer(2 * pol, np.ascontiguousarray(values.real, dtype=np.float64))
            images.set_image_buffer(2 * pol + 1, np.ascontiguousarray(values.imag, dtype=np.float64))
        flags[:, baseline] |= strategy.run(images, mask).get_buffer().T[..., None]
