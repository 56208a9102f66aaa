"""The steps of `ops/install`. Each step checks first whether it is already done. Only the standard library is needed."""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import server as in_service
from releases import PLACE, REPOSITORY, UNITS, Refused, Releases, name_of_sources, run

USER, STATE = "dsa110", "/var/lib/dsa110"
CONFIGURATION = "/etc/dsa110"
SERVICES = ("webserver", "daemon", "portal")
"""The services that the target starts in addition to the code server of the release in service."""
RULE = "/etc/polkit-1/rules.d/50-dsa110.rules"
"""Lets the platform's user restart the platform's services, and no others, from the portal. It has no effect without polkit."""
DATABASES = ("dsa110", "dagster")
SOCKET = "/var/run/postgresql"


@dataclass(frozen=True)
class Step:
    """One step: its description, a test of whether it is done, and the function that does it."""

    what: str
    is_done: Callable[[], bool]
    do: Callable[[], None]


@dataclass(frozen=True)
class Server:
    """The requested server. `root` is `/` or a directory used in its place; then only the database outside it is touched."""

    root: Path
    inbox: str
    archive: str
    postgres: bool
    admin: str | None
    package: bool
    start: bool

    def at(self, path: str) -> Path:
        """The path `path` of the server, below `root`."""
        return self.root / path.lstrip("/")

    def steps(self) -> Iterator[Step]:
        """All steps, in order."""
        yield self._account()
        for path in (STATE, f"{STATE}/dagster", self.archive, f"{self.archive}-backups"):  # the default of DSA110_BACKUPS
            yield self._directory(path, owned=True)
        for path in (self.inbox, CONFIGURATION, UNITS):
            yield self._directory(path, owned=False)
        if self.package:
            yield Step(f"a release in {PLACE}, and the link to it", self._is_packaged, self._install_package)
        if self.postgres:
            yield from self._databases()
        yield self._file(f"{STATE}/dagster/dagster.yaml", self._dagster_yaml(), kept=True)
        yield self._file(f"{CONFIGURATION}/environment", self._environment(), kept=True, mode=0o640)
        for unit in self._units():
            yield self._file(f"{UNITS}/{unit.name}", unit.read_text(encoding="utf-8"))
        rule = REPOSITORY / "ops" / "polkit" / Path(RULE).name
        yield self._directory(str(Path(RULE).parent), owned=False)
        yield self._file(RULE, rule.read_text(encoding="utf-8"))
        if self.start:
            yield Step("units started, now and at every start of the machine", self._is_started, self._start)

    # -- user and directories --

    def _account(self) -> Step:
        prefix = [] if self.root == Path("/") else ["--prefix", str(self.root)]
        command = [
            "useradd",
            *prefix,
            "--system",
            "--user-group",
            "--no-create-home",
            "--home-dir",
            STATE,
            "--shell",
            "/usr/sbin/nologin",
            USER,
        ]
        return Step(f"user {USER}", lambda: self._ids() is not None, lambda: run(command))

    def _ids(self) -> tuple[int, int] | None:
        """User and group id of the service account in the passwd file below `root`; None if there is no such user."""
        users = self.at("/etc/passwd")
        lines = users.read_text(encoding="utf-8").splitlines() if users.is_file() else []
        fields = [line.split(":") for line in lines if line.startswith(f"{USER}:")]
        return (int(fields[0][2]), int(fields[0][3])) if fields else None

    def _directory(self, path: str, *, owned: bool) -> Step:
        place = self.at(path)

        def do() -> None:
            place.mkdir(parents=True, exist_ok=True)
            if owned:
                self._give(place)

        def is_done() -> bool:
            ids = self._ids()
            return place.is_dir() and (not owned or (ids is not None and place.stat().st_uid == ids[0]))

        return Step(f"directory {path}{f', of {USER}' if owned else ''}", is_done, do)

    def _give(self, place: Path) -> None:
        ids = self._ids()
        if ids is not None:
            os.chown(place, *ids)

    # -- files --

    def _file(self, path: str, text: str, *, kept: bool = False, mode: int = 0o644) -> Step:
        """The step that writes a file with this text. A `kept` file belongs to the operator once it exists and is not changed again."""
        place = self.at(path)

        def do() -> None:
            draft = place.with_name(f".{place.name}.new")
            draft.write_text(text, encoding="utf-8")
            draft.chmod(mode)
            ids = self._ids()
            if kept and ids is not None:
                os.chown(draft, 0 if mode == 0o640 else ids[0], ids[1])
            draft.replace(place)

        def is_done() -> bool:
            return place.is_file() and (kept or place.read_text(encoding="utf-8") == text)

        return Step(f"{path}{' (yours from then on)' if kept else ''}", is_done, do)

    def _dagster_yaml(self) -> str:
        source = REPOSITORY / "ops" / "dagster.postgres.yaml" if self.postgres else REPOSITORY / "dagster.yaml"
        return source.read_text(encoding="utf-8")

    def _environment(self) -> str:
        """The example environment file with the directories and the database of this server filled in."""
        text = (REPOSITORY / "ops" / "systemd" / "environment.example").read_text(encoding="utf-8")
        given = {"DSA110_INBOX": self.inbox, "DSA110_ARCHIVE": self.archive, "DAGSTER_HOME": f"{STATE}/dagster"}
        if self.postgres:
            urls = [f"postgresql+psycopg2://{USER}@/{name}?host={SOCKET}" for name in DATABASES]
            given |= dict(zip(("DSA110_DATABASE_URL", "DAGSTER_PG_URL"), urls, strict=True))
        lines = []
        for line in text.splitlines():
            name = line.lstrip("#").partition("=")[0]
            lines.append(f"{name}={given[name]}" if name in given and "=" in line else line)
        return "\n".join(lines) + "\n"

    # -- package --

    @property
    def releases(self) -> Releases:
        """The server's releases."""
        return Releases(self.root)

    def _is_packaged(self) -> bool:
        return self.releases.linked("current") is not None

    def _install_package(self) -> None:
        name = name_of_sources()
        self.releases.install(name)
        self.releases.switch(name)

    def _units(self) -> list[Path]:
        """The systemd units of the release in service, or those of these sources while no release is in service."""
        current = self.releases.linked("current")
        place = self.releases.of(current) / "units" if current else REPOSITORY / "ops" / "systemd"
        return sorted([*place.glob("*.service"), *place.glob("*.target")])

    # -- database --

    def _databases(self) -> Iterator[Step]:
        role = f"CREATE ROLE {USER} LOGIN"
        yield Step(
            f"PostgreSQL role {USER}", lambda: self._sql(f"SELECT 1 FROM pg_roles WHERE rolname = '{USER}'") == "1", lambda: self._do(role)
        )
        for name in DATABASES:
            asked, made = f"SELECT 1 FROM pg_database WHERE datname = '{name}'", f"CREATE DATABASE {name} OWNER {USER}"
            yield Step(f"PostgreSQL database {name}", lambda asked=asked: self._sql(asked) == "1", lambda made=made: self._do(made))

    def _do(self, statement: str) -> None:
        self._sql(statement)

    def _sql(self, statement: str) -> str:
        as_admin = ["psql", self.admin] if self.admin else ["runuser", "-u", "postgres", "--", "psql", "postgres"]
        return run([*as_admin, "-v", "ON_ERROR_STOP=1", "-tAXc", statement]).strip()

    # -- units --

    def _is_started(self) -> bool:
        return all(not subprocess.run(["systemctl", word, "--quiet", "dsa110.target"]).returncode for word in ("is-enabled", "is-active"))

    def _start(self) -> None:
        if (current := self.releases.linked("current")) is None:
            raise Refused(f"{PLACE} has no release that could be started; leave --without-package out")
        in_service.Server(self.releases).prepare(current)
        run(["systemctl", "daemon-reload"])
        units = [f"dsa110-code-server@{current}.service", *(f"dsa110-{name}.service" for name in SERVICES)]
        run(["systemctl", "enable", "--now", "dsa110.target", *units])


