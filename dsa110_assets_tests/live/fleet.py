"""Several hosts on one machine: each worker has a separate hostname, PID namespace, scratch directory and DAGSTER_HOME."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from dsa110_assets.cli.services import descendants
from dsa110_assets_tests.live.platform import MAIN, REPOSITORY, LivePlatform
from dsa110_assets_tests.postgres import Server, private_server
from dsa110_assets_tests.redis import RedisServer, private_redis

ISOLATED = ("unshare", "--mount", "--uts", "--pid", "--fork", "--kill-child", "--mount-proc")
"""The command that isolates a group of processes as a host: process ids inside and outside it are unrelated."""
ROOT = """
set -eu
name=$1 scratch=$2 shared=$3
shift 3
hostname "$name"
again() { number=0; IFS=:; for place in $shared; do "$1" "$place" "/mnt/$number"; number=$((number + 1)); done; unset IFS; }
away() { mkdir "$2"; mount --bind "$1" "$2"; }
back() { mkdir -p "$1"; mount --bind "$2" "$1"; }
mount -t tmpfs none /mnt
again away
mount -t tmpfs -o mode=1777 none /tmp
again back
mount -t tmpfs none "$scratch"
exec "$@"
"""
"""The first process of a host. It mounts a separate /tmp, which contains only the shared places of this machine, and a scratch."""


def isolated(name: str, scratch: Path, *shared: Path) -> list[str]:
    """The prefix for a command to run on a separate host, which shares these places, the platform and Python with this machine."""
    places = os.pathsep.join(map(str, (*shared, REPOSITORY, sys.prefix)))
    return [*ISOLATED, "sh", "-c", ROOT, "host", name, str(scratch), places]


class Host:
    """A worker on a separate host: only this host uses `place`; the rest is shared."""

    def __init__(self, name: str, place: Path, shared: dict[str, str]) -> None:
        self.name, self.place = name, place
        (place / "scratch").mkdir(parents=True)
        self.environment = {**shared, "DAGSTER_HOME": str(place / "home"), "TMPDIR": str(place / "scratch"), "HOME": str(place)}
        self.process: subprocess.Popen[bytes] | None = None

    def start(self, slots: int = 1) -> None:
        """Start its worker."""
        worker = [sys.executable, "-c", MAIN, "worker", "--slots", str(slots)]
        with (self.place / "worker.log").open("ab") as log:
            self.process = subprocess.Popen(
                [*isolated(self.name, self.place / "scratch", self.place.parent), *worker],
                env=self.environment, stdout=log, stderr=subprocess.STDOUT, start_new_session=True,
            )  # fmt: skip

    @property
    def ready(self) -> bool:
        """Whether the worker accepts runs."""
        assert self.process is not None
        assert self.process.poll() is None, (self.place / "worker.log").read_text()
        return "ready." in (self.place / "worker.log").read_text()

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to every process of this host, to simulate a failure of its power or network."""
        assert self.process is not None
        for pid in descendants(self.process.pid):
            os.kill(pid, number)

    def lose_power(self) -> None:
        """End all processes of the host at once."""
        assert self.process is not None
        self.process.kill()  # --kill-child then kills the first process of the host, and the kernel the others
        self.process.wait()


class Fleet:
    """A platform with its database, its broker and its workers."""

    def __init__(self, live: LivePlatform, hosts: list[Host], postgres: Server, redis: RedisServer) -> None:
        self.live, self.hosts, self.postgres, self.redis = live, hosts, postgres, redis

    def recent_logs(self) -> str:
        """The ends of all logs."""
        logs = [host.place / "worker.log" for host in self.hosts]
        return self.live.recent_logs() + "".join(f"\n--- {log}\n" + "\n".join(log.read_text().splitlines()[-25:]) for log in logs)


@contextmanager
def fleet(place: Path, names: list[str], **settings: str) -> Iterator[Fleet]:
    """Database and broker, which run, and a platform that gives its runs to workers and workers of these names, not yet started."""
    if os.geteuid() != 0 or shutil.which("unshare") is None:
        pytest.skip("hosts of their own need root and unshare")
    with ExitStack() as stack:
        postgres, redis = stack.enter_context(private_server()), stack.enter_context(private_redis())
        databases = {"DSA110_DATABASE_URL": postgres.new_database("index"), "DAGSTER_PG_URL": postgres.new_database("dagster")}
        with pytest.MonkeyPatch.context() as patch:
            for name, value in {**databases, "DAGSTER_REDIS_URL": redis.url}.items():
                patch.setenv(name, value)  # LivePlatform.instance() opens DAGSTER_HOME in this process
            live = LivePlatform(place, **databases, DAGSTER_REDIS_URL=redis.url, **settings)
            hosts = [Host(name, place / name, live.environment) for name in names]
            try:
                yield Fleet(live, hosts, postgres, redis)
            finally:
                live.stop()
                for host in hosts:
                    if host.process is not None and host.process.poll() is None:
                        host.lose_power()
