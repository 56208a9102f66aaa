"""Sources, their light curves, and candidates."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

import numpy as np
from fastapi import APIRouter, Path, Query
from pydantic import BaseModel, Field

from dsa110_assets.analyst import cone
from dsa110_assets.analyst_times import moment
from dsa110_assets.errors import ConfigurationError, NotFoundError
from dsa110_assets.portal import candidates, curves, rows
from dsa110_assets.portal.v1 import paging, spectra
from dsa110_assets.portal.v1.context import Portal
from dsa110_assets.portal.v1.products import Since, Time, Until
from dsa110_assets.telescope import timegrid

if TYPE_CHECKING:
    from astropy.table import Table

router = APIRouter(tags=["sources"])
Angle = Annotated[str | None, Query(max_length=40, examples=["12.5", "12h30m49s"])]
Flux = Annotated[float | None, Query(ge=0, le=1e6, allow_inf_nan=False)]
Verdict = Literal["real", "artefact", "unsure", "unclassified"]
SourceId = Annotated[
    str, Path(max_length=200, description="a source's id; case, blanks and underscores matter only between ids that differ in nothing else")
]


class SourceRow(BaseModel):
    """A source with a light curve: its ICRS position, and the mean and scatter of its normalised fluxes."""

    source_id: str
    ra_deg: float | None
    dec_deg: float | None
    n_epochs: int
    n_detected: int
    flux_jy: float | None
    flux_rms_jy: float | None
    separation_arcsec: float | None = Field(default=None, description="from the cone's centre; null without a cone")


class Sources(paging.Page[SourceRow]):
    """A page of sources."""

    total: int = Field(description="number of sources on all pages")
    product_id: str | None = Field(description="the newest light curves among those read; null while there are none")
    left_out: list[str] = Field(description="nights whose light curves cannot be read")


class Point(BaseModel, extra="allow"):
    """One epoch of a light curve. A non-detection has `limit_jy`, its 5 sigma upper limit, and the forced flux in `flux_jy`."""

    mjd: float = Field(description="time of its transit, MJD UTC")
    epoch: str = Field(description="the window it was measured in")
    product_id: str = Field(description="the mosaic it was measured in")
    flux_jy: float | None = Field(description="normalised to the ensemble")
    error_jy: float | None = Field(description="about the source's own mean")
    absolute_error_jy: float | None = Field(description="about its true flux")
    limit_jy: float | None
    rms_jy: float | None
    raw_flux_jy: float | None
    raw_error_jy: float | None
    detected: bool
    flags: int
    correction: float | None = Field(description="what the raw flux was divided by")
    correction_err: float | None
    n_references: int


class LightCurve(BaseModel):
    """A source's light curve over all nights, or the requested ones."""

    source_id: str
    product_id: str = Field(description="the newest light curves, from which these errors come")
    left_out: list[str]
    ra_deg: float
    dec_deg: float
    without: list[str] = Field(description="epochs left out on request; that choice is not stored")
    points: list[Point]


class SubbandFlux(BaseModel):
    """One subband of a spectrum."""

    subband: int
    frequency_hz: float
    low_hz: float
    high_hz: float
    flux_jy: float | None
    error_jy: float | None = Field(description="from the scatter of the residuals; excludes the uncertainty of beam and flux scale")
    n_visibilities: int


class Spectrum(BaseModel):
    """A source's flux density in every subband of one observation, fitted to its visibilities; and the power law through them."""

    source_id: str
    epoch: str
    product_id: str = Field(description="the calibrated set")
    response: float = Field(description="the primary beam's power response at the source")
    spectral_index: float | None = Field(description="S ~ frequency^index; null where the subbands cannot determine it")
    spectral_index_err: float | None
    flux_jy: float | None = Field(description="at frequency_hz; on the set's own flux scale, not normalised to the ensemble")
    flux_err_jy: float | None
    frequency_hz: float | None
    subbands: list[SubbandFlux]


class Candidate(BaseModel, extra="allow"):
    """A source that varies: metrics over all its epochs, and the false-discovery rate at which it is a candidate."""

    source_id: str
    ra_deg: float
    dec_deg: float
    n_epochs: int
    mean_flux_jy: float | None
    kind: str
    q_value: float | None = Field(description="least false-discovery rate at which it is a candidate")
    eta: float | None = Field(description="reduced chi-squared about the weighted mean")
    v: float | None = Field(description="scatter over mean")
    verdict: Verdict = Field(description="the last judgement of it; unclassified: nobody judged it")


class Candidates(paging.Page[Candidate]):
    """A page of candidates."""

    product_id: str | None = Field(description="the night's product they were found in; null while there is none")


