"""The pages of sources: light curves, the pixels of every epoch, people's judgements, and why a point is odd."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlencode

import numpy as np
from starlette.requests import Request
from starlette.responses import JSONResponse, RedirectResponse, Response
from starlette.routing import Route

from dsa110_assets import analyst
from dsa110_assets.archive import judgements
from dsa110_assets.errors import NotFoundError
from dsa110_assets.photometry import quality
from dsa110_assets.portal import charts, curves, oddity, parameters, plots, render, statistics
from dsa110_assets.portal.rows import kept_points, leaving_out, light_curve_json, table_rows
from dsa110_assets.portal.v1 import spectra
from dsa110_assets.telescope import astrometry

if TYPE_CHECKING:
    from astropy.timeseries import TimeSeries

    from dsa110_assets.analyst import AnalystArchive

SOURCE_ROWS, EPOCHS, NEIGHBOURS = 500, 60, 12
NEAR_DEG, COUNTERPART_DEG = 0.5, 60 / 3600


def sources(request: Request) -> Response:
    """Sources with light curves, searched by name or position."""
    archive = render.archive_of(request)
    name, cone = parameters.text(request, "name"), parameters.cone(request)
    if name is not None:
        curve = curves.light_curve(archive, name)
        # a name may contain characters that end a path: '#', '?', '%'
        return RedirectResponse(request.url_for("source", source=quote(curve.meta["source_id"])).path, 303)
    try:
        table = curves.sources(archive, analyst.cone(**cone))
        rows, total = table_rows(table[:SOURCE_ROWS]), len(table)
        origin, left_out = table.meta["product_id"], table.meta["left_out"]
    except NotFoundError:
        if any(cone.values()):
            raise
        rows, total, origin, left_out = [], 0, None, []
    return render.page("sources.html", request, rows=rows, total=total, origin=origin, left_out=left_out, cone=cone)


def source(request: Request) -> Response:
    """One source: its light curve, the pixels of its epochs, its statistics in words, its neighbours and people's judgements.

    Plots and statistics leave out the epochs in `without`; that choice is not stored.
    """
    archive, without = render.archive_of(request), parameters.texts(request, "without")
    curve = light_curve_json(archive, request.path_params["source"])
    kept = kept_points(curve, without)
    ra, dec = curve["ra_deg"], curve["dec_deg"]
    points = sorted(curve["points"], key=lambda point: str(point["mjd"]), reverse=True)
    for point in points:
        point["said"] = ", ".join(FLAGS[name] for name in quality.decode(point["flags"])) or "clean"
    return render.page(
        "source.html",
        request,
        curve=curve,
        points=points[:SOURCE_ROWS],
        epochs=_epochs(points)[:EPOCHS],
        n_epochs=len(points),
        position=astrometry.sexagesimal(ra, dec),
        words=list(statistics.in_words(archive, curve, kept)),
        without=without,
        query=_query(without),
        one_less={epoch: _query([other for other in without if other != epoch]) for epoch in without},
        near=_neighbours(archive, curve),
        counterparts=_counterparts(archive, ra, dec),
        said=judgements.of_places(judgements.judgements(archive.store), [curve["source_id"]], [ra], [dec])[0],
    )


def _query(without: Sequence[str]) -> str:
    """The query of a page that leaves these epochs out."""
    return f"?{urlencode([('without', epoch) for epoch in without])}" if without else ""


def _kept_curve(request: Request) -> TimeSeries:
    """The light curve of a request, without the epochs that the request leaves out."""
    curve = curves.light_curve(render.archive_of(request), request.path_params["source"])
    return leaving_out(curve, parameters.texts(request, "without"))


def _epochs(points: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """One point of each image the source was measured in, in order."""
    return list({point["product_id"]: point for point in reversed(points)}.values())[::-1]


FLAGS = {
    "EDGE": "near the edge of the data",
    "BLENDED": "blended with a neighbour",
    "EXTENDED": "wider than the beam: the peak understates it",
    "NAN": "no data under it",
    "CONFUSED": "not separable from a neighbour",
    "BAD_FIT": "the free fit did not converge",
    "UNNORMALISED": "not normalised: too few reference sources",
    "RESOLVED": "resolved: the integrated flux",
    "PEAK_ONLY": "no fit: the brightest pixel",
    "TILE_SUSPECT": "from tiles that are suspect",
    "DOUBTFUL_NEW": "new in an hour of doubtful detections",
}
"""The quality bits of a point, in words."""


def _neighbours(archive: AnalystArchive, curve: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The nearest other sources measured in the last night."""
    around = oddity.last_night(archive, curve["ra_deg"], curve["dec_deg"], NEAR_DEG)
    return [row for row in around if row["source_id"] != curve["source_id"]][:NEIGHBOURS]


