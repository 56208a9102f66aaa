"""The soak test behind `ops/soak`: nights of observations under random faults, and checks after each night."""

from __future__ import annotations

import argparse
import contextlib
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import reliability

from dsa110_assets import settings as settings_module
from dsa110_assets.archive import files, integrity, quarantine, stale
from dsa110_assets.archive.store import Archive
from dsa110_assets.cli.app import EXIT_CHECKS
from dsa110_assets.orchestration.graph import specifications
from dsa110_assets.orchestration.planning import plan
from dsa110_assets.orchestration.running import instance as instances
from dsa110_assets.settings import Settings
from dsa110_assets.simulator.options import SimulationOptions
from dsa110_assets.simulator.simulate import simulate
from dsa110_assets.telescope import timegrid
from dsa110_assets_tests.postgres import Server, private_server

TRANSIT = datetime(2026, 1, 25, 22, 26, 5, tzinfo=UTC)
"""Transit of 3C454.3, which calibrates the first night. The next night's transit is a sidereal day later."""
SIDEREAL_DAY = timedelta(seconds=86164.0905)
SUBBANDS = 4
TELESCOPE: dict[str, Any] = {
    "antennas": 8, "channels": 4, "subbands": SUBBANDS, "seed": 3, "noise_scale": 0.2, "rfi_tones": 0, "rfi_bursts": 0.0,
    "dead_antennas": 0, "dead_receptors": 0, "restart_every": 0, "source_density": 0.3, "flux_min_jy": 0.2,
}  # fmt: skip
SETTINGS = {
    "DSA110_SUBBANDS": str(SUBBANDS), "DSA110_MIN_SUBBANDS": str(SUBBANDS - 1), "DSA110_STILL_S": "0.2",
    "DSA110_IMAGING__FIELD_DEG": "2.0", "DSA110_IMAGING__PIXELS_PER_BEAM": "2.5", "DSA110_IMAGING__MAX_MAJOR_CYCLES": "2",
    "DSA110_IMAGING__CLEAN_ITERATIONS": "100", "DSA110_IMAGING__THREADS": "1",
    "DSA110_THRESHOLDS": str(Path(__file__).with_name("small_disk.toml")),
}  # fmt: skip
DISK = "4g"
"""Enough for sixteen nights of a dozen observations that leave 20 MB each."""
MARK = "RELIABILITY_SOAK"
FAULTS = ("SIGKILL", "SIGTERM", "crash point", "database away", "disk full")
LONGEST_WORKER_S = 1800.0


@dataclass
class Soak:
    """One soak: its directory, its random generator, its counts and its violations."""

    place: Path
    rng: random.Random
    groups: int
    postgres: Server | None
    small_disk: bool
    mark: str = field(default_factory=lambda: uuid.uuid4().hex)
    counts: Counter[str] = field(default_factory=Counter)
    violations: list[str] = field(default_factory=list)
    worst_difference: float = 0.0

    def environment(self, name: str) -> dict[str, str]:
        """The settings of the `disturbed` or `undisturbed` platform as environment variables."""
        home = self.place / name
        found = {"DSA110_INBOX": str(home / "inbox"), "DSA110_ARCHIVE": str(home / "disk" / "archive")}
        if name == "disturbed" and self.postgres is not None:
            found["DSA110_DATABASE_URL"] = self.postgres.url
        others = {key: value for key, value in os.environ.items() if not key.startswith("DSA110_")}
        return {**others, **SETTINGS, **found, "DAGSTER_HOME": str(home / "dagster"), MARK: self.mark}

    def settings(self, name: str) -> Settings:
        """The same settings as the package reads them."""
        return settings_of(self.environment(name))


