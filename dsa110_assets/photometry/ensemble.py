"""Light curves on one flux scale: an ensemble of steady sources corrects each epoch, and calibrates the
errors.

Epoch e's correction is C_e = median over references i of S_ie / b_i, b_i being the reference's own
baseline
(trimmed mean of S/C over its first epochs, so that later epochs do not change earlier corrections). F' = F / C
and
  sigma'^2 = (k k_e sigma / C)^2 + (F' sigma_C)^2 + (f^2 + f_e^2) F'^2,   sigma_C = 1.25 scatter / sqrt(N)
(1.25 = sqrt(pi/2), the standard error of a median), with k and f measured from the scatter of steady
sources, and k_e > 1 or f_e > 0 where an epoch scatters significantly more than that (`epocherrors`).
That is the error about the source's own light curve. About the true flux it is absolute_err_jy: k at least 1, and f that
of the scatter about the catalogue (`errormodel.absolute_fraction`).
A source that is itself a reference is corrected by the others only: it must not calibrate its own
variation away.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components
from scipy.special import chdtrc

from dsa110_assets.photometry.epocherrors import epoch_errors, typical_model
from dsa110_assets.photometry.errormodel import STEADY_P, ErrorModel, absolute_fraction, calibrate_errors, group_starts, pulls, sample_of
from dsa110_assets.photometry.options import EnsembleOptions
from dsa110_assets.photometry.quality import Quality
from dsa110_assets.photometry.robust import baselines, epoch_corrections, left_out
from dsa110_assets.photometry.sample import SAMPLE_ROWS, SourceSample

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]
_REFERENCE_COLUMNS = ("source_id", "epoch", "mjd", "flux_jy", "flux_err_jy")
_ERROR_COLUMNS = ("source_id", "epoch", "flux_jy", "flux_err_jy", "limit_jy", "quality", "catalogue_flux_jy")
_UNFIT = int(
    Quality.EDGE | Quality.BLENDED | Quality.EXTENDED | Quality.NAN | Quality.CONFUSED | Quality.TILE_SUSPECT | Quality.DOUBTFUL_NEW
)
LIGHT_CURVE_COLUMNS = (
    "source_id",
    "ra_deg",
    "dec_deg",
    "epoch",
    "mjd",
    "flux_jy",
    "flux_err_jy",
    "absolute_err_jy",
    "raw_flux_jy",
    "raw_flux_err_jy",
    "rms_jy",
    "limit_jy",
    "detected",
    "correction",
    "correction_err",
    "n_references",
    "quality",
    "mosaic_id",
    "catalogue_flux_jy",
    "spectral_index",
    "spectral_index_err",
)


@dataclass(frozen=True)
class Corrections:
    """Per epoch and, for references, per (source, epoch) with the source itself left out; and the error
    model.

    Both tables: correction, correction_err, n_references, indexed by epoch and by (source_id, epoch). `noisy`: scale and
    fraction of the epochs with errors of their own, by epoch. `absolute`: the model of errors about the true flux.
    """

    epochs: pd.DataFrame
    references: pd.DataFrame
    errors: ErrorModel
    noisy: pd.DataFrame
    absolute: ErrorModel


class _References:
    """The rows fit to serve as references, of light curves that come a few sources at a time."""

    def __init__(self, options: EnsembleOptions) -> None:
        self._options = options
        self._best: list[pd.DataFrame] = []

    def add(self, rows: pd.DataFrame) -> None:
        """Keep the brightest rows of each epoch that are clean, of sources bright enough and seen twice or more."""
        flux, error = rows["flux_jy"].to_numpy(np.float64), rows["flux_err_jy"].to_numpy(np.float64)
        with np.errstate(divide="ignore", invalid="ignore"):
            snr = flux / error
        clean = ((rows["quality"].to_numpy(np.int64) & _UNFIT) == 0) & np.isfinite(snr) & (flux > 0)
        good = rows.loc[clean, list(_REFERENCE_COLUMNS)].assign(snr=snr[clean])
        grouped = good.groupby("source_id", observed=True)["snr"]
        good = good.assign(brightness=grouped.transform("median"), seen=grouped.transform("size"))
        good = good[(good["seen"] >= 2) & (good["brightness"] >= self._options.lowest_snr)]
        self._best = [self._ranked(pd.concat([*self._best, good], ignore_index=True))]

    def _ranked(self, rows: pd.DataFrame) -> pd.DataFrame:
        rows = rows.sort_values(["epoch", "brightness", "source_id"], ascending=[True, False, True], kind="stable")
        rank = rows.groupby("epoch", observed=True).cumcount()
        return rows.assign(rank=rank)[rank < self._options.max_references]

    def rows(self) -> pd.DataFrame:
        """Those of the brightest sources, fainter ones where there are few, by source and time."""
        (best,) = self._best
        bright = best["brightness"] >= self._options.reference_snr
        chosen = best[bright | (best["rank"] < 2 * self._options.min_references)]
        again = chosen.groupby("source_id", observed=True)["snr"].transform("size") >= 2
        return chosen[again].sort_values(["source_id", "mjd"], kind="stable").reset_index(drop=True)


@dataclass(frozen=True)
class _Fit:
    """References' ratios to their baselines, and how rows fall into epochs."""

    ratio: FloatArray
    error: FloatArray
    order: IntArray
    starts: IntArray
    epochs: NDArray[np.object_]


