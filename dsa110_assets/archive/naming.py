"""Names: product ids and the directories of products. All names are validated here.

`tile_image-20260125T2225-v1` is in `<root>/tile_image/night=2026-01-25/partition=20260125T2225/v0001`;
products without a partition (`source_catalog-v3`) are in `<root>/source_catalog/v0003`. Products of a trial belong to the asset
`tile_image~robust0`, and are in `<root>/trials/robust0/tile_image/...`. Products that are requested by a name and have no time have
the partition `@name`: `requested_mosaic-@virgo-v1` is in `<root>/requested_mosaic/name=virgo/v0001`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from dsa110_assets.errors import NotFoundError
from dsa110_assets.telescope import timegrid

SIDECAR = "product.json"
TRIALS = "trials"
"""The directory of the trials' products; no asset may have this name."""
TRIAL_MARK = "~"
NAME_MARK = "@"
_TRIAL = re.compile(r"[a-z0-9][a-z0-9_]{0,30}")
_ASSET = re.compile(r"[a-z][a-z0-9_]{0,62}(?:~[a-z0-9][a-z0-9_]{0,30})?")
_ID = re.compile(r"([a-z][a-z0-9_]{0,62}(?:~[a-z0-9][a-z0-9_]{0,30})?)(?:-([0-9]{8}(?:T[0-9]{4})?|@[a-z0-9_]{1,31}))?-v([1-9][0-9]{0,8})")
_VERSION = re.compile(r"v([0-9]{4,9})")
_UNSAFE = re.compile(r"[^A-Za-z0-9_]+")
_NIGHT = len("2026-01-25")


@dataclass(frozen=True)
class ProductName:
    """Asset, partition key (None for catalogues) and version of one product."""

    asset: str
    partition: str | None
    version: int

    @property
    def trial(self) -> str:
        """The trial that made the product, '' for science."""
        return of_trial(self.asset)[1]

    @property
    def id(self) -> str:
        """The product id, such as `tile_image-20260125T2225-v1`."""
        return "-".join([self.asset, *([compact(self.partition)] if self.partition else []), f"v{self.version}"])

    @property
    def directory(self) -> PurePosixPath:
        """The product's directory, relative to the archive's root."""
        return PurePosixPath(*_family(self.asset, self.partition), f"v{self.version:04d}")


def check_asset(asset: str) -> str:
    """Return `asset` if it is a well-formed asset name, perhaps of a trial. Raises NotFoundError otherwise."""
    if not is_asset(asset):
        raise NotFoundError(f"{asset!r} is not an asset name: use lower-case letters, digits and _, such as tile_image")
    return asset


def is_asset(name: str) -> bool:
    """Whether `name` is a well-formed asset name, perhaps of a trial."""
    return _ASSET.fullmatch(name) is not None and of_trial(name)[0] != TRIALS


def check_trial(name: str) -> str:
    """Return `name` if it is a valid name of a trial. Raises NotFoundError otherwise."""
    if not _TRIAL.fullmatch(name):
        raise NotFoundError(f"{name!r} is not a valid name of a trial: use up to 31 lower-case letters, digits and _, such as robust_0")
    return name


def in_trial(asset: str, trial: str) -> str:
    """The name in the index of an asset of a trial; the asset's own name if `trial` is ''."""
    return f"{asset}{TRIAL_MARK}{trial}" if trial else asset


def of_trial(asset: str) -> tuple[str, str]:
    """The asset's own name and the trial ('': none), from its name in the index."""
    name, _, trial = asset.partition(TRIAL_MARK)
    return name, trial


def named(name: str) -> str:
    """The partition of products requested by a name. Raises NotFoundError for an invalid name."""
    if not _TRIAL.fullmatch(name):
        raise NotFoundError(
            f"{name!r} is not a valid name of a requested mosaic: use up to 31 lower-case letters, digits and _, such as virgo_2026"
        )
    return NAME_MARK + name


def is_named(partition: str | None) -> bool:
    """Whether a partition is a name and not a time."""
    return partition is not None and partition.startswith(NAME_MARK)


