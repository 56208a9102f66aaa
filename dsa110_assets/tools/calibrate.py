"""`calibrate`: a raw measurement set to CASA tables, with a report of their quality."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dsa110_assets.calibration import apply, caltables, night, quality, receptors, solve, transits
from dsa110_assets.calibration.gains import Gains
from dsa110_assets.calibration.options import SolveOptions
from dsa110_assets.calibration.solve import Solution
from dsa110_assets.calibration.transits import Transit
from dsa110_assets.errors import BadDataError, NotFoundError
from dsa110_assets.imaging.search import bright_sources
from dsa110_assets.sky import calibrators, catalogues
from dsa110_assets.sky import model as sky_model
from dsa110_assets.telescope import timegrid
from dsa110_assets.tools import data, outputs, report
from dsa110_assets.tools.apply import fitting_table, require_raw
from dsa110_assets.tools.outputs import Progress
from dsa110_assets.visibilities import measurement_set
from dsa110_assets.visibilities.predict import predict
from dsa110_assets.visibilities.types import Visibilities

_HALF_DAY = 0.5


@dataclass(frozen=True)
class Tables:
    """The tables to make. `bandpass` off: only gains, from data corrected with the tables `before`. `gains` off: the gains are included
    in the bandpass. `second_solint_s`: a second set of gains with this interval [s], from data corrected with all other tables."""

    bandpass: bool = True
    gains: bool = True
    second_solint_s: float | None = None
    before: tuple[Path, ...] = ()


@dataclass(frozen=True)
class Solved:
    """`path`: the directory; `tables` by file name, in the order in which they are applied; `figures` like those of the asset
    `caltables`."""

    path: Path
    tables: dict[str, Gains]
    figures: dict[str, Any]

    @property
    def paths(self) -> list[Path]:
        """The tables' files, in order."""
        return [self.path / name for name in self.tables]


@dataclass(frozen=True)
class _Fit:
    """A solution, and the data and model (time, baseline, channel) [Jy] that it was solved from."""

    solution: Solution
    vis: Visibilities
    model: NDArray[np.complex64]


def calibrate(
    ms: Path,
    out: Path,
    calibrator: str | None = None,
    options: SolveOptions | None = None,
    tables: Tables | None = None,
    *,
    model: Path | None = None,
    catalogue_files: Sequence[Path] = (),
    field: bool = True,
    force: bool = False,
    dry_run: bool = False,
    progress: Progress = outputs.nothing,
) -> Solved:
    """Solve a raw set and make the directory `out` with K.cal (if `options.solve_delays`), B.cal, G.cal, 2G.cal, receptors.json,
    report.html and its plots.

    Solves against `calibrator` (None: the best that transits in the data) with the sources of its field, like the asset `caltables`;
    without those sources if not `field`; or against all sources of the catalogue `model`. Raises NotFoundError for an unknown calibrator
    or none in the data, BadDataError for a calibrated set or one that cannot be solved, ConfigurationError for an output that exists.
    """
    options, tables = options or SolveOptions(), tables or Tables()
    outputs.require_new(out, force)
    require_raw(ms)
    if not (tables.bandpass or tables.before):
        raise BadDataError(f"{ms}: to solve only gains, the data must first be corrected for the bandpass; name its tables (--before)")
    vis = measurement_set.mapped(ms)
    before = [fitting_table(path, vis, ms) for path in tables.before]
    transit = None if model else _transit(vis, ms, calibrator)
    sky = _sky(model, catalogue_files)
    if not field:
        options = replace(options, model_sources=0, field_rounds=0)
    recorded_options = {"solve": asdict(options), "tables": asdict(tables), "calibrator": calibrator, "model": model, "field": field}
    if dry_run:
        return Solved(out, {}, {"calibrator": transit.calibrator.name if transit else str(model)})
    inputs = [ms, *tables.before, *catalogue_files, *([model] if model else [])]
    with outputs.making(out, "calibrate", inputs, recorded_options, force=force, within=True) as draft:
        progress(0, 3, f"solving {ms.name}")
        fit = _fit(apply.apply(vis, before) if before else vis, transit, sky, options if tables.gains else _one_interval(options))
        solved_tables = _tables(fit, tables, options)
        progress(1, 3, f"writing {out.name}")
        for name, gains in solved_tables.items():
            caltables.write(gains, draft.path / name, ms)
        figures = {name: value for name, value in fit.solution.report.items() if name != "system_jy"}
        if transit is not None:
            receptors.write(draft.path, fit.solution.report["system_jy"])
        progress(2, 3, "drawing")
        report.write(draft.path, solved_tables, figures, _closures(fit, options), ms)
        draft.figures = figures
        progress(3, 3, "")
    return Solved(out, solved_tables, figures)


