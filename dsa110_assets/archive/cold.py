"""Cold storage: the place to which retention moves data instead of deleting them, if there is a folder, or a link to one, named `cold`.

A product has the same relative path there as in the archive: `<root>/cold/<asset>/night=.../partition=.../v0001`.
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
    """Copy a product's data into cold storage. Does nothing if there is no cold storage, or if it has the data already.

    Data that differ from those published are not copied, with a warning. If killed half-way, the copy is started again next time.
    Raises ConfigurationError if `cold` is not a folder, and ResourceError if the disk is full: the data stay in the archive.
    """
    storage, target = archive.root / DIRECTORY, _place(archive, product)
    if not storage.is_dir():
        if storage.is_symlink() or storage.exists():
            raise ConfigurationError(f"{storage} leads to no folder: mount the cold storage, or remove the link to delete data for good")
        return
    if target.is_dir() or not product.path.is_dir():
        return
    with files.typed_errors(f"Putting {product.id} into {storage}"):
        copy = target.with_name(f".tmp-{target.name}")
        shutil.rmtree(copy, ignore_errors=True)  # the remains of a copy that was killed
        if not _copied(product, product.path, copy):
            log.warning("%s is damaged and was not put into cold storage", product.id)
            return
        files.crash_point("cold_copied", product.asset)
        copy.rename(target)
        files.fsync_up(target.parent, storage)
    files.crash_point("cold_there", product.asset)


def recall(archive: Archive, product_id: str) -> Product:
    """Bring a product's data back from cold storage, and pin the product, because retention would remove it again by its age.

    Raises NotFoundError if it is not in cold storage, SilentWrongnessError if its copy differs from what was published, and
    ResourceError for a full disk.
    """
    product = archive.get(product_id)
    if not product.removed:
        return product
    source = _place(archive, product)
    if not source.is_dir():
        raise NotFoundError(f"{product.id} is not in cold storage ({archive.root / DIRECTORY}); it can only be made again: dsa110 process")
    family = naming.parse_id(product.id).directory.parent
    with files.typed_errors(f"Recalling {product.id}"), claims.claim(archive.root, [family], name="recall") as claim:
        workspace = product.path.parent / f".tmp-{claim.name}"
        if not _copied(product, source, workspace):
            raise SilentWrongnessError(f"{source} is not what was published as {product.id}; inspect it, it stays as it is")
        workspace.rename(product.path)
        files.fsync_directory(product.path.parent)
    archive.change_state(product.id, lambda state: {"pinned": "recalled"} | state | {"removed_at": None, "record": None})
    archive.index.write(lambda connection: rows.set_removed(connection, [product.id], False))
    return archive.get(product.id)


def _place(archive: Archive, product: Product) -> Path:
    return archive.root / DIRECTORY / naming.parse_id(product.id).directory


def _copied(product: Product, source: Path, copy: Path) -> bool:
    """Make `copy` a durable copy of `source`, and return whether it has the product's digest; if not, it is removed."""
    with ExitStack() as undo:
        undo.callback(shutil.rmtree, copy, ignore_errors=True)
        shutil.copytree(source, copy, symlinks=True)
        if files.seal(copy, durable=True).digest != product.digest:
            return False
        undo.pop_all()
    return True
