"""Measurement sets: written with casacore's table system, readable by CASA, WSClean and pyuvdata.

Sign. In a measurement set (as CASA and WSClean image it, and as pyuvdata's write_ms makes it) UVW = position(ANTENNA1)
- position(ANTENNA2), whereas ours is ant2 - ant1, and visibilities are the conjugates of ours. This module negates UVW
and conjugates the data on writing and on reading.

Quantities for which a measurement set has no column (exact times, apparent pointing declination, missing subbands) are
in the main table's keyword DSA110. A set that lost the keyword in another program's task is read from its standard
columns.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numba
import numpy as np
from casacore import tables
from numpy.typing import NDArray

from dsa110_assets.errors import BadDataError, DsaError
from dsa110_assets.telescope import astrometry, site
from dsa110_assets.visibilities import ms_columns, ms_subtables
from dsa110_assets.visibilities.types import Antennas, Visibilities

DAY_S = 86400.0
KEYWORD = "DSA110"
_WEIGHTS_LOOKED_AT = 100
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


def write(vis: Visibilities, path: Path, *, observer_note: str = "", model: NDArray[np.complex64] | None = None, unit: str = "") -> None:
    """Write visibilities as a new measurement set directory at `path` (which must not exist).

    One ascending spectral window, XX and YY; DATA, FLAG and WEIGHT_SPECTRUM per sample; one FIELD per integration
    (meridian_icrs_t0 ..) or one for a common phase centre. `model` (time, baseline, channel), Stokes I [Jy], becomes
    MODEL_DATA of XX = YY = I. `observer_note` goes into HISTORY. `unit` is the unit of the data ("Jy" once calibrated;
    "" for raw correlator output), written where CASA and pyuvdata look for it. Raises FileExistsError; ValueError for a
    model of another shape.
    """
    if model is not None and model.shape != vis.data.shape[:3]:
        raise ValueError(f"model has shape {model.shape}, visibilities {vis.data.shape[:3]}")
    new = NewSet(vis, path, uniform_weights(vis.weights), with_model=model is not None, unit=unit)
    conjugate = np.empty(vis.data.shape[1:], np.complex64)
    with new.column("DATA") as column:
        for t in range(vis.times_mjd.size):
            column.put(t * vis.ant1.size, np.conjugate(vis.data[t], out=conjugate))
    if model is not None:
        with new.column("MODEL_DATA") as column:
            for t in range(vis.times_mjd.size):
                conjugate[:] = np.conjugate(model[t])[..., None]
                column.put(t * vis.ant1.size, conjugate)
    if not new.uniform:
        with new.column("WEIGHT_SPECTRUM") as column:
            for t in range(vis.times_mjd.size):
                column.put(t * vis.ant1.size, np.ascontiguousarray(vis.weights[t]))
    new.finish(vis.flags, mean_weights(vis.weights, vis.flags), observer_note)


class NewSet:
    """A measurement set being written: the constructor writes its geometry, then come its columns, then `finish`.

    `frame` is a Visibilities of which only the geometry is used. `weights` (channel, pol) are the WEIGHT_SPECTRUM of
    every row; None if rows differ. `unit` is that of DATA. Raises FileExistsError.
    """

    def __init__(
        self, frame: Visibilities, path: Path, weights: NDArray[np.float32] | None, *, with_model: bool = False, unit: str = ""
    ) -> None:
        self.frame, self.path = frame, Path(path)
        if self.path.exists():
            raise FileExistsError(f"{self.path} exists; a measurement set is written once")
        self.uniform = weights is not None
        main = tables.default_ms(str(self.path), *_description(frame.frequencies_hz.size, self.uniform))
        spectrum = [frame.frequencies_hz.size, 2]
        hollow = [("DATA", "complex", 8), *[("MODEL_DATA", "complex", 8)] * with_model]
        hollow += [] if self.uniform else [("WEIGHT_SPECTRUM", "float", 4)]
        try:
            main.addrows(1)
            if weights is not None:
                main.putcell("WEIGHT_SPECTRUM", 0, weights)  # rows added later repeat the last row's value
            main.addrows(frame.times_mjd.size * frame.ant1.size - 1)
            for name, value_type, item_bytes in hollow:
                ms_columns.add_sparse(main, self.path, name, *ms_columns.tiled(name, value_type, spectrum, item_bytes))
            for name, column_unit in (("DATA", unit), ("MODEL_DATA", "Jy" if with_model else "")):
                if column_unit:
                    main.putcolkeyword(name, "QuantumUnits", [column_unit])
            _write_geometry(main, frame)
            main.putkeyword(KEYWORD, _record(frame) | {"weights_repeat": self.uniform})
        finally:
            main.close()

    @contextmanager
    def column(self, name: str) -> Iterator[ms_columns.TiledColumn]:
        """Open the file of DATA, MODEL_DATA, FLAG or WEIGHT_SPECTRUM, to put rows in the measurement set's sign
        convention into it: row = time x number of baselines + baseline."""
        with tables.table(str(self.path), ack=False) as main:
            tiled_column = ms_columns.find(main, self.path, name)
        if tiled_column is None:
            raise DsaError(f"{self.path}: casacore did not lay out {name} in tiles of whole rows; report its version")
        with tiled_column.opened(os.O_WRONLY) as column:
            yield column

    def finish(self, flags: NDArray[np.bool_], weight: NDArray[np.float32], observer_note: str) -> None:
        """Write flags (time, baseline, channel, pol) and WEIGHT (time, baseline, pol; see mean_weights), and the subtables."""
        n_times, n_baselines = flags.shape[:2]
        with self.column("FLAG") as column:
            step = 8 // math.gcd(n_baselines, 8)  # the bits of this many integrations end on a byte boundary
            for t in range(0, n_times, step):
                column.put(t * n_baselines, np.ascontiguousarray(flags[t : t + step]))
        # CASA's convention for "no weight" is SIGMA = -1.
        sigma = np.where(weight > 0, 1 / np.sqrt(np.where(weight > 0, weight, 1)), -1).astype(np.float32)
        with tables.table(str(self.path), ack=False, readonly=False) as main:
            main.putcol("WEIGHT", weight.reshape(-1, 2))
            main.putcol("SIGMA", sigma.reshape(-1, 2))
            main.putcol("FLAG_ROW", flags.all(axis=(2, 3)).reshape(-1))
        ms_subtables.write(self.frame, self.path, observer_note)


def uniform_weights(weights: NDArray[np.float32]) -> NDArray[np.float32] | None:
    """The weights (channel, pol) shared by all rows of (time, baseline, channel, pol); None if rows differ."""
    first = np.ascontiguousarray(weights[0, 0])
    return first if all(_all_equal(part, first) for part in weights) else None


@numba.njit(cache=True)
def _all_equal(rows, first):  # type: ignore[no-untyped-def]
    for row in range(rows.shape[0]):
        for k in range(rows.shape[1]):
            for p in range(rows.shape[2]):
                if rows[row, k, p] != first[k, p]:
                    return False
    return True


def read(path: Path, column: str = "DATA") -> Visibilities:
    """Read a measurement set written by `write`, or by stock tools from one, with the data of `column`.

    Raises BadDataError, naming what is wrong, unless it holds one spectral window, XX and YY, and every
    baseline at every time once.
    """
    with opened(path, column) as stored:
        shape = stored.frame.data.shape
        data, flags, weights = np.empty(shape, np.complex64), np.empty(shape, np.bool_), np.empty(shape, np.float32)
        stored.load(0, data, flags, weights)
        return replace(stored.frame, data=data, flags=flags, weights=weights)


def unit(path: Path, column: str = "DATA") -> str:
    """The unit stated for a column of a set: "Jy" once calibrated; "" where none is stated. Raises what `read` raises."""
    with opened(path, column) as stored:
        return str(stored._main.getcolkeywords(column).get("QuantumUnits", [""])[0])


def mapped(path: Path) -> Visibilities:
    """The visibilities of `read`, with data and weights left on disk until they are used: the page cache is read,
    without a copy.

    A set holds the conjugates of our data, which are our data of the same baselines in the opposite direction: so ant1
    and ant2 are exchanged, and uvw change sign. Weights that are the same in every row are one row, repeated. The
    arrays must not be written to. A set that is not laid out as `write` does it is read as by `read`. Raises what
    `read` raises.
    """
    with opened(path) as stored:
        place = stored.column_place()
        if place is None:
            return read(path)
        frame, shape = stored.frame, stored.frame.data.shape
        flags = np.empty(shape, np.bool_)
        stored.load_flags(0, flags)
        weights = stored.mapped_weights()
        if weights is None:
            weights = np.empty(shape, np.float32)
            stored.load_weights(0, weights)
        reversed_frame = replace(frame, ant1=frame.ant2, ant2=frame.ant1, uvw_m=-frame.uvw_m)
        return replace(reversed_frame, data=place.mapped().reshape(shape), flags=flags, weights=weights)


@contextmanager
def opened(path: Path, column: str = "DATA") -> Iterator[StoredSet]:
    """Open a measurement set whose samples are loaded some integrations at a time; requirements and errors as for `read`."""
    path = Path(path)
    if not (path / "table.dat").is_file():
        raise BadDataError(f"{path}: not a measurement set")
    try:
        with tables.table(str(path), ack=False) as main:
            yield _read(main, path, column)
    except RuntimeError as error:
        raise BadDataError(f"{path}: casacore cannot read it ({error})") from error


@dataclass(frozen=True, eq=False)
class StoredSet:
    """An open measurement set. frame: a Visibilities whose data, flags and weights are constants that take no memory;
    the other fields locate the samples."""

    frame: Visibilities
    _main: Any
    _column: str
    _order: NDArray[np.int64] | None
    _places: dict[str, ms_columns.TiledColumn]

    def load(self, first_time: int, data: NDArray[np.complex64], flags: NDArray[np.bool_], weights: NDArray[np.float32]) -> None:
        """Fill (time, baseline, channel, pol) arrays, C-contiguous, with the integrations from `first_time` on."""
        self._load(self._column, first_time, data)
        _conjugate(data.view(np.uint64).reshape(-1))
        self.load_flags(first_time, flags)
        self.load_weights(first_time, weights)

    def load_flags(self, first_time: int, flags: NDArray[np.bool_]) -> None:
        """Load only the flags of `load`."""
        self._load("FLAG", first_time, flags)

    def load_weights(self, first_time: int, weights: NDArray[np.float32]) -> None:
        """Load only the weights of `load`."""
        repeated = self.repeated_weights()
        if repeated is not None:
            weights[:] = repeated[0, 0]
        elif self._has_spectra():
            self._load("WEIGHT_SPECTRUM", first_time, weights)
        else:
            n_baselines = self.frame.ant1.size
            per_row = self._rows().getcol("WEIGHT", first_time * n_baselines, len(weights) * n_baselines)
            weights[:] = per_row.reshape(-1, n_baselines, 1, 2)

    def repeated_weights(self) -> NDArray[np.float32] | None:
        """The weights (time, baseline, channel, pol) as one row repeated without memory; None if rows may differ.

        `write` records in the set's keyword that rows repeat. Tasks that recompute weights change all rows, so a
        hundred rows are compared.
        """
        record = self._main.getkeyword(KEYWORD) if KEYWORD in self._main.keywordnames() else {}
        if not (record.get("weights_repeat") and self._has_spectra()):
            return None
        first: NDArray[np.float32] = self._main.getcell("WEIGHT_SPECTRUM", 0)
        rows = np.linspace(0, self._main.nrows() - 1, _WEIGHTS_LOOKED_AT).astype(int).tolist()
        same = all(np.array_equal(self._main.getcell("WEIGHT_SPECTRUM", row), first) for row in rows)
        return np.broadcast_to(first, self.frame.data.shape) if same and first.dtype == np.float32 else None

    def column_place(self) -> ms_columns.TiledColumn | None:
        """The file of the data, if they are stored in our order and type."""
        place = self._places.get(self._column)
        return place if place is not None and place.dtype == np.complex64 else None

    def mapped_weights(self) -> NDArray[np.float32] | None:
        """The weights of `load`, as one row repeated or mapped from disk; None if neither is possible."""
        repeated, place = self.repeated_weights(), self._places.get("WEIGHT_SPECTRUM")
        if repeated is not None or place is None or place.dtype != np.float32:
            return repeated
        return place.mapped().reshape(self.frame.data.shape)

    def _has_spectra(self) -> bool:
        return "WEIGHT_SPECTRUM" in self._main.colnames() and bool(self._main.iscelldefined("WEIGHT_SPECTRUM", 0))

    def _rows(self) -> Any:
        return self._main if self._order is None else self._main.selectrows(self._order)

    def _load(self, name: str, first_time: int, cube: NDArray[Any]) -> None:
        n_baselines = self.frame.ant1.size
        first, place = first_time * n_baselines, self._places.get(name)
        # only every eighth row of bits starts on a byte boundary
        if place is not None and place.dtype == cube.dtype and (name != "FLAG" or first % 8 == 0):
            with place.opened(os.O_RDONLY):
                place.get(first, cube)
            return
        rows = self._rows()
        for t in range(len(cube)):
            rows.getcolnp(name, cube[t], first + t * n_baselines, n_baselines)

    def autocorrelations(self, n_times: int) -> NDArray[np.complex64]:
        """(time, autocorrelation, channel, pol): data of only the autocorrelations, for at most the first `n_times` integrations."""
        autos, (all_times, n_baselines, *cell) = np.flatnonzero(self.frame.is_auto), self.frame.data.shape
        out = np.empty((min(n_times, all_times), autos.size, *cell), np.complex64)
        source, place = self._rows(), self.column_place()
        with ExitStack() as stack:
            if place is not None:
                stack.enter_context(place.opened(os.O_RDONLY))
            for t in range(out.shape[0]):
                for i, baseline in enumerate(autos):
                    row = t * n_baselines + int(baseline)
                    if place is not None:
                        place.get(row, out[t, i])
                    else:
                        source.getcolnp(self._column, out[t, i : i + 1], row, 1)
        np.conjugate(out, out=out)
        return out


def problems(path: Path) -> list[str]:
    """Describe faults that would make results from this measurement set silently wrong; empty when there are none.

    PHASE_DIR finite and on the meridian (or at the one common centre); REFERENCE_DIR equal to it; TELESCOPE_NAME; FIELD
    rows in time order with the right FIELD_ID; uvw consistent with the phase centres and with the baselines' lengths;
    times ascending; frequencies ascending.
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
    if not np.array_equal(field_id, fields[np.searchsorted(times, seconds)]) or np.max(field_id) >= len(phase):
        return [*found, "FIELD_ID: an integration has rows of two fields, or of none"]
    record = main.getkeyword(KEYWORD) if KEYWORD in main.keywordnames() else {}
    mjd = _times(times, record)
    if "pointing_dec_rad" in record and len(phase) > 1:
        expected = astrometry.meridian_icrs_rad(mjd, float(record["pointing_dec_rad"]))
        off = astrometry.separation_deg(expected[:, 0], expected[:, 1], phase[fields, 0], phase[fields, 1])
        if np.max(off) * 3600 > 0.01:
            found.append(f"FIELD: PHASE_DIR lies {np.max(off) * 3600:.3f} arcsec from the meridian at its time")
    relative = ms_subtables.antennas(path).relative_m
    ant1, ant2, uvw = main.getcol("ANTENNA1"), main.getcol("ANTENNA2"), main.getcol("UVW")
    length = np.linalg.norm(relative[ant2] - relative[ant1], axis=1)
    norm = np.linalg.norm(uvw, axis=1)
    if np.max(np.abs(norm - length)) > 1e-3:
        found.append(f"UVW: lengths differ from the baselines' by up to {np.max(np.abs(norm - length)):.3g} m")
    antenna = astrometry.icrs_uvw_m(relative, phase[fields], mjd)
    index = np.searchsorted(times, seconds)
    error = float(np.max(np.abs(antenna[index, ant1] - antenna[index, ant2] - uvw)))
    if error > 1e-3:
        found.append(f"UVW: up to {error:.3g} m from those of PHASE_DIR")
    return found


