"""Read the subband files of one observation into one `Visibilities`: ascending band, canonical baselines, meridian
frame.

The correlator stopped the fringes of each integration at (hour angle 0, apparent pointing declination), so the data are
used unchanged. Phase centres and uvw are computed for that direction, because the file's uvw are float32 and belong to
one fixed date.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numba
import numpy as np
from numpy.typing import NDArray

from dsa110_assets.errors import BadDataError
from dsa110_assets.telescope import astrometry, band
from dsa110_assets.visibilities import integrations
from dsa110_assets.visibilities.grouping import baseline_set
from dsa110_assets.visibilities.samples import Samples
from dsa110_assets.visibilities.types import Antennas, Visibilities
from dsa110_assets.visibilities.uvh5 import SubbandHeader, read_header

Engine = Literal["direct", "pyuvdata"]
_THREADS = 2 * (os.cpu_count() or 1)
"""Reading waits for the disk as much as it computes."""
_RUN_BYTES = 4 << 20
"""Bytes that a thread reads at a time: an integration of the whole array is 3.6 MB."""
_SIGN, _EXPONENT = np.int64(-(2**63)), np.int64(0x7F800000)
"""Bits of a complex64 as a little-endian int64: the sign of the imaginary part; the exponent of a float32."""


def read_group(files: Mapping[int, Path], n_subbands: int = band.N_SUBBANDS, engine: Engine = "direct") -> Visibilities:
    """Read an observation's subband files {subband: path} into the band of subbands 0..n_subbands-1.

    Baselines are sorted by (ant1, ant2) with ant1 <= ant2; data are conjugated where the file has a baseline reversed.
    Absent subbands are zeros, flagged, of weight 0. A NaN or infinite sample becomes 0, flagged, of weight 0. Weights
    of good samples are 1, because the file's nsamples are constant even where data were lost. `engine="pyuvdata"` reads
    through pyuvdata, for comparison. Raises BadDataError when there is no file or files disagree.
    """
    group = open_group(files, n_subbands)
    shape = group.frame.data.shape
    data, flags, weights = np.empty(shape, np.complex64), np.empty(shape, np.bool_), np.empty(shape, np.float32)
    if engine == "direct":
        group.load(np.arange(shape[1]), data, flags, weights)
    else:
        from dsa110_assets.engines import pyuvdata

        for subband, header in group.headers.items():
            part = np.s_[:, :, group.channels(subband)]
            rows = header.rows[integrations.places(header, group.frame.times_mjd)]
            pyuvdata.load(
                header.path, header.frequencies_hz, rows, (group.frame.ant1, group.frame.ant2), data[part], flags[part], weights[part]
            )
        group.blank_missing(data, flags, weights)
    return replace(group.frame, data=data, flags=flags, weights=weights)


@dataclass(frozen=True, eq=False)
class Group:
    """An observation whose headers were read and agree, and whose samples can be loaded some baselines at a time.

    headers {subband: header}; frame: a Visibilities whose data (0), flags (False) and weights (1; 0 in absent subbands)
    are read-only constants that take no memory.
    """

    headers: Mapping[int, SubbandHeader]
    frame: Visibilities

    @cached_property
    def _samples(self) -> Mapping[int, Samples]:
        """The locations of each subband's samples, looked up once and used by every block."""
        with ThreadPoolExecutor(_THREADS) as pool:
            return dict(zip(self.headers, pool.map(lambda header: Samples(header.path), self.headers.values()), strict=True))

    def channels(self, subband: int) -> slice:
        """The slice of a subband's channels in the ascending band."""
        n = next(iter(self.headers.values())).n_channels
        low = self.frame.frequencies_hz.size - (subband + 1) * n
        return slice(low, low + n)

    def blocks(self, limit_bytes: float) -> list[NDArray[np.int64]]:
        """Divide the baselines (indices into the frame's, ascending) into blocks whose samples and flags fit into
        `limit_bytes`.

        Baselines that are adjacent in the files are in the same block. A block has at least one baseline.
        """
        header = next(iter(self.headers.values()))
        _, _, place, _ = _canonical(header)
        n_times, _, n_channels, n_pols = self.frame.data.shape
        per_baseline = n_times * n_channels * n_pols * (8 + 1)
        n = max(int(limit_bytes // per_baseline), 1)
        count = -(-place.size // n)
        return [np.sort(part) for part in np.array_split(place, count)]

    def load(
        self,
        baselines: NDArray[np.int64],
        data: NDArray[np.complex64],
        flags: NDArray[np.bool_],
        weights: NDArray[np.float32] | None = None,
        *,
        conjugate: bool = False,
    ) -> int:
        """Fill (time, len(baselines), channel, pol) arrays with some of the frame's baselines, as described in
        read_group.

        `conjugate`: use the other sign convention. Returns how many samples of delivered subbands were not finite.
        """
        unweighted = np.empty((0, 0, 0, 0), np.float32)

        def load_subband(subband: int) -> int:
            part = np.s_[:, :, self.channels(subband)]
            weights_part = unweighted if weights is None else weights[part]
            header = self.headers[subband]
            rows = header.rows[integrations.places(header, self.frame.times_mjd)]
            return _load(header, rows, self._samples[subband], baselines, data[part], flags[part], weights_part, conjugate)

        with ThreadPoolExecutor(_THREADS) as pool:
            bad = sum(pool.map(load_subband, self.headers))
        self.blank_missing(data, flags, weights)
        return bad

    def blank_missing(self, data: NDArray[np.complex64], flags: NDArray[np.bool_], weights: NDArray[np.float32] | None) -> None:
        """Set absent subbands to zeros, flagged, of weight 0."""
        for subband in self.frame.subbands_missing:
            part = np.s_[:, :, self.channels(subband)]
            data[part], flags[part] = 0, True
            if weights is not None:
                weights[part] = 0


def open_group(files: Mapping[int, Path], n_subbands: int = band.N_SUBBANDS) -> Group:
    """Read the headers of an observation's subband files {subband: path}, check them against each other, and compute
    their frame.

    Its integrations are those that all files have. Raises BadDataError when there is no file or files disagree.
    """
    headers = {subband: read_header(Path(path)) for subband, path in sorted(files.items())}
    _check(headers, n_subbands)
    first, times = next(iter(headers.values())), integrations.shared(headers.values())
    n_channels, missing = first.n_channels, tuple(s for s in range(n_subbands) if s not in headers)
    ant1, ant2, _, _ = _canonical(first)
    shape = (times.size, ant1.size, n_subbands * n_channels, 2)
    present = ~np.isin(np.arange(n_subbands)[::-1], missing)
    weights = np.repeat(present, n_channels).astype(np.float32)
    dec = first.pointing_dec_rad
    centres = astrometry.meridian_icrs_rad(times, dec)
    antenna_uvw = astrometry.icrs_uvw_m(first.antenna_positions_m, centres, times)
    frame = Visibilities(
        data=np.broadcast_to(np.complex64(0), shape),
        flags=np.broadcast_to(np.bool_(False), shape),
        weights=np.broadcast_to(weights[:, None], shape),
        ant1=ant1,
        ant2=ant2,
        times_mjd=times,
        interval_s=first.interval_s,
        frequencies_hz=band.band_frequencies_hz(n_subbands, n_channels),
        channel_width_hz=band.channel_width_hz(n_channels),
        uvw_m=antenna_uvw[:, ant2] - antenna_uvw[:, ant1],
        phase_centres_rad=centres,
        pointing_dec_rad=dec,
        antennas=Antennas(first.antenna_names, first.antenna_positions_m, first.antenna_diameters_m),
        subbands_missing=missing,
    )
    return Group(headers, frame)


def _check(headers: Mapping[int, SubbandHeader], n_subbands: int) -> None:
    if not headers:
        raise BadDataError("no subband files to read")
    first = next(iter(headers.values()))
    for subband, header in headers.items():
        same_axes = (
            header.n_channels == first.n_channels
            and baseline_set(header) == baseline_set(first)
            and integrations.same_grid(header, first)
            and integrations.shared([header, first]).size > 0
        )
        if header.subband != subband or subband >= n_subbands:
            raise BadDataError(f"{header.path}: holds subband {header.subband}, expected {subband} of {n_subbands}")
        if not same_axes:
            raise BadDataError(f"{header.path}: times, channels or baselines differ from {first.path.name}")
    if not integrations.shared(headers.values()).size:
        raise BadDataError(f"{first.path}: no integration is in all {len(headers)} subbands of its observation")


def _canonical(
    header: SubbandHeader,
) -> tuple[NDArray[np.int32], NDArray[np.int32], NDArray[np.int64], NDArray[np.bool_]]:
    """(ant1, ant2) sorted with ant1 <= ant2, the destination of each file row, and whether it is conjugated."""
    reversed_ = header.ant1 > header.ant2
    low, high = np.minimum(header.ant1, header.ant2), np.maximum(header.ant1, header.ant2)
    order = np.lexsort((high, low))
    place = np.empty(order.size, np.int64)
    place[order] = np.arange(order.size)
    return low[order], high[order], place, reversed_


def _load(
    header: SubbandHeader,
    rows: NDArray[np.int32],
    samples: Samples,
    baselines: NDArray[np.int64],
    data: NDArray[Any],
    flags: NDArray[Any],
    weights: NDArray[Any],
    conjugate: bool,
) -> int:
    """Load one subband for Group.load; rows (time, baseline) that are adjacent in the file are read together."""
    _, _, place, reversed_ = _canonical(header)
    destination = np.full(place.size, -1)
    destination[baselines] = np.arange(baselines.size)
    requested = np.flatnonzero(destination[place] >= 0)
    moment, baseline = np.divmod(np.argsort(rows[:, requested], axis=None, kind="stable"), requested.size)
    baseline = requested[baseline]
    flip = np.where(reversed_[baseline] != conjugate, _SIGN, 0)
    raw = np.empty((max(_RUN_BYTES // (header.n_channels * header.n_pols * 8), 1), header.n_channels, header.n_pols), np.complex64)
    raw_flags, bad, descending = np.empty(raw.shape, np.bool_), 0, _descending(header)
    with samples:
        for low, high in _runs(rows[moment, baseline], len(raw)):
            n = high - low
            samples.read(int(rows[moment[low], baseline[low]]), raw[:n], raw_flags[:n])
            bad += _scatter(
                raw[:n].view(np.int64),
                raw_flags[:n].view(np.uint8),
                moment[low:high],
                destination[place[baseline[low:high]]],
                flip[low:high],
                descending,
                *header.pol_index,
                data.view(np.int64),
                flags.view(np.uint8),
                weights,
            )
    return bad


def _runs(rows: NDArray[np.int32], longest: int) -> Iterator[tuple[int, int]]:
    """Yield (first, end) places of consecutive rows in ascending `rows`; at most `longest` rows at a time."""
    starts = np.flatnonzero(np.diff(rows, prepend=-2) != 1).tolist()
    for start, end in zip(starts, [*starts[1:], rows.size], strict=True):
        for low in range(start, end, longest):
            yield low, min(low + longest, end)


@numba.njit(cache=True, nogil=True)
def _scatter(raw, raw_flags, moment, place, flip, descending, pol_x, pol_y, data, flags, weights):  # type: ignore[no-untyped-def]
    """Put rows (row, channel, pol) in their places in order, frequency direction and sign. Returns how many samples
    were not finite.

    raw and data are complex64 viewed as int64 and flags bool viewed as uint8, which compile to moves of whole words;
    `flip` (row,) is the sign bit of the imaginary part where a row is to be conjugated, else 0.
    """
    n_rows, n_channels = raw.shape[0], raw.shape[1]
    bad = 0
    for row in range(n_rows):
        t, to, sign, wrong = moment[row], place[row], flip[row], 0
        first, step = (n_channels - 1, -1) if descending else (0, 1)
        for k in range(n_channels):
            channel = first + step * k
            x, y = raw[row, k, pol_x], raw[row, k, pol_y]
            wrong += _not_finite(x) + _not_finite(y)
            data[t, to, channel, 0], data[t, to, channel, 1] = x ^ sign, y ^ sign
            flags[t, to, channel, 0], flags[t, to, channel, 1] = raw_flags[row, k, pol_x], raw_flags[row, k, pol_y]
        if weights.size:
            weights[t, to] = np.float32(1)
        if wrong:
            bad += wrong
            for k in range(n_channels):
                for p in range(2):
                    if _not_finite(data[t, to, k, p]):
                        data[t, to, k, p], flags[t, to, k, p] = 0, 1
                        if weights.size:
                            weights[t, to, k, p] = np.float32(0)
    return bad


@numba.njit(cache=True, inline="always")
def _not_finite(bits):  # type: ignore[no-untyped-def]
    """1 if a part of a complex64, given as its 64 bits, is NaN or infinite (exponent all ones), else 0."""
    real, imaginary = bits & _EXPONENT, (bits >> 32) & _EXPONENT
    return int(real == _EXPONENT) | int(imaginary == _EXPONENT)


def _descending(header: SubbandHeader) -> bool:
    return header.n_channels > 1 and bool(header.frequencies_hz[1] < header.frequencies_hz[0])
