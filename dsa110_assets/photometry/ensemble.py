"""Light curves on one flux scale, a night at a time: an ensemble of steady sources corrects each epoch and calibrates the errors.

Epoch e's correction is C_e = median over references i of S_ie / b_i, where b_i is the reference's own baseline: the trimmed
mean of S/C over its first epochs, all of earlier nights, without epochs known to be noisy. A night therefore needs only a few
rows of each source from the past (`past`), and no later night changes its corrections. An epoch whose sources were never seen
before defines their scale: C = 1. F' = F / C and
  sigma'^2 = (k k_e sigma / C)^2 + (F' sigma_C)^2 + (f^2 + f_e^2) F'^2,   sigma_C = 1.25 scatter / sqrt(N)
(1.25 = sqrt(pi/2), the standard error of a median). The scatter is that of the references' own noise in this epoch: about a
baseline of m epochs it is sqrt(1 + 1/m) times larger. An epoch that defines the scale deviates from it by its references' mean
noise, as every other epoch does: its sigma_C follows from their errors. k and f are measured from the scatter of steady
sources, and k_e > 1 or f_e > 0 where an epoch scatters significantly more than that (`nighterrors`). This is the error about
the source's own light curve. The error about the true flux is absolute_err_jy: with k at least 1, and f from the scatter about
the catalogue (`errormodel.absolute_fraction`). A source that is itself a reference is corrected by the others only, so that it
cannot calibrate away its own variation.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.special import chdtrc

from dsa110_assets.photometry.errormodel import STEADY_P, group_starts, pulls
from dsa110_assets.photometry.nighterrors import NightErrors, measured_errors
from dsa110_assets.photometry.options import EnsembleOptions
from dsa110_assets.photometry.past import PAST_COLUMNS, UNFIT, Past, first_rows, kept_rows
from dsa110_assets.photometry.quality import Quality
from dsa110_assets.photometry.robust import MEDIAN_ERROR, baselines, clipped_median, epoch_corrections, left_out

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]
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
    "noise_scale",
)


@dataclass(frozen=True)
class Corrections:
    """Corrections per epoch and, for references, per (source, epoch) with the source itself left out.

    Both tables: correction, correction_err, n_references, indexed by epoch and by (source_id, epoch). `comparable`: the epochs
    with a source that an earlier night had.
    """

    epochs: pd.DataFrame
    references: pd.DataFrame
    comparable: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Night:
    """A night's light-curve rows (LIGHT_CURVE_COLUMNS), the past that the next night needs, and figures of both."""

    curves: pd.DataFrame
    past: Past
    figures: dict[str, Any]


def normalise(measured: pd.DataFrame, before: Past, options: EnsembleOptions) -> Night:
    """Return the light-curve rows of a night's measurements, sorted by source_id and mjd; `before` is the past as the previous
    night left it.

    `measured` has one row per source and transit, sorted in that order (`transits.one_per_transit`). Fluxes, errors and limits
    are corrected. NaN fluxes stay NaN. An epoch whose night has too few sources fit to be references keeps correction 1 and the
    UNNORMALISED bit. Rows of earlier nights do not change, only the model of their errors does (`nighterrors`).
    """
    corrections = fit_corrections(measured, before, options)
    curves = _corrected(measured, corrections)
    sample = pd.concat([before.rows, curves[list(PAST_COLUMNS)]], ignore_index=True) if len(before.rows) else curves[list(PAST_COLUMNS)]
    errors = measured_errors(sample, before.errors, UNFIT, options.prior_fraction)
    curves = errors.with_errors(curves).reset_index(drop=True)
    past = replace(before, rows=kept_rows(sample, errors, options), errors=errors)
    return Night(curves, past, {**_epoch_figures(curves, corrections), **_error_figures(errors, before.errors), **_scatter(sample, errors)})


