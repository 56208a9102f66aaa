"""What an asset is: one specification beside its body, from which everything that names assets is derived.

`assets/*.py` register their bodies with a specification each; `graph` finds these modules. Whoever asks here works for someone
who has imported `graph`: dependencies, order, phases, jobs, checks, consumers and reports' lists all come from what is there.
"""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from dataclasses import KW_ONLY, asdict, dataclass, field, is_dataclass, replace
from datetime import timedelta
from graphlib import CycleError, TopologicalSorter
from itertools import groupby
from typing import TYPE_CHECKING, Any, Literal

import xxhash

from dsa110_assets.errors import ConfigurationError
from dsa110_assets.orchestration.specification.recipes import Ingredients, usable
from dsa110_assets.plain_json import jsonable

if TYPE_CHECKING:
    import dagster as dg

    from dsa110_assets.archive.product import Product
    from dsa110_assets.archive.store import Archive
    from dsa110_assets.orchestration.judging.rules import Rule
    from dsa110_assets.orchestration.running.step import Step
    from dsa110_assets.settings import Settings

Grain = Literal["catalogue", "observation", "hour", "night", "request"]
Find = Callable[["Archive", "Settings", str], Ingredients | None]
Body = Callable[["Step"], Mapping[str, Any]]
"""Writes the files of a product and returns its figures."""
Phases = tuple[tuple[Grain, tuple[str, ...]], ...]

GRAINS: tuple[Grain, ...] = ("catalogue", "observation", "hour", "night", "request")
ALL_REPORTED = ("*",)
"""As inputs: every asset that the night reports, whichever these are."""


