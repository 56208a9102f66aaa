"""The counters of runs agree with the archive and Dagster's history."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from dsa110_assets.archive import counters, integrity
from dsa110_assets.archive.product import FAILED_ERRORS, VERDICTS
from dsa110_assets.archive.store import Archive
from dsa110_assets.errors import ResourceError
from dsa110_assets.orchestration.running import instance as instances
from dsa110_assets.orchestration.running import policy
from dsa110_assets.orchestration.running.process import process
from dsa110_assets.portal import front
from dsa110_assets.portal.app import create_app
from dsa110_assets.settings import Settings
from dsa110_assets_tests.portal.conftest import ask
from dsa110_assets_tests.tiny import tiny_settings

Read = dict[str, dict[counters.Labels, dict[str, float]]]


def counted(archive: Archive) -> Read:
    return archive.index.read(counters.read)


def of_products(archive: Archive) -> Read:
    """The counters computed here from the products' rows."""
    numbers, sizes, checks = Counter[tuple[str, ...]](), Counter[tuple[str, ...]](), Counter[tuple[str, ...]]()
    for product in archive.products(state=None):
        numbers[product.asset,] += 1
        sizes[product.asset,] += product.size_bytes
        for check, reason in product.metadata.get(VERDICTS, {}).items():
            outcome = "passed" if not reason else "failed" if check in product.metadata[FAILED_ERRORS] else "warned"
            checks[product.asset, check, outcome] += 1
    families = {counters.PRODUCTS: numbers, counters.BYTES: sizes, counters.CHECKS: checks}
    return {name: {labels: {"": float(value)} for labels, value in family.items()} for name, family in families.items()}


def test_counters_are_what_the_archive_holds(processed: Settings) -> None:
    """This holds also after a run that makes nothing, and after the index was rebuilt from the files."""
    with Archive(processed.archive) as archive:
        found = counted(archive)
        assert {name: found[name] for name in of_products(archive)} == of_products(archive)
        made = {labels[0]: parts[""] for labels, parts in found[counters.ATTEMPTS].items() if labels[1] == "made"}
        assert made == {asset: numbers[""] for (asset,), numbers in of_products(archive)[counters.PRODUCTS].items()}
        for family in (counters.DURATION, counters.LATENCY):
            for labels, parts in found[family].items():
                windows = (
                    [p for p in archive.products(labels[0]) if p.partition] if family == counters.LATENCY else archive.products(labels[0])
                )
                assert counters.buckets(parts)[-1] == ("+Inf", len(windows)), labels
        late = {labels[0]: parts["sum"] for labels, parts in found[counters.LATENCY].items()}
        latencies = front.latencies(archive, "2026-01-25", "2026-01-25")
        assert late["tile_image"] == pytest.approx(sum(latencies.values()), abs=1e-3)  # the same times, added in another order
        assert late["hour_mosaic"] < late["night_report"]
    process(processed)
    with Archive(processed.archive) as archive:
        assert counted(archive) == found
    integrity.reindex(processed.archive)
    with Archive(processed.archive) as archive:
        assert counted(archive) == found


def test_two_portals_serve_the_same_counts_and_restarts_keep_them(processed: Settings) -> None:
    def served_counts() -> list[str]:
        text = ask(create_app(processed.archive, settings=processed), "/metrics").text
        return sorted(
            line for line in text.splitlines() if line.startswith(("dsa110_stage", "dsa110_products_pub", "dsa110_queue_seconds"))
        )

    assert served_counts() == served_counts()
    assert 'dsa110_products_published_total{asset="tile_image"} 3.0' in served_counts()
    assert 'dsa110_stage_failures_total{asset="tile_image",error_class="ResourceError"} 0.0' in served_counts()


def test_queue_time_is_dagsters(processed: Settings) -> None:
    """The queue time of each run, from its request to its start, equals that in Dagster's records."""
    with Archive(processed.archive) as archive:
        parts = counted(archive)[counters.QUEUED][instances.PROCESS,]
    with instances.open_instance(processed.dagster_home) as dagster:
        records = [one for one in dagster.get_run_records() if one.start_time is not None]
        waits = [one.start_time - one.create_timestamp.timestamp() for one in records if one.start_time is not None]
    assert counters.buckets(parts)[-1] == ("+Inf", len(records))
    assert parts["sum"] == pytest.approx(sum(max(0.0, wait) for wait in waits), abs=1e-3)


def test_failures_and_retries_are_counted(processed: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A tile for which memory is short is retried, and then fails with the class of the error."""
    monkeypatch.setitem(policy.TREATMENTS, ResourceError, policy.Treatment(max_retries=2, wait_s=0.0))
    tile = "tile_image"
    with Archive(processed.archive) as archive:
        before = counted(archive)
        archive.reject(archive.products(tile)[0].id, "to be made again")
        (failed,) = process(tiny_settings(processed.inbox, tmp_path, memory_limit_gib=0.01), through=tile).failed
        assert (failed.asset, failed.error_class) == (tile, ResourceError.__name__)
        after = counted(archive)
    grown = {
        (family, *labels): value
        for family, series in after.items()
        for labels, parts in series.items()
        if not counters.FAMILIES[family].histogram
        if (value := parts[""] - before.get(family, {}).get(labels, {}).get("", 0.0))
    }
    assert grown == {
        (counters.ATTEMPTS, tile, "retried"): 2, (counters.ATTEMPTS, tile, "failed"): 1, (counters.RETRIES, tile): 2,
        (counters.FAILURES, tile, "ResourceError"): 1,
    }  # fmt: skip
    assert after[counters.DURATION] == before[counters.DURATION]  # durations are counted only for products that were made
