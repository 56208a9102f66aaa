"""The calibration: the sets of tables there are and their trend, and the gains and bandpass of every antenna of one."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import numpy as np
from numpy.typing import NDArray
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from dsa110_assets.archive import caltable_registry
from dsa110_assets.errors import BadDataError, NotFoundError, SilentWrongnessError
from dsa110_assets.portal import charts, front, overview, parameters, render
from dsa110_assets.portal.remembered import remembered
from dsa110_assets.telescope import timegrid

if TYPE_CHECKING:
    from dsa110_assets.archive.caltable_registry import RegisteredSet
    from dsa110_assets.calibration.gains import Gains
    from dsa110_assets.calibration.table_comparison import Compared

SETS, TREND_SETS, WIDTH, HEIGHT, POINTS = 100, 400, 220, 64, 64
LARGE_RATIO, LARGE_DEG = 0.1, 15.0
"""A receptor that differs so much from the last accepted night is named."""
ANTENNA_SETS = 30
ANTENNA_CHARTS = {"amplitude": ("Amplitude", "raw units per √Jy"), "phase": ("Phase about the reference antenna", "°")}
TRENDS = {
    "gain": ("Gain amplitude", (("gain_amplitude", "median"),), "raw units per √Jy"),
    "range": ("Gains over their median", (("gain_amplitude_min", "least"), ("gain_amplitude_max", "largest")), "ratio"),
    "phase": ("Scatter of gain phases", (("gain_phase_scatter_deg", "rms"),), "°"),
    "snr": ("Signal to noise of the solutions", (("gain_snr", "gains"), ("bandpass_snr", "bandpass")), "ratio"),
    "dead": ("Dead receptors", (("dead_receptors", "dead"),), "number"),
}


def calibration(request: Request) -> Response:
    """The calibration sets there are, newest first, and the one in force."""
    archive = render.archive_of(request)
    sets = sorted(caltable_registry.sets(archive.store), key=lambda entry: entry.mid_mjd, reverse=True)
    page = parameters.integer(request, "page", 0, 0, 10**6)
    state = overview.of(request)
    limits, _ = request.app.state.limits()
    shown = sets[page * SETS : (page + 1) * SETS]
    times = {entry.set_id: timegrid.mjd_to_datetime(entry.mid_mjd) for entry in shown}
    return render.page(
        "calibration.html",
        request,
        sets=shown,
        total=len(sets),
        times=times,
        strip=overview.pointing_dec_deg(archive),
        state=state,
        in_force=front.calibration_of(archive.store, state, limits),
        trends=TRENDS,
        page=page,
        more=len(sets) > (page + 1) * SETS,
    )


def trend(request: Request) -> Response:
    """A figure of the sets over time, those that are active apart from the others."""
    name = request.path_params["trend"]
    if name not in TRENDS:
        raise NotFoundError(f"there is no trend {name!r}; there are {', '.join(TRENDS)}")
    title, lines, unit = TRENDS[name]
    scheme = charts.scheme_of(request)
    sets = sorted(caltable_registry.sets(render.archive_of(request).store), key=lambda entry: entry.mid_mjd)[-TREND_SETS:]
    plot, drawn = charts.figure(scheme, x="Transit (UTC)", y=unit, height=240), []
    for (figure, label), colour in zip(lines, (scheme.data, scheme.second), strict=False):
        for is_active, mark in ((True, "circle"), (False, "x")):
            own = [
                one
                for one in sets
                if (one.status == caltable_registry.ACTIVE) == is_active and isinstance(one.figures.get(figure), int | float)
            ]
            if not own:
                continue
            points = charts.source(
                {
                    "at": charts.milliseconds(np.array([one.mid_mjd for one in own])),
                    "value": np.array([float(one.figures[figure]) for one in own]),
                    "name": [one.set_id for one in own],
                    "status": [one.status for one in own],
                    "link": [quote(one.set_id, safe="/") for one in own],
                }
            )
            drawn.append(
                plot.scatter(
                    "at",
                    "value",
                    source=points,
                    marker=mark,
                    size=8,
                    color=colour,
                    legend_label=label if is_active else f"{label}, not active",
                )
            )
    if drawn:
        charts.hover(plot, drawn, [("set", "@name"), ("status", "@status"), (title, f"@value{{0.0000}} {unit}")])
        charts.leads(plot, drawn, "/calibration/@link")
        charts.legend(plot, scheme)
    return charts.answer(plot, request)


def antenna(request: Request) -> Response:
    """One antenna along the last sets: its gains' amplitudes and phases."""
    name = request.path_params["antenna"]
    return render.page("antenna.html", request, antenna=name, number=ANTENNA_SETS, charts=ANTENNA_CHARTS)


