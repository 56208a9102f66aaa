"""`dsa110 doctor`: can this machine run the platform? Every check says what to do when it fails."""

from __future__ import annotations

import importlib.metadata
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from dsa110_assets import plain_text
from dsa110_assets.cli import console, doctor_host
from dsa110_assets.cli.app import EXIT_INCOMPLETE, app
from dsa110_assets.cli.doctor_host import Finding, nearest
from dsa110_assets.errors import DsaError

if TYPE_CHECKING:
    from dsa110_assets.settings import Settings

ENGINES = {
    "python-casacore": "casacore.tables",
    "ducc0": "ducc0",
}
IMPORT_DEADLINE_S = 120.0
MIN_FREE_BYTES = 20e9  # an observation's products at full scale are 4 GB; room for five of them is no reserve


@app.command(epilog="Example: dsa110 doctor --casa")
def doctor(
    casa: bool = typer.Option(False, help="Also start CASA in its child process (some seconds)."),
    as_json: bool = typer.Option(False, "--json", help="Print JSON, and nothing else, on standard output."),
) -> None:
    """Check settings, directories, database, disk and engines; exit status 0 only if every check passes."""
    findings = examine(casa=casa)
    if as_json:
        console.emit_json(findings)
    else:
        for finding in findings:
            console.say(f"{'ok  ' if finding.ok else 'FAIL'}  {finding.check:<18} {finding.found}")
            if not finding.ok:
                console.say(f"      {'':<18} → {finding.remedy}")
    if not all(finding.ok for finding in findings):
        raise typer.Exit(EXIT_INCOMPLETE)


def examine(*, casa: bool) -> list[Finding]:
    """Run every check in turn; those that depend on an unreadable setting are left out."""
    from dsa110_assets.orchestration.watching.history import POSTGRES_VARIABLE
    from dsa110_assets.settings import is_given

    configured, first = _settings()
    findings = [first, *doctor_host.current_directory()]
    if configured is not None:
        home = configured.dagster_home or configured.archive / "dagster"
        findings += [
            _inbox(configured.inbox),
            _archive(configured.archive),
            _thresholds(configured.thresholds_path),
            doctor_host.locks(configured.archive, "DSA110_ARCHIVE", with_database=not configured.database_url),
            _disk(configured.archive),
            _dagster_home(configured),
            doctor_host.locks(home, "DAGSTER_HOME", with_database=not is_given(POSTGRES_VARIABLE)),
            _database(configured),
            *_channels(configured),
            *(_catalogue(configured, path) for path in configured.catalogues),
        ]
    findings += [doctor_host.home(), doctor_host.kernels(), doctor_host.temporary(), doctor_host.earth()]
    findings += [_engine(package, module) for package, module in ENGINES.items()]
    return [*findings, _casa()] if casa else findings


def _settings() -> tuple[Settings | None, Finding]:
    from dsa110_assets import settings

    try:
        configured = settings.load()
    except DsaError as error:
        return None, Finding("settings", False, str(error), "correct it; `dsa110 settings` explains each")
    return configured, Finding("settings", True, "all valid")


def _inbox(inbox: Path) -> Finding:
    if not os.path.isdir(inbox):
        return Finding("inbox", False, f"{inbox} is not a directory", "make it, or set DSA110_INBOX to where files arrive")
    if not os.access(inbox, os.R_OK | os.X_OK):
        return Finding("inbox", False, f"{inbox} cannot be read", "let this user read it (chmod, group membership)")
    from dsa110_assets.orchestration.ingest import inbox as ingest_inbox

    try:
        names = ingest_inbox.listing(inbox)
    except DsaError as error:
        return Finding("inbox", False, str(error), "let this user read it, or wait until its file server is back")
    misnamed = [path for path, _ in names.foreign if ingest_inbox.looks_like_data(path)]
    foreign_text = f", {len(names.foreign)} others that are not read" if names.foreign else ""
    summary = f"{inbox}, {len(names.finished)} subband files{foreign_text}"
    if misnamed:
        remedy = f"name them {ingest_inbox.SUBBAND_NAME}, or remove them; `dsa110 groups` lists all"
        return Finding("inbox", False, f"{summary}, among them {ascii(misnamed[0].name)[1:-1]} that looks like data", remedy)
    return Finding("inbox", True, summary)


def _archive(archive: Path) -> Finding:
    folder = nearest(archive)
    try:
        with tempfile.TemporaryFile(dir=folder) as probe:
            probe.write(b"dsa110 doctor")
            probe.flush()
            os.fsync(probe.fileno())
    except OSError as error:
        remedy = "make it writable for this user, or set DSA110_ARCHIVE to a place that is"
        return Finding("archive", False, f"{folder} cannot be written: {error.strerror}", remedy)
    return Finding("archive", True, f"{archive}" if folder == archive else f"{archive}, made on first use")


def _thresholds(path: Path) -> Finding:
    from dsa110_assets import thresholds
    from dsa110_assets.orchestration.graph import specifications

    remedy = "correct it; until then the limits last in force apply, or, where none are known, the defaults, which remove nothing"
    try:
        limits = thresholds.read(path)
    except DsaError as error:
        return Finding("thresholds", False, str(error), remedy)
    if unknown := sorted(limits.retention_days.keys() - specifications().keys()):
        assets = ", ".join(specifications())
        return Finding("thresholds", False, f"{path}: retention_days names no asset: {', '.join(unknown)}", f"choose from {assets}")
    return Finding("thresholds", True, f"{path}" if path.exists() else f"defaults; {path} is not there")


