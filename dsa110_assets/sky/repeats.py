"""One source that is listed more than once: within a catalogue, and by catalogues of different resolution."""

from __future__ import annotations

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from dsa110_assets.sky import surveys
from dsa110_assets.sky.calibrators import LIST_FREQUENCY_HZ

FINEST_BEAM_ARCSEC = 2.5
"""No survey of the sky resolves less: two rows of a catalogue that are nearer are one source, listed twice."""
RESOLVED_BEAMS = 0.2
"""Nor does a survey separate sources a fifth of its own beam apart."""
SEPARATED_BEAMS = 0.8
"""Nearer than this to a brighter one, a source is not seen by itself."""
UNKNOWN_BEAM_ARCSEC = 45.0
"""The coarsest beam of surveys at 1.4 GHz, for catalogues whose beam is not known."""
FLUX_WITHIN = 2.0
"""The parts of a blended source have its flux to within this factor: sizes, spectra and epochs differ."""

Mask = NDArray[np.bool_]
Float = NDArray[np.float64]


def unit_vectors(frame: pd.DataFrame) -> Float:
    """Positions (ra_deg, dec_deg) as unit vectors (n, 3)."""
    ra, dec = (
        np.deg2rad(frame["ra_deg"].to_numpy(np.float64)),
        np.deg2rad(frame["dec_deg"].to_numpy(np.float64)),
    )
    return np.stack([np.cos(dec) * np.cos(ra), np.cos(dec) * np.sin(ra), np.sin(dec)], axis=-1)


def flux_1400_jy(frame: pd.DataFrame) -> Float:
    """Fluxes brought to 1.4 GHz [Jy], 0 where unknown."""
    ratio = LIST_FREQUENCY_HZ / frame["frequency_hz"].to_numpy(np.float64)
    flux = frame["flux_jy"].to_numpy(np.float64) * ratio ** frame["spectral_index"].to_numpy(np.float64)
    return np.where(np.isfinite(flux), flux, 0.0)


def once(frame: pd.DataFrame) -> Mask:
    """Which rows of one catalogue to keep, so that each source is there once: the first of those with a flux.

    `frame` has the columns of `catalogues.COLUMNS`; rows nearer to each other than any survey resolves are one source.
    """
    survey = surveys.named(str(frame["catalogue"].iloc[0])) if len(frame) else None
    radius = max(FINEST_BEAM_ARCSEC, RESOLVED_BEAMS * survey.beam_arcsec if survey else 0.0)
    pairs = cKDTree(unit_vectors(frame)).query_pairs(chord(radius), output_type="ndarray") if len(frame) else np.zeros((0, 2), int)
    keep = np.ones(len(frame), dtype=bool)
    if not len(pairs):
        return keep
    unknown = ~np.isfinite(frame["flux_jy"].to_numpy(np.float64))
    # better rows first, so that a row goes only for one that stays
    better = np.lexsort((np.arange(len(frame)), unknown))
    place = np.empty(len(frame), dtype=int)
    place[better] = np.arange(len(frame))
    ordered = np.sort(place[pairs], axis=1)
    for first, second in ordered[np.lexsort((ordered[:, 1], ordered[:, 0]))]:
        if keep[better[first]]:
            keep[better[second]] = False
    return keep


def fresh(part: pd.DataFrame, known: pd.DataFrame, radius_arcsec: float) -> Mask:
    """Which sources of `part` are not yet in `known`: no source lies within the radius, and they are not blended.

    A source that a coarser catalogue lists as one and a finer one in parts is the same: the parts within the coarser
    beam have its flux, to a factor of two, and their centroid lies on it, to a third of the beam or the radius. What a
    known survey cannot separate from a brighter source of its own is in that source's flux.
    """
    distance, _ = cKDTree(unit_vectors(known)).query(unit_vectors(part), distance_upper_bound=chord(radius_arcsec))
    new: Mask = ~np.isfinite(distance)
    if not new.any():
        return new
    new &= ~_sums_of_parts(part, known, radius_arcsec)
    blended = _sums_of_parts(known, part, radius_arcsec)
    if blended.any():
        new &= ~_within_beams(part, known[blended])
    return new & ~_outshone(part, known)


def _sums_of_parts(coarse: pd.DataFrame, fine: pd.DataFrame, radius_arcsec: float) -> Mask:
    """Which of `coarse` are what sources of `fine` around them add up to."""
    beam = _beams_arcsec(coarse)
    flux, places, parts = flux_1400_jy(coarse), unit_vectors(coarse), unit_vectors(fine)
    row, column, _ = _pairs(places, parts, beam)
    finer = _beams_arcsec(fine)[column] <= beam[row]
    row, column = row[finer], column[finer]
    weight = flux_1400_jy(fine)[column]
    total = np.bincount(row, weight, len(coarse))
    with np.errstate(divide="ignore", invalid="ignore"):
        centroid = np.stack([np.bincount(row, weight * parts[column, i], len(coarse)) for i in range(3)], axis=1) / total[:, None]
        ratio = total / flux
    off = np.linalg.norm(centroid - places, axis=1)
    near = off <= _chords(radius_arcsec * np.maximum(beam / UNKNOWN_BEAM_ARCSEC, 1.0))
    return np.asarray(near & (ratio >= 1 / FLUX_WITHIN) & (ratio <= FLUX_WITHIN))


def _within_beams(part: pd.DataFrame, coarse: pd.DataFrame) -> Mask:
    """Which of `part` lie within a beam of any of `coarse` that is no finer than they are."""
    beam = _beams_arcsec(coarse)
    row, column, _ = _pairs(unit_vectors(coarse), unit_vectors(part), beam)
    inside = np.zeros(len(part), dtype=bool)
    inside[column[_beams_arcsec(part)[column] <= beam[row]]] = True
    return inside


def _outshone(part: pd.DataFrame, known: pd.DataFrame) -> Mask:
    """Which of `part` lie too near a brighter source of a coarser survey for that to tell them apart."""
    coarse = known[known["catalogue"].isin([name for name in known["catalogue"].unique() if surveys.named(str(name))])]
    beam, hidden = _beams_arcsec(coarse), np.zeros(len(part), dtype=bool)
    row, column, _ = _pairs(unit_vectors(coarse), unit_vectors(part), SEPARATED_BEAMS * beam)
    fainter = flux_1400_jy(part)[column] <= flux_1400_jy(coarse)[row]
    hidden[column[fainter & (_beams_arcsec(part)[column] < beam[row])]] = True
    return hidden


def _pairs(around: Float, places: Float, radius_arcsec: Float) -> tuple[NDArray[np.intp], NDArray[np.intp], Float]:
    """Pairs (index around, index of places, chord) with places within the radius of each."""
    widest = chord(float(radius_arcsec.max(initial=0.0)))
    found = cKDTree(around).sparse_distance_matrix(cKDTree(places), widest, output_type="ndarray")
    found = found[found["v"] <= _chords(radius_arcsec)[found["i"]]]
    return found["i"], found["j"], found["v"]


def _beams_arcsec(frame: pd.DataFrame) -> Float:
    known = {name: survey.beam_arcsec for name in frame["catalogue"].unique() if (survey := surveys.named(str(name)))}
    beams: Float = frame["catalogue"].map(known).fillna(UNKNOWN_BEAM_ARCSEC).to_numpy(np.float64)
    return beams


def chord(arcsec: float) -> float:
    """The length on the unit sphere of an angle."""
    return float(_chords(np.float64(arcsec)))


def _chords(arcsec: Float | np.float64) -> Float:
    length: Float = 2 * np.sin(np.deg2rad(arcsec / 3600) / 2)
    return length
