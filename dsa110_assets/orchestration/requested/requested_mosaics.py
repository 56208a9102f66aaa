"""Mosaics on request, from the shell, Python and the API: `request`, `listed`, `show`, `delete`.

A request is kept in the archive (`archive.requested`); its mosaic is the asset `requested_mosaic`, whose partition has its name.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from dsa110_assets.archive import naming, requested
from dsa110_assets.archive.requested import ASSET, Request
from dsa110_assets.archive.store import Archive
from dsa110_assets.errors import DsaError
from dsa110_assets.orchestration.planning import plan
from dsa110_assets.orchestration.requested import requesting
from dsa110_assets.orchestration.running import backfill, by_command, instance
from dsa110_assets.orchestration.specification import partitions

if TYPE_CHECKING:
    from dsa110_assets.archive.product import Product
    from dsa110_assets.settings import Settings


@dataclass(frozen=True)
class Standing:
    """A request, its mosaic (None: not made yet, or its data are gone) and why it is to be made (again); '' if it is up to date."""

    request: Request
    product: "Product | None"
    due: str


def request(
    settings: "Settings",
    name: str,
    selection: requesting.MosaicSelection,
    by: str,
    *,
    dry_run: bool = False,
    progress: Callable[[int, int, str], None] = lambda done, total, text: None,
) -> tuple[Request, "list[Product]", "Product | None"]:
    """Keep a request and make its mosaic; return the request, its tiles, and the mosaic (None for a dry run, which keeps nothing).

    If the mosaic of a repeated request is up to date, it stays. Raises NotFoundError if there is no such tile or calibrator, and
    ConfigurationError if the request contradicts itself, if its name belongs to another request, or if the run failed: then nothing
    is kept.
    """
    with Archive(settings.archive, settings.database_url) as archive:
        resolved = requesting.resolve(archive, name, selection, by)
        tiles = requesting.tiles(archive, resolved)
        if dry_run:
            return resolved, tiles, None
        is_new = requested.read(archive, name) is None
        resolved = requested.keep(archive, resolved)
        progress(0, 1, f"coadding {len(tiles)} tiles")
        try:
            with instance.open_instance(settings.dagster_home) as dagster:
                by_command.run(by_command.job(settings), dagster, ASSET, resolved.partition, {}, "requested", f"the request {name}")
        except DsaError:
            if is_new:
                requested.delete(archive, name)
            raise
        progress(1, 1, "")
        return resolved, tiles, archive.current(ASSET, resolved.partition)


def hand_over(settings: "Settings", archive: Archive, name: str, selection: requesting.MosaicSelection, by: str) -> backfill.Launch:
    """Keep a request and have the daemon make its mosaic. Raises as `request`."""
    kept = requested.keep(archive, requesting.resolve(archive, name, selection, by))
    with instance.open_instance(settings.dagster_home) as dagster:
        partitions.tell(dagster, kept.partition)
        return backfill.hand_over(dagster, backfill.Launch(None, (ASSET,), (kept.partition,)))


def of_calibrators(name: str, selection: requesting.MosaicSelection, names: Sequence[str]) -> dict[str, requesting.MosaicSelection]:
    """A request for each of these calibrators, by name; if there are several, each name is made of `name` and the calibrator."""
    if len(names) < 2:
        return {name: replace(selection, calibrator="".join(names))}
    calibrators = {f"{name}_{re.sub(r'[^a-z0-9]+', '_', calibrator.lower()).strip('_')}": calibrator for calibrator in names}
    return {key: replace(selection, calibrator=calibrator) for key, calibrator in calibrators.items()}


def listed(archive: "Archive", settings: "Settings") -> list[Standing]:
    """Every request, in order of name."""
    return [_standing(archive, settings, request) for request in requested.requests(archive)]


def show(archive: "Archive", settings: "Settings", name: str) -> Standing:
    """One request. Raises NotFoundError, which lists the requests there are."""
    return _standing(archive, settings, requested.find(archive, name))


def delete(settings: "Settings", name: str) -> "list[Product]":
    """Remove a request, its partition in Dagster, and the data of its products, which are returned; records stay.

    Raises NotFoundError if there is no such request, and ConfigurationError while one of its products is being read.
    """
    with Archive(settings.archive, settings.database_url) as archive, instance.open_instance(settings.dagster_home) as dagster:
        removed = requested.delete(archive, name)
        dagster.delete_dynamic_partition(str(partitions.REQUESTS.name), naming.named(name))
    return removed


def _standing(archive: "Archive", settings: "Settings", request: Request) -> Standing:
    try:
        due = plan.reason_to_make(archive, settings, ASSET, request.partition) or ""
    except DsaError as error:
        due = f"waits: {error}"
    return Standing(request, archive.current(ASSET, request.partition), due)
