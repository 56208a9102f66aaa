"""Converting subband files to a measurement set, compared with pyuvdata, and flagging, compared with AOFlagger, of a full-scale group."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from common import Contender, Data, Row, compare

AOFLAGGER_BASELINES = 228
"""One in twenty of the live baselines. AOFlagger processes each baseline separately, so its time for all is 20 times as long."""


def rows(data: Data, repeats: int) -> list[Row]:
    files, out = [str(path) for path in data.files], str(data.scratch / "visibilities.ms")
    warm = tuple(files)
    stage, flagging = "UVH5 to measurement set", "flagging"
    return compare(
        [
            Contender(stage, "dsa110_assets", ingest, {"files": files, "out": out, "engine": "none"},
                      "whole process: headers, samples, zeros, clip and dead antennas flagged, flags and weights written", inputs=warm),
            Contender(f"{stage}, flagged", "dsa110_assets", ingest, {"files": files, "out": out, "engine": "own"},
                      "the same with SumThreshold", inputs=warm),
            Contender(stage, "pyuvdata, checks off", pyuvdata, {"files": files, "out": out},
                      "read, fast_concat along frequency, write_ms; no flagging", peer=True, most=2, inputs=warm),
            Contender(flagging, "dsa110_assets", flag, {"files": files, "engine": "own"},
                      "of data in memory, all baselines; kernels loaded; reading not counted"),
            Contender(flagging, "aoflagger", flag, {"files": files, "engine": "aoflagger"},
                      f"of data in memory, {AOFLAGGER_BASELINES} cross-correlations, time scaled to all", peer=True, most=1),
        ],
        repeats,
    )  # fmt: skip


def _numbered(files: list[str]) -> dict[int, Path]:
    return {int(Path(file).stem[-2:]): Path(file) for file in files}


def ingest(files: list[str], out: str, engine: str) -> dict[str, Any]:
    import shutil

    from dsa110_assets.visibilities import ingest
    from dsa110_assets.visibilities.options import FlaggingOptions

    shutil.rmtree(out, ignore_errors=True)
    plain = {"mad_sigma": 0.0} if engine == "none" else {}
    _, report = ingest.ingest(_numbered(files), Path(out), options=FlaggingOptions(engine=engine, **plain))  # type: ignore[arg-type]
    return {"flagged": report.fraction, "largest difference from the files": _difference(files, Path(out))}


def _difference(files: list[str], ms: Path, n_rows: int = 10) -> float:
    """Largest |DATA - conjugate of the file's value| in `n_rows` rows of every subband, read by casacore and h5py."""
    import h5py
    import numpy as np
    from casacore import tables

    worst = 0.0
    with tables.table(str(ms), ack=False) as main:
        n_baselines = main.nrows() // len(np.unique(main.getcol("TIME")))
        ends = [main.getcol(name, 0, n_baselines).tolist() for name in ("ANTENNA1", "ANTENNA2")]
        place = {pair: row for row, pair in enumerate(zip(*ends, strict=True))}
        for number, path in _numbered(files).items():
            with h5py.File(path) as file:
                ends = [file[f"Header/{name}"][: len(place)] for name in ("ant_1_array", "ant_2_array")]
                for row in np.random.default_rng(number).choice(len(place), n_rows, replace=False):
                    one, other = (int(end[row]) for end in ends)
                    value = file["Data/visdata"][row, 0][::-1]
                    value = value if one > other else value.conj()
                    last = main.getcell("DATA", 0).shape[0] - number * value.shape[0]
                    got = main.getcell("DATA", place[min(one, other), max(one, other)])[last - value.shape[0] : last]
                    worst = max(worst, float(np.abs(got - value).max()))
    return worst


