"""The search for variable sources and their kinds: flares, dips like those of extreme scattering, transients, other variables.

A candidate must be improbable as a constant source (false-discovery rate over all sources, from p-values at each source's number
of epochs) and its fractional change must be large enough. Errors are total: they include each epoch's systematic part, so that a
bright source's percent-level error is no discovery. A change below `min_modulation` counts if it is beyond doubt, both in its own
errors and compared with the changes that other bright sources show.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from dsa110_assets.photometry.association import NEW_PREFIX
from dsa110_assets.photometry.errormodel import group_starts
from dsa110_assets.photometry.geometry import unit_vectors
from dsa110_assets.telescope import astrometry
from dsa110_assets.variability import significance
from dsa110_assets.variability.curves import Block, InMemory, LightCurves
from dsa110_assets.variability.discovery import unselected
from dsa110_assets.variability.metrics import ends, ragged_metrics
from dsa110_assets.variability.options import VariabilityOptions
from dsa110_assets.variability.unseen import Unseen, unseen_before

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]
_FEW = 5
"""With fewer epochs than this, the catalogue's flux contributes to the quiet level."""
_UNCOMMON = 3.0
"""A small change must be this many times the common change."""
VARIABLE_COLUMNS = (
    "source_id",
    "ra_deg",
    "dec_deg",
    "n_epochs",
    "mean_flux_jy",
    "eta",
    "v",
    "vs_max",
    "m_max",
    "p_eta",
    "p_pair",
    "q_value",
    "kind",
    "first_mjd",
    "last_mjd",
    "deviation",
    "deviation_mjd",
    "p_deviation",
    "deviation_fraction",
)


@dataclass(frozen=True)
class _Curves:
    """Usable points sorted by source and time, and where each source begins."""

    rows: pd.DataFrame
    flux: FloatArray
    error: FloatArray
    starts: IntArray


def _curves(light_curves: pd.DataFrame, options: VariabilityOptions) -> _Curves:
    flux, error = (light_curves[c].to_numpy(np.float64) for c in ("flux_jy", "flux_err_jy"))
    usable = np.isfinite(flux) & (error > 0)
    usable &= (light_curves["quality"].to_numpy(np.int64) & options.exclude_quality) == 0
    rows = light_curves[usable].sort_values(["source_id", "mjd"], kind="stable").reset_index(drop=True)
    source = pd.factorize(rows["source_id"])[0].astype(np.int64)
    return _Curves(rows, rows["flux_jy"].to_numpy(np.float64), rows["flux_err_jy"].to_numpy(np.float64), group_starts(source))


def _baseline(flux: FloatArray, error: FloatArray, catalogue_jy: float) -> tuple[float, float]:
    """Return the quiet level and its error: the median of the fluxes, in which the catalogue's flux counts twice below five epochs."""
    votes = np.r_[flux, catalogue_jy, catalogue_jy] if flux.size < _FEW and np.isfinite(catalogue_jy) else flux
    centre = float(np.median(votes))
    return centre, float(1.2533 * np.median(error) / np.sqrt(flux.size))


def _kind(flux: FloatArray, error: FloatArray, catalogue_jy: float, sigma: float) -> str:
    """Return 'flare' if the excursions from the baseline go up, 'ese' if down, 'variable' if both or neither.

    A direction wins if it has four times the chi^2 of the other and if its excursions comparable with the largest lie in
    at most half of the epochs: a source that is off its baseline more often than on it has no baseline.
    """
    if flux.size < 3 and not np.isfinite(catalogue_jy):
        return "variable"
    centre, centre_err = _baseline(flux, error, catalogue_jy)
    deviations = (flux - centre) / np.hypot(error, centre_err)
    up, down = deviations[deviations > sigma], deviations[deviations < -sigma]
    power_up, power_down = float(np.sum(up**2)), float(np.sum(down**2))
    if power_up > 4 * power_down and _n_main(up) <= max(flux.size / 2, 1):
        return "flare"
    most_epochs = flux.size if flux.size < _FEW and np.isfinite(catalogue_jy) else max(flux.size / 2, 1)
    if power_down > 4 * power_up and _n_main(down) <= most_epochs:
        return "ese"
    return "variable"


def _n_main(deviations: FloatArray) -> int:
    """The number of excursions comparable with the largest, which excludes the tail of a flare."""
    return int(np.count_nonzero(np.abs(deviations) > 0.25 * np.abs(deviations).max(initial=0)))


def _artefacts(table: pd.DataFrame, new: NDArray[np.bool_], options: VariabilityOptions) -> NDArray[np.bool_]:
    """Whether each source is new and so faint compared with a bright neighbour that the neighbour's sidelobes explain it."""
    ra, dec = (np.deg2rad(table[name].to_numpy(np.float64)) for name in ("ra_deg", "dec_deg"))
    peak = table["peak"].to_numpy(np.float64)
    doubtful = np.zeros(peak.size, dtype=bool)
    for k in np.flatnonzero(new):
        bright = np.flatnonzero(peak * options.artefact_fraction > peak[k])
        away = astrometry.separation_deg(ra[k], dec[k], ra[bright], dec[bright])
        doubtful[k] = bool(np.any(away <= options.artefact_radius_deg))
    return doubtful


