"""Sources, light curves and candidates: the night's Parquet products as astropy tables with units."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from dsa110_assets.errors import SilentWrongnessError

if TYPE_CHECKING:
    import pandas as pd
    from astropy.table import Table
    from astropy.timeseries import TimeSeries

    from dsa110_assets.archive.product import Product

ARCSEC_PER_DEG = 3600.0
UNITS = {"ra": "deg", "dec": "deg", "separation": "arcsec"}
JANSKY = ("flux", "error", "limit", "rms", "raw_flux", "raw_error", "absolute_error", "flux_rms", "mean_flux")


def files(product: Product) -> list[str]:
    """The Parquet files of a product. Raises SilentWrongnessError when there is none."""
    found = sorted(str(path) for path in Path(product.path).rglob("*.parquet"))
    if not found:
        raise SilentWrongnessError(f"{product.id} holds no Parquet file; run: dsa110 archive verify")
    return found


def query(product: Product, sql: str, *values: Any) -> pd.DataFrame:
    """The rows of `sql` over the product's table `rows`; `values` fill its question marks."""
    import duckdb

    with duckdb.connect(":memory:") as connection:
        connection.execute("SET threads = 2")
        connection.read_parquet(files(product)).create_view("rows")
        return connection.execute(sql, list(values)).df()


def source_ids(product: Product) -> list[str]:
    """Every source id of a light-curve product, sorted."""
    return [str(name) for name in query(product, "SELECT DISTINCT source_id FROM rows ORDER BY 1")["source_id"]]


def sources(
    product: Product,
    ra_deg: float | None = None,
    dec_deg: float | None = None,
    radius_deg: float | None = None,
) -> Table:
    """One row per source: position, epochs, mean flux and its scatter; a cone is sorted by distance."""
    frame = query(
        product,
        """
        SELECT source_id, arg_max(ra_deg, mjd) AS ra, arg_max(dec_deg, mjd) AS dec, count(*) AS n_epochs,
               count(*) FILTER (detected) AS n_detected, avg(flux_jy) AS flux,
               stddev_samp(flux_jy) AS flux_rms
        FROM rows GROUP BY source_id ORDER BY source_id
        """,
    )
    if ra_deg is not None and dec_deg is not None and radius_deg is not None:
        frame["separation"] = ARCSEC_PER_DEG * separation_deg(ra_deg, dec_deg, frame["ra"].to_numpy(), frame["dec"].to_numpy())
        frame = frame[frame["separation"] <= ARCSEC_PER_DEG * radius_deg].sort_values("separation")
    return with_units(frame, product)


def light_curve(product: Product, source_id: str) -> TimeSeries:
    """The light curve of one source, by time; columns as `AnalystArchive.light_curve` says."""
    from astropy import units as u
    from astropy.time import Time
    from astropy.timeseries import TimeSeries

    frame = query(product, "SELECT * FROM rows WHERE source_id = ? ORDER BY mjd", source_id)
    jansky = {
        "flux": "flux_jy", "error": "flux_err_jy", "limit": "limit_jy", "rms": "rms_jy",
        "raw_flux": "raw_flux_jy", "raw_error": "raw_flux_err_jy", "absolute_error": "absolute_err_jy",
    }  # fmt: skip
    series = TimeSeries(time=Time(frame["mjd"].to_numpy(), format="mjd", scale="utc"))
    for name, column in jansky.items():
        if column in frame:  # light curves of earlier code have no absolute errors
            series[name] = frame[column].to_numpy(dtype=np.float64) * u.Jy
    series["detected"] = frame["detected"].to_numpy(dtype=bool)
    series["flags"] = frame["quality"].to_numpy(dtype=np.int64)
    for name in ("correction", "correction_err", "spectral_index", "spectral_index_err"):
        if name in frame:  # those of earlier code have no indices
            series[name] = frame[name].to_numpy(dtype=np.float64)
    series["n_references"] = frame["n_references"].to_numpy(dtype=np.int64)
    for name, column in {"epoch": "epoch", "product_id": "mosaic_id"}.items():
        series[name] = frame[column].astype(str).to_numpy(dtype=np.str_)
    series.meta.update(
        source_id=source_id, product_id=product.id, frequency=float(product.metadata.get("frequency_hz", np.nan)) * u.Hz,
        ra=float(frame["ra_deg"].iloc[-1]) * u.deg, dec=float(frame["dec_deg"].iloc[-1]) * u.deg,
    )  # fmt: skip
    return series


def variables(product: Product, max_false_discovery_rate: float) -> Table:
    """Candidates with q at most this, by q, then by eta."""
    frame = query(
        product,
        "SELECT * FROM rows WHERE q_value <= ? ORDER BY q_value, eta DESC",
        max_false_discovery_rate,
    )
    return with_units(frame.rename(columns=_without_units(frame.columns)), product)


def with_units(frame: pd.DataFrame, product: Product) -> Table:
    """An astropy Table with units on its columns and the product's id in its `meta`."""
    from astropy.table import QTable

    units = {name: "Jy" if name in JANSKY else UNITS[name] for name in frame.columns if name in (*JANSKY, *UNITS)}
    table = QTable.from_pandas(frame, units=units)
    table.meta["product_id"] = product.id
    return table


def _without_units(columns: Any) -> dict[str, str]:
    """Column names without the unit that the Table's column itself carries."""
    return {name: name.removesuffix("_deg").removesuffix("_jy") for name in columns}


def separation_deg(ra_deg: float, dec_deg: float, ra: Any, dec: Any) -> Any:
    """Great-circle distance [deg] of positions [deg] from one (haversine: exact for small angles)."""
    a, d, a0, d0 = np.radians(ra), np.radians(dec), np.radians(ra_deg), np.radians(dec_deg)
    h = np.sin((d - d0) / 2) ** 2 + np.cos(d) * np.cos(d0) * np.sin((a - a0) / 2) ** 2
    return np.degrees(2 * np.arcsin(np.sqrt(np.clip(h, 0, 1))))
