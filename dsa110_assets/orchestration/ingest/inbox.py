"""What lies in the inbox: observations ready to run, waiting for late subbands, or unusable, and why.

Names only say which files are worth opening together; groups are formed by header time. A file that an
observation's manifest already names, unchanged, is settled and not opened again unless a new file may belong
to its group. A file that still changes is not opened at all.
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
"""Names precede the data by up to 283 s in practice, 523 s at worst."""
NAME_SKEW = timedelta(minutes=75)
"""A node whose clock is an hour wrong, and the usual slack."""
CACHED_HEADERS = 4096
CACHED_CONTENTS = 100_000
COMPARE_S = 20.0
"""Of a live look, for reading files whose time of change is new: a file takes up to a second."""
SUBBAND_NAME = "YYYY-MM-DDTHH:MM:SS_sb00.hdf5 .. _sb15.hdf5"
YEARS = ("1990", "2200")
"""Names and stamps beyond are no times of this telescope, and no calendar can count a day more from the last of them."""
LAST_S = 2**32
"""Times of change later than 2106 [unix s] are of a broken clock or file system."""
_LIKE_DATA = re.compile(r"\d{4}-\d\d-\d\dT\d\d|_sb\d\d|\.(uvh5|uvfits|hdf|hdf5|h5)\b", re.IGNORECASE)
"""Names of files that somebody meant to be observed data, whatever else is wrong with them."""
State = Literal["ready", "waiting", "unusable"]


@dataclass(frozen=True)
class InboxFile:
    """A finished subband file by name: `mark` is its stamp; `arrived_s` when it last changed [unix s]; `known_as` the
    identity under which the same bytes were used before, if its time of change is another now."""

    path: Path
    mark: str
    size_bytes: int
    mtime_ns: int
    arrived_s: float
    known_as: str = ""

    @property
    def identity(self) -> str:
        """What must stay the same for the file to count as unchanged."""
        return self.known_as or f"{self.path.name}:{self.size_bytes}:{self.mtime_ns}"

    @property
    def key(self) -> str:
        """The identity, told apart from that of other inboxes."""
        return f"{self.path.parent}/{self.identity}"

    @property
    def named_at(self) -> datetime:
        """UTC of the name's stamp; of a name that has none, when the file arrived."""
        from dsa110_assets.visibilities.uvh5 import stamp_time

        try:
            return stamp_time(self.mark, self.path)
        except BadDataError:
            return datetime.fromtimestamp(self.arrived_s, UTC)


@dataclass(frozen=True)
class Known:
    """Identities of files that were judged before: `used` by a manifest or put aside with their whole group, and
    `refused` one by one. Used ones count again when others of their group come; refused ones never do."""

    used: frozenset[str] = frozenset()
    refused: frozenset[str] = frozenset()
    digests: Callable[[], Mapping[str, str]] = dict
    """{identity: digest} of the used ones, where a manifest tells it; asked for only if a file's time of change is new."""


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
    """One look at the inbox. `unusable` and `waiting` are files with their reason; `changing` of those that wait
    changed a moment ago; `settled` counts those done before; `foreign` is what is no subband file and does not look like
    one either."""

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
    """How long a group waits for late subbands, how many suffice then, and what time it is [unix s].

    `by_data` counts the wait from the end of the data (a batch run over files that are all there); otherwise
    from the last change of any of its files (a live inbox, where old data may still be being copied). A file must
    have stayed as it is for `still_s`: by the file server's clock, or, live, from one look to another by our own.
    `outside` says why an observation has no partition, None if it has one: without, it waits, whatever it lacks.
    """

    subbands: int
    min_subbands: int
    wait_s: float
    still_s: float
    now_s: float
    by_data: bool
    outside: Callable[[str], str | None] = lambda _: None

    def state(self, group: "SubbandGroup", arrived_s: float) -> tuple[State, str]:
        """The group's state, and the reason in words."""
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
        """Whether an unreadable file may still be on its way. A name ahead of the file's arrival says nothing."""
        began_s = min(file.named_at.timestamp(), file.arrived_s) if self.by_data else file.arrived_s
        return self.now_s < began_s + timegrid.GROUP_S + self.wait_s

    def being_written(self, file: InboxFile) -> bool:
        """Whether a file under an unfinished name may still have a writer. What is ahead of our clock says nothing."""
        stamps = [at_s for at_s in (file.named_at.timestamp(), file.mtime_ns / 1e9) if at_s <= self.now_s]
        return self.now_s < max(stamps, default=file.arrived_s) + timegrid.GROUP_S + self.wait_s

    def changing(self, files: "Sequence[InboxFile]") -> set[Path]:
        """Which of the files changed too short a time ago to be opened."""
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
    """The inbox by names alone: `finished` subband files, those still being `written`, and with their reasons the
    `misnamed`, those that cannot be looked at for now (`away`), and `foreign` files that are none."""

    finished: tuple[InboxFile, ...]
    written: tuple[InboxFile, ...]
    misnamed: tuple[tuple[InboxFile, str], ...]
    away: tuple[tuple[Path, str], ...] = ()
    foreign: tuple[tuple[Path, str], ...] = ()


