"""The contents of the inbox: observations that are ready to run, wait for late subbands, or are unusable, and why.

File names only decide which files to open together; groups are formed by the time in the headers. An unchanged file
that an observation's manifest already names is settled. It is not opened again unless a new file may belong to its
group. A file that is still changing is not opened at all.
"""

import bisect
import logging
import os
import re
import threading
import time
from collections import OrderedDict, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from functools import cache, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from dsa110_assets.archive import quarantine
from dsa110_assets.archive.lineage import MANIFEST
from dsa110_assets.errors import BadDataError, ConfigurationError, TransientError
from dsa110_assets.orchestration.specification import season
from dsa110_assets.telescope import timegrid

if TYPE_CHECKING:
    from dsa110_assets.archive.store import Archive
    from dsa110_assets.visibilities.grouping import SubbandGroup
    from dsa110_assets.visibilities.uvh5 import SubbandHeader

log = logging.getLogger(__name__)
NAME_SLACK = timedelta(minutes=15)
"""The time in a name precedes the data by up to 283 s in practice, 523 s at worst."""
NAME_SKEW = timedelta(minutes=75)
"""Allows for a node whose clock is an hour wrong, plus the usual slack."""
CACHED_HEADERS = 4096
CACHED_CONTENTS = 100_000
COMPARE_S = 20.0
"""Time limit of a live scan for reading files whose modification time is new; a file takes up to a second."""
SUBBAND_NAME = "YYYY-MM-DDTHH:MM:SS_sb00.hdf5 .. _sb15.hdf5"
YEARS = ("1990", "2200")
"""Years outside this range cannot be times of this telescope, and date arithmetic would overflow at the calendar's last day."""
LAST_S = 2**32
"""Modification times later than 2106 [unix s] come from a broken clock or file system."""
_LIKE_DATA = re.compile(r"\d{4}-\d\d-\d\dT\d\d|_sb\d\d|\.(uvh5|uvfits|hdf|hdf5|h5)\b", re.IGNORECASE)
"""Matches names of files that were meant as observed data, even if the name is wrong otherwise."""
State = Literal["ready", "waiting", "unusable"]


@dataclass(frozen=True)
class InboxFile:
    """A subband file with a finished name. `mark` is the time stamp in the name; `arrived_s` is when the file last changed
    [unix s]; `known_as` is the identity under which the same bytes were used before, if the modification time differs now."""

    path: Path
    mark: str
    size_bytes: int
    mtime_ns: int
    arrived_s: float
    known_as: str = ""

    @property
    def identity(self) -> str:
        """The string that must stay the same for the file to count as unchanged."""
        return self.known_as or f"{self.path.name}:{self.size_bytes}:{self.mtime_ns}"

    @property
    def key(self) -> str:
        """The identity together with the inbox's path, so that it is unique among inboxes."""
        return f"{self.path.parent}/{self.identity}"

    @property
    def named_at(self) -> datetime:
        """The time stamp in the name (UTC), or the file's time of arrival if the name has none."""
        from dsa110_assets.visibilities.uvh5 import stamp_time

        try:
            return stamp_time(self.mark, self.path)
        except BadDataError:
            return datetime.fromtimestamp(self.arrived_s, UTC)


@dataclass(frozen=True)
class Known:
    """Identities of files that were judged before. `used` files are named by a manifest or were quarantined with their whole
    group; they count again when other files of their group arrive. `refused` files were quarantined singly and never count again."""

    used: frozenset[str] = frozenset()
    refused: frozenset[str] = frozenset()
    digests: Callable[[], Mapping[str, str]] = dict
    """{identity: digest} of the used files, where a manifest states it; called only if a file's modification time is new."""


@dataclass(frozen=True)
class Candidate:
    """An observation in the inbox, whether it can run, and why."""

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
    """The result of one scan of the inbox. `unusable` and `waiting` are files with the reason. `changing` counts the waiting
    files that changed a moment ago, and `settled` those done before. `more` says that some open files were not opened. `foreign`
    files are not subband files and do not look like them either."""

    candidates: tuple[Candidate, ...]
    unusable: tuple[tuple[Path, str], ...]
    waiting: tuple[tuple[Path, str], ...]
    changing: int
    settled: int
    more: bool
    foreign: tuple[tuple[Path, str], ...] = ()

    def ready(self) -> list[Candidate]:
        """Observations that can run now, oldest first."""
        return [candidate for candidate in self.candidates if candidate.state == "ready"]


