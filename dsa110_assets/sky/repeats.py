"""Detection of sources listed more than once: within a catalogue, and by catalogues of different resolution."""

from __future__ import annotations

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from dsa110_assets.sky import surveys
from dsa110_assets.sky.calibrators import LIST_FREQUENCY_HZ

FINEST_BEAM_ARCSEC = 2.5
"""No sky survey has a finer beam: two rows of a catalogue closer than this are one source, listed twice."""
RESOLVED_BEAMS = 0.2
"""A survey cannot separate sources closer than this fraction of its own beam."""
SEPARATED_BEAMS = 0.8
"""A survey cannot list a source separately if it lies closer than this [beams] to a brighter one."""
UNKNOWN_BEAM_ARCSEC = 45.0
"""The beam assumed for catalogues of unknown beam: the coarsest of the surveys at 1.4 GHz."""
FLUX_WITHIN = 2.0
"""The components of a blended source add up to its flux within this factor, because sizes, spectra and epochs differ."""

Mask = NDArray[np.bool_]
Float = NDArray[np.float64]


def unit_vectors(frame: pd.DataFrame) -> Float:
    """Return the positions (ra_deg, dec_deg) as unit vectors (n, 3)."""
    ra, dec = (
        np.deg2rad(frame["ra_deg"].to_numpy(np.float64)),
        np.deg2rad(frame["dec_deg"].to_numpy(np.float64)),
    )
    return np.stack([np.cos(dec) * np.cos(ra), np.cos(dec) * np.sin(ra), np.sin(dec)], axis=-1)


def flux_1400_jy(frame: pd.DataFrame) -> Float:
    """Return the fluxes converted to 1.4 GHz [Jy], 0 where unknown."""
    ratio = LIST_FREQUENCY_HZ / frame["frequency_hz"].to_numpy(np.float64)
    flux = frame["flux_jy"].to_numpy(np.float64) * ratio ** frame["spectral_index"].to_numpy(np.float64)
    return np.where(np.isfinite(flux), flux, 0.0)


def without_repeats(frame: pd.DataFrame) -> Mask:
    """Which rows of one catalogue to keep so that each source appears once: the first of its rows with a flux.

    `frame` has the columns of `catalogues.COLUMNS`. Rows closer to each other than the catalogue's survey resolves are one source.
    """
    survey = surveys.named(str(frame["catalogue"].iloc[0])) if len(frame) else None
    radius = max(FINEST_BEAM_ARCSEC, RESOLVED_BEAMS * survey.beam_arcsec if survey else 0.0)
    pairs = cKDTree(unit_vectors(frame)).query_pairs(chord(radius), output_type="ndarray") if len(frame) else np.zeros((0, 2), int)
    keep = np.ones(len(frame), dtype=bool)
    if not len(pairs):
        return keep
    unknown = ~np.isfinite(frame["flux_jy"].to_numpy(np.float64))
    # better rows first, so that a row is dropped only in favour of one that stays
    better = np.lexsort((np.arange(len(frame)), unknown))
    rank = np.empty(len(frame), dtype=int)
    rank[better] = np.arange(len(frame))
    ordered = np.sort(rank[pairs], axis=1)
    for first, second in ordered[np.lexsort((ordered[:, 1], ordered[:, 0]))]:
        if keep[better[first]]:
            keep[better[second]] = False
    return keep


def not_yet_listed(part: pd.DataFrame, known: pd.DataFrame, radius_arcsec: float) -> Mask:
    """Which sources of `part` are not yet in `known`: no known source lies within the radius, and they are not blended with one.

    A coarser catalogue may list as one source what a finer one lists as several components. They are taken as the same if the
    components within the coarser beam have its flux, to a factor of two, and their centroid lies on it, to a third of the
    beam or the radius. A source that a known survey cannot separate from its own brighter source is part of that source's flux.
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
    """Which sources of `coarse` are the sum of the sources of `fine` around them."""
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
    """Which sources of `part` lie within the beam of a source of `coarse`, if that beam is no finer than their own."""
    beam = _beams_arcsec(coarse)
    row, column, _ = _pairs(unit_vectors(coarse), unit_vectors(part), beam)
    inside = np.zeros(len(part), dtype=bool)
    inside[column[_beams_arcsec(part)[column] <= beam[row]]] = True
    return inside


def _outshone(part: pd.DataFrame, known: pd.DataFrame) -> Mask:
    """Which sources of `part` lie too close to a brighter source of a coarser survey for that survey to separate them."""
    coarse = known[known["catalogue"].isin([name for name in known["catalogue"].unique() if surveys.named(str(name))])]
    beam, hidden = _beams_arcsec(coarse), np.zeros(len(part), dtype=bool)
    row, column, _ = _pairs(unit_vectors(coarse), unit_vectors(part), SEPARATED_BEAMS * beam)
    fainter = flux_1400_jy(part)[column] <= flux_1400_jy(coarse)[row]
    hidden[column[fainter & (_beams_arcsec(part)[column] < beam[row])]] = True
    return hidden


def _pairs(around: Float, places: Float, radius_arcsec: Float) -> tuple[NDArray[np.intp], NDArray[np.intp], Float]:
    """Return the pairs (index of `around`, index of `places`, chord) of places within each one's own radius."""
    widest = chord(float(radius_arcsec.max(initial=0.0)))
    pairs = cKDTree(around).sparse_distance_matrix(cKDTree(places), widest, output_type="ndarray")
    pairs = pairs[pairs["v"] <= _chords(radius_arcsec)[pairs["i"]]]
    return pairs["i"], pairs["j"], pairs["v"]


def _beams_arcsec(frame: pd.DataFrame) -> Float:
    by_name = {name: survey.beam_arcsec for name in frame["catalogue"].unique() if (survey := surveys.named(str(name)))}
    beams: Float = frame["catalogue"].map(by_name).fillna(UNKNOWN_BEAM_ARCSEC).to_numpy(np.float64)
    return beams


def chord(arcsec: float) -> float:
    """Return the chord length on the unit sphere of an angle."""
    return float(_chords(np.float64(arcsec)))


def _chords(arcsec: Float | np.float64) -> Float:
    length: Float = 2 * np.sin(np.deg2rad(arcsec / 3600) / 2)
    return length
