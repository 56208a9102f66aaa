"""Observations along time, over any span from an hour to a year, and the trends of the products made from them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from statistics import median
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import numpy as np
from numpy.typing import NDArray
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from dsa110_assets.archive import windows
from dsa110_assets.errors import ConfigurationError, NotFoundError
from dsa110_assets.orchestration.graph import specifications
from dsa110_assets.portal import charts, front, parameters, queue, render, runs
from dsa110_assets.telescope import timegrid

if TYPE_CHECKING:
    from dsa110_assets.archive.product import Product
    from dsa110_assets.archive.store import Archive

FloatArray = NDArray[np.float64]
MINUTES, DAY = 5.0, timedelta(days=1)
SPANS = {"Night": 1, "Week": 7, "Season": 90, "Year": 365}
LISTED, LONGEST, NIGHT_CHOICES = 300, timedelta(days=400), 400
SINGLY = timedelta(days=8)
"""Observations are shown one by one up to this span, and by hours and nights beyond it."""
STRIP_DEG = 0.5
STATE = "state"
OF_HOUR, OF_NIGHT = len("2026-01-25T22"), len("2026-01-25")


@dataclass(frozen=True)
class Colour:
    """A figure of an asset by which observations may be coloured; `unit` is that of the figure times `factor`."""

    label: str
    asset: str
    figure: str
    unit: str
    factor: float


COLOURS = {
    "rms": Colour("rms of the image", "tile_image", "rms_jy", "mJy/beam", 1e3),
    "flagged": Colour("flagged part of what living receptors saw", "measurement_set", "flag_fraction", "%", 100.0),
    "calibration": Colour("distance in time to the calibration", "calibrated_ms", "caltable_age_h", "h", 1.0),
}


@dataclass(frozen=True)
class Trend:
    """Figures of an asset over time: (figure, label) of each line; `unit` is that of the figures times `factor`."""

    title: str
    asset: str
    lines: tuple[tuple[str, str], ...]
    unit: str
    factor: float = 1.0
    total: bool = False


TRENDS = {
    "rms": Trend("Noise of the images", "tile_image", (("rms_jy", "measured"), ("radiometer_jy", "radiometer equation")), "mJy/beam", 1e3),
    "flagged": Trend("Flagged part of what living receptors saw", "measurement_set", (("flag_fraction", "flagged"),), "%", 100.0),
    "amplitude": Trend("Gain amplitudes since the tables", "calibrated_ms", (("drift_amplitude", "spread"),), "%", 100.0),
    "phase": Trend("Gain phases since the tables", "calibrated_ms", (("drift_phase_deg", "spread"),), "°"),
    "scale": Trend(
        "Flux scale", "tile_image", (("flux_ratio", "flux over the catalogue's"), ("flux_scale", "scale of the tables")), "ratio"
    ),
    "astrometry": Trend(
        "Astrometry", "tile_image", (("astrometry_ra_arcsec", "right ascension"), ("astrometry_dec_arcsec", "declination")), "″"
    ),
    "latency": Trend("From the last subband to the image", "tile_image", (), "min", 1 / 60),
    "volume": Trend("Data volume", "subband_group", (("size_gb", "files"),), "GB", 1.0, total=True),
}


def span_of(request: Request, store: Archive) -> tuple[str, str]:
    """The keys of the first and last window of the requested span: by default the last night with observations.

    Raises NotFoundError for text that is no time, ConfigurationError for a span that is empty or longer than LONGEST.
    """
    nights = store.nights(1, "subband_group")
    last = nights[0] if nights else None
    since = parameters.text(request, "since") or parameters.text(request, "until") or last
    until = parameters.text(request, "until") or parameters.text(request, "since") or last
    if since is None or until is None:
        return "", ""
    begin, end = begins(since), begins(until) + (DAY if len(until) == len("2026-01-25") else timedelta(minutes=MINUTES))
    if not timedelta() < end - begin <= LONGEST:
        raise ConfigurationError(f"from {since} to {until} is not a span of up to {LONGEST.days} days")
    return since, until


def begins(moment: str) -> datetime:
    """The time that a text names. Raises NotFoundError if it names none."""
    return datetime.fromisoformat(f"{windows.key(moment)}+00:00")


def timeline(request: Request) -> Response:
    """Observations over a span, coloured by their state or a figure, and a list of those that pass the filters."""
    store = render.archive_of(request).store
    since, until = span_of(request, store)
    colour = _colour(request)
    rows = observations(request, store, since, until) if since and not _is_long(since, until) else []
    return render.page(
        "timeline.html",
        request,
        since=since,
        until=until,
        colour=colour,
        colours=COLOURS,
        states=queue.STATES,
        rows=rows[:LISTED],
        total=len(rows),
        long=bool(since) and _is_long(since, until),
        query=request.url.query,
        wanted={name: parameters.text(request, name) for name in ("state", "strip", "checks", "calibrator")},
        steps=_steps(store, since, until) if since else {},
        nights=store.nights(NIGHT_CHOICES, "subband_group") if not since else [],
    )


def _steps(store: Archive, since: str, until: str) -> dict[str, tuple[str, str]]:
    """Spans to go to next: those before and after, if they have observations, and a night, week, season or year with the same end."""
    first, last = begins(since).date(), begins(until).date()
    length, newest = last - first + DAY, store.nights(1, "subband_group")
    steps = {}
    if store.nights(1, "subband_group", until=str(first - DAY)):
        steps["Earlier"] = (str(first - length), str(first - DAY))
    if newest and newest[0] > str(last):
        steps["Later"] = (str(last + DAY), str(last + length))
    return steps | {name: (str(last - (days - 1) * DAY), str(last)) for name, days in SPANS.items()}


def _is_long(since: str, until: str) -> bool:
    return begins(until) - begins(since) >= SINGLY


def _colour(request: Request) -> str:
    colour = parameters.text(request, "colour") or STATE
    if colour not in (STATE, *COLOURS):
        raise ConfigurationError(f"colour={colour!r}: choose from {', '.join((STATE, *COLOURS))}")
    return colour


def observations(request: Request, store: Archive, since: str, until: str) -> list[dict[str, Any]]:
    """The observations of a span that pass the request's filters, in order: key, state, why, and the figures of COLOURS."""
    filters = {name: parameters.text(request, name) for name in ("state", "checks")}
    if filters["state"] not in (None, *queue.STATES):
        raise ConfigurationError(f"state={filters['state']!r}: choose from {', '.join(queue.STATES)}")
    strip = parameters.number(request, "strip", np.inf, -90, 90) if parameters.text(request, "strip") else None
    low, high = windows.first(since), windows.last(until)
    state = request.app.state
    seen = state.look(store) if state.look else None
    unfinished = {one.observation: one for one in queue.unfinished(store, state.home, seen, {}) if low <= one.observation <= high}
    groups = {one.partition: one for one in store.figures("subband_group", ("pointing_dec_deg",), since, until)}
    figures = {
        name: {one.partition: one.values for one in store.figures(colour.asset, (colour.figure, "n_failed_checks"), since, until)}
        for name, colour in COLOURS.items()
    }
    calibrator = parameters.text(request, "calibrator")
    solved = store.products("calibrated_ms", since, until, removed=True) if calibrator else []
    of_calibrator = {one.partition for one in solved if one.metadata.get("calibrator") == calibrator}
    rows = []
    for key in sorted({*groups, *unfinished}):
        waiting = unfinished.get(key)
        row: dict[str, Any] = {
            "key": key,
            "state": waiting.state if waiting else queue.COMPLETED,
            "why": waiting.reason if waiting else "",
            "step": waiting.step if waiting else "tile_image",
            "dec": groups[key].values[0] if key in groups else None,
            "failed_checks": sum(int((by_key.get(key) or (None, 0))[1] or 0) for by_key in figures.values()),
        }
        for name, colour in COLOURS.items():
            value = (figures[name].get(key) or (None,))[0]
            row[name] = None if value is None else colour.factor * value
        if calibrator and key not in of_calibrator:
            continue
        fits = filters["state"] in (None, row["state"]) and (filters["checks"] != "failed" or row["failed_checks"])
        if fits and (strip is None or (row["dec"] is not None and abs(row["dec"] - strip) <= STRIP_DEG)):
            rows.append(row)
    return rows


