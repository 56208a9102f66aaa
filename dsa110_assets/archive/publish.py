"""The one publish function: write beside the final place, validate, seal, rename, index.

    <root>/.open/<run>-<random>             the publisher's claim: where it works and what from (claims.py)
    <family>/.tmp-<run>-<random>/draft/     the directory the asset writes into; renamed to
    <family>/v0001/                         the product, with product.json inside

The rename decides which version a publisher gets: renaming onto an existing product fails, and the next
number is tried. The index row, written after it in one transaction, decides that the product exists. If the
publisher is killed in between, the product is an orphan: complete, invisible, and adopted by `integrity.sweep`,
which the claim leads to it.

A publisher may be presumed dead, its work be done by another, and then come back. Therefore it can state which version its own is
to follow. The transaction that writes the row verifies that this still holds; a second product is removed before anyone sees it.
"""

from __future__ import annotations

import errno
import math
import os
import re
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from dsa110_assets import tracing
from dsa110_assets.archive import claims, files, naming, rows
from dsa110_assets.archive.product import Json, Product
from dsa110_assets.errors import NotFoundError, SilentWrongnessError, SupersededError, TransientError
from dsa110_assets.plain_json import jsonable

if TYPE_CHECKING:
    from sqlalchemy.engine import Connection

    from dsa110_assets.archive.store import Archive

_SET_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.+:-]{0,80}")
Validator = Callable[[Path], Sequence[str] | None]


@dataclass
class Draft:
    """A product being written. Write into `path` (an empty directory), fill `metadata`, add validators."""

    path: Path
    metadata: dict[str, Any] = field(default_factory=dict)
    caltable_sets: list[Json] = field(default_factory=list)
    validators: list[Validator] = field(default_factory=list)
    _product: Product | None = None

    def validate(self, validator: Validator) -> None:
        """Register `validator(path)`, which judges the files after the block: it raises, or returns problems."""
        self.validators.append(validator)

    @property
    def product(self) -> Product:
        """The published product. Raises NotFoundError until the block has ended without an error."""
        if self._product is None:
            raise NotFoundError(f"{self.path}: this draft is not published; read draft.product after the block")
        return self._product


@contextmanager
def publish(
    archive: Archive, asset: str, partition: str | None, inputs: Sequence[str], provenance: Json, follows: int | None
) -> Iterator[Draft]:
    """Publish what the block writes into `draft.path`; see Archive.publish for arguments and errors."""
    what = f"Publishing {asset}" + (f" {partition}" if partition else "")
    place = naming.family(asset, partition)
    inputs = tuple(dict.fromkeys(inputs))
    sidecar = {
        "format": 1,
        "asset": asset,
        "partition": partition,
        "inputs": list(inputs),
        **jsonable(provenance),
    }
    with _workspace(archive, place, sidecar["run_id"], inputs, what) as workspace:
        draft = Draft(workspace / "draft")
        files.crash_point("draft_created", asset)
        with files.FullDisk(what, archive.root), files.typed_errors(what, only_full=True):
            yield draft
        files.crash_point("written", asset)
        _judge(draft, what)
        files.crash_point("validated", asset)
        with tracing.span("publish"):
            with files.typed_errors(what):
                sidecar = _seal(archive, draft, sidecar)
                _rename(archive, draft, sidecar, follows)
            try:
                archive.index.write(lambda c: _commit(c, sidecar, follows))
            except SupersededError:
                files.remove_tree(archive.root / naming.parse_id(sidecar["id"]).directory)
                raise
        files.crash_point("indexed", asset)
    files.crash_point("published", asset)
    draft._product = archive.get(sidecar["id"])


def _commit(connection: Connection, sidecar: Json, follows: int | None) -> None:
    """Insert the product's row, within the transaction."""
    rows.insert(connection, sidecar, {}, follows)
    files.crash_point("row_written", sidecar["asset"])