def _fit(rows: pd.DataFrame, options: EnsembleOptions) -> _Fit:
    """Alternate between baselines and corrections until neither moves; rows sorted by source and time.

    Baselines and corrections are known to a common factor, which skewed ratios would move a little each time: of all epochs
    that share sources the corrections' geometric mean over baselines' rows stays 1. Fluxes keep the scale they came with.
    """
    flux, sigma = rows["flux_jy"].to_numpy(np.float64), rows["flux_err_jy"].to_numpy(np.float64)
    source = pd.factorize(rows["source_id"])[0].astype(np.int64)
    epoch, epochs = pd.factorize(rows["epoch"], sort=True)
    own, (order, starts) = group_starts(source), _by_group(epoch)
    connected = _connected(source, epoch)
    counted = np.arange(source.size) - own[source] < options.baseline_epochs
    correction = np.ones(flux.size)
    for _ in range(20):
        baseline = baselines(flux, source, own, correction, options.baseline_epochs)[source]
        value, _, _ = epoch_corrections(flux / baseline, sigma / baseline, order, starts, options.clip_sigma)
        sums = np.bincount(connected, counted * np.log(value[epoch]))
        level = np.exp(sums / np.bincount(connected, counted))[connected]
        baseline *= level
        moved = np.max(np.abs(value[epoch] / level / correction - 1))
        correction = value[epoch] / level
        if moved < 1e-6:
            break
    epochs_of = np.bincount(source)[source]
    shrink = np.sqrt(epochs_of / (epochs_of - 1.0))
    centre = correction + (flux / baseline - correction) * shrink
    return _Fit(centre, sigma / baseline, order, starts, np.asarray(epochs, object))


def _connected(source: IntArray, epoch: IntArray) -> IntArray:
    """For each row the number of the set of sources and epochs it belongs to: those linked by rows, directly or not."""
    nodes = int(source.max()) + int(epoch.max()) + 2
    graph = coo_matrix((np.ones(source.size), (source, source.max() + 1 + epoch)), shape=(nodes, nodes))
    return np.asarray(connected_components(graph, directed=False)[1], np.int64)[source]


def _by_group(code: IntArray) -> tuple[IntArray, IntArray]:
    order = np.argsort(code, kind="stable")
    return order, group_starts(code[order])


def _steady(rows: pd.DataFrame, options: EnsembleOptions) -> pd.DataFrame:
    """References without those that vary more than errors and the prior fraction explain; never too few to go
    on.
    """
    fit = _fit(rows, options)
    value, _, _ = left_out(fit.ratio, fit.error, fit.order, fit.starts, options.clip_sigma)
    flux = rows["flux_jy"].to_numpy(np.float64) / value
    error = np.hypot(rows["flux_err_jy"].to_numpy(np.float64) / value, options.prior_fraction * flux)
    source = pd.factorize(rows["source_id"])[0].astype(np.int64)
    _, total, freedom = pulls(flux, error, source)
    p = chdtrc(freedom, total)
    keep = rows[p[source] > STEADY_P]
    return keep.reset_index(drop=True) if keep["source_id"].nunique() >= options.min_references else rows