def fit_corrections(measured: pd.DataFrame, before: Past, options: EnsembleOptions) -> Corrections:
    """Return the corrections of a night's epochs."""
    clean = _clean(measured, before, options)
    epochs = pd.DataFrame(
        {"correction": 1.0, "correction_err": 0.0, "n_references": 0},
        index=pd.Index(sorted(measured["epoch"].unique()), name="epoch"),
    )
    reference_corrections = epochs.iloc[:0].set_index(pd.MultiIndex.from_arrays([[], []], names=["source_id", "epoch"]))
    comparable = frozenset(clean.loc[clean["source_id"].isin(before.rows["source_id"]), "epoch"])
    bright = clean[clean["brightness"] >= options.lowest_snr]
    references = _brightest(bright[bright["baseline_jy"] > 0], options)
    if len(references):
        references = _steady(references, before, options)
        ratio, error = _ratios(references, options)
        epoch, names = pd.factorize(references["epoch"], sort=True)
        order, starts = _by_group(epoch.astype(np.int64))
        epochs = _filled(epochs, np.asarray(names, object), epoch_corrections(ratio, error, order, starts, options.clip_sigma), options)
        value, sigma, count = left_out(ratio, error, order, starts, options.clip_sigma)
        reference_corrections = pd.DataFrame(
            {"correction": value, "correction_err": sigma, "n_references": count},
            index=pd.MultiIndex.from_frame(references[["source_id", "epoch"]]),
        )
        reference_corrections = reference_corrections[count >= options.min_references - 1]
        epochs = _pooled(epochs, ratio, error, options)
    return Corrections(_defined(epochs, bright, options), reference_corrections, comparable)


def _clean(measured: pd.DataFrame, before: Past, options: EnsembleOptions) -> pd.DataFrame:
    """Return the night's rows fit to be compared, with their snr and, for the source, baseline_jy, baseline_epochs (NaN without a
    baseline) and brightness.

    The brightness is the median SNR of the baseline's rows and this one. Without this row, the brightest sources would be those
    whose noise was high before, and all others would seem to have risen.
    """
    flux, error = measured["flux_jy"].to_numpy(np.float64), measured["flux_err_jy"].to_numpy(np.float64)
    fit = ((measured["quality"].to_numpy(np.int64) & UNFIT) == 0) & (flux > 0) & (error > 0)
    rows = measured.loc[fit, ["source_id", "epoch", "mjd", "flux_jy", "flux_err_jy"]].assign(snr=flux[fit] / error[fit])
    earlier = before.rows[before.rows["source_id"].isin(rows["source_id"])]
    first = first_rows(earlier, options.baseline_epochs, before.errors)
    code, names = pd.factorize(first["source_id"])
    starts = group_starts(code.astype(np.int64))
    corrected = first["flux_jy"].to_numpy(np.float64)
    level = baselines(corrected, code.astype(np.int64), starts, np.ones(corrected.size), options.baseline_epochs)
    baseline_table = pd.DataFrame({"baseline_jy": level, "baseline_epochs": np.diff(starts)}, index=pd.Index(names), dtype=np.float64)
    earlier = first.assign(snr=first["flux_jy"] * first["correction"] / first["raw_flux_err_jy"])
    both = pd.concat([earlier[["source_id", "snr"]], rows[["source_id", "snr"]]], ignore_index=True) if len(earlier) else rows
    brightness = both.groupby("source_id", observed=True)["snr"].median().rename("brightness")
    return rows.join(baseline_table, on="source_id").join(brightness, on="source_id").reset_index(drop=True)


def _brightest(rows: pd.DataFrame, options: EnsembleOptions) -> pd.DataFrame:
    """Return each epoch's brightest sources, including fainter ones where there are few."""
    rows = rows.sort_values(["epoch", "brightness", "source_id"], ascending=[True, False, True], kind="stable")
    rank = rows.groupby("epoch", observed=True).cumcount()
    bright = (rows["brightness"] >= options.reference_snr) | (rank < 2 * options.min_references)
    return rows[bright & (rank < options.max_references)].reset_index(drop=True)


def _ratios(references: pd.DataFrame, options: EnsembleOptions) -> tuple[FloatArray, FloatArray]:
    """Return the references' fluxes over their baselines, corrected for the baselines' scatter, and the errors of the fluxes alone."""
    ratio = (references["flux_jy"] / references["baseline_jy"]).to_numpy(np.float64)
    epoch, _ = pd.factorize(references["epoch"])
    order, starts = _by_group(epoch.astype(np.int64))
    error = (references["flux_err_jy"] / references["baseline_jy"]).to_numpy(np.float64)
    middle = epoch_corrections(ratio, error, order, starts, options.clip_sigma)[0][epoch]
    number = references["baseline_epochs"].to_numpy(np.float64)
    return middle + (ratio - middle) * np.sqrt(number / (number + 1)), error


