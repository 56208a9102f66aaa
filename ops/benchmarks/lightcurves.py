"""Light curves and metrics of 100,000 sources x 1,000 nights, one Parquet file per night, compared with DuckDB's aggregates.

Our engine computes every metric, p-value and candidate of the variability asset, reading whole sources in parts, so that memory
does not grow with the history. DuckDB computes less: eta and V by SQL, without largest pair, leave-one-out deviation and p-values.
The light curve of one source, as an analyst requests it, is timed as well.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import derived
from common import Contender, Data, Row, compare

SOURCES, EPOCHS = 100_000, 1000
VARIABLE = 1000
"""One source in this many flares at its middle epoch."""


def rows(data: Data, repeats: int) -> list[Row]:
    full = str(derived.once(data.scratch / "nights-1000", make, sources=SOURCES, epochs=EPOCHS))
    short = str(derived.once(data.scratch / "nights-100", make, sources=SOURCES, epochs=EPOCHS // 10))
    stage = f"light curves and metrics, {SOURCES:,} sources x {EPOCHS:,} epochs"
    return [
        *compare(
            [
                Contender(
                    stage,
                    "dsa110_assets",
                    search,
                    {"folder": full},
                    "whole process: reading, metrics, p-values, candidates",
                    inputs=(full,),
                ),
                Contender(stage, "DuckDB aggregates", aggregates, {"folder": full}, "eta and V only", peer=True, inputs=(full,)),
            ],
            repeats,
        ),
        *compare([Contender("a tenth of those epochs", "dsa110_assets", search, {"folder": short}, "for its memory beside that of all")]),
        *compare(
            [Contender("light curve of one source", "dsa110_assets", one_source, {"folder": full}, "of those; whole process")], repeats
        ),
    ]


def make(sources: int, epochs: int, out: str) -> dict[str, Any]:
    """Write a folder for each epoch, as the light_curves asset writes it for a night."""
    import numpy as np
    import pandas as pd

    from dsa110_assets.photometry import nightrows
    from dsa110_assets.photometry.ensemble import LIGHT_CURVE_COLUMNS
    from dsa110_assets.photometry.options import EnsembleOptions
    from dsa110_assets.photometry.past import Past

    rng = np.random.default_rng(1)
    number = np.arange(sources)
    level = 0.02 * rng.pareto(1.2, sources) + 0.02
    error = np.hypot(0.003, 0.02 * level)
    hour = pd.Series([f"{h:02d}" for h in range(24)])[number * 24 // sources].to_numpy()
    fixed = {
        "source_id": [f"NVSS J{n:06d}+161612" for n in number], "ra_deg": (number * 0.0036) % 360, "dec_deg": 16.27,
        "catalogue_flux_jy": level, "rms_jy": error, "raw_flux_err_jy": error, "flux_err_jy": error, "absolute_err_jy": error,
        "correction": 1.0, "correction_err": 0.0, "n_references": 50, "quality": 0, "noise_scale": 1.0, "spectral_index": np.nan,
        "spectral_index_err": np.nan,
    }  # fmt: skip
    table = pd.DataFrame(fixed)
    unit = Past.nothing(EnsembleOptions(prior_fraction=0.0))
    for epoch in range(epochs):
        flux = level + error * rng.standard_normal(sources)
        if epoch == epochs // 2:
            flux += np.where(number % VARIABLE == 0, np.maximum(level, 20 * error), 0.0)
        day = f"{pd.Timestamp('2026-01-01') + pd.Timedelta(days=epoch):%Y-%m-%d}"
        keys = pd.Series(hour).radd(f"{day}T") + ":00"
        night = table.assign(
            epoch=keys, mosaic_id="hour_mosaic-" + keys.str.replace("[-:]", "", regex=True) + "-v1", mjd=61041 + epoch + number / sources,
            flux_jy=flux, raw_flux_jy=flux, detected=flux > 5 * error, limit_jy=np.where(flux > 5 * error, np.nan, 5 * error),
        )  # fmt: skip
        folder = Path(out) / f"{epoch:04d}"
        folder.mkdir(parents=True)
        nightrows.write(night[list(LIGHT_CURVE_COLUMNS)], folder)
        unit.write(folder)
    return {}


def search(folder: str) -> dict[str, Any]:
    from dsa110_assets.archive.light_curves import Nights
    from dsa110_assets.variability import candidates, curves
    from dsa110_assets.variability.options import VariabilityOptions

    found = candidates.search(curves.OnDisk(Nights.of(sorted(Path(folder).glob("[0-9]*")))), VariabilityOptions())
    planted = found["source_id"].str[6:12].astype(int) % VARIABLE == 0
    called = found["kind"] != ""
    return {
        "planted": int(planted.sum()), "found": int((planted & called).sum()), "false": int((called & ~planted).sum()),
        "mean eta of the steady": float(found.loc[~planted, "eta"].mean()),
    }  # fmt: skip


def one_source(folder: str) -> dict[str, Any]:
    import time

    from dsa110_assets.archive.light_curves import Nights

    nights = Nights.of(sorted(Path(folder).glob("[0-9]*")))
    began = time.perf_counter()
    curve = nights.of_sources(["NVSS J050000+161612"])
    return {"points": len(curve), "seconds without imports": time.perf_counter() - began, "mean": float(curve["flux_jy"].mean())}


def aggregates(folder: str) -> dict[str, Any]:
    import duckdb

    sql = f"""
        SELECT count(*) n, avg(eta) FROM (
            SELECT source_key, stddev_samp(flux_jy) / avg(flux_jy) v,
                (sum(flux_jy * flux_jy / flux_err_jy ** 2) - sum(flux_jy / flux_err_jy ** 2) ** 2 / sum(1 / flux_err_jy ** 2))
                    / (count(*) - 1) eta
            FROM read_parquet('{folder}/*/light_curves.parquet') WHERE isfinite(flux_jy) AND flux_err_jy > 0 AND quality & 25 = 0
            GROUP BY source_key)
    """
    ((count, eta),) = duckdb.sql(sql).fetchall()
    return {"sources": float(count), "mean eta": float(eta)}
