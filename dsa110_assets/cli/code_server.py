"""The code server: Dagster's own, with a different way of starting and cancelling runs.

Dagster starts a run in a new interpreter, which spends seconds of processor time on imports before the first
step. Here a fork server holds Dagster, the definitions and the science code, but no open archive. A run is
a fork of it, which is as isolated as a new interpreter and shares the server's memory.

Dagster cancels a run by an event that the run's process must acknowledge, and holds the lock of all runs until it
does. A process that is stopped, or hangs outside Python, would keep every later run from starting. Here a cancelled run gets
a signal every SIGNAL_INTERVAL_S, and if it has not ended after CANCEL_GRACE_S it is killed with all its child processes.

After SIGTERM the server starts no more runs, and ends when those it started have ended. Until then it watches them, and cancels
them on request. So another server can take its place meanwhile, at another socket.
"""

import argparse
import contextlib
import logging
import multiprocessing
import multiprocessing.forkserver
import os
import signal
import sys
import threading
import time
from functools import partial
from pathlib import Path
from typing import Any

from dagster import DagsterInstance

from dsa110_assets import children, logs, settings
from dsa110_assets.cli import WARM, sockets
from dsa110_assets.orchestration import LOCATION
from dsa110_assets.orchestration.running import internals

MODULE = "dsa110_assets.definitions"
CANCEL_GRACE_S = 30.0
"""Time from cancelling a run to killing it: code that computes outside Python handles a signal only when it returns."""
SIGNAL_INTERVAL_S = 5.0
"""Time between the signals to a cancelled run. One signal is not enough: Python drops an exception that is raised while it
collects garbage, which takes most of the first 0.2 s of a run. The interval is long enough for a run to clean up."""
_log = logging.getLogger("dagster.code_server")


class WarmServer(internals.DagsterApiServer):
    """Dagster's code server with its runs forked from a warm process instead of spawned, and cancelled without waiting.

    `_termination_times` holds when each run was asked to end [unix s], `_last_signals` when it was last signalled. The
    lock of all runs is never held while waiting for anything outside this process.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._mp_ctx: Any = multiprocessing.get_context("forkserver")
        self._next_look_s = 0.0
        self._last_signals: dict[str, float] = {}

    def CancelExecution(self, request: Any, _context: Any) -> Any:
        """Ask a run to end, once; the reply is False if no run of this id is here."""
        run_id = internals.deserialize_value(request.serialized_cancel_execution_request, internals.CancelExecutionRequest).run_id
        with self._execution_lock:
            found = self._ask_to_end(run_id)
        result = internals.CancelExecutionResult(success=found, message=None, serializable_error_info=None)
        return internals.dagster_api_pb2.CancelExecutionReply(serialized_cancel_execution_result=internals.serialize_value(result))

    def _ask_to_end(self, run_id: str) -> bool:
        """Signal a run unless it was signalled before; False if it is not here. Assumes that the lock is held."""
        if run_id not in self._executions:
            return False
        if run_id not in self._termination_times:
            self._termination_times[run_id] = self._last_signals[run_id] = time.time()
            _signal(self._executions[run_id][0], signal.SIGINT)
        return True

    def _ask_again(self) -> None:
        """Signal the runs that were asked to end and still run, every SIGNAL_INTERVAL_S."""
        with self._execution_lock:
            for run_id in self._last_signals.keys() - self._executions.keys():
                del self._last_signals[run_id]
            for run_id, since in self._last_signals.items():
                if time.time() - since > SIGNAL_INTERVAL_S:
                    self._last_signals[run_id] = time.time()
                    _signal(self._executions[run_id][0], signal.SIGINT)

    def end_when_idle(self) -> None:
        """Start no more runs, and end the server when none is left."""
        _log.info("waiting for %d runs to end; no more are started here", len(self._executions))
        self._shutdown_once_executions_finish_event.set()

    def CanCancelExecution(self, request: Any, _context: Any) -> Any:
        """Whether a run is here and has not been asked to end."""
        run_id = internals.deserialize_value(request.serialized_can_cancel_execution_request, internals.CanCancelExecutionRequest).run_id
        with self._execution_lock:
            result = internals.CanCancelExecutionResult(can_cancel=run_id in self._executions and run_id not in self._termination_times)
        return internals.dagster_api_pb2.CanCancelExecutionReply(serialized_can_cancel_execution_result=internals.serialize_value(result))

    def _check_for_orphaned_runs(self) -> None:
        """Dagster's check for ended runs, twice a second; before it, a check of cancelled runs that have not ended."""
        try:
            self._ask_the_finished()
            self._ask_again()
            self._end_cancelled()
            super()._check_for_orphaned_runs()
        except Exception:  # noqa: BLE001
            # the only thread that checks runs; a database that is unavailable for a minute must not end it
            _log.exception("checking the runs failed; it is tried again")

    def _ask_the_finished(self) -> None:
        """Every CANCEL_GRACE_S, ask processes to end whose run the daemon abandoned because it took too long to start or to end.

        Each of them that hangs would keep a thread of this server, of which there are few.
        """
        if time.time() < self._next_look_s:
            return
        self._next_look_s = time.time() + CANCEL_GRACE_S
        with self._execution_lock:
            running = {run_id: ref for run_id, (_, ref) in self._executions.items() if run_id not in self._termination_times}
        for run_id, instance_ref in running.items():
            with DagsterInstance.from_ref(instance_ref) as instance:
                run = instance.get_run_by_id(run_id)
            if run is None or run.is_finished:
                with self._execution_lock:
                    self._ask_to_end(run_id)

    def _end_cancelled(self) -> None:
        """Kill cancelled runs that have not ended; a cancelled run is reported as cancelled, however its process ended."""
        with self._execution_lock:
            cancelled = [(run_id, *self._executions[run_id], since) for run_id, since in self._termination_times.items()]
            alive = {run_id for run_id, process, _, _ in cancelled if process.is_alive()}
        for run_id, process, instance_ref, since in cancelled:
            overdue = time.time() - since > CANCEL_GRACE_S
            if run_id in alive and not overdue:
                continue
            try:
                with DagsterInstance.from_ref(instance_ref) as instance:
                    run = instance.get_run_by_id(run_id)
                    if run is not None and not run.is_finished:
                        outcome = (
                            f"had not ended {CANCEL_GRACE_S:.0f} s after it was cancelled and is killed" if run_id in alive else "is gone"
                        )
                        instance.report_run_canceled(run, f"The process of the cancelled run {outcome}.")
            finally:
                if run_id in alive:
                    children.kill_tree(_pid(process))


