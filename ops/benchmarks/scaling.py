"""Growth of cost with the size of the problem: measured exponents compared with theory, as a table and a plot.

Each curve is measured in one process with compiled code warm, and each point is the faster of two runs, because growth matters
here and start-up does not. The exponent is fitted to the upper half of the curve, where the growing term outweighs the constant ones.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

from common import Contender, Data, Row, compare

CURVES = {
    "antennas, predicting and solving": ("antennas", (24, 48, 72, 96), 2.0),
    "channels, predicting and solving": ("channels", (96, 192, 384, 768), 1.0),
    "image side, gridding and FFT": ("image", (1024, 2048, 3072, 4096), 2.0),
    "tiles, coadding": ("tiles", (2, 4, 8, 14), 1.0),
    "positions, forced photometry": ("positions", (12_500, 25_000, 50_000, 100_000), 1.0),
    "epochs, metrics of light curves": ("epochs", (125, 250, 500, 1000), 1.0),
}
"""By name: the function that measures the curve, the sizes, and the exponent of theory."""


def rows(data: Data, repeats: int) -> list[Row]:
    contenders = [
        Contender(name, "dsa110_assets", measure, {"function": function, "sizes": list(sizes), "theory": theory}, "seconds of all points")
        for name, (function, sizes, theory) in CURVES.items()
    ]
    found = compare(contenders)
    plot(found, Path(__file__).with_name("scaling.png"))
    return found


def measure(function: str, sizes: list[int], theory: float) -> dict[str, Any]:
    import numpy as np

    seconds = globals()[f"by_{function}"](sizes)
    upper = len(sizes) // 2
    slope = np.polyfit(np.log(sizes[upper - 1 :]), np.log(seconds[upper - 1 :]), 1)[0]
    points = {f"s at {size}": value for size, value in zip(sizes, seconds, strict=True)}
    return {"exponent": float(slope), "theory": theory, **points}


def best_of(work: Callable[[], Any], repeats: int = 2) -> float:
    """Seconds of the fastest run, after one run that compiles."""
    import time

    work()
    found = []
    for _ in range(repeats):
        began = time.perf_counter()
        work()
        found.append(time.perf_counter() - began)
    return min(found)


@cache
def largest() -> Any:
    """One channel of a simulated group of 96 antennas."""
    from dsa110_assets.simulator import simulate
    from dsa110_assets.simulator.options import SimulationOptions
    from dsa110_assets.visibilities import reader, uvh5

    with tempfile.TemporaryDirectory() as place:
        simulate.simulate(
            Path(place), SimulationOptions(start="2026-01-26T04:52:00", groups=1, antennas=96, channels=1, subbands=1, integrations=24)
        )
        header = uvh5.read_header(next(Path(place).glob("*.hdf5")))
        return reader.read_group({0: header.path}, 1)


def observation(antennas: int, channels: int) -> Any:
    """Eight integrations of the first antennas, with the one channel repeated, because run times do not depend on the values."""
    from dataclasses import replace

    import numpy as np

    vis = largest()
    first = vis.active_antennas[:antennas]
    keep, times = np.isin(vis.ant1, first) & np.isin(vis.ant2, first), slice(0, 8)
    frequencies = np.linspace(1.311e9, 1.498e9, channels)
    data = np.repeat(vis.data[times, keep, :1], channels, axis=2)
    return replace(
        vis, data=data, flags=np.zeros(data.shape, bool), weights=np.ones(data.shape, np.float32), times_mjd=vis.times_mjd[times],
        uvw_m=vis.uvw_m[times, keep], phase_centres_rad=vis.phase_centres_rad[times], frequencies_hz=frequencies,
        channel_width_hz=frequencies[1] - frequencies[0], ant1=vis.ant1[keep], ant2=vis.ant2[keep],
    )  # fmt: skip


def solved(antennas: int, channels: int) -> float:
    import numpy as np

    from dsa110_assets.calibration import solve
    from dsa110_assets.sky.model import SkyModel
    from dsa110_assets.visibilities import predict

    vis = observation(antennas, channels)
    ra, dec = vis.phase_centres_rad.mean(axis=0)
    offsets = np.linspace(-0.02, 0.02, 10)
    sky = SkyModel(tuple(map(str, range(10))), ra + offsets, dec + offsets, np.full(10, 1.0), np.full(10, -0.7))

    def work() -> None:
        solve.solve(vis, predict.predict(vis, sky), solve.SolveOptions(min_snr_bandpass=0, min_snr_gain=0, max_rounds=3))

    return best_of(work)


def by_antennas(sizes: list[int]) -> list[float]:
    return [solved(antennas, 96) for antennas in sizes]


def by_channels(sizes: list[int]) -> list[float]:
    return [solved(48, channels) for channels in sizes]


def by_image(sizes: list[int]) -> list[float]:
    """One adjoint pass of the gridder over 2 million visibilities."""
    import ducc0
    import numpy as np

    rng = np.random.default_rng(1)
    uvw = rng.uniform(-1, 1, (20_000, 3)) * (1000, 1000, 5)
    frequencies = np.linspace(1.31e9, 1.5e9, 100)
    vis = np.ones((20_000, 100), np.complex64)

    def work(side: int) -> Any:
        cell = np.deg2rad(4.0) / side
        return ducc0.wgridder.ms2dirty(
            uvw, frequencies, vis, None, side, side, cell, cell, 0, 0, epsilon=1e-4, do_wstacking=True, nthreads=2
        )

    return [best_of(lambda side=side: work(side)) for side in sizes]  # type: ignore[misc]


def by_tiles(sizes: list[int]) -> list[float]:
    import mosaic

    from dsa110_assets.imaging.fits import read_header
    from dsa110_assets.mosaics import coadd
    from dsa110_assets.mosaics.grid import common_header

    with tempfile.TemporaryDirectory() as place:
        mosaic.make_tiles(f"{place}/tiles", max(sizes), pixels=1024)
        every = mosaic.inputs(f"{place}/tiles", max(sizes))
        grid = common_header([read_header(tile.image_path)[0] for tile in every])
        return [best_of(lambda number=number: coadd.coadd(every[:number], grid)) for number in sizes]  # type: ignore[misc]


def by_positions(sizes: list[int]) -> list[float]:
    """Forced photometry at random positions of one noise mosaic, whose noise is measured once beforehand."""
    import numpy as np
    import pandas as pd
    from astropy.io.fits import Header

    from dsa110_assets.imaging import restoring
    from dsa110_assets.photometry import forced
    from dsa110_assets.photometry.options import PhotometryOptions

    side, pixel = 4096, 3.6 / 3600
    header = Header()
    for axis, kind, value, step in ((1, "RA---SIN", 75.0, -pixel), (2, "DEC--SIN", 16.27, pixel)):
        header[f"CTYPE{axis}"], header[f"CRVAL{axis}"], header[f"CDELT{axis}"] = kind, value, step
        header[f"CRPIX{axis}"], header[f"CUNIT{axis}"] = side // 2 + 1.0, "deg"
    restoring.set_beam(header, restoring.Beam(45 / 3600, 20 / 3600, 20.0))
    rng = np.random.default_rng(1)
    image = rng.standard_normal((side, side)).astype(np.float32)
    scene = forced.prepare(image, np.ones_like(image), header, PhotometryOptions())
    ra, dec = 75 + rng.uniform(-1.8, 1.8, max(sizes)), 16.27 + rng.uniform(-1.8, 1.8, max(sizes))
    places = pd.DataFrame({"ra_deg": ra, "dec_deg": dec})
    return [best_of(lambda n=n: forced.measure_scene(scene, places[:n], PhotometryOptions())) for n in sizes]  # type: ignore[misc]


def by_epochs(sizes: list[int]) -> list[float]:
    import numpy as np

    from dsa110_assets.variability.metrics import dense_metrics

    flux = 1 + 0.05 * np.random.default_rng(1).standard_normal((10_000, max(sizes)))
    error = np.full(flux.shape, 0.05)
    return [best_of(lambda n=n: dense_metrics(flux[:, :n], error[:, :n])) for n in sizes]  # type: ignore[misc]


def plot(found: list[Row], path: Path, size: str = "", cost: str = "s") -> None:
    """Plot one panel per curve: the measured points, and a line with the theoretical exponent through the last point."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, panels = plt.subplots(-(-len(found) // 3), 3, figsize=(12, 3.5 * -(-len(found) // 3)), layout="constrained")
    for axes, row in zip(panels.flat, found, strict=False):
        points = [(int(name[5:]), value) for name, value in row.accuracy.items() if name.startswith("s at ")]
        axes.set_title(f"{row.stage}" if points else f"{row.stage}: failed", fontsize=9)
        if not points:
            continue
        sizes, seconds = zip(*points, strict=True)
        theory = row.accuracy["theory"]
        axes.loglog(sizes, seconds, "o", label=f"measured, exponent {row.accuracy['exponent']:.2f}")
        axes.loglog(sizes, [seconds[-1] * (size / sizes[-1]) ** theory for size in sizes], "--", label=f"theory, {theory:g}")
        axes.set_xlabel(size)
        axes.set_ylabel(cost)
        axes.legend(fontsize=8)
        axes.grid(alpha=0.3, which="both")
    figure.savefig(path, dpi=100)
    plt.close(figure)
