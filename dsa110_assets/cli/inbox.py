"""`dsa110 groups`: list the files in the inbox, and how they are or will be processed."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dsa110_assets.cli import console
from dsa110_assets.cli.app import app
from dsa110_assets.errors import ConfigurationError

if TYPE_CHECKING:
    from dsa110_assets.archive.product import Product
    from dsa110_assets.archive.store import Archive
    from dsa110_assets.orchestration.ingest.inbox import Candidate
    from dsa110_assets.settings import Settings


@dataclass(frozen=True)
class GroupRow:
    """One group in the listing; `state` is complete, semi-complete, waiting or quarantined."""

    observation: str
    state: str
    subbands: int
    missing: tuple[int, ...]
    pointing_dec_deg: float
    mjd_start: float
    product_id: str | None
    reason: str


IGNORED = "ignored"


@dataclass(frozen=True)
class FileRow:
    """One file that is in no usable group; `state` is waiting, quarantined or ignored (not a subband file)."""

    path: str
    state: str
    reason: str


@app.command(epilog="Example: dsa110 groups /data/incoming --json")
def groups(
    inbox: Annotated[Path | None, typer.Argument(help="Directory of subband files; default: the setting `inbox`.")] = None,
    release: str | None = typer.Option(None, help="Allow a quarantined file, observation or record (its key) to be tried again."),
    as_json: bool = typer.Option(False, "--json", help="Print JSON, and nothing else, on standard output."),
) -> None:
    """List the groups of files that are complete, waiting or quarantined, and why."""
    configured, archive = _open(inbox)
    if release is not None:
        _release(archive, release)
        return
    rows, files = survey(configured, archive)
    if as_json:
        ignored = [file for file in files if file.state == IGNORED]
        console.emit_json({"groups": rows, "files": [file for file in files if file.state != IGNORED], "ignored": ignored})
        return
    console.table(
        ("observation", "state", "subbands", "missing", "dec deg", "product", "why"),
        [
            (r.observation, r.state, r.subbands, " ".join(f"sb{s:02d}" for s in r.missing),
             f"{r.pointing_dec_deg:.3f}", r.product_id, r.reason)
            for r in rows
        ],
    )  # fmt: skip
    if files:
        console.say("")
        console.table(("file", "state", "why"), [(Path(f.path).name, f.state, f.reason) for f in files])
    done = sum(row.product_id is not None for row in rows)
    console.warn(f"{len(rows)} groups, {done} in the archive, {len(files)} single files in {configured.inbox}")


def survey(configured: Settings, archive: Archive | None) -> tuple[list[GroupRow], list[FileRow]]:
    """Return every group and every other file of the inbox, opened and judged as `dsa110 process` would do it."""
    from dsa110_assets.archive.quarantine import quarantined
    from dsa110_assets.orchestration.ingest import inbox as ingest_inbox
    from dsa110_assets.orchestration.planning import plan

    refused = ingest_inbox.refused(archive) if archive else frozenset()
    scanned = plan.scan_without_archive(configured, ingest_inbox.Known(refused=refused))
    records = quarantined(archive) if archive else []
    rows = [_row(c, configured.subbands, archive.current("subband_group", c.observation) if archive else None) for c in scanned.candidates]
    files = [FileRow(_shown(path), "quarantined", reason) for path, reason in scanned.unusable]
    files += [FileRow(_shown(path), "waiting", reason) for path, reason in scanned.waiting]
    files += [FileRow(_shown(path), IGNORED, reason) for path, reason in scanned.foreign]
    listed = {file.path for file in files} | {
        _shown(header.path) for candidate in scanned.candidates for header in candidate.group.files.values()
    }
    files += [
        FileRow(_shown(path), "quarantined", record.reason)
        for record in records
        for path in record.paths
        if _shown(path) not in listed and path.parent == configured.inbox and record.holds_for(path)
    ]
    return rows, sorted(files, key=lambda file: file.path)


def _shown(path: Path) -> str:
    """Return a path as printable text: the file may have any name."""
    text = str(path)
    return text if text.isprintable() else ascii(text)[1:-1]


def _row(candidate: Candidate, subbands: int, product: Product | None) -> GroupRow:
    group = candidate.group
    missing = group.missing(subbands)
    ready = "semi-complete" if missing else "complete"
    state = {"ready": ready, "unusable": "quarantined"}.get(candidate.state, candidate.state)
    return GroupRow(
        observation=candidate.observation, state=state, subbands=len(group.files), missing=missing,
        pointing_dec_deg=group.pointing_dec_deg, mjd_start=group.mjd_start, product_id=product.id if product else None,
        reason=candidate.reason,
    )  # fmt: skip


def _open(inbox: Path | None) -> tuple[Settings, Archive | None]:
    """Return the settings with this inbox, and the archive if there is one; listing files does not need it."""
    from dsa110_assets import settings
    from dsa110_assets.archive.store import MARKER, Archive

    unset = inbox is not None and not settings.is_given("DSA110_ARCHIVE")
    # only a listing: a path that does not exist replaces an archive that was not named
    stand_in = inbox.absolute().parent / ".no-archive-named" if inbox is not None and unset else None
    configured = settings.load(inbox=inbox, archive=stand_in)
    exists = (configured.archive / MARKER).is_file()
    return configured, Archive(configured.archive, configured.database_url) if exists else None


def _release(archive: Archive | None, name: str) -> None:
    from dsa110_assets.archive.quarantine import release

    if archive is None:
        raise ConfigurationError("nothing is quarantined: there is no archive yet (DSA110_ARCHIVE)")
    for record in release(archive, name):
        console.say(f"released {', '.join(path.name for path in record.paths)}, quarantined because: {record.reason}")
    console.warn("the next `dsa110 process`, or the running platform, judges them again")
