"""Trials: products made with settings other than the platform's, kept beside science products and never among them.

    <root>/trials/<name>/trial.json     the settings that the trial changes, and when it was first made
    <root>/trials/<name>/<asset>/...    its products, as in the archive

In the index they belong to separate assets (`tile_image~robust_0`), so that no query for a science asset finds them.
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
    """The archive as seen by a trial: the trial's own products and, where it made none, the science products.

    It publishes only into the trial. The methods `current`, `products`, `partitions`, `digests`, `settings_of` and the caltable
    sets show the trial's view; all other methods show science products.
    """

    def __init__(self, archive: Archive, name: str) -> None:
        self.root, self.index = archive.root, archive.index
        self.trial = naming.check_trial(name)

    def publish(self, asset: str, partition: str | None, inputs: Sequence[str], **how: Any) -> Any:
        """As `Archive.publish`, but into the trial."""
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
        """The products that the trial made itself, of one asset or of all; otherwise as `Archive.products`."""
        if asset is not None:
            return super().products(naming.in_trial(asset, self.trial), since, until, state, removed=removed)
        of_all = super().products(None, since, until, state, removed=removed, trials=True)
        return [product for product in of_all if product.trial == self.trial]

    def current(self, asset: str, partition: str | None = None, *, check: bool = False, removed: bool = False) -> Product | None:
        """As `Archive.current`: the trial's own product if it made one (None if its data are gone), else the science product."""
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
        """As `Archive.products`, with the trial's own products in place of the science products of the same partition."""
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
    """The archive as seen by the trial `name`, and all settings the trial changes, after adding these `settings` to its definition.

    Raises NotFoundError for an invalid name, and ConfigurationError if the trial was made with another value of one of them.
    """
    place = archive.root / naming.TRIALS / naming.check_trial(name)
    requested = dict(jsonable(settings))
    with files.typed_errors(f"The trial {name}"):
        place.mkdir(parents=True, exist_ok=True)
        with files.locked(place / ".lock"):
            known = files.read_json(place / FILE) or {"settings": {}, "created_at": datetime.now(UTC).isoformat(timespec="seconds")}
            before = known["settings"]
            if conflicting := {key: before[key] for key in requested if before.get(key, requested[key]) != requested[key]}:
                raise ConfigurationError(
                    f"the trial {name} is made with {describe(conflicting)}; choose another name for {describe(requested)}"
                )
            defined = dict(sorted({**before, **requested}.items()))
            files.write_json(place / FILE, {**known, "settings": defined})
    return Trial(archive, name), defined


def definitions(archive: Archive) -> list[Definition]:
    """All trials, sorted by name."""
    folder = archive.root / naming.TRIALS
    found = sorted(folder.iterdir()) if folder.is_dir() else []
    read = {place.name: files.read_json(place / FILE) for place in found if place.is_dir()}
    return [
        Definition(name, contents["settings"], datetime.fromisoformat(contents["created_at"]))
        for name, contents in read.items()
        if contents
    ]


def definition(archive: Archive, name: str) -> Definition:
    """The trial with this name. Raises NotFoundError, which lists the existing trials."""
    known = {trial.name: trial for trial in definitions(archive)}
    if name not in known:
        raise NotFoundError(f"There is no trial {name!r}; there is {', '.join(known) or 'none yet'}")
    return known[name]


def delete(archive: Archive, name: str) -> list[Product]:
    """Remove the data of a trial's products, and its definition; return the removed products. Records stay, for lineage.

    Raises NotFoundError if there is no such trial, and ConfigurationError while something reads its products.
    """
    definition(archive, name)
    existing = [p for p in archive.products(state=None, trials=True) if p.trial == name and not p.removed]
    if reading := sorted(claims.read_now(archive.root) & {p.id for p in existing}):
        raise ConfigurationError(f"the trial {name} is in use: {reading[0]} is being read; try again later")
    gone = [product for product in existing if retention.remove(archive, product)]
    (archive.root / naming.TRIALS / name / FILE).unlink(missing_ok=True)
    return gone


def describe(settings: Mapping[str, Any]) -> str:
    """A trial's settings as text for a sentence."""
    return ", ".join(f"{name}={value}" for name, value in settings.items()) or "the platform's settings"
