"""Requests for named mosaics: the tiles of each, who requested it and when.

    <root>/requested_mosaic/name=<name>/request.json    the request, until it is deleted
    <root>/requested_mosaic/name=<name>/v0001/...       its products, as for every asset

Requests are files, so that they can be read without the index and without Dagster.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any, Literal

from dsa110_assets.archive import claims, files, naming, retention
from dsa110_assets.archive.product import Product
from dsa110_assets.archive.store import Archive
from dsa110_assets.errors import ConfigurationError, NotFoundError
from dsa110_assets.plain_json import jsonable

ASSET, FILE = "requested_mosaic", "request.json"
Tier = Literal["science", "quick"]


@dataclass(frozen=True)
class Request:
    """A request for a mosaic of the tiles whose observations begin in [since, until) (UTC).

    If `tiles` are named, only these partitions are used. If `centre_deg` (ICRS) is given, only tiles whose field reaches a circle of
    `radius_deg` about it are used, and the circle is the mosaic's grid. `calibrator` is the source whose transit determined time and
    centre, '' if none did. `by` requested it at `created_at` (UTC).
    """

    name: str
    since: datetime
    until: datetime
    by: str
    created_at: datetime
    tiles: tuple[str, ...] = ()
    centre_deg: tuple[float, float] | None = None
    radius_deg: float = 0.0
    calibrator: str = ""
    tier: Tier = "science"

    @property
    def partition(self) -> str:
        """The partition of the requested mosaic."""
        return naming.named(self.name)

    @property
    def wanted(self) -> dict[str, Any]:
        """The properties that determine the mosaic, in JSON's types: all but its name and who requested it and when."""
        properties: dict[str, Any] = jsonable({k: v for k, v in asdict(self).items() if k not in ("name", "by", "created_at")})
        return properties

    def overlaps(self, since: datetime | None, until: datetime | None) -> bool:
        """Whether any part of its time span lies in [since, until); None is open."""
        return (until is None or self.since < until) and (since is None or since < self.until)


def read(archive: Archive, name: str) -> Request | None:
    """The request with this name; None if there is none. Raises NotFoundError for an invalid name."""
    document = files.read_json(archive.root / naming.family(ASSET, naming.named(name)) / FILE)
    return None if document is None else _of_json(document)


def find(archive: Archive, name: str) -> Request:
    """The request with this name. Raises NotFoundError, which lists the existing requests."""
    found = read(archive, name)
    if found is None:
        existing = ", ".join(request.name for request in requests(archive)) or "none yet"
        raise NotFoundError(f"no mosaic {name!r} was requested; there is {existing}")
    return found


def requests(archive: Archive) -> list[Request]:
    """All requests, sorted by name."""
    documents = [files.read_json(path) for path in sorted((archive.root / ASSET).glob(f"name=*/{FILE}"))]
    return [_of_json(document) for document in documents if document is not None]


def keep(archive: Archive, request: Request) -> Request:
    """Store a request and return it; if the same one exists already, return that of the first person who requested it.

    Raises ConfigurationError if a different request has its name.
    """
    place = archive.root / naming.family(ASSET, request.partition)
    with files.typed_errors(f"The requested mosaic {request.name}"):
        place.mkdir(parents=True, exist_ok=True)
        with files.locked(place / ".lock"):
            before = read(archive, request.name)
            if before is not None and before.wanted != request.wanted:
                raise ConfigurationError(
                    f"the requested mosaic {request.name} is of {describe(before)}; choose another name for "
                    f"{describe(request)}, or delete it first"
                )
            if before is None:
                files.write_json(place / FILE, jsonable(asdict(request)))
    return before or request


def delete(archive: Archive, name: str) -> list[Product]:
    """Remove a request and the data of all products made for it; return the removed products. Records stay, as for every product.

    Raises NotFoundError if there is none, and ConfigurationError while something reads its products.
    """
    request = find(archive, name)
    existing = [product for product in archive.versions(ASSET, request.partition) if not product.removed]
    if reading := sorted(claims.read_now(archive.root) & {product.id for product in existing}):
        raise ConfigurationError(f"the requested mosaic {name} is in use: {reading[0]} is being read; try again later")
    (archive.root / naming.family(ASSET, request.partition) / FILE).unlink(missing_ok=True)
    for product in archive.versions(ASSET, request.partition):
        if product.state == "current":  # so that a new request for it makes it again
            archive.reject(product.id, "its request was deleted")
    return [product for product in existing if retention.remove(archive, product)]


def describe(request: Request) -> str:
    """The contents of a request as text for a sentence."""
    when = f"{len(request.tiles)} tiles" if request.tiles else f"{request.since:%Y-%m-%dT%H:%M:%S} to {request.until:%Y-%m-%dT%H:%M:%S}"
    ra_dec = request.centre_deg
    where = f" within {request.radius_deg:g} deg of {ra_dec[0]:.4f},{ra_dec[1]:+.4f}" if ra_dec else ""
    return f"{when}{where}{f' ({request.calibrator})' if request.calibrator else ''}, {request.tier}"


def _of_json(document: Mapping[str, Any]) -> Request:
    times = {key: datetime.fromisoformat(document[key]) for key in ("since", "until", "created_at")}
    centre = document["centre_deg"]
    return Request(
        **{**document, **times, "tiles": tuple(document["tiles"]), "centre_deg": None if centre is None else (centre[0], centre[1])}
    )