@dataclass(frozen=True)
class Patience:
    """How long a group waits for late subbands, how many subbands suffice after that, and the current time [unix s].

    With `by_data` the wait starts at the end of the data (a batch run over files that are all there). Otherwise it starts at
    the last change of any of the group's files (a live inbox, where old data may still be being copied). A file must have been
    unchanged for `still_s`: by the file server's clock, or, live, from one scan to another by our own clock.
    `outside` returns why an observation has no partition, or None if it has one. An observation without a partition always waits.
    """

    subbands: int
    min_subbands: int
    wait_s: float
    still_s: float
    now_s: float
    by_data: bool
    outside: Callable[[str], str | None] = lambda _: None

    def state(self, group: "SubbandGroup", arrived_s: float) -> tuple[State, str]:
        """Return the group's state and the reason as text."""
        if reason := self.outside(group.observation):
            return "waiting", reason
        missing = group.missing(self.subbands)
        if not missing:
            return "ready", f"all {self.subbands} subbands"
        present = f"{len(group.files)} of {self.subbands} subbands (missing {', '.join(f'sb{s:02d}' for s in missing)})"
        settled_s = self._end_s(group) if self.by_data else max(arrived_s, self._end_s(group))
        if self.now_s < settled_s + self.wait_s:
            until = datetime.fromtimestamp(settled_s + self.wait_s, UTC)
            return "waiting", f"{present}; waits for the rest until {until:%Y-%m-%dT%H:%M:%S}"
        if len(group.files) >= min(self.min_subbands, self.subbands):
            return "ready", f"{present}; the rest did not come in {self.wait_s:.0f} s"
        return "unusable", f"{present}; at least {min(self.min_subbands, self.subbands)} are needed"

    def growing(self, file: InboxFile) -> bool:
        """Whether an unreadable file may still be arriving. A time in the name later than the file's arrival is ignored."""
        began_s = min(file.named_at.timestamp(), file.arrived_s) if self.by_data else file.arrived_s
        return self.now_s < began_s + timegrid.GROUP_S + self.wait_s

    def being_written(self, file: InboxFile) -> bool:
        """Whether a file with an unfinished name may still be being written. Times ahead of our clock are ignored."""
        stamps = [at_s for at_s in (file.named_at.timestamp(), file.mtime_ns / 1e9) if at_s <= self.now_s]
        return self.now_s < max(stamps, default=file.arrived_s) + timegrid.GROUP_S + self.wait_s

    def changing(self, files: "Sequence[InboxFile]") -> set[Path]:
        """The files that changed too recently to be opened."""
        if not self.still_s:
            return set()
        if self.by_data:
            return {file.path for file in files if abs(self.now_s - file.mtime_ns / 1e9) < self.still_s}
        now = time.monotonic()
        first = {file.key: _first_seen.get(file.key, now) for file in files}
        _first_seen.clear()
        _first_seen.update(first)
        return {file.path for file in files if now - first[file.key] < self.still_s}

    @staticmethod
    def _end_s(group: "SubbandGroup") -> float:
        return timegrid.mjd_to_datetime(group.mjd_start).timestamp() + timegrid.GROUP_S


@dataclass(frozen=True)
class Listing:
    """The inbox by file names alone: `finished` subband files and those still being `written`; and, each with the reason,
    `misnamed` files, files whose status cannot be read for now (`away`), and `foreign` files, which are not subband files."""

    finished: tuple[InboxFile, ...]
    written: tuple[InboxFile, ...]
    misnamed: tuple[tuple[InboxFile, str], ...]
    away: tuple[tuple[Path, str], ...] = ()
    foreign: tuple[tuple[Path, str], ...] = ()