def settings_of(environment: Mapping[str, str]) -> Settings:
    """The settings that a process with this environment has."""
    before = dict(os.environ)
    os.environ.clear()
    os.environ.update(environment)
    try:
        return settings_module.load()
    finally:
        os.environ.clear()
        os.environ.update(before)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options that all soaks share."""
    parser.add_argument("--seed", type=int, default=int(time.time()))
    parser.add_argument("--postgres", action="store_true", help="keep the index (--live: Dagster's storage, too) in a private PostgreSQL")
    parser.add_argument("--table", type=Path, default=reliability.TABLE, help="the page whose figures are renewed")


@contextlib.contextmanager
def begun(asked: argparse.Namespace, groups: int) -> Iterator[Soak]:
    """A soak whose nights have `groups` groups, with its small disk and, if requested, a PostgreSQL server; all are removed at the end."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # as after Ctrl-C, the small disk is unmounted
    print(f"seed {asked.seed}", flush=True)
    with tempfile.TemporaryDirectory(prefix="dsa110-soak-") as folder, contextlib.ExitStack() as stack:
        place = Path(folder)
        disk = stack.enter_context(small_disk(place / "disturbed" / "disk"))
        postgres = stack.enter_context(private_server()) if asked.postgres else None
        yield Soak(place, random.Random(asked.seed), groups, postgres, disk)


