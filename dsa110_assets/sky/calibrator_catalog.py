"""The calibrators of an archive: the observers' own, the packaged list, and bright isolated sources of imported catalogues.

Strips and hours without a listed calibrator are calibrated on a catalogue source with a known flux near 20 cm.
"""

from __future__ import annotations

import csv
from collections.abc import Iterable, Sequence
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from dsa110_assets.errors import ConfigurationError
from dsa110_assets.sky import calibrators
from dsa110_assets.sky.calibrators import LIST_NAME, LIST_SPECTRAL_INDEX, OWN_NAME, Calibrator
from dsa110_assets.sky.repeats import chord, flux_1400_jy, unit_vectors

MIN_CATALOGUE_FLUX_JY = 2.0
"""Fainter catalogue sources make noisy tables, and more of them vary."""
MEASURED_BETWEEN_HZ = (1.05e9, 1.75e9)
"""A flux measured within a quarter of 1.4 GHz gives the flux at 1.4 GHz to 6 %, for spectral indices that scatter by 0.2.
A flux from further away (TGSS, VLASS) is an extrapolation and sets no flux scale."""
ISOLATION_RADIUS_ARCSEC, MAX_NEIGHBOUR_FLUX_SHARE = 180.0, 0.05
"""Within the telescope's beams of one to two arcmin no other flux may matter: a component of a double does not qualify."""
SAME_SOURCE_ARCSEC = 60.0


def of_sources(sources: pd.DataFrame) -> tuple[Calibrator, ...]:
    """Return the packaged list, then the calibrators among `sources` (columns of `catalogues.COLUMNS`).

    These have at least 2 Jy at 1.4 GHz, measured near that frequency, are isolated within 3 arcmin, and are not in the
    list with a flux. A source that the list marks as variable is marked here too. A source without a flux is never a calibrator.
    """
    listed = calibrators.load()
    flux = flux_1400_jy(sources)
    places = unit_vectors(sources)
    measured = sources["frequency_hz"].to_numpy(np.float64)
    near = (measured >= MEASURED_BETWEEN_HZ[0]) & (measured <= MEASURED_BETWEEN_HZ[1])
    bright = np.flatnonzero((flux >= MIN_CATALOGUE_FLUX_JY) & near & (sources["catalogue"] != LIST_NAME).to_numpy(bool))
    chosen = [int(i) for i in bright if _company(int(i), places, flux) <= MAX_NEIGHBOUR_FLUX_SHARE * flux[i]]
    if not chosen:
        return listed
    listed_places = pd.DataFrame({"ra_deg": [c.ra_deg for c in listed], "dec_deg": [c.dec_deg for c in listed]})
    distance, nearest = cKDTree(unit_vectors(listed_places)).query(places[chosen])
    same = distance < chord(SAME_SOURCE_ARCSEC)
    added = []
    for i, is_listed, listed_index in zip(chosen, same, nearest, strict=True):
        twin = listed[listed_index] if is_listed else None
        if twin is None or not (twin.standard or twin.flux_20cm_jy):
            added.append(_calibrator(sources.iloc[i], float(flux[i]), twin))
    return (*listed, *added)


def read_own(path: Path) -> tuple[Calibrator, ...]:
    """Read the observers' own calibrators from CSV: name, ra_deg, dec_deg (ICRS), flux_jy (at 1.4 GHz), and optionally spectral_index.

    Raises ConfigurationError, naming the line and column of the first error.
    """
    try:
        with path.open(newline="", encoding="utf-8") as handle:
            rows = list(csv.DictReader(handle))
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"DSA110_CALIBRATORS={path} cannot be read ({error}); name a CSV file") from None
    return tuple(_own(path, number, row) for number, row in enumerate(rows, 2))


_OWN_RANGES = {"ra_deg": (0.0, 360.0), "dec_deg": (-90.0, 90.0), "flux_jy": (1e-3, 1e5), "spectral_index": (-5.0, 5.0)}


def _own(path: Path, line: int, row: dict[str, str | None]) -> Calibrator:
    values = {}
    cells = {**row, "spectral_index": row.get("spectral_index") or str(LIST_SPECTRAL_INDEX)}
    for column, (least, most) in _OWN_RANGES.items():
        try:
            values[column] = float(cells.get(column) or "")
        except ValueError:
            values[column] = np.nan
        if not least <= values[column] <= most:
            raise ConfigurationError(
                f"DSA110_CALIBRATORS={path}, line {line}: {column} is {cells.get(column)!r}; write a number from {least:g} to {most:g}"
            )
    name = (row.get("name") or "").strip()
    if not name:
        raise ConfigurationError(
            f"DSA110_CALIBRATORS={path}, line {line}: there is no name; the columns are name, {', '.join(_OWN_RANGES)}"
        )
    return Calibrator(
        name=name, alias=None, ra_deg=values["ra_deg"] % 360, dec_deg=values["dec_deg"], flux_20cm_jy=values["flux_jy"],
        position_code="T", quality="X", standard=None, variable=False, catalogue=OWN_NAME, index=values["spectral_index"],
    )  # fmt: skip


def with_own(own: Sequence[Calibrator], known: Sequence[Calibrator]) -> tuple[Calibrator, ...]:
    """Return the own calibrators, and the known ones more than an arcmin from them: observers know the fluxes they list better."""
    if not own:
        return tuple(known)
    places = [
        unit_vectors(pd.DataFrame({"ra_deg": [c.ra_deg for c in group], "dec_deg": [c.dec_deg for c in group]})) for group in (own, known)
    ]
    distance, nearest = cKDTree(places[0]).query(places[1])
    same = distance < chord(SAME_SOURCE_ARCSEC)
    names = {
        int(own_index): calibrator.alias or calibrator.name
        for calibrator, is_same, own_index in zip(known, same, nearest, strict=True)
        if is_same
    }
    named = tuple(replace(calibrator, alias=names.get(k)) for k, calibrator in enumerate(own))
    return (*named, *(calibrator for calibrator, is_same in zip(known, same, strict=True) if not is_same))


def to_frame(known: Iterable[Calibrator]) -> pd.DataFrame:
    """Return the calibrators as a table, with the `anchor` each would give the flux scale (None without a flux)."""
    rows = [{**asdict(c), "anchor": c.anchor if c.standard or c.flux_20cm_jy else None} for c in known]
    return pd.DataFrame(rows)


def _company(index: int, places: NDArray[np.float64], flux: NDArray[np.float64]) -> float:
    """Return the total flux [Jy] of all other sources within 3 arcmin of source number `index`."""
    near = np.linalg.norm(places - places[index], axis=1) < chord(ISOLATION_RADIUS_ARCSEC)
    return float(flux[near].sum() - flux[index])


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