def listing(inbox: Path) -> Listing:
    """List every file in the inbox directory itself; links are not followed.

    Raises ConfigurationError if there is no inbox, TransientError if it cannot be read for now.
    """
    finished, written, misnamed, away, foreign = [], [], [], [], []
    for entry in _entries(inbox):
        path = inbox / entry.name
        if not entry.name.endswith(".hdf5"):
            if not entry.name.startswith(".") or looks_like_data(path):
                foreign.append((path, f"is no subband file and is not read; those are named {SUBBAND_NAME}"))
            continue
        try:
            status = entry.stat(follow_symlinks=False)
        except FileNotFoundError:
            continue
        except OSError as error:
            away.append((path, f"its status cannot be read now ({error.strerror})"))
            continue
        arrived_s = min(max(status.st_mtime, status.st_ctime, 0.0), LAST_S)
        file = InboxFile(path, path.name[:19], status.st_size, status.st_mtime_ns, arrived_s)
        if reason := _misnamed(path):
            if path.stem.endswith("_incomplete"):
                written.append(file)
            else:
                misnamed.append((file, reason))
        else:
            finished.append(file)
    return Listing(tuple(finished), tuple(written), tuple(misnamed), tuple(away), tuple(foreign))


def _entries(inbox: Path) -> "list[os.DirEntry[str]]":
    try:
        with os.scandir(inbox) as entries:  # names instead of paths: a hundred thousand are sorted in a tenth of the time
            return sorted(entries, key=lambda entry: entry.name)
    except (FileNotFoundError, NotADirectoryError):
        raise ConfigurationError(f"DSA110_INBOX={inbox}: no such directory; name the directory the subband files arrive in") from None
    except OSError as error:
        raise TransientError(f"DSA110_INBOX={inbox} cannot be read now ({error.strerror}); let this user read it") from error


def _misnamed(path: Path) -> str:
    """The reason why a subband file's name is invalid; '' if it is valid."""
    from dsa110_assets.visibilities.uvh5 import parse_name

    try:
        stamp, _ = parse_name(path)
    except BadDataError as error:
        return str(error)
    return "" if YEARS[0] <= stamp[:4] < YEARS[1] else f"the name {path.name} has a year in which this telescope does not observe"


def looks_like_data(path: Path) -> bool:
    """Whether a file was meant as observed data, judged by its name."""
    return _LIKE_DATA.search(path.name) is not None


def scan(inbox: Path, patience: Patience, known: Known = Known(), max_files: int | None = None, names: Listing | None = None) -> Inbox:
    """Group the inbox's open files, which are those not in `known`, together with the known files near them in time.

    With `max_files` at most that many open files are read (`more` says that there are others): one half the oldest, one
    half the newest, so that neither a backlog nor files that never become usable delay present observations. `names` is the
    inbox's listing, if the caller has one already.
    """
    names = names or listing(inbox)
    usable = [file for file in names.finished if file.identity not in known.refused]
    open_files = [file for file in usable if file.identity not in known.used]
    changing = patience.changing(open_files)
    still = [file for file in open_files if file.path not in changing]
    same, later = _same_content(still, known, float("inf") if max_files is None else COMPARE_S)
    usable = [same.get(file.path, file) for file in usable if file.path not in later]
    still = [file for file in still if file.path not in same and file.path not in later]
    chosen = _chosen(still, max_files, patience.now_s)
    data_times = {timegrid.mjd_to_datetime(header.mjd_start) for header in _headers(chosen)[0]}
    near = _near([file for file in usable if file.path not in changing], {file.named_at for file in chosen} | data_times)
    headers, unreadable, away = _headers(near)
    by_path = {file.path: file for file in usable}
    fresh = {file.path for file in chosen}
    taken = {file.path for file in usable if file.identity in known.used}
    candidates = []
    bad = [(file, reason) for file, reason in unreadable if file.path in fresh]
    bad += [(file, reason) for file, reason in names.misnamed if file.identity not in known.refused]
    written = [file for file in names.written if file.identity not in known.refused]
    abandoned = [file for file in written if not patience.being_written(file)]
    waiting = [(file.path, "is still being written") for file in written if file not in abandoned]
    waiting += [*names.away, *((path, reason) for path, reason in names.foreign if looks_like_data(path))]
    groups, incomparable = _groups(headers, taken)
    for group in groups:
        members = [by_path[path] for path in _paths(group)]
        rejected = [(by_path[path], reason) for path, reason in group.rejected]
        if not fresh & {file.path for file in (*members, *(file for file, _ in rejected))}:
            continue
        state, reason = patience.state(group, max((file.arrived_s for file in members), default=0.0))
        if fresh & set(_paths(group)):
            candidates.append(Candidate(group, state, reason, tuple(sorted(file.identity for file in members))))
        if state == "waiting":  # which files are the minority is only known once the others have arrived
            waiting += [(file.path, reason) for file, reason in rejected]
        else:
            bad += rejected
    waiting += [(path, f"changed less than {patience.still_s:g} s ago") for path in sorted(changing)]
    waiting += [(path, "its modification time is new; a later scan compares its bytes with those used before") for path in sorted(later)]
    waiting += [(file.path, reason) for file, reason in away]
    waiting += [(path, reason) for path, reason in incomparable if path in fresh]
    waiting += [(file.path, reason) for file, reason in bad if patience.growing(file)]
    return Inbox(
        candidates=tuple(candidates),
        unusable=(*((file.path, reason) for file, reason in bad if not patience.growing(file)), *map(_unfinished, abandoned)),
        waiting=tuple(waiting),
        changing=len(changing),
        settled=len(names.finished) - len(open_files) + len(same),
        more=len(chosen) < len(still),
        foreign=tuple((path, reason) for path, reason in names.foreign if not looks_like_data(path)),
    )


