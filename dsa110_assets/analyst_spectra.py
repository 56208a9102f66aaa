"""The spectrum of `AnalystArchive.spectrum`: the calibrated set of a source at an epoch, and its flux density in every subband."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

import numpy as np

from dsa110_assets import analyst_tables as tables
from dsa110_assets.errors import NotFoundError
from dsa110_assets.telescope import timegrid

if TYPE_CHECKING:
    from astropy.table import QTable
    from astropy.timeseries import TimeSeries

    from dsa110_assets.archive.product import Product
    from dsa110_assets.archive.store import Archive

SET_FILE, MODEL_FILE = "calibrated.ms", "sky_model.parquet"
EPOCHS_LOOKED_AT = 400
"""The number of a source's last epochs that are searched for one whose data are kept."""


def set_of(store: Archive, curve: TimeSeries, epoch: str | None = None) -> tuple[str, Product]:
    """The last epoch whose calibrated set is kept, and that set, which observed the source nearest to its transit.

    With `epoch`, only that one is tried. Raises NotFoundError, which says why, if no set is kept.
    """
    name, epochs = curve.meta["source_id"], [str(value) for value in curve["epoch"]]
    if epoch is not None and epoch not in epochs:
        raise NotFoundError(f"{name} has no epoch {epoch!r}; its light curve lists them")
    order = np.argsort(curve.time.mjd)[::-1][:EPOCHS_LOOKED_AT] if epoch is None else [epochs.index(epoch)]
    for k in order:
        found = _nearest(store, str(curve["product_id"][k]), float(curve.time.mjd[k]))
        if found is not None:
            return epochs[k], found
    kept = f"of epoch {epoch}" if epoch else f"of the last {len(order)} epochs"
    raise NotFoundError(
        f"no calibrated set {kept} of {name} is kept: retention removed them; process an observation again, or pin one that is to stay"
    )


def _nearest(store: Archive, mosaic_id: str, transit_mjd: float) -> Product | None:
    """The calibrated set of the mosaic's tile that is nearest in time to a transit; None if its data are gone."""
    try:
        tiles = [store.get(name) for name in store.get(mosaic_id).inputs if name.startswith("tile_image")]
    except NotFoundError:
        return None
    at = timegrid.mjd_to_datetime(transit_mjd) - timedelta(seconds=timegrid.GROUP_S / 2)
    for tile in sorted(tiles, key=lambda candidate: abs(timegrid.parse_key(candidate.partition or "") - at))[:1]:
        for name in tile.inputs:
            if name.startswith("calibrated_ms"):
                found = store.get(name)
                return None if found.removed or not (found.path / SET_FILE).is_dir() else found
    return None


def spectrum(store: Archive, curve: TimeSeries, epoch: str | None = None) -> QTable:
    """A table with one row for each subband with data: see `AnalystArchive.spectrum`."""
    from astropy import units as u
    from astropy.table import QTable

    from dsa110_assets.photometry import subbands
    from dsa110_assets.sky import model

    at, product = set_of(store, curve, epoch)
    catalogue = store.current("sky_model")
    if catalogue is None:
        raise NotFoundError("there is no sky model, which has the other sources in the field: dsa110 process makes it")
    sky = model.read(catalogue.path / MODEL_FILE)
    source_id, ra_deg, dec_deg = tables.place(curve)
    found = subbands.measure(product.path / SET_FILE, ra_deg, dec_deg, sky)
    columns = {name: np.array([getattr(subband, name) for subband in found.subbands]) for name in subbands.Subband.__dataclass_fields__}
    table = QTable(
        {
            "subband": columns["subband"],
            "frequency": columns["frequency_hz"] * u.Hz, "low": columns["low_hz"] * u.Hz, "high": columns["high_hz"] * u.Hz,
            "flux": columns["flux_jy"] * u.Jy, "error": columns["flux_err_jy"] * u.Jy, "n_visibilities": columns["n_visibilities"],
        }
    )  # fmt: skip
    table.meta.update(
        source_id=source_id, epoch=at, product_id=product.id, ra=curve.meta["ra"], dec=curve.meta["dec"],
        response=found.response, index=found.index, index_err=found.index_err, level=found.flux_jy * u.Jy,
        level_err=found.flux_err_jy * u.Jy, pivot=found.frequency_hz * u.Hz,
    )  # fmt: skip
    return table