def chart(request: Request) -> Response:
    """The timeline as a plot."""
    store, scheme, colour = render.archive_of(request).store, charts.scheme_of(request), _colour(request)
    since, until = span_of(request, store)
    if not since:
        return charts.answer(charts.figure(scheme, x="Time (UTC)", y="", height=120), request)
    if _is_long(since, until):
        return charts.answer(_raster(store, since, until, colour, scheme), request)
    return charts.answer(_singly(observations(request, store, since, until), colour, scheme), request)


def _singly(rows: Sequence[Mapping[str, Any]], colour: str, scheme: charts.Scheme) -> Any:
    """A plot of every observation at its time and figure, coloured by state."""
    shown = COLOURS["rms" if colour == STATE else colour]
    name = next(key for key, value in COLOURS.items() if value is shown)
    plot = charts.figure(scheme, x="Time (UTC)", y=f"{shown.label.capitalize()} ({shown.unit})", height=340)
    tints = dict(zip(queue.STATES, (scheme.soft, scheme.warn, scheme.data, scheme.good, scheme.bad), strict=True))
    marks = dict(zip(queue.STATES, ("circle_dot", "square", "triangle", "circle", "x"), strict=True))
    drawn = []
    for state in queue.STATES:
        of_state = [row for row in rows if row["state"] == state]
        if not of_state:
            continue
        points = charts.source(
            {
                "at": charts.milliseconds([timegrid.parse_key(row["key"]) for row in of_state]),
                "value": np.array([row[name] if row[name] is not None else 0.0 for row in of_state]),
                "key": [row["key"] for row in of_state],
                "why": [row["why"] or row["state"] for row in of_state],
                **{key: np.array([_nan(row[key]) for row in of_state]) for key in COLOURS},
            }
        )
        drawn.append(
            plot.scatter(
                "at", "value", source=points, size=8, marker=marks[state], color=tints[state], legend_label=f"{state} ({len(of_state)})"
            )
        )
    if drawn:
        tooltips = [(value.label, f"@{key}{{0.000}} {value.unit}") for key, value in COLOURS.items()]
        charts.hover(plot, drawn, [("observation", "@key"), ("state", "@why"), *tooltips])
        charts.leads(plot, drawn, "/observations/@key")
        charts.legend(plot, scheme)
    return plot


