"""Calibration tables in CASA's format. Stock applycal can apply them, pyuvdata can read them, and CASA's own can be read here.

Sign. Our measurement sets hold the conjugate of `Visibilities.data` (uvw = position 1 - position 2), so the
gains that apply to them are the conjugates of ours, and delays the negatives. They are converted here, on reading and writing.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import casacore.tables as ct
import numpy as np
from numpy.typing import NDArray

from dsa110_assets.calibration.gains import Gains, Kind
from dsa110_assets.errors import BadDataError

DAY_S = 86400.0
_STORED = "MSMTAB"
_ROWS = 16
"""Rows in a bucket of the storage manager."""
_APART_S = 4e-4
"""Gap between solution intervals [s]: ten times the resolution of a Julian date in float64."""
JONES_XX, JONES_YY = -5, -6
"""pyuvdata's (AIPS's) numbers for the receptors."""
_KINDS: dict[str, Kind] = {"B Jones": "B", "G Jones": "G", "K Jones": "K"}
_COPIED = ("ANTENNA", "FIELD", "OBSERVATION", "SPECTRAL_WINDOW")
_SECONDS: dict[str, Any] = {"QuantumUnits": ["s"]}
_UTC: dict[str, Any] = {**_SECONDS, "MEASINFO": {"type": "epoch", "Ref": "UTC"}}


@dataclass(frozen=True)
class _Rows:
    """Main-table rows in (time, antenna) order; cells are (row, channel, pol)."""

    parameter: NDArray[Any]
    flags: NDArray[np.bool_]
    snr: NDArray[np.float32]
    error: NDArray[np.float32]


def write(gains: Gains, path: Path, ms_path: Path) -> None:
    """Write `gains` as a new CASA caltable at `path`; subtables are copied from the set `ms_path`.

    The measurement set's antennas must be `gains`'s, in order, and it must have one spectral window.
    CPARAM is complex64 (K: FPARAM, delays [ns]). Raises BadDataError if the antennas differ or `path` exists.
    """
    if path.exists():
        raise BadDataError(f"{path} exists; caltables are written once")
    with ct.table(f"{ms_path}::ANTENNA", ack=False) as antenna:
        names = tuple(antenna.getcol("NAME"))
    if names != gains.antenna_names:
        raise BadDataError(f"{ms_path} has other antennas ({len(names)}) than the solutions ({len(gains.antenna_names)})")
    visible = f"{gains.kind} Jones"
    real = gains.kind == "K"
    description, storage = _description(real, gains.values.shape[2])
    with ct.table(str(path), description, nrow=0, dminfo=storage, ack=False) as table:
        table.putinfo({"type": "Calibration", "subType": visible, "readme": ""})
        table.putkeyword("ParType", "Float" if real else "Complex")
        table.putkeyword("MSName", ms_path.name)
        table.putkeyword("VisCal", visible)
        table.putkeyword("PolBasis", "unknown")  # as CASA writes it; pyuvdata refuses any other
        table.putkeyword("FieldName", gains.field_name)
        _put_feeds(table, ms_path, len(names), gains.field_name)
        _put_rows(table, gains, real)
        for name in _COPIED:
            _copy_subtable(table, ms_path, path, name)
        _put_history(table, path, gains)
        _put_spectral_window(path / "SPECTRAL_WINDOW", gains)


def _description(real: bool, n_chan: int) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the columns of a table and their storage: every cell within its row.

    Cells of variable shape would go into a separate file, where casacore pads them to multiples of 8 bytes with uninitialised memory,
    so the same solutions would give different bytes in every run. Rows have to fit into a bucket: 600 channels fill its 32 KiB.
    """
    indices = ("FIELD_ID", "SPECTRAL_WINDOW_ID", "ANTENNA1", "ANTENNA2", "SCAN_NUMBER", "OBSERVATION_ID")
    scalar: list[tuple[str, float | int, dict[str, Any]]] = [("TIME", 0.0, _UTC), ("INTERVAL", 0.0, _SECONDS)]
    scalar += [(name, 0, {}) for name in indices]
    columns = [ct.makescacoldesc(name, value, keywords=keywords, datamanagergroup=_STORED) for name, value, keywords in scalar]
    single = "float" if real else "complex"
    for name, value_type in (_parameter(real), single), *((name, "float") for name in ("PARAMERR", "SNR", "WEIGHT")), ("FLAG", "boolean"):
        columns.append(ct.makearrcoldesc(name, 0, valuetype=value_type, shape=[n_chan, 2], options=5, datamanagergroup=_STORED))
    row_bytes = 64 + 42 * n_chan  # 40 bytes of scalars; per channel 2 x (8 + 3 x 4) bytes of numbers and the flag bits
    names = np.array([column["name"] for column in columns])
    storage = {"NAME": _STORED, "TYPE": "StandardStMan", "COLUMNS": names, "SPEC": {"BUCKETSIZE": _ROWS * row_bytes}}
    return dict(ct.maketabdesc(columns)), {"*1": storage}


