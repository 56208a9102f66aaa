"""Row 41: a range of partitions, launched as by the web pages, that contains a spoiled and an empty window."""

from __future__ import annotations

import logging
from pathlib import Path

import dagster as dg
import pytest
from dagster._core.execution.backfill import BulkActionStatus
from dagster._core.storage.tags import ASSET_PARTITION_RANGE_END_TAG, ASSET_PARTITION_RANGE_START_TAG
from dagster._daemon.backfill import execute_backfill_iteration

from dsa110_assets.archive.store import Archive
from dsa110_assets.cli import code_server
from dsa110_assets.definitions import defs
from dsa110_assets.orchestration.planning.requests import PARTITION_TAG
from dsa110_assets.orchestration.watching import history
from dsa110_assets_tests.faults.figures import record_figure
from dsa110_assets_tests.faults.serving import CodeServer, served, until
from dsa110_assets_tests.tiny import OBSERVATIONS, SMALL_DISK, SUBBANDS, spoil_data

GOOD, SPOILED, EMPTY = (OBSERVATIONS[0], OBSERVATIONS[2]), OBSERVATIONS[1], "2026-01-25T22:35"
ASSETS = ("subband_group", "measurement_set")
ENVIRONMENT = {
    "DSA110_SUBBANDS": str(SUBBANDS), "DSA110_MIN_SUBBANDS": str(SUBBANDS - 1), "DSA110_STILL_S": "0",
    "DSA110_THRESHOLDS": str(SMALL_DISK),
}  # fmt: skip
LAUNCH = """mutation ($given: LaunchBackfillParams!) { launchPartitionBackfill(backfillParams: $given) {
  __typename ... on LaunchBackfillSuccess { backfillId } ... on PythonError { message } } }"""
SINGLE = """mutation ($given: ExecutionParams!) { launchRun(executionParams: $given) {
  __typename ... on LaunchRunSuccess { run { runId } } ... on PythonError { message } } }"""
Ended = dg.DagsterRunStatus


def launch(server: CodeServer) -> str:
    """Launch the range as the web pages' dialogue does. Return the id of the backfill."""
    names = sorted([*GOOD, SPOILED, EMPTY])
    answer = server.ask(LAUNCH, given={"assetSelection": [{"path": [asset]} for asset in ASSETS], "partitionNames": names})
    assert answer["__typename"] == "LaunchBackfillSuccess", answer
    return str(answer["backfillId"])


def launch_as_one(server: CodeServer) -> str:
    """Launch the range in a single run, which the same dialogue offers. Return the id of the run."""
    selector = {
        "repositoryName": "__repository__", "repositoryLocationName": code_server.LOCATION, "pipelineName": "observations",
        "assetSelection": [{"path": [ASSETS[0]]}],
    }  # fmt: skip
    tags = [{"key": ASSET_PARTITION_RANGE_START_TAG, "value": GOOD[0]}, {"key": ASSET_PARTITION_RANGE_END_TAG, "value": EMPTY}]
    given = {"selector": selector, "mode": "default", "runConfigData": {}, "executionMetadata": {"tags": tags}}
    answer = server.ask(SINGLE, given=given)
    assert answer["__typename"] == "LaunchRunSuccess", answer
    return str(answer["run"]["runId"])


def worked_off(server: CodeServer, backfill_id: str) -> bool:
    """Run one turn of the daemon's loop over backfills. Return whether this backfill has ended."""
    assert [error for error in execute_backfill_iteration(server.workspace, logging.getLogger("daemon")) if error] == []
    backfill = server.instance.get_backfill(backfill_id)
    return backfill is not None and backfill.status not in (BulkActionStatus.REQUESTED, BulkActionStatus.FAILING)


def checks_of(server: CodeServer, run_id: str) -> set[tuple[str, str]]:
    """(asset, product) of every check that a run evaluated."""
    entries = server.instance.all_logs(run_id, of_type=dg.DagsterEventType.ASSET_CHECK_EVALUATION)
    evaluated = [entry.dagster_event.asset_check_evaluation_data for entry in entries if entry.dagster_event is not None]
    return {(one.asset_key.to_user_string(), str(one.metadata["product"].value)) for one in evaluated}


@pytest.mark.slow
@pytest.mark.row(41)
@pytest.mark.filterwarnings("ignore:Function `AssetSelection.sources`:DeprecationWarning")  # Dagster's own
def test_a_range_makes_all_its_members_and_names_the_one_that_fails(inbox: Path, tmp_path: Path) -> None:
    spoilt = min(inbox.glob(f"{SPOILED}*_sb01.hdf5"))
    spoil_data(spoilt)
    with served(tmp_path, inbox, **ENVIRONMENT) as server:
        single = launch_as_one(server)
        until(lambda: server.run(single).is_finished, "the single run has ended")
        refused = history.why_failed(Path(server.instance.root_directory), server.run(single).run_id)
        backfill_id = launch(server)
        until(lambda: worked_off(server, backfill_id), "the range is worked off")
        runs = {run.tags[PARTITION_TAG]: run for run in server.instance.get_runs(dg.RunsFilter(tags={"dagster/backfill": backfill_id}))}
        assert sorted(runs) == sorted([*GOOD, SPOILED, EMPTY])
        assert {key for key, run in runs.items() if run.status == Ended.FAILURE} == {SPOILED}
        with Archive(tmp_path / "archive") as archive:
            for key in GOOD:
                made = {(product.asset, product.id) for product in archive.products() if product.partition == key}
                assert {asset for asset, _ in made} == set(ASSETS)
                assert checks_of(server, runs[key].run_id) == made
            assert [p.asset for p in archive.products() if p.partition in (SPOILED, EMPTY)] == ["subband_group"]
        reason = history.why_failed(Path(server.instance.root_directory), runs[SPOILED].run_id)
        backfill = server.instance.get_backfill(backfill_id)
        assert backfill is not None
        assert backfill.status == BulkActionStatus.COMPLETED_FAILED
    assert refused.startswith(f"ConfigurationError: subband_group {GOOD[0]} to {EMPTY} in one run: every partition")
    assert reason.startswith(f"BadDataError: {spoilt}: data cannot be read")
    record_figure(41, "members of a range beside a spoiled and an empty one", len(GOOD))
    record_figure(41, "of them not made, or without checks", 0)


def test_no_asset_has_a_backfill_policy() -> None:
    """With a backfill policy, Dagster tags a run with a range instead of its partition, even a range of one partition; and its
    command line accepts a range only where a single run has to make all of it."""
    assert {node.backfill_policy for node in defs.resolve_asset_graph().asset_nodes} == {None}
