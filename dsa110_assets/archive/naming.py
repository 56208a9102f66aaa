"""Names: product ids and the directories products live in. Everything is checked at this door.

`tile_image-20260125T2225-v1` lives in `<root>/tile_image/night=2026-01-25/partition=20260125T2225/v0001`;
products without a partition (`source_catalog-v3`) in `<root>/source_catalog/v0003`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from dsa110_assets.errors import NotFoundError
from dsa110_assets.telescope import timegrid

SIDECAR = "product.json"
_ASSET = re.compile(r"[a-z][a-z0-9_]{0,62}")
_ID = re.compile(r"([a-z][a-z0-9_]{0,62})(?:-([0-9]{8}(?:T[0-9]{4})?))?-v([1-9][0-9]{0,8})")
_VERSION = re.compile(r"v([0-9]{4,9})")
_UNSAFE = re.compile(r"[^A-Za-z0-9_]+")


@dataclass(frozen=True)
class ProductName:
    """Asset, partition key (None for catalogues) and version of one product."""

    asset: str
    partition: str | None
    version: int

    @property
    def id(self) -> str:
        """The product id, as `tile_image-20260125T2225-v1`."""
        return "-".join([self.asset, *([compact(self.partition)] if self.partition else []), f"v{self.version}"])

    @property
    def directory(self) -> PurePosixPath:
        """The product's directory, relative to the archive's root."""
        return family(self.asset, self.partition) / f"v{self.version:04d}"


def check_asset(asset: str) -> str:
    """`asset` itself if it is a well-formed asset name. Raises NotFoundError otherwise."""
    if not _ASSET.fullmatch(asset):
        raise NotFoundError(f"{asset!r} is no asset name: use lower-case letters, digits and _, such as tile_image")
    return asset


def is_asset(name: str) -> bool:
    """Whether `name` is a well-formed asset name."""
    return _ASSET.fullmatch(name) is not None


def check_partition(partition: str | None) -> str | None:
    """`partition` itself if it is None or a partition key. Raises NotFoundError otherwise."""
    if partition is None:
        return None
    try:
        if not partition.isascii():
            raise ValueError(f"{partition!r} is no partition key; use 2026-01-25T22:25, 2026-01-25T22:00 or 2026-01-25")
        timegrid.parse_key(partition)
    except ValueError as error:
        raise NotFoundError(str(error)) from None
    return partition


def compact(partition: str) -> str:
    """A partition key as it stands in ids and directory names: 2026-01-25T22:25 -> 20260125T2225."""
    return partition.replace("-", "").replace(":", "")


def expand(compacted: str) -> str:
    """The partition key of its compact form. Raises NotFoundError if that is no time on the grid."""
    date, _, time = compacted.partition("T")
    key = f"{date[:4]}-{date[4:6]}-{date[6:]}" + (f"T{time[:2]}:{time[2:]}" if time else "")
    check_partition(key)
    return key


def family(asset: str, partition: str | None) -> PurePosixPath:
    """The directory, relative to the root, that holds all versions of one asset's partition."""
    check_asset(asset)
    if check_partition(partition) is None:
        return PurePosixPath(asset)
    assert partition is not None
    night = timegrid.night_of(partition)
    return PurePosixPath(asset, f"night={night}", f"partition={compact(partition)}")


def parse_family(relative: PurePosixPath) -> tuple[str, str | None]:
    """Asset and partition of a family's directory, relative to the root. Raises NotFoundError if it is none."""
    asset, *below = relative.parts or ("",)
    partition = expand(below[-1].removeprefix("partition=")) if below else None
    if family(asset, partition) != relative:
        raise NotFoundError(f"{relative} is no directory of an asset's partition")
    return asset, partition


def parse_id(product_id: str) -> ProductName:
    """The name behind a product id. Raises NotFoundError, saying the form, if it is none."""
    match = _ID.fullmatch(product_id)
    if not match:
        raise NotFoundError(f"{product_id!r} is no product id; they look like tile_image-20260125T2225-v1")
    asset, compacted, version = match.groups()
    return ProductName(asset, expand(compacted) if compacted else None, int(version))


def is_id(text: str) -> bool:
    """Whether `text` has the form of a product id."""
    return _ID.fullmatch(text) is not None


def parse_directory(relative: PurePosixPath | Path) -> ProductName | None:
    """The product a path relative to the root lies in (or is the directory of), or None."""
    parts = relative.parts
    for depth in (2, 4):
        match = _VERSION.fullmatch(parts[depth - 1]) if len(parts) >= depth else None
        if match is None or int(match[1]) == 0 or not _ASSET.fullmatch(parts[0]):
            continue
        try:
            partition = None if depth == 2 else expand(parts[2].removeprefix("partition="))
            name = ProductName(parts[0], partition, int(match[1]))
        except NotFoundError:
            continue
        if name.directory.parts == parts[:depth]:
            return name
    return None


def token(text: str) -> str:
    """`text` made safe as part of a file name (run ids come from outside): at most 40 of [A-Za-z0-9_]."""
    return _UNSAFE.sub("_", text)[:40] or "run"
