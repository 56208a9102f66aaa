"""The code server: Dagster's own, except that runs are forked from a process that has imported everything.

Dagster starts a run in a new interpreter, which spends seconds of processor time on imports before the first
step. Here a fork server holds Dagster, the definitions and the science, and no open archive; a run is
a fork of it, as isolated as before, and shares its memory.
"""

import argparse
import logging
import multiprocessing
import multiprocessing.forkserver
import sys
import threading
from typing import Any

from dagster._core.origin import get_python_environment_entry_point
from dagster._core.types.loadable_target_origin import LoadableTargetOrigin
from dagster._core.utils import FuturesAwareThreadPoolExecutor
from dagster._grpc.server import DagsterApiServer, DagsterGrpcServer
from dagster._utils.interrupts import setup_interrupt_handlers
from dagster._utils.log import configure_loggers

from dsa110_assets.cli import sockets

MODULE = "dsa110_assets.definitions"
LOCATION = "dsa110_assets"
WARM = "dsa110_assets.cli.warm"
"""Imports what the steps import; see there."""


class WarmServer(DagsterApiServer):
    """Dagster's code server with its runs forked from a warm process instead of spawned."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._mp_ctx: Any = multiprocessing.get_context("forkserver")


def serve(host: str, port: int) -> None:
    """Serve the definitions on host:port until a signal ends it."""
    setup_interrupt_handlers()
    configure_loggers()
    sockets.fit()
    multiprocessing.set_forkserver_preload([WARM])
    multiprocessing.forkserver.ensure_running()  # now, not at the first run: it warms up while this server loads
    logger = logging.getLogger("dagster.code_server")
    ended, pool = threading.Event(), FuturesAwareThreadPoolExecutor(max_workers=None)
    servicer = WarmServer(
        server_termination_event=ended,
        logger=logger,
        server_threadpool_executor=pool,
        loadable_target_origin=LoadableTargetOrigin(executable_path=sys.executable, module_name=MODULE),
        entry_point=get_python_environment_entry_point(sys.executable),
        location_name=LOCATION,
    )
    server = DagsterGrpcServer(
        server_termination_event=ended,
        dagster_api_servicer=servicer,
        host=host,
        port=port,
        logger=logger,
        threadpool_executor=pool,
    )
    logger.info("Serving %s on %s:%d", MODULE, host, port)
    try:
        server.serve()  # type: ignore[no-untyped-call]
    except KeyboardInterrupt:
        logger.info("Interrupted")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--host", default="127.0.0.1", help="loopback only: whoever reaches this port runs code here")
    parser.add_argument("--port", type=int, required=True)
    given = parser.parse_args()
    serve(given.host, given.port)
