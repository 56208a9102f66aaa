"""Light curves and metrics of 100,000 sources x 1,000 epochs from Parquet, beside DuckDB's own aggregates.

Ours: every metric, p-value and candidate of the variability asset, read in batches of whole sources, so that memory does not
grow with the history. DuckDB: eta and V by SQL, which is less: no largest pair, no leave-one-out deviation, no p-values.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import derived
from common import Contender, Data, Row, compare

SOURCES, EPOCHS = 100_000, 1000
VARIABLE = 1000
"""Every this-many-th source flares at its middle epoch."""


def rows(data: Data, repeats: int) -> list[Row]:
    full = str(derived.once(data.scratch / "light-curves-1000", make, sources=SOURCES, epochs=EPOCHS))
    short = str(derived.once(data.scratch / "light-curves-100", make, sources=SOURCES, epochs=EPOCHS // 10))
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
    ]


def make(sources: int, epochs: int, out: str) -> dict[str, Any]:
    """Sorted light curves in row groups of whole sources, as the light_curves asset writes them."""
    import numpy as np
    import pyarrow as pa
    import pyarrow.parquet as pq

    Path(out).mkdir(parents=True)
    rng = np.random.default_rng(1)
    chunk = 1000
    writer = None
    for first in range(0, sources, chunk):
        number = np.arange(first, first + chunk)
        level = 0.02 * rng.pareto(1.2, chunk) + 0.02
        error = np.repeat(np.hypot(0.003, 0.02 * level), epochs)
        flux = np.repeat(level, epochs) + error * rng.standard_normal(chunk * epochs)
        for k in np.flatnonzero(number % VARIABLE == 0):
            flux[k * epochs + epochs // 2] += max(level[k], 20 * error[k * epochs])
        names = pa.DictionaryArray.from_arrays(np.repeat(np.arange(chunk, dtype=np.int32), epochs), [f"NVSS_{n:06d}" for n in number])
        columns = {
            "source_id": names, "ra_deg": np.repeat((number * 0.0036) % 360, epochs), "dec_deg": np.full(chunk * epochs, 16.27),
            "mjd": np.tile(61000 + 0.99727 * np.arange(epochs), chunk), "flux_jy": flux, "flux_err_jy": error, "rms_jy": error,
            "detected": flux > 5 * error, "quality": np.zeros(chunk * epochs, np.int64), "catalogue_flux_jy": np.repeat(level, epochs),
        }  # fmt: skip
        table = pa.table(columns)
        writer = writer or pq.ParquetWriter(f"{out}/light_curves.parquet", table.schema)
        writer.write_table(table, row_group_size=chunk * epochs)
    if writer:
        writer.close()
    return {}


def search(folder: str) -> dict[str, Any]:
    from dsa110_assets.variability import candidates, curves
    from dsa110_assets.variability.options import VariabilityOptions

    found = candidates.search(curves.OnDisk(Path(folder) / "light_curves.parquet"), VariabilityOptions())
    planted = found["source_id"].str[5:].astype(int) % VARIABLE == 0
    called = found["kind"] != ""
    return {
        "planted": int(planted.sum()), "found": int((planted & called).sum()), "false": int((called & ~planted).sum()),
        "mean eta of the steady": float(found.loc[~planted, "eta"].mean()),
    }  # fmt: skip


def aggregates(folder: str) -> dict[str, Any]:
    import duckdb

    sql = f"""
        SELECT count(*) n, avg(eta) FROM (
            SELECT source_id, stddev_samp(flux_jy) / avg(flux_jy) v,
                (sum(flux_jy * flux_jy / flux_err_jy ** 2) - sum(flux_jy / flux_err_jy ** 2) ** 2 / sum(1 / flux_err_jy ** 2))
                    / (count(*) - 1) eta
            FROM read_parquet('{folder}/*.parquet') WHERE isfinite(flux_jy) AND flux_err_jy > 0 AND quality & 25 = 0
            GROUP BY source_id)
    """
    ((count, eta),) = duckdb.sql(sql).fetchall()
    return {"sources": float(count), "mean eta": float(eta)}