def _nan(value: float | None) -> float:
    return np.nan if value is None else value


def _raster(store: Archive, since: str, until: str, colour: str, scheme: charts.Scheme) -> Any:
    """A plot with a cell for every hour of every night: the part that is imaged, or the median of a figure."""
    from bokeh.models.annotations import ColorBar
    from bokeh.models.mappers import LinearColorMapper

    observed = store.counts("subband_group", OF_HOUR, since, until)
    if colour == STATE:
        imaged = store.counts("tile_image", OF_HOUR, since, until)
        label, unit = "imaged", "%"
        values = {hour: 100.0 * min(imaged.get(hour, 0) / number, 1.0) for hour, number in observed.items()}
    else:
        shown = COLOURS[colour]
        label, unit = shown.label, shown.unit
        by_hour = store.gathered(shown.asset, shown.figure, OF_HOUR, since, until)
        values = {hour: shown.factor * median(found) for hour, found in by_hour.items()}
    cells = sorted(values)
    numbers = np.array([values[hour] for hour in cells])
    plot = charts.figure(scheme, x="Night (UTC day)", y="Hour of the day (UTC)", height=420, y_range=(24, 0))
    points = charts.source(
        {
            "at": charts.milliseconds([timegrid.parse_key(hour[:10]) + DAY / 2 for hour in cells]),
            "hour": np.array([int(hour[11:13]) + 0.5 for hour in cells]),
            "value": numbers,
            "night": [hour[:10] for hour in cells],
            "n": np.array([observed.get(hour, 0) for hour in cells]),
            "link": [quote(f"since={hour[:10]}&until={hour[:10]}&colour={colour}", safe="=&") for hour in cells],
        }
    )
    limits = (
        (0.0, 100.0) if colour == STATE else (float(np.percentile(numbers, 2)), float(np.percentile(numbers, 98))) if cells else (0.0, 1.0)
    )
    mapper = LinearColorMapper(palette=scheme.palette, low=limits[0], high=max(limits[1], limits[0] + 1e-9))
    drawn = [plot.rect("at", "hour", width=86_400_000 * 0.94, height=0.94, source=points, color={"field": "value", "transform": mapper})]
    bar = ColorBar(
        color_mapper=mapper,
        title=f"{label} ({unit})",
        title_text_color=scheme.ink,
        major_label_text_color=scheme.ink,
        background_fill_alpha=0,
        width=12,
    )
    plot.add_layout(bar, "right")
    charts.hover(plot, drawn, [("night", "@night"), ("hour", "@hour{0} h UTC"), ("observations", "@n"), (label, f"@value{{0.00}} {unit}")])
    charts.leads(plot, drawn, "/timeline?@link")
    return plot