def _counterparts(archive: AnalystArchive, ra_deg: float, dec_deg: float) -> list[dict[str, Any]]:
    """The catalogues' sources within a beam of a position, nearest first."""
    product = archive.store.current("source_catalog")
    return [] if product is None else oddity.within(product.path / "source_catalog.parquet", ra_deg, dec_deg, COUNTERPART_DEG)


def point(request: Request) -> Response:
    """The page of why one point of a light curve may be odd: the figures that shaped it, beside their usual values."""
    archive = render.archive_of(request)
    epoch = parameters.text(request, "epoch")
    curve = light_curve_json(archive, request.path_params["source"])
    chosen = [one for one in curve["points"] if one["epoch"] == epoch]
    if not chosen:
        raise NotFoundError(f"{curve['source_id']} has no point of epoch {epoch!r}; its page lists them")
    card = oddity.card(archive, curve, chosen[0], FLAGS)
    return render.page(
        "point.html", request, curve=curve, point=chosen[0], card=card, position=astrometry.sexagesimal(curve["ra_deg"], curve["dec_deg"])
    )


def chart(request: Request) -> Response:
    """A light curve to zoom, with all figures of the point under the cursor."""
    curve = _kept_curve(request)
    return charts.answer(light_curve(curve, charts.scheme_of(request)), request)


def light_curve(curve: TimeSeries, scheme: charts.Scheme) -> Any:
    """The plot: detections with errors, flagged ones drawn separately, limits as arrows, and the weighted mean of the clean detections."""
    from bokeh.models.annotations import Span, TeeHead, Whisker

    flux, error, limit = (curve[name].to_value("mJy") for name in ("flux", "error", "limit"))
    detected, flags = np.asarray(curve["detected"]), np.asarray(curve["flags"])
    columns = {
        "at": charts.milliseconds(curve.time.mjd),
        "flux": flux,
        "error": error,
        "low": flux - error,
        "high": flux + error,
        "limit": limit,
        "epoch": np.asarray(curve["epoch"], object),
        "link": np.array([quote(name) for name in curve["epoch"]], object),
        "product": np.asarray(curve["product_id"], object),
        "rms": curve["rms"].to_value("mJy"),
        "calibration": np.array(
            [
                _correction(*row)
                for row in zip(*(np.asarray(curve[n]) for n in ("correction", "correction_err", "n_references")), strict=True)
            ],
            object,
        ),
        "said": np.array([", ".join(FLAGS[name] for name in quality.decode(int(bits))) or "clean" for bits in flags], object),
    }
    plot = charts.figure(scheme, x="Time (UTC)", y="Flux density (mJy)", height=380)
    drawn = []
    for name, some, colour, mark in (
        ("detected", detected & (flags == 0), scheme.data, "circle"),
        ("detected, flagged", detected & (flags != 0), scheme.second, "diamond"),
        ("limit, 5 σ", ~detected & np.isfinite(limit), scheme.soft, "inverted_triangle"),
    ):
        if not some.any():
            continue
        points, is_limit = charts.source({key: values[some] for key, values in columns.items()}), mark == "inverted_triangle"
        drawn.append(
            plot.scatter(
                "at",
                "limit" if is_limit else "flux",
                source=points,
                marker=mark,
                size=9,
                color=colour,
                legend_label=f"{name} ({some.sum()})",
            )
        )
        if not is_limit:
            above, below = (TeeHead(size=6, line_color=colour) for _ in range(2))
            plot.add_layout(
                Whisker(source=points, base="at", upper="high", lower="low", line_color=colour, upper_head=above, lower_head=below)
            )  # fmt: skip
    clean = detected & (flags == 0) & (error > 0)
    if clean.sum() > 1:
        mean = float(np.average(flux[clean], weights=error[clean] ** -2))
        plot.add_layout(Span(location=mean, dimension="width", line_color=scheme.soft, line_dash="dashed"))
    if drawn:
        charts.hover(
            plot,
            drawn,
            [
                ("epoch", "@epoch"),
                ("flux density", "@flux{0.000} ± @error{0.000} mJy"),
                ("limit", "@limit{0.000} mJy"),
                ("local rms", "@rms{0.000} mJy/beam"),
                ("calibration", "@calibration"),
                ("flags", "@said"),
                ("from", "@product"),
            ],
        )
        charts.leads(plot, drawn, f"/sources/{quote(curve.meta['source_id'], safe='')}/point?epoch=@link")
        charts.legend(plot, scheme)
    return plot