@dataclass(frozen=True)
class Asset:
    """The specification of an asset; as a decorator it registers a body under it.

    A partition whose inputs are not there has no ingredients (None): it stays unmaterialised, which is no failure.
    """

    name: str
    _: KW_ONLY
    grain: Grain
    kinds: Set[str]
    code_version: str
    """Raised whenever the same inputs would give another product."""
    inputs: tuple[str, ...] = ()
    """The assets it is made from."""
    finder: Find | None = None
    """Finds what a partition ought to be made from now; by default the same partition of all inputs, and catalogues."""
    shaping: tuple[str, ...] = ()
    """The settings that shape it, by name."""
    rules: "tuple[Rule, ...]" = ()
    """What its products are judged by, in the order they are told."""
    reach: timedelta = timedelta(0)
    """So long before and after its window its inputs lie, too."""
    before_window_ends: bool = False
    """Made while its window still runs, of what is there; others of hours and nights once the window is over."""
    freshness: "dg.FreshnessPolicy | None" = None
    pool: str | None = None
    """At most so many at a time as this pool allows: for what takes most of the machine."""
    disk_per_input: float = 0.0
    """Bytes written per byte of the inputs, where that is much."""
    memory_per_input: float = 0.0
    """Bytes in memory per byte of the largest input, beyond `capacity.MEMORY_BYTES`."""
    patience: float = 1.0
    """So many times `hung_after_min` may pass from one event of its step to the next: what takes long says so."""
    keep_days: float | None = None
    """How long its products' data are kept unless `retention_days` says otherwise; None: for ever."""
    uses_up: tuple[str, ...] = ()
    """Inputs of which it is always made: until it is, retention keeps them."""
    reads_through: str | None = None
    """The input whose own inputs it reads, too."""
    also_reads: "Callable[[Archive, Ingredients], list[Product]] | None" = None
    """What it reads beside its inputs, if it is not found through one of them."""
    asks: "Mapping[str, dg.Field]" = field(default_factory=dict)
    """Fields of its run config beside those of every asset: what can be asked of it by hand."""
    keep_request: "Callable[[Archive, str, Mapping[str, Any]], None] | None" = None
    """Keeps what a run config asks of a partition, before inputs are looked for."""
    reads_raw_files: bool = False
    """It reads the raw files that its manifest names."""
    reaches_back: bool = False
    """It leads back through all nights before it: whoever followed it would read the whole archive."""
    nights_before: bool = False
    """Its inputs' earlier nights are its inputs, too."""
    of_kept_data_only: bool = False
    """Nothing that retention took is made again for it: what cannot be made anew without it stays as it is."""
    nothing_made: str = "what there is cannot be used"
    """Why nothing is made although all inputs are there."""
    reported: bool = True
    """The night's report is made from it, and made again when it changes."""
    columns: Mapping[str, str] = field(default_factory=dict)
    """Figures in the night report's line of each observation, with their headings."""
    figures: tuple[str, ...] = ()
    """Figures the night's report tells of each product."""
    image: bool = False
    """It is an image: the product holds image.fits or mosaic.fits."""

    def __call__(self, body: Body) -> Body:
        """Register a body as this asset; its docstring is the description."""
        if self.name in _registered:
            raise ConfigurationError(f"two assets are called {self.name}; rename one")
        _registered[self.name] = self, body
        return body

    def find(self, archive: "Archive", settings: "Settings", partition: str) -> Ingredients | None:
        """What the partition ought to be made from now; None if that is not there. May raise WaitingError."""
        if self.finder is not None:
            return self.finder(archive, settings, partition)
        found = [usable(archive, name, None if _known[name].grain == "catalogue" else partition) for name in self.inputs]
        products = tuple(product for product in found if product is not None)
        return Ingredients(products) if len(products) == len(self.inputs) else None

    def settings(self, settings: "Settings", ingredients: Ingredients) -> dict[str, Any]:
        """Everything but inputs and code that shaped the product, as it is recorded with it."""
        result: dict[str, Any] = jsonable({**self.shaped_by(settings), **ingredients.facts})
        return result

    def shaped_by(self, settings: "Settings") -> dict[str, Any]:
        """The settings that shape the product, options as mappings."""
        given = {name: getattr(settings, name) for name in self.shaping}
        return {name: asdict(v) if is_dataclass(v) and not isinstance(v, type) else v for name, v in given.items()}

    def outdated(self, product: "Product", settings: "Settings") -> str:
        """In what way the product was made as it would not be made now, whatever it was made from; '' if it was not."""
        if product.code_version != self.code_version:
            return f"made by code version {product.code_version}, now {self.code_version}"
        now = jsonable(self.shaped_by(settings))
        differing = sorted(name for name in now if now[name] != product.settings.get(name))
        return f"made with other settings: {', '.join(differing)}" if differing else ""

    def request(self, settings: "Settings", partition: str | None, ingredients: Ingredients) -> str:
        """Names what would be made of a partition now: the same bytes, settings and code always have the same name."""
        made_from = sorted(_bytes(p) for p in ingredients.products)
        content = json.dumps([self.code_version, made_from, self.settings(settings, ingredients)], sort_keys=True)
        return f"{self.name} {partition or ''}:{xxhash.xxh3_64_hexdigest(content.encode(errors='surrogateescape'))}"

    def stale(self, archive: "Archive", product: "Product", settings: "Settings", ingredients: Ingredients) -> str | None:
        """Why the product is not what would be made now; None if it is. Equal bytes are the same input."""
        if product.code_version != self.code_version:
            return f"made by code version {product.code_version}, now {self.code_version}"
        before = [archive.get(i) for i in set(product.inputs) - set(ingredients.ids)]
        made_from = [p for p in before if not (p.removed and p.state == "current")]  # it was right when it was used
        wanted = [p for p in ingredients.products if p.id not in product.inputs]
        if {_bytes(p) for p in made_from} != {_bytes(p) for p in wanted}:
            changed = sorted(p.id for p in wanted or made_from)
            return f"inputs changed: {', '.join(changed[:3])}{' …' if len(changed) > 3 else ''}"
        now = self.settings(settings, ingredients)
        if differing := sorted(k for k in now.keys() | product.settings.keys() if now.get(k) != product.settings.get(k)):
            return f"settings changed: {', '.join(differing)}"
        return None


def _bytes(product: "Product") -> tuple[str, str | None, str]:
    return product.asset, product.partition, product.digest


_registered: dict[str, tuple[Asset, Body]] = {}
_known: dict[str, Asset] = {}
_phases: list[tuple[Grain, tuple[str, ...]]] = []


