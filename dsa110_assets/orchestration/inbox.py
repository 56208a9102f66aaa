"""What lies in the inbox: observations ready to run, waiting for late subbands, or unusable, and why.

Names only say which files are worth opening together; groups are formed by header time. A file that an
observation's manifest already names, unchanged, is settled and not opened again unless a new file may belong
to its group.
"""

import bisect
import time
from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from dsa110_assets.errors import BadDataError, ConfigurationError, TransientError
from dsa110_assets.telescope import timegrid

if TYPE_CHECKING:
    from dsa110_assets.visibilities.grouping import SubbandGroup
    from dsa110_assets.visibilities.uvh5 import SubbandHeader

NAME_SLACK = timedelta(minutes=15)
"""Names precede the data by up to 283 s in practice, 523 s at worst."""
CACHED_HEADERS = 4096
State = Literal["ready", "waiting", "unusable"]


@dataclass(frozen=True)
class InboxFile:
    """A finished subband file by name: `mark` is its stamp; `arrived_s` when it last changed [unix s]."""

    path: Path
    mark: str
    size_bytes: int
    mtime_ns: int
    arrived_s: float

    @property
    def identity(self) -> str:
        """What must stay the same for the file to count as unchanged."""
        return f"{self.path.name}:{self.size_bytes}:{self.mtime_ns}"


@dataclass(frozen=True)
class Candidate:
    """An observation in the inbox and what may be done with it."""

    group: "SubbandGroup"
    state: State
    reason: str
    files: tuple[str, ...]

    @property
    def observation(self) -> str:
        """Its partition key."""
        return self.group.observation


@dataclass(frozen=True)
class Inbox:
    """One look at the inbox. `unusable` are files with their reason; `settled` counts those done before."""

    candidates: tuple[Candidate, ...]
    unusable: tuple[tuple[InboxFile, str], ...]
    waiting: tuple[tuple[Path, str], ...]
    settled: int
    more: bool
    oldest_open: str | None

    def ready(self) -> list[Candidate]:
        """Observations that can run now, oldest first."""
        return [candidate for candidate in self.candidates if candidate.state == "ready"]


@dataclass(frozen=True)
class Patience:
    """How long a group waits for late subbands, how many suffice then, and what time it is [unix s].

    `by_data` counts the wait from the end of the data (a batch run over files that are all there); otherwise
    from the last change of any of its files (a live inbox, where old data may still be being copied).
    """

    subbands: int
    min_subbands: int
    wait_s: float
    now_s: float
    by_data: bool

    def state(self, group: "SubbandGroup", arrived_s: float) -> tuple[State, str]:
        """The group's state, and the reason in words."""
        missing = group.missing(self.subbands)
        if not missing:
            return "ready", f"all {self.subbands} subbands"
        told = f"{len(group.files)} of {self.subbands} subbands (missing {', '.join(f'sb{s:02d}' for s in missing)})"
        settled_s = self._end_s(group) if self.by_data else max(arrived_s, self._end_s(group))
        if self.now_s < settled_s + self.wait_s:
            until = datetime.fromtimestamp(settled_s + self.wait_s, UTC)
            return "waiting", f"{told}; waits for the rest until {until:%Y-%m-%dT%H:%M:%S}"
        if len(group.files) >= min(self.min_subbands, self.subbands):
            return "ready", f"{told}; the rest did not come in {self.wait_s:.0f} s"
        return "unusable", f"{told}; at least {min(self.min_subbands, self.subbands)} are needed"

    def growing(self, file: InboxFile) -> bool:
        """Whether an unreadable file may still be on its way."""
        began_s = datetime.fromisoformat(file.mark).replace(tzinfo=UTC).timestamp()
        return self.now_s < (began_s if self.by_data else max(file.arrived_s, began_s)) + timegrid.GROUP_S + self.wait_s

    @staticmethod
    def _end_s(group: "SubbandGroup") -> float:
        return timegrid.mjd_to_datetime(group.mjd_start).timestamp() + timegrid.GROUP_S


def listing(inbox: Path) -> tuple[list[InboxFile], list[Path]]:
    """(finished subband files by name, files still being written). ConfigurationError if there is no inbox."""
    from dsa110_assets.visibilities.uvh5 import parse_name

    if not inbox.is_dir():
        raise ConfigurationError(f"DSA110_INBOX={inbox}: no such directory; name the directory the subband files arrive in")
    finished, unfinished = [], []
    for path in sorted(inbox.glob("*.hdf5")):
        try:
            stamp, _ = parse_name(path)
            datetime.fromisoformat(stamp)
            facts = path.stat()
        except (BadDataError, ValueError):
            unfinished.append(path)
        except FileNotFoundError:
            continue
        else:
            arrived_s = max(facts.st_mtime, facts.st_ctime)
            finished.append(InboxFile(path, stamp, facts.st_size, facts.st_mtime_ns, arrived_s))
    return finished, unfinished