def listing(inbox: Path) -> Listing:
    """Everything in the inbox itself; links are not followed.

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
            facts = entry.stat(follow_symlinks=False)
        except FileNotFoundError:
            continue
        except OSError as error:
            away.append((path, f"cannot be looked at now ({error.strerror})"))
            continue
        arrived_s = min(max(facts.st_mtime, facts.st_ctime, 0.0), LAST_S)
        file = InboxFile(path, path.name[:19], facts.st_size, facts.st_mtime_ns, arrived_s)
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
        with os.scandir(inbox) as there:  # of names, not of paths: a hundred thousand are sorted in a tenth of the time
            return sorted(there, key=lambda entry: entry.name)
    except (FileNotFoundError, NotADirectoryError):
        raise ConfigurationError(f"DSA110_INBOX={inbox}: no such directory; name the directory the subband files arrive in") from None
    except OSError as error:
        raise TransientError(f"DSA110_INBOX={inbox} cannot be read now ({error.strerror}); let this user read it") from error


def _misnamed(path: Path) -> str:
    """What is wrong with the name of a subband file; '' if nothing."""
    from dsa110_assets.visibilities.uvh5 import parse_name

    try:
        stamp, _ = parse_name(path)
    except BadDataError as error:
        return str(error)
    return "" if YEARS[0] <= stamp[:4] < YEARS[1] else f"the name {path.name} is of no year this telescope observes in"


def looks_like_data(path: Path) -> bool:
    """Whether somebody meant a file to be observed data, by its name."""
    return _LIKE_DATA.search(path.name) is not None


def scan(inbox: Path, patience: Patience, known: Known = Known(), max_files: int | None = None, names: Listing | None = None) -> Inbox:
    """Group what is open in the inbox: what is not `known`, and what is known and near it.

    With `max_files` only so many open files are opened (`more` says that there are others): one half the oldest, one
    half the newest, so that neither a backlog nor files that never get better keep the present waiting. `names` are its
    listing, if there is one already.
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
    left = [file for file in written if not patience.being_written(file)]
    waiting = [(file.path, "is still being written") for file in written if file not in left]
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
        if state == "waiting":  # who is in the minority is known once the others are there
            waiting += [(file.path, reason) for file, reason in rejected]
        else:
            bad += rejected
    waiting += [(path, f"changed less than {patience.still_s:g} s ago") for path in sorted(changing)]
    waiting += [(path, "its time of change is new; a later look compares its bytes with what was used") for path in sorted(later)]
    waiting += [(file.path, reason) for file, reason in away]
    waiting += [(path, reason) for path, reason in incomparable if path in fresh]
    waiting += [(file.path, reason) for file, reason in bad if patience.growing(file)]
    return Inbox(
        candidates=tuple(candidates),
        unusable=(*((file.path, reason) for file, reason in bad if not patience.growing(file)), *map(_unfinished, left)),
        waiting=tuple(waiting),
        changing=len(changing),
        settled=len(names.finished) - len(open_files) + len(same),
        more=len(chosen) < len(still),
        foreign=tuple((path, reason) for path, reason in names.foreign if not looks_like_data(path)),
    )


def _chosen(still: list[InboxFile], max_files: int | None, now_s: float) -> list[InboxFile]:
    """Those that are opened in this look: of those whose names have a partition the oldest and the newest, then others."""
    if max_files is None or len(still) <= max_files:
        return still
    first, last = season.START, _mark(datetime.fromtimestamp(now_s, UTC))
    inside = [file for file in still if first <= file.mark <= last]
    half = max_files // 2
    chosen = inside if len(inside) <= max_files else inside[:half] + inside[-half:]
    others = [file for file in still if not first <= file.mark <= last]
    return chosen + others[: max_files - len(chosen)]


def _unfinished(file: InboxFile) -> tuple[Path, str]:
    """What is said of a file under an unfinished name that nobody writes any more."""
    since = f"{datetime.fromtimestamp(min(max(file.mtime_ns / 1e9, 0.0), LAST_S), UTC):%Y-%m-%dT%H:%M:%S}"
    return file.path, f"was never finished, unchanged since {since}; give it its final name if it is whole, else copy it again"


