"""The planner: which partitions of which assets are missing or stale, and why, for any span, from the archive alone.

Everything that makes products uses it: the live platform (`planner`), `dsa110 process`, backfills and dry runs. The graph is
processed in phases, each after everything it needs: catalogues; the products of every observation's files; calibration by night;
calibrated observations; hours; nights. Within a phase an asset is examined only once those before it are done, so that the archive
itself, not a guess, determines what is next.
"""

import logging
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from functools import partial
from itertools import groupby
from typing import TYPE_CHECKING

from dsa110_assets.archive import naming, quarantine, requested
from dsa110_assets.archive.product import HELD
from dsa110_assets.archive.snapshot import Snapshot
from dsa110_assets.errors import ConfigurationError, DsaError, NotFoundError, WaitingError
from dsa110_assets.orchestration.ingest import inbox
from dsa110_assets.orchestration.specification import recipes, season, spec
from dsa110_assets.telescope import timegrid

if TYPE_CHECKING:
    from dsa110_assets.archive.product import Product
    from dsa110_assets.archive.store import Archive
    from dsa110_assets.settings import Settings

log = logging.getLogger(__name__)
NOTHING_KNOWN = inbox.Known()
MISSING = "missing"
LENGTHS: dict[spec.Grain, timedelta] = {
    "observation": timegrid.OBSERVATION_WINDOW, "hour": timegrid.HOUR, "night": timegrid.NIGHT,
}  # fmt: skip
"""Length of a partition's window by grain. Hour keys look like observation keys, so the grain must be given."""


@dataclass(frozen=True)
class PlannedStep:
    """One asset's partition that is to be made, and why. `follow` are the assets after it in its phase, made in the same run;
    `request` names the product and what it is made from; `of` is the time of its inputs, where the partition is a name, not a window."""

    asset: str
    partition: str | None
    reason: str
    follow: tuple[str, ...] = ()
    request: str = ""
    of: "Span | None" = None

    @property
    def assets(self) -> tuple[str, ...]:
        """The assets that its run makes."""
        return (self.asset, *self.follow)

    @property
    def keys(self) -> tuple[tuple[str, str | None], ...]:
        """(asset, partition) of everything its run makes."""
        return tuple((asset, self.partition) for asset in self.assets)


@dataclass(frozen=True)
class Waiting:
    """Something that cannot be done yet, and the reason why it waits."""

    what: str
    reason: str


@dataclass(frozen=True)
class Span:
    """Observation windows that start in [since, until); None is open."""

    since: datetime | None = None
    until: datetime | None = None

    def holds(self, key: str | None) -> bool:
        """Whether a partition's window overlaps the span; a partition without a window belongs to every span."""
        if key is None or naming.is_named(key):
            return True
        return self._overlaps(key, "night" if len(key) == 10 else "observation")

    def _overlaps(self, key: str, grain: spec.Grain) -> bool:
        start = timegrid.parse_key(key)
        return (self.since is None or start + LENGTHS[grain] > self.since) and (self.until is None or start < self.until)

    def windows(self, grain: spec.Grain) -> tuple[datetime | None, datetime | None]:
        """The limits of the start times of all windows of a grain that overlap the span, for a narrow archive query."""
        if grain == "request":
            return None, None
        return (None if self.since is None else self.since - LENGTHS[grain]), self.until

    def holds_partition(self, grain: spec.Grain, key: str | None) -> bool:
        """Whether a partition of this grain overlaps the span."""
        return key is None or (self._overlaps(key, "hour") if grain == "hour" else self.holds(key))


def phases(through: str | None = None) -> spec.Phases:
    """The phases up to the asset `through`; its own phase ends with that asset.

    Raises ConfigurationError, which lists the assets, for an unknown one.
    """
    if through is None:
        return spec.phases()
    if through not in spec.assets():
        raise ConfigurationError(f"--through {through}: no such asset; there are {', '.join(spec.assets())}")
    kept = []
    for grain, assets in spec.phases():
        if through in assets:
            kept.append((grain, assets[: assets.index(through) + 1]))
            break
        kept.append((grain, assets))
    return tuple(kept)