def _signal(process: multiprocessing.Process, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(_pid(process), number)


def _pid(process: multiprocessing.Process) -> int:
    assert process.pid is not None, "a run is registered once its process has started"
    return process.pid


def serve(host: str, port: int | None, socket: Path | None) -> None:
    """Serve the definitions on host:port, or on a socket in the file system, until a signal ends it."""
    internals.setup_interrupt_handlers()
    form = settings.log_form()
    logs.configure(form)
    internals.configure_loggers(formatter="json" if form == "json" else "colored")
    internals.write_run_lines(partial(logs.run_logger, form))
    sockets.use_short_socket_directory()
    multiprocessing.set_forkserver_preload([WARM])
    multiprocessing.forkserver.ensure_running()  # now, not at the first run, so that it warms up while this server loads
    logger = logging.getLogger("dagster.code_server")
    ended, pool = threading.Event(), internals.FuturesAwareThreadPoolExecutor(max_workers=None)
    servicer = WarmServer(
        server_termination_event=ended,
        logger=logger,
        server_threadpool_executor=pool,
        loadable_target_origin=internals.LoadableTargetOrigin(executable_path=sys.executable, module_name=MODULE),
        entry_point=internals.get_python_environment_entry_point(sys.executable),
        location_name=LOCATION,
    )
    server = internals.DagsterGrpcServer(
        server_termination_event=ended,
        dagster_api_servicer=servicer,
        host=host,
        port=port,
        socket=str(socket) if socket else None,
        logger=logger,
        threadpool_executor=pool,
    )
    signal.signal(signal.SIGTERM, lambda *_: servicer.end_when_idle())
    logger.info("Serving %s on %s", MODULE, socket or f"{host}:{port}")
    try:
        server.serve()  # type: ignore[no-untyped-call]
    except KeyboardInterrupt:
        logger.info("Interrupted")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--host", default="127.0.0.1", help="loopback only: anyone who can reach this port can run code here")
    where = parser.add_mutually_exclusive_group(required=True)
    where.add_argument("--port", type=int)
    where.add_argument("--socket", type=Path, help="a socket in the file system: only users who may write to it can run code here")
    given = parser.parse_args()
    serve(given.host, given.port, given.socket)
