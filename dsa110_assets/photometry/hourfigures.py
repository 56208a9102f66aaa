"""What an hour's measurements say about themselves: compared with the catalogue, with earlier hours, and with their tiles."""

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
"""Fluxes at frequencies that differ by less differ by 0.14 % for an index of -0.7: an epoch's history is compared as it is."""
COMPARED_SNR = 20.0
"""Sources above this are compared with the catalogue: their own noise is below 5 %."""
EXPECTED_SNR = 10.0


def measurement_figures(rows: pd.DataFrame, false_detections: int) -> dict[str, Any]:
    """How the hour's measurements compare with the catalogue: flux ratio with its error, completeness, false detections.

    Sources are chosen by what the catalogue expects of them, not by the flux that is to be compared. A suspect tile's rows
    count too: the hour is asked as a whole. NaN (left out of the record) where nothing can be compared.
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
    found = reference.robust_mean(values, errors, reference.PRIOR_FLUX_SCATTER)
    return {name: found.value, f"{name}_error": found.error, f"{name}_scatter": found.scatter}


def _bits_but_tiles(rows: pd.DataFrame) -> NDArray[np.int64]:
    """The rows' quality bits without that of suspect tiles."""
    return np.asarray(rows["quality"].to_numpy(np.int64) & ~int(Quality.TILE_SUSPECT))


def history_figures(rows: pd.DataFrame, earlier: Sequence[Path]) -> dict[str, Any]:
    """The hour's fluxes over those of the same sources in earlier hours, whose median counts: history_flux_ratio, its error
    and scatter, and history_count.

    Sources whose earlier fluxes are above 20 sigma, at the same frequency, with no quality bit but those of tiles now, and none
    then.
    """
    columns = ["source_id", "flux_jy", "flux_err_jy", "frequency_hz"]
    clean = [("quality", "==", 0), ("source_id", "in", sorted(rows["source_id"]))]
    past = [pd.read_parquet(path, columns=columns, filters=clean) for path in earlier] if len(rows) else []
    if not past:
        return {"history_count": 0, **_ratio("history_flux_ratio", np.empty(0), np.empty(0))}
    at_hz = float(rows["frequency_hz"].iloc[0])
    then = pd.concat(past)
    then = then[(then["frequency_hz"] - at_hz).abs() <= SAME_FREQUENCY * at_hz].groupby("source_id")
    then = then.agg(flux=("flux_jy", "median"), error=("flux_err_jy", "median"), n=("flux_jy", "size"))
    then = then[then["flux"] > COMPARED_SNR * then["error"]]
    now = rows[np.isfinite(rows["flux_jy"]) & (_bits_but_tiles(rows) == 0)].set_index("source_id").join(then, how="inner")
    ratio = (now["flux_jy"] / now["flux"]).to_numpy(float)
    error = np.hypot(now["flux_err_jy"], 1.2533 * now["error"] / np.sqrt(now["n"])).to_numpy(float) / now["flux"].to_numpy(float)
    return {"history_count": len(now), **_ratio("history_flux_ratio", ratio, error)}


def suspect_figures(rows: pd.DataFrame, table: pd.DataFrame) -> dict[str, Any]:
    """How many tiles are suspect, which and why, and how many rows that and doubtful discoveries touch."""
    suspect = table[table["suspicion"] != ""]
    quality = rows["quality"].to_numpy("int64")
    return {
        "n_suspect_tiles": len(suspect),
        "suspect_tiles": [f"{one.product_id}: {one.suspicion}" for one in suspect.itertuples()],
        "n_suspect_rows": int(((quality & int(Quality.TILE_SUSPECT)) != 0).sum()),
        "n_doubtful_new": int(((quality & int(Quality.DOUBTFUL_NEW)) != 0).sum()),
    }
