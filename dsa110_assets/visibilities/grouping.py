"""Assignment of subband files to observations: by header time, never by name, arrival or modification time."""

from __future__ import annotations

import filecmp
from collections import Counter, defaultdict
from collections.abc import Iterable, Set
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dsa110_assets.errors import TransientError
from dsa110_assets.telescope import band, timegrid
from dsa110_assets.visibilities import integrations
from dsa110_assets.visibilities.uvh5 import SubbandHeader
from dsa110_assets.visibilities.uvh5_pointing import SAME_DEC_RAD

SAME_TIME_S = 1.0
"""Start times of a group's subbands are identical; a second is far below the 309 s between groups."""
_OPEN = 8
"""Groups that may overlap in time: one, unless clocks went wrong."""
LEAST_SHARED = 0.5
"""A subband is left out if with it fewer than this fraction of the longest one's integrations are shared."""
SAME_POSITION_M = 0.01


@dataclass(frozen=True, eq=False)
class SubbandGroup:
    """The subbands of one observation.

    mjd_start: centre of the first integration of any subband [MJD UTC, d]; files: subband -> header, which agree in
    everything but the number of integrations; empty if every subband is in dispute; rejected: (path, reason) of files
    of the same observation that are not used.
    """

    mjd_start: float
    files: dict[int, SubbandHeader]
    rejected: tuple[tuple[Path, str], ...] = field(default=())

    @property
    def observation(self) -> str:
        """Partition key of the 5-minute window that contains the first integration's centre."""
        return timegrid.observation_key(self.mjd_start)

    @property
    def pointing_dec_deg(self) -> float:
        """Apparent declination the dishes point at [deg]; NaN without files."""
        return next((float(np.rad2deg(header.pointing_dec_rad)) for header in self.files.values()), np.nan)

    @property
    def times_mjd(self) -> NDArray[np.float64]:
        """Centres of the integrations that all files have [MJD UTC, d], ascending; empty without files."""
        return integrations.shared(self.files.values()) if self.files else np.zeros(0)

    @property
    def n_times(self) -> int:
        """Number of integrations that all files have; 0 without files."""
        return int(self.times_mjd.size)

    def missing(self, n_subbands: int = band.N_SUBBANDS) -> tuple[int, ...]:
        """Subbands of 0..n_subbands-1 that are missing."""
        return tuple(s for s in range(n_subbands) if s not in self.files)

    def complete(self, n_subbands: int = band.N_SUBBANDS) -> bool:
        """Whether every subband of 0..n_subbands-1 is present (the set counts, not the number of files)."""
        return not self.missing(n_subbands)


def group_headers(headers: Iterable[SubbandHeader], taken: Set[Path] = frozenset()) -> list[SubbandGroup]:
    """Group headers by their data time; ascending in time, the same whatever the order of the headers.

    Subbands of a group may have different numbers of integrations: those that all have are used (see LEAST_SHARED). A
    file that disagrees with most of its group, repeats a subband, or belongs to the emptier of two groups in one
    5-minute window is rejected with its reason: every path is in exactly one group, used or rejected. Of files with the
    same bytes one is used, preferably one `taken` before. If a subband's files differ in their bytes, it is unknown
    which is right, and none is used. Raises TransientError when they cannot be compared.
    """
    unique = {header.path: header for header in headers}
    ordered = sorted(unique.values(), key=lambda header: (header.mjd_start, header.subband, str(header.path)))
    clusters: list[list[SubbandHeader]] = []
    for header in ordered:
        near = next((cluster for cluster in reversed(clusters[-_OPEN:]) if _together(header, cluster[0])), None)
        if near is None:
            clusters.append([header])
        else:
            near.append(header)
    windows: dict[str, list[SubbandGroup]] = defaultdict(list)
    for cluster in clusters:
        group = _one_group(cluster, taken)
        windows[group.observation].append(group)
    return sorted((_one_window(groups) for groups in windows.values()), key=lambda group: group.mjd_start)


def _together(a: SubbandHeader, b: SubbandHeader) -> bool:
    """Whether two headers are of one observation: they start together, or overlap on the same grid of integrations."""
    start_together = abs(a.mjd_start - b.mjd_start) * 86400 < SAME_TIME_S
    return start_together or (integrations.same_grid(a, b) and integrations.overlap(a, b))