def _chosen(still: list[InboxFile], max_files: int | None, now_s: float) -> list[InboxFile]:
    """The files to open in this scan: the oldest and newest of those whose names lie in a partition, then others."""
    if max_files is None or len(still) <= max_files:
        return still
    first, last = season.START, _mark(datetime.fromtimestamp(now_s, UTC))
    inside = [file for file in still if first <= file.mark <= last]
    half = max_files // 2
    chosen = inside if len(inside) <= max_files else inside[:half] + inside[-half:]
    others = [file for file in still if not first <= file.mark <= last]
    return chosen + others[: max_files - len(chosen)]


def _unfinished(file: InboxFile) -> tuple[Path, str]:
    """The path and reason for a file with an unfinished name that is no longer being written."""
    since = f"{datetime.fromtimestamp(min(max(file.mtime_ns / 1e9, 0.0), LAST_S), UTC):%Y-%m-%dT%H:%M:%S}"
    return file.path, f"was never finished, unchanged since {since}; give it its final name if it is whole, else copy it again"


def find_group(
    inbox: Path, observation: str, n_subbands: int, known: Known, own: frozenset[str]
) -> "tuple[SubbandGroup, tuple[str, ...]] | None":
    """Return the group of one observation window and the identities of its files; None if there is no such group.

    `own` are identities that its manifest names already. While subbands are missing, files whose names differ more in
    time are opened too, unless they belong to another observation: a node's clock may be an hour wrong.
    """
    usable = [file for file in listing(inbox).finished if file.identity not in known.refused]
    known = replace(known, used=known.used | own)
    same, _ = _same_content([file for file in usable if file.identity not in known.used], known, float("inf"))
    usable = [same.get(file.path, file) for file in usable]
    start = timegrid.parse_key(observation)
    taken = {file.path for file in usable if file.identity in known.used}
    match = None
    for slack in (NAME_SLACK, NAME_SKEW, timedelta(days=1)):
        low, high = _mark(start - slack), _mark(start + timegrid.OBSERVATION_WINDOW + slack)
        close = _mark(start - NAME_SLACK), _mark(start + timegrid.OBSERVATION_WINDOW + NAME_SLACK)
        near = [
            file
            for file in usable
            if file.identity in own or (low <= file.mark <= high and (close[0] <= file.mark <= close[1] or file.path not in taken))
        ]
        identities = {file.path: file.identity for file in near}
        groups, incomparable = _groups(_headers(near)[0], taken)
        for group in groups:
            if group.observation == observation and group.files:
                match = group, tuple(sorted(identities[path] for path in _paths(group)))
        if match is None and incomparable:
            raise TransientError("; ".join(dict.fromkeys(reason for _, reason in incomparable)))
        if match and (match[0].complete(n_subbands) or slack == NAME_SKEW):
            break
    return match