def reason_to_make(archive: "Archive", settings: "Settings", asset: str, partition: str | None) -> str | None:
    """Why this asset's partition is to be made now: missing or stale; None if it is up to date or has no inputs.

    A product whose data retention removed is done, unless something is to be made from it. A product that cannot be made
    again, because the data it would be made from are gone for good, stays as it is. Raises WaitingError when its inputs exist
    but something else it must wait for does not.
    """
    product, ingredients, reason = _assess(archive, settings, asset, partition)
    if reason is None or ingredients is None:
        return None
    return reason if _can_be_made(archive, asset, partition, product, ingredients) else None


def _can_be_made(
    archive: "Archive", asset: str, partition: str | None, product: "Product | None", ingredients: recipes.Ingredients
) -> bool:
    """Whether the data it would be made from exist. Raises WaitingError if they do not and there is no product either."""
    gone = spec.without_data(archive, asset, ingredients)
    if gone and product is None:
        raise WaitingError(recipes.waiting_for_removed_data(asset, partition, gone))
    return not gone


def needed_again(archive: "Archive", settings: "Settings", product: "Product") -> str | None:
    """Why data that retention removed are to be made again, namely what is to be made from them; None if nothing is."""
    for asset, partition in sorted(_made_from(archive, product), key=str):
        try:
            reason = _assess(archive, settings, asset, partition)[2]
        except DsaError:
            continue  # it waits for something else
        if reason:
            return f"its data were removed, and {asset} {partition or ''} is to be made: {reason}".replace("  ", " ")
    return None


def _assess(
    archive: "Archive", settings: "Settings", asset: str, partition: str | None
) -> "tuple[Product | None, recipes.Ingredients | None, str | None]":
    """Return the existing product, the ingredients it would be made from now, and the reason to make it, whether or not its
    inputs still have their data."""
    specified = spec.assets()[asset]
    product = archive.current(asset, partition, check=True, removed=True)
    if asset == "subband_group" and product is not None and product.code_version == specified.code_version:
        return product, None, None  # the scan of the inbox decides whether its files changed; it opens only new ones
    ingredients = specified.find(archive, settings, partition or "")
    if ingredients is None:
        return product, None, None  # nothing to make it from; the existing product stays
    if product is None:
        return None, ingredients, MISSING
    reason = specified.stale(archive, product, settings, ingredients)
    if reason is None and product.removed:
        reason = needed_again(archive, settings, product)
    if reason and specified.reads_raw_files and not recipes.raw_files_there(ingredients.only("subband_group")):
        reason = None
    return product, ingredients, reason


def lacking(archive: "Archive", settings: "Settings", asset: str, partition: str | None) -> str:
    """The missing or held inputs of this asset's partition, as text for people."""
    if asset == "subband_group":
        return f"no group of its subband files is in DSA110_INBOX={settings.inbox}"
    known, absent = spec.assets(), []
    grain = known[asset].grain
    if grain == "request":
        return known[asset].nothing_made
    for name in known[asset].inputs:
        same_partition = known[name].grain in (grain, "catalogue")
        key = None if known[name].grain == "catalogue" else partition
        held = archive.current(name, key, removed=True) if same_partition else None
        if held is not None and held.metadata.get(HELD):
            absent.append(f"{held.id} is held ({held.metadata[HELD]})")
        elif held is None and not (not same_partition and partition and _any_within(archive, name, partition, grain)):
            absent.append(f"there is no {name}{f' {key}' if same_partition and key else ''}")
    return "; ".join(absent) or known[asset].nothing_made


def _any_within(archive: "Archive", asset: str, window: str, grain: spec.Grain) -> bool:
    """Whether an hour or night has a usable product of a finer asset."""
    last = timegrid.parse_key(window) + timegrid.HOUR - timegrid.OBSERVATION_WINDOW
    return bool(recipes.all_usable(archive, asset, window, timegrid.key(last) if grain == "hour" else window))


def _made_from(archive: "Archive", product: "Product") -> set[tuple[str, str | None]]:
    """(asset, partition) of everything that read this product's data, and of everything in its own window that would read them."""
    key = product.partition or ""
    if naming.is_named(key):
        return set()  # nothing is made from a product requested by name
    keys = {"observation": key, "hour": timegrid.hour_of(key), "night": timegrid.night_of(key)} if len(key) > 10 else {"night": key}
    known = spec.assets()
    through = {n: a.reads_through for n, a in known.items() if a.reads_through and product.asset in known[a.reads_through].inputs}
    readers = {n for n, a in known.items() if n in through or (product.asset in a.inputs and not a.of_kept_data_only)}
    used = [p for p in archive.dependents(product.id) if p.state == "current"]
    used += [p for user in used if user.asset in through.values() for p in archive.dependents(user.id) if p.state == "current"]
    same_window = {(name, keys[known[name].grain]) for name in readers if known[name].grain in keys}
    return same_window | {(p.asset, p.partition) for p in used if p.asset in readers}


