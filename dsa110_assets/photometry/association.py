"""Association of measured sources with known ones: de Ruiter radius, one to one, also across 0 h; and names for the rest.

r^2 = (dRA cos dec)^2 / (s_RA1^2 + s_RA2^2) + dDec^2 / (s_Dec1^2 + s_Dec2^2), with the systematic astrometric error in the
measured position's s (de Ruiter, Willis & Arp 1977; 5.68 misses a true pair once in 10^7).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components
from scipy.spatial import cKDTree

from dsa110_assets.photometry.geometry import unit_vectors

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]
NEW_PREFIX = "DSA_J"


def _errors(frame: pd.DataFrame, systematic_arcsec: float) -> tuple[FloatArray, FloatArray]:
    """Return position errors [arcsec], zero where a catalogue gives none, combined with the systematic term."""
    out = []
    for name in ("ra_err_arcsec", "dec_err_arcsec"):
        given = np.asarray(frame[name], np.float64) if name in frame else np.zeros(len(frame))
        out.append(np.hypot(np.nan_to_num(given, nan=0.0), systematic_arcsec))
    return out[0], out[1]


def offsets_arcsec(ra1: FloatArray, dec1: FloatArray, ra2: FloatArray, dec2: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Return east and north offsets [arcsec] of positions 2 from positions 1 [deg]; the shorter way round in RA."""
    delta = (np.asarray(ra2) - np.asarray(ra1) + 180.0) % 360.0 - 180.0
    east = delta * np.cos(np.deg2rad((np.asarray(dec1) + np.asarray(dec2)) / 2)) * 3600
    return east, (np.asarray(dec2) - np.asarray(dec1)) * 3600


def associate(
    found: pd.DataFrame,
    known: pd.DataFrame,
    *,
    de_ruiter: float,
    systematic_arcsec: float,
    max_separation_arcsec: float | FloatArray,
) -> IntArray:
    """Return for each row of `found` the row number of its counterpart in `known`, or -1; shape (len(found),) int64.

    Both have ra_deg, dec_deg and may have ra_err_arcsec, dec_err_arcsec; `max_separation_arcsec` is a single value or one for
    each row of `found`. Pairs closer than both limits are matched in the order of their de Ruiter radius, each source at most
    once; ties go to the smaller separation, then row order.
    """
    match = np.full(len(found), -1, np.int64)
    if len(found) == 0 or len(known) == 0:
        return match
    ra1, dec1, ra2, dec2 = (np.asarray(f[c], np.float64) for f in (found, known) for c in ("ra_deg", "dec_deg"))
    limit = np.broadcast_to(np.asarray(max_separation_arcsec, np.float64), (len(found),))
    reach = 2 * np.sin(np.deg2rad(limit / 3600) / 2)
    near = cKDTree(unit_vectors(ra2, dec2)).query_ball_point(unit_vectors(ra1, dec1), reach)
    found_index = np.repeat(np.arange(len(found)), [len(hits) for hits in near])
    known_index = np.array([k for hits in near for k in hits], np.int64)
    east, north = offsets_arcsec(ra1[found_index], dec1[found_index], ra2[known_index], dec2[known_index])
    found_error, known_error = _errors(found, systematic_arcsec), _errors(known, 0.0)
    with np.errstate(divide="ignore", invalid="ignore"):
        radius = np.sqrt(
            east**2 / (found_error[0][found_index] ** 2 + known_error[0][known_index] ** 2)
            + north**2 / (found_error[1][found_index] ** 2 + known_error[1][known_index] ** 2)
        )
    radius = np.where(np.isnan(radius), 0.0, radius)
    taken = np.zeros(len(known), np.bool_)
    for n in np.lexsort((known_index, found_index, np.hypot(east, north), radius)):
        if radius[n] <= de_ruiter and match[found_index[n]] < 0 and not taken[known_index[n]]:
            match[found_index[n]], taken[known_index[n]] = known_index[n], True
    return match


def source_name(ra_deg: float, dec_deg: float) -> str:
    """Return 'DSA_JHHMMSS.s+DDMMSS': truncated, not rounded, as the IAU requires."""
    tenths = int(np.floor(round((ra_deg % 360.0) / 15 * 36000, 6))) % 864000
    seconds = int(np.floor(round(abs(dec_deg) * 3600, 6)))
    hours, rest = divmod(tenths, 36000)
    minutes, rest = divmod(rest, 600)
    right = f"{hours:02d}{minutes:02d}{rest // 10:02d}.{rest % 10}"
    sign = "-" if dec_deg < 0 else "+"
    return f"{NEW_PREFIX}{right}{sign}{seconds // 3600:02d}{seconds // 60 % 60:02d}{seconds % 60:02d}"


def name_new(ra_deg: FloatArray, dec_deg: FloatArray, taken: set[str]) -> list[str]:
    """Return names of new sources, none of them in `taken` or repeated: a letter is appended to a repeated one."""
    names: list[str] = []
    for ra, dec in zip(ra_deg, dec_deg, strict=True):
        name = base = source_name(float(ra), float(dec))
        suffix = 0
        while name in taken or name in names:
            name, suffix = f"{base}{chr(ord('a') + suffix % 26)}{suffix // 26 or ''}", suffix + 1
        names.append(name)
    return names


def merged_names(first: pd.DataFrame, radius_arcsec: float, mosaics_of: Callable[[set[str]], Mapping[str, set[str]]]) -> dict[str, str]:
    """Return the names to be replaced where one new source was found separately in several mosaics, mapped to its earliest name.

    Two mosaics measured before either had the other's discoveries name the same object twice, a fraction of a beam apart. Names
    within `radius_arcsec` are one source, but never two that occur in one mosaic (there they are two sources). `first` has
    source_id, mjd, ra_deg, dec_deg of each new source where it was first seen; `mosaics_of` returns, for a set of names, the
    mosaics each was measured on.
    """
    first = first.sort_values(["mjd", "source_id"], kind="stable")
    if len(first) < 2:
        return {}
    pairs = cKDTree(unit_vectors(first["ra_deg"], first["dec_deg"])).query_pairs(
        2 * np.sin(np.deg2rad(radius_arcsec / 3600) / 2), output_type="ndarray"
    )
    if len(pairs) == 0:
        return {}
    names = first["source_id"].to_numpy(object)
    mosaics = mosaics_of(set(names[np.unique(pairs)]))
    separate = [k for k, (a, b) in enumerate(pairs) if not mosaics[names[a]] & mosaics[names[b]]]
    pairs = pairs[separate]
    graph = coo_matrix((np.ones(len(pairs)), (pairs[:, 0], pairs[:, 1])), shape=(len(first),) * 2)
    _, group = connected_components(graph, directed=False)
    earliest: dict[int, str] = {}
    for number, name in zip(group, names, strict=True):
        earliest.setdefault(int(number), name)
    return {name: earliest[int(number)] for number, name in zip(group, names, strict=True) if name != earliest[int(number)]}
