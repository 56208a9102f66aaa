"""`ops/deploy` on a server in service, while observations keep arriving: none is lost, made twice, or late by more than a period.

Versions are copies of this tree with other version numbers and, where a test needs it, another format of the index or a fault.
"""

from __future__ import annotations

import json
import os
import re
import statistics
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest

from dsa110_assets.archive import audit, index
from dsa110_assets.archive.store import Archive
from dsa110_assets.simulator.options import SimulationOptions
from dsa110_assets.simulator.simulate import simulate
from dsa110_assets_tests.docs import pages
from dsa110_assets_tests.live.server import SERVICES, Arrivals, Server, tree
from dsa110_assets_tests.tiny import OPTIONS

pytestmark = [pytest.mark.slow, pytest.mark.live, pytest.mark.timeout(3600)]
PERIOD_S = float(os.environ.get("DEPLOY_PERIOD_S", "60"))
"""Between two observations; the telescope's is 309 s."""
UNDISTURBED, AFTER, OBSERVATIONS = 3, 2, 30
EXPANDED = (
    ("dsa110_assets/archive/index.py", "SCHEMA, OLDEST, FIRST = 3, 3, 2", "SCHEMA, OLDEST, FIRST = 4, 3, 2"),
    (
        "dsa110_assets/archive/migrations.py",
        ")\n\n\ndef plan(",
        """    Migration(
        to=4, oldest=3, what="who published",
        forward=statements("ALTER TABLE products ADD COLUMN publisher TEXT", "UPDATE products SET publisher = run_id"),
        back=statements("ALTER TABLE products DROP COLUMN publisher"),
    ),
)


def plan(""",
    ),
)
WRITES = "    rows.to_parquet(step.directory / hourrows.FILE)"
WRONG_FLUX = ("dsa110_assets/orchestration/assets/sources.py", WRITES, '    rows = rows.assign(flux_jy=1.5 * rows["flux_jy"])\n' + WRITES)
PARSES = "    parser = argparse.ArgumentParser(description=__doc__)"
BROKEN_DAEMON = (
    ("dsa110_assets/orchestration/running/daemon.py", PARSES, "    sys.exit('this version is broken')\n" + PARSES),
    ("ops/systemd/dsa110-daemon.service", "--workspace workspace.yaml", "--workspace workspace.yaml --unknown-to-the-old-version"),
)


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Hours of observations of the tiny telescope on a strip without a calibrator; the tests time their measurement sets."""
    place = tmp_path_factory.mktemp("scene")
    simulate(place, SimulationOptions(**{**OPTIONS, "start": "2026-01-25T17:00:00", "groups": OBSERVATIONS}))
    return place


@pytest.fixture
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server with no release in service. The name of its folder is short because it contains sockets."""
    server = Server(tmp_path_factory.mktemp("d"))
    try:
        yield server
    finally:
        server.stop()


@contextmanager
def in_service(server: Server, scene: Path, place: Path) -> Iterator[tuple[str, Arrivals]]:
    """A release in service and arriving observations, some of which are made. At the end, none is lost, late or made twice."""
    old, arrivals = server.install(tree(place, "0.1.1")), Arrivals(server, scene, PERIOD_S)
    server.start(old)
    warm_up = arrivals.drop()
    server.until(lambda: warm_up in server.made(), "the first observation, and with it the kernels that were not compiled")
    del arrivals.at[warm_up]
    with arrivals:
        server.until(lambda: len(arrivals.latencies_s()) >= UNDISTURBED, "observations without a deployment")
        began, usual_s = time.time(), statistics.median(arrivals.latencies_s().values())
        yield old, arrivals
        ended, number = time.time(), len(arrivals.at)
        server.until(lambda: len(arrivals.at) >= number + AFTER, "observations after the deployment")
    server.until(lambda: arrivals.at.keys() <= server.made().keys(), "every observation")
    latencies_s = {when: {} for when in ("before", "during", "after")}
    for key, latency_s in arrivals.latencies_s().items():
        at = arrivals.at[key]
        latencies_s["before" if at + latency_s < began else "during" if at < ended else "after"][key[-5:]] = round(latency_s, 1)
    print(
        json.dumps({"period_s": PERIOD_S, "deployed_s": round(ended - began, 1), "usual_s": round(usual_s, 1), "latencies_s": latencies_s})
    )
    late = {key: s for key, s in arrivals.latencies_s().items() if s > usual_s + PERIOD_S}
    assert late == {}, f"later than {usual_s:.0f} s by more than a period of {PERIOD_S:.0f} s"
    with Archive(server.archive) as archive:
        assert [one.id for one in archive.products(state=None) if one.version > 1] == [], "made twice"