def next_step(archive: "Archive", settings: "Settings", assets: Sequence[str], partition: str | None) -> PlannedStep | None:
    """The first of a phase's assets that is to be made, with those after it; None if all are up to date or have no inputs.

    Raises as `reason_to_make`.
    """
    for number, asset in enumerate(assets):
        product, ingredients, reason = _assess(archive, settings, asset, partition)
        if reason and ingredients is not None and _can_be_made(archive, asset, partition, product, ingredients):
            follow, request = tuple(assets[number + 1 :]), spec.assets()[asset].request(settings, partition, ingredients)
            return PlannedStep(asset, partition, reason, follow, request, _time_of(archive, partition))
    return None


def _time_of(archive: "Archive", partition: str | None) -> Span | None:
    """The span of time of a request, if the partition is one's name; None for all other partitions."""
    if partition is None or not naming.is_named(partition):
        return None
    request = requested.find(archive, partition.removeprefix(naming.NAME_MARK))
    return Span(request.since, request.until)


def missing(archive: "Archive", settings: "Settings", span: Span, trusted_s: float = 0.0) -> tuple[list[PlannedStep], list[Waiting]]:
    """Return every step that a span needs, given what the archive holds now, in the graph's order; and everything that waits.

    A partition that cannot be examined is named in the log and does not hide the others. The whole span is read at once. Products
    whose files were found in place less than `trusted_s` ago are not checked again.
    """
    quarantined, now_s, steps, waiting = quarantined_observations(archive), inbox.now_s(), list[PlannedStep](), list[Waiting]()
    archive = snapshot_of_span(archive, span, trusted_s=trusted_s)
    for grain, assets in phases():
        for key in partitions(archive, grain, assets[0], span):
            if season.outside(grain, key, now_s) or (grain == "observation" and key in quarantined):
                continue
            try:
                step = next_step(archive, settings, assets, key)
            except WaitingError as error:
                waiting.append(Waiting(f"{assets[0]} {key or ''}".strip(), str(error)))
                continue
            except (DsaError, OSError) as error:
                log.warning("%s %s cannot be examined now and is skipped: %s", assets[0], key or "", error)
                continue
            steps += [step] if step else []
    return steps, waiting


def scan_inbox(archive: "Archive", settings: "Settings", *, by_data: bool) -> inbox.Inbox:
    """Scan the inbox without the settled files, which a current manifest names or which are quarantined, and which are unchanged."""
    names = inbox.listing(settings.inbox)
    return inbox.scan(settings.inbox, patience(settings, by_data=by_data), inbox.known_files(archive, names), names=names)


def scan_for_display(archive: "Archive", settings: "Settings") -> inbox.Inbox:
    """Scan the inbox's open files for display only; of very many files only the oldest and the newest are read."""
    names, live = inbox.listing(settings.inbox), replace(patience(settings, by_data=False), still_s=0.0)
    return inbox.scan(settings.inbox, live, inbox.known_files(archive, names), DISPLAY_FILES, names)


def scan_when_still(look: Callable[[], inbox.Inbox], still_s: float) -> inbox.Inbox:
    """The result of `look`, repeated after `still_s` if files changed a moment ago."""
    scan = look()
    if scan.changing:
        time.sleep(still_s)
        scan = look()
    return scan


def scan_without_archive(settings: "Settings", known: inbox.Known = NOTHING_KNOWN) -> inbox.Inbox:
    """Scan the inbox, once its files no longer change, where there is no archive to add to `known`."""
    return scan_when_still(lambda: inbox.scan(settings.inbox, patience(settings, by_data=True), known), settings.still_s)


def scan_inbox_when_still(archive: "Archive", settings: "Settings") -> inbox.Inbox:
    """Scan the inbox, once its files no longer change, without the settled ones."""
    return scan_when_still(lambda: scan_inbox(archive, settings, by_data=True), settings.still_s)


