"""Figures of an hour's measurements: comparison with the catalogue, with earlier hours, and with their tiles."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from dsa110_assets.imaging import reference
from dsa110_assets.photometry.quality import Quality

SAME_FREQUENCY = 0.002
"""Fluxes at frequencies that differ by less than this differ by 0.14 % for an index of -0.7, so an epoch's history is compared
without conversion."""
COMPARED_SNR = 20.0
"""Sources above this are compared with the catalogue: their own noise is below 5 %."""
EXPECTED_SNR = 10.0


def measurement_figures(rows: pd.DataFrame, false_detections: int) -> dict[str, Any]:
    """Return figures that compare the hour's measurements with the catalogue: flux ratio with its error, completeness, false
    detections.

    Sources are chosen by their expected catalogue flux, not by the flux that is to be compared. Rows of suspect tiles count
    too, because the hour is judged as a whole. NaN (omitted from the record) where nothing can be compared.
    """
    flux, catalogue = rows["flux_jy"].to_numpy(float), rows["catalogue_flux_jy"].to_numpy(float)
    rms, detected = rows["rms_jy"].to_numpy(float), rows["detected"].to_numpy(bool)
    clean = np.isfinite(flux) & np.isfinite(catalogue) & (_bits_but_tiles(rows) == 0)
    compared = clean & (catalogue > COMPARED_SNR * rms)
    expected = np.isfinite(catalogue) & np.isfinite(rms) & (catalogue > EXPECTED_SNR * rms)
    n_detected = int(detected.sum())
    return {
        "n_sources": len(rows),
        "n_detected": n_detected,
        "n_limits": int(len(rows) - n_detected),
        "n_new": int((rows["kind"] == "blind").sum()),
        "n_compared": int(compared.sum()),
        **_ratio("flux_ratio", flux[compared] / catalogue[compared], rows["flux_err_jy"].to_numpy(float)[compared] / catalogue[compared]),
        "n_expected": int(expected.sum()),
        "completeness": float(detected[expected].mean()) if expected.any() else float("nan"),
        "n_false_detections": false_detections,
        "false_detection_rate": false_detections / max(n_detected, 1),
        "median_rms_jy": float(np.nanmedian(rms)) if len(rows) else float("nan"),
    }


def _ratio(name: str, values: NDArray[np.float64], errors: NDArray[np.float64]) -> dict[str, float]:
    mean = reference.robust_mean(values, errors, reference.PRIOR_FLUX_SCATTER)
    return {name: mean.value, f"{name}_error": mean.error, f"{name}_scatter": mean.scatter}


def _bits_but_tiles(rows: pd.DataFrame) -> NDArray[np.int64]:
    """Return the rows' quality bits without that of suspect tiles."""
    return np.asarray(rows["quality"].to_numpy(np.int64) & ~int(Quality.TILE_SUSPECT))


def history_figures(rows: pd.DataFrame, earlier: Sequence[Path]) -> dict[str, Any]:
    """Return figures of the hour's fluxes over the median fluxes of the same sources in earlier hours: history_flux_ratio, its
    error and scatter, and history_count.

    Sources count if their earlier fluxes are above 20 sigma and at the same frequency, with no quality bit except those of
    tiles now, and none then.
    """
    columns = ["source_id", "flux_jy", "flux_err_jy", "frequency_hz"]
    clean = [("quality", "==", 0), ("source_id", "in", sorted(rows["source_id"]))]
    past = [pd.read_parquet(path, columns=columns, filters=clean) for path in earlier] if len(rows) else []
    if not past:
        return {"history_count": 0, **_ratio("history_flux_ratio", np.empty(0), np.empty(0))}
    at_hz = float(rows["frequency_hz"].iloc[0])
    history = pd.concat(past)
    history = history[(history["frequency_hz"] - at_hz).abs() <= SAME_FREQUENCY * at_hz].groupby("source_id")
    history = history.agg(flux=("flux_jy", "median"), error=("flux_err_jy", "median"), n=("flux_jy", "size"))
    history = history[history["flux"] > COMPARED_SNR * history["error"]]
    current = rows[np.isfinite(rows["flux_jy"]) & (_bits_but_tiles(rows) == 0)].set_index("source_id").join(history, how="inner")
    ratio = (current["flux_jy"] / current["flux"]).to_numpy(float)
    error = np.hypot(current["flux_err_jy"], 1.2533 * current["error"] / np.sqrt(current["n"])).to_numpy(float) / current["flux"].to_numpy(
        float
    )
    return {"history_count": len(current), **_ratio("history_flux_ratio", ratio, error)}


def suspect_figures(rows: pd.DataFrame, table: pd.DataFrame) -> dict[str, Any]:
    """Return how many tiles are suspect, which and why, and how many rows these and doubtful discoveries affect."""
    suspect = table[table["suspicion"] != ""]
    quality = rows["quality"].to_numpy("int64")
    return {
        "n_suspect_tiles": len(suspect),
        "suspect_tiles": [f"{tile.product_id}: {tile.suspicion}" for tile in suspect.itertuples()],
        "n_suspect_rows": int(((quality & int(Quality.TILE_SUSPECT)) != 0).sum()),
        "n_doubtful_new": int(((quality & int(Quality.DOUBTFUL_NEW)) != 0).sum()),
    }