def _unseen(table: pd.DataFrame, curves: LightCurves, new: NDArray[np.bool_], options: VariabilityOptions) -> Unseen:
    """The result of `unseen_before` for new sources, from their rows and those of their neighbours; NaN for all others."""
    out = Unseen(*(np.full(len(table), np.nan) for _ in range(3)))
    if not new.any():
        return out
    names = table["source_id"].to_numpy(object)
    places = unit_vectors(table["ra_deg"].to_numpy(np.float64), table["dec_deg"].to_numpy(np.float64))
    reach = 2 * np.sin(np.deg2rad(options.neighbour_deg) / 2) * (1 + 1e-9)
    around = {k for near in cKDTree(places).query_ball_point(places[new], reach) for k in near}
    nearby = _curves(curves.of(names[sorted(around)]), options)
    place = {name: k for k, name in enumerate(nearby.rows["source_id"].to_numpy(object)[nearby.starts[:-1]])}
    numbers = np.flatnonzero(new)
    positions = np.array([place[name] for name in names[numbers]])
    result = unseen_before(nearby.rows, nearby.starts, positions, options.neighbour_deg)
    for into, values in zip(out, result, strict=True):
        into[numbers] = values[positions]
    return out


def _are_new(names: NDArray[np.object_]) -> NDArray[np.bool_]:
    return np.array([str(name).startswith(NEW_PREFIX) for name in names], np.bool_)


def _table(block: Block, options: VariabilityOptions) -> pd.DataFrame:
    """Metrics and p-values of every source with a usable point; new sources are corrected for the selection at their discovery."""
    excluded = (block.columns["quality"].astype(np.int64) & options.exclude_quality) != 0
    flux = np.where(excluded, np.nan, block.columns["flux_jy"])
    flux = unselected(flux, block.columns["flux_err_jy"], block.starts, _are_new(block.names))
    metrics = ragged_metrics(flux, block.columns["flux_err_jy"], block.starts)
    first, last, peak = ends(flux, block.columns["flux_err_jy"], block.starts)
    mjd = block.columns["mjd"]
    where = np.maximum(metrics.deviation_row, 0)
    several = metrics.deviation_row >= 0
    out = pd.DataFrame(
        {
            "source_id": block.names,
            "ra_deg": block.columns["ra_deg"][first],
            "dec_deg": block.columns["dec_deg"][first],
            "n_epochs": metrics.n,
            "mean_flux_jy": metrics.weighted_mean,
            "eta": metrics.eta,
            "v": metrics.v,
            "vs_max": metrics.vs_max,
            "m_max": metrics.m_max,
            "first_mjd": mjd[first],
            "last_mjd": mjd[last],
            "deviation": metrics.deviation,
            "peak": peak,
        }
    )
    out["p_eta"] = significance.p_eta(metrics.eta, metrics.n)
    out["p_pair"] = significance.p_pair(metrics.vs_max, metrics.n)
    out["p_deviation"] = significance.p_deviation(metrics.deviation, metrics.n)
    out["deviation_mjd"] = np.where(several, mjd[where], np.nan)
    out["deviation_fraction"] = np.where(several, flux[where] / metrics.weighted_mean - 1, np.nan)
    out["p"] = significance.combine(out["p_eta"], out["p_pair"], out["p_deviation"])
    return out[metrics.n > 0]


def _large_enough(table: pd.DataFrame, options: VariabilityOptions, common: float = 0.0) -> pd.Series[bool]:
    """Whether each change is worth attention: it is large, or small but beyond doubt and `_UNCOMMON` times the common change."""
    small = max(options.small_modulation, _UNCOMMON * common)
    beyond_doubt = (table["p"] <= options.small_chance) & (table["m_max"] >= small)
    return (table["m_max"] >= options.min_modulation) | beyond_doubt


