"""What somebody asked for by a name: which tiles a requested mosaic is of, by whom and when.

    <root>/requested_mosaic/name=<name>/request.json    the request, for as long as the mosaic is wanted
    <root>/requested_mosaic/name=<name>/v0001/...       its products, as of every asset

Requests are files: neither the index nor Dagster is needed to know them.
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
    """The tiles whose observations begin in [since, until) (UTC), of these the partitions `tiles` if any are named, and those whose
    field reaches a circle of `radius_deg` about `centre_deg` (ICRS) if that is given: then it is the mosaic's grid.

    `calibrator` is whose transit chose time and centre, '' if none did. `by` asked for it at `created_at` (UTC).
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
        """The partition of its mosaic."""
        return naming.named(self.name)

    @property
    def wanted(self) -> dict[str, Any]:
        """What was asked for, in JSON's types, whoever asked: what shapes the mosaic."""
        told: dict[str, Any] = jsonable({k: v for k, v in asdict(self).items() if k not in ("name", "by", "created_at")})
        return told

    def overlaps(self, since: datetime | None, until: datetime | None) -> bool:
        """Whether any of its time lies in [since, until); None is open."""
        return (until is None or self.since < until) and (since is None or since < self.until)


def read(archive: Archive, name: str) -> Request | None:
    """The request of this name; None if there is none. Raises NotFoundError for what may be no name."""
    told = files.read_json(archive.root / naming.family(ASSET, naming.named(name)) / FILE)
    return None if told is None else _of_json(told)


def find(archive: Archive, name: str) -> Request:
    """The request of this name. Raises NotFoundError, saying which there are."""
    found = read(archive, name)
    if found is None:
        there = ", ".join(one.name for one in requests(archive)) or "none yet"
        raise NotFoundError(f"no mosaic {name!r} was requested; there is {there}")
    return found


def requests(archive: Archive) -> list[Request]:
    """Every request there is, by name."""
    read_ones = [files.read_json(path) for path in sorted((archive.root / ASSET).glob(f"name=*/{FILE}"))]
    return [_of_json(told) for told in read_ones if told is not None]


def keep(archive: Archive, request: Request) -> Request:
    """Put a request on record and return it; the same one again stays that of who asked first.

    Raises ConfigurationError where another one has its name.
    """
    place = archive.root / naming.family(ASSET, request.partition)
    with files.typed_errors(f"The requested mosaic {request.name}"):
        place.mkdir(parents=True, exist_ok=True)
        with files.locked(place / ".lock"):
            before = read(archive, request.name)
            if before is not None and before.wanted != request.wanted:
                raise ConfigurationError(
                    f"the requested mosaic {request.name} is of {told(before)}; choose another name for {told(request)}, or delete it first"
                )
            if before is None:
                files.write_json(place / FILE, jsonable(asdict(request)))
    return before or request


def delete(archive: Archive, name: str) -> list[Product]:
    """Remove a request and the data of all that was made for it, which is returned. Records stay, as of every product.

    Raises NotFoundError where there is none, and ConfigurationError while something reads its products.
    """
    request = find(archive, name)
    there = [product for product in archive.versions(ASSET, request.partition) if not product.removed]
    if reading := sorted(claims.read_now(archive.root) & {product.id for product in there}):
        raise ConfigurationError(f"the requested mosaic {name} is in use: {reading[0]} is being read; try again later")
    (archive.root / naming.family(ASSET, request.partition) / FILE).unlink(missing_ok=True)
    for product in archive.versions(ASSET, request.partition):
        if product.state == "current":  # asked for again, it is made again
            archive.reject(product.id, "its request was deleted")
    return [product for product in there if retention.remove(archive, product)]


def told(request: Request) -> str:
    """What a request is of, as a sentence has it."""
    when = f"{len(request.tiles)} tiles" if request.tiles else f"{request.since:%Y-%m-%dT%H:%M:%S} to {request.until:%Y-%m-%dT%H:%M:%S}"
    ra_dec = request.centre_deg
    where = f" within {request.radius_deg:g} deg of {ra_dec[0]:.4f},{ra_dec[1]:+.4f}" if ra_dec else ""
    return f"{when}{where}{f' ({request.calibrator})' if request.calibrator else ''}, {request.tier}"


def _of_json(told: Mapping[str, Any]) -> Request:
    times = {key: datetime.fromisoformat(told[key]) for key in ("since", "until", "created_at")}
    centre = told["centre_deg"]
    return Request(**{**told, **times, "tiles": tuple(told["tiles"]), "centre_deg": None if centre is None else (centre[0], centre[1])})