def _same_content(files: Sequence[InboxFile], known: Known, limit_s: float) -> tuple[dict[Path, InboxFile], set[Path]]:
    """Return the known files whose modification time alone is new, with their known identity, and the files not compared
    within `limit_s` seconds.

    A copy, a restored backup or `touch` changes that time and nothing else: products made from the file would be the same.
    """
    by_name_and_size = {identity.rpartition(":")[0]: identity for identity in known.used}
    same, later = {}, set()
    deadline_s = time.monotonic() + limit_s
    for file in files:
        identity = by_name_and_size.get(file.identity.rpartition(":")[0])
        digest = known.digests().get(identity) if identity else None
        if identity is None or digest is None:
            continue
        if file.key not in _contents and time.monotonic() > deadline_s:
            later.add(file.path)
        elif _content(file) == digest:
            same[file.path] = replace(file, known_as=identity)
    return same, later


def _content(file: InboxFile) -> str:
    """The file's digest, '' if it cannot be read now; an unchanged file is read only once."""
    from dsa110_assets.archive import files

    if len(_contents) > CACHED_CONTENTS:
        _contents.clear()
    if file.key not in _contents:
        try:
            _contents[file.key] = files.digest(file.path)
        except OSError:
            return ""
    return _contents[file.key]


def _paths(group: "SubbandGroup") -> list[Path]:
    return [header.path for header in group.files.values()]


def known(archive: "Archive", since: str | None = None, until: str | None = None) -> Known:
    """The files judged before, for the observations from `since` to `until` (or all).

    A manifest no longer counts if one of its files has been refused since: its other files are examined again.
    """
    return _known(archive, [(since, until)])


def known_files(archive: "Archive", names: Listing) -> Known:
    """The files judged before, among those listed. Only observations of the days on which the files are named or arrived, and
    of the adjacent days, are read. Files that are gone cost no time, however long the archive's history.
    """
    near = {(moment + timedelta(days=days)).date() for moment in _moments(names) for days in (-1, 0, 1)}
    spans: list[tuple[str, str]] = []
    for day in sorted(near):
        follows = spans and (day - timedelta(days=1)).isoformat() == spans[-1][1]
        first = spans.pop()[0] if follows else day.isoformat()
        spans.append((first, day.isoformat()))
    return _known(archive, spans)