def _description(n_channels: int, uniform: bool) -> tuple[dict[str, Any], dict[str, Any]]:
    """Main table description and storage, without the columns that have a number per sample, which are added later."""
    description = tables.required_ms_desc("MAIN")
    for name in ("TIME", "TIME_CENTROID", "INTERVAL", "EXPOSURE", "FIELD_ID", *_COLUMNS_CONSTANT):
        description[name].update(dataManagerType="IncrementalStMan", dataManagerGroup="constant")
    spectrum = [n_channels, 2]
    columns = {"FLAG": ms_columns.tiled("FLAG", "boolean", spectrum, 1), "UVW": ms_columns.tiled("UVW", "double", [3], 8)}
    columns |= {name: ms_columns.tiled(name, "float", [2], 4) for name in ("WEIGHT", "SIGMA")}
    if uniform:
        columns["WEIGHT_SPECTRUM"] = ms_columns.constant("WEIGHT_SPECTRUM", "float", spectrum), {}
    for name, (column, _) in columns.items():
        description[name] = column | {"keywords": description.get(name, {}).get("keywords", {})}
    return description, tables.makedminfo(description, {name: storage for name, (_, storage) in columns.items() if storage})


def _write_geometry(main: Any, vis: Visibilities) -> None:
    n_times, n_baselines = vis.times_mjd.size, vis.ant1.size
    n_rows = n_times * n_baselines
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