def wanted(arguments: Sequence[str]) -> tuple[Server, bool]:
    """The server that the command line describes, and whether this is a dry run."""
    parser = argparse.ArgumentParser(prog="ops/install", description="Puts a server into service from nothing; run it again at any time.")
    parser.add_argument("--dry-run", action="store_true", help="say what would be done, and do nothing")
    parser.add_argument("--inbox", default="/data/incoming", help="where the correlator's files arrive (default: %(default)s)")
    parser.add_argument("--archive", default="/data/archive", help="where products are kept (default: %(default)s)")
    parser.add_argument("--postgres", action="store_true", help="role and databases in this machine's PostgreSQL, instead of SQLite")
    parser.add_argument("--admin", help="psql connection that may create role and databases (default: as the system's user postgres)")
    parser.add_argument("--without-package", action="store_true", help="do not install the package; a release is made some other way")
    parser.add_argument("--start", action="store_true", help="start the units, now and at every start of the machine")
    parser.add_argument("--root", type=Path, default=Path("/"), help="a directory to use in place of /, to inspect or to pack")
    given = parser.parse_args(arguments)
    if given.start and given.root != Path("/"):
        parser.error("--start acts on this machine and cannot be combined with another --root")
    for name in ("inbox", "archive"):
        if not getattr(given, name).startswith("/"):
            parser.error(f"--{name} {getattr(given, name)}: give the whole path")
    server = Server(
        given.root.resolve(), given.inbox, given.archive, given.postgres or given.admin is not None, given.admin, not given.without_package,
        given.start,
    )  # fmt: skip
    return server, given.dry_run


def main(arguments: Sequence[str]) -> int:
    """Do every step that is not done and print a line for each; return 0 if all are done, 1 with a message if a step is refused."""
    server, dry_run = wanted(arguments)
    if os.geteuid() != 0 and not dry_run:
        print("ops/install: run it as root, or with --dry-run", file=sys.stderr)
        return 1
    changes = 0
    try:
        for step in server.steps():
            done = step.is_done()
            if not done and not dry_run:
                step.do()
            changes += not done
            print(f"{'ok' if done else 'would' if dry_run else 'done':<5}  {step.what}", flush=True)
    except (Refused, OSError) as error:
        print(f"ops/install: {error}; what was done stays, run it again", file=sys.stderr)
        return 1
    print(f"{changes} to do; nothing was changed" if dry_run else f"{changes} changed" if changes else "nothing to do")
    current = server.releases.linked("current")
    if server.package and current not in (None, name_of_sources()):
        print(f"In service is {current}; these sources are {name_of_sources()}: put them into service with ops/deploy")
    if shutil.which("systemctl") and not server.start and not dry_run and server.root == Path("/"):
        print("Start it with: ops/install --start")
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