def _moments(names: Listing) -> set[datetime]:
    """Times on the days in the files' names and on the days of their arrival (UTC)."""
    named = {file.mark[:10]: file.named_at for file in names.finished}
    arrival_days = {int(file.arrived_s // 86400) for file in names.finished}
    return {*named.values(), *(datetime.fromtimestamp(day * 86400, UTC) for day in arrival_days)}


def refused(archive: "Archive") -> frozenset[str]:
    """Identities of the files that were quarantined singly."""
    return _known(archive, ()).refused


def _known(archive: "Archive", spans: "Sequence[tuple[str | None, str | None]]") -> Known:
    refused: set[str] = set()
    used: set[str] = set()
    for record in quarantine.quarantined(archive):
        stamps = zip(record.paths, record.sizes_bytes, record.mtimes_ns, strict=True)
        (refused if record.observation is None else used).update(f"{path.name}:{size}:{mtime}" for path, size, mtime in stamps)
    for since, until in spans:
        for settings in archive.settings_of("subband_group", since, until):
            files = settings.get("files", ())
            if refused.isdisjoint(files):
                used.update(files)
    return Known(frozenset(used), frozenset(refused), cache(lambda: _digests(archive, spans)))


def _digests(archive: "Archive", spans: "Sequence[tuple[str | None, str | None]]") -> dict[str, str]:
    """{identity: digest} of the files that the manifests of these spans name."""
    products = [product for since, until in spans for product in archive.products("subband_group", since, until)]
    return {identity: digest for product in products for identity, digest in _manifest_digests(product.path / MANIFEST)}


@lru_cache(maxsize=4096)
def _manifest_digests(manifest: Path) -> tuple[tuple[str, str], ...]:
    """(identity, digest) of a manifest's files; empty if the manifest is gone or damaged."""
    from dsa110_assets.archive.files import read_json

    try:
        contents = read_json(manifest)
        digests = {Path(entry["path"]).name: entry["digest"] for entry in contents["files"]}
        return tuple((identity, digests[identity.rsplit(":", 2)[0]]) for identity in contents["identities"])
    except (OSError, LookupError, TypeError) as error:
        log.warning("%s lists no files (%s); a scan of the archive reports what is wrong with its product", manifest, error)
        return ()


def now_s() -> float:
    """The current time [unix s], against which the waiting of groups is measured."""
    return time.time()


def _mark(moment: datetime) -> str:
    return moment.strftime("%Y-%m-%dT%H:%M:%S")


def _near(finished: Sequence[InboxFile], moments: set[datetime]) -> list[InboxFile]:
    """The files whose names are close enough to one of these times to belong to an observation of that time."""
    windows: list[tuple[str, str]] = []
    for moment in sorted(moments):
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


_cache: "OrderedDict[str, SubbandHeader]" = OrderedDict()
_reading = threading.Lock()
"""Guards the cache of headers, because the portal answers several requests at a time."""
_contents: dict[str, str] = {}
_first_seen: dict[str, float] = {}
"""When each open file was first seen in its present state [s, monotonic]; independent of file servers' and senders' clocks."""
_Reasons = list[tuple[InboxFile, str]]


def _headers(files: Iterable[InboxFile]) -> "tuple[list[SubbandHeader], _Reasons, _Reasons]":
    """Return the headers of the readable files; and, each with the reason, the unreadable files and those that cannot be opened for now.

    A readable file is opened once as long as it does not change.
    """
    from dsa110_assets.visibilities.uvh5 import read_header

    headers, unreadable, away = [], [], []
    for file in files:
        with _reading:
            try:
                if file.key not in _cache:
                    _cache[file.key] = _shared(read_header(file.path))
                headers.append(_cache[file.key])
            except BadDataError as error:
                unreadable.append((file, str(error)))
            except TransientError as error:
                away.append((file, str(error)))
            while len(_cache) > CACHED_HEADERS:
                _cache.popitem(last=False)
    return headers, unreadable, away


_arrays: dict[tuple[str, bytes], object] = {}


def _shared(header: "SubbandHeader") -> "SubbandHeader":
    """The header with its large arrays shared between files with equal ones, which saves hundreds of MB a day."""
    names = ("ant1", "ant2", "rows", "antenna_positions_m", "antenna_diameters_m", "frequencies_hz", "antenna_names")
    shared: dict[str, object] = {}
    for name in names:
        value = getattr(header, name)
        key = (name, value.tobytes() if hasattr(value, "tobytes") else repr(value).encode())
        if len(_arrays) > 256:
            _arrays.clear()
        shared[name] = _arrays.setdefault(key, value)
    return replace(header, **shared)  # type: ignore[arg-type]


def _groups(headers: "Sequence[SubbandHeader]", taken: "set[Path]") -> "tuple[list[SubbandGroup], list[tuple[Path, str]]]":
    """Return the groups, and the files, each with the reason, of windows in which some files cannot be compared for now."""
    from dsa110_assets.visibilities.grouping import group_headers

    try:
        return group_headers(headers, taken), []
    except TransientError:
        windows: dict[str, list[SubbandHeader]] = defaultdict(list)
        for header in headers:
            windows[timegrid.observation_key(header.mjd_start)].append(header)
    groups, incomparable = [], []
    for members in windows.values():
        try:
            groups += group_headers(members, taken)
        except TransientError as error:
            incomparable += [(header.path, str(error)) for header in members]
    return sorted(groups, key=lambda group: group.mjd_start), incomparable


def manifest(group: "SubbandGroup", identities: Sequence[str], n_subbands: int, digests: Mapping[Path, str]) -> dict[str, object]:
    """The content of a subband_group product: files with digests, subbands present and missing, header values."""
    first = next(iter(group.files.values()))
    return {
        "observation": group.observation,
        "mjd_start": float(group.times_mjd[0]),
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