def complete() -> list[tuple[Asset, Body]]:
    """All assets with their bodies, once `graph` has imported every module: each after everything it is made from.

    An asset comes a phase after its inputs of another grain, and in the same phase as those of its own. Raises
    ConfigurationError for an input that is no asset, and for assets that are made from each other.
    """
    night = {
        name for name, (asset, _) in _registered.items() if asset.reported and asset.grain != "catalogue" and asset.inputs != ALL_REPORTED
    }
    inputs = {name: tuple(night) if asset.inputs == ALL_REPORTED else asset.inputs for name, (asset, _) in _registered.items()}
    phase: dict[str, tuple[int, int]] = {}
    depth: dict[str, int] = {}
    for name in _each_after_its_inputs(inputs):
        grain = _registered[name][0].grain
        level = max((phase[i][0] + (_registered[i][0].grain != grain) for i in inputs[name]), default=0)
        phase[name] = level, GRAINS.index(grain)
        depth[name] = max((1 + depth[i] for i in inputs[name] if phase[i] == phase[name]), default=0)
    order = sorted(_registered, key=lambda name: (phase[name], depth[name]))
    for name in order:
        asset = _registered[name][0]
        _known[name] = replace(asset, inputs=tuple(i for i in order if i in night)) if asset.inputs == ALL_REPORTED else asset
    _phases.extend((GRAINS[rank], tuple(names)) for (_, rank), names in groupby(order, key=phase.__getitem__))
    return [(_known[name], _registered[name][1]) for name in order]


def _each_after_its_inputs(inputs: Mapping[str, Sequence[str]]) -> Iterator[str]:
    """The names in some order in which none comes before what it is made from; ConfigurationError where there is none."""
    for name, above in inputs.items():
        if unknown := [i for i in above if i not in inputs]:
            raise ConfigurationError(f"{name} is made from {', '.join(unknown)}, which is no asset; there are {', '.join(inputs)}")
    try:
        yield from TopologicalSorter(inputs).static_order()
    except CycleError as error:
        raise ConfigurationError(f"assets are made from each other: {' from '.join(error.args[1])}") from None


def assets() -> dict[str, Asset]:
    """All assets by name, each after everything it is made from. RuntimeError while nobody has imported `graph`."""
    if not _known:
        raise RuntimeError("no asset is known yet: import dsa110_assets.orchestration.graph first, which finds them all")
    return _known


def of_grain(grain: Grain) -> list[str]:
    """The assets of this grain, in order."""
    return [asset.name for asset in assets().values() if asset.grain == grain]


def phases() -> Phases:
    """The graph as it is worked off. Assets of one phase and partition run in one Dagster run."""
    assets()
    return tuple(_phases)


def consumers(known: Mapping[str, Asset]) -> dict[str, tuple[str, ...]]:
    """What is always made from each asset: until it is, retention keeps its input.

    `hour_mosaic/night_mosaic` reads it through the hour mosaics that were made from it.
    """
    found: dict[str, list[str]] = {}
    for asset in known.values():
        for name in asset.uses_up:
            found.setdefault(name, []).append(asset.name)
        for name in known[asset.reads_through].inputs if asset.reads_through else ():
            found.setdefault(name, []).append(f"{asset.reads_through}/{asset.name}")
    return {name: tuple(found[name]) for name in known if name in found}


def read_through(archive: "Archive", asset: str, ingredients: Ingredients) -> "list[Product]":
    """What making this asset reads beside its ingredients: the tiles of mosaics, the light curves of earlier nights."""
    of = assets()[asset]
    through = [p for p in ingredients.products if p.asset == of.reads_through]
    found = [archive.get(i) for i in sorted({i for product in through for i in product.inputs})]
    return found + (of.also_reads(archive, ingredients) if of.also_reads else [])


def without_data(archive: "Archive", asset: str, ingredients: Ingredients) -> "list[Product]":
    """What making this asset would read of these ingredients, and retention has taken."""
    return [p for p in (*ingredients.products, *read_through(archive, asset, ingredients)) if p.removed]


def outdated_inputs(archive: "Archive", settings: "Settings", inputs: "Sequence[Product]") -> dict[str, Any]:
    """Figures of a product to be: which of its inputs, or of what those were made from, are not as they would be made now.

    Of what reaches back over the nights only the inputs themselves are asked, and what they were told of theirs.
    """
    from dsa110_assets.archive import rows

    known = assets()
    near = [p.id for p in inputs if p.asset not in known or not known[p.asset].reaches_back]
    below = archive.index.read(lambda c: rows.by_ids(c, archive.root, rows.ancestors(c, near)))
    reasons = {p.id: known[p.asset].outdated(p, settings) for p in {**below, **{p.id: p for p in inputs}}.values() if p.asset in known}
    inherited = {p.id: "made of what was made otherwise" for p in inputs if p.metadata.get("inputs_made_otherwise")}
    found = {**inherited, **{i: why for i, why in reasons.items() if why}}
    return {"n_inputs": len(inputs), "inputs_made_otherwise": dict(sorted(found.items()))}
