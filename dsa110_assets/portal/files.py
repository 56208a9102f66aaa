"""Files of products, and no others. Only this module turns a URL into a path."""

from __future__ import annotations

from pathlib import Path, PurePosixPath

from dsa110_assets.archive.product import Product
from dsa110_assets.archive.store import Archive
from dsa110_assets.errors import NotFoundError

MEDIA_TYPES = {
    ".fits": "application/fits", ".png": "image/png", ".html": "text/html; charset=utf-8",
    ".json": "application/json", ".parquet": "application/vnd.apache.parquet", ".svg": "image/svg+xml",
    ".txt": "text/plain; charset=utf-8", ".jpg": "image/jpeg",
}  # fmt: skip
LONGEST_NAME = 400


def product_file(store: Archive, product_id: str, relative: str) -> Path:
    """Return the path of the file `relative` of a current product.

    Raises NotFoundError for a product that is not current, and for every name that is not a plain file inside
    it: `..`, absolute names, control characters, symbolic links.
    """
    product = store.get(product_id)
    if product.state != "current" or product.removed:
        raise NotFoundError(f"{product.id} is {'removed' if product.removed else product.state}; its files are not served")
    name = PurePosixPath(relative)
    bad = not relative or len(relative) > LONGEST_NAME or not relative.isprintable() or "\\" in relative
    if bad or name.is_absolute() or any(part in ("", "..", ".") for part in relative.split("/")):
        raise NotFoundError("no such file in this product")
    root = Path(product.path).resolve()
    path = root.joinpath(*name.parts)
    if path.resolve() != path or not path.is_file():
        raise NotFoundError(f"{product.id} has no file {relative}")
    return path


def listing(product: Product, limit: int = 200) -> list[tuple[str, int]]:
    """Relative names and sizes of a product's files, sorted, at most `limit`; [] when they are gone."""
    root = Path(product.path)
    found = sorted(path for path in root.rglob("*") if path.is_file() and not path.is_symlink())
    return [(path.relative_to(root).as_posix(), path.stat().st_size) for path in found[:limit]]