@numba.njit(cache=True, parallel=True)
def mean_weights(weights, flags):  # type: ignore[no-untyped-def]
    """(time, baseline, pol) float32: mean weight of the unflagged channels, 0 if there are none.

    weights (time, baseline or 1, channel, pol): of a single baseline if all have the same.
    """
    n_times, n_baselines, n_channels, n_pols = flags.shape
    step = 1 if weights.shape[1] == n_baselines else 0
    mean = np.zeros((n_times, n_baselines, n_pols), np.float32)
    for row in numba.prange(n_times * n_baselines):
        t, b = row // n_baselines, row % n_baselines
        for p in range(n_pols):
            total, count = 0.0, 0
            for k in range(n_channels):
                if not flags[t, b, k, p]:
                    total += weights[t, b * step, k, p]
                    count += 1
            if count:
                mean[t, b, p] = total / count
    return mean


def field_ids(vis: Visibilities) -> NDArray[np.int32]:
    """FIELD row of each integration: one row per integration, or 0 when there is one common phase centre."""
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
    """MJD of TIME values. The recorded times, which are exact to the last bit, are returned if they are the same times."""
    mjd = seconds / DAY_S
    exact = np.atleast_1d(record.get("times_mjd", np.zeros(0)))
    return exact if exact.shape == mjd.shape and np.all(np.abs(exact - mjd) * DAY_S < 1e-5) else mjd


