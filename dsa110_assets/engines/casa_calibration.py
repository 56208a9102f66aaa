"""Stock CASA as a second engine for solving and applying, with the same arguments and results as our own.

CASA runs in a child process on measurement sets written for it; see `engines.casa`.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dsa110_assets.calibration import caltables
from dsa110_assets.calibration.gains import Gains
from dsa110_assets.calibration.options import SolveOptions
from dsa110_assets.calibration.reference import choose_refant
from dsa110_assets.calibration.solve import Solution
from dsa110_assets.engines import casa
from dsa110_assets.errors import BadDataError
from dsa110_assets.visibilities import measurement_set
from dsa110_assets.visibilities.types import Visibilities


def solve(
    vis: Visibilities,
    model: NDArray[np.complex64],
    options: SolveOptions,
    *,
    work_dir: Path,
    field_name: str = "",
) -> Solution:
    """The same as `calibration.solve.solve`, by CASA gaincal (phase), bandpass and gaincal. `delays` is always None.

    Scratch files go to `work_dir` and are removed. Raises BadDataError with CASA's log if a task fails.
    """
    work_dir.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".casa-solve-", dir=work_dir) as scratch:
        ms = Path(scratch) / "solve.ms"
        measurement_set.write(vis, ms, model=model)
        refant, passed = choose_refant(vis.antennas.names, options.refant_chain, _data_fraction(vis))
        tables = solve_tables(ms, Path(scratch) / "tables", options, refant=vis.antennas.names[refant])
        bandpass, gains = (replace(caltables.read(path), field_name=field_name) for path in tables)
    report = {
        "refant": vis.antennas.names[refant],
        "refants_passed_over": passed,
        "n_intervals": int(gains.times_mjd.size),
        "dead_receptor_names": _dead_receptors(bandpass, vis),
    }
    return Solution(bandpass, gains, None, report)


def apply(vis: Visibilities, tables: Sequence[Gains], *, work_dir: Path) -> Visibilities:
    """The same as `calibration.apply.apply`, by CASA applycal, for cross-correlations only: autocorrelations are not corrected."""
    work_dir.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".casa-apply-", dir=work_dir) as scratch:
        ms = Path(scratch) / "apply.ms"
        measurement_set.write(vis, ms)
        paths = [Path(scratch) / f"{gains.kind}-{i}.cal" for i, gains in enumerate(tables)]
        for gains, path in zip(tables, paths, strict=True):
            caltables.write(gains, path, ms)
        corrected = in_order_of(vis, apply_tables(ms, paths, Path(scratch) / "corrected.ms"))
    unsolved = corrected.flags & ~vis.flags
    corrected.data[unsolved], corrected.weights[unsolved] = 0, 0
    return corrected


def solve_tables(ms: Path, directory: Path, options: SolveOptions, *, refant: str) -> tuple[Path, Path]:
    """Make B and G caltables with CASA from DATA and MODEL_DATA of `ms`, in `directory`; return their paths.

    Phases are solved per interval before the bandpass; amplitude-and-phase gains replace them afterwards.
    """
    directory.mkdir(parents=True, exist_ok=True)
    phase, bandpass, gains = (directory / name for name in ("phase.cal", "B.cal", "G.cal"))
    solint = "inf" if np.isinf(options.gain_solint_s) else f"{options.gain_solint_s:g}s"
    common: dict[str, Any] = {
        "vis": str(ms.resolve()),
        "refant": refant,
        "minblperant": options.min_baselines_per_antenna,
        "combine": "scan,field,obs",
        "uvrange": _uv_range(options),
        "solnorm": False,
    }
    _task("gaincal", {**common, "caltable": str(phase), "solint": solint, "calmode": "p", "minsnr": 0.0}, phase)
    before = {"gaintable": [str(phase)], "interp": ["linear"]}
    band = {"caltable": str(bandpass), "solint": "inf", "bandtype": "B", "minsnr": options.min_snr_bandpass}
    _task("bandpass", {**common, **band, **before}, bandpass)
    after = {"gaintable": [str(bandpass)], "interp": ["nearest,nearestflag"], "calmode": "ap"}
    gain = {"caltable": str(gains), "solint": solint, "minsnr": options.min_snr_gain}
    _task("gaincal", {**common, **gain, **after}, gains)
    return bandpass, gains


def apply_tables(ms: Path, tables: Sequence[Path], corrected_ms: Path) -> Visibilities:
    """Return CORRECTED_DATA of stock applycal on a copy of `ms`, made at `corrected_ms`; `ms` is not changed."""
    shutil.copytree(ms, corrected_ms)
    parameters = {
        "vis": str(corrected_ms.resolve()),
        "gaintable": [str(path.resolve()) for path in tables],
        # flagged channels must flag data, not be interpolated over
        "interp": ["nearest,nearestflag" if path.name.startswith("B") else "linear" for path in tables],
        "calwt": True,
        "applymode": "calflag",
        "flagbackup": False,
    }
    casa.run_task("applycal", parameters, work_dir=corrected_ms.parent)
    return measurement_set.read(corrected_ms, column="CORRECTED_DATA")


def in_order_of(vis: Visibilities, other: Visibilities) -> Visibilities:
    """`vis` with the data, flags and weights of `other`, whose baselines may be in another order.

    Raises BadDataError unless both have the same baselines, each in the same orientation.
    """
    n = len(vis.antennas.names)
    required, given = vis.ant1 * n + vis.ant2, other.ant1 * n + other.ant2
    order = np.argsort(given)
    place = order[np.minimum(np.searchsorted(given[order], required), given.size - 1)]
    if not np.array_equal(given[place], required):
        raise BadDataError("CASA returned baselines that differ from those it was given")
    return replace(vis, data=other.data[:, place], flags=other.flags[:, place], weights=other.weights[:, place])


def _task(name: str, parameters: dict[str, Any], product: Path) -> None:
    casa.run_task(name, parameters, work_dir=product.parent)
    if not product.is_dir():
        raise BadDataError(f"CASA {name} found no solutions and wrote no {product.name}; check flags and model")


def _uv_range(options: SolveOptions) -> str:
    if options.min_uv_wavelengths == 0 and np.isinf(options.max_uv_wavelengths):
        return ""
    if np.isinf(options.max_uv_wavelengths):
        return f">{options.min_uv_wavelengths:g}lambda"
    return f"{options.min_uv_wavelengths:g}~{options.max_uv_wavelengths:g}lambda"


def _data_fraction(vis: Visibilities) -> NDArray[np.float64]:
    """Share of each antenna's cross-correlations that are not flagged, relative to the best antenna's, shape (antenna,)."""
    good = (~vis.flags & (vis.weights > 0)).any(axis=3).sum(axis=(0, 2)) * ~vis.is_auto
    total = np.zeros(len(vis.antennas.names))
    np.add.at(total, vis.ant1, good)
    np.add.at(total, vis.ant2, good)
    return np.asarray(total / max(total.max(), 1))


def _dead_receptors(bandpass: Gains, vis: Visibilities) -> list[str]:
    dead = bandpass.dead_receptors
    return [f"{bandpass.antenna_names[a]}{'XY'[p]}" for a in vis.active_antennas for p in range(2) if dead[a, p]]
