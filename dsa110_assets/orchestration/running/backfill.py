"""Historical nights: windows that have data, launched as Dagster backfills in the backfill lane."""

import time
import uuid
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date, timedelta
from typing import TYPE_CHECKING, Any

import dagster as dg

from dsa110_assets.archive import naming
from dsa110_assets.errors import ConfigurationError, NotFoundError
from dsa110_assets.orchestration import LOCATION, graph
from dsa110_assets.orchestration.ingest import inbox
from dsa110_assets.orchestration.planning import plan
from dsa110_assets.orchestration.resources import Platform
from dsa110_assets.orchestration.running import instance as instances
from dsa110_assets.orchestration.running import routing
from dsa110_assets.orchestration.specification import jobs, launchpad, season, spec
from dsa110_assets.plain_json import jsonable
from dsa110_assets.telescope import timegrid

if TYPE_CHECKING:
    from dsa110_assets.archive.store import Archive
    from dsa110_assets.orchestration.running import internals
    from dsa110_assets.settings import Settings

REPOSITORY = "__repository__"
"""Dagster's name for the one repository that Definitions make."""
TAGS = {instances.LANE_TAG: instances.BACKFILL, "dagster/priority": "-10", routing.PRIORITY_TAG: "9"}
"""Live observations overtake: see tag_concurrency_limits in dagster.yaml, and `instance.lower_priority_of_backfill`."""


@dataclass(frozen=True)
class Launch:
    """A backfill: its id, its assets and the partitions it makes. `backfill_id` is None for a dry run. `left_out` are
    windows with data that have no partition, each with the reason. `config` is the run config of its assets, by name, if they
    are made for a trial."""

    backfill_id: str | None
    assets: tuple[str, ...]
    partitions: tuple[str, ...]
    left_out: tuple[str, ...] = ()
    config: Mapping[str, Any] | None = None


def nights(first: str, last: str) -> list[str]:
    """Night keys from `first` to `last`, both included. Raises ConfigurationError if they are not dates or out of order."""
    try:
        start, end = date.fromisoformat(first), date.fromisoformat(last)
    except ValueError as error:
        raise ConfigurationError(f"--nights {first}..{last}: {error}; write 2026-01-25..2026-01-27") from None
    if end < start:
        raise ConfigurationError(f"--nights {first}..{last}: the last night is before the first")
    return [(start + timedelta(days=n)).isoformat() for n in range((end - start).days + 1)]


def present(archive: "Archive", settings: "Settings", nights: Sequence[str], grain: spec.Grain) -> list[str]:
    """The partitions of these nights that have data, in the inbox or accepted before.

    A range that contained an empty window would end as failed, and what depends on it would never run.
    """
    requested_nights = set(nights)
    accepted = [p.partition for p in archive.products("subband_group", nights[0], nights[-1]) if p.partition]
    scan = plan.scan_inbox(archive, settings, by_data=True)
    waiting = (c.observation for c in scan.candidates if season.outside("observation", c.observation, inbox.now_s()))
    keys = sorted({*accepted, *(c.observation for c in scan.ready()), *waiting})
    inside = [key for key in keys if timegrid.night_of(key) in requested_nights]
    if grain == "night":
        return list(dict.fromkeys(timegrid.night_of(key) for key in inside))
    return list(dict.fromkeys(timegrid.hour_of(key) for key in inside)) if grain == "hour" else inside


def backfill(
    settings: "Settings",
    first: str,
    last: str,
    asset: str | None = None,
    *,
    dry_run: bool = False,
    instance: dg.DagsterInstance | None = None,
) -> list[Launch]:
    """Launch a backfill of the windows of these nights that have data; the daemon of `dsa110 up` runs it.

    With `asset` that asset is launched, otherwise the observations' ingest. The sensor `planner` requests the assets that follow, as it
    always does, so that one failed image holds up nothing else. A dry run returns what would be launched. Raises NotFoundError when
    these nights have no data.
    """
    from dsa110_assets.archive.store import Archive

    partitioned = {name: one.grain for name, one in graph.specifications().items() if one.grain not in ("catalogue", "request")}
    if asset is not None and asset not in partitioned:
        raise ConfigurationError(f"--asset {asset}: has no nights; choose one of {', '.join(partitioned)}")
    night_keys, archive = nights(first, last), Archive.create(settings.archive, settings.database_url)
    assets = (asset,) if asset else graph.PHASES[1][1]
    grain = partitioned[assets[0]]
    reasons = {key: season.outside(grain, key, inbox.now_s()) for key in present(archive, settings, night_keys, grain)}
    left_out = tuple(f"{key}: {reason}" for key, reason in reasons.items() if reason)
    keys = [key for key, reason in reasons.items() if reason is None]
    if left_out and not keys:
        raise NotFoundError(f"no window of {first}..{last} has a partition: {left_out[0]}")
    if not keys:
        raise NotFoundError(
            f"no observation of {first}..{last} in {settings.inbox} or the archive; `dsa110 groups` lists those in the inbox"
        )
    launch = Launch(None, assets, tuple(keys), left_out)
    if dry_run:
        return [launch]
    return [hand_over(instance or instances.open_instance(settings.dagster_home), launch)]


