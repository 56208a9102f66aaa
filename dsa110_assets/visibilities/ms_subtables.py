"""The small tables of a measurement set: antennas, fields, spectral window, pointing, observation,
history.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from casacore import tables
from numpy.typing import NDArray

from dsa110_assets.errors import BadDataError
from dsa110_assets.telescope import astrometry, site
from dsa110_assets.visibilities import ms_columns
from dsa110_assets.visibilities.types import Antennas, Visibilities

DAY_S = 86400.0
XX_CODE, YY_CODE = 9, 12
TOPOCENTRIC = 5
FIELD_NAME = "meridian_icrs"
_DIRECTIONS = ("PHASE_DIR", "REFERENCE_DIR", "DELAY_DIR")


@dataclass(frozen=True)
class SpectralWindow:
    """frequencies_hz (channel,) float64 ascending; channel_width_hz positive."""

    frequencies_hz: NDArray[np.float64]
    channel_width_hz: float


def write(vis: Visibilities, path: Path, note: str) -> None:
    """Fill every subtable of a measurement set whose main table has been written."""
    start_s = vis.times_mjd[0] * DAY_S - vis.interval_s / 2
    end_s = vis.times_mjd[-1] * DAY_S + vis.interval_s / 2
    _antenna(vis, path)
    _field(vis, path, start_s)
    _feed(vis, path, (start_s + end_s) / 2)
    _pointing(vis, path)
    _spectral_window(vis, path)
    _fill(
        path,
        "POLARIZATION",
        1,
        NUM_CORR=[2],
        CORR_TYPE=[[XX_CODE, YY_CODE]],
        CORR_PRODUCT=[[[0, 0], [1, 1]]],
        FLAG_ROW=[False],
    )
    _fill(path, "DATA_DESCRIPTION", 1, SPECTRAL_WINDOW_ID=[0], POLARIZATION_ID=[0], FLAG_ROW=[False])
    with tables.table(f"{path}::OBSERVATION", ack=False, readonly=False) as table:
        # Not a standard column: pyuvdata looks for the site here, and otherwise downloads it.
        table.addcols(tables.makearrcoldesc("TELESCOPE_LOCATION", 0.0, shape=[3], valuetype="double"))
    _fill(
        path,
        "OBSERVATION",
        1,
        TELESCOPE_LOCATION=site.location_itrf_m()[None, :],
        TELESCOPE_NAME=[site.TELESCOPE_NAME],
        TIME_RANGE=[[start_s, end_s]],
        OBSERVER=["DSA-110"],
        PROJECT=["DSA-110 continuum"],
        RELEASE_DATE=[end_s],
        SCHEDULE_TYPE=[""],
        FLAG_ROW=[False],
    )
    _fill(
        path,
        "STATE",
        1,
        SIG=[True],
        REF=[False],
        CAL=[0.0],
        LOAD=[0.0],
        SUB_SCAN=[0],
        OBS_MODE=["OBSERVE_TARGET#ON_SOURCE"],
        FLAG_ROW=[False],
    )
    _fill(
        path,
        "PROCESSOR",
        1,
        TYPE=["CORRELATOR"],
        SUB_TYPE=["DSA-110"],
        TYPE_ID=[-1],
        MODE_ID=[-1],
        FLAG_ROW=[False],
    )
    _fill(
        path,
        "HISTORY",
        1,
        TIME=[end_s],
        OBSERVATION_ID=[0],
        MESSAGE=[note or "visibilities in the meridian frame"],
        PRIORITY=["INFO"],
        ORIGIN=["dsa110_assets"],
        OBJECT_ID=[-1],
        APPLICATION=["dsa110_assets"],
    )


def _fill(path: Path, name: str, n_rows: int, **columns: Any) -> None:
    with tables.table(f"{path}::{name}", ack=False, readonly=False) as table:
        table.addrows(n_rows)
        for column, values in columns.items():
            table.putcol(column, values if isinstance(values[0], str) else np.asarray(values))


def _antenna(vis: Visibilities, path: Path) -> None:
    names = list(vis.antennas.names)
    n = len(names)
    _fill(
        path,
        "ANTENNA",
        n,
        NAME=names,
        STATION=[f"DSA-{name}" for name in names],
        TYPE=["GROUND-BASED"] * n,
        MOUNT=["ALT-AZ"] * n,
        POSITION=vis.antennas.relative_m + site.location_itrf_m(),
        OFFSET=np.zeros((n, 3)),
        DISH_DIAMETER=vis.antennas.diameters_m,
        FLAG_ROW=np.zeros(n, np.bool_),
    )


def _field(vis: Visibilities, path: Path, start_s: float) -> None:
    if vis.common_phase_centre:
        centres, names, times_s = vis.phase_centres_rad[:1], [FIELD_NAME], np.array([start_s])
    else:
        centres = vis.phase_centres_rad
        names = [f"{FIELD_NAME}_t{i}" for i in range(len(centres))]
        times_s = vis.times_mjd * DAY_S
    n = len(names)
    with tables.table(f"{path}::FIELD", ack=False, readonly=False) as table:
        for column in _DIRECTIONS:
            ms_columns.fix_shape(table, column, [1, 2])
        table.addrows(n)
        table.putcol("NAME", names)
        table.putcol("CODE", [""] * n)
        table.putcol("TIME", times_s)
        table.putcol("NUM_POLY", np.zeros(n, np.int32))
        table.putcol("SOURCE_ID", np.full(n, -1, np.int32))
        table.putcol("FLAG_ROW", np.zeros(n, np.bool_))
        for column in _DIRECTIONS:
            table.putcol(column, centres[:, None, :])
            _icrs(table, column)


def name_field(path: Path, index: int, name: str) -> None:
    """Rename one field of the measurement set at `path`."""
    with tables.table(f"{path}::FIELD", ack=False, readonly=False) as table:
        table.putcell("NAME", index, name)


def _icrs(table: Any, column: str) -> None:
    table.putcolkeyword(column, "MEASINFO", {"type": "direction", "Ref": "ICRS"})


def _feed(vis: Visibilities, path: Path, mid_s: float) -> None:
    n = len(vis.antennas.names)
    with tables.table(f"{path}::FEED", ack=False, readonly=False) as table:
        for column in ("BEAM_OFFSET", "POL_RESPONSE"):
            ms_columns.fix_shape(table, column, [2, 2])
        table.addrows(n)
        table.putcol("ANTENNA_ID", np.arange(n, dtype=np.int32))
        table.putcol("FEED_ID", np.zeros(n, np.int32))
        table.putcol("SPECTRAL_WINDOW_ID", np.full(n, -1, np.int32))
        table.putcol("TIME", np.full(n, mid_s))
        # 0 = valid for all times (MS definition 2.0).
        table.putcol("INTERVAL", np.zeros(n))
        table.putcol("NUM_RECEPTORS", np.full(n, 2, np.int32))
        table.putcol("BEAM_ID", np.full(n, -1, np.int32))
        table.putcol("BEAM_OFFSET", np.zeros((n, 2, 2)))
        table.putcol("POLARIZATION_TYPE", {"shape": [n, 2], "array": ["X", "Y"] * n})
        table.putcol("POL_RESPONSE", np.broadcast_to(np.eye(2, dtype=np.complex64), (n, 2, 2)).copy())
        table.putcol("POSITION", np.zeros((n, 3)))
        table.putcol("RECEPTOR_ANGLE", np.broadcast_to(np.array([0.0, np.pi / 2]), (n, 2)).copy())


def _pointing(vis: Visibilities, path: Path) -> None:
    """Fill POINTING: the dishes drift, pointing at (hour angle 0, apparent declination) at each integration, in ICRS."""
    n_antennas, n_times = len(vis.antennas.names), vis.times_mjd.size
    n = n_antennas * n_times
    where = astrometry.meridian_icrs_rad(vis.times_mjd, vis.pointing_dec_rad)
    direction = np.repeat(where[:, None, :], n_antennas, axis=0)
    with tables.table(f"{path}::POINTING", ack=False, readonly=False) as table:
        # casacore fills a column of undefined shapes slowly; addrows copies the shape of the first row.
        table.addrows(1)
        for column in ("DIRECTION", "TARGET"):
            table.putcell(column, 0, direction[0])
        table.addrows(n - 1)
        table.putcol("ANTENNA_ID", np.tile(np.arange(n_antennas, dtype=np.int32), n_times))
        for column in ("TIME", "TIME_ORIGIN"):
            table.putcol(column, np.repeat(vis.times_mjd * DAY_S, n_antennas))
        table.putcol("INTERVAL", np.full(n, vis.interval_s))
        table.putcol("NAME", ["meridian"] * n)
        table.putcol("NUM_POLY", np.zeros(n, np.int32))
        table.putcol("TRACKING", np.zeros(n, np.bool_))
        for column in ("DIRECTION", "TARGET"):
            table.putcol(column, direction)
            _icrs(table, column)


def _spectral_window(vis: Visibilities, path: Path) -> None:
    n = vis.frequencies_hz.size
    width = np.full((1, n), vis.channel_width_hz)
    _fill(
        path,
        "SPECTRAL_WINDOW",
        1,
        NAME=["DSA-110"],
        NUM_CHAN=np.array([n], np.int32),
        CHAN_FREQ=vis.frequencies_hz[None, :],
        CHAN_WIDTH=width,
        EFFECTIVE_BW=width,
        RESOLUTION=width,
        REF_FREQUENCY=vis.frequencies_hz[:1],
        TOTAL_BANDWIDTH=np.array([n * vis.channel_width_hz]),
        MEAS_FREQ_REF=np.array([TOPOCENTRIC], np.int32),
        NET_SIDEBAND=np.array([1], np.int32),
        IF_CONV_CHAIN=np.array([0], np.int32),
        FREQ_GROUP=np.array([0], np.int32),
        FREQ_GROUP_NAME=["none"],
        FLAG_ROW=[False],
    )


def directions(field: Any, column: str) -> NDArray[np.float64]:
    """(n_fields, 2) ICRS or J2000 directions [rad] of a FIELD column; tasks store them as (n, 1, 2) or (n,
    2, 1).
    """
    values = np.asarray(field.getcol(column), dtype=np.float64)
    return values.reshape(len(values), -1)[:, :2]


def antennas(path: Path) -> Antennas:
    """The ANTENNA table, positions relative to the site."""
    with tables.table(f"{path}::ANTENNA", ack=False) as table:
        return Antennas(
            tuple(table.getcol("NAME")),
            table.getcol("POSITION") - site.location_itrf_m(),
            table.getcol("DISH_DIAMETER"),
        )


def spectral_window(path: Path) -> SpectralWindow:
    """The one spectral window. BadDataError unless there is exactly one, ascending, of XX and YY."""
    with tables.table(f"{path}::SPECTRAL_WINDOW", ack=False) as table:
        if table.nrows() != 1:
            raise BadDataError(f"{path}: {table.nrows()} spectral windows; combine them into one first")
        frequencies, width = table.getcol("CHAN_FREQ")[0], float(abs(table.getcol("CHAN_WIDTH")[0, 0]))
    if np.any(np.diff(frequencies) <= 0):
        raise BadDataError(f"{path}: frequencies are not ascending")
    with tables.table(f"{path}::POLARIZATION", ack=False) as table:
        products = table.getcol("CORR_TYPE").tolist()
    if products != [[XX_CODE, YY_CODE]]:
        raise BadDataError(f"{path}: correlations {products}, expected XX, YY ({XX_CODE}, {YY_CODE})")
    return SpectralWindow(frequencies, width)


def pointing_dec_rad(path: Path) -> float:
    """Apparent pointing declination [rad] from the POINTING table's first direction. BadDataError if it is
    empty.
    """
    with tables.table(f"{path}::POINTING", ack=False) as table:
        if not table.nrows():
            raise BadDataError(f"{path}: no record of where the dishes pointed")
        ra, dec = np.ravel(table.getcell("DIRECTION", 0))[:2]
        mjd = table.getcell("TIME", 0) / DAY_S
    return float(astrometry.icrs_to_apparent_rad(ra, dec, mjd)[1])