def is_in_service(server: Server, release: str, formats: tuple[int, int]) -> None:
    """Assert that a release, and no other, is in service, with an index of these formats."""
    assert server.running() == dict.fromkeys(SERVICES, release)
    assert server.code_servers() == {release}
    assert server.linked("current") == release
    with Archive(server.archive) as archive:
        assert archive.index.in_any_format(index.format_of) == formats


def audited(server: Server) -> list[tuple[str, str, str]]:
    """(person, action, outcome) of every audited action, the oldest first."""
    return [(line.by, line.verb, line.state) for line in reversed(audit.lines(server.archive, 10)) if line.state != audit.BEGUN]


def test_a_new_version_is_deployed_while_observations_arrive(server: Server, scene: Path, tmp_path: Path) -> None:
    """One observation arrives at the worst moment: while the daemon restarts."""
    sources = tree(tmp_path / "new", "0.2.0")
    new = server.install(sources)
    with in_service(server, scene, tmp_path / "old") as (old, arrivals):
        with ThreadPoolExecutor(1) as pool:
            deployed = pool.submit(server.deploy, sources)
            server.until(lambda: deployed.done() or "  switch to " in server.deployments(), "the switch")
            arrivals.drop()
            done = deployed.result()
        print(done.stdout)
        assert done.returncode == 0, done.stderr + server.recent_logs()
        is_in_service(server, new, (3, 3))
        assert server.linked("previous") == old
    assert audited(server) == [("operator", "deploy", audit.DONE)]
    assert f"{new} is in service" in server.deployments()


def test_a_version_with_another_index_format_is_deployed_and_rolled_back(server: Server, scene: Path, tmp_path: Path) -> None:
    """The old version works with the new format too, which stays after a rollback."""
    sources = tree(tmp_path / "new", "0.2.0", *EXPANDED)
    new = server.install(sources)
    with in_service(server, scene, tmp_path / "old") as (old, _):
        done = server.deploy(sources)
        print(done.stdout)
        assert done.returncode == 0, done.stderr + server.recent_logs()
        is_in_service(server, new, (4, 3))
        back = server.deploy(sources, "--rollback")
        print(back.stdout)
        assert back.returncode == 0, back.stderr + server.recent_logs()
        is_in_service(server, old, (4, 3))
        assert server.linked("previous") == new
    assert audited(server) == [("operator", "deploy", audit.DONE), ("operator", "roll back", audit.DONE)]


@pytest.mark.parametrize(
    ("changes", "why"),
    [([WRONG_FLUX], r"did not come out as it was put in: .*flux_ratio is 1\.4"), ([*EXPANDED, *BROKEN_DAEMON], r"dsa110-daemon\.service")],
    ids=["wrong", "broken"],
)
def test_a_bad_version_is_rolled_back(server: Server, scene: Path, tmp_path: Path, changes: list[tuple[str, str, str]], why: str) -> None:
    """A version with wrong results never enters service. One whose daemon does not start is rolled back, with index and units."""
    sources = tree(tmp_path / "bad", "0.3.0", *changes)
    server.install(sources)
    with in_service(server, scene, tmp_path / "old") as (old, _):
        done = server.deploy(sources)
        print(done.stdout, done.stderr)
        assert done.returncode == 1, server.recent_logs()
        assert re.search(why, done.stderr), done.stderr
        is_in_service(server, old, (3, 3))
        assert not (server.root / "opt/dsa110/previous").exists()
        unit = "dsa110-daemon.service"
        assert (server.root / "etc/systemd/system" / unit).read_bytes() == (pages.ROOT / "ops/systemd" / unit).read_bytes()
    assert audited(server) == [("operator", "deploy", audit.FAILED)]
