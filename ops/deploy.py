"""`ops/deploy`: install a new version beside the old one, try it, switch to it, and take everything back if anything fails.

Each step that changes something in service states how it is taken back. A failure takes back all of these steps, the last one first.
Only the standard library is needed.
"""

from __future__ import annotations

import argparse
import fcntl
import os
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType

from releases import Refused, Releases, name_of_sources
from server import OF_INDEX, SERVICES, Index, Server, code_server, is_active, now, release_of, show, systemctl, unit, until

LOG = "deployments.log"


@dataclass
class Deployment:
    """One change from an old release to a new one. `before_old` is the release before the old one, `resting` lists the units that
    are stopped while the index changes, and `taken_back` lists how to undo each step done so far, the latest step last."""

    server: Server
    old: str
    new: str
    deadline_s: float
    keep: int
    is_tried: bool
    before_old: str | None = None
    resting: list[str] = field(default_factory=list)
    taken_back: list[tuple[str, Callable[[], None]]] = field(default_factory=list)

    @property
    def releases(self) -> Releases:
        """The server's releases."""
        return self.server.releases

    def carry_out(self) -> None:
        """Carry out all steps. Raises Refused if one fails; everything is then as it was before."""
        running = [service for service in SERVICES if is_active(unit(service))]
        try:
            if self.old == self.new:  # finish what an earlier deployment left undone when it was killed
                self._be(self.new, running)
                return
            self._prepare()
            self._migrate(self.server.index(self.old, self.new), running)
            self._switch(running)
        except (Refused, OSError) as error:
            self._take_back(str(error))
            raise Refused(str(error)) from error

    def finish(self) -> None:
        """Clean up once the new release works: wait for the runs of the old code servers, and remove old releases."""
        for name in self.releases.all():
            server = code_server(name)
            if name != self.new and is_active(server):
                with self.step(f"{server}: wait for its runs, and end it"):
                    systemctl("disable", "--quiet", server)
                    systemctl("stop", server)
        for name in self.releases.old(self.keep):
            with self.step(f"remove the release {name}"):
                self.releases.remove(name)

    @contextmanager
    def step(self, what: str, back: tuple[str, Callable[[], None]] | None = None) -> Iterator[None]:
        """One step, logged with its duration. How to take it back is registered before it begins, because it may fail half way."""
        if back is not None:
            self.taken_back.append(back)
        began = time.monotonic()
        tell(self.releases, f"{what} ...")
        try:
            yield
        except (Refused, OSError) as error:
            tell(self.releases, f"{what}: FAILED after {time.monotonic() - began:.1f} s: {error}")
            raise
        tell(self.releases, f"{what}: done in {time.monotonic() - began:.1f} s")

    def _prepare(self) -> None:
        """Install the new release and check that it accepts the server's settings, serves, and processes an observation correctly."""
        with self.step(f"install {self.new} beside {self.old}"):
            self.releases.install(self.new)
        with self.step("check that the new version accepts the server's settings"):
            self.server.as_service(self.new, "dsa110", "settings")
        with self.step("units of the new version", ("units of the old version", self._old_units)):
            self._renew_units(self.new)
        if is_active(code_server(self.old)) or is_active(code_server(self.new)):
            with self.step("code server of the new version, beside the old one", ("end the new code server", self._end_new_server)):
                systemctl("start", code_server(self.new))
                until(lambda: self.server.serves(self.new), code_server(self.new), self.deadline_s)
        if self.is_tried:
            with self.step("a simulated observation through the new version"):
                told = self.server.as_service(self.new, "python", str(self.releases.of(self.new) / "smoke.py"))
                tell(self.releases, told.strip())

    def _renew_units(self, release: str, instead_of: str | None = None) -> None:
        if self.releases.renew_units(release, instead_of):
            systemctl("daemon-reload")

    def _old_units(self) -> None:
        """Restore the units of the old version, and remove those that only the new version has."""
        self._renew_units(self.old, instead_of=self.new)

    def _end_new_server(self) -> None:
        """Stop the new code server, which ends with the last of its runs, and disable it."""
        systemctl("stop", code_server(self.new))
        systemctl("disable", "--quiet", code_server(self.new))

    def _migrate(self, index: Index, running: Sequence[str]) -> None:
        """Bring the index into the new version's format: at once if the old version can work with it, else with the old version stopped."""
        if index.wanted == index.found:
            return
        knows = self.new if index.wanted > index.found else self.old

        def back() -> None:
            self._end_new_server()
            self.server.migrate(knows, index.found)

        what = f"index from format {index.found} to {index.wanted}"
        if not index.oldest_then <= self.server.format_of(self.old) <= index.wanted:
            self._rest(what, running)
        with self.step(what, (f"index back to format {index.found}", back)):
            self.server.migrate(knows, index.wanted)

    def _rest(self, what: str, running: Sequence[str]) -> None:
        """Bring the old version to rest for the step `what`: start nothing new, wait for runs, and stop the services that use the index."""

        def drain() -> None:
            self.server.as_service(self.old, "dsa110", "drain", "--reason", f"{self.new}: {what}", "--timeout", f"{self.deadline_s / 60}")

        with self.step("drain, because the old version cannot work with the new format", ("go on", self._go_on)):
            drain()
        self.resting = [unit(service) for service in running if service in OF_INDEX]
        if self.resting:
            with self.step("stop the services that use the index", ("start the services that use the index", lambda: self._each("start"))):
                self._each("stop")

    def _each(self, verb: str) -> None:
        """Stop or start the services that use the index, if they had to be stopped."""
        if self.resting:
            systemctl(verb, *self.resting)

    def _go_on(self) -> None:
        self.server.as_service(self.releases.linked("current") or self.old, "dsa110", "drain", "--off")

    def _switch(self, running: Sequence[str]) -> None:
        """Switch the link, then restart the services behind it, the daemon first. The new version is in service once all of them work."""
        serves = show(code_server(self.new), "ActiveState") == "active"
        with self.step(f"switch to {self.new}", (f"switch to {self.old}", lambda: self._back(running))):
            if serves:
                systemctl("enable", "--quiet", code_server(self.new))  # in case the machine reboots now
            since = now()
            self.releases.switch(self.new, self.old)
            self._be(self.new, running)
        with self.step("the new version works"):
            until(lambda: self.server.well(self.new, running, since), f"release {self.new}", self.deadline_s)
        if any(what == "go on" for what, _ in self.taken_back):
            with self.step("go on"):
                self._go_on()

    def _be(self, release: str, running: Sequence[str]) -> None:
        """Restart each service that does not yet run this release, to which the link points."""
        for service in running:
            if release_of(service) != release:
                systemctl("restart", unit(service))

    def _back(self, running: Sequence[str]) -> None:
        """Point the link at the old release again, with its own units, because the new units may start it with options it does not know.

        The services that rest while the index changes are stopped again until the index has its old format.
        """
        self._each("stop")
        self._old_units()
        self.releases.switch(self.old, self.before_old)
        self._be(self.old, [service for service in running if unit(service) not in self.resting])

    def _take_back(self, why: str) -> None:
        """Undo every step done so far, as far as possible."""
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)
        for what, undo in reversed(self.taken_back):
            with suppress(Refused, OSError), self.step(f"take back: {what}"):
                undo()
        tell(self.releases, f"{self.old} is in service as before: {why}")