def main() -> int:
    """Run nights until the time is up, then print and record the result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("hours", nargs="?", type=float, default=24.0)
    parser.add_argument("--minutes", type=float, help="instead of hours")
    parser.add_argument("--groups", type=int, default=3, help="groups a night (3)")
    add_arguments(parser)
    asked = parser.parse_args()
    seconds = asked.minutes * 60 if asked.minutes is not None else asked.hours * 3600
    began, nights = time.monotonic(), 0
    with begun(asked, asked.groups) as soak:
        while nights == 0 or time.monotonic() - began < seconds:
            one_night(soak, nights)
            nights += 1
            told = ", ".join(f"{count} {what}" for what, count in sorted(soak.counts.items()))
            print(f"night {nights}: {(time.monotonic() - began) / 60:.1f} min, {told}; {len(soak.violations)} violations", flush=True)
    for violation in soak.violations:
        print(f"VIOLATION {violation}")
    minutes = (time.monotonic() - began) / 60
    record(asked.table, soak, nights, minutes, asked.seed)
    return 1 if soak.violations else 0


def record(table: Path, soak: Soak, nights: int, minutes: float, seed: int) -> None:
    """Renew row 25 of the table."""
    faults = ", ".join(f"{soak.counts[fault]} {fault}" for fault in FAULTS if soak.counts[fault])
    figures = f"violations: {len(soak.violations)} in {minutes:.0f} min; nights: {nights}; faults: {faults}; "
    figures += f"greatest relative difference from the undisturbed run: {soak.worst_difference:.2g}"
    index = "PostgreSQL" if soak.postgres else "SQLite"
    when = f"{datetime.now(UTC):%Y-%m-%d}: `ops/soak`, seed {seed}, {index}{'' if soak.small_disk else ', without a full disk'}"
    table.write_text(reliability.renew(table.read_text(), {25: (figures, when)}))


def one_night(soak: Soak, number: int) -> None:
    """Simulate a night, deliver its files under faults, let processing finish without faults, and check."""
    source = soak.place / f"night{number}"
    start = TRANSIT + number * SIDEREAL_DAY - timedelta(seconds=soak.groups * timegrid.GROUP_S / 2)
    simulate(source, SimulationOptions(start=f"{start:%Y-%m-%dT%H:%M:%S}", groups=soak.groups, **TELESCOPE))
    files = sorted(source.glob("*.hdf5"))
    undisturbed, disturbed = soak.settings("undisturbed"), soak.settings("disturbed")
    for one in (undisturbed, disturbed):
        one.inbox.mkdir(parents=True, exist_ok=True)
    for path in files:
        shutil.copy2(path, undisturbed.inbox / path.name)
    arrivals = plan_arrivals(soak, files)
    while arrivals:
        for _ in range(min(len(arrivals), soak.rng.randint(1, max(2, len(files) // 2)))):
            arrivals.pop(0)(disturbed.inbox)
        worker(soak, soak.rng.choice((*FAULTS, "nothing")))
    operator_settles_disputes(disturbed)
    for name in ("disturbed", "undisturbed"):
        ended = worker(soak, "nothing", name)
        if ended not in (0, EXIT_CHECKS):
            soak.violations.append(f"night {number}: the last, untroubled `process` of the {name} run ended with {ended}")
    check(soak, number)


def plan_arrivals(soak: Soak, files: list[Path]) -> list[Any]:
    """Functions that deliver the files to an inbox in random order, some of them first in a wrong form, some twice."""
    rng = soak.rng
    rng.shuffle(files)
    deeds: list[Any] = []
    for path in files:
        kind = rng.choice(("plain", "plain", "plain", "truncated first", "same twice", "other twice", "incomplete first"))
        soak.counts[f"files {kind}"] += 1
        if kind == "truncated first":
            part = rng.random()
            deeds.insert(rng.randint(0, len(deeds)), lambda inbox, p=path, part=part: write_part(inbox, p, p.name, part))
        if kind == "incomplete first":
            deeds.insert(rng.randint(0, len(deeds)), lambda inbox, p=path: write_part(inbox, p, f"{p.stem}_incomplete.hdf5", 0.5))
        if kind.endswith("twice"):
            name = later_name(path)
            place, other = rng.randint(0, len(deeds)), kind.startswith("other")
            deeds.insert(place, lambda inbox, p=path, n=name, other=other: write_part(inbox, p, n, 1.0, spoil=other))
        deeds.append(lambda inbox, p=path: deliver(inbox, p))
    return deeds


def later_name(path: Path) -> str:
    """The file name that a node whose clock is 4 s ahead would give to the same subband of the same observation."""
    later = datetime.fromisoformat(path.name[:19]) + timedelta(seconds=4)
    return f"{later:%Y-%m-%dT%H:%M:%S}{path.name[19:]}"


def write_part(inbox: Path, path: Path, name: str, part: float, *, spoil: bool = False) -> None:
    """Write the fraction `part` of a file into the inbox under `name`; with `spoil` its last byte is changed."""
    content = bytearray(path.read_bytes())
    if spoil:
        content[-1] ^= 1
    (inbox / name).write_bytes(content[: int(len(content) * part)])


def deliver(inbox: Path, path: Path) -> None:
    """Deliver the whole file as the correlator does: write it under an unfinished name, then rename it."""
    unfinished = inbox / f"{path.stem}_incomplete.hdf5"
    shutil.copyfile(path, unfinished)
    unfinished.rename(inbox / path.name)


def operator_settles_disputes(settings: Settings) -> None:
    """Do what an operator does about differing copies: remove the wrong one and release the right one."""
    with Archive.create(settings.archive, settings.database_url) as archive:
        plan.scan_and_quarantine(archive, settings)
        for one in quarantine.quarantined(archive):
            if "other bytes" not in one.reason:
                continue
            (path,) = one.paths
            original = path.parent.parent.parent
            right = next(original.glob(f"night*/{path.name}"), None)
            if right is None:
                path.unlink(missing_ok=True)
            elif one.holds_for(path):
                quarantine.release(archive, path)


def worker(soak: Soak, fault: str, name: str = "disturbed") -> int:
    """Run `dsa110 process` under one fault and return its exit status."""
    rng, environment = soak.rng, soak.environment(name)
    if fault == "disk full" and not soak.small_disk:
        fault = "nothing"
    soak.counts[fault] += fault != "nothing"
    if fault == "crash point":
        asset, point, how = rng.choice(list(specifications())), rng.choice(files.CRASH_POINTS), rng.choice(("SIGKILL", "SIGTERM"))
        environment["DSA110_CRASH_AT"] = f"{asset}/{point}:{how}"
    command = [str(Path(sys.executable).with_name("dsa110")), "process"]
    log = soak.place / name / "process.log"
    with log.open("ab") as handle:
        run = subprocess.Popen(command, env=environment, stdout=handle, stderr=handle, start_new_session=True)
        try:
            during(soak, fault, run)
            return run.wait(LONGEST_WORKER_S)
        except subprocess.TimeoutExpired:
            soak.violations.append(f"a `process` under {fault} hung for {LONGEST_WORKER_S:.0f} s")
            os.killpg(run.pid, signal.SIGKILL)
            return run.wait()


def during(soak: Soak, fault: str, run: subprocess.Popen[bytes]) -> None:
    """Inject the fault at a random moment of the run."""
    if fault not in ("SIGKILL", "SIGTERM", "database away", "disk full"):
        return
    with contextlib.suppress(subprocess.TimeoutExpired):
        run.wait(soak.rng.uniform(2.0, 60.0))
        return
    if fault.startswith("SIG"):
        run.send_signal(signal.Signals[fault])
        return
    trouble = database_away(soak) if fault == "database away" else disk_full(soak.place / "disturbed" / "disk")
    with trouble, contextlib.suppress(subprocess.TimeoutExpired):
        run.wait(soak.rng.uniform(1.0, 20.0))


@contextlib.contextmanager
def database_away(soak: Soak) -> Iterator[None]:
    """Stop PostgreSQL, or lock the SQLite index from another connection, for the duration of the block."""
    if soak.postgres is not None:
        soak.postgres.stop()
        try:
            yield
        finally:
            soak.postgres.start()
        return
    import sqlite3

    path = soak.place / "disturbed" / "disk" / "archive" / "index.sqlite"
    if not path.exists():
        yield
        return
    with contextlib.closing(sqlite3.connect(path, isolation_level=None, timeout=30)) as connection:
        with contextlib.suppress(sqlite3.OperationalError):
            connection.execute("BEGIN EXCLUSIVE")
        yield


@contextlib.contextmanager
def disk_full(disk: Path) -> Iterator[None]:
    """Fill the archive's file system completely for the duration of the block."""
    filler = disk / "filler"
    try:
        with filler.open("wb", buffering=0) as handle, contextlib.suppress(OSError):
            while True:
                handle.write(b"\0" * 65536)
        yield
    finally:
        filler.unlink()