def trends(request: Request) -> Response:
    """The trends of a night, a week or a season."""
    store = render.archive_of(request).store
    since, until = span_of(request, store)
    return render.page("trends.html", request, since=since, until=until, trends=TRENDS, steps=_steps(store, since, until) if since else {})


def trend_chart(request: Request) -> Response:
    """One trend over a span: single values, or each night's median with the range that holds nine values in ten."""
    trend = TRENDS.get(request.path_params["trend"])
    if trend is None:
        raise NotFoundError(f"there is no trend {request.path_params['trend']!r}; choose from {', '.join(TRENDS)}")
    store, scheme = render.archive_of(request).store, charts.scheme_of(request)
    since, until = span_of(request, store)
    plot = charts.figure(scheme, x="Time (UTC)", y=trend.unit, height=240)
    if not since:
        return charts.answer(plot, request)
    drawn = []
    long = _is_long(since, until)
    for (label, figures), colour in zip(
        (_nightly if long else _by_window)(store, trend, since, until), (scheme.data, scheme.second), strict=False
    ):
        if not figures:
            continue
        at = [timegrid.parse_key(key) + (DAY / 2 if long else timedelta()) for key in figures]
        low, value, high = trend.factor * np.array(list(figures.values())).T
        points = charts.source({"at": charts.milliseconds(at), "key": list(figures), "low": low, "value": value, "high": high})
        if long:
            plot.segment("at", "low", "at", "high", source=points, color=colour, alpha=0.5)
        drawn.append(plot.scatter("at", "value", source=points, size=6, color=colour, legend_label=label))
    if trend.total:
        plot.y_range.start = 0
    if drawn:
        charts.hover(plot, drawn, [("window", "@key"), (trend.title, f"@value{{0.0000}} {trend.unit}")])
        charts.legend(plot, scheme)
    return charts.answer(plot, request)


LineFigures = dict[str, tuple[float, float, float]]
"""By window a figure, three times; or by night the 5th percentile, median and 95th percentile of its figures."""