def _parameter(real: bool) -> str:
    return "FPARAM" if real else "CPARAM"


def _put_rows(table: Any, gains: Gains, real: bool) -> None:
    n_time, n_ant, n_chan, _ = gains.values.shape
    n = n_time * n_ant
    table.addrows(n)
    table.putcol("TIME", np.repeat(gains.times_mjd * DAY_S, n_ant))
    table.putcol("INTERVAL", np.repeat(_widths_s(gains), n_ant))
    table.putcol("ANTENNA1", np.tile(np.arange(n_ant, dtype=np.int32), n_time))
    table.putcol("ANTENNA2", np.full(n, gains.refant, dtype=np.int32))
    for name in ("FIELD_ID", "SPECTRAL_WINDOW_ID", "OBSERVATION_ID"):
        table.putcol(name, np.zeros(n, dtype=np.int32))
    table.putcol("SCAN_NUMBER", np.ones(n, dtype=np.int32))
    shape = (n, n_chan, 2)
    snr = gains.snr.reshape(shape)
    size = np.ones(shape) if real else np.abs(gains.values).reshape(shape)
    error = np.where(snr > 0, size / np.where(snr > 0, snr, 1), 0).astype(np.float32)
    parameter = -gains.values.real.astype(np.float32) if real else gains.values.conj().astype(np.complex64)
    table.putcol(_parameter(real), parameter.reshape(shape))
    table.putcol("FLAG", gains.flags.reshape(shape))
    table.putcol("SNR", snr)
    table.putcol("PARAMERR", error)
    table.putcol("WEIGHT", (snr.astype(np.float64) ** 2).astype(np.float32))


def _widths_s(gains: Gains) -> NDArray[np.float64]:
    """Return the lengths of the solution intervals [s] (time,). No two overlap, because pyuvdata refuses overlaps.

    The runs of `reduction.intervals` are `interval_s` long, the last of a contiguous piece one integration less. Adjacent
    intervals are separated by more than the resolution of a Julian date.
    """
    widths = np.full(gains.times_mjd.size, gains.interval_s)
    for i, separation_s in enumerate(np.diff(gains.times_mjd) * DAY_S, start=1):
        widths[i] = min(gains.interval_s, 2 * separation_s - widths[i - 1] - _APART_S)
    return widths


def _put_feeds(table: Any, ms_path: Path, n_antennas: int, field_name: str) -> None:
    """Write keywords that CASA's format lacks, as pyuvdata's own writer does: the polarisations XX and YY, and the feeds' angles."""
    with ct.table(f"{ms_path}::FEED", ack=False) as feed:
        angles = np.zeros((n_antennas, 2))
        angles[feed.getcol("ANTENNA_ID")] = feed.getcol("RECEPTOR_ANGLE")
    table.putkeyword("pyuvdata_jones", np.array([JONES_XX, JONES_YY]))
    table.putkeyword("pyuvdata_nfeeds", 2)
    table.putkeyword("pyuvdata_feed_array", "xy" * n_antennas)
    table.putkeyword("pyuvdata_feed_angle", angles)
    table.putkeyword("pyuvdata_gain_scale", "Jy")
    table.putkeyword("pyuvdata_cal_style", "sky")
    table.putkeyword("pyuvdata_sky_catalog", field_name or "unnamed field")


def _copy_subtable(table: Any, ms_path: Path, path: Path, name: str) -> None:
    with ct.table(f"{ms_path}::{name}", ack=False) as source:
        source.copy(str(path / name), deep=True).close()
    with ct.table(str(path / name), ack=False) as copy:
        table.putkeyword(name, copy)


def _put_history(table: Any, path: Path, gains: Gains) -> None:
    columns = [ct.makescacoldesc("TIME", 0.0, keywords=_UTC), ct.makescacoldesc("OBSERVATION_ID", 0)]
    columns += [ct.makescacoldesc(name, "") for name in ("MESSAGE", "PRIORITY", "ORIGIN", "APPLICATION")]
    columns.insert(3, ct.makescacoldesc("OBJECT_ID", 0))
    columns += [ct.makearrcoldesc(name, "", ndim=1) for name in ("CLI_COMMAND", "APP_PARAMS")]
    with ct.table(str(path / "HISTORY"), ct.maketabdesc(columns), nrow=1, ack=False) as history:
        refant = gains.antenna_names[gains.refant]
        message = f"{gains.kind} solved on {gains.field_name or 'unnamed field'}, reference antenna {refant}"
        history.putcell("TIME", 0, float(gains.times_mjd[0]) * DAY_S)
        history.putcell("MESSAGE", 0, message)
        history.putcell("ORIGIN", 0, "dsa110_assets.calibration")
        history.putcell("PRIORITY", 0, "NORMAL")
        table.putkeyword("HISTORY", history)