@contextlib.contextmanager
def small_disk(place: Path) -> Iterator[bool]:
    """Mount a small file system at `place` and yield True; without the right to mount, yield False and use a plain directory."""
    place.mkdir(parents=True)
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={DISK}", "tmpfs", str(place)], capture_output=True).returncode == 0
    try:
        yield mounted
    finally:
        if mounted:
            subprocess.run(["umount", "-l", str(place)], check=True)


def check(soak: Soak, number: int) -> None:
    """Check what must hold after a night; every failure becomes a violation."""
    undisturbed, disturbed = soak.settings("undisturbed"), soak.settings("disturbed")
    with Archive(disturbed.archive, disturbed.database_url) as archive, Archive(undisturbed.archive) as reference:
        integrity.sweep(archive, min_age_s=0)
        found = [
            *lost_files(archive, disturbed), *duplicate_rows(archive), *unlabelled(archive), *unfinished(soak, disturbed),
            *(f"{problem.product.id}: {', '.join(problem.problems)}" for problem in integrity.verify(archive)),
            *(f"{one.product.id} is stale: {one.reasons[0]}" for one in stale.stale(archive)),
            *differences(soak, archive, reference),
        ]  # fmt: skip
    soak.violations += [f"night {number}: {one}" for one in found]


def lost_files(archive: Archive, settings: Settings) -> Iterator[str]:
    """Report files of the inbox that are in no manifest, not waiting, and not quarantined with a reason."""
    from dsa110_assets.orchestration.ingest import inbox

    known, seen = inbox.known(archive), plan.scan_inbox(archive, settings, by_data=True)
    waiting = {path for path, _ in seen.waiting}
    refused = {path for one in quarantine.quarantined(archive) if one.reason for path in one.paths if one.holds_for(path)}
    for path in settings.inbox.glob("*.hdf5"):
        facts = path.stat()
        identity = f"{path.name}:{facts.st_size}:{facts.st_mtime_ns}"
        if identity not in known.used and path not in waiting and path not in refused:
            yield f"lost file {path.name}"


