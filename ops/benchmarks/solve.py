"""Solving B and G of a calibrator transit at full scale, from a flagged measurement set to caltables on disk, compared with CASA.

Accuracy is the rms of gain / truth - 1 over working receptors, channels and intervals, against the simulator's gains and with
the common phase of each channel removed. It is also given relative to the noise limit that the tables' signal-to-noise ratios
imply (1: at the limit).
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import derived
from common import Contender, Data, Row, compare, run


def rows(data: Data, repeats: int) -> list[Row]:
    raw, transit = str(derived.raw_set(data)), str(derived.transit_set(data))
    own, casa = str(data.scratch / "solve-own"), str(data.scratch / "solve-casa")
    stage = "solve B and G for a transit"
    measured = compare(
        [
            Contender(stage, "dsa110_assets", solve_own, {"ms": raw, "sky": str(derived.sky_model(data)), "out": own},
                      "whole process: imports, reading, predicting the calibrator and 100 sources, tables written", inputs=(raw,)),
            Contender(stage, "CASA gaincal + bandpass + gaincal", solve_casa, {"ms": transit, "out": casa},
                      "model already in MODEL_DATA", peer=True, most=1, limit_s=600, inputs=(transit,)),
        ],
        repeats,
    )  # fmt: skip
    return [
        row if row.failed else replace(row, accuracy={**row.accuracy, **run(errors, {"folder": folder, "inbox": str(data.inbox)})[3]})
        for row, folder in zip(measured, (own, casa), strict=True)
    ]


def solve_own(ms: str, sky: str, out: str) -> dict[str, Any]:
    import shutil

    shutil.rmtree(out, ignore_errors=True)
    return derived.tables(ms, sky, out)


def solve_casa(ms: str, out: str) -> dict[str, Any]:
    import shutil

    from dsa110_assets.calibration.options import SolveOptions
    from dsa110_assets.engines import casa_calibration

    shutil.rmtree(out, ignore_errors=True)
    casa_calibration.solve_tables(Path(ms), Path(out), SolveOptions(), refant="103")
    return {}


def errors(folder: str, inbox: str) -> dict[str, Any]:
    """Errors of the gains B times G in `folder` against the simulator's truth, in percent and relative to the noise limit."""
    import numpy as np

    from dsa110_assets.calibration import caltables

    b, g = (caltables.read(Path(folder) / f"{kind}.cal") for kind in "BG")
    truth = true_gains(json.loads((Path(inbox) / "truth.json").read_text()), g.times_mjd, b.frequencies_hz)
    known = [b.antenna_names.index(str(name)) for name in truth["stations"]]
    values, flags = (b.values * g.values)[:, known], (b.flags | g.flags)[:, known] | truth["dead"][None, :, None]
    noise = np.sqrt(1 / np.maximum(b.snr, 1e-9) ** 2 + 1 / np.maximum(g.snr, 1e-9) ** 2)[:, known]
    ratio = np.where(flags, 0, values / truth["gains"])
    turn = ratio.sum(axis=1, keepdims=True)
    error = np.abs(ratio * np.exp(-1j * np.angle(turn)) - 1)[~flags]
    rms, limit = float(np.sqrt(np.mean(error**2))), float(np.sqrt(np.mean(noise[~flags] ** 2)))
    return {"gain error %": 100 * rms, "over noise limit": rms / limit, "solved %": 100 * float((~flags).mean())}


def true_gains(truth: dict[str, Any], times_mjd: Any, frequencies_hz: Any) -> dict[str, Any]:
    """The simulator's gains (time, antenna, channel, pol), a mask of dead receptors, and the station numbers."""
    import numpy as np

    from dsa110_assets.simulator import array, instrument
    from dsa110_assets.simulator.options import SimulationOptions

    told = {name: tuple(value) if isinstance(value, list) else value for name, value in truth["options"].items()}
    options = SimulationOptions(**told)
    made = instrument.build(options, array.build(options))
    gains = made.gains(truth["groups"][0]["night"], np.asarray(times_mjd), np.asarray(frequencies_hz))
    return {"gains": gains, "dead": made.sky_response() == 0, "stations": [int(n) + 1 for n in made.array.numbers]}
