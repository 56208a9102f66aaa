"""The integrity of the archive: verification by digest, the sweep after crashes, and rebuilding the index from the sidecars."""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

import sqlalchemy as sa

from dsa110_assets.archive import claims, cold, counters, files, judgements, migrations, naming, quarantine, retention, rows
from dsa110_assets.archive.index import FIRST, SCHEMA, format_of
from dsa110_assets.archive.product import Json, Product, flaw
from dsa110_assets.archive.store import Archive
from dsa110_assets.errors import ConfigurationError, DsaError, NotFoundError, SilentWrongnessError

if TYPE_CHECKING:
    from sqlalchemy.engine import Connection

log = logging.getLogger(__name__)
TEMPORARY_AGE_S = 60.0
"""Temporary directories without a claim (those of a restore or a removal) may be in use while they are younger than this."""


@dataclass(frozen=True)
class Problem:
    """A product whose files are not as published."""

    product: Product
    problems: tuple[str, ...]


@dataclass
class Swept:
    """The result of a sweep: ids of adopted products; removed paths; paths it left as they are, with the reason."""

    adopted: list[str] = field(default_factory=list)
    removed: list[Path] = field(default_factory=list)
    left: dict[Path, str] = field(default_factory=dict)


@dataclass
class Reindexed:
    """The result of reindexing: the numbers of products and quarantine records indexed; the refused sidecars, with the reason."""

    products: int = 0
    quarantined: int = 0
    refused: dict[Path, str] = field(default_factory=dict)


def verify(archive: Archive, chosen: list[Product] | None = None) -> Iterator[Problem]:
    """Read every byte of the chosen products (default: all whose data exist) and yield those that have problems."""
    for product in archive.products(state=None, trials=True) if chosen is None else chosen:
        try:
            problems = archive.verify(product)
        except (OSError, DsaError) as error:
            problems = [str(error)]
        if problems:
            yield Problem(product, tuple(problems))


def reject_damaged(archive: Archive, damaged: list[Problem]) -> list[Product]:
    """Reject the damaged products that are current, so that they are made again; return them in their new state.

    The damaged files stay for inspection until retention removes them.
    """
    return [
        archive.reject(problem.product.id, f"damaged: {'; '.join(problem.problems)}")
        for problem in damaged
        if problem.product.state == "current"
    ]


def sweep(archive: Archive, *, everywhere: bool = False, min_age_s: float = TEMPORARY_AGE_S) -> Swept:
    """Restore consistency after crashes: adopt complete orphans, remove abandoned work. It can run while others publish.

    It looks only where the claims of dead processes point, whatever the archive's size; with `everywhere` (after a restore, a
    reindex, a power cut), it looks at every directory. A temporary directory is removed if the process of its claim is dead or,
    without any claim, if it is older than `min_age_s`. A renamed product without a row is adopted if its digest is correct,
    and removed if not. A removal that retention began is completed. Files foreign to the archive are left and reported.
    """
    done = Swept()
    for name in claims.unfinished(archive.root):
        with _leave_on_error(archive.root / claims.DIRECTORY / name, done):
            _sweep_claim(archive, name, min_age_s, done)
    if everywhere:
        known = archive.index.read(rows.removed_by_id)
        for place in _places(archive.root):
            with _leave_on_error(place, done):
                _sweep_place(archive, place, known, min_age_s, done)
        for sidecar in quarantine.sidecars(archive.root, done.left):
            archive.index.write(partial(quarantine.store, contents=sidecar))
    return done


@contextlib.contextmanager
def _leave_on_error(path: Path, done: Swept) -> Iterator[None]:
    """Log and report an error at one place, such as lacking permission or a damaged directory, so that the sweep continues."""
    try:
        yield
    except (OSError, SilentWrongnessError, NotFoundError, ConfigurationError) as error:
        log.error("%s is left as it is: %s", path, error)
        done.left[path] = str(error)


def settle(archive: Archive, asset: str, partition: str | None) -> Swept:
    """Sweep one asset's partition: adopt or remove what a killed run left there, before the next run begins."""
    done = Swept()
    _settle(archive, naming.family(asset, partition), TEMPORARY_AGE_S, done)
    return done


def _settle(archive: Archive, place: PurePosixPath, min_age_s: float, done: Swept, mine: str = "") -> None:
    if (archive.root / place).is_dir():
        asset, partition = naming.parse_family(place)
        known = archive.index.read(lambda c: rows.removed_by_id(c, asset, partition))
        _sweep_place(archive, archive.root / place, known, min_age_s, done, mine)