def of_partitions(
    settings: "Settings", asset: str, partitions: Sequence[str], trial: str | None = None, options: Mapping[str, Any] | None = None
) -> Launch:
    """The launch that makes these partitions of an asset again; for a trial if one is named, with these options (by dotted names).

    Raises ConfigurationError for an asset without partitions by time, for a key that is not a partition of the asset, for options
    without a trial, and for options that do not shape the asset.
    """
    specifications = graph.specifications()
    by_time = [name for name, one in specifications.items() if one.grain not in ("catalogue", "request")]
    if asset not in by_time:
        raise ConfigurationError(f"{asset}: not an asset with partitions by time; those are {', '.join(by_time)}")
    for key in partitions:
        reason = _unfit(specifications[asset].grain, key) or season.outside(specifications[asset].grain, key, inbox.now_s())
        if reason is not None:
            raise ConfigurationError(f"{asset} {key}: {reason}")
    launch = Launch(None, (asset,), tuple(partitions))
    if trial is None and options:
        raise ConfigurationError(f"{', '.join(options)}: a product made with settings other than the platform's needs a trial: name one")
    return (
        launch if trial is None else replace(launch, config={asset: _trial_config(settings, specifications[asset], trial, options or {})})
    )


def _unfit(grain: spec.Grain, key: str) -> str | None:
    """Why a key is not a partition of this grain; None if it is."""
    try:
        timegrid.parse_key(key)
    except ValueError as error:
        return str(error)
    fits = {"observation": len(key) > 10, "hour": key.endswith(":00"), "night": len(key) == 10}[grain]
    return None if fits else f"it is made per {grain}"


def _trial_config(settings: "Settings", asset: spec.Asset, trial: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """The launchpad config for a trial (see `launchpad.schema`)."""
    from dsa110_assets import settings as known_settings

    changed_settings = known_settings.changed(settings, options)
    config: dict[str, Any] = {launchpad.TRIAL: naming.check_trial(trial)}
    for name in options:
        group, _, part = name.partition(".")
        if group not in asset.shaping:
            raise ConfigurationError(f"{name} does not shape {asset.name}; the groups that do: {', '.join(asset.shaping) or 'none'}")
        if part:
            config.setdefault(group, {})[part] = jsonable(getattr(getattr(changed_settings, group), part))
        else:
            config[group] = jsonable(getattr(changed_settings, group))
    return config


def hand_over(instance: dg.DagsterInstance, launch: Launch, tags: Mapping[str, str] = TAGS) -> Launch:
    """Hand a backfill to the daemon, as the UI's button does, and return it with its id. It is a backfill of assets, which succeeds once
    all are materialised, or of a trial's runs."""
    common = {
        "backfill_id": uuid.uuid4().hex[:8], "partition_names": list(launch.partitions), "backfill_timestamp": time.time(),
        "asset_selection": [dg.AssetKey(name) for name in launch.assets], "tags": {**tags, **routing.tags(launch.assets)},
        "title": f"{', '.join(launch.assets)}: {launch.partitions[0]} to {launch.partitions[-1]}",
    }  # fmt: skip
    dagster_backfill = _of_assets(instance, common) if launch.config is None else _of_runs(launch, launch.config, common)
    instance.add_backfill(dagster_backfill)
    return replace(launch, backfill_id=dagster_backfill.backfill_id)


def _of_assets(instance: dg.DagsterInstance, common: Mapping[str, Any]) -> "internals.PartitionBackfill":
    from dsa110_assets.orchestration.running import internals

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # raised by Dagster itself, inside the call
        return internals.PartitionBackfill.from_asset_partitions(
            asset_graph=graph.over(Platform()).resolve_asset_graph(), dynamic_partitions_store=instance, all_partitions=False,
            description=None, run_config=None, **common,
        )  # fmt: skip


def _of_runs(launch: Launch, config: Mapping[str, Any], common: Mapping[str, Any]) -> "internals.PartitionBackfill":
    """A backfill of the job of these assets' grain, which succeeds once its runs do. A trial materialises nothing, so a backfill of
    assets would wait in vain and end as failed."""
    from dsa110_assets.orchestration.running import internals

    job = jobs.name(graph.specifications()[launch.assets[0]].grain)
    repository = internals.RemoteRepositoryOrigin(internals.RegisteredCodeLocationOrigin(LOCATION), REPOSITORY)
    windows = internals.RemotePartitionSetOrigin(
        repository_origin=repository, partition_set_name=internals.partition_set_snap_name_for_job_name(job)
    )
    return internals.PartitionBackfill(
        status=internals.BulkActionStatus.REQUESTED, from_failure=False, partition_set_origin=windows,
        run_config={"ops": {name: {"config": asset_config} for name, asset_config in config.items()}}, **common,
    )  # fmt: skip
