"""Starting points of several benchmarks, made once per scratch folder by the project's own stages in child processes."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from common import Data, run

COMMAND = (sys.executable, "-c", "from dsa110_assets.cli import main; raise SystemExit(main())")
"""The `dsa110` command of this tree, whether installed or not."""


def once(path: Path, function: Callable[..., dict[str, Any]], **arguments: Any) -> Path:
    """`path` made by `function(out=..., **arguments)` in a child process, unless an earlier run made it."""
    if not path.exists():
        part = path.with_name(path.name + ".part")
        shutil.rmtree(part, ignore_errors=True)
        path.parent.mkdir(parents=True, exist_ok=True)
        print(f"making {path.name} ...", flush=True)
        run(function, {**arguments, "out": str(part)})
        os.replace(part, path)
    return path


def simulated(data: Data) -> Data:
    """`data`, after simulating the full-scale group into `data.inbox` if it is not there."""
    if not (data.inbox / "truth.json").exists():
        print("simulating one full-scale group ...", flush=True)
        run(simulate, {"out": str(data.inbox)})
    return data


def raw_set(data: Data) -> Path:
    """The group as a flagged measurement set."""
    return once(data.scratch / "raw.ms", flagged, inbox=str(data.inbox))


def transit_set(data: Data) -> Path:
    """The same measurement set with the calibrator's model in MODEL_DATA, for engines that need it there."""
    return once(data.scratch / "transit.ms", modelled, ms=str(raw_set(data)), sky=str(sky_model(data)))


def table_set(data: Data) -> list[Path]:
    """Paths of the B and G tables of the group's calibrator transit."""
    folder = once(data.scratch / "tables", tables, ms=str(raw_set(data)), sky=str(sky_model(data)))
    return sorted(folder.glob("*.cal"))


def sky_model(data: Data) -> Path:
    """The catalogue beside the files, converted as in the platform's `sky_model`."""
    return once(data.scratch / "sky_model.parquet", catalogued, inbox=str(simulated(data).inbox))


def simulate(out: str) -> dict[str, Any]:
    from dsa110_assets.simulator import simulate as simulator
    from dsa110_assets.simulator.options import SimulationOptions

    simulator.simulate(Path(out), SimulationOptions(start="2026-01-26T04:52:00", groups=1, antennas=96, channels=48))
    return {}


def flagged(inbox: str, out: str) -> dict[str, Any]:
    from dsa110_assets.visibilities import flagging, measurement_set, reader, uvh5

    headers = [uvh5.read_header(path) for path in sorted(Path(inbox).glob("*.hdf5"))]
    from dsa110_assets.visibilities import grouping

    group = grouping.group_headers(headers)[0]
    vis = reader.read_group({subband: header.path for subband, header in group.files.items()}, 16)
    measurement_set.write(flagging.flag(vis)[0], Path(out))
    return {}


def catalogued(inbox: str, out: str) -> dict[str, Any]:
    from dsa110_assets.sky import catalogues, model

    model.from_frame(catalogues.read_catalogue(Path(inbox) / "catalogue.csv")).to_frame().to_parquet(out)
    return {}


def transit_in(vis: Any) -> Any:
    """The best calibrator transit of the data."""
    import numpy as np

    from dsa110_assets.calibration import transits
    from dsa110_assets.sky import calibrators

    dec_deg = float(np.rad2deg(vis.pointing_dec_rad))
    return transits.rank(transits.transits(calibrators.load(), vis.times_mjd[0], vis.times_mjd[-1], dec_deg))[0]


def modelled(ms: str, sky: str, out: str) -> dict[str, Any]:
    from scipy.constants import speed_of_light

    from dsa110_assets.calibration import night
    from dsa110_assets.calibration.options import SolveOptions
    from dsa110_assets.sky.model import read as read_sky
    from dsa110_assets.visibilities import measurement_set, phasing, predict

    vis = measurement_set.read(Path(ms))
    field = night.field_of(vis, transit_in(vis).calibrator, read_sky(Path(sky)), SolveOptions().model_sources)
    model = predict.predict(vis, field)
    one = phasing.to_common_centre(vis)  # the gains do not change, and CASA then has one field to solve for instead of 24
    delay_s = (one.uvw_m[..., 2] - vis.uvw_m[..., 2]) / speed_of_light
    model = phasing.rotate(model[..., None], -delay_s, vis.frequencies_hz)[..., 0]
    measurement_set.write(one, Path(out), model=model)
    return {}


def tables(ms: str, sky: str, out: str) -> dict[str, Any]:
    """Solve the transit in a flagged measurement set and write its tables, as the caltables asset does."""
    from dsa110_assets.calibration import caltables, night
    from dsa110_assets.calibration.options import SolveOptions
    from dsa110_assets.sky.model import read as read_sky
    from dsa110_assets.visibilities import measurement_set

    vis = measurement_set.mapped(Path(ms))
    solution = night.calibrate_transit(vis, read_sky(Path(sky)), transit_in(vis), SolveOptions())
    Path(out).mkdir(parents=True)
    for gains in solution.tables:
        caltables.write(gains, Path(out) / f"{gains.kind}.cal", Path(ms))
    return {"rounds": solution.report["rounds"], "converged": float(solution.report["converged"])}
