"""The pages of calibration: all sets of tables and their trends, and the gains and bandpass of every antenna of one set."""

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
"""Receptors whose amplitude (as a ratio) or phase changed by more than this since the last accepted night are listed by name."""
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
    """All calibration sets, newest first, and the one in force."""
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
    """One trend of the sets over time; active sets are marked differently from the others."""
    name = request.path_params["trend"]
    if name not in TRENDS:
        raise NotFoundError(f"there is no trend {name!r}; choose from {', '.join(TRENDS)}")
    title, lines, unit = TRENDS[name]
    scheme = charts.scheme_of(request)
    sets = sorted(caltable_registry.sets(render.archive_of(request).store), key=lambda entry: entry.mid_mjd)[-TREND_SETS:]
    plot, drawn = charts.figure(scheme, x="Transit (UTC)", y=unit, height=240), []
    for (figure, label), colour in zip(lines, (scheme.data, scheme.second), strict=False):
        for is_active, mark in ((True, "circle"), (False, "x")):
            matching = [
                one
                for one in sets
                if (one.status == caltable_registry.ACTIVE) == is_active and isinstance(one.figures.get(figure), int | float)
            ]
            if not matching:
                continue
            points = charts.source(
                {
                    "at": charts.milliseconds(np.array([one.mid_mjd for one in matching])),
                    "value": np.array([float(one.figures[figure]) for one in matching]),
                    "name": [one.set_id for one in matching],
                    "status": [one.status for one in matching],
                    "link": [quote(one.set_id, safe="/") for one in matching],
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
    """The page of one antenna: amplitudes and phases of its gains in the last sets."""
    name = request.path_params["antenna"]
    return render.page("antenna.html", request, antenna=name, number=ANTENNA_SETS, charts=ANTENNA_CHARTS)


def antenna_chart(request: Request) -> Response:
    """Amplitude or phase of an antenna's two receptors in the last sets, medians over channels and time."""
    name, what = request.path_params["antenna"], request.path_params["what"]
    if what not in ANTENNA_CHARTS:
        raise NotFoundError(f"there is no plot {what!r} of an antenna; choose from {', '.join(ANTENNA_CHARTS)}")
    title, unit = ANTENNA_CHARTS[what]
    scheme = charts.scheme_of(request)
    sets = [entry for entry in caltable_registry.sets(render.archive_of(request).store, caltable_registry.ACTIVE) if not entry.removed]
    measured = []
    for entry in sorted(sets, key=lambda entry: entry.mid_mjd)[-ANTENNA_SETS:]:
        try:
            measured.append((entry, medians(entry.paths).get(name)))
        except SilentWrongnessError:  # the set's own page shows the error
            continue
    if not any(found is not None for _, found in measured):
        raise NotFoundError(f"none of the last {ANTENNA_SETS} sets has an antenna {name!r}")
    plot, drawn = charts.figure(scheme, x="Transit (UTC)", y=unit, height=300), []
    for p, colour in enumerate((scheme.data, scheme.second)):
        solved = [(entry, found[what == "phase"][p]) for entry, found in measured if found is not None and np.isfinite(found[0][p])]
        if solved:
            points = charts.source(
                {
                    "at": charts.milliseconds(np.array([entry.mid_mjd for entry, _ in solved])),
                    "value": np.array([value for _, value in solved]),
                    "name": [entry.set_id for entry, _ in solved],
                    "link": [quote(entry.set_id, safe="/") for entry, _ in solved],
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
    """Return by antenna the amplitude, raw units per root Jy, and the phase [deg] of its two receptors, each an array of two.

    They are the product of a set's bandpass and gains: the amplitude of each table is the median over channels and time, the phase
    that of the mean direction. NaN without a solution."""
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
    """The page of one set: its figures, every antenna's bandpass and gains, and the differences from the last accepted night's set."""
    archive = render.archive_of(request)
    entry = caltable_registry.get(archive.store, request.path_params["set_id"])
    before = _earlier_set(caltable_registry.sets(archive.store), entry)
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
        kinds=[f"{table.kind}: {table.values.shape[0]} × {table.values.shape[2]} solutions per receptor" for table in solved],
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
    """Return the tables of a set, remembered because products never change. Raises SilentWrongnessError if they cannot be read."""
    from dsa110_assets.calibration import caltables

    try:
        return tuple(caltables.read(path) for path in paths)
    except RuntimeError as error:  # casacore raises it for a table that is damaged or missing
        raise SilentWrongnessError(f"{paths[0].parent}: its tables cannot be read ({error}); run: dsa110 archive verify") from error


def _earlier_set(sets: Sequence[RegisteredSet], entry: RegisteredSet) -> RegisteredSet | None:
    """The last active set of an earlier night of the same strip whose tables still exist; None if there is none."""
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
    """Return the differences of a set from an earlier one, or the reason why they cannot be determined."""
    from dsa110_assets.calibration import table_comparison

    if before is None or entry.removed:
        return None, "there is no earlier accepted set of this strip" if before is None else "retention has taken its tables"
    try:
        return table_comparison.compare(read(entry.paths), read(before.paths)), ""
    except BadDataError as error:
        return None, str(error)


def panels(solved: Sequence[Gains]) -> list[dict[str, Any]]:
    """Return for every antenna with solutions its lines of amplitude and phase: of the bandpass over frequency, of the gains over time."""
    found = []
    names = solved[0].antenna_names if solved else ()
    for number, name in enumerate(names):
        parts = [_lines(table, number) for table in solved]
        if any(any(line for _, line in one["lines"]) for one in parts):
            dead = [("X", "Y")[p] for p in range(2) if all(table.flags[:, number, :, p].all() for table in solved if table.kind != "K")]
            found.append({"antenna": name, "dead": dead, "parts": parts})
    return found


def _lines(table: Gains, antenna: int) -> dict[str, Any]:
    """One table's lines for an antenna: amplitude relative to the table's median, and phase, as points of an SVG of WIDTH by HEIGHT."""
    values, flags = table.values[:, antenna], table.flags[:, antenna]
    along_time = values.shape[1] == 1
    series = values[:, 0] if along_time else _mean(values, flags)
    bad = np.asarray(flags[:, 0] if along_time else flags.all(axis=0))
    if table.kind == "K":
        shown, label, limits = series.real, "delay", _extent(table.values.real, table.flags)
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


def _extent(values: NDArray[np.float64], flags: NDArray[np.bool_]) -> tuple[float, float]:
    good = values[~flags]
    return (float(good.min()) - 1e-9, float(good.max()) + 1e-9) if good.size else (-1.0, 1.0)


def _path(values: NDArray[np.float64], bad: NDArray[np.bool_], low: float, high: float) -> str:
    """Return an SVG path of dots from left to right, fewer than twice POINTS of them; '' if no value is good."""
    step = max(1, values.size // POINTS)
    x = (np.arange(values.size) + 0.5) / values.size * WIDTH
    y = HEIGHT * (1 - np.clip((values - low) / (high - low), 0, 1))
    return "".join(f"M{a:.0f} {b:.0f}h0" for a, b, is_bad in list(zip(x, y, bad, strict=True))[::step] if not is_bad)


ROUTES = [
    Route("/calibration", calibration),
    Route("/calibration/trends/{trend}.json", trend),
    Route("/calibration/antennas/{antenna}/{what}.json", antenna_chart),
    Route("/calibration/antennas/{antenna}", antenna, name="antenna"),
    Route("/calibration/{set_id:path}", tables, name="tables"),
]