def scan_and_quarantine(archive: "Archive", settings: "Settings") -> tuple[inbox.Inbox, list[str]]:
    """Scan the inbox for a batch run, once its files no longer change, and quarantine the unusable ones.

    Returns the last scan and a message about each quarantined file or group."""
    messages: list[str] = []
    scan = scan_inbox_when_still(archive, settings)
    for _ in range(MOST_SCANS):
        new_messages = quarantine_unusable(archive, scan)
        if not new_messages:
            break
        messages += new_messages
        scan = scan_inbox(archive, settings, by_data=True)
    return scan, messages


def patience(settings: "Settings", *, by_data: bool) -> inbox.Patience:
    """The patience given by the settings; observations without a partition wait."""
    now_s = inbox.now_s()
    outside = partial(season.outside, "observation", now_s=now_s)
    return inbox.Patience(
        settings.subbands, settings.min_subbands, settings.group_wait_s, settings.still_s, now_s, by_data, outside
    )  # fmt: skip


def quarantine_unusable(archive: "Archive", seen: inbox.Inbox, most: int | None = None) -> list[str]:
    """Quarantine unusable files and groups, each once, with its reason; return a message about each.

    The old record of a group that was too small is released if the group has changed. With `most` at most that many single
    files are quarantined; the next scan finds the others.
    """
    messages = []
    for path, reason in seen.unusable[:most]:
        quarantine.quarantine(archive, path, reason)
        messages.append(f"{ascii(path.name)[1:-1]}: {reason}")
    judged = [candidate for candidate in seen.candidates if candidate.state != "waiting"]
    before = [record for record in quarantine.quarantined(archive) if record.observation is not None] if judged else []
    for candidate in judged:
        new = None
        if candidate.state == "unusable":
            paths = [header.path for header in candidate.group.files.values()]
            new = quarantine.quarantine(archive, paths, candidate.reason, candidate.observation)
            messages.append(f"{candidate.observation}: {candidate.reason}")
        for old in before:
            if old.observation == candidate.observation and (new is None or old.key != new.key):
                with suppress(NotFoundError):  # another process has released it meanwhile
                    quarantine.release(archive, old.key)
    return messages


def quarantined_observations(archive: "Archive") -> dict[str, str]:
    """Observations that were accepted and later quarantined as a whole, each with the reason and the command that releases it."""
    reasons = {
        record.observation: f"quarantined: {record.reason}; `dsa110 groups --release {record.key}` tries again"
        for record in quarantine.quarantined(archive)
        if record.observation is not None
    }
    accepted = archive.among("subband_group", list(reasons))
    return {observation: why for observation, why in reasons.items() if observation in accepted}


def snapshot_of_span(archive: "Archive", span: Span, assets: Collection[str] | None = None, trusted_s: float = 0.0) -> "Archive":
    """A snapshot of the archive (of these assets, or all), for queries of every partition of a span that change nothing. For an
    open span the archive itself is returned."""
    if span.since is None or span.until is None:
        return archive
    return Snapshot(archive, span.since - timegrid.NIGHT, span.until + timegrid.NIGHT, assets, trusted_s)


def snapshots_in_portions(
    archive: "Archive", assets: Sequence[str], keys: Sequence[str | None], changes: Callable[[], int]
) -> "Iterator[tuple[str | None, Archive]]":
    """Yield the partitions of a phase, each with the archive to query: a snapshot of some nights as long as the count of `changes`
    has not grown since it was read, the archive itself afterwards."""
    read = {*assets, *(name for asset in assets for name in spec.assets()[asset].inputs)}
    for _, portion in groupby(keys, key=_portion):
        keys_of_portion, n_changes = list(portion), changes()
        first, last = keys_of_portion[0], keys_of_portion[-1]
        timed = first and last and not naming.is_named(first)
        span = Span(timegrid.parse_key(first), timegrid.parse_key(last) + timegrid.NIGHT) if timed and first and last else Span()
        snapshot = snapshot_of_span(archive, span, read)
        for key in keys_of_portion:
            yield key, snapshot if changes() == n_changes else archive


def _portion(key: str | None) -> object:
    """The portion of partitions that is read at once: those of some nights, or all that have no time."""
    return timegrid.parse_key(key).toordinal() // NIGHTS_AT_ONCE if key and not naming.is_named(key) else None