def fit_corrections(parts: Iterable[pd.DataFrame], options: EnsembleOptions, sample_rows: int = SAMPLE_ROWS) -> Corrections:
    """Corrections of every epoch, and their error model, from light curves (one row per source and transit).

    Each part holds whole sources; what is kept of it are the brightest rows of each epoch, and a sample for the error
    model: all rows up to `sample_rows`.
    """
    chosen, sample, seen = _References(options), SourceSample(sample_rows), set[str]()
    for rows in parts:
        chosen.add(rows)
        sample.add(rows[list(_ERROR_COLUMNS)])
        seen.update(rows["epoch"].unique())
    references = chosen.rows()
    epochs = pd.DataFrame(
        {"correction": 1.0, "correction_err": 0.0, "n_references": 0},
        index=pd.Index(sorted(seen), name="epoch"),
    )
    own = epochs.iloc[:0].set_index(pd.MultiIndex.from_arrays([[], []], names=["source_id", "epoch"]))
    if len(references):
        references = _steady(references, options)
        fit = _fit(references, options)
        epochs = _epoch_table(epochs, fit, references, options)
        value, sigma, count = left_out(fit.ratio, fit.error, fit.order, fit.starts, options.clip_sigma)
        own = pd.DataFrame(
            {"correction": value, "correction_err": sigma, "n_references": count},
            index=pd.MultiIndex.from_frame(references[["source_id", "epoch"]]),
        )
        own = own[count >= options.min_references - 1]
    unit = Corrections(epochs, own, ErrorModel(1.0, 0.0), _none_noisy(), ErrorModel(1.0, 0.0))
    return Corrections(epochs, own, *_error_model(_corrected(sample.rows(), unit), options))


def _none_noisy() -> pd.DataFrame:
    return pd.DataFrame({"scale": [], "fraction": []}, index=pd.Index([], name="epoch"), dtype=np.float64)


def _error_model(rows: pd.DataFrame, options: EnsembleOptions) -> tuple[ErrorModel, pd.DataFrame, ErrorModel]:
    """The model of all epochs but those that scatter more, and what those do, asked twice, for they are in the first model;
    and the model of errors about the true flux.
    """
    sample = sample_of(rows, _UNFIT)
    code, names = pd.factorize(rows["epoch"].to_numpy()[sample.row], sort=True)
    model = calibrate_errors(sample, options.prior_fraction)
    scale, fraction = epoch_errors(sample, code.astype(np.int64), typical_model(sample, code.astype(np.int64), model))
    noisy = (scale > 1) | (fraction > 0)
    if noisy.any() and not noisy.all():
        model = calibrate_errors(sample.repeated(~noisy[code]), options.prior_fraction)
        scale, fraction = epoch_errors(sample, code.astype(np.int64), model)
        noisy = (scale > 1) | (fraction > 0)
    table = pd.DataFrame({"scale": scale, "fraction": fraction}, index=pd.Index(names, name="epoch"), dtype=np.float64)
    quiet = rows[~rows["epoch"].isin(table.index[noisy])]
    once = sample_of(quiet, _UNFIT, least=1)
    catalogue = quiet["catalogue_flux_jy"].to_numpy(np.float64)[once.row]
    about_truth = absolute_fraction(once, catalogue, model.scale, options.prior_fraction)
    return model, table[noisy], ErrorModel(max(model.scale, 1.0), about_truth)


def _epoch_table(epochs: pd.DataFrame, fit: _Fit, references: pd.DataFrame, options: EnsembleOptions) -> pd.DataFrame:
    """Corrections by epoch; epochs with too few references take those of their whole night, if that has
    enough.
    """
    value, sigma, count = epoch_corrections(fit.ratio, fit.error, fit.order, fit.starts, options.clip_sigma)
    enough = count >= options.min_references
    out = epochs.copy()
    out.loc[fit.epochs[enough], ["correction", "correction_err"]] = np.column_stack([value, sigma])[enough]
    out.loc[fit.epochs[enough], "n_references"] = count[enough]
    night, nights = pd.factorize(references["epoch"].str[:10], sort=True)
    order, starts = _by_group(night.astype(np.int64))
    nightly = dict(
        zip(
            nights,
            zip(*epoch_corrections(fit.ratio, fit.error, order, starts, options.clip_sigma), strict=True),
            strict=True,
        )
    )
    for epoch in out.index[out["n_references"] == 0]:
        pooled = nightly.get(str(epoch)[:10])
        if pooled is not None and pooled[2] >= options.min_references:
            out.loc[epoch, ["correction", "correction_err"]] = pooled[:2]
            out.loc[epoch, "n_references"] = pooled[2]
    return out


