"""The calibrators an archive works with: the packaged list, and bright lone sources of imported catalogues.

Strips and hours without a listed calibrator are calibrated on a catalogue source whose flux near 20 cm is known.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from dsa110_assets.sky import calibrators
from dsa110_assets.sky.calibrators import LIST_NAME, Calibrator
from dsa110_assets.sky.repeats import chord, flux_1400_jy, unit_vectors

MIN_CATALOGUE_FLUX_JY = 2.0
"""Fainter catalogue sources make noisy tables, and more of them vary."""
MEASURED_BETWEEN_HZ = (1.05e9, 1.75e9)
"""A flux measured a quarter of 1.4 GHz away is known there to 6 % for spectral indices that scatter by 0.2; one
from further off (TGSS, VLASS) is an extrapolation, and sets no flux scale."""
LONELY_WITHIN_ARCSEC, MAX_COMPANY = 180.0, 0.05
"""Within the telescope's beams of one to two arcmin nothing else may count: a component of a double does not."""
SAME_SOURCE_ARCSEC = 60.0


def of_sources(sources: pd.DataFrame) -> tuple[Calibrator, ...]:
    """The packaged list, then the calibrators among `sources` (columns of `catalogues.COLUMNS`).

    Those have at least 2 Jy at 1.4 GHz, measured near it, are alone within 3 arcmin, and are not in the list with
    a flux. One that the list knows to vary is marked so. A source without a flux is never one.
    """
    listed = calibrators.load()
    flux = flux_1400_jy(sources)
    places = unit_vectors(sources)
    measured = sources["frequency_hz"].to_numpy(np.float64)
    near = (measured >= MEASURED_BETWEEN_HZ[0]) & (measured <= MEASURED_BETWEEN_HZ[1])
    bright = np.flatnonzero((flux >= MIN_CATALOGUE_FLUX_JY) & near & (sources["catalogue"] != LIST_NAME).to_numpy(bool))
    found = [int(i) for i in bright if _company(int(i), places, flux) <= MAX_COMPANY * flux[i]]
    if not found:
        return listed
    known = pd.DataFrame({"ra_deg": [c.ra_deg for c in listed], "dec_deg": [c.dec_deg for c in listed]})
    distance, nearest = cKDTree(unit_vectors(known)).query(places[found])
    same = distance < chord(SAME_SOURCE_ARCSEC)
    added = []
    for i, is_listed, which in zip(found, same, nearest, strict=True):
        twin = listed[which] if is_listed else None
        if twin is None or not (twin.standard or twin.flux_20cm_jy):
            added.append(_calibrator(sources.iloc[i], float(flux[i]), twin))
    return (*listed, *added)


def to_frame(known: Iterable[Calibrator]) -> pd.DataFrame:
    """Calibrators as a table, with the `anchor` each would give the flux scale (None without a flux)."""
    rows = [{**asdict(c), "anchor": c.anchor if c.standard or c.flux_20cm_jy else None} for c in known]
    return pd.DataFrame(rows)


def _company(one: int, places: NDArray[np.float64], flux: NDArray[np.float64]) -> float:
    """Flux [Jy] of everything else within 3 arcmin."""
    near = np.linalg.norm(places - places[one], axis=1) < chord(LONELY_WITHIN_ARCSEC)
    return float(flux[near].sum() - flux[one])


def _calibrator(row: pd.Series, flux_jy: float, twin: Calibrator | None) -> Calibrator:
    return Calibrator(
        name=str(row["name"]),
        alias=twin.name if twin else None,
        ra_deg=float(row["ra_deg"]),
        dec_deg=float(row["dec_deg"]),
        flux_20cm_jy=flux_jy,
        position_code=twin.position_code if twin else "T",
        quality=twin.quality if twin else "X",
        standard=None,
        variable=twin.variable if twin else False,
        catalogue=str(row["catalogue"]),
        index=float(row["spectral_index"]),
    )