def partitions(archive: "Archive", grain: spec.Grain, asset: str, span: Span, ready: Sequence[str] = ()) -> list[str | None]:
    """The partitions of this grain that have anything to be made from, oldest first.

    `ready` are observations that the scan of the inbox found ready.
    """
    if grain == "catalogue":
        return [None]
    if grain == "request":
        return [request.partition for request in requested.requests(archive) if request.overlaps(span.since, span.until)]
    taken = archive.partitions("subband_group", *span.windows("observation"))
    observations = sorted({*taken, *(ready if asset == "subband_group" else ())})
    inside = [key for key in observations if span.holds(key)]
    if grain == "hour":
        return list(dict.fromkeys(timegrid.hour_of(key) for key in inside))
    if grain == "night":
        return list(dict.fromkeys(timegrid.night_of(key) for key in inside))
    return list(inside)


def forecast(archive: "Archive", settings: "Settings", seen: inbox.Inbox, span: Span, through: str | None) -> Iterator[PlannedStep]:
    """Yield the steps that `process` would do, without doing them: what is missing or stale now, and what follows from making it."""
    archive = snapshot_of_span(archive, span)
    ready = [c.observation for c in seen.ready() if span.holds(c.observation)]
    coming: set[tuple[str, str | None]] = set()
    for grain, assets in phases(through):
        observations = sorted({*ready, *(k for k in partitions(archive, "observation", "subband_group", span) if k)})
        for partition in partitions(archive, grain, assets[0], span) if grain == "request" else _partitions_of_grain(grain, observations):
            for asset in assets:
                reason = _forecast_reason(archive, settings, asset, partition, coming, ready)
                if reason is not None:
                    coming.add((asset, partition))
                    yield PlannedStep(asset, partition, reason)


def forecast_without_archive(observations: Sequence[str], through: str | None) -> Iterator[PlannedStep]:
    """The forecast for an archive that does not exist yet: every asset, for these observations."""
    for grain, assets in phases(through):
        for partition in _partitions_of_grain(grain, observations):
            yield from (PlannedStep(asset, partition, MISSING) for asset in assets)


def _partitions_of_grain(grain: spec.Grain, observations: Sequence[str]) -> list[str | None]:
    """The partitions of this grain in which these observations lie."""
    if grain == "catalogue":
        return [None]
    if grain == "request":
        return []  # only an archive knows of any
    if grain != "observation":
        window = timegrid.hour_of if grain == "hour" else timegrid.night_of
        observations = list(dict.fromkeys(window(key) for key in observations))
    return [key for key in observations if season.outside(grain, key, inbox.now_s()) is None]


def _forecast_reason(
    archive: "Archive",
    settings: "Settings",
    asset: str,
    partition: str | None,
    coming: set[tuple[str, str | None]],
    ready: Sequence[str],
) -> str | None:
    if asset == "subband_group" and partition in ready:
        return MISSING if archive.current(asset, partition) is None else "its files changed"
    specified = spec.assets()[asset]
    coming_inputs = [key for name, key in coming if name in specified.inputs]
    earlier = specified.nights_before and any(key and partition and key[:10] < partition for key in coming_inputs)
    period = _time_of(archive, partition)
    if earlier or any(period.holds(key) if period else _feeds(key, partition) for key in coming_inputs):
        return "its inputs will be made"
    try:
        return reason_to_make(archive, settings, asset, partition)
    except (DsaError, OSError):
        return None


def _feeds(key: str | None, partition: str | None) -> bool:
    """Whether a partition of an input is used for this partition: they are the same window, or one lies inside the other.

    A night's calibration may serve the adjacent nights too; a forecast only counts the night's own.
    """
    if key is None or partition is None:
        return True
    if len(partition) == 10:
        return key[:10] == partition
    return key == partition or partition.startswith(key) or timegrid.hour_of(key) == partition


def span(since: datetime | None = None, until: datetime | None = None) -> Span:
    """The span from `since` to `until`. Raises ConfigurationError if `until` is not after `since`."""
    if since is not None and until is not None and until <= since:
        raise ConfigurationError(f"--until {until:%Y-%m-%dT%H:%M} is not after --since {since:%Y-%m-%dT%H:%M}")
    return Span(since, until)


NIGHTS_AT_ONCE = 8
"""Number of nights whose products needed by a phase are in memory together: some 5,000 products."""
DISPLAY_FILES = 1600
"""At 5 ms a header, each read once, a page waits at most 8 s for the first scan of a backlog."""
MOST_SCANS = 4
"""A quarantined file can leave its group too small; after this many scans only a file that still grows could change anything."""
