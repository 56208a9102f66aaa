"""The non-public names of Dagster that are used, each with its reason: no other module of the package names `dagster._...`.

A release of Dagster that moves one of them fails here, at import, and in a test that names it.
"""

import logging
from collections.abc import Callable
from functools import partial

from dagster._check import CheckError as CheckError
from dagster._core.execution.backfill import BulkActionStatus as BulkActionStatus
from dagster._core.execution.backfill import PartitionBackfill as PartitionBackfill
from dagster._core.execution.plan.objects import StepFailureData as StepFailureData
from dagster._core.origin import get_python_environment_entry_point as get_python_environment_entry_point
from dagster._core.remote_origin import RegisteredCodeLocationOrigin as RegisteredCodeLocationOrigin
from dagster._core.remote_origin import RemotePartitionSetOrigin as RemotePartitionSetOrigin
from dagster._core.remote_origin import RemoteRepositoryOrigin as RemoteRepositoryOrigin
from dagster._core.remote_representation.external_data import partition_set_snap_name_for_job_name as partition_set_snap_name_for_job_name
from dagster._core.storage.asset_check_execution_record import AssetCheckExecutionRecord as AssetCheckExecutionRecord
from dagster._core.storage.asset_check_execution_record import AssetCheckExecutionRecordStatus as AssetCheckExecutionRecordStatus
from dagster._core.types.loadable_target_origin import LoadableTargetOrigin as LoadableTargetOrigin
from dagster._core.utils import FuturesAwareThreadPoolExecutor as FuturesAwareThreadPoolExecutor
from dagster._core.workspace.context import WorkspaceProcessContext as WorkspaceProcessContext
from dagster._core.workspace.load_target import WorkspaceFileTarget as WorkspaceFileTarget
from dagster._grpc.__generated__ import dagster_api_pb2 as dagster_api_pb2
from dagster._grpc.server import DagsterApiServer as DagsterApiServer
from dagster._grpc.server import DagsterGrpcServer as DagsterGrpcServer
from dagster._grpc.types import CanCancelExecutionRequest as CanCancelExecutionRequest
from dagster._grpc.types import CanCancelExecutionResult as CanCancelExecutionResult
from dagster._grpc.types import CancelExecutionRequest as CancelExecutionRequest
from dagster._grpc.types import CancelExecutionResult as CancelExecutionResult
from dagster._serdes import deserialize_value as deserialize_value
from dagster._serdes import serialize_value as serialize_value
from dagster._utils.interrupts import setup_interrupt_handlers as setup_interrupt_handlers
from dagster._utils.log import configure_loggers as configure_loggers

_SERVER = "runs are forked from a warm process and cancelled without waiting: `cli.code_server` is Dagster's server with this changed"
REASONS = {
    "CheckError": "raised for a malformed dagster.yaml; it is replaced with a readable message",
    "PartitionBackfill": "Dagster has no public call that launches a backfill; the web page's button does this",
    **dict.fromkeys(
        (
            "BulkActionStatus", "RegisteredCodeLocationOrigin", "RemotePartitionSetOrigin", "RemoteRepositoryOrigin",
            "partition_set_snap_name_for_job_name",
        ),
        "a backfill of a job: its runs need not materialise anything, as those of a trial do not",
    ),
    "StepFailureData": "the type of `DagsterEvent.step_failure_data`, which is public",
    "AssetCheckExecutionRecord": "the history of a check has no public reader that both storages have",
    "AssetCheckExecutionRecordStatus": "the history of a check has no public reader that both storages have",
    "WorkspaceProcessContext": "the web server's pages are served behind our own guard, `portal.door`, in one process",
    "WorkspaceFileTarget": "the web server's pages are served behind our own guard, `portal.door`, in one process",
    **dict.fromkeys(
        (
            "get_python_environment_entry_point", "LoadableTargetOrigin", "FuturesAwareThreadPoolExecutor", "dagster_api_pb2",
            "DagsterApiServer", "DagsterGrpcServer", "CanCancelExecutionRequest", "CanCancelExecutionResult", "CancelExecutionRequest",
            "CancelExecutionResult", "deserialize_value", "serialize_value", "setup_interrupt_handlers", "configure_loggers",
        ),
        _SERVER,
    ),
    "write_run_lines": "the console logger of sensors, and of runs that name no logger (all of ours), is not configurable",
    "run_daemon": "its lock has to be held by the process that is the daemon, and its parts' signs of life have to come in time",
}  # fmt: skip


def run_daemon(workspace: str, form: str, beat_s: int) -> None:
    """Run Dagster's daemon until a signal ends it; `form` is the form of its log lines, text or json. Its parts give signs of life every
    `beat_s` seconds; Dagster itself uses 30 s and has no setting for it.

    The daemon is imported only when it is run: the import takes seconds, and only the daemon needs it.
    """
    from dagster._daemon import cli
    from dagster._daemon.controller import daemon_controller_from_instance

    cli.daemon_controller_from_instance = partial(daemon_controller_from_instance, heartbeat_interval_seconds=beat_s)  # type: ignore[attr-defined]
    lines = ["--log-format", "json"] if form == "json" else []
    cli.run_command.main(["--workspace", workspace, *lines], standalone_mode=False)


def write_run_lines(create: Callable[[str, int | str], logging.Logger]) -> None:
    """Make runs and sensors of this process, and of processes forked from it, write to the console with the logger that `create` makes.

    Dagster's own logger writes coloured text for every event, although its database has them; to configure it, every run would need the
    configuration.
    """
    from dagster import _loggers
    from dagster._core.definitions import instigation_logger

    _loggers.create_console_logger = create  # type: ignore[attr-defined,assignment]
    instigation_logger.create_console_logger = create  # type: ignore[attr-defined,assignment]