def duplicate_rows(archive: Archive) -> Iterator[str]:
    """Report fluxes that occur twice."""
    for asset, key in (("source_measurements", "source_id, epoch, kind"), ("light_curves", "source_id, epoch")):
        if files_ := [str(path) for product in archive.products(asset) for path in product.path.glob(f"{asset}.parquet")]:
            rows = duckdb.read_parquet(files_, union_by_name=True, hive_partitioning=False)
            twice = rows.aggregate(f"{key}, count(*) AS n", key).filter("n > 1").df()
            if len(twice):
                yield f"{asset}: {len(twice)} duplicate rows, as {twice.iloc[0].to_dict()}"


def unlabelled(archive: Archive) -> Iterator[str]:
    """Report directories that look like products but have no record, leftover drafts, and products without run id or code version."""
    known = {product.path for product in archive.products(state=None)}
    for path in archive.root.glob("**/v[0-9][0-9][0-9][0-9]"):
        if path.is_dir() and (path not in known or not (path / "product.json").is_file()):
            yield f"unlabelled product {path.relative_to(archive.root)}"
    for path in archive.root.glob("**/.tmp-*"):
        yield f"left over: {path.relative_to(archive.root)}"
    for product in archive.products():
        if not (product.run_id and product.code_version):
            yield f"{product.id} has no run id or no code version"


def unfinished(soak: Soak, settings: Settings) -> Iterator[str]:
    """Report runs that Dagster believes are alive, and processes of the soak that still run."""
    with instances.open_instance(settings.dagster_home) as dagster:
        for run in instances.unfinished(dagster):
            yield f"run {run.run_id} is still {run.status.value}"
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            if entry.name.isdigit() and soak.mark.encode() in (entry / "environ").read_bytes():
                yield f"process {entry.name} survived: {(entry / 'cmdline').read_bytes()[:80]!r}"


def differences(soak: Soak, archive: Archive, reference: Archive) -> Iterator[str]:
    """Report products that only one of the two runs has, or whose contents differ."""
    ours, theirs = ({(p.asset, p.partition): p for p in one.products()} for one in (archive, reference))
    for key in sorted(ours.keys() ^ theirs.keys(), key=str):
        yield f"{key} is only in the {'disturbed' if key in ours else 'undisturbed'} run"
    for key in sorted(ours.keys() & theirs.keys(), key=str):
        apart = difference(key[0], ours[key].path, theirs[key].path)
        soak.worst_difference = max(soak.worst_difference, apart)
        if apart > 1e-6:  # images are float32; sums in another order differ by about 1e-7
            yield f"{key} differs by {apart:.3g} from the undisturbed run's"


def difference(asset: str, ours: Path, theirs: Path) -> float:
    """Largest difference between the numbers of two products, relative to the largest number; 0 for products without numbers."""
    from astropy.io import fits

    if asset in ("tile_image", "hour_mosaic", "night_mosaic"):
        # weights are noise^(-2), thousands per Jy^2: with them included, differences of the image would be negligible
        names = [path.name for path in sorted(theirs.glob("*.fits")) if "moc" not in path.name and path.name != "weights.fits"]
        arrays = [np.concatenate([np.nan_to_num(fits.getdata(place / name)).ravel() for name in names]) for place in (ours, theirs)]
    elif asset in ("source_measurements", "light_curves"):
        import pandas as pd

        frames = [pd.concat([pd.read_parquet(path) for path in sorted(place.glob("*.parquet"))]) for place in (ours, theirs)]
        keys = [key for key in ("source_id", "epoch", "kind") if key in frames[0]]
        arrays = [frame.sort_values(keys)["flux_jy"].fillna(0).to_numpy() for frame in frames]
    else:
        return 0.0
    if arrays[0].shape != arrays[1].shape:
        return float("inf")
    return float(np.max(np.abs(arrays[0] - arrays[1]), initial=0) / max(float(np.max(np.abs(arrays[1]), initial=0)), 1e-30))


if __name__ == "__main__":
    sys.exit(main())
