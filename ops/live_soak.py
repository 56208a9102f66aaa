"""The soak test of a running platform, behind `ops/soak --live`: nights arrive, runs and services are killed, and no person intervenes.
At the end `dsa110 report` computes the promised figures from what happened, and the invariants are checked.

Code server, daemon and portal are separate processes, restarted RESTART_S after they die, as systemd does. Only the sky's clock is
moved: an observation comes every `cadence_s` instead of every 309 s, and the hours between nights are left out. Everything else
(waiting, silence, retries, latency) runs in the machine's time.
"""

from __future__ import annotations

import argparse
import contextlib
import heapq
import itertools
import json
import os
import signal
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import dagster as dg
import soak as soaks

from dsa110_assets.archive import alerts, integrity, quarantine, stale
from dsa110_assets.archive.store import Archive
from dsa110_assets.orchestration.ingest import inbox
from dsa110_assets.orchestration.planning import plan, planner, requests
from dsa110_assets.orchestration.running import instance as instances
from dsa110_assets.orchestration.watching import history
from dsa110_assets.portal import success
from dsa110_assets.simulator.options import SimulationOptions
from dsa110_assets.simulator.simulate import simulate
from dsa110_assets.telescope import timegrid
from dsa110_assets_tests.live.services import Services

RESTART_S = 10.0
"""RestartSec of the units in ops/systemd."""
HUNG_AFTER_MIN = 6.0
GROUP_WAIT_S = 700.0
"""In the sky's time: an observation that lacks a subband is ingested two observations later."""
REST_WITHIN_S = 2400.0
"""A request that was killed repeatedly rests for up to half an hour."""
QUIET_S, WORKED_OFF_WITHIN_S = 25.0, 600.0
TICK_S, LOOK_TICKS = 0.5, 10
BEGIN, END = "<!-- live soak -->", "<!-- end of live soak -->"
ARRIVALS = {"plain": 10, "a subband late": 2, "a subband missing": 1, "two subbands missing": 1, "truncated first": 2, "same twice": 1,
            "other twice": 1}  # fmt: skip
"""How the files of an observation arrive, with relative frequencies that add up to 18."""
FAULTS = {"run SIGKILL": 5, "run SIGTERM": 2, "run SIGSTOP": 1, "daemon SIGKILL": 2, "daemon SIGSTOP": 1, "code server SIGKILL": 2,
          "portal SIGKILL": 1, "database away": 1, "disk full": 1}  # fmt: skip
EVERY = 1.5
"""Mean number of observations between faults."""
STRAGGLERS_S = 60.0
"""Time allowed for processes that a stopped service leaves behind, such as the server that runs are forked from, to notice its end."""
STOPPED_FOR_S = (20.0, 100.0)
AWAY_FOR_S = (5.0, 40.0)


@dataclass
class Live:
    """A live soak: its random generator and counts (`soak`), its services, and the actions still due, each with its monotonic time."""

    soak: soaks.Soak
    services: Services
    cadence_s: float
    due: list[tuple[float, int, Callable[[], None]]] = field(default_factory=list)
    number: Iterator[int] = field(default_factory=itertools.count)
    lasting: ExitStack = field(default_factory=ExitStack)
    away: bool = False
    stopped: set[str] = field(default_factory=set)
    loads: list[float] = field(default_factory=list)
    settled_at: float = 0.0

    def later(self, seconds: float, deed: Callable[[], None]) -> None:
        """Schedule an action for `seconds` from now."""
        heapq.heappush(self.due, (time.monotonic() + seconds, next(self.number), deed))

    def work_until(self, over: Callable[[], bool], within_s: float) -> bool:
        """Carry out due actions and keep the services up until `over` returns True; return False if it does not within `within_s`."""
        deadline = time.monotonic() + within_s
        while not over():
            if time.monotonic() > deadline:
                return False
            while self.due and self.due[0][0] <= time.monotonic():
                heapq.heappop(self.due)[2]()
            self._keep_up()
            time.sleep(TICK_S)
        return True

    def work(self, seconds: float) -> None:
        """Carry out due actions and keep the services up for `seconds`."""
        self.work_until(lambda: False, seconds)

    def _keep_up(self) -> None:
        self.loads.append(os.getloadavg()[0])
        for name, process in list(self.services.running.items()):
            if process.poll() is not None:
                del self.services.running[name]
                self.soak.counts[f"{name} started again"] += 1
                self.later(RESTART_S, lambda name=name: self.services.start(name))