def _by_window(store: Archive, trend: Trend, since: str, until: str) -> list[tuple[str, LineFigures]]:
    """(label, figures) of each line of a trend, window by window."""
    if not trend.lines:  # from the last subband to the image [s]
        return [("from the last subband", {key: (value,) * 3 for key, value in front.latencies(store, since, until).items()})]
    found = store.figures(trend.asset, [name for name, _ in trend.lines], since, until)
    return [
        (label, {one.partition: (value,) * 3 for one in found if (value := one.values[number]) is not None})
        for number, (_, label) in enumerate(trend.lines)
    ]


def _nightly(store: Archive, trend: Trend, since: str, until: str) -> list[tuple[str, LineFigures]]:
    """(label, figures) of each line of a trend, night by night; of a total, each night's sum."""
    if not trend.lines:
        return [("from when it was taken up", {night: _percentiles(seconds) for night, seconds in _waits(store, since, until).items()})]
    lines = []
    for name, label in trend.lines:
        found = store.gathered(trend.asset, name, OF_NIGHT, since, until)
        lines.append((label, {night: (sum(values),) * 3 if trend.total else _percentiles(values) for night, values in found.items()}))
    return lines


def _percentiles(values: Sequence[float]) -> tuple[float, float, float]:
    low, middle, high = (float(value) for value in np.percentile(values, (5, 50, 95)))
    return low, middle, high


def _waits(store: Archive, since: str, until: str) -> dict[str, list[float]]:
    """By night the times from when its observations were taken up to their first images [s], as the index has them in one query."""
    nights = {}
    for night, both in store.intervals("subband_group", "tile_image", OF_NIGHT, since, until).items():
        # all times have the same form, in UTC: converted as one array they are read a hundred times faster
        taken, made = (np.array(column, "M8[s]") for column in zip(*both, strict=True))
        nights[night] = (made - taken).astype(float).tolist()
    return nights


def observation(request: Request) -> Response:
    """One observation: its state and the reason, and every product made from it."""
    archive, key = render.archive_of(request), request.path_params["key"]
    state = request.app.state
    assets = [one.name for one in specifications().values() if one.grain == "observation"]
    try:
        made = archive.store.products(None, key, key, removed=True)
    except NotFoundError:
        made = []
    products: dict[str, Product] = {one.asset: one for one in made if one.asset in assets and one.partition == key}
    seen = state.look(archive.store) if state.look else None
    waits = next((one for one in queue.unfinished(archive.store, state.home, seen, {}) if one.observation == key), None)
    if not products and waits is None:
        raise NotFoundError(f"there is no observation {key!r}; the timeline shows all")
    kept = runs.kept(state.home, (one.run_id for one in products.values()))
    failing = sum(int(one.metadata.get("n_failed_checks") or 0) for one in products.values())
    return render.page(
        "observation.html", request, key=key, products=products, assets=assets, waits=waits, failing=failing,
        night=timegrid.night_of(key), runs=kept,
    )  # fmt: skip


def of_night(request: Request) -> Response:
    """The observations of a night, step by step."""
    store = render.archive_of(request).store
    nights = store.nights(NIGHT_CHOICES, "subband_group")
    night = parameters.text(request, "night") or (nights[0] if nights else None)
    shown = [asset.name for asset in specifications().values() if asset.grain == "observation"]
    rows: dict[str, dict[str, Product]] = {}
    if night is not None:
        if store.nights(1, "subband_group", until=night)[:1] != [night]:
            raise NotFoundError(f"no observation of a night {night!r}: " + (f"the last is {nights[0]}" if nights else "there is none yet"))
        for asset in shown:
            for product in store.products(asset, night, night):
                rows.setdefault(product.partition or "", {})[asset] = product
    return render.page("observations.html", request, night=night, nights=nights, rows=sorted(rows.items()), assets=shown)


ROUTES = [
    Route("/timeline", timeline),
    Route("/timeline.json", chart),
    Route("/trends", trends),
    Route("/trends/{trend}.json", trend_chart),
    Route("/observations", of_night),
    Route("/observations/{key}", observation, name="observation"),
]