def reindex(root: Path, database_url: str | None = None) -> Reindexed:
    """Rebuild the index from the sidecars on disk; a product is accepted by its sidecar and size.

    Raises ConfigurationError when there is no archive. Digests are not checked; `verify` does that.
    """
    archive = Archive(root, database_url)
    done = Reindexed()
    found = sorted(_sidecars(archive.root, done), key=lambda pair: (pair[0]["created_at"], pair[0]["version"]))
    records = list(quarantine.sidecars(archive.root, done.refused))

    def work(connection: Connection) -> None:
        counters.forget_products(connection)
        for sidecar, state in found:
            rows.insert(connection, sidecar, state)
        for record in records:
            quarantine.store(connection, record)

    _discard_damaged(archive)
    archive.index.create()
    if FIRST <= archive.index.in_any_format(format_of)[0] < SCHEMA:
        migrations.migrate(archive.index)  # the kept tables hold what cannot be rebuilt from disk
    archive.index.rebuild(work)
    archive.close()
    done.products, done.quarantined = len(found), len(records)
    return done


def _discard_damaged(archive: Archive) -> None:
    """Rename an SQLite file that is no longer a valid database, so that a new one can be made."""
    url = archive.index.url
    if url.get_backend_name() != "sqlite" or not url.database or not Path(url.database).exists():
        return
    if Path(url.database).parent != archive.root:  # it may belong to something else
        return
    try:
        archive.index.in_any_format(lambda connection: connection.execute(sa.text("PRAGMA schema_version")))
    except ConfigurationError as error:
        log.warning("setting the old index aside: %s", error)
        archive.close()
        for suffix in ("", "-wal", "-shm"):
            part = Path(url.database + suffix)
            if part.exists():
                part.rename(part.with_name(f"{part.name}.damaged"))


def _sidecars(root: Path, done: Reindexed) -> Iterator[tuple[Json, Json]]:
    """Yield the sidecar and state of each product on disk, including those whose data retention removed."""
    for place in _places(root):
        for path in sorted(place.iterdir()):
            if not path.name.startswith("v"):
                continue
            try:
                if path.name.endswith(".state.json"):
                    state = _state(path)
                    if state.get("record") and not path.with_name(path.name.removesuffix(".state.json")).exists():
                        yield state["record"], state
                elif _is_version(root, path):
                    sidecar, why = _read_sidecar(root, path)
                    if why:
                        raise SilentWrongnessError(why)
                    yield sidecar, _state(path.with_name(f"{path.name}.state.json"))
            except (OSError, SilentWrongnessError) as error:
                done.refused[path] = str(error)


def _state(path: Path) -> Json:
    """A state file's contents, {} where there is none. Raises SilentWrongnessError if it is damaged or foreign: its state is unknown."""
    contents = files.read_json(path)
    if contents is None and not path.exists():
        return {}
    why = "" if isinstance(contents, dict) and isinstance(contents.get("rejected_sets", {}), dict) else "is not the state of a product"
    if not why and contents.get("record"):
        why = flaw(contents["record"])
    if why:
        raise SilentWrongnessError(f"{path} {why}; bring it back from a backup, or remove it")
    state: Json = contents
    return state


def _read_sidecar(root: Path, path: Path) -> tuple[Json, str]:
    """A product directory's sidecar, and the reason why it cannot be accepted ('' if it can)."""
    sidecar = files.read_json(path / naming.SIDECAR)
    name = naming.parse_directory(path.relative_to(root))
    if why := flaw(sidecar):
        return {}, f"{naming.SIDECAR} {why}"
    if name is None:
        return {}, f"{path} does not have the name of a product"
    if sidecar.get("id") != name.id:
        return {}, f"{naming.SIDECAR} describes {sidecar.get('id')}"
    try:
        size_bytes = files.size(path)
    except SilentWrongnessError as error:
        return {}, str(error)
    if size_bytes != sidecar["size_bytes"]:
        return {}, f"holds {size_bytes} bytes, was published with {sidecar['size_bytes']}"
    return sidecar, ""


def _places(root: Path) -> Iterator[Path]:
    """Directories that may hold versions: `<asset>`, `<asset>/night=.../partition=...`, `<asset>/name=...`; those of trials too."""
    for asset in (*sorted(root.iterdir()), *sorted(root.glob(f"{naming.TRIALS}/*/*"))):
        others = (quarantine.DIRECTORY, judgements.DIRECTORY, cold.DIRECTORY)
        if asset.is_dir() and not asset.is_symlink() and naming.is_asset(asset.name) and asset.name not in others:
            yield asset
            yield from sorted(path for form in ("night=*/partition=*", "name=*") for path in asset.glob(form) if path.is_dir())