def look(inbox: Path, patience: Patience, settled: frozenset[str] = frozenset(), max_files: int | None = None) -> Inbox:
    """Group what is open in the inbox. `settled` are identities of files that need no second look.

    With `max_files` only so many of the oldest open files are opened (`more` says that there are others).
    """
    finished, unfinished = listing(inbox)
    open_files = [file for file in finished if file.identity not in settled]
    chosen = open_files if max_files is None else open_files[:max_files]
    near = _near(finished, chosen)
    headers, unreadable = _headers(near)
    by_path = {file.path: file for file in near}
    fresh = {file.path for file in chosen}
    candidates, bad = [], [(file, reason) for file, reason in unreadable if file.path in fresh]
    for group in _groups(headers):
        members = [by_path[header.path] for header in group.files.values()]
        rejected = [(by_path[path], reason) for path, reason in group.rejected if path in fresh]
        bad += rejected
        if fresh & {file.path for file in members}:
            state, reason = patience.state(group, max(file.arrived_s for file in members))
            candidates.append(Candidate(group, state, reason, tuple(sorted(file.identity for file in members))))
    waiting = [(path, "is still being written") for path in unfinished]
    waiting += [(file.path, reason) for file, reason in bad if patience.growing(file)]
    return Inbox(
        candidates=tuple(candidates),
        unusable=tuple((file, reason) for file, reason in bad if not patience.growing(file)),
        waiting=tuple(waiting),
        settled=len(finished) - len(open_files),
        more=len(chosen) < len(open_files),
        oldest_open=min((file.mark for file in open_files), default=None),
    )


def find_group(inbox: Path, observation: str) -> "tuple[SubbandGroup, tuple[str, ...]] | None":
    """The group of one observation window and the identities of its files; None if there is none."""
    finished, _ = listing(inbox)
    start = timegrid.parse_key(observation)
    for slack in (NAME_SLACK, timedelta(days=1)):
        low, high = _mark(start - slack), _mark(start + timegrid.OBSERVATION_WINDOW + slack)
        near = [file for file in finished if low <= file.mark <= high]
        headers, _ = _headers(near)
        identities = {file.path: file.identity for file in near}
        for group in _groups(headers):
            if group.observation == observation:
                return group, tuple(sorted(identities[header.path] for header in group.files.values()))
    return None


def now_s() -> float:
    """The time by which groups are waited for."""
    return time.time()


def _mark(moment: datetime) -> str:
    return moment.strftime("%Y-%m-%dT%H:%M:%S")


def _near(finished: Sequence[InboxFile], chosen: Sequence[InboxFile]) -> list[InboxFile]:
    """The chosen files and every other whose name is close enough in time to share their group."""
    marks = sorted({file.mark for file in chosen})
    windows: list[tuple[str, str]] = []
    for mark in marks:
        moment = datetime.fromisoformat(mark)
        low, high = _mark(moment - NAME_SLACK), _mark(moment + NAME_SLACK)
        if windows and low <= windows[-1][1]:
            windows[-1] = (windows[-1][0], high)
        else:
            windows.append((low, high))
    starts = [low for low, _ in windows]

    def close(mark: str) -> bool:
        place = bisect.bisect_right(starts, mark) - 1
        return place >= 0 and mark <= windows[place][1]

    return [file for file in finished if close(file.mark)]


_cache: "OrderedDict[str, SubbandHeader | str]" = OrderedDict()


def _headers(files: Iterable[InboxFile]) -> "tuple[list[SubbandHeader], list[tuple[InboxFile, str]]]":
    """Headers of the readable files, and the others with the reason; each unchanged file is opened once."""
    headers, unreadable = [], []
    for file in files:
        key = f"{file.path.parent}/{file.identity}"
        if key not in _cache:
            try:
                _cache[key] = _read(file.path)
            except TransientError as error:
                unreadable.append((file, str(error)))
                continue
            while len(_cache) > CACHED_HEADERS:
                _cache.popitem(last=False)
        found = _cache[key]
        if isinstance(found, str):
            unreadable.append((file, found))
        else:
            headers.append(found)
    return headers, unreadable


def _read(path: Path) -> "SubbandHeader | str":
    from dsa110_assets.visibilities.uvh5 import read_header

    try:
        return _shared(read_header(path))
    except BadDataError as error:
        return str(error)


_arrays: dict[tuple[str, bytes], object] = {}


def _shared(header: "SubbandHeader") -> "SubbandHeader":
    """The header with its large arrays shared between files that have the same ones: hundreds of MB a day less."""
    from dataclasses import replace

    names = ("ant1", "ant2", "antenna_positions_m", "antenna_diameters_m", "frequencies_hz", "antenna_names")
    shared: dict[str, object] = {}
    for name in names:
        value = getattr(header, name)
        key = (name, value.tobytes() if hasattr(value, "tobytes") else repr(value).encode())
        if len(_arrays) > 256:
            _arrays.clear()
        shared[name] = _arrays.setdefault(key, value)
    return replace(header, **shared)  # type: ignore[arg-type]


def _groups(headers: "Sequence[SubbandHeader]") -> "list[SubbandGroup]":
    from dsa110_assets.visibilities.grouping import group_headers

    return group_headers(headers) if headers else []


def manifest(group: "SubbandGroup", identities: Sequence[str], n_subbands: int, digests: Mapping[Path, str]) -> dict[str, object]:
    """What a subband_group product says: files with digests, subbands present and missing, header facts."""
    first = next(iter(group.files.values()))
    return {
        "observation": group.observation,
        "mjd_start": group.mjd_start,
        "pointing_dec_deg": group.pointing_dec_deg,
        "integrations": group.n_times,
        "interval_s": first.interval_s,
        "channels": first.n_channels,
        "antennas": list(first.active_antennas),
        "has_fs_table": first.has_fs_table,
        "subbands_missing": list(group.missing(n_subbands)),
        "identities": list(identities),
        "files": [
            {
                "path": str(header.path),
                "size_bytes": header.size_bytes,
                "digest": digests[header.path],
                "subband": subband,
                "stamp": header.name_stamp,
            }
            for subband, header in sorted(group.files.items())
        ],
        "rejected": [{"path": str(path), "reason": reason} for path, reason in group.rejected],
    }