def _common_change(table: pd.DataFrame, options: VariabilityOptions) -> float:
    """The median |m| of sources bright enough to show a small change at 6 sigma; infinite if there are too few of them.

    If errors are underestimated without being noticed, all bright sources seem to change. |m| / Vs of a pair is its relative error.
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        bright = table["m_max"] / table["vs_max"] <= options.min_modulation / 6
    change = table.loc[bright & np.isfinite(table["m_max"]), "m_max"]
    return float(change.median()) if len(change) >= _FEW else np.inf


def find_variables(light_curves: pd.DataFrame, options: VariabilityOptions) -> pd.DataFrame:
    """`search` in one table with LIGHT_CURVE_COLUMNS, its rows in any order; catalogue_flux_jy may be missing."""
    return search(InMemory(light_curves), options)


def search(light_curves: LightCurves, options: VariabilityOptions) -> pd.DataFrame:
    """Return metrics, p-values and kind of every source with a usable flux: VARIABLE_COLUMNS, smallest q_value first.

    One batch of light curves is in memory at a time, and after that only the rows of new sources, of their neighbours and
    of candidates with few epochs. If epochs are few, catalogue_flux_jy, if present, contributes to the quiet level. NaN fluxes,
    and points with an excluded quality bit, are left out. `kind` is '' for a source that is not a candidate, else 'flare', 'ese',
    'transient' (a new source that was not there in an earlier epoch of the same place) or 'variable'.
    A new source that a bright neighbour's sidelobes explain is no candidate. In the metrics of a new source, the flux of its
    discovery is replaced by the value it would have without having been selected for its height (`discovery`).
    One-epoch sources have NaN metrics and no q_value, unless they are new and unseen before. mean_flux_jy is the weighted mean.
    """
    tables, kept = [], _Suspects({}, options)
    for block in light_curves.batches():
        table = _table(block, options)
        kept.add(block, table)
        tables += [table] if len(table) else []
    if not tables:
        return pd.DataFrame(columns=list(VARIABLE_COLUMNS))
    out = pd.concat(tables, ignore_index=True)
    new = _are_new(out["source_id"].to_numpy(object))
    unseen = _unseen(out, light_curves, new, options)
    out["p"] = np.where(np.isfinite(unseen.p), significance.combine(out["p"], unseen.p), out["p"])
    better = np.isfinite(unseen.p) & ~(out["p_pair"] <= unseen.p)
    for name, values in (("vs_max", unseen.vs), ("m_max", unseen.m), ("p_pair", unseen.p)):
        out[name] = np.where(better, values, out[name])
    out["q_value"] = significance.q_values(out["p"])
    probable = out["q_value"] <= options.max_false_discovery_rate
    chosen = (~_artefacts(out, new, options) & probable & _large_enough(out, options, _common_change(out, options))).to_numpy()
    appeared = dict(zip(out["source_id"][new], np.isfinite(unseen.p[new]), strict=True))
    names = out["source_id"][chosen].tolist()
    others = light_curves.of([name for name in names if name not in kept.kinds])
    kinds = {name: kept.kinds[name] for name in names if name in kept.kinds} | _kinds(_curves(others, options), appeared, options)
    out["kind"] = [kinds.get(name, "") for name in out["source_id"]]
    return out.sort_values(["q_value", "source_id"], kind="stable", na_position="last")[list(VARIABLE_COLUMNS)].reset_index(drop=True)


@dataclass(frozen=True)
class _Suspects:
    """The kinds of sources that may turn out to be candidates, determined while their rows are in memory, to avoid a second reading.

    A q-value is never below its p-value, so that the p-value selects them. With _FEW epochs or more the rows of a block suffice for
    `_kind`; new sources are left out, because their kind also depends on earlier epochs of the same place.
    """

    kinds: dict[str, str]
    options: VariabilityOptions

    def add(self, block: Block, table: pd.DataFrame) -> None:
        """Judge the sources of a block that are improbable and worth looking at, from its `_table`."""
        suspect = (table["p"] <= self.options.max_false_discovery_rate) & _large_enough(table, self.options)
        suspect &= table["n_epochs"] >= _FEW
        flux, error = block.columns["flux_jy"], block.columns["flux_err_jy"]
        for k in table.index[suspect]:  # numbers of the block's sources
            if str(block.names[k]).startswith(NEW_PREFIX):
                continue
            rows = slice(block.starts[k], block.starts[k + 1])
            excluded = (block.columns["quality"][rows].astype(np.int64) & self.options.exclude_quality) != 0
            usable = np.isfinite(flux[rows]) & (error[rows] > 0) & ~excluded
            self.kinds[block.names[k]] = _kind(flux[rows][usable], error[rows][usable], np.nan, self.options.baseline_sigma)


def _kinds(curves: _Curves, appeared: dict[str, bool], options: VariabilityOptions) -> dict[str, str]:
    """The kind of each of these candidates; `appeared` says for each new source whether an earlier epoch of its place did not show it."""
    catalogue = curves.rows.get("catalogue_flux_jy", pd.Series(np.nan, index=curves.rows.index)).to_numpy(np.float64)
    kinds = {}
    for low, high in pairwise(curves.starts):
        name, rows = str(curves.rows["source_id"].iloc[low]), slice(low, high)
        kinds[name] = _kind(curves.flux[rows], curves.error[rows], catalogue[low], options.baseline_sigma)
        if name in appeared and (appeared[name] or not bool(curves.rows["detected"].iloc[low])):
            kinds[name] = "transient"
    return kinds