def tell(releases: Releases, words: str) -> None:
    """Print a line with the time, and append it to the deployment log."""
    line = f"{now():%Y-%m-%dT%H:%M:%SZ}  {words}"
    print(line, flush=True)
    with (releases.place / LOG).open("a", encoding="utf-8") as log:
        log.write(line + "\n")


def say_what_would_be_done(releases: Releases, old: str, new: str, is_tried: bool, keep: int) -> None:
    """Print the steps of a deployment without carrying out any of them."""
    there = "is there" if releases.is_whole(new) else "would be installed"
    print(f"in service is {old}; {new} {there} in {releases.of(new)}")
    steps = [
        "check that the new version accepts the server's settings",
        f"start {code_server(new)} beside {code_server(old)}, and wait until it serves",
        *(["put a simulated observation through the new version"] if is_tried else []),
        "migrate the index to the new version's format if it differs; drain first if the old version cannot work with it",
        f"point {releases.place / 'current'} at it; restart {', '.join(map(unit, SERVICES))}, as far as they run",
        "wait until all of them work; else take everything back",
        f"wait for the old version's runs, and end {code_server(old)}",
        *(f"remove {name}" for name in releases.old(keep)),
    ]
    print("\n".join(f"would  {step}" for step in steps))


@contextmanager
def alone(releases: Releases) -> Iterator[None]:
    """Hold the deployment lock. Raises Refused if another deployment is under way."""
    with (releases.place / ".deploy.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise Refused("another ops/deploy is under way; wait for its end") from None
        yield


def raise_refused(number: int, _frame: FrameType | None) -> None:
    """Treat a signal as a failure: everything is taken back."""
    raise Refused(f"ended by {signal.Signals(number).name}")


def wanted(arguments: Sequence[str]) -> argparse.Namespace:
    """The parsed command line."""
    parser = argparse.ArgumentParser(
        prog="ops/deploy", description="Puts these sources into service without a gap, or leaves everything as it was."
    )
    parser.add_argument("--dry-run", action="store_true", help="say what would be done, and do nothing")
    parser.add_argument("--rollback", action="store_true", help="go back to the version before, which is still there")
    parser.add_argument("--keep", type=int, default=3, help="how many releases are kept (default: %(default)s)")
    parser.add_argument(
        "--deadline", type=float, default=300.0, help="seconds for each wait: to serve, to work, to drain (default: %(default)s)"
    )
    parser.add_argument(
        "--root", type=Path, default=Path("/"), help="a directory to use in place of /, for --dry-run or with a systemctl below it"
    )
    given = parser.parse_args(arguments)
    if given.keep < 2:
        parser.error("--keep: the version before is needed for --rollback; keep 2 or more")
    if not given.dry_run and not Path(shutil.which("systemctl") or "/").is_relative_to(given.root.resolve()):
        parser.error("--root is for --dry-run: the systemctl in PATH is not below it and acts on this machine")
    return given


def main(arguments: Sequence[str]) -> int:
    """Deploy; return 0 if the new version is in service, 1 with the reason if the old one still is."""
    given = wanted(arguments)
    releases = Releases(given.root.resolve())
    if os.geteuid() != 0 and not given.dry_run:
        print("ops/deploy: run it as root, or with --dry-run", file=sys.stderr)
        return 1
    os.umask(0o022)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, raise_refused)
    try:
        old = releases.linked("current")
        if old is None:
            raise Refused(f"{releases.place}: no release is in service; ops/install puts the first one there")
        new = releases.linked("previous") if given.rollback else name_of_sources()
        if new is None:
            raise Refused(f"{releases.place}: there is no release before {old}")
        if given.dry_run:
            say_what_would_be_done(releases, old, new, not given.rollback, given.keep)
            return 0
        with alone(releases):
            return deploy(
                Deployment(Server(releases), old, new, given.deadline, given.keep, not given.rollback, releases.linked("previous")),
                arguments,
            )
    except (Refused, OSError) as error:
        print(f"ops/deploy: {error}", file=sys.stderr)
        return 1


def deploy(one: Deployment, arguments: Sequence[str]) -> int:
    """Carry out a deployment, and record in the audit how it ended."""
    failed = ""
    try:
        one.carry_out()
    except Refused as error:
        failed = str(error)
    verb, told = "roll back" if "--rollback" in arguments else "deploy", f"{one.new} is in service" if not failed else ""
    try:
        one.server.audit(one.old if failed else one.new, verb, f"{one.old} to {one.new}", told, failed)
        if not failed:
            one.finish()
    except (Refused, OSError) as error:
        tell(one.releases, f"not done: {error}")
    if failed:
        print(f"ops/deploy: {one.new} is not in service, {one.old} is: {failed}", file=sys.stderr)
        return 1
    tell(one.releases, told)
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