def _transit(vis: Visibilities, ms: Path, name: str | None) -> Transit:
    """The transit of the named calibrator nearest to the data; without a name, the best transit in the data. Raises NotFoundError."""
    half_d = vis.interval_s / 2 / 86400
    first, last = float(vis.times_mjd[0]) - half_d, float(vis.times_mjd[-1]) + half_d
    dec_deg = float(np.rad2deg(vis.pointing_dec_rad))
    candidates = [calibrators.find(name)] if name else calibrators.load()
    # a named calibrator may transit shortly before or after the data: the beam's response to it decides
    margin_d = _HALF_DAY if name else 0.0
    found = transits.transits(
        candidates, first - margin_d, last + margin_d, dec_deg, max_dec_offset_deg=2.0 if name else 1.0, min_flux_jy=0.0
    )
    best = sorted(found, key=lambda one: abs(one.mjd - vis.mid_mjd)) if name else transits.rank(found)
    if best:
        return best[0]
    span = (
        f"{timegrid.mjd_to_datetime(first):%Y-%m-%dT%H:%M} to {timegrid.mjd_to_datetime(last):%H:%M} UTC at declination {dec_deg:.2f} deg"
    )
    reason = f"{name} is not near the beam, or has no flux" if name else "no listed calibrator transits"
    raise NotFoundError(f"{ms}: {reason} in its data, {span}; see dsa110 transits, or name a --model")


def _sky(model: Path | None, catalogue_files: Sequence[Path]) -> sky_model.SkyModel:
    frame = catalogues.read_catalogue(model) if model else data.read_sources(catalogue_files)
    return sky_model.from_frame(frame[frame["flux_jy"] > 0])


def _one_interval(options: SolveOptions) -> SolveOptions:
    return replace(options, gain_solint_s=np.inf)


def _fit(vis: Visibilities, transit: Transit | None, sky: sky_model.SkyModel, options: SolveOptions) -> _Fit:
    solved: list[tuple[Visibilities, NDArray[np.complex64]]] = []

    def engine(used: Visibilities, model: NDArray[np.complex64], solve_options: SolveOptions, *, field_name: str) -> Solution:
        solved.append((used, model))
        return solve.solve(used, model, solve_options, field_name=field_name)

    if transit is not None:
        solution = night.calibrate_transit(vis, sky, transit, options, engine, bright_sources if options.field_rounds else None)
    else:
        model = predict(vis, sky)
        solution = engine(vis, model, options, field_name="model")
        figures = quality.assess(solution, vis, solve.sums_for(vis, model, options))
        solution = replace(solution, report={**solution.report, **figures})
    return _Fit(solution, *solved[-1])


def _tables(fit: _Fit, requested: Tables, options: SolveOptions) -> dict[str, Gains]:
    """The tables to write by file name, in the order in which they are applied."""
    bandpass, gains, delays = fit.solution.bandpass, fit.solution.gains, fit.solution.delays
    tables: dict[str, Gains] = {"K.cal": delays} if delays is not None else {}
    if not requested.bandpass:
        tables = {"G.cal": _without_bandpass(fit.solution)}
    elif not requested.gains:
        tables["B.cal"] = _with_gains(bandpass, gains)
    else:
        tables |= {"B.cal": bandpass, "G.cal": gains}
    if requested.second_solint_s is not None:
        corrected = apply.apply(fit.vis, list(tables.values()))
        second = solve.solve(
            corrected, fit.model, replace(options, gain_solint_s=requested.second_solint_s, solve_delays=False), field_name=gains.field_name
        )
        tables["2G.cal"] = _without_bandpass(second)
    return tables


def _with_gains(bandpass: Gains, gains: Gains) -> Gains:
    """The bandpass multiplied by the gains of one interval."""
    flags = bandpass.flags | gains.flags[:1]
    return replace(bandpass, values=np.where(flags, 1, bandpass.values * gains.values[:1]), flags=flags)


def _without_bandpass(solution: Solution) -> Gains:
    """Gains for all channels: the gains multiplied by the mean over channels of a bandpass that is flat, or nearly so."""
    bandpass, gains = solution.bandpass, solution.gains
    weight = np.where(bandpass.flags, 0.0, bandpass.snr.astype(np.float64) ** 2)
    total = weight.sum(axis=2, keepdims=True)
    mean = np.sum(weight * bandpass.values, axis=2, keepdims=True) / np.where(total > 0, total, 1)
    flags = gains.flags | (total == 0)
    return replace(gains, values=np.where(flags, 1, gains.values * mean), flags=flags, snr=np.where(flags, 0, gains.snr))


def _closures(fit: _Fit, options: SolveOptions) -> tuple[list[float], list[float]]:
    """Closure phases [rad] and logarithms of closure amplitudes of the corrected data over the model."""
    sums = solve.sums_for(fit.vis, fit.model, options)
    top, bottom = quality.corrected(fit.solution, fit.vis, sums)
    return quality.closures(sums, top, bottom, fit.solution.bandpass.dead_receptors)