def antenna_chart(request: Request) -> Response:
    """Amplitude or phase of an antenna's two receptors in the last sets, medians over channels and time."""
    name, what = request.path_params["antenna"], request.path_params["what"]
    if what not in ANTENNA_CHARTS:
        raise NotFoundError(f"there is no plot {what!r} of an antenna; there are {', '.join(ANTENNA_CHARTS)}")
    title, unit = ANTENNA_CHARTS[what]
    scheme = charts.scheme_of(request)
    sets = [one for one in caltable_registry.sets(render.archive_of(request).store, caltable_registry.ACTIVE) if not one.removed]
    told = []
    for one in sorted(sets, key=lambda one: one.mid_mjd)[-ANTENNA_SETS:]:
        try:
            told.append((one, medians(one.paths).get(name)))
        except SilentWrongnessError:  # its own page says so
            continue
    if not any(found is not None for _, found in told):
        raise NotFoundError(f"none of the last {ANTENNA_SETS} sets has an antenna {name!r}")
    plot, drawn = charts.figure(scheme, x="Transit (UTC)", y=unit, height=300), []
    for p, colour in enumerate((scheme.data, scheme.second)):
        own = [(one, found[what == "phase"][p]) for one, found in told if found is not None and np.isfinite(found[0][p])]
        if own:
            points = charts.source(
                {
                    "at": charts.milliseconds(np.array([one.mid_mjd for one, _ in own])),
                    "value": np.array([value for _, value in own]),
                    "name": [one.set_id for one, _ in own],
                    "link": [quote(one.set_id, safe="/") for one, _ in own],
                }
            )
            drawn.append(plot.scatter("at", "value", source=points, size=8, color=colour, legend_label="XY"[p]))
    if drawn:
        charts.hover(plot, drawn, [("set", "@name"), (title, f"@value{{0.0000}} {unit}")])
        charts.leads(plot, drawn, "/calibration/@link")
        charts.legend(plot, scheme)
    return charts.answer(plot, request)


@remembered(32 << 20, lambda found: 700 * len(found))
def medians(paths: tuple[Path, ...]) -> dict[str, tuple[NDArray[np.float64], NDArray[np.float64]]]:
    """By antenna the amplitude, raw units per root Jy, and phase [deg] of its two receptors: the product of a set's bandpass and
    gains, each the median over channels and the mean direction over time; NaN without a solution."""
    found: dict[str, tuple[NDArray[np.float64], NDArray[np.float64]]] = {}
    solved = [table for table in read(paths) if table.kind != "K"]
    for number, name in enumerate(solved[0].antenna_names if solved else ()):
        amplitude, phase = np.ones(2), np.zeros(2)
        for table in solved:
            values, flags = table.values[:, number], table.flags[:, number]
            for p in range(2):
                good = values[..., p][~flags[..., p]]
                amplitude[p] *= np.median(np.abs(good)) if good.size else np.nan
                phase[p] += np.rad2deg(np.angle(np.sum(good / np.abs(good)))) if good.size else np.nan
        found[name] = amplitude, (phase + 180) % 360 - 180
    return found


def tables(request: Request) -> Response:
    """One set: its figures, every antenna's bandpass and gains, and how it differs from the last accepted night's."""
    archive = render.archive_of(request)
    entry = caltable_registry.get(archive.store, request.path_params["set_id"])
    before = _before(caltable_registry.sets(archive.store), entry)
    try:
        solved, unread = () if entry.removed else read(entry.paths), ""
        compared, trouble = _compared(entry, before)
    except SilentWrongnessError as error:
        solved, compared, trouble = (), None, ""
        unread = str(error)
    uses = archive.store.dependents(entry.product_id)
    return render.page(
        "tables.html",
        request,
        entry=entry,
        at=timegrid.mjd_to_datetime(entry.mid_mjd),
        valid=[timegrid.mjd_to_datetime(mjd) for mjd in (entry.valid_start_mjd, entry.valid_end_mjd)],
        panels=panels(solved),
        kinds=[f"{table.kind}: {table.values.shape[0]} × {table.values.shape[2]} solutions a receptor" for table in solved],
        before=before,
        compared=compared,
        trouble=trouble,
        unread=unread,
        large=(LARGE_RATIO, LARGE_DEG),
        uses=uses,
        width=WIDTH,
        height=HEIGHT,
    )


@remembered(64 << 20, lambda tables: sum(table.values.nbytes + table.flags.nbytes for table in tables))
def read(paths: tuple[Path, ...]) -> tuple[Gains, ...]:
    """The tables of a set; products never change. Raises SilentWrongnessError for those that cannot be read."""
    from dsa110_assets.calibration import caltables

    try:
        return tuple(caltables.read(path) for path in paths)
    except RuntimeError as error:  # casacore's own, of a table that is damaged or not there
        raise SilentWrongnessError(f"{paths[0].parent}: its tables cannot be read ({error}); run: dsa110 archive verify") from error