@contextmanager
def _workspace(archive: Archive, place: PurePosixPath, run_id: str, inputs: Sequence[str], what: str) -> Iterator[Path]:
    """A claimed temporary directory beside the product's place, removed at the end in every case."""
    with ExitStack() as at_the_end:
        with files.typed_errors(what):
            check = partial(_check_inputs, archive, inputs, what)
            claim = at_the_end.enter_context(claims.claim(archive.root, [place], inputs, naming.token(run_id), check))
            workspace = archive.root / place / f".tmp-{claim.name}"
            at_the_end.callback(shutil.rmtree, workspace, ignore_errors=True)  # the sweep removes any remains
            (workspace / "draft").mkdir(parents=True)
        yield workspace


def _check_inputs(archive: Archive, inputs: Sequence[str], what: str) -> None:
    """Raise NotFoundError for an input that does not exist, TransientError for one that retention removed before it was claimed."""
    known = archive.index.read(lambda c: rows.by_ids(c, archive.root, inputs))  # already claimed: from here on they are kept
    if unknown := [i for i in inputs if i not in known]:
        raise NotFoundError(f"{what}: its input {unknown[0]} is not in the archive")
    if gone := [i for i in inputs if known[i].removed]:
        raise TransientError(f"{what}: retention has just removed its input {gone[0]}; its inputs will be looked up again")


def _judge(draft: Draft, what: str) -> None:
    """Run the validators. Raises SilentWrongnessError with every problem they report."""
    if (draft.path / naming.SIDECAR).exists():
        raise SilentWrongnessError(f"{what}: {naming.SIDECAR} is the archive's own file; write under another name")
    problems = [problem for validator in draft.validators for problem in (validator(draft.path) or ())]
    if problems:
        raise SilentWrongnessError(f"{what}: not published: {'; '.join(problems)}")


def _seal(archive: Archive, draft: Draft, sidecar: Json) -> Json:
    """Make the files durable and return the record, complete except for its version."""
    sealed = files.seal(draft.path, durable=True)
    files.crash_point("sealed", sidecar["asset"])
    return {
        **sidecar,
        "size_bytes": sealed.size_bytes,
        "digest": sealed.digest,
        "created_at": datetime.now(UTC).isoformat(timespec="microseconds"),
        "metadata": jsonable(draft.metadata),
        "caltable_sets": [_check_set(contents) for contents in jsonable(draft.caltable_sets)],
    }


def _check_set(contents: Json) -> Json:
    """Return a caltable set's row unchanged. Raises SilentWrongnessError if its name or time is such that no query could find it."""
    if not _SET_NAME.fullmatch(contents["name"]) or not math.isfinite(contents["mid_mjd"] or math.nan):
        raise SilentWrongnessError(f"caltable set {contents['name']!r}: its name or its time {contents['mid_mjd']} is unusable")
    return contents


def _rename(archive: Archive, draft: Draft, sidecar: Json, follows: int | None) -> None:
    """Move the draft to its final place under the first free version, and enter that version and the id in `sidecar`."""
    asset, partition = sidecar["asset"], sidecar["partition"]
    place = archive.root / naming.family(asset, partition)
    highest = archive.index.read(lambda c: rows.highest_version(c, asset, partition))
    rows.require_last(highest, follows, sidecar)
    while True:
        version = max([highest, *versions_on_disk(place)]) + 1
        name = naming.ProductName(asset, partition, version)
        sidecar |= {"id": name.id, "version": version}
        files.write_json(draft.path / naming.SIDECAR, sidecar)
        files.crash_point("sidecar_written", asset)
        try:
            os.rename(draft.path, archive.root / name.directory)
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise
        else:
            files.crash_point("renamed", asset)
            files.fsync_up(place, archive.root)
            files.crash_point("durable", asset)
            return


def versions_on_disk(place: Path) -> list[int]:
    """The versions that have a directory in `place`, or once had one (their state file stays)."""
    names = [re.fullmatch(r"v(\d{4,9})(?:\.state\.json)?", entry.name) for entry in os.scandir(place)]
    return [int(match[1]) for match in names if match]


def provenance(settings: Mapping[str, Any], code_version: str, run_id: str, engines: Mapping[str, str]) -> Json:
    """The part of a product's record that its maker supplies."""
    return {
        "settings": dict(settings),
        "code_version": code_version,
        "run_id": run_id,
        "engines": dict(engines),
    }
