"""Measurement sets: written with casacore's table system, readable by CASA, WSClean and pyuvdata.

Sign. A measurement set (as CASA and WSClean image it, and as pyuvdata's write_ms makes it) has
UVW = position(ANTENNA1) - position(ANTENNA2) where ours is ant2 - ant1, with the conjugate visibility: both
are negated here, on the way out and on the way in.

What a measurement set has no column for (exact times, apparent pointing declination, missing subbands) is in
the main table's keyword DSA110; a set that lost it in someone else's task is read from its standard columns.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numba
import numpy as np
from casacore import tables
from numpy.typing import NDArray

from dsa110_assets.errors import BadDataError
from dsa110_assets.telescope import astrometry, site
from dsa110_assets.visibilities import ms_subtables
from dsa110_assets.visibilities.types import Antennas, Visibilities

DAY_S = 86400.0
KEYWORD = "DSA110"
_TILE_BYTES = 1 << 20
_COLUMNS_CONSTANT = (
    "ARRAY_ID",
    "DATA_DESC_ID",
    "FEED1",
    "FEED2",
    "OBSERVATION_ID",
    "PROCESSOR_ID",
    "SCAN_NUMBER",
    "STATE_ID",
)


def write(
    vis: Visibilities, path: Path, *, observer_note: str = "", model: NDArray[np.complex64] | None = None
) -> None:
    """Write visibilities as a new measurement set directory at `path` (which must not exist).

    One ascending spectral window, XX and YY; DATA, FLAG and WEIGHT_SPECTRUM per sample; one FIELD per
    integration (meridian_icrs_t0 ..) or one for a common phase centre. `model` (time, baseline, channel),
    Stokes I [Jy], becomes MODEL_DATA of XX = YY = I. `observer_note` goes into HISTORY. Raises
    FileExistsError; ValueError for a model of another shape.
    """
    path = Path(path)
    if path.exists():
        raise FileExistsError(f"{path} exists; a measurement set is written once")
    if model is not None and model.shape != vis.data.shape[:3]:
        raise ValueError(f"model has shape {model.shape}, visibilities {vis.data.shape[:3]}")
    main = tables.default_ms(str(path), *_description(vis, model is not None))
    try:
        _write_main(main, vis, model)
        main.putkeyword(KEYWORD, _record(vis))
    finally:
        main.close()
    ms_subtables.write(vis, path, observer_note)


def read(path: Path, column: str = "DATA") -> Visibilities:
    """Read a measurement set written by `write`, or by stock tools from one, with the data of `column`.

    Raises BadDataError, naming what is wrong, unless it holds one spectral window, XX and YY, and every
    baseline at every time once.
    """
    path = Path(path)
    if not (path / "table.dat").is_file():
        raise BadDataError(f"{path}: not a measurement set")
    try:
        with tables.table(str(path), ack=False) as main:
            return _read(main, path, column)
    except RuntimeError as error:
        raise BadDataError(f"{path}: casacore cannot read it ({error})") from error


def problems(path: Path) -> list[str]:
    """What would make results from this measurement set silently wrong; empty when all is well.

    PHASE_DIR finite and where the meridian (or the one common centre) is; REFERENCE_DIR equal to it;
    TELESCOPE_NAME; FIELD rows in time order with the right FIELD_ID; uvw of the phase centres and of the
    baselines' lengths; times ascending; frequencies ascending.
    """
    path = Path(path)
    found: list[str] = []
    with tables.table(f"{path}::FIELD", ack=False) as field:
        phase = ms_subtables.directions(field, "PHASE_DIR")
        reference = ms_subtables.directions(field, "REFERENCE_DIR")
        delay = ms_subtables.directions(field, "DELAY_DIR")
    if not np.all(np.isfinite(phase)):
        return ["FIELD: PHASE_DIR is not finite"]
    if not np.array_equal(phase, reference) or not np.array_equal(phase, delay):
        found.append("FIELD: REFERENCE_DIR or DELAY_DIR differs from PHASE_DIR")
    with tables.table(f"{path}::OBSERVATION", ack=False) as observation:
        names = set(observation.getcol("TELESCOPE_NAME"))
    if names != {site.TELESCOPE_NAME}:
        found.append(f"OBSERVATION: TELESCOPE_NAME is {sorted(names)}, must be {site.TELESCOPE_NAME}")
    with tables.table(f"{path}::SPECTRAL_WINDOW", ack=False) as window:
        frequencies = window.getcol("CHAN_FREQ")
    if len(frequencies) != 1 or np.any(np.diff(frequencies[0]) <= 0):
        found.append("SPECTRAL_WINDOW: not one window of ascending frequencies")
    with tables.table(str(path), ack=False) as main:
        found += _main_problems(main, path, phase)
    return found


def _main_problems(main: Any, path: Path, phase: NDArray[np.float64]) -> list[str]:
    found: list[str] = []
    seconds, field_id = main.getcol("TIME"), main.getcol("FIELD_ID")
    if np.any(np.diff(seconds) < 0):
        found.append("TIME: rows are not in time order")
    times, first = np.unique(seconds, return_index=True)
    fields = field_id[first]
    if len(phase) > 1 and not np.array_equal(fields, np.arange(len(times))):
        found.append("FIELD: fields are not in the order of the integrations")
    if not np.array_equal(field_id, fields[np.searchsorted(times, seconds)]) or np.max(field_id) >= len(
        phase
    ):
        return [*found, "FIELD_ID: an integration has rows of two fields, or of none"]
    record = main.getkeyword(KEYWORD) if KEYWORD in main.keywordnames() else {}
    mjd = _times(times, record)
    if "pointing_dec_rad" in record and len(phase) > 1:
        expected = astrometry.meridian_icrs_rad(mjd, float(record["pointing_dec_rad"]))
        off = astrometry.separation_deg(expected[:, 0], expected[:, 1], phase[fields, 0], phase[fields, 1])
        if np.max(off) * 3600 > 0.01:
            found.append(
                f"FIELD: PHASE_DIR lies {np.max(off) * 3600:.3f} arcsec from the meridian at its time"
            )
    relative = ms_subtables.antennas(path).relative_m
    ant1, ant2, uvw = main.getcol("ANTENNA1"), main.getcol("ANTENNA2"), main.getcol("UVW")
    length = np.linalg.norm(relative[ant2] - relative[ant1], axis=1)
    norm = np.linalg.norm(uvw, axis=1)
    if np.max(np.abs(norm - length)) > 1e-3:
        found.append(
            f"UVW: lengths differ from the baselines' by up to {np.max(np.abs(norm - length)):.3g} m"
        )
    antenna = astrometry.icrs_uvw_m(relative, phase[fields], mjd)
    index = np.searchsorted(times, seconds)
    error = float(np.max(np.abs(antenna[index, ant1] - antenna[index, ant2] - uvw)))
    if error > 1e-3:
        found.append(f"UVW: up to {error:.3g} m from those of PHASE_DIR")
    return found


def _description(vis: Visibilities, with_model: bool) -> tuple[dict[str, Any], dict[str, Any]]:
    """Main table description and storage: fixed-shape tiled columns of whole rows, about 1 MiB a tile."""
    n_channels = vis.frequencies_hz.size
    description = tables.required_ms_desc("MAIN")
    for name in ("TIME", "TIME_CENTROID", "INTERVAL", "EXPOSURE", "FIELD_ID", *_COLUMNS_CONSTANT):
        description[name].update(dataManagerType="IncrementalStMan", dataManagerGroup="constant")
    tiled = {
        "DATA": ("complex", [n_channels, 2], 8),
        "FLAG": ("boolean", [n_channels, 2], 1),
        "WEIGHT_SPECTRUM": ("float", [n_channels, 2], 4),
        "UVW": ("double", [3], 8),
        "WEIGHT": ("float", [2], 4),
        "SIGMA": ("float", [2], 4),
    }
    if with_model:
        tiled["MODEL_DATA"] = tiled["DATA"]
    storage: dict[str, Any] = {}
    for name, (value_type, shape, size) in tiled.items():
        column = tables.makearrcoldesc(
            name,
            0,
            valuetype=value_type,
            shape=shape,
            options=5,
            datamanagertype="TiledColumnStMan",
            datamanagergroup=name,
        )["desc"]
        description[name] = column | {"keywords": description.get(name, {}).get("keywords", {})}
        rows = int(np.clip(_TILE_BYTES // (int(np.prod(shape)) * size), 8, 4096))
        storage[name] = {"DEFAULTTILESHAPE": np.array([*shape[::-1], rows], dtype=np.int32)}
    return description, tables.makedminfo(description, storage)


def _write_main(main: Any, vis: Visibilities, model: NDArray[np.complex64] | None) -> None:
    n_times, n_baselines, n_channels, _ = vis.data.shape
    n_rows = n_times * n_baselines
    main.addrows(n_rows)
    seconds = np.repeat(vis.times_mjd * DAY_S, n_baselines)
    for name, values in (
        ("TIME", seconds),
        ("TIME_CENTROID", seconds),
        ("INTERVAL", np.full(n_rows, vis.interval_s)),
        ("EXPOSURE", np.full(n_rows, vis.interval_s)),
        ("FIELD_ID", np.repeat(field_ids(vis), n_baselines)),
        ("ANTENNA1", np.tile(vis.ant1, n_times)),
        ("ANTENNA2", np.tile(vis.ant2, n_times)),
        ("UVW", -vis.uvw_m.reshape(n_rows, 3)),
        ("SCAN_NUMBER", np.ones(n_rows, np.int32)),
        *((name, np.zeros(n_rows, np.int32)) for name in _COLUMNS_CONSTANT if name != "SCAN_NUMBER"),
    ):
        main.putcol(name, values)
    conjugate = np.empty((n_baselines, n_channels, 2), np.complex64)
    for t in range(n_times):
        start = t * n_baselines
        main.putcol("DATA", np.conjugate(vis.data[t], out=conjugate), start, n_baselines)
        if model is not None:
            np.conjugate(model[t][..., None], out=conjugate)
            main.putcol("MODEL_DATA", conjugate, start, n_baselines)
        main.putcol("FLAG", vis.flags[t], start, n_baselines)
        main.putcol("WEIGHT_SPECTRUM", vis.weights[t], start, n_baselines)
        weight, all_flagged = row_weights(vis.weights[t], vis.flags[t])
        main.putcol("WEIGHT", weight, start, n_baselines)
        # CASA's own convention for "no weight" is SIGMA = -1.
        sigma = np.where(weight > 0, 1 / np.sqrt(np.where(weight > 0, weight, 1)), -1).astype(np.float32)
        main.putcol("SIGMA", sigma, start, n_baselines)
        main.putcol("FLAG_ROW", all_flagged, start, n_baselines)


@numba.njit(cache=True, parallel=True)
def row_weights(weights, flags):  # type: ignore[no-untyped-def]
    """(WEIGHT (row, pol): mean weight of a row's unflagged channels, 0 if none; FLAG_ROW (row,))."""
    n_rows, n_channels, n_pols = weights.shape
    mean = np.zeros((n_rows, n_pols), np.float32)
    row_flag = np.ones(n_rows, np.bool_)
    for row in numba.prange(n_rows):
        for p in range(n_pols):
            total, count = 0.0, 0
            for k in range(n_channels):
                if not flags[row, k, p]:
                    total += weights[row, k, p]
                    count += 1
            if count:
                mean[row, p] = total / count
                row_flag[row] = False
    return mean, row_flag


def field_ids(vis: Visibilities) -> NDArray[np.int32]:
    """FIELD row of each integration: its own, or 0 when there is one common phase centre."""
    if vis.common_phase_centre:
        return np.zeros(vis.times_mjd.size, np.int32)
    return np.arange(vis.times_mjd.size, dtype=np.int32)


def _record(vis: Visibilities) -> dict[str, Any]:
    record: dict[str, Any] = {
        "times_mjd": vis.times_mjd,
        "pointing_dec_rad": vis.pointing_dec_rad,
        "channel_width_hz": vis.channel_width_hz,
        "relative_m": vis.antennas.relative_m.ravel(),
    }
    # casacore cannot store an empty array; no entry means none is missing.
    if vis.subbands_missing:
        record["subbands_missing"] = np.array(vis.subbands_missing, dtype=np.int32)
    return record


def _times(seconds: NDArray[np.float64], record: dict[str, Any]) -> NDArray[np.float64]:
    """MJD of TIME values; the recorded ones, which keep the last bit, if they are the same times."""
    mjd = seconds / DAY_S
    exact = np.atleast_1d(record.get("times_mjd", np.zeros(0)))
    return exact if exact.shape == mjd.shape and np.all(np.abs(exact - mjd) * DAY_S < 1e-5) else mjd


def _read(main: Any, path: Path, column: str) -> Visibilities:
    if column not in main.colnames():
        raise BadDataError(
            f"{path}: no column {column}; it has {[c for c in main.colnames() if 'DATA' in c]}"
        )
    window = ms_subtables.spectral_window(path)
    record = main.getkeyword(KEYWORD) if KEYWORD in main.keywordnames() else {}
    seconds, inverse = np.unique(main.getcol("TIME"), return_inverse=True)
    row_ant1, row_ant2 = main.getcol("ANTENNA1"), main.getcol("ANTENNA2")
    n_times = seconds.size
    order = np.lexsort((row_ant2, row_ant1, inverse))
    if order.size % n_times:
        raise BadDataError(f"{path}: {order.size} rows are not the same baselines at {n_times} times")
    n_baselines = order.size // n_times
    ant1, ant2 = row_ant1[order][:n_baselines], row_ant2[order][:n_baselines]
    regular = np.array_equal(row_ant1[order], np.tile(ant1, n_times)) and np.array_equal(
        row_ant2[order], np.tile(ant2, n_times)
    )
    if not regular or not np.array_equal(inverse[order], np.repeat(np.arange(n_times), n_baselines)):
        raise BadDataError(f"{path}: baselines differ between times")
    data, flags, weights = _cubes(main, column, order, (n_times, n_baselines, window.frequencies_hz.size, 2))
    times = _times(seconds, record)
    first_rows = order[::n_baselines]
    with tables.table(f"{path}::FIELD", ack=False) as field:
        centres = ms_subtables.directions(field, "PHASE_DIR")[main.getcol("FIELD_ID")[first_rows]]
    antennas = ms_subtables.antennas(path)
    relative = np.asarray(record.get("relative_m", antennas.relative_m)).reshape(-1, 3)
    if relative.shape == antennas.relative_m.shape and np.max(np.abs(relative - antennas.relative_m)) < 1e-6:
        antennas = Antennas(antennas.names, relative, antennas.diameters_m)
    dec = record.get("pointing_dec_rad")
    return Visibilities(
        data=data,
        flags=flags,
        weights=weights,
        ant1=ant1.astype(np.int32),
        ant2=ant2.astype(np.int32),
        times_mjd=times,
        interval_s=float(main.getcell("INTERVAL", 0)),
        frequencies_hz=window.frequencies_hz,
        channel_width_hz=window.channel_width_hz,
        uvw_m=-main.getcol("UVW")[order].reshape(n_times, n_baselines, 3),
        phase_centres_rad=centres,
        pointing_dec_rad=float(dec) if dec is not None else ms_subtables.pointing_dec_rad(path),
        antennas=antennas,
        subbands_missing=tuple(
            int(s) for s in np.atleast_1d(record.get("subbands_missing", np.zeros(0, int)))
        ),
    )


def _cubes(
    main: Any, column: str, order: NDArray[np.int64], shape: tuple[int, int, int, int]
) -> tuple[NDArray[np.complex64], NDArray[np.bool_], NDArray[np.float32]]:
    """Data (our sign), flags and weights on the grid, read one integration at a time straight into place."""
    n_times, n_baselines = shape[:2]
    data, flags, weights = (
        np.empty(shape, np.complex64),
        np.empty(shape, np.bool_),
        np.empty(shape, np.float32),
    )
    spectrum = (
        "WEIGHT_SPECTRUM"
        if "WEIGHT_SPECTRUM" in main.colnames() and main.iscelldefined("WEIGHT_SPECTRUM", 0)
        else ""
    )
    in_order = np.array_equal(order, np.arange(order.size))
    source = main if in_order else main.selectrows(order)
    for t in range(n_times):
        start = t * n_baselines
        source.getcolnp(column, data[t], start, n_baselines)
        np.conjugate(data[t], out=data[t])
        source.getcolnp("FLAG", flags[t], start, n_baselines)
        if spectrum:
            source.getcolnp(spectrum, weights[t], start, n_baselines)
        else:
            weights[t] = source.getcol("WEIGHT", start, n_baselines)[:, None, :]
    return data, flags, weights
