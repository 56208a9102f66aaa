"""Cost of counting and spans in a step: one step repeated in one process, alternately with and without them."""

from __future__ import annotations

import statistics
from pathlib import Path
from typing import Any

from common import Contender, Data, Row, compare

WHOLE_S, STEPS = 35.0, 4
"""Seconds of a full-scale group in an archive that has its catalogues (stage `group`), and number of its steps."""
PAIRS_PER_REPEAT = 6
STEP = "measurement_set"
RECEIVER = """
import http.server
class Taker(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        self.rfile.read(int(self.headers["content-length"]))
        self.send_response(200)
        self.send_header("content-length", "0")
        self.end_headers()
    def log_message(self, *_):
        pass
server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Taker)
print(server.server_port, flush=True)
server.serve_forever()
"""


def rows(data: Data, repeats: int) -> list[Row]:
    call = {"place": str(data.scratch / "watching"), "pairs": PAIRS_PER_REPEAT * repeats}
    remark = (
        f"{STEP} of a small group (8 antennas, 4 subbands of 4 channels), made again in one process, in pairs with and without; CPU time "
        f"of that process, the sending of spans to a receiver included; errors are of the mean difference; a group has {STEPS} such steps"
    )
    return compare([Contender("counting and spans of a step", "dsa110_assets", overhead, call, remark, limit_s=7200.0)])


def overhead(place: str, pairs: int) -> dict[str, Any]:
    """CPU seconds of a step with and without counting and spans, and the difference with its error."""
    import os
    import shutil
    import subprocess
    import sys
    import time

    from dsa110_assets import settings as all_settings
    from dsa110_assets import tracing
    from dsa110_assets.archive.store import Archive
    from dsa110_assets.orchestration.running import execute, measuring
    from dsa110_assets.orchestration.running.process import process
    from dsa110_assets.simulator.options import SimulationOptions
    from dsa110_assets.simulator.simulate import simulate
    from dsa110_assets_tests.tiny import OBSERVATIONS, OPTIONS, tiny_settings

    root = Path(place)
    shutil.rmtree(root, ignore_errors=True)
    root.mkdir(parents=True)
    for name in [name for name in os.environ if name.startswith(("DSA110_", "DAGSTER_", "OTEL_"))]:
        del os.environ[name]
    simulate(root / "inbox", SimulationOptions(**OPTIONS))
    settings = tiny_settings(root / "inbox", root)
    assert isinstance(settings, all_settings.Settings)
    receiver = subprocess.Popen([sys.executable, "-c", RECEIVER], stdout=subprocess.PIPE, text=True)
    assert receiver.stdout is not None
    url, counting = f"http://127.0.0.1:{receiver.stdout.readline().strip()}", measuring.measured

    def made_again(watched: bool) -> float:
        """CPU seconds of making the product of the first observation again."""
        with Archive(settings.archive) as archive:
            current = archive.current(STEP, OBSERVATIONS[0])
            assert current is not None
            archive.reject(current.id, "to be made again")
        os.environ["OTEL_EXPORTER_OTLP_ENDPOINT"] = url if watched else ""
        execute.measuring.measured = counting if watched else _nothing(measuring)  # type: ignore[assignment]
        began = time.process_time()
        done = process(settings, through=STEP)
        spent_s = time.process_time() - began
        assert [one.asset for one in done.made] == [STEP], done
        return spent_s

    try:
        process(settings, through=STEP)
        tracing.load()  # loaded once, as in the code server from which runs are forked
        for watched in (True, False):
            made_again(watched)  # so that first-time compilation and opening are not timed
        both = [
            (made_again(True), made_again(False)) if number % 2 else (made_again(False), made_again(True))[::-1] for number in range(pairs)
        ]
    finally:
        receiver.terminate()
        receiver.wait()
    differences_s = [with_s - without_s for with_s, without_s in both]
    more_s, error_s = statistics.mean(differences_s), statistics.stdev(differences_s) / len(both) ** 0.5
    without_s = statistics.mean(one for _, one in both)
    return {
        "wall_s": statistics.mean(one for one, _ in both), "CPU without [s]": without_s, "more with [ms]": 1e3 * more_s,
        "error [ms]": 1e3 * error_s, "four steps of a full-scale group's 35 s [%]": 100 * STEPS * more_s / WHOLE_S,
        "its error [%]": 100 * STEPS * error_s / WHOLE_S, "pairs": len(both),
    }  # fmt: skip


def _nothing(measuring: Any) -> Any:
    """A replacement for `measuring.measured` that counts nothing and sends no span."""
    from contextlib import contextmanager

    @contextmanager
    def bare(*_: object) -> Any:
        yield measuring.Measured()

    return bare