def ensemble_chart(request: Request) -> Response:
    """A plot of the ensemble's correction at every epoch of a source."""
    curve, scheme = _kept_curve(request), charts.scheme_of(request)
    value, error = (np.asarray(curve[name], np.float64) for name in ("correction", "correction_err"))
    plot = charts.figure(scheme, x="Time (UTC)", y="Correction (factor)", height=220)
    points = charts.source(
        {
            "at": charts.milliseconds(curve.time.mjd),
            "value": value,
            "low": value - error,
            "high": value + error,
            "n": np.asarray(curve["n_references"]),
            "epoch": np.asarray(curve["epoch"], object),
        }
    )
    drawn = [plot.scatter("at", "value", source=points, size=7, color=scheme.data)]
    plot.segment("at", "low", "at", "high", source=points, color=scheme.data)
    charts.hover(plot, drawn, [("epoch", "@epoch"), ("correction", "@value{0.0000}"), ("reference sources", "@n")])
    return charts.answer(plot, request)


def spectrum_chart(request: Request) -> Response:
    """A source's flux density in every subband, measured on request, and the catalogue's power law for it."""
    from bokeh.models.annotations import TeeHead, Whisker

    archive, scheme = render.archive_of(request), charts.scheme_of(request)
    try:
        measured = spectra.spectrum(archive, request.path_params["source"], parameters.text(request, "epoch"))
    except NotFoundError as refused:
        return JSONResponse({"said": str(refused)})
    rows = measured["subbands"]
    mhz, flux, error = (
        np.array([row[name] for row in rows], float) * factor
        for name, factor in (("frequency_hz", 1e-6), ("flux_jy", 1e3), ("error_jy", 1e3))
    )
    plot = charts.figure(scheme, x="Frequency (MHz)", y="Flux density (mJy)", height=260, time=False)
    points = charts.source(
        {"mhz": mhz, "flux": flux, "error": error, "low": flux - error, "high": flux + error, "subband": [row["subband"] for row in rows]}
    )
    heads = [TeeHead(size=6, line_color=scheme.data) for _ in range(2)]
    plot.add_layout(
        Whisker(source=points, base="mhz", upper="high", lower="low", line_color=scheme.data, upper_head=heads[0], lower_head=heads[1])
    )
    drawn = plot.scatter(
        "mhz", "flux", source=points, size=8, color=scheme.data, legend_label=f"{measured['epoch']}, {measured['product_id']}"
    )
    along = np.linspace(mhz.min() - 6, mhz.max() + 6, 40)
    if measured["spectral_index"] is not None:
        law = 1e3 * measured["flux_jy"] * (along * 1e6 / measured["frequency_hz"]) ** measured["spectral_index"]
        label = f"index {measured['spectral_index']:.2f} ± {measured['spectral_index_err']:.2f}"
        plot.line(along, law, color=scheme.data, line_dash="dashed", legend_label=label)
    curve = curves.light_curve(archive, request.path_params["source"])
    near = _counterparts(archive, float(curve.meta["ra"].to_value("deg")), float(curve.meta["dec"].to_value("deg")))
    in_catalogue = next((row for row in near if row.get("frequency_hz") and row.get("flux_jy")), None)
    if in_catalogue is not None:
        index = in_catalogue.get("spectral_index")
        law = 1e3 * in_catalogue["flux_jy"] * (along * 1e6 / in_catalogue["frequency_hz"]) ** (0.0 if index is None else index)
        slope = "unknown" if index is None else f"{index:.2f}"
        label = f"{in_catalogue.get('catalogue') or 'catalogue'}, {in_catalogue['frequency_hz'] / 1e6:.0f} MHz, index {slope}"
        plot.line(along, law, color=scheme.second, legend_label=label)
    charts.hover(
        plot, [drawn], [("subband", "@subband"), ("frequency", "@mhz{0.0} MHz"), ("flux density", "@flux{0.000} ± @error{0.000} mJy")]
    )
    charts.legend(plot, scheme)
    return charts.answer(plot, request)


def _correction(value: float, error: float, references: int) -> str:
    return f"× {value:.4f} ± {error:.4f} of {references} references" if np.isfinite(value) else "not normalised"


def source_plot(request: Request) -> Response:
    """A light curve as SVG."""
    curve = _kept_curve(request)
    return Response(plots.light_curve_svg(curve), media_type="image/svg+xml")


def source_table(request: Request) -> Response:
    """A light curve as CSV."""
    curve = light_curve_json(render.archive_of(request), request.path_params["source"])
    points = kept_points(curve, parameters.texts(request, "without"))
    return render.csv_file([{"source_id": curve["source_id"], **point} for point in points], "light-curve.csv")


ROUTES = [
    Route("/sources", sources),
    Route("/sources/{source:path}/plot.svg", source_plot, name="source_plot"),
    Route("/sources/{source:path}/chart.json", chart, name="source_chart"),
    Route("/sources/{source:path}/ensemble.json", ensemble_chart, name="ensemble_chart"),
    Route("/sources/{source:path}/spectrum.json", spectrum_chart, name="spectrum_chart"),
    Route("/sources/{source:path}/table.csv", source_table, name="source_table"),
    Route("/sources/{source:path}/point", point, name="point"),
    Route("/sources/{source:path}", source, name="source"),
]
