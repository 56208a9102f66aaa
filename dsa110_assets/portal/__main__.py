"""`python -m dsa110_assets.portal`: serve the portal until a signal ends it."""

from __future__ import annotations

import argparse
import sys
from functools import partial

from dsa110_assets.errors import DsaError

LOOK_S = 15.0
"""Seconds between two looks into the inbox: a look at a hundred thousand files takes seconds."""
AWAY_S = 10.0
"""A database that does not answer for longer is reported and no longer waited for."""


def main() -> int:
    """Serve DSA110_ARCHIVE on the host and port of the settings, or of the command line."""
    parser = argparse.ArgumentParser(prog="python -m dsa110_assets.portal", description=main.__doc__)
    parser.add_argument("--host", help="address to bind to (default: the setting `host`, loopback)")
    parser.add_argument("--port", type=int, help="port (default: the setting `portal_port`)")
    arguments = parser.parse_args()
    import uvicorn

    from dsa110_assets import logs, settings
    from dsa110_assets.archive.readonly import may_write
    from dsa110_assets.archive.store import MARKER, Archive
    from dsa110_assets.orchestration.planning import plan
    from dsa110_assets.orchestration.watching import conditions, watch
    from dsa110_assets.portal import overview
    from dsa110_assets.portal.app import create_app

    try:
        configured = settings.load()
        host = arguments.host or configured.host
        look = overview.at_most_every(LOOK_S, partial(plan.scan_for_display, settings=configured))
        app = create_app(configured.archive, inbox=configured.inbox, hosts=(host, *configured.hosts), look=look, settings=configured)
    except DsaError as error:
        print(f"portal: {error}", file=sys.stderr)
        return 1
    logs.configure(configured.log_format)
    watched = Archive(configured.archive, configured.database_url, patience_s=AWAY_S)
    eye = watch.WatchThread(watched, configured, app.state.limits, conditions.PORTAL)
    if may_write(configured.archive / MARKER):
        eye.open()
    try:
        uvicorn.run(
            app,
            host=host,
            port=arguments.port or configured.portal_port,
            log_config=None,
            access_log=False,
            server_header=False,
        )
    finally:
        eye.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
