"""`dsa110 up`: start and stop Dagster's servers and daemon and the portal together."""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path

import typer

from dsa110_assets import logs
from dsa110_assets.cli import console, services
from dsa110_assets.cli.app import app
from dsa110_assets.cli.home import with_dagster_home
from dsa110_assets.errors import ConfigurationError
from dsa110_assets.orchestration import LOCATION
from dsa110_assets.portal.guard import LOOPBACK

LOGS = "service-logs"
"""Not `logs`: Dagster takes files there for its telemetry, and uploads and deletes them even with telemetry off."""
QUIET = {"DAGSTER_DISABLE_TELEMETRY": "1"}
"""The setting in dagster.yaml stops the recording; this stops the uploader."""


@app.command(epilog="Example: dsa110 up --port 3000 --portal-port 3001")
def up(
    host: str | None = typer.Option(None, help="Address to bind to (default: the setting `host`, loopback)."),
    port: int | None = typer.Option(None, min=1, max=65535, help="Port of the Dagster UI (default: setting)."),
    portal_port: int | None = typer.Option(None, min=1, max=65535, help="Port of the portal (default: setting)."),
) -> None:
    """Start web server, daemon and portal together; Ctrl-C stops all of them."""
    from dsa110_assets import settings
    from dsa110_assets.archive.store import Archive
    from dsa110_assets.orchestration.running.instance import open_instance

    configured = settings.load()
    bind = host or configured.host
    web_port, pages_port = port or configured.port, portal_port or configured.portal_port
    if not configured.inbox.is_dir():
        raise ConfigurationError(f"DSA110_INBOX={configured.inbox}: no such directory; make it, or name another")
    services.require_port(bind, web_port, "DSA110_PORT or --port")
    services.require_port(bind, pages_port, "DSA110_PORTAL_PORT or --portal-port")

    Archive.create(configured.archive, configured.database_url).close()
    home = with_dagster_home(configured).dagster_home
    assert home is not None
    open_instance(home).dispose()  # reports a problem of the instance once, instead of a traceback from each server

    def on_ready() -> None:
        if bind not in LOOPBACK:
            console.warn(
                f"{bind} can be reached by others: Dagster asks for DSA110_TOKEN (open it with /?token=...)"
                if configured.token
                else f"{bind} can be reached by others, and DSA110_TOKEN is not set: Dagster is read-only"
            )
        console.say_if_possible(f"Dagster  http://{bind}:{web_port}\nPortal   http://{bind}:{pages_port}\nCtrl-C stops both.")

    keep_logs = partial(logs.rotate, most_bytes=1e6 * configured.log_mb, keep=configured.log_files)
    services.run(_services(home, bind, web_port, pages_port), console.warn, on_ready, keep_logs)
    console.warn("all stopped")


def _services(home: Path, host: str, web_port: int, portal_port: int) -> list[services.Service]:
    """Return the services, the code server first: the others read the definitions from it, so that they are loaded once."""
    code_port = services.free_port()
    python, log_directory = sys.executable, home / LOGS
    workspace = home / "workspace.yaml"
    workspace.write_text(f"load_from:\n  - grpc_server:\n      host: 127.0.0.1\n      port: {code_port}\n      location_name: {LOCATION}\n")
    reachable_host = "127.0.0.1" if host == "0.0.0.0" else host
    environment = {"DAGSTER_HOME": str(home), **QUIET}
    return [
        services.Service(
            "code server",
            (python, "-m", "dsa110_assets.cli.code_server", "--port", str(code_port)),
            log_directory / "code-server.log", ready_port=code_port, environment=environment,
        ),
        services.Service(
            "web server",
            (python, "-m", "dsa110_assets.portal.door", *(["--local"] if host in LOOPBACK else []), "--host", host,
             "--port", str(web_port), "--workspace", str(workspace)),
            log_directory / "webserver.log", ready_url=f"http://{reachable_host}:{web_port}/server_info",
            environment=environment,
        ),
        services.Service(
            "daemon", (python, "-m", "dsa110_assets.orchestration.running.daemon", "--workspace", str(workspace)),
            log_directory / "daemon.log", environment=environment,
        ),
        services.Service(
            "portal", (python, "-m", "dsa110_assets.portal", "--host", host, "--port", str(portal_port)),
            log_directory / "portal.log", ready_url=f"http://{reachable_host}:{portal_port}/health", environment=environment,
        ),
    ]  # fmt: skip