def _by_group(code: IntArray) -> tuple[IntArray, IntArray]:
    order = np.argsort(code, kind="stable")
    return order, group_starts(code[order])


def _steady(references: pd.DataFrame, before: Past, options: EnsembleOptions) -> pd.DataFrame:
    """Return the references without those that have varied, up to this night, more than errors and the prior fraction explain; all
    references if too few would remain."""
    ratio, error = _ratios(references, options)
    order, starts = _by_group(pd.factorize(references["epoch"])[0].astype(np.int64))
    value, _, _ = left_out(ratio, error, order, starts, options.clip_sigma)
    tonight = pd.DataFrame(
        {"source_id": references["source_id"], "flux_jy": references["flux_jy"] / value, "error": references["flux_err_jy"] / value}
    )
    earlier = before.rows[before.rows["source_id"].isin(references["source_id"])]
    earlier = earlier[(earlier["quality"].to_numpy(np.int64) & (UNFIT | int(Quality.UNNORMALISED))) == 0]
    earlier = earlier.assign(error=earlier["raw_flux_err_jy"] / earlier["correction"])
    rows = pd.concat([earlier[["source_id", "flux_jy", "error"]], tonight], ignore_index=True)
    source, names = pd.factorize(rows["source_id"])
    flux = rows["flux_jy"].to_numpy(np.float64)
    _, total, freedom = pulls(flux, np.hypot(rows["error"].to_numpy(np.float64), options.prior_fraction * flux), source.astype(np.int64))
    steady = names[chdtrc(np.maximum(freedom, 1), total) > STEADY_P]
    keep = references[references["source_id"].isin(steady)]
    return keep.reset_index(drop=True) if keep["source_id"].nunique() >= options.min_references else references


def _filled(
    epochs: pd.DataFrame, names: NDArray[np.object_], fitted: tuple[FloatArray, FloatArray, IntArray], options: EnsembleOptions
) -> pd.DataFrame:
    """Return the table with the corrections of epochs that have enough references."""
    value, sigma, count = fitted
    enough = count >= options.min_references
    out = epochs.copy()
    out.loc[names[enough], ["correction", "correction_err"]] = np.column_stack([value, sigma])[enough]
    out.loc[names[enough], "n_references"] = count[enough]
    return out


def _pooled(epochs: pd.DataFrame, ratio: FloatArray, error: FloatArray, options: EnsembleOptions) -> pd.DataFrame:
    """Give epochs with too few references the correction of their whole night, if that has enough."""
    value, sigma, count = clipped_median(ratio, error, options.clip_sigma)
    missing = epochs["n_references"] == 0
    if count < options.min_references:
        return epochs
    out = epochs.copy()
    out.loc[missing, ["correction", "correction_err"]] = value, sigma
    out.loc[missing, "n_references"] = count
    return out


def _defined(epochs: pd.DataFrame, bright: pd.DataFrame, options: EnsembleOptions) -> pd.DataFrame:
    """Let epochs that nothing earlier corrects define the scale of their sources, if these, or the night's, are enough for it."""
    out = epochs.copy()
    for epoch in out.index[out["n_references"] == 0]:
        for rows in (bright[bright["epoch"] == epoch], bright):
            chosen = _brightest(rows, options)
            if len(chosen) >= options.min_references:
                error = np.hypot(1 / chosen["snr"].to_numpy(np.float64), options.prior_fraction)
                out.loc[epoch, "correction_err"] = MEDIAN_ERROR * float(np.median(error)) / np.sqrt(len(chosen))
                out.loc[epoch, "n_references"] = len(chosen)
                break
    return out


