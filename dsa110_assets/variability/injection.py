"""False-alarm rate and completeness of the search, measured with light curves injected into the real errors."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from dsa110_assets.photometry.association import NEW_PREFIX
from dsa110_assets.variability.candidates import find_variables
from dsa110_assets.variability.options import VariabilityOptions

FloatArray = NDArray[np.float64]
KINDS = ("flare", "ese")
TRIALS = 5


def _constant(light_curves: pd.DataFrame, rng: np.random.Generator) -> pd.DataFrame:
    """The same sources, epochs and errors with constant fluxes (each source's mean, not below 0) and Gaussian noise.

    New sources get a name like that of a catalogue source, because constancy is tested, not novelty.
    """
    out = light_curves[np.isfinite(light_curves["flux_jy"]) & (light_curves["flux_err_jy"] > 0)].copy()
    weight = 1 / out["flux_err_jy"] ** 2
    sums = (weight * out["flux_jy"]).groupby(out["source_id"]).transform("sum")
    mean = np.maximum(sums / weight.groupby(out["source_id"]).transform("sum"), 0.0)
    out["catalogue_flux_jy"] = mean
    out["flux_jy"] = mean + out["flux_err_jy"] * rng.standard_normal(len(out))
    out["source_id"] = out["source_id"].astype(str).str.replace(NEW_PREFIX, "INJECTED_J", regex=False)
    return out


def _inject(constant: pd.DataFrame, kind: str, amplitude: float, share: float, rng: np.random.Generator) -> tuple[pd.DataFrame, set[str]]:
    """Change one epoch of a random share of the sources with two or more epochs, by `amplitude` times the flux, up (flare) or down (ese).
    Return the light curves and the names of the changed sources."""
    count = constant.groupby("source_id")["mjd"].size()
    eligible = count.index[count >= 2].to_numpy(object)
    chosen = rng.choice(eligible, max(1, round(share * eligible.size)), replace=False) if eligible.size else eligible
    out = constant.reset_index(drop=True)
    flux = out["flux_jy"].to_numpy(np.float64).copy()
    sign = 1.0 if kind == "flare" else -1.0
    rows_of = out[out["source_id"].isin(chosen)].groupby("source_id").indices
    positions = np.flatnonzero(out["source_id"].isin(chosen).to_numpy())
    for name in sorted(rows_of):
        row = positions[rng.choice(rows_of[name])]
        flux[row] += sign * amplitude * out["catalogue_flux_jy"].to_numpy()[row]
    return out.assign(flux_jy=flux), set(rows_of)


def false_alarm_rate(light_curves: pd.DataFrame, options: VariabilityOptions, trials: int, seed: int) -> float:
    """The share of constant sources that become candidates, over `trials` noise realisations with the measured errors.

    NaN if no source has two epochs.
    """
    rng = np.random.default_rng(seed)
    n_found = n_tested = 0
    for _ in range(trials):
        table = find_variables(_constant(light_curves, rng), options)
        n_found += int((table["kind"] != "").sum())
        n_tested += int((table["n_epochs"] >= 2).sum())
    return n_found / n_tested if n_tested else float("nan")


def completeness(
    light_curves: pd.DataFrame,
    options: VariabilityOptions,
    kind: str,
    amplitude: float,
    trials: int,
    seed: int,
    min_snr: float = 0.0,
) -> float:
    """The share of injected one-epoch changes (`kind` 'flare' or 'ese', of `amplitude` x the flux) that are found as candidates.

    A tenth of the sources is changed per trial; only those whose mean flux is at least `min_snr` median errors count. NaN if none does.
    """
    rng = np.random.default_rng(seed)
    n_found = n_injected = 0
    for _ in range(trials):
        changed, names = _inject(_constant(light_curves, rng), kind, amplitude, 0.1, rng)
        grouped = changed.groupby("source_id")
        snr = grouped["catalogue_flux_jy"].first() / grouped["flux_err_jy"].median()
        counted = {name for name in names if snr[name] >= min_snr}
        table = find_variables(changed, options)
        n_found += len(counted & set(table.loc[table["kind"] != "", "source_id"]))
        n_injected += len(counted)
    return n_found / n_injected if n_injected else float("nan")


def injection_figures(
    light_curves: pd.DataFrame,
    options: VariabilityOptions,
    *,
    trials: int = TRIALS,
    seed: int = 0,
    amplitude: float = 0.5,
) -> dict[str, float]:
    """Figures for a night: false_alarm_rate, and completeness of flares and dips of `amplitude` in sources above 20 sigma."""
    figures = {
        "false_alarm_rate": false_alarm_rate(light_curves, options, trials, seed),
        "injected_amplitude": amplitude,
    }
    for kind in KINDS:
        figures[f"completeness_{kind}"] = completeness(light_curves, options, kind, amplitude, trials, seed, 20.0)
    return figures


def false_alarm_figures(rate: float, n_tested: int, max_false_discovery_rate: float, trials: int = TRIALS) -> dict[str, Any]:
    """The ratio of the measured false-alarm rate to the rate that the false-discovery rate allows.

    With no true variable, Benjamini-Hochberg limits the chance of any false candidate in a night to the false-discovery rate. Per source
    that is the false-discovery rate divided by the number of sources tested. One false alarm in all trials is always allowed, because
    otherwise no small sky could pass.
    """
    if not n_tested or rate != rate:
        return {"n_injected": 0, "false_alarm_ratio": float("nan")}
    allowed = max(max_false_discovery_rate / n_tested, 1 / (trials * n_tested))
    return {"n_injected": trials * n_tested, "false_alarm_ratio": rate / allowed}