def _corrected(rows: pd.DataFrame, corrections: Corrections) -> pd.DataFrame:
    """Light-curve rows from measurement rows; see `apply_corrections`."""
    table = corrections.epochs.reindex(rows["epoch"].to_numpy())
    if len(corrections.references):
        own = corrections.references.reindex(pd.MultiIndex.from_frame(rows[["source_id", "epoch"]]))
        is_own = own["correction"].notna().to_numpy()
        table = table.reset_index(drop=True)
        table.loc[is_own] = own[is_own].to_numpy()
    value, sigma = table["correction"].to_numpy(np.float64), table["correction_err"].to_numpy(np.float64)
    raw, raw_error = rows["flux_jy"].to_numpy(np.float64), rows["flux_err_jy"].to_numpy(np.float64)
    flux = raw / value
    out = rows.reindex(columns=list(LIGHT_CURVE_COLUMNS)).assign(raw_flux_jy=raw, raw_flux_err_jy=raw_error, flux_jy=flux)
    count = np.nan_to_num(table["n_references"].to_numpy(np.float64)).astype(np.int64)
    noisy = corrections.noisy.reindex(rows["epoch"].to_numpy())
    noise, fraction = noisy["scale"].fillna(1.0).to_numpy(), noisy["fraction"].fillna(0.0).to_numpy()
    for name, model in (("flux_err_jy", corrections.errors), ("absolute_err_jy", corrections.absolute)):
        out[name] = model.apply(flux, noise * raw_error / value, np.hypot(sigma / value, fraction))
    out["limit_jy"] = rows["limit_jy"].to_numpy(np.float64) / value * corrections.errors.scale * noise
    out["correction"], out["correction_err"], out["n_references"] = value, sigma, count
    out["quality"] = rows["quality"].to_numpy(np.int64) | np.where(count == 0, int(Quality.UNNORMALISED), 0)
    return out


def apply_corrections(rows: pd.DataFrame, corrections: Corrections) -> pd.DataFrame:
    """LIGHT_CURVE_COLUMNS of measurement rows (one per source and transit; any subset of sources: memory is
    bounded). `attrs` of the result: error_scale (k), fractional_error (f), absolute_error (f about the true flux) and
    noisy_epochs, a line for each with errors of its own.
    """
    out = _corrected(rows, corrections).reset_index(drop=True)
    noisy = [f"{e.Index}: noise x {e.scale:.2f}, fluxes to {100 * e.fraction:.1f} %" for e in corrections.noisy.itertuples()]
    out.attrs = {
        "error_scale": corrections.errors.scale, "fractional_error": corrections.errors.fraction, "noisy_epochs": noisy,
        "absolute_error": corrections.absolute.fraction,
    }  # fmt: skip
    return out


def normalise(
    parts: Callable[[], Iterable[pd.DataFrame]], options: EnsembleOptions, sample_rows: int = SAMPLE_ROWS
) -> Iterator[pd.DataFrame]:
    """Light curves of all sources over all epochs, part by part: LIGHT_CURVE_COLUMNS, each as `apply_corrections` has it.

    `parts()` are measurements as `History.parts` gives them: whole sources, sorted by source_id and mjd, one row per source
    and transit; they are gone through twice. Fluxes, errors and limits are corrected. NaN fluxes stay NaN. An epoch whose
    night has too few references keeps correction 1 and the UNNORMALISED bit.
    """
    corrections = fit_corrections(parts(), options, sample_rows)
    for rows in parts():
        yield apply_corrections(rows, corrections)


