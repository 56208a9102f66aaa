"""What a product is to be made from, and where the archive has it, for both the assets and the plan.

A product is up to date as long as it was made from exactly what its asset finds now, with the same settings. A product whose data
retention removed still counts as an input of others: its record has not changed, and its data are needed again only for reading.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dsa110_assets.archive.product import HELD

if TYPE_CHECKING:
    from dsa110_assets.archive.product import Product
    from dsa110_assets.archive.store import Archive


@dataclass(frozen=True)
class Ingredients:
    """What a product is to be made from: products, facts that shape it beside the settings, and prepared objects."""

    products: "tuple[Product, ...]" = ()
    facts: Mapping[str, Any] = field(default_factory=dict)
    prepared: Any = None

    @property
    def ids(self) -> tuple[str, ...]:
        """Input ids as the archive records them."""
        return tuple(product.id for product in self.products)

    def only(self, asset: str) -> "Product":
        """The one input of this asset."""
        (only_input,) = [product for product in self.products if product.asset == asset]
        return only_input

    def all(self, asset: str) -> "list[Product]":
        """The inputs of this asset, in time order."""
        return sorted((p for p in self.products if p.asset == asset), key=lambda p: p.partition or "")


def usable(archive: "Archive", asset: str, partition: str | None) -> "Product | None":
    """The current product if others may be made from it, that is, if no failed blocking rule holds it. Its data may be removed."""
    product = archive.current(asset, partition, removed=True)
    return None if product is None or product.metadata.get(HELD) else product


def all_usable(
    archive: "Archive", asset: str, since: str | None = None, until: str | None = None, *, removed: bool = True
) -> "list[Product]":
    """Usable products with partitions from `since` to `until`, both included; unless `removed`, only those whose data exist."""
    return [p for p in archive.products(asset, since, until, removed=removed) if not p.metadata.get(HELD)]


def nights_until(archive: "Archive", night: str) -> "list[Product]":
    """The light-curve products of all nights until this one whose data exist, in order of time: together the sources' light curves."""
    return all_usable(archive, "light_curves", None, night, removed=False)


def waiting_for_removed_data(asset: str, partition: str | None, gone: "Sequence[Product]") -> str:
    """The message that an asset's partition cannot be made because the data of these products were removed."""
    named = ", ".join(p.id for p in gone[:3]) + (" …" if len(gone) > 3 else "")
    return (
        f"{asset} {partition or ''} waits for the data of {named}, which retention has removed: `dsa110 process` makes them "
        "again first where their raw files are there; `dsa110 archive recall` looks in cold storage"
    )


def raw_files_there(group: "Product") -> bool:
    """Whether all the raw files that an observation's manifest names can still be read."""
    from dsa110_assets.archive.lineage import raw_files

    named = raw_files(group)
    return bool(named) and all(Path(file.path).exists() for file in named)