def check_partition(partition: str | None) -> str | None:
    """Return `partition` if it is None or a partition key. Raises NotFoundError otherwise."""
    if partition is None:
        return None
    if is_named(partition):
        return named(partition.removeprefix(NAME_MARK))
    try:
        if not partition.isascii():
            raise ValueError(f"{partition!r} is no partition key; use 2026-01-25T22:25, 2026-01-25T22:00 or 2026-01-25")
        timegrid.parse_key(partition)
    except ValueError as error:
        raise NotFoundError(str(error)) from None
    return partition


def compact(partition: str) -> str:
    """The form of a partition key in ids and directory names: 2026-01-25T22:25 -> 20260125T2225."""
    return partition.replace("-", "").replace(":", "")


def expand(compacted: str) -> str:
    """The partition key for its compact form. Raises NotFoundError if that is neither a time on the grid nor a name."""
    if is_named(compacted):
        return named(compacted.removeprefix(NAME_MARK))
    date, _, time = compacted.partition("T")
    key = f"{date[:4]}-{date[4:6]}-{date[6:]}" + (f"T{time[:2]}:{time[2:]}" if time else "")
    check_partition(key)
    return key


def family(asset: str, partition: str | None) -> PurePosixPath:
    """The directory, relative to the root, that holds all versions of one asset's partition."""
    return PurePosixPath(*_family(asset, partition))


def _family(asset: str, partition: str | None) -> tuple[str, ...]:
    """The parts of a family's directory. Each name is checked only once, because a page shows thousands of products."""
    name, trial = of_trial(check_asset(asset))
    place = (TRIALS, trial, name) if trial else (name,)
    if check_partition(partition) is None:
        return place
    assert partition is not None
    if is_named(partition):
        return (*place, f"name={partition.removeprefix(NAME_MARK)}")
    return (*place, f"night={partition[:_NIGHT]}", f"partition={compact(partition)}")


def parse_family(relative: PurePosixPath) -> tuple[str, str | None]:
    """The asset and partition of a family's directory, relative to the root. Raises NotFoundError if it is not one."""
    asset, below = _split(relative.parts)
    partition = _partition_of(below) if below else None
    if family(asset, partition) != relative:
        raise NotFoundError(f"{relative} is not the directory of an asset's partition")
    return asset, partition


def parse_id(product_id: str) -> ProductName:
    """The parsed name of a product id. Raises NotFoundError, which shows the form, if it is not one."""
    match = _ID.fullmatch(product_id)
    if not match:
        raise NotFoundError(f"{product_id!r} is not a product id; they look like tile_image-20260125T2225-v1")
    asset, compacted, version = match.groups()
    return ProductName(asset, expand(compacted) if compacted else None, int(version))


def is_id(text: str) -> bool:
    """Whether `text` has the form of a product id."""
    return _ID.fullmatch(text) is not None


def parse_directory(relative: PurePosixPath | Path) -> ProductName | None:
    """The product whose directory contains, or is, a path relative to the root; None if there is none."""
    asset, below = _split(relative.parts)
    for depth in (1, 2, 3):
        match = _VERSION.fullmatch(below[depth - 1]) if len(below) >= depth else None
        if match is None or int(match[1]) == 0 or not is_asset(asset):
            continue
        try:
            partition = None if depth == 1 else _partition_of(below[: depth - 1])
            name = ProductName(asset, partition, int(match[1]))
        except NotFoundError:
            continue
        if name.directory.parts == relative.parts[: len(relative.parts) - len(below) + depth]:
            return name
    return None


def _partition_of(below: tuple[str, ...]) -> str:
    """The partition of a directory below an asset's: `name=virgo` or `night=2026-01-25/partition=20260125T2225`."""
    kind, _, value = below[-1].partition("=")
    return named(value) if kind == "name" else expand(value)


def _split(parts: tuple[str, ...]) -> tuple[str, tuple[str, ...]]:
    """The name in the index of the asset that a path begins with ('' if the path is too short), and the rest of the path."""
    if parts[:1] == (TRIALS,):
        return (in_trial(parts[2], parts[1]), parts[3:]) if len(parts) > 2 else ("", ())
    return (parts[0], parts[1:]) if parts else ("", ())


def token(text: str) -> str:
    """`text` made safe for use in a file name (run ids come from outside): at most 40 characters of [A-Za-z0-9_]."""
    return _UNSAFE.sub("_", text)[:40] or "run"
