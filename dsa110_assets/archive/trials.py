"""Trials: products made with other than the platform's settings, beside science and never among it.

    <root>/trials/<name>/trial.json     the settings that the trial changes, and since when
    <root>/trials/<name>/<asset>/...    its products, as in the archive

In the index they are of assets of their own (`tile_image~robust_0`): nothing that asks for an asset of science finds them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from dsa110_assets.archive import claims, files, naming, retention
from dsa110_assets.archive.product import Json, Product
from dsa110_assets.archive.store import Archive
from dsa110_assets.errors import ConfigurationError, NotFoundError
from dsa110_assets.plain_json import jsonable

FILE = "trial.json"


@dataclass(frozen=True)
class Definition:
    """A trial: the settings it changes, by their dotted names (imaging.robust), and when it was first made."""

    name: str
    settings: Mapping[str, Any]
    created_at: datetime


class Trial(Archive):
    """The archive as a trial sees it: what it made itself, and where it made nothing, what science made.

    Publishes into the trial alone. Answers about `current`, `products`, `partitions`, `digests`, `settings_of` and the caltable
    sets are the trial's; all others are those of science.
    """

    def __init__(self, archive: Archive, name: str) -> None:
        self.root, self.index = archive.root, archive.index
        self.trial = naming.check_trial(name)

    def publish(self, asset: str, partition: str | None, inputs: Sequence[str], **how: Any) -> Any:
        """As `Archive.publish`, of the trial."""
        return super().publish(naming.in_trial(asset, self.trial), partition, inputs, **how)

    def own(
        self,
        asset: str | None = None,
        since: datetime | str | None = None,
        until: datetime | str | None = None,
        state: str | None = "current",
        *,
        removed: bool = False,
    ) -> list[Product]:
        """What the trial made itself, of one asset or of all: as `Archive.products`."""
        if asset is not None:
            return super().products(naming.in_trial(asset, self.trial), since, until, state, removed=removed)
        of_all = super().products(None, since, until, state, removed=removed, trials=True)
        return [product for product in of_all if product.trial == self.trial]

    def current(self, asset: str, partition: str | None = None, *, check: bool = False, removed: bool = False) -> Product | None:
        """As `Archive.current`: the trial's own if it made one, whose data may be gone, else that of science."""
        own = super().current(naming.in_trial(asset, self.trial), partition, removed=True)
        if own is None:
            return super().current(asset, partition, check=check, removed=removed)
        return super().current(naming.in_trial(asset, self.trial), partition, check=check, removed=removed)

    def products(
        self,
        asset: str | None = None,
        since: datetime | str | None = None,
        until: datetime | str | None = None,
        state: str | None = "current",
        *,
        removed: bool = False,
        trials: bool = False,
    ) -> list[Product]:
        """As `Archive.products`, with the trial's own in the place of those of science of the same partition."""
        own = {(p.asset, p.partition): p for p in self.own(asset, since, until, state, removed=True)}
        science = super().products(asset, since, until, state, removed=removed, trials=trials)
        kept = [p for p in science if (p.asset, p.partition) not in own]
        found = [*kept, *(p for p in own.values() if removed or not p.removed)]
        return sorted(found, key=lambda p: (p.partition or "", p.asset, p.version))

    def partitions(self, asset: str, since: datetime | str | None = None, until: datetime | str | None = None) -> list[str]:
        """As `Archive.partitions`."""
        own = super().partitions(naming.in_trial(asset, self.trial), since, until)
        return sorted({*super().partitions(asset, since, until), *own})

    def settings_of(self, asset: str, since: datetime | str | None = None, until: datetime | str | None = None) -> list[Json]:
        """As `Archive.settings_of`."""
        return [dict(product.settings) for product in self.products(asset, since, until)]

    def digests(self, asset: str, until: datetime | str | None = None) -> dict[str, str]:
        """As `Archive.digests`."""
        return super().digests(asset, until) | super().digests(naming.in_trial(asset, self.trial), until)


def opened(archive: Archive, name: str, settings: Mapping[str, Any]) -> tuple[Trial, dict[str, Any]]:
    """The archive as the trial `name` sees it, and all settings the trial changes, to which these `settings` are added.

    Raises NotFoundError for what may be no name, and ConfigurationError where the trial was made with another value of one.
    """
    place = archive.root / naming.TRIALS / naming.check_trial(name)
    wanted = dict(jsonable(settings))
    with files.typed_errors(f"The trial {name}"):
        place.mkdir(parents=True, exist_ok=True)
        with files.locked(place / ".lock"):
            known = files.read_json(place / FILE) or {"settings": {}, "created_at": datetime.now(UTC).isoformat(timespec="seconds")}
            before = known["settings"]
            if other := {key: before[key] for key in wanted if before.get(key, wanted[key]) != wanted[key]}:
                raise ConfigurationError(f"the trial {name} is made with {told(other)}; choose another name for {told(wanted)}")
            defined = dict(sorted({**before, **wanted}.items()))
            files.write_json(place / FILE, {**known, "settings": defined})
    return Trial(archive, name), defined


def definitions(archive: Archive) -> list[Definition]:
    """Every trial there is, by name."""
    folder = archive.root / naming.TRIALS
    found = sorted(folder.iterdir()) if folder.is_dir() else []
    read = {place.name: files.read_json(place / FILE) for place in found if place.is_dir()}
    return [Definition(name, said["settings"], datetime.fromisoformat(said["created_at"])) for name, said in read.items() if said]


def definition(archive: Archive, name: str) -> Definition:
    """The trial of this name. Raises NotFoundError, saying which there are."""
    known = {one.name: one for one in definitions(archive)}
    if name not in known:
        raise NotFoundError(f"There is no trial {name!r}; there is {', '.join(known) or 'none yet'}")
    return known[name]


def delete(archive: Archive, name: str) -> list[Product]:
    """Remove the data of a trial's products, and its definition; returns what went. Records stay, for lineage.

    Raises NotFoundError where there is no such trial, and ConfigurationError while something reads its products.
    """
    definition(archive, name)
    there = [p for p in archive.products(state=None, trials=True) if p.trial == name and not p.removed]
    if reading := sorted(claims.read_now(archive.root) & {p.id for p in there}):
        raise ConfigurationError(f"the trial {name} is in use: {reading[0]} is being read; try again later")
    gone = [product for product in there if retention.remove(archive, product)]
    (archive.root / naming.TRIALS / name / FILE).unlink(missing_ok=True)
    return gone


def told(settings: Mapping[str, Any]) -> str:
    """A trial's settings as a sentence has them."""
    return ", ".join(f"{name}={value}" for name, value in settings.items()) or "the platform's settings"