def ensemble_figures(parts: Iterable[pd.DataFrame], sample_rows: int = SAMPLE_ROWS) -> dict[str, Any]:
    """What to report of light curves: references per epoch, size of the corrections, residuals of steady sources.

    References are counted over the epochs that share a source with another epoch (n_comparable_epochs): one that
    shares none, as the first of a strip, defines the scale and has nothing to be normalised against.
    residual_rms is sqrt(sum chi^2 / sum(N - 1)) over sources that do not vary (p > 0.001): 1 when errors are
    right; residual_sd is the robust scatter of the pulls of a sample: all rows up to `sample_rows`. NaN without a
    source of two epochs. Each part holds whole sources.
    """
    epochs, scatter, model = _Epochs(), _Scatter(sample_rows), dict[Any, Any]()
    for rows in parts:
        usable = rows[np.isfinite(rows["flux_jy"].to_numpy(np.float64)) & ((rows["quality"].to_numpy(np.int64) & _UNFIT) == 0)]
        epochs.add(rows, usable)
        scatter.add(usable)
        model = rows.attrs
    return {
        **epochs.figures(),
        "fractional_error": float(model.get("fractional_error", np.nan)),
        "error_scale": float(model.get("error_scale", np.nan)),
        "absolute_error": float(model.get("absolute_error", np.nan)),
        "noisy_epochs": list(model.get("noisy_epochs", ())),
        **scatter.figures(),
    }


class _Epochs:
    """Corrections and references by epoch."""

    def __init__(self) -> None:
        self._corrections: pd.Series[Any] = pd.Series(dtype=np.int64)
        self._references: pd.Series[Any] = pd.Series(dtype=np.int64)
        self._comparable: set[str] = set()
        self._rows = self._sources = 0

    def add(self, rows: pd.DataFrame, usable: pd.DataFrame) -> None:
        self._rows += len(rows)
        self._sources += rows["source_id"].nunique()
        shared = usable.groupby("source_id", observed=True)["epoch"].transform("nunique") > 1
        self._comparable.update(usable.loc[shared, "epoch"].unique())
        count = rows.groupby(["epoch", "correction"], observed=True).size()
        references = rows.groupby("epoch", observed=True)["n_references"].max()
        if self._rows > len(rows):
            count = pd.concat([self._corrections, count]).groupby(level=[0, 1]).sum()
            references = pd.concat([self._references, references]).groupby(level=0).max()
        self._corrections, self._references = count, references

    def figures(self) -> dict[str, float]:
        corrections = self._corrections.groupby(level=0).apply(_median_counted)
        counted = self._references[self._references.index.isin(list(self._comparable))]
        return {
            "n_rows": float(self._rows),
            "n_epochs": float(len(corrections)),
            "n_sources": float(self._sources),
            "n_comparable_epochs": float(len(counted)),
            "n_references_min": float(counted.min()) if len(counted) else 0.0,
            "n_references_median": float(counted.median()) if len(counted) else 0.0,
            "correction_max_percent": float(100 * (corrections - 1).abs().max()) if len(corrections) else np.nan,
            "n_unnormalised_epochs": float((self._references == 0).sum()),
        }


def _median_counted(count: pd.Series[Any]) -> float:
    """Median of the values that are the last level of the index, each as often as counted."""
    values, upto = count.index.get_level_values(-1).to_numpy(np.float64), count.to_numpy().cumsum()
    middle = np.searchsorted(upto, [(upto[-1] - 1) // 2, upto[-1] // 2], side="right")
    return float(values[middle].mean())


class _Scatter:
    """Pulls, and chi^2 by source."""

    def __init__(self, sample_rows: int) -> None:
        self._pulls = SourceSample(sample_rows)
        self._totals: list[tuple[FloatArray, IntArray]] = []

    def add(self, usable: pd.DataFrame) -> None:
        source = pd.factorize(usable["source_id"])[0].astype(np.int64)
        flux, error = (usable[name].to_numpy(np.float64) for name in ("flux_jy", "flux_err_jy"))
        pull, total, freedom = pulls(flux, error, source)
        many = freedom[source] > 0
        self._pulls.add(usable.loc[many, ["source_id"]].assign(pull=pull[many]))
        self._totals.append((total, freedom))

    def figures(self) -> dict[str, float]:
        total, freedom = (np.concatenate(parts) for parts in zip(*self._totals, strict=True))
        steady = (freedom > 0) & (chdtrc(np.maximum(freedom, 1), total) > STEADY_P)
        seen = self._pulls.rows()["pull"].to_numpy(np.float64)
        return {
            "n_steady": float(steady.sum()),
            "residual_rms": float(np.sqrt(total[steady].sum() / freedom[steady].sum())) if steady.any() else np.nan,
            "residual_sd": float(1.482602 * np.median(np.abs(seen))) if seen.size else np.nan,
        }