def _before(sets: Sequence[RegisteredSet], entry: RegisteredSet) -> RegisteredSet | None:
    """The last active set of an earlier night of the same strip, whose tables are still there."""
    night = timegrid.night_key(entry.mid_mjd)
    earlier = [
        one
        for one in sets
        if one.status == caltable_registry.ACTIVE
        and not one.removed
        and timegrid.night_key(one.mid_mjd) < night
        and abs(one.dec_deg - entry.dec_deg) < 0.5
    ]
    return max(earlier, key=lambda one: one.mid_mjd, default=None)


def _compared(entry: RegisteredSet, before: RegisteredSet | None) -> tuple[Compared | None, str]:
    """How a set differs from an earlier one, or why that cannot be said."""
    from dsa110_assets.calibration import table_comparison

    if before is None or entry.removed:
        return None, "there is no earlier accepted set of this strip" if before is None else "retention has taken its tables"
    try:
        return table_comparison.compare(read(entry.paths), read(before.paths)), ""
    except BadDataError as error:
        return None, str(error)


def panels(solved: Sequence[Gains]) -> list[dict[str, Any]]:
    """For every antenna that has solutions: lines of amplitude and phase, of the bandpass over frequency and the gains over time."""
    found = []
    names = solved[0].antenna_names if solved else ()
    for number, name in enumerate(names):
        parts = [_lines(table, number) for table in solved]
        if any(any(line for _, line in one["lines"]) for one in parts):
            dead = [("X", "Y")[p] for p in range(2) if all(table.flags[:, number, :, p].all() for table in solved if table.kind != "K")]
            found.append({"antenna": name, "dead": dead, "parts": parts})
    return found


def _lines(table: Gains, antenna: int) -> dict[str, Any]:
    """One table's lines for an antenna: amplitude over the table's median, and phase, as points of an SVG of WIDTH by HEIGHT."""
    values, flags = table.values[:, antenna], table.flags[:, antenna]
    along_time = values.shape[1] == 1
    series = values[:, 0] if along_time else _mean(values, flags)
    bad = np.asarray(flags[:, 0] if along_time else flags.all(axis=0))
    if table.kind == "K":
        shown, label, limits = series.real, "delay", _spread(table.values.real, table.flags)
    else:
        middle = float(np.median(np.abs(table.values)[~table.flags])) if (~table.flags).any() else 1.0
        shown, label, limits = np.abs(series) / (middle or 1.0), "amplitude", (0.0, 2.0)
    lines = [(f"{label} {'XY'[p]}", _path(shown[:, p], bad[:, p], *limits)) for p in range(2)]
    if table.kind != "K":
        lines += [(f"phase {'XY'[p]}", _path(np.rad2deg(np.angle(series[:, p])), bad[:, p], -180.0, 180.0)) for p in range(2)]
    flagged = 100 * float(flags.mean())
    return {"kind": table.kind, "over": "time" if along_time else "frequency", "lines": lines, "flagged": flagged}


def _mean(values: NDArray[np.complex128], flags: NDArray[np.bool_]) -> NDArray[np.complex128]:
    number = (~flags).sum(axis=0)
    return np.asarray(np.where(flags, 0, values).sum(axis=0) / np.maximum(number, 1))


def _spread(values: NDArray[np.float64], flags: NDArray[np.bool_]) -> tuple[float, float]:
    some = values[~flags]
    return (float(some.min()) - 1e-9, float(some.max()) + 1e-9) if some.size else (-1.0, 1.0)


def _path(values: NDArray[np.float64], bad: NDArray[np.bool_], low: float, high: float) -> str:
    """Dots of an SVG path, at most POINTS of them, from left to right; '' if none is good."""
    step = max(1, values.size // POINTS)
    x = (np.arange(values.size) + 0.5) / values.size * WIDTH
    y = HEIGHT * (1 - np.clip((values - low) / (high - low), 0, 1))
    return "".join(f"M{a:.0f} {b:.0f}h0" for a, b, gone in list(zip(x, y, bad, strict=True))[::step] if not gone)


ROUTES = [
    Route("/calibration", calibration),
    Route("/calibration/trends/{trend}.json", trend),
    Route("/calibration/antennas/{antenna}/{what}.json", antenna_chart),
    Route("/calibration/antennas/{antenna}", antenna, name="antenna"),
    Route("/calibration/{set_id:path}", tables, name="tables"),
]