def find_group(
    inbox: Path, observation: str, n_subbands: int, known: Known, own: frozenset[str]
) -> "tuple[SubbandGroup, tuple[str, ...]] | None":
    """The group of one observation window and the identities of its files; None if there is none.

    `own` are identities that its manifest names already. While subbands are missing, files whose names are
    further off are opened too, unless another observation has them: a node's clock may be an hour wrong.
    """
    usable = [file for file in listing(inbox).finished if file.identity not in known.refused]
    known = replace(known, used=known.used | own)
    same, _ = _same_content([file for file in usable if file.identity not in known.used], known, float("inf"))
    usable = [same.get(file.path, file) for file in usable]
    start = timegrid.parse_key(observation)
    taken = {file.path for file in usable if file.identity in known.used}
    found = None
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
                found = group, tuple(sorted(identities[path] for path in _paths(group)))
        if found is None and incomparable:
            raise TransientError("; ".join(dict.fromkeys(reason for _, reason in incomparable)))
        if found and (found[0].complete(n_subbands) or slack == NAME_SKEW):
            break
    return found


def _same_content(files: Sequence[InboxFile], known: Known, limit_s: float) -> tuple[dict[Path, InboxFile], set[Path]]:
    """(files that are known but for their time of change, as they are known; those not compared within `limit_s`).

    A copy, a restored backup or `touch` changes that time and nothing else: made anew, everything would be as it was.
    """
    before = {identity.rpartition(":")[0]: identity for identity in known.used}
    same, later = {}, set()
    deadline_s = time.monotonic() + limit_s
    for file in files:
        identity = before.get(file.identity.rpartition(":")[0])
        digest = known.digests().get(identity) if identity else None
        if identity is None or digest is None:
            continue
        if file.key not in _contents and time.monotonic() > deadline_s:
            later.add(file.path)
        elif _content(file) == digest:
            same[file.path] = replace(file, known_as=identity)
    return same, later


def _content(file: InboxFile) -> str:
    """The file's digest, '' if it cannot be read now; read once while it stays as it is."""
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
    """What was judged before, of the observations from `since` to `until` (or all).

    A manifest that names a file refused since is no judgement any more: its other files are looked at again.
    """
    return _known(archive, [(since, until)])


def known_files(archive: "Archive", names: Listing) -> Known:
    """What was judged before of these files: their observations are of the days they are named for or came, or of the
    days beside. Files that are gone cost nothing, however long the archive's history.
    """
    near = {(moment + timedelta(days=days)).date() for moment in _moments(names) for days in (-1, 0, 1)}
    spans: list[tuple[str, str]] = []
    for day in sorted(near):
        follows = spans and (day - timedelta(days=1)).isoformat() == spans[-1][1]
        first = spans.pop()[0] if follows else day.isoformat()
        spans.append((first, day.isoformat()))
    return _known(archive, spans)


def _moments(names: Listing) -> set[datetime]:
    """The days for which files are named and on which they came."""
    named = {file.mark[:10]: file.named_at for file in names.finished}
    came = {int(file.arrived_s // 86400) for file in names.finished}
    return {*named.values(), *(datetime.fromtimestamp(day * 86400, UTC) for day in came)}


def refused(archive: "Archive") -> frozenset[str]:
    """Identities of the files that were put aside one by one."""
    return _known(archive, ()).refused


def _known(archive: "Archive", spans: "Sequence[tuple[str | None, str | None]]") -> Known:
    refused: set[str] = set()
    used: set[str] = set()
    for one in quarantine.quarantined(archive):
        stamps = zip(one.paths, one.sizes_bytes, one.mtimes_ns, strict=True)
        (refused if one.observation is None else used).update(f"{path.name}:{size}:{mtime}" for path, size, mtime in stamps)
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
    """(identity, digest) of a manifest's files; none of one that is gone or damaged."""
    from dsa110_assets.archive.files import read_json

    try:
        contents = read_json(manifest)
        digests = {Path(entry["path"]).name: entry["digest"] for entry in contents["files"]}
        return tuple((identity, digests[identity.rsplit(":", 2)[0]]) for identity in contents["identities"])
    except (OSError, LookupError, TypeError) as error:
        log.warning("%s tells of no files (%s); the scan of the archive says what is wrong with its product", manifest, error)
        return ()


def now_s() -> float:
    """The time by which groups are waited for."""
    return time.time()


def _mark(moment: datetime) -> str:
    return moment.strftime("%Y-%m-%dT%H:%M:%S")


def _near(finished: Sequence[InboxFile], moments: set[datetime]) -> list[InboxFile]:
    """The files whose names are close enough to one of these times to belong to what was observed then."""
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
"""The portal answers several requests at a time."""
_contents: dict[str, str] = {}
_first_seen: dict[str, float] = {}
"""When each open file was first seen as it is now [s, monotonic]: no clock of a file server or a person's is in it."""
_Reasons = list[tuple[InboxFile, str]]


def _headers(files: Iterable[InboxFile]) -> "tuple[list[SubbandHeader], _Reasons, _Reasons]":
    """Headers of the readable files, the unreadable, and those that cannot be opened for now, each with the reason.

    A readable file that stays as it is is opened once.
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
    """The header with its large arrays shared between files that have the same ones: hundreds of MB a day less."""
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
    """The groups, and the files of windows in which some cannot be compared for now, with the reason."""
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
    """What a subband_group product says: files with digests, subbands present and missing, header facts."""
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