def main() -> int:
    """Let nights arrive until the time is up, then print and record the result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=60.0, help="nights begin for this long (60)")
    parser.add_argument("--observations", type=int, default=12, help="observations a night (12)")
    parser.add_argument("--cadence", type=float, default=45.0, help="seconds from one observation to the next (45)")
    soaks.add_arguments(parser)
    asked = parser.parse_args()
    with soaks.begun(asked, asked.observations) as soak:
        run(soak, asked.minutes, asked.cadence, asked.table)
    for violation in soak.violations:
        print(f"VIOLATION {violation}")
    return 1 if soak.violations else 0


def run(soak: soaks.Soak, minutes: float, cadence_s: float, table: Path) -> None:
    """Let nights arrive for `minutes`, wait until all work is done, check, and write the figures into the page."""
    place = soak.place / "disturbed"
    settings = {**soaks.SETTINGS, "DSA110_ARCHIVE": str(place / "disk" / "archive"), soaks.MARK: soak.mark, "LIVE_TEST_CLOCK_OF": "sky",
                "DSA110_HUNG_AFTER_MIN": str(HUNG_AFTER_MIN), "DSA110_GROUP_WAIT_S": str(GROUP_WAIT_S)}  # fmt: skip
    if soak.postgres is not None:
        where = {"DSA110_DATABASE_URL": soak.postgres.new_database("archive"), "DAGSTER_PG_URL": soak.postgres.new_database("dagster")}
        os.environ["DAGSTER_PG_URL"] = where["DAGSTER_PG_URL"]  # because this process opens DAGSTER_HOME, too
        settings |= where
    live = Live(soak, Services(place, **settings), cadence_s)
    inbox.now_s = lambda: time.time() + float((place / "clock").read_text())  # type: ignore[assignment]
    began, since = time.monotonic(), datetime.now(UTC)
    try:
        live.services.start_all()
        arrive(live, minutes)
        come_to_rest(live)
        figures = report(live, since)
        check(live, figures)
        live.services.stop()
        live.services.running.clear()
        ended = soaks.settings_of(live.services.live.environment)
        live.work_until(lambda: not list(soaks.unfinished(soak, ended)), STRAGGLERS_S)
    finally:
        live.lasting.close()
        live.services.close()
    soak.violations += soaks.unfinished(soak, soaks.settings_of(live.services.live.environment))
    write(table, live, figures, (time.monotonic() - began) / 60)


def arrive(live: Live, minutes: float) -> None:
    """Deliver night after night until the time is up."""
    observations = live.soak.groups
    ends, number = time.monotonic() + 60 * minutes, 0
    transit = soaks.TRANSIT
    while transit < datetime.now(UTC) + timedelta(hours=2):  # an observation is never older than its files
        transit += soaks.SIDEREAL_DAY
    live.later(live.cadence_s, lambda: trouble(live, ends))
    while number == 0 or time.monotonic() < ends:
        start = transit + number * soaks.SIDEREAL_DAY - timedelta(seconds=observations * timegrid.GROUP_S / 2)
        source = live.soak.place / f"night{number}"
        simulate(source, SimulationOptions(start=f"{start:%Y-%m-%dT%H:%M:%S}", groups=observations, **soaks.TELESCOPE))
        groups = json.loads((source / "truth.json").read_text())["groups"]
        for position, group in enumerate(groups):
            over = start + timedelta(seconds=(position + 1) * timegrid.GROUP_S + 5)
            live.services.live.clock(f"{over:%Y-%m-%dT%H:%M:%S}")
            deliver(live, [source / name for name in group["files"]])
            live.work(live.cadence_s)
        for moment in due_times(start, over):
            live.work_until(quiet(live), WORKED_OFF_WITHIN_S)
            live.services.live.clock(f"{moment:%Y-%m-%dT%H:%M:%S}")
            live.work(live.cadence_s)
        live.work_until(quiet(live), WORKED_OFF_WITHIN_S)
        number += 1
        told = ", ".join(f"{count} {what}" for what, count in sorted(live.soak.counts.items()))
        print(f"night {number}: {told}; load {live.loads[-1]:.1f}", flush=True)
    live.soak.counts["nights"] = number


def quiet(live: Live) -> Callable[[], bool]:
    """A test of whether nothing was queued or running for QUIET_S. The skipped hours would have been long enough for the work to finish."""
    since, looks = list[float](), itertools.count()

    def is_quiet() -> bool:
        if next(looks) % LOOK_TICKS:
            return False
        if live.away or not live.services.live.idle():
            since.clear()
            return False
        since.append(time.monotonic())
        return since[-1] - since[0] > QUIET_S

    return is_quiet


def due_times(start: datetime, over: datetime) -> Iterator[datetime]:
    """The times at which the products of each hour of a night, and then those of the night, become due."""
    hour = start.replace(minute=0, second=0, microsecond=0)
    while hour <= over:
        hour += timedelta(hours=1)
        yield hour + planner.LATE + timedelta(seconds=5)
    yield hour.replace(hour=0) + timedelta(days=1) + planner.LATE + timedelta(seconds=5)


def deliver(live: Live, files: list[Path]) -> None:
    """Deliver the files of one observation in random order and in one of the ways of ARRIVALS."""
    rng, place = live.soak.rng, live.services.live.inbox
    kind = rng.choices(list(ARRIVALS), list(ARRIVALS.values()))[0]
    live.soak.counts[f"observations {kind}"] += 1
    rng.shuffle(files)
    odd, *others = files
    for path in others[1:] if kind.startswith("two") else others:
        live.later(rng.uniform(0.0, 5.0), lambda path=path: soaks.deliver(place, path))
    if kind.endswith("missing"):
        return
    late_s = rng.uniform(1.0, 5.0) * live.cadence_s if kind in ("a subband late", "truncated first") else rng.uniform(0.0, 5.0)
    live.later(late_s, lambda: soaks.deliver(place, odd))
    if kind == "truncated first":
        soaks.write_part(place, odd, odd.name, rng.random())
    if kind.endswith("twice"):
        live.later(rng.uniform(0.0, 5.0), lambda: soaks.write_part(place, odd, soaks.later_name(odd), 1.0, spoil=kind.startswith("other")))


def trouble(live: Live, until: float) -> None:
    """Inject one fault now, and schedule the next."""
    if time.monotonic() > until:
        return
    fault = live.soak.rng.choices(list(FAULTS), list(FAULTS.values()))[0]
    target, _, how = fault.rpartition(" ")
    if fault in ("database away", "disk full"):
        happened = last(live, fault)
    elif target == "run":
        happened = hit_run(live, signal.Signals[how])
    else:
        happened = hit_service(live, target, signal.Signals[how])
    live.soak.counts[fault] += happened
    if happened:
        print(f"{datetime.now(UTC):%H:%M:%S} {fault}", flush=True)
    live.later(live.soak.rng.expovariate(1 / (EVERY * live.cadence_s)) if happened else 2.0, lambda: trouble(live, until))


def last(live: Live, fault: str) -> bool:
    """Make the database unavailable or the disk full for a while; return whether it happened."""
    if live.away or (fault == "disk full" and not live.soak.small_disk):
        return False
    disk = live.soak.place / "disturbed" / "disk"
    gone: AbstractContextManager[None] = soaks.database_away(live.soak) if fault == "database away" else soaks.disk_full(disk)
    live.away = True
    live.lasting.enter_context(gone)

    def back() -> None:
        live.lasting.close()
        live.away = False

    live.later(live.soak.rng.uniform(*AWAY_FOR_S), back)
    return True


def hit_run(live: Live, number: signal.Signals) -> bool:
    """Send a signal to the process of a run; return whether it was sent. No partition is stopped twice, because a partition that hangs
    twice is correctly quarantined."""
    if live.away:
        return False
    with live.services.live.instance() as instance:
        running = [run for run in instances.unfinished(instance) if run.status == dg.DagsterRunStatus.STARTED and instances.process_of(run)]
        if number == signal.SIGSTOP:
            running = [run for run in running if run.tags.get(requests.PARTITION_TAG, "") not in live.stopped]
        if not running:
            return False
        run = live.soak.rng.choice(running)
        pid = instances.process_of(run)
    if not pid:
        return False
    if number == signal.SIGSTOP:
        live.stopped.add(run.tags.get(requests.PARTITION_TAG, ""))
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)
        return True
    return False


def hit_service(live: Live, name: str, number: signal.Signals) -> bool:
    """Send a signal to a service; return whether it was sent. A stopped service continues after a while."""
    process = live.services.running.get(name)
    if process is None or process.poll() is not None:
        return False
    process.send_signal(number)
    if number == signal.SIGSTOP:
        live.later(live.soak.rng.uniform(*STOPPED_FOR_S), lambda: process.send_signal(signal.SIGCONT))
    return True


def come_to_rest(live: Live) -> None:
    """Without further faults, wait until nothing is left to be made except what rests until a person acts."""
    live.work_until(lambda: not live.due and len(live.services.running) == len(live.services.commands), 600.0)
    live.services.live.pass_s(GROUP_WAIT_S + timegrid.GROUP_S)
    looks = itertools.count()
    if not live.work_until(lambda: next(looks) % LOOK_TICKS == 0 and at_rest(live), REST_WITHIN_S):
        live.soak.violations.append(f"not at rest {REST_WITHIN_S:.0f} s after the last fault: {'; '.join(left(live)) or 'runs go on'}")


def at_rest(live: Live) -> bool:
    """Whether nothing runs, the inbox has nothing ready, and nothing is left to be made except what rests until a person acts."""
    return live.services.live.idle() and not left(live)


def left(live: Live) -> list[str]:
    """What is still to be made, except what rests until a person acts."""
    platform, settings = live.services.live, soaks.settings_of(live.services.live.environment)
    with Archive(platform.root, platform.database_url) as archive, platform.instance() as instance:
        span = plan.span(datetime.fromtimestamp(inbox.now_s(), UTC) - timedelta(days=30))
        steps = plan.missing(archive, settings, span)[0]
        past = requests.past(instance, [step.request for step in steps], time.time())
        open_steps = [step for step in steps if past.get(step.request, requests.Past()).rests_s < planner.RESTS_LONG_S]
        seen = plan.scan_inbox(archive, settings, by_data=False)
        return [*(f"{step.asset} {step.partition}: {step.reason}" for step in open_steps), *(one.observation for one in seen.ready())]


def report(live: Live, since: datetime) -> list[dict[str, Any]]:
    """The figures of `dsa110 report` from the start of the soak, in the machine's time, until the sky's present time."""
    until = datetime.fromtimestamp(inbox.now_s(), UTC)
    done = live.services.live.command("report", "--since", f"{since:%Y-%m-%dT%H:%M:%S}", "--until", f"{until:%Y-%m-%dT%H:%M:%S}", "--json")
    if done.returncode != 0:
        live.soak.violations.append(f"`dsa110 report` ended with {done.returncode}: {done.stderr[-300:]}")
        return []
    figures: list[dict[str, Any]] = json.loads(done.stdout)["figures"]
    return figures


def check(live: Live, figures: list[dict[str, Any]]) -> None:
    """Check what must hold; every failure becomes a violation."""
    platform, settings = live.services.live, soaks.settings_of(live.services.live.environment)
    lost = next((one for one in figures if one["name"] == "files lost"), None)
    with Archive(platform.root, platform.database_url) as archive:
        integrity.sweep(archive, min_age_s=0)
        live.soak.violations += [
            *soaks.lost_files(archive, settings), *soaks.duplicate_rows(archive), *soaks.unlabelled(archive),
            *(f"{one.product.id}: {', '.join(one.problems)}" for one in integrity.verify(archive)),
            *(f"{one.product.id} is stale: {one.reasons[0]}" for one in stale.stale(archive)),
            *without_reason(live, archive), *told_wrongly(live, archive),
            *([] if lost and lost["value"] == 0 else [f"files lost: {lost}"]),
        ]  # fmt: skip


def without_reason(live: Live, archive: Archive) -> Iterator[str]:
    """Report observations that have no image, are not quarantined, and have no recorded failure."""
    imaged = {one.partition for one in archive.products("tile_image")}
    aside = {one.observation for one in quarantine.quarantined(archive)}
    failed = {one.partition for one in history.failed(live.services.live.home, archive)}
    for one in archive.products("subband_group"):
        if one.partition not in imaged | aside | failed:
            yield f"{one.partition} has no image, and nothing says why"


def told_wrongly(live: Live, archive: Archive) -> Iterator[str]:
    """Report alerts that were raised again and again, and messages that were never sent."""
    raised = [key for one in live.services.live.webhook.taken if one["kind"] == "raised" for key in one["alerts"]]
    live.soak.counts["alerts told"] = len(set(raised))
    risen = [key for key in set(raised) if raised.count(key) > 2]  # a second message is right if the alert has become worse
    if risen:
        yield f"alerts {risen} were told again and again"
    for channel, number in alerts.undelivered(archive, datetime.now(UTC) - timedelta(minutes=1)).items():
        yield f"{number} messages to {channel} were not sent"


def write(table: Path, live: Live, figures: list[dict[str, Any]], minutes: float) -> None:
    """Renew the section of the live soak in the page."""
    soak, counts = live.soak, live.soak.counts
    index = "index and Dagster on PostgreSQL" if soak.postgres else "index and Dagster on SQLite"
    cores, load = len(os.sched_getaffinity(0)), f"{statistics.median(live.loads):.1f} (at most {max(live.loads):.1f})"
    faults = ", ".join(f"{counts[name]} {name}" for name in FAULTS if counts[name])
    arrivals = ", ".join(f"{counts[f'observations {name}']} {name}" for name in ARRIVALS if counts[f"observations {name}"])
    lines = [
        BEGIN,
        f"{datetime.now(UTC):%Y-%m-%d}: `ops/soak --live`, {minutes:.0f} min, {counts['nights']} nights of an observation every "
        f"{live.cadence_s:g} s, {index}, on {cores} of {os.cpu_count()} cores at a load of {load}. Nobody did anything.",
        "",
        f"Observations: {arrivals}. Faults: {faults}. Alerts told: {counts['alerts told']}. Violations: {len(soak.violations)}.",
        "",
        "| what | figure | of | promised | against it |",
        "|---|---|---|---|---|",
    ]
    for told in figures:
        one = success.Figure(**{**told, "cases": tuple(told["cases"])})
        verdict = {True: "", False: " (not kept)", None: ""}[one.kept]
        lines.append(f"| {one.name} | {success.text_of(one)}{verdict} | {one.number} | {one.promised} | {len(one.cases) or ''} |")
    before, _, rest = table.read_text().partition(BEGIN)
    table.write_text(before + "\n".join([*lines, END]) + rest.partition(END)[2])


if __name__ == "__main__":
    sys.exit(main())
