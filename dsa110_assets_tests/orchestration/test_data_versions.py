"""Dagster's pages and the archive agree on what is stale, because both compare the bytes of the inputs."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

import dagster as dg
import pytest
from dagster._core.definitions.data_version import CachingStaleStatusResolver, StaleStatus
from dagster._core.loader import LoadingContextForTest

from dsa110_assets.archive.store import Archive
from dsa110_assets.definitions import defs
from dsa110_assets.orchestration import graph
from dsa110_assets.orchestration.planning import plan
from dsa110_assets.orchestration.resources import Platform
from dsa110_assets.orchestration.running import instance as instances
from dsa110_assets.orchestration.running import reporting
from dsa110_assets.orchestration.running.partition_run import QUIET
from dsa110_assets.orchestration.running.process import _event
from dsa110_assets.orchestration.specification.spec import Asset
from dsa110_assets_tests.tiny import OBSERVATIONS

if TYPE_CHECKING:
    from dsa110_assets.settings import Settings

HOUR, NIGHT = "2026-01-25T22:00", "2026-01-25"
Key = tuple[str, str | None]


def every_partition(archive: Archive) -> list[Key]:
    return [(product.asset, product.partition) for product in archive.products()]


def by_dagster(instance: dg.DagsterInstance, keys: list[Key]) -> set[Key]:
    """The partitions that the asset pages show as stale. The pages use this resolver."""
    resolver = CachingStaleStatusResolver(instance, defs.resolve_asset_graph(), LoadingContextForTest(instance))
    found = {key: resolver.get_status(dg.AssetKey(key[0]), key[1]) for key in keys}
    assert StaleStatus.MISSING not in found.values()
    return {key for key, status in found.items() if status == StaleStatus.STALE}


def by_archive(archive: Archive, settings: Settings, keys: list[Key]) -> set[Key]:
    return {key for key in keys if plan.reason_to_make(archive, settings, *key)}


def test_a_version_is_the_digest_of_what_was_published(processed: Settings) -> None:
    with Archive(processed.archive) as archive, instances.open_instance(processed.dagster_home) as instance:
        for product in archive.products():
            record = instance.get_latest_data_version_record(dg.AssetKey(product.asset), partition_key=product.partition)
            assert record is not None
            tags = record.event_log_entry.tags or {}
            assert tags[reporting.VERSION_TAG] == product.digest
            inputs = set(graph.specifications()[product.asset].inputs)
            assert inputs == {tag.rpartition("/")[2] for tag in tags if tag.startswith("dagster/input_data_version/")}


def beyond_dagster(asset: Asset, source: str) -> bool:
    """Whether Dagster ignores this input: it does so where a partition has a hundred input partitions or more. A night has 288 windows."""
    return asset.grain == "night" and source in asset.inputs and graph.specifications()[source].grain == "observation"


@pytest.mark.parametrize("changed", ["measurement_set", "tile_image", "source_measurements", "source_catalog"])
def test_other_bytes_make_the_same_stale_for_both(processed: Settings, changed: str) -> None:
    with Archive(processed.archive) as archive, instances.open_instance(processed.dagster_home) as instance:
        keys = every_partition(archive)
        assert by_dagster(instance, keys) == by_archive(archive, processed, keys) == set()
        grain = graph.specifications()[changed].grain
        before = archive.current(changed, {"observation": OBSERVATIONS[1], "hour": HOUR, "catalogue": None}[grain])
        assert before is not None
        with archive.publish(
            changed, before.partition, before.inputs, settings=before.settings, code_version=before.code_version, run_id="r"
        ) as draft:  # fmt: skip
            shutil.copytree(before.path, draft.path, dirs_exist_ok=True)
            (draft.path / "product.json").unlink()
            (draft.path / "more").write_text("another byte")
            draft.metadata.update(before.metadata)
        instance.report_runless_asset_event(_event(draft.product))
        unseen = {(name, NIGHT) for name, known in graph.specifications().items() if beyond_dagster(known, changed)}
        stale = by_archive(archive, processed, keys)
        assert unseen < stale
        assert by_dagster(instance, keys) == stale - unseen


def test_equal_bytes_made_again_make_nothing_stale_for_either(processed: Settings) -> None:
    with Archive(processed.archive) as archive, instances.open_instance(processed.dagster_home) as instance:
        keys = every_partition(archive)
        job = graph.over(Platform(processed)).resolve_implicit_global_asset_job_def()
        remade = job.execute_in_process(run_config=QUIET, instance=instance, asset_selection=[dg.AssetKey("source_catalog")])
        assert remade.success
        current = archive.current("source_catalog")
        assert current is not None
        assert current.version == 2
        assert by_dagster(instance, keys) == by_archive(archive, processed, keys) == set()