def pyuvdata(files: list[str], out: str) -> dict[str, Any]:
    import shutil
    import warnings

    from pyuvdata import UVData

    shutil.rmtree(out, ignore_errors=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # warnings about keywords that the telescope's headers lack
        parts = []
        for _, path in sorted(_numbered(files).items(), reverse=True):
            part = UVData()
            part.read(str(path), file_type="uvh5", run_check=False)
            part.uvw_array = part.uvw_array.astype("float64")
            parts.append(part)
        parts[0].fast_concat(parts[1:], "freq", inplace=True, run_check=False)
        parts[0].write_ms(out, run_check=False, force_phase=True)
    return {}


def flag(files: list[str], engine: str) -> dict[str, Any]:
    """Fraction caught of the samples with more than 1 sigma of interference, and fraction lost of those without any."""
    import time
    from dataclasses import replace

    import numpy as np

    from dsa110_assets.visibilities import flagging, reader
    from dsa110_assets.visibilities.options import FlaggingOptions

    vis = reader.read_group(_numbered(files))
    truth, sigma_jy, live = _interference(Path(files[0]).parent, vis)
    chosen = np.flatnonzero(live)
    scale = 1.0
    if engine == "aoflagger":
        scale = int((~vis.is_auto).sum()) / AOFLAGGER_BASELINES
        chosen = np.sort(np.random.default_rng(1).choice(chosen, AOFLAGGER_BASELINES, replace=False))
        vis = replace(
            vis, data=vis.data[:, chosen], flags=vis.flags[:, chosen], weights=vis.weights[:, chosen], ant1=vis.ant1[chosen],
            ant2=vis.ant2[chosen], uvw_m=vis.uvw_m[:, chosen],
        )  # fmt: skip
        truth, chosen = truth[:, chosen], np.arange(chosen.size)
    options = FlaggingOptions(engine=engine)  # type: ignore[arg-type]
    few = np.arange(2)
    flagging.flag(replace(vis, data=vis.data[:, few], flags=vis.flags[:, few], weights=vis.weights[:, few],
                          ant1=vis.ant1[few], ant2=vis.ant2[few], uvw_m=vis.uvw_m[:, few]), options)  # fmt: skip
    began = time.perf_counter()
    flagged, _ = flagging.flag(vis, options)
    took = (time.perf_counter() - began) * scale
    flags, truth = flagged.flags[:, chosen], truth[:, chosen]
    return {
        "wall_s": took,
        "interference caught": float(flags[truth > sigma_jy].mean()),
        "clean data lost": float(flags[truth == 0].mean()),
    }


def _interference(folder: Path, vis: Any) -> tuple[Any, float, Any]:
    """Amplitude of the simulator's interference [Jy] (time, baseline, channel), noise sigma [Jy], and mask of live baselines."""
    import json
    from dataclasses import fields

    import numpy as np

    from dsa110_assets.simulator import array as arrays
    from dsa110_assets.simulator import instrument, interference, receiver
    from dsa110_assets.simulator.options import SimulationOptions
    from dsa110_assets.simulator.schedule import schedule
    from dsa110_assets.telescope import band

    known = json.loads((folder / "truth.json").read_text())["options"]
    names = {field.name for field in fields(SimulationOptions)}
    options = SimulationOptions(**{k: tuple(v) if isinstance(v, list) else v for k, v in known.items() if k in names})
    array, group = arrays.build(options), schedule(options)[0]
    low, high = np.sort(np.stack(array.baselines), axis=0)
    order, width = np.lexsort((high, low)), band.channel_width_hz(options.channels)
    truth = np.zeros(vis.data.shape[:3], np.float32)
    for subband in range(options.subbands):
        added = np.zeros((options.integrations, order.size, options.channels), complex)
        interference.add(
            added, array, interference.tones(options), interference.bursts(options, group, array), np.deg2rad(options.dec_deg),
            band.subband_frequencies_hz(subband, options.channels), width, options.seed,
        )  # fmt: skip
        first = truth.shape[2] - (subband + 1) * options.channels
        truth[:, :, first : first + options.channels] = np.abs(added)[:, order, ::-1]
    sees = np.zeros((len(vis.antennas.names), 2))
    sees[array.numbers] = instrument.build(options, array).sky_response()
    live = (sees[vis.ant1] * sees[vis.ant2]).all(axis=1) & ~vis.is_auto
    return truth, receiver.noise_sigma_jy(options.sefd_jy, width), live