def _one_group(cluster: list[SubbandHeader], taken: Set[Path]) -> SubbandGroup:
    agreeing, rejected = _agreeing(cluster)
    stamp = Counter(header.name_stamp for header in agreeing).most_common(1)[0][0]
    by_subband: dict[int, list[SubbandHeader]] = defaultdict(list)
    for header in agreeing:
        by_subband[header.subband].append(header)
    files: dict[int, SubbandHeader] = {}
    for subband, subband_headers in sorted(by_subband.items()):
        longest = max(header.times_mjd.size for header in subband_headers)
        candidates = [header for header in subband_headers if header.times_mjd.size == longest]
        rejected += [(h.path, f"holds fewer integrations than {candidates[0].path.name}") for h in subband_headers if h not in candidates]
        candidates.sort(key=lambda header: (header.path not in taken, header.name_stamp != stamp, str(header.path)))
        first, *others = candidates
        disputing = next((other for other in others if not _same_bytes(other, first)), None)
        if disputing is None:
            files[subband] = first
            rejected += [(other.path, f"repeats {first.path.name}, with the same bytes") for other in others]
        else:
            reason = f"subband {subband} also came as {{}}, with other bytes; none of these files is used"
            rejected += [(h.path, reason.format((disputing if h is first else first).path.name)) for h in candidates]
    rejected += _leave_out_short(files)
    return SubbandGroup(min(h.mjd_start for h in files.values() or agreeing), files, tuple(rejected))


def _leave_out_short(files: dict[int, SubbandHeader]) -> list[tuple[Path, str]]:
    """Remove subbands that leave too few integrations shared, first those whose removal leaves most shared."""
    left_out = []
    longest = max((header.times_mjd.size for header in files.values()), default=0)
    while (n := integrations.shared(files.values()).size if files else longest) < LEAST_SHARED * longest:

        def without(subband: int) -> tuple[int, int]:
            others = [header for other, header in files.items() if other != subband]
            return integrations.shared(others).size, -files[subband].times_mjd.size

        header = files.pop(max(files, key=without))
        left_out.append((header.path, f"its {header.times_mjd.size} integrations leave {n} of {longest} to share"))
    return left_out


def _agreeing(cluster: list[SubbandHeader]) -> tuple[list[SubbandHeader], list[tuple[Path, str]]]:
    """Split a cluster into the largest set of files that agree, and the others with the reason."""
    families: list[list[SubbandHeader]] = []
    for header in cluster:
        for family in families:
            if _difference(header, family[0]) is None:
                family.append(header)
                break
        else:
            families.append([header])
    best = max(families, key=lambda family: (len({h.subband for h in family}), family[0].times_mjd.size))
    others = [header for family in families if family is not best for header in family]
    return best, [(h.path, f"{_difference(h, best[0])} differs from most subbands of its group") for h in others]


def _difference(a: SubbandHeader, b: SubbandHeader) -> str | None:
    """The first property in which two headers of one group differ, or None."""
    if not integrations.same_grid(a, b):
        return f"its start time ({timegrid.mjd_to_datetime(a.mjd_start):%H:%M:%S.%f})"
    if not integrations.shared([a, b]).size:
        return f"its set of integrations ({a.times_mjd.size}, none of them shared)"
    if a.n_channels != b.n_channels:
        return f"its number of channels ({a.n_channels})"
    if abs(a.interval_s - b.interval_s) > 1e-6:
        return f"its integration time ({a.interval_s} s)"
    if abs(a.pointing_dec_rad - b.pointing_dec_rad) > SAME_DEC_RAD:
        return f"its pointing declination ({np.rad2deg(a.pointing_dec_rad):.4f} deg)"
    if baseline_set(a) != baseline_set(b):
        return "its set of baselines"
    if np.max(np.abs(a.antenna_positions_m - b.antenna_positions_m)) > SAME_POSITION_M:
        return "its antenna positions"
    return None


def baseline_set(header: SubbandHeader) -> tuple[tuple[str, ...], bytes]:
    """Antenna names and sorted antenna pairs: equal for files that differ only in row order."""
    low, high = np.minimum(header.ant1, header.ant2), np.maximum(header.ant1, header.ant2)
    order = np.lexsort((high, low))
    return header.antenna_names, np.stack([low[order], high[order]]).tobytes()


def _same_bytes(a: SubbandHeader, b: SubbandHeader) -> bool:
    try:
        return a.size_bytes == b.size_bytes and filecmp.cmp(a.path, b.path, shallow=False)
    except OSError as error:
        raise TransientError(f"{a.path.name} and {b.path.name} cannot be compared ({error})") from error


def _one_window(groups: list[SubbandGroup]) -> SubbandGroup:
    """Choose the fuller group for a window: after a correlator restart two groups can start in one."""
    winner = max(groups, key=lambda group: (len(group.files) * group.n_times, -group.mjd_start))
    rejected = list(winner.rejected)
    for group in groups:
        if group is not winner:
            start = timegrid.mjd_to_datetime(group.mjd_start).strftime("%H:%M:%S")
            reason = f"its group of {start} shares the window {winner.observation} with a fuller group"
            rejected += [(header.path, reason) for header in group.files.values()]
            rejected += group.rejected
    return replace(winner, rejected=tuple(sorted(rejected)))