def _corrected(rows: pd.DataFrame, corrections: Corrections) -> pd.DataFrame:
    """Return light-curve rows from measurement rows, without final errors."""
    table = corrections.epochs.reindex(rows["epoch"].to_numpy())
    if len(corrections.references):
        reference_corrections = corrections.references.reindex(pd.MultiIndex.from_frame(rows[["source_id", "epoch"]]))
        is_reference = reference_corrections["correction"].notna().to_numpy()
        table = table.reset_index(drop=True)
        table.loc[is_reference] = reference_corrections[is_reference].to_numpy()
    value, sigma = table["correction"].to_numpy(np.float64), table["correction_err"].to_numpy(np.float64)
    raw, raw_error = rows["flux_jy"].to_numpy(np.float64), rows["flux_err_jy"].to_numpy(np.float64)
    out = rows.reindex(columns=list(LIGHT_CURVE_COLUMNS)).assign(raw_flux_jy=raw, raw_flux_err_jy=raw_error, flux_jy=raw / value)
    count = np.nan_to_num(table["n_references"].to_numpy(np.float64)).astype(np.int64)
    out["limit_jy"], out["noise_scale"] = rows["limit_jy"].to_numpy(np.float64) / value, 1.0
    out["correction"], out["correction_err"], out["n_references"] = value, sigma, count
    out["quality"] = rows["quality"].to_numpy(np.int64) | np.where(count == 0, int(Quality.UNNORMALISED), 0)
    return out


def _epoch_figures(curves: pd.DataFrame, fitted: Corrections) -> dict[str, float]:
    """Return figures of the references by epoch and the size of the corrections.

    References are counted over the epochs that share a source with an earlier night (n_comparable_epochs): an epoch that shares
    none, as the first of a strip, defines the scale and has nothing to be normalised against.
    """
    corrections = curves.groupby("epoch", observed=True)["correction"].median()
    references = curves.groupby("epoch", observed=True)["n_references"].max()
    counted = references[references.index.isin(list(fitted.comparable))]
    return {
        "n_rows": float(len(curves)),
        "n_epochs": float(len(corrections)),
        "n_sources": float(curves["source_id"].nunique()),
        "n_comparable_epochs": float(len(counted)),
        "n_references_min": float(counted.min()) if len(counted) else 0.0,
        "n_references_median": float(counted.median()) if len(counted) else 0.0,
        "correction_max_percent": float(100 * (corrections - 1).abs().max()) if len(corrections) else np.nan,
        "n_unnormalised_epochs": float((references == 0).sum()),
    }


def _error_figures(errors: NightErrors, before: NightErrors) -> dict[str, Any]:
    """Return the model of errors, the epochs found this night to have additional errors, and the number of all such epochs."""
    known = set(before.noisy.index)
    return {
        "fractional_error": errors.model.fraction,
        "error_scale": errors.model.scale,
        "absolute_error": errors.absolute.fraction,
        "noisy_epochs": [line for line in errors.lines() if line.partition(": ")[0] not in known],
        "n_noisy_epochs": len(errors.noisy),
    }


def _scatter(rows: pd.DataFrame, errors: NightErrors) -> dict[str, float]:
    """Return figures of the residuals of steady sources, in this night and the past that is kept.

    residual_rms is sqrt(sum chi^2 / sum(N - 1)) over sources that do not vary (p > 0.001): 1 when errors are right; residual_sd
    is the robust scatter of all pulls. NaN without a source of two epochs.
    """
    usable = rows[np.isfinite(rows["flux_jy"].to_numpy(np.float64)) & ((rows["quality"].to_numpy(np.int64) & UNFIT) == 0)]
    source = pd.factorize(usable["source_id"])[0].astype(np.int64)
    flux, error = usable["flux_jy"].to_numpy(np.float64), errors.with_errors(usable)["flux_err_jy"].to_numpy(np.float64)
    pull, total, freedom = pulls(flux, error, source)
    steady = (freedom > 0) & (chdtrc(np.maximum(freedom, 1), total) > STEADY_P)
    finite = pull[np.isfinite(pull)]
    return {
        "n_steady": float(steady.sum()),
        "residual_rms": float(np.sqrt(total[steady].sum() / freedom[steady].sum())) if steady.any() else np.nan,
        "residual_sd": float(1.482602 * np.median(np.abs(finite))) if finite.size else np.nan,
    }
