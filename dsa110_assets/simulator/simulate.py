"""`simulate`: a run of the telescope, written to a directory."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from dsa110_assets.errors import ConfigurationError
from dsa110_assets.simulator import array as arrays
from dsa110_assets.simulator import (
    faults,
    instrument,
    instrument_faults,
    interference,
    measurement,
    receiver,
    sky_faults,
    transmitters,
    truth,
    writer,
)
from dsa110_assets.simulator.options import SimulationOptions
from dsa110_assets.simulator.schedule import SECONDS_PER_DAY, ScheduledGroup, schedule
from dsa110_assets.simulator.sky import build_sky
from dsa110_assets.telescope import band, timegrid

_FAINTEST_FRACTION = 0.05
"""Sources whose apparent flux is below this fraction of the population's faintest flux are left out."""

Progress = Callable[[int, int, str], None]


def simulate(
    out: Path,
    options: SimulationOptions,
    progress: Progress | None = None,
    *,
    clock: Callable[[], float] = time.monotonic,
    wait: Callable[[float], None] = time.sleep,
) -> dict[str, Any]:
    """Write the subband files of a run to `out`, with truth.json and catalogue.csv; return the truth.

    `progress(done, total, file or group)` is called after every group. Calling again with the same seed adds to the
    directory: truths are merged, variables keep their reference time. With `real_time` a group appears when its last
    integration ends, counted from the call; `clock` and `wait` [s] can be replaced. Raises ConfigurationError for an
    unusable directory, one that contains another sky, or a fault of a missing antenna or calibrator.
    """
    instrument_faults.check_antennas(options, arrays.build(options))
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigurationError(f"cannot write to {out} ({error.strerror}): choose another directory") from error
    previous = truth.load(out, options)
    groups = schedule(options)
    run = _Run(out, options, groups, previous)
    current_truth = truth.before_groups(options, groups, run.sky, run.instrument, previous)
    started, done = clock(), 0
    truth.write(out, current_truth)
    for group in groups:
        pending = run.write(group)
        if options.real_time:
            elapsed_s = (float(group.times_mjd[-1]) - groups[0].mjd_start) * SECONDS_PER_DAY + timegrid.INTEGRATION_S
            wait(max(0.0, started + elapsed_s - clock()))
        record = run.deliver(group, *pending)
        current_truth, done = truth.with_groups(current_truth, [record]), done + 1
        truth.write(out, current_truth)
        if progress:
            progress(done, len(groups), record["observation"])
    return current_truth


class _Run:
    """The state shared by all groups of a run."""

    def __init__(
        self,
        out: Path,
        options: SimulationOptions,
        groups: list[ScheduledGroup],
        previous: dict[str, Any] | None,
    ):
        self.out, self.options = out, options
        self.array = arrays.build(options)
        self.instrument = instrument.build(options, self.array)
        self.sky, self.chosen = sky_faults.apply(build_sky(options, groups, previous), options, groups, previous)
        self.dec_rad = float(np.deg2rad(options.dec_deg))
        self.tones = interference.tones(options)

    def write(self, group: ScheduledGroup) -> tuple[list[Path], dict[str, Any]]:
        """Write all subbands of a group under their `_incomplete` names; return their paths and a record of the RFI."""
        o = self.options
        width = band.channel_width_hz(o.channels)
        apparent = measurement.apparent_sky(self.sky, group.times_mjd, self.dec_rad, o.flux_min_jy * _FAINTEST_FRACTION)
        bursts = interference.bursts(o, group, self.array)
        variant = writer.HeaderVariant(o.negative_channel_width, o.fs_table)
        paths, touched = [], []
        for subband in range(o.subbands):
            frequencies = band.subband_frequencies_hz(subband, o.channels)
            arguments = (self.array, apparent, self.dec_rad, frequencies, width)
            true, stokes_q = measurement.visibilities(*arguments), measurement.stokes_q_visibilities(*arguments)
            subband_touched = interference.add(true, self.array, self.tones, bursts, self.dec_rad, frequencies, width, o.seed)
            for item in transmitters.planted(o.signal_faults(group=group.index)):
                subband_touched |= transmitters.add(true, self.array, item, self.dec_rad, frequencies, width, o.seed)
            touched.append(subband_touched)
            data = receiver.record(true, self.instrument, group, subband, frequencies, width, stokes_q)
            path = self.out / writer.file_name(group.stamps[subband], subband, incomplete=True)
            writer.write_subband(
                path, data, self.array, group.times_mjd, self.dec_rad, subband,
                self.instrument.applied_delays_ns(), variant,
            )  # fmt: skip
            paths.append(path)
        rfi = {
            "bursts": [interference.record(burst) for burst in bursts],
            "touched_fraction": float(np.mean(np.concatenate(touched, axis=1))),
        }
        return paths, rfi

    def deliver(self, group: ScheduledGroup, paths: list[Path], rfi: dict[str, Any]) -> dict[str, Any]:
        """Rename a group's files to their final names, applying its file faults; return its entry of the truth."""
        file_faults = self.options.file_faults(group.index)
        names: list[str] = []
        for subband, path in enumerate(paths):
            subband_faults = [fault for fault in file_faults if fault.subband == subband]
            names += faults.deliver(path, self.out, group.stamps[subband], subband, subband_faults)
        planted = [asdict(fault) for fault in file_faults]
        for fault in self.options.signal_faults(group=group.index):
            details = self.chosen.get(fault) or instrument_faults.truth_details(fault, self.options, self.array)
            planted += fault.records(**details, **transmitters.truth_details(fault, self.options))
        return truth.group_record(group, names, planted, rfi)
