"""Light curves made night by night in memory, as the light_curves asset makes them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pandas as pd

from dsa110_assets.photometry import nightrows
from dsa110_assets.photometry.ensemble import LIGHT_CURVE_COLUMNS, Night, normalise
from dsa110_assets.photometry.errormodel import ErrorModel
from dsa110_assets.photometry.nighterrors import NightErrors
from dsa110_assets.photometry.options import EnsembleOptions
from dsa110_assets.photometry.past import Past
from dsa110_assets.photometry.transits import one_per_transit


def each_night(rows: pd.DataFrame, options: EnsembleOptions | None = None) -> Iterator[Night]:
    """Every night's product of a table of measurements, each made from the one before."""
    options = options or EnsembleOptions()
    past = Past.nothing(options)
    for _, tonight in rows.groupby(rows["epoch"].str[:10]):
        night = normalise(one_per_transit(tonight), past, options)
        past = night.past
        yield night


def light_curves_of(rows: pd.DataFrame, options: EnsembleOptions | None = None) -> pd.DataFrame:
    """All nights' rows by source and time, with the errors of the last night's model; its figures are in `attrs`."""
    nights = list(each_night(rows, options))
    if not nights:
        return rows.iloc[:0]
    curves = pd.concat([night.curves for night in nights], ignore_index=True)
    curves = nights[-1].past.errors.with_errors(curves).sort_values(["source_id", "mjd"], kind="stable").reset_index(drop=True)
    curves.attrs = {**nights[-1].figures, "noisy_epochs": nights[-1].past.errors.lines()}
    return curves


def stored(curves: pd.DataFrame, folder: Path, noisy: pd.DataFrame | None = None) -> None:
    """Write a night's product to `folder`: rows, and a model that gives them the errors they have, except in `noisy` epochs.

    `curves` may lack LIGHT_CURVE_COLUMNS: text is then empty, corrections and scales 1, all other numbers NaN.
    """
    unit = Past.nothing(EnsembleOptions())
    errors = replace(unit.errors, model=ErrorModel(1.0, 0.0), absolute=ErrorModel(1.0, 0.0))
    defaults = {"raw_flux_jy": curves["flux_jy"], "correction": 1.0, "correction_err": 0.0, "noise_scale": 1.0, "epoch": ""}
    defaults |= {"mosaic_id": "", "n_references": 3, "quality": 0, "detected": True}
    rows = curves.assign(**{name: value for name, value in defaults.items() if name not in curves})
    rows = rows.assign(raw_flux_err_jy=rows["flux_err_jy"] * rows["correction"]).sort_values(["source_id", "mjd"])
    nightrows.write(rows.reindex(columns=list(LIGHT_CURVE_COLUMNS)), folder)
    replace(unit, errors=errors if noisy is None else NightErrors(errors.model, errors.absolute, noisy)).write(folder)
