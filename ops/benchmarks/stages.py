"""The benchmark behind `ops/benchmarks/stages`: medians of whole stages on one group, as a Markdown table."""

from __future__ import annotations

import argparse
import os
import platform
import resource
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

from dsa110_assets.calibration import apply, solve
from dsa110_assets.calibration.options import SolveOptions
from dsa110_assets.imaging.options import ImagingOptions
from dsa110_assets.imaging.tile import make_tile
from dsa110_assets.simulator.options import SimulationOptions
from dsa110_assets.simulator.simulate import simulate
from dsa110_assets.sky import catalogues, model
from dsa110_assets.visibilities import averaging, flagging, grouping, measurement_set, phasing, predict, reader, uvh5

START = "2026-01-26T04:52:00"  # 3C138 is in the beam


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--antennas", type=int, default=24)
    parser.add_argument("--channels", type=int, default=8)
    parser.add_argument("--average", type=int, default=1, help="channels averaged before imaging")
    parser.add_argument("--repeats", type=int, default=3)
    wanted = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        inbox, out = Path(place) / "inbox", Path(place) / "out"
        out.mkdir()
        simulate(inbox, SimulationOptions(start=START, groups=1, antennas=wanted.antennas, channels=wanted.channels))
        times: dict[str, list[float]] = {}
        for repeat in range(wanted.repeats + 1):  # the first one compiles and is not counted
            for stage, seconds in once(inbox, out / str(repeat), wanted.average).items():
                times.setdefault(stage, []).extend([seconds] if repeat else [])
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    cpu = next((line.split(":")[1].strip() for line in lines if "model name" in line), platform.processor())
    print(f"\n{wanted.antennas} antennas x {wanted.channels} channels x 16 subbands x 24 integrations; {os.cpu_count()} cores, {cpu}")
    print(f"\n| stage | median s of {wanted.repeats} | range |\n|---|---|---|")
    for stage, seconds in times.items():
        print(f"| {stage} | {statistics.median(seconds):.2f} | {min(seconds):.2f} to {max(seconds):.2f} |")
    print(f"\nPeak memory of this process: {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20:.2f} GiB")


def once(inbox: Path, out: Path, average: int) -> dict[str, float]:
    """Seconds of every stage, one after the other as in a night; the last row is the peer of the first two."""
    took: dict[str, float] = {}

    def timed(stage: str, work: Callable[[], Any]) -> Any:
        began = time.perf_counter()
        result = work()
        took[stage] = time.perf_counter() - began
        return result

    paths = sorted(inbox.glob("*.hdf5"))
    out.mkdir()
    headers = timed("headers and grouping", lambda: grouping.group_headers([uvh5.read_header(path) for path in paths]))
    files = {subband: header.path for subband, header in headers[0].files.items()}
    vis = timed("read", lambda: reader.read_group(files, 16))
    timed("write measurement set", lambda: measurement_set.write(vis, out / "raw.ms"))
    vis = timed("flag", lambda: flagging.flag(vis)[0])
    sky = model.from_frame(catalogues.read_catalogue(inbox / "catalogue.csv")).brighter_than(0.5)
    expected = timed("predict", lambda: predict.predict(vis, sky))
    solution = timed("solve", lambda: solve.solve(vis, expected, SolveOptions()))
    vis = timed("apply", lambda: apply.apply(vis, solution.tables))
    vis = timed("average and phase", lambda: phasing.to_common_centre(averaging.average(vis, average)))
    timed("tile image", lambda: make_tile(vis, ImagingOptions(), sky))
    timed("pyuvdata: read and write_ms", lambda: by_pyuvdata(paths, out / "peer.ms"))
    return took


def by_pyuvdata(paths: list[Path], ms: Path) -> None:
    """The same files to a measurement set with pyuvdata, checks off, joined along frequency; no flags, no phasing."""
    from pyuvdata import UVData

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        parts = []
        for path in reversed(paths):
            part = UVData()
            part.read(str(path), file_type="uvh5", run_check=False)
            part.uvw_array = part.uvw_array.astype("float64")
            parts.append(part)
        parts[0].fast_concat(parts[1:], "freq", inplace=True, run_check=False)
        parts[0].write_ms(str(ms), run_check=False, force_phase=True)


if __name__ == "__main__":
    main()