def _read(main: Any, path: Path, column: str) -> StoredSet:
    if column not in main.colnames():
        raise BadDataError(f"{path}: no column {column}; it has {[c for c in main.colnames() if 'DATA' in c]}")
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
    regular = np.array_equal(row_ant1[order], np.tile(ant1, n_times)) and np.array_equal(row_ant2[order], np.tile(ant2, n_times))
    if not regular or not np.array_equal(inverse[order], np.repeat(np.arange(n_times), n_baselines)):
        raise BadDataError(f"{path}: baselines differ between times")
    shape = n_times, n_baselines, window.frequencies_hz.size, 2
    times = _times(seconds, record)
    first_rows = order[::n_baselines]
    with tables.table(f"{path}::FIELD", ack=False) as field:
        centres = ms_subtables.directions(field, "PHASE_DIR")[main.getcol("FIELD_ID")[first_rows]]
    antennas = ms_subtables.antennas(path)
    relative = np.asarray(record.get("relative_m", antennas.relative_m)).reshape(-1, 3)
    if relative.shape == antennas.relative_m.shape and np.max(np.abs(relative - antennas.relative_m)) < 1e-6:
        antennas = Antennas(antennas.names, relative, antennas.diameters_m)
    dec = record.get("pointing_dec_rad")
    frame = Visibilities(
        data=np.broadcast_to(np.complex64(0), shape),
        flags=np.broadcast_to(np.bool_(False), shape),
        weights=np.broadcast_to(np.float32(1), shape),
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
        subbands_missing=tuple(int(s) for s in np.atleast_1d(record.get("subbands_missing", np.zeros(0, int)))),
    )
    if not np.array_equal(order, np.arange(order.size)):
        return StoredSet(frame, main, column, order, {})
    places = {name: ms_columns.find(main, path, name) for name in (column, "FLAG", "WEIGHT_SPECTRUM") if name in main.colnames()}
    return StoredSet(frame, main, column, None, {name: place for name, place in places.items() if place is not None})


@numba.njit(cache=True, parallel=True)
def _conjugate(bits):  # type: ignore[no-untyped-def]
    """Conjugate complex64 in place, given as little-endian 64 bits: the highest bit is the sign of the imaginary part."""
    for k in numba.prange(bits.size):
        bits[k] ^= np.uint64(1) << np.uint64(63)