@router.get("/sources")
def list_sources(
    portal: Portal,
    ra: Angle = None,
    dec: Angle = None,
    radius: Angle = None,
    min_flux_jy: Flux = None,
    max_flux_jy: Flux = None,
    min_epochs: Annotated[int, Query(ge=0, le=10**9)] = 0,
    sort: Annotated[
        Literal["source_id", "flux_jy", "-flux_jy", "n_epochs", "-n_epochs", "separation_arcsec"],
        Query(description="order; with - the largest come first"),
    ] = "source_id",
    cursor: paging.Cursor = None,
    limit: paging.Limit = 100,
) -> Sources:
    """Sources by flux and epochs; if `ra` and `dec` (degrees or sexagesimal) are given, those within `radius` (default 0.05 deg)."""
    after = paging.decode(cursor, float, str)
    search_cone = cone(ra, dec, radius)
    if sort == "separation_arcsec" and search_cone is None:
        raise ConfigurationError("sort=separation_arcsec is for a cone: give ra, dec and radius")
    try:
        table = curves.sources(portal.archive, search_cone)
    except NotFoundError:
        return Sources(items=[], next=None, total=0, product_id=None, left_out=[])
    flux_jy = np.nan_to_num(table["flux"].to_value("Jy"))
    low, high = (-np.inf if min_flux_jy is None else min_flux_jy), (np.inf if max_flux_jy is None else max_flux_jy)
    table = table[(low <= flux_jy) & (flux_jy <= high) & (table["n_epochs"] >= min_epochs)]
    page, following = _page(table, sort, after, limit)
    items = [SourceRow.model_validate(one) for one in rows.table_rows(page)]
    return Sources(items=items, next=following, total=len(table), product_id=table.meta["product_id"], left_out=table.meta["left_out"])


def _page(table: Table, sort: str, after: paging.Key | None, limit: int) -> tuple[Table, str | None]:
    """As `paging.part`, for a table's rows: there are many, and only those of one page become objects."""
    names, column = np.asarray(table["source_id"], str), sort.removeprefix("-").removesuffix("_jy").removesuffix("_arcsec")
    values = np.zeros(len(table)) if column == "source_id" else np.nan_to_num(np.asarray(table[column], float))
    order = np.lexsort((names, values))
    if sort.startswith("-"):
        order = order[::-1]
    if after is not None:
        value, name = after
        beyond = np.less if sort.startswith("-") else np.greater
        order = order[(beyond(values, value) | ((values == value) & beyond(names, str(name))))[order]]
    last = order[limit - 1] if len(order) > limit else None
    return table[order[:limit]], None if last is None else paging.encode((float(values[last]), str(names[last])))


@router.get("/sources/{source_id:path}/spectrum")
def show_spectrum(
    source_id: SourceId,
    portal: Portal,
    epoch: Annotated[str | None, Query(max_length=40, description="of its light curve; default: the last whose data are kept")] = None,
) -> Spectrum:
    """One source's spectrum by subband, measured now in the calibrated visibilities: takes up to minutes, unless measured before."""
    return Spectrum.model_validate(spectra.spectrum(portal.archive, source_id, epoch))


@router.get("/sources/{source_id:path}")
def show_source(source_id: SourceId, portal: Portal) -> SourceRow:
    """One source."""
    exact = curves.light_curve(portal.archive, source_id).meta["source_id"]
    table = curves.sources(portal.archive)
    return SourceRow.model_validate(rows.table_rows(table[table["source_id"] == exact])[0])


@router.get("/light-curves/{source_id:path}")
def show_light_curve(
    source_id: SourceId,
    portal: Portal,
    since: Since = None,
    until: Until = None,
    without: Annotated[
        list[Annotated[str, Field(max_length=40)]] | None, Query(max_length=500, description="epochs to leave out; may be repeated")
    ] = None,
) -> LightCurve:
    """One source's light curve, by time; fluxes in Jy."""
    curve, left_out = rows.light_curve_json(portal.archive, source_id), without or []
    first = timegrid.datetime_to_mjd(moment(since)) if since else float("-inf")
    last = timegrid.datetime_to_mjd(moment(until)) + (1.0 if until and len(until) == 10 else 0.0) if until else float("inf")
    points = [point for point in rows.kept_points(curve, left_out) if first <= point["mjd"] <= last]
    return LightCurve.model_validate({**curve, "without": left_out, "points": points})


@router.get("/candidates")
def list_candidates(
    portal: Portal,
    max_false_discovery_rate: Annotated[float, Query(gt=0, le=1, description="at most this expected part of them is false")] = 0.01,
    night: Annotated[Time | None, Query(description="judged with data until this night; default: the last night")] = None,
    kind: Annotated[str | None, Query(max_length=40, description="only of this kind, such as flare")] = None,
    verdict: Annotated[Verdict | None, Query(description="only with this last judgement; unclassified: without any")] = None,
    cursor: paging.Cursor = None,
    limit: paging.Limit = 100,
) -> Candidates:
    """Variable and transient candidates with people's judgements of them, most significant first."""
    after = paging.decode(cursor, float, float, str)
    try:
        table = portal.archive.variables(max_false_discovery_rate, night)
    except NotFoundError:
        if night is not None:
            raise
        return Candidates(items=[], next=None, product_id=None)
    found = rows.table_rows(table)
    said = candidates.judged(portal.archive, found)
    judged_rows = [Candidate.model_validate({**one, "verdict": candidates.verdict(words)}) for one, words in zip(found, said, strict=True)]
    kept = [one for one in judged_rows if kind in (None, one.kind) and verdict in (None, one.verdict)]
    items, following = paging.part(kept, lambda one: (one.q_value or 0.0, -(one.eta or 0.0), one.source_id), after, limit)
    return Candidates(items=items, next=following, product_id=table.meta["product_id"])
