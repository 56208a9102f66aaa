"""A source's statistics in words: over all its epochs, from the last search for variables, or recomputed without some epochs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from dsa110_assets.errors import DsaError, NotFoundError
from dsa110_assets.portal import render
from dsa110_assets.portal.rows import table_rows
from dsa110_assets.variability.options import VariabilityOptions

if TYPE_CHECKING:
    from dsa110_assets.analyst import AnalystArchive

Words = tuple[str, str, str]
"""The name of a statistic, its figure, and what the figure means."""


def in_words(archive: AnalystArchive, curve: Mapping[str, Any], points: list[dict[str, Any]]) -> Iterator[Words]:
    """The statistics of a light curve (in the form of `rows.light_curve_json`), over those of its points that are not left out."""
    yield from _of_points(points)
    try:
        found = _search_row(archive, curve["source_id"])
        if found is not None and len(points) < len(curve["points"]):
            found = recomputed(archive, curve, points) | {"kind": found["kind"], "q_of_all": found["q_value"]}
    except DsaError as error:
        yield "Search for variables", "not known", str(error)
        return
    if found is not None:
        yield from _of_search(found)


def _of_points(points: list[dict[str, Any]]) -> Iterator[Words]:
    detected = [point for point in points if point["detected"] and point["flux_jy"] is not None]
    yield "Epochs", f"{len(points)}, detected in {len(detected)}", "how often it was measured, limits included"
    if detected:
        flux = np.array([point["flux_jy"] for point in detected])
        spread = f"{1e3 * flux.std(ddof=1):.3g} mJy" if flux.size > 1 else "–"
        yield "Mean flux density", f"{1e3 * flux.mean():.4g} mJy", f"of its detections; they scatter by {spread}"
    indices = [(p["spectral_index"], p["spectral_index_err"]) for p in points if p["spectral_index"] is not None]
    if indices:
        value, error = indices[-1]
        meaning = "across the sixteen subbands, S ∝ ν^index, at the last epoch that has one"
        yield "Spectral index", f"{value:.2f} ± {error or float('nan'):.2f}", meaning


def _of_search(found: Mapping[str, Any]) -> Iterator[Words]:
    eta, v, deviation = (found.get(name) for name in ("eta", "v", "deviation"))
    if eta is not None:
        meaning = (
            "as its errors predict"
            if eta < 1.5
            else "somewhat more than its errors predict"
            if eta < 3
            else "far more than its errors predict"
        )
        yield "η", f"{eta:.3g}", f"reduced χ² about its mean: it scatters {meaning} (1 is expected)"
    if v is not None:
        yield "V", f"{100 * v:.3g} %", "its scatter over its mean flux density"
    if deviation is not None:
        meaning = f"from the mean of all others, on {render.date(found.get('deviation_mjd'))}"
        yield "Largest deviation", f"{deviation:+.1f} σ", meaning
    kind = found.get("kind") or "no candidate"
    if found.get("q_value") is not None:
        yield "q", render.rate(found["q_value"]), f"expected share of false ones among candidates at least as good as this one; {kind}"
    elif found.get("q_of_all") is not None:
        meaning = f"q compares a source with all others; over all its epochs it is {render.rate(found['q_of_all'])}; {kind}"
        yield "q", "not known without these epochs", meaning


def recomputed(archive: AnalystArchive, curve: Mapping[str, Any], points: list[dict[str, Any]]) -> dict[str, Any]:
    """Return eta, v, deviation and deviation_mjd of these points of a light curve, defined as in the search; None with too few points."""
    from dsa110_assets.photometry.association import NEW_PREFIX
    from dsa110_assets.variability.discovery import unselected
    from dsa110_assets.variability.metrics import curve_metrics

    flux, error = (np.array([point[name] for point in points], dtype=np.float64) for name in ("flux_jy", "error_jy"))
    flags = np.array([point["flags"] for point in points], dtype=np.int64)
    flux[(flags & _excluded_bits(archive)) != 0] = np.nan
    # a new source's first point was selected for its height, which `unselected` corrects; without that point nothing is to correct
    is_new = str(curve["source_id"]).startswith(NEW_PREFIX) and points[:1] == curve["points"][:1]
    flux = unselected(flux, error, np.array([0, flux.size]), np.array([is_new]))
    found = curve_metrics(flux, error)
    where = int(found.deviation_row[0])
    statistics = {name: float(getattr(found, name)[0]) for name in ("eta", "v", "deviation")}
    statistics["deviation_mjd"] = float(points[where]["mjd"]) if where >= 0 else np.nan
    return {name: value if np.isfinite(value) else None for name, value in statistics.items()}


def _excluded_bits(archive: AnalystArchive) -> int:
    """The quality bits whose points the last search for variables left out."""
    settings = next((product.settings for product in archive.store.newest("variability")), {})
    return int(settings.get("variability", {}).get("exclude_quality", VariabilityOptions.exclude_quality))


def _search_row(archive: AnalystArchive, source_id: str) -> dict[str, Any] | None:
    """The row of a source in the last search for variables; None if it was not searched."""
    try:
        table = archive.variables(1.0)
    except NotFoundError:
        return None
    rows = table_rows(table[table["source_id"] == source_id])
    return rows[0] if rows else None
