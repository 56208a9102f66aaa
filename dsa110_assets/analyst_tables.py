"""Sources, light curves and candidates: the night's Parquet products as astropy tables with units."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from dsa110_assets.errors import SilentWrongnessError
from dsa110_assets.variability.options import VARIABILITY_FILE

if TYPE_CHECKING:
    import pandas as pd
    from astropy.table import Table
    from astropy.timeseries import TimeSeries

    from dsa110_assets.archive.light_curves import Nights
    from dsa110_assets.archive.product import Product

ARCSEC_PER_DEG = 3600.0
UNITS = {"ra": "deg", "dec": "deg"}
JANSKY = ("flux", "error", "limit", "rms", "raw_flux", "raw_error", "absolute_error", "flux_rms", "mean_flux")
_FLUXES = {
    "flux": "flux_jy", "error": "flux_err_jy", "limit": "limit_jy", "rms": "rms_jy",
    "raw_flux": "raw_flux_jy", "raw_error": "raw_flux_err_jy", "absolute_error": "absolute_err_jy",
}  # fmt: skip
_NUMBERS = ("correction", "correction_err", "spectral_index", "spectral_index_err")
_TEXTS = {"epoch": "epoch", "product_id": "mosaic_id"}
READ = (
    "source_id", "ra_deg", "dec_deg", "mjd", *_FLUXES.values(), "noise_scale", "detected", "quality", *_NUMBERS, "n_references",
    *_TEXTS.values(),
)  # fmt: skip
"""The columns of the nights' files from which `light_curve` and `points` are made."""


def sources(nights: Nights, product: Product) -> Table:
    """A table with one row per source: position, epochs, mean flux and its scatter. `product` is that of the last night."""
    frame = nights.by_source(
        """
        arg_max(ra_deg, mjd) AS ra, arg_max(dec_deg, mjd) AS dec, count(*) AS n_epochs, count(*) FILTER (detected) AS n_detected,
        avg(flux_jy) AS flux, stddev_samp(flux_jy) AS flux_rms
        """
    )
    table = with_units(frame, product)
    table.meta["left_out"] = _left_out(nights)
    return table


def within(table: Table, ra_deg: float, dec_deg: float, radius_deg: float) -> Table:
    """The rows of `sources` within a cone, nearest first, with their `separation` from its centre."""
    from astropy import units as u

    from dsa110_assets.telescope import astrometry

    ra, dec = (table[name].to_value("rad") for name in ("ra", "dec"))
    separation = ARCSEC_PER_DEG * astrometry.separation_deg(ra, dec, np.deg2rad(ra_deg), np.deg2rad(dec_deg))
    order = np.argsort(separation, kind="stable")
    order = order[separation[order] <= ARCSEC_PER_DEG * radius_deg]
    found = table[order]
    found["separation"] = separation[order] * u.arcsec
    return found


def _left_out(nights: Nights) -> list[str]:
    """The nights whose light curves are cut short or missing."""
    return [next(part for part in folder.parts if part.startswith("night=")).removeprefix("night=") for folder in nights.left_out]


def light_curve(rows: pd.DataFrame, nights: Nights, product: Product) -> TimeSeries:
    """The light curve of one source from its rows in order of time, with the columns of `AnalystArchive.light_curve`. `product` is that of
    the last night."""
    from astropy import units as u
    from astropy.time import Time
    from astropy.timeseries import TimeSeries

    series = TimeSeries(time=Time(rows["mjd"].to_numpy(), format="mjd", scale="utc"))
    for name, values in _columns(rows).items():
        series[name] = values
    frequency_hz = float(product.metadata.get("frequency_hz") or np.nan)
    series.meta.update(
        source_id=str(rows["source_id"].iloc[0]), product_id=product.id, frequency=frequency_hz * u.Hz,
        ra=float(rows["ra_deg"].iloc[-1]) * u.deg, dec=float(rows["dec_deg"].iloc[-1]) * u.deg, left_out=_left_out(nights),
    )  # fmt: skip
    return series


def place(curve: TimeSeries) -> tuple[str, float, float]:
    """The source id of a light curve, and its position (ICRS) [deg]."""
    return str(curve.meta["source_id"]), float(curve.meta["ra"].to_value("deg")), float(curve.meta["dec"].to_value("deg"))


def points(rows: pd.DataFrame, product: Product) -> Table:
    """The light curves of many sources as one table: source_id, ra, dec, mjd, and the columns of `light_curve`."""
    from astropy import units as u
    from astropy.table import QTable

    names = {"source_id": rows["source_id"].astype(str).to_numpy(dtype=np.str_)}
    positions = {name: rows[f"{name}_deg"].to_numpy(np.float64) * u.deg for name in ("ra", "dec")}
    return QTable({**names, **positions, "mjd": rows["mjd"].to_numpy(np.float64) * u.d, **_columns(rows)}, meta={"product_id": product.id})


def _columns(rows: pd.DataFrame) -> dict[str, Any]:
    """The columns of light curves except source, position and time, under the names that analysts use."""
    from astropy import units as u

    columns: dict[str, Any] = {name: rows[column].to_numpy(dtype=np.float64) * u.Jy for name, column in _FLUXES.items()}
    columns["detected"] = rows["detected"].to_numpy(dtype=bool)
    columns["flags"] = rows["quality"].to_numpy(dtype=np.int64)
    for name in _NUMBERS:
        columns[name] = rows[name].to_numpy(dtype=np.float64)
    columns["n_references"] = rows["n_references"].to_numpy(dtype=np.int64)
    for name, column in _TEXTS.items():
        columns[name] = rows[column].astype(str).to_numpy(dtype=np.str_)
    return columns


def variables(product: Product, max_false_discovery_rate: float) -> Table:
    """The candidates with a q value of at most `max_false_discovery_rate`, by ascending q, then by descending eta."""
    import pandas as pd

    path = Path(product.path) / VARIABILITY_FILE
    if not path.is_file():
        raise SilentWrongnessError(f"{product.id} has no {VARIABILITY_FILE}; run: dsa110 archive verify")
    try:
        frame = pd.read_parquet(path, filters=[("q_value", "<=", max_false_discovery_rate)])
    except (OSError, ValueError) as error:
        raise SilentWrongnessError(f"{product.id}: {VARIABILITY_FILE} cannot be read ({error}); run: dsa110 archive verify") from error
    frame = frame.sort_values(["q_value", "eta"], ascending=[True, False], kind="stable", ignore_index=True)
    return with_units(frame.rename(columns=_without_units(frame.columns)), product)


def with_units(frame: pd.DataFrame, product: Product) -> Table:
    """An astropy Table with units on its columns and the product's id in its `meta`."""
    from astropy.table import QTable

    units = {name: "Jy" if name in JANSKY else UNITS[name] for name in frame.columns if name in (*JANSKY, *UNITS)}
    table = QTable.from_pandas(frame, units=units)
    table.meta["product_id"] = product.id
    return table


def _without_units(columns: Any) -> dict[str, str]:
    """Map column names to names without the unit, which the Table's column itself carries."""
    return {name: name.removesuffix("_deg").removesuffix("_jy") for name in columns}