def _is_version(root: Path, path: Path) -> bool:
    name = naming.parse_directory(PurePosixPath(path.relative_to(root)))
    return name is not None and root / name.directory == path


def _sweep_claim(archive: Archive, name: str, min_age_s: float, done: Swept) -> None:
    """Sweep the places that a dead claim names, and withdraw the claim."""
    path = archive.root / claims.DIRECTORY / name
    if name.startswith("."):  # its process was killed before the rename, or is about to rename it
        _remove_old_file(path, max(min_age_s, 1.0), done)
        return
    with claims.taken_over(archive.root, name) as mine:
        if not mine:
            done.left[path] = "is being worked on"
            return
        for place in claims.read(archive.root, name).places:
            _settle(archive, place, min_age_s, done, name)


def _sweep_place(archive: Archive, place: Path, known: Mapping[str, bool], min_age_s: float, done: Swept, mine: str = "") -> None:
    """Sweep one asset's partition: temporary directories, versions without a row, state files. `mine` is the dead claim taken over."""
    for entry in sorted(os.scandir(place), key=lambda e: e.name):
        path = Path(entry.path)
        if entry.name.startswith(".tmp-") and entry.is_dir(follow_symlinks=False):
            _sweep_temporary(archive.root, path, min_age_s, done, mine)
        elif entry.name.startswith(".v") and ".state.json." in entry.name:
            _remove_old_file(path, min_age_s, done)
        elif entry.name.startswith("v") and entry.name.endswith(".state.json"):
            _sweep_record(archive, path, known, done)
        elif _is_version(archive.root, path) and entry.is_dir(follow_symlinks=False):
            _sweep_version(archive, path, known, done)


def _sweep_temporary(root: Path, path: Path, min_age_s: float, done: Swept, mine: str) -> None:
    """Remove a temporary directory whose publisher is dead."""
    claim = path.name.removeprefix(".tmp-")
    try:
        young = time.time() - path.stat().st_mtime < min_age_s
    except FileNotFoundError:  # its publisher has just finished
        return
    if claim != mine and claims.alive(root, claim):
        done.left[path] = "is being written"
    elif not young or (root / claims.DIRECTORY / claim).exists():  # there is a claim and it is dead: its process was killed
        shutil.rmtree(path, ignore_errors=True)
        done.removed.append(path)


def _remove_old_file(path: Path, min_age_s: float, done: Swept) -> None:
    """Remove a temporary file left over from writing, if it is old enough."""
    with contextlib.suppress(FileNotFoundError):
        if time.time() - path.stat().st_mtime >= min_age_s:
            path.unlink()
            done.removed.append(path)


def _sweep_record(archive: Archive, path: Path, known: Mapping[str, bool], done: Swept) -> None:
    """Index a product whose data are gone and whose record stays; correct its row if that dates from before the removal."""
    state = _state(path)
    if not state.get("record") or path.with_name(path.name.removesuffix(".state.json")).exists():
        return
    product_id = state["record"]["id"]
    if product_id not in known:
        archive.index.write(lambda c: rows.insert(c, state["record"], state))
        done.adopted.append(product_id)
    elif not known[product_id]:
        archive.index.write(lambda c: rows.apply_state(c, product_id, state))
        archive.index.write(lambda c: rows.set_removed(c, [product_id], True))


def _sweep_version(archive: Archive, path: Path, known: Mapping[str, bool], done: Swept) -> None:
    """Adopt an orphan, complete a removal, bring the row in line with the state file."""
    beside = path.with_name(f"{path.name}.state.json")
    state = _state(beside)
    name = naming.parse_directory(path.relative_to(archive.root))
    assert name is not None
    if name.id in known:
        if known[name.id]:  # its row says that retention has removed it
            retention.take_data(archive, archive.get(name.id))
            done.removed.append(path)
        elif beside.exists():
            archive.index.write(lambda c: rows.apply_state(c, name.id, state))
        return
    sidecar, why = _read_sidecar(archive.root, path)
    if not sidecar and not (path / naming.SIDECAR).exists():
        done.left[path] = why
        return
    if not why and files.seal(path, durable=False).digest == sidecar["digest"]:
        archive.index.write(lambda c: rows.insert(c, sidecar, state))
        done.adopted.append(sidecar["id"])
        log.info("adopted %s, published but not indexed before a crash", sidecar["id"])
        return
    log.warning("removing %s: published but never indexed, and %s", path, why or "its digest is not as recorded")
    files.remove_tree(path)
    done.removed.append(path)
