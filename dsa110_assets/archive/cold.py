"""Cold storage: where retention puts data instead of deleting them, if there is a folder, or a link to one, named `cold`.

A product lies there as it lay in the archive: `<root>/cold/<asset>/night=.../partition=.../v0001`.
"""

from __future__ import annotations

import logging
import shutil
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from dsa110_assets.archive import claims, files, naming, rows
from dsa110_assets.archive.product import Product
from dsa110_assets.errors import ConfigurationError, NotFoundError, SilentWrongnessError

if TYPE_CHECKING:
    from dsa110_assets.archive.store import Archive

log = logging.getLogger(__name__)
DIRECTORY = "cold"


def put(archive: Archive, product: Product) -> None:
    """Copy a product's data into cold storage; nothing where there is none, or where it has them already.

    Data that are not as they were published are not kept: a warning says so. Killed half-way, it begins anew.
    Raises ConfigurationError when `cold` leads nowhere, and ResourceError when there is no room: the data stay.
    """
    storage, there = archive.root / DIRECTORY, _place(archive, product)
    if not storage.is_dir():
        if storage.is_symlink() or storage.exists():
            raise ConfigurationError(f"{storage} leads to no folder: mount the cold storage, or remove the link to delete for good")
        return
    if there.is_dir() or not product.path.is_dir():
        return
    with files.typed_errors(f"Putting {product.id} into {storage}"):
        copy = there.with_name(f".tmp-{there.name}")
        shutil.rmtree(copy, ignore_errors=True)  # what was begun and killed
        if not _copied(product, product.path, copy):
            log.warning("%s is damaged and was not put into cold storage", product.id)
            return
        files.crash_point("cold_copied", product.asset)
        copy.rename(there)
        files.fsync_up(there.parent, storage)
    files.crash_point("cold_there", product.asset)


def recall(archive: Archive, product_id: str) -> Product:
    """Bring a product's data back from cold storage, and pin it: unpinned, retention judges it by its age again.

    Raises NotFoundError if it is not there, SilentWrongnessError if what is there is not what was published, and
    ResourceError for a full disk.
    """
    product = archive.get(product_id)
    if not product.removed:
        return product
    there = _place(archive, product)
    if not there.is_dir():
        raise NotFoundError(f"{product.id} is not in cold storage ({archive.root / DIRECTORY}); it can only be made again: dsa110 process")
    family = naming.parse_id(product.id).directory.parent
    with files.typed_errors(f"Recalling {product.id}"), claims.claim(archive.root, [family], name="recall") as claim:
        workspace = product.path.parent / f".tmp-{claim.name}"
        if not _copied(product, there, workspace):
            raise SilentWrongnessError(f"{there} is not what was published as {product.id}; look at it, it stays as it is")
        workspace.rename(product.path)
        files.fsync_directory(product.path.parent)
    archive.change_state(product.id, lambda state: {"pinned": "recalled"} | state | {"removed_at": None, "record": None})
    archive.index.write(lambda connection: rows.set_removed(connection, [product.id], False))
    return archive.get(product.id)


def _place(archive: Archive, product: Product) -> Path:
    return archive.root / DIRECTORY / naming.parse_id(product.id).directory


def _copied(product: Product, source: Path, copy: Path) -> bool:
    """Whether `copy` is now a durable copy of `source` with the product's digest; where not, there is no copy."""
    with ExitStack() as undo:
        undo.callback(shutil.rmtree, copy, ignore_errors=True)
        shutil.copytree(source, copy, symlinks=True)
        if files.seal(copy, durable=True).digest != product.digest:
            return False
        undo.pop_all()
    return True