def _catalogue(configured: Settings, path: Path) -> Finding:
    """Check a file of DSA110_CATALOGUES by reading it with the function that the asset `source_catalog` uses."""
    from dsa110_assets.orchestration.assets.catalogues import read_configured

    try:
        frame = read_configured(configured, path)
    except (DsaError, OSError) as error:
        remedy = "correct the file, DSA110_CATALOGUES or DSA110_CATALOGUE_FREQUENCIES_MHZ; until then source_catalog and all after it fail"
        return Finding("catalogue", False, str(error), remedy)
    mhz = sorted({round(float(hz) / 1e6, 3) for hz in frame["frequency_hz"].dropna()})
    frequency_text = f"{mhz[0]:g} MHz" if len(mhz) == 1 else f"{mhz[0]:g} to {mhz[-1]:g} MHz"
    summary = f"{path}: {len(frame)} sources of {frame['catalogue'].iloc[0]} at {frequency_text}"
    left_out, blank = frame.attrs["n_repeats"], int(frame["flux_jy"].isna().sum())
    return Finding("catalogue", True, f"{summary}, {left_out} repeats left out, {blank} without a flux")


def _disk(archive: Path) -> Finding:
    folder = nearest(archive)
    free = shutil.disk_usage(folder).free
    summary = f"{plain_text.size(free)} free on {folder}"
    remedy = "free some space: `dsa110 archive retain --dry-run` says what may be removed"
    return Finding("disk", free >= MIN_FREE_BYTES, summary, remedy)


def _dagster_home(configured: Settings) -> Finding:
    from dsa110_assets.cli.home import with_dagster_home
    from dsa110_assets.orchestration.running.instance import open_instance

    home = configured.dagster_home or configured.archive / "dagster"
    remedy = "make it writable for this user, or set DAGSTER_HOME to a place that is"
    if not os.access(nearest(home), os.W_OK | os.X_OK) or not os.path.isdir(nearest(home)):
        return Finding("DAGSTER_HOME", False, f"{nearest(home)} cannot be written", remedy)
    if not os.path.exists(home):
        return Finding("DAGSTER_HOME", True, f"{home}, made on first use")
    try:
        with_dagster_home(configured)
        with open_instance(home):
            pass
    except DsaError as error:
        return Finding("DAGSTER_HOME", False, str(error), remedy)
    return Finding("DAGSTER_HOME", True, str(home))


def _database(configured: Settings) -> Finding:
    from dsa110_assets.archive.store import MARKER, Archive

    if not os.path.exists(configured.archive / MARKER):
        return Finding("database", True, "no archive yet; its index is made on first use")
    try:
        with Archive(configured.archive, configured.database_url, patience_s=0) as archive:
            archive.current("source_catalog")
            return Finding("database", True, archive.index.where)
    except DsaError as error:
        return Finding("database", False, str(error), "start the database, or correct DSA110_DATABASE_URL")


def _channels(configured: Settings) -> Iterator[Finding]:
    """Check that each alert channel is of a known kind; `dsa110 alerts test` checks whether it works."""
    from dsa110_assets.orchestration.watching import sending

    for name, channel in configured.alert_channels.items():
        try:
            sending.require_known(channel)
        except DsaError as error:
            yield Finding(f"channel {name}", False, str(error), "correct DSA110_ALERT_CHANNELS; until then no alert is sent to it")
        else:
            yield Finding(f"channel {name}", True, f"from {channel.severity}; `dsa110 alerts test` tests it")
    if not configured.alert_channels:
        yield Finding("alerts", True, "to the log only: DSA110_ALERT_CHANNELS names no channel")


def _engine(package: str, module: str) -> Finding:
    """Import an engine in a child process, because two of them together, or a broken binary, can kill a process."""
    remedy = f"reinstall it: {Path(sys.executable).name} -m pip install --force-reinstall {package}"
    try:
        version = importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return Finding(package, False, "not installed", remedy)
    failure = _in_child((sys.executable, "-c", f"import {module}"))
    return Finding(package, failure is None, f"{version}{'' if failure is None else f': {failure}'}", remedy)


def _in_child(command: tuple[str, ...]) -> str | None:
    """Return None if the child process succeeds, else the last line of its output."""
    from dsa110_assets import children

    with tempfile.TemporaryDirectory() as directory:
        try:
            done = children.run(command, deadline_s=IMPORT_DEADLINE_S, log_path=Path(directory) / "log")
        except DsaError as error:
            return str(error)
        return None if done.returncode == 0 else (done.tail.splitlines() or ["no message"])[-1]


def _casa() -> Finding:
    from dsa110_assets.engines import casa

    with tempfile.TemporaryDirectory() as directory:
        try:
            answer = casa.run_task("version_string", {}, work_dir=Path(directory), deadline_s=IMPORT_DEADLINE_S)
        except DsaError as error:
            return Finding("CASA", False, str(error).splitlines()[0], "reinstall casatools and casatasks")
    return Finding("CASA", True, f"{answer.get('returned', '')} starts in its child process")
