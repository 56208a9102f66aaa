"""Calibrate and average a full-scale group into calibrated_ms, compared with CASA applycal."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import derived
from common import Contender, Data, Row, compare


def rows(data: Data, repeats: int) -> list[Row]:
    raw, tables = str(derived.raw_set(data)), [str(path) for path in derived.table_set(data)]
    stage = "calibrate and average"
    return compare(
        [
            Contender(stage, "dsa110_assets", apply_own, {"ms": raw, "tables": tables, "out": str(data.scratch / "calibrated.ms")},
                      "whole process: reading, applying, averaging as set, one phase centre, written", inputs=(raw,)),
            Contender("calibrate, compare with the sky and average", "dsa110_assets", apply_own,
                      {"ms": raw, "tables": tables, "out": str(data.scratch / "compared.ms"), "sky": str(derived.sky_model(data))},
                      "the same, and every antenna against the 100 brightest sources of the field: the platform's step", inputs=(raw,)),
            Contender(stage, "CASA applycal", apply_casa, {"ms": raw, "tables": tables, "work": str(data.scratch)},
                      "starting CASA counted, copying the set not; no averaging; writes CORRECTED_DATA", peer=True, most=1),
        ],
        repeats,
    )  # fmt: skip


def apply_own(ms: str, tables: list[str], out: str, sky: str = "") -> dict[str, Any]:
    import shutil

    from dsa110_assets.calibration import calibrated, caltables
    from dsa110_assets.calibration.epoch_options import EpochOptions
    from dsa110_assets.imaging.search import bright_sources
    from dsa110_assets.sky import model
    from dsa110_assets.visibilities import averaging, measurement_set

    with measurement_set.opened(Path(ms)) as stored:
        n_channels, width_hz = stored.frame.frequencies_hz.size, stored.frame.channel_width_hz
    channels = averaging.channels_up_to(averaging.WIDEST_HZ, n_channels, width_hz)
    shutil.rmtree(out, ignore_errors=True)
    against = calibrated.SkyComparison(model.read(Path(sky)), EpochOptions(), bright_sources) if sky else None
    gains = [caltables.read(Path(path)) for path in tables]
    made = calibrated.calibrate_set(Path(ms), gains, Path(out), channels=channels, against=against)
    if made.observed is not None:
        found = made.observed
        return {"antennas judged": float(found.epoch.judged), "flux scale": found.scale.factor, "its error": found.scale.error}
    return _amplitudes(ms, tables, out, "DATA") if channels == 1 else {}


def _amplitudes(ms: str, tables: list[str], out: str, column: str, n_rows: int = 200) -> dict[str, float]:
    """Median and largest relative error of the amplitudes in `column` of `out` against |V| / |g_i g_j| in double precision,
    over `n_rows` random rows."""
    import numpy as np
    from casacore import tables as casa_tables

    from dsa110_assets.calibration import apply, caltables
    from dsa110_assets.visibilities import measurement_set

    with measurement_set.opened(Path(ms)) as stored:
        frame = stored.frame
    gains, _ = apply.total_gains(frame, [caltables.read(Path(path)) for path in tables])
    size, errors = np.abs(np.broadcast_to(gains, (frame.times_mjd.size, *gains.shape[1:]))), []
    with casa_tables.table(ms, ack=False) as raw, casa_tables.table(out, ack=False) as made:
        for row in np.random.default_rng(2).choice(raw.nrows(), n_rows, replace=False):
            t, b = divmod(int(row), frame.ant1.size)
            good = ~made.getcell("FLAG", int(row))
            expected = np.abs(raw.getcell("DATA", int(row)).astype(complex)) / (size[t, frame.ant1[b]] * size[t, frame.ant2[b]])
            errors.append(np.abs(np.abs(made.getcell(column, int(row))[good]) / expected[good] - 1))
    error = np.concatenate(errors)
    return {"median amplitude error": float(np.median(error)), "largest": float(error.max())}


def apply_casa(ms: str, tables: list[str], work: str) -> dict[str, Any]:
    import shutil
    import time

    from dsa110_assets.engines import casa

    copy = Path(work) / "applycal.ms"
    shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(ms, copy)
    parameters = {
        "vis": str(copy), "gaintable": tables, "calwt": True, "applymode": "calflag", "flagbackup": False,
        "interp": ["nearest,nearestflag" if Path(path).name.startswith("B") else "linear" for path in tables],
    }  # fmt: skip
    began = time.perf_counter()
    casa.run_task("applycal", parameters, work_dir=Path(work))
    took = time.perf_counter() - began
    figures = _amplitudes(ms, tables, str(copy), "CORRECTED_DATA")
    shutil.rmtree(copy)
    return {"wall_s": took, **figures}