def _put_spectral_window(path: Path, gains: Gains) -> None:
    """Give the copied spectral window the solutions' channels (G and K have one)."""
    n = gains.frequencies_hz.size
    with ct.table(str(path), readonly=False, ack=False) as window:
        if window.nrows() != 1:
            raise BadDataError(f"{path.parent}: the measurement set has {window.nrows()} spectral windows, must be one")
        if gains.kind == "K":
            window.putcell("REF_FREQUENCY", 0, float(gains.frequencies_hz[0]))
        if window.getcell("NUM_CHAN", 0) == n:
            return
        width = np.full(n, float(window.getcell("TOTAL_BANDWIDTH", 0)) / n)
        window.putcell("NUM_CHAN", 0, n)
        window.putcell("CHAN_FREQ", 0, gains.frequencies_hz)
        for name in ("CHAN_WIDTH", "EFFECTIVE_BW", "RESOLUTION"):
            window.putcell(name, 0, width)


def read(path: Path) -> Gains:
    """Read a caltable of type B, G or K Jones, written by `write` or by CASA.

    Raises BadDataError for other types, several spectral windows or an irregular time-antenna grid.
    Antennas without rows at a time are flagged.
    """
    if not (path / "table.dat").is_file():
        raise BadDataError(f"{path} is no caltable (no table.dat)")
    with ct.table(str(path), ack=False) as table:
        kind = _KINDS.get(table.info()["subType"])
        if kind is None:
            raise BadDataError(f"{path} is a {table.info()['subType'] or 'non-calibration'} table; B, G or K Jones is needed")
        if np.unique(table.getcol("SPECTRAL_WINDOW_ID")).size != 1:
            raise BadDataError(f"{path} has several spectral windows; one is needed")
        rows = _Rows(
            table.getcol(_parameter(kind == "K")),
            table.getcol("FLAG"),
            table.getcol("SNR"),
            table.getcol("PARAMERR"),
        )
        times_s, antenna1, antenna2 = (table.getcol(name) for name in ("TIME", "ANTENNA1", "ANTENNA2"))
        interval_s = float(np.max(table.getcol("INTERVAL")))
        window, field = int(table.getcell("SPECTRAL_WINDOW_ID", 0)), int(table.getcell("FIELD_ID", 0))
        keywords = table.getkeywords()
    with ct.table(f"{path}::ANTENNA", ack=False) as table:
        names = tuple(table.getcol("NAME"))
    with ct.table(f"{path}::SPECTRAL_WINDOW", ack=False) as table:
        frequencies_hz = np.asarray(table.getcell("CHAN_FREQ", window), dtype=np.float64)
        if kind == "K":
            # applycal applies delays with phase 0 at the spectral window's reference frequency
            frequencies_hz = np.array([float(table.getcell("REF_FREQUENCY", window))])
    with ct.table(f"{path}::FIELD", ack=False) as table:
        field_name = str(keywords.get("FieldName") or table.getcell("NAME", field))
    return _on_grid(path, kind, rows, times_s, antenna1, antenna2, interval_s, frequencies_hz, names, field_name)


def _on_grid(
    path: Path,
    kind: Kind,
    rows: _Rows,
    times_s: NDArray[np.float64],
    antenna1: NDArray[np.int32],
    antenna2: NDArray[np.int32],
    interval_s: float,
    frequencies_hz: NDArray[np.float64],
    names: tuple[str, ...],
    field_name: str,
) -> Gains:
    times, index = np.unique(times_s, return_inverse=True)
    shape = (times.size, len(names), frequencies_hz.size, 2)
    if rows.parameter.shape[1:] != shape[2:]:
        raise BadDataError(f"{path}: cells have shape {rows.parameter.shape[1:]}, must be {shape[2:]}")
    values = np.full(shape, 0 if kind == "K" else 1, dtype=np.complex128)
    flags = np.ones(shape, dtype=np.bool_)
    snr = np.zeros(shape, dtype=np.float32)
    good = ~rows.flags & np.isfinite(rows.parameter)
    converted = -rows.parameter if kind == "K" else rows.parameter.conj()
    values[index, antenna1] = np.where(good, converted, values[0, 0, 0, 0])
    flags[index, antenna1] = ~good
    snr[index, antenna1] = np.where(good, rows.snr, 0)
    references = antenna2[antenna2 >= 0]
    refant = int(np.bincount(references).argmax()) if references.size else 0
    return Gains(kind, values, flags, snr, times / DAY_S, interval_s, frequencies_hz, names, refant, field_name)
