"""The specification of an asset, written beside its body; everything that names assets is derived from these specifications.

`assets/*.py` register each body with its specification; `graph` finds these modules and must be imported before the functions
here are called. Dependencies, order, phases, jobs, checks, consumers and the lists of reports all come from the registered assets.
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
"""As inputs: all assets that the night's report covers."""


@dataclass(frozen=True)
class Asset:
    """The specification of an asset; as a decorator it registers a body under it.

    A partition whose inputs do not exist has no ingredients (None): it stays unmaterialised, which is not a failure.
    """

    name: str
    _: KW_ONLY
    grain: Grain
    kinds: Set[str]
    code_version: str
    """Incremented whenever the code would make a different product from the same inputs."""
    inputs: tuple[str, ...] = ()
    """The assets it is made from."""
    finder: Find | None = None
    """Finds what a partition ought to be made from now; by default the same partition of each input, and of catalogues the only one."""
    shaping: tuple[str, ...] = ()
    """The settings that shape it, by name."""
    rules: "tuple[Rule, ...]" = ()
    """The rules that judge its products, in the order in which verdicts are listed."""
    reach: timedelta = timedelta(0)
    """How far its inputs extend before and after its window."""
    before_window_ends: bool = False
    """It is made during its window, from the inputs so far; other assets of hours and nights are made once the window is over."""
    freshness: "dg.FreshnessPolicy | None" = None
    pool: str | None = None
    """Dagster pool that limits how many run at a time, for steps that take most of the machine."""
    disk_per_input: float = 0.0
    """Bytes written per byte of the inputs, for assets that write much."""
    memory_per_input: float = 0.0
    """Bytes in memory per byte of the largest input, beyond `capacity.MEMORY_BYTES`."""
    patience: float = 1.0
    """Factor on `hung_after_min`, the time allowed from one event of its step to the next; larger for slow assets."""
    keep_days: float | None = None
    """How long its products' data are kept unless `retention_days` says otherwise; None: for ever."""
    uses_up: tuple[str, ...] = ()
    """Inputs from which it is always made; retention keeps them until it is made."""
    reads_through: str | None = None
    """The input whose own inputs it also reads."""
    also_reads: "Callable[[Archive, Ingredients], list[Product]] | None" = None
    """Finds further products that it reads, beside its inputs and those found through one of them."""
    asks: "Mapping[str, dg.Field]" = field(default_factory=dict)
    """Fields of its run config beside those that every asset has, for requests by hand."""
    keep_request: "Callable[[Archive, str, Mapping[str, Any]], None] | None" = None
    """Keeps the request in a run config for a partition, before its inputs are looked for."""
    reads_raw_files: bool = False
    """It reads the raw files that its manifest names."""
    reaches_back: bool = False
    """Its chain of inputs leads back through all earlier nights; code that followed it would read the whole archive."""
    nights_before: bool = False
    """Earlier nights of its inputs are its inputs, too."""
    of_kept_data_only: bool = False
    """No data that retention removed are made again for it: if it cannot be made again without them, it stays as it is."""
    nothing_made: str = "the existing inputs cannot be used"
    """Why nothing is made although all inputs are there."""
    reported: bool = True
    """The night's report is made from it, and made again when it changes."""
    columns: Mapping[str, str] = field(default_factory=dict)
    """Figures in the night report's line of each observation, with their headings."""
    figures: tuple[str, ...] = ()
    """Figures that the night's report shows for each product."""
    image: bool = False
    """It is an image: the product holds image.fits or mosaic.fits."""

    def __call__(self, body: Body) -> Body:
        """Register a body as this asset; its docstring is the description."""
        if self.name in _registered:
            raise ConfigurationError(f"two assets are called {self.name}; rename one")
        _registered[self.name] = self, body
        return body

    def find(self, archive: "Archive", settings: "Settings", partition: str) -> Ingredients | None:
        """What the partition ought to be made from now; None if inputs are missing. May raise WaitingError."""
        if self.finder is not None:
            return self.finder(archive, settings, partition)
        usable_inputs = [usable(archive, name, None if _known[name].grain == "catalogue" else partition) for name in self.inputs]
        products = tuple(product for product in usable_inputs if product is not None)
        return Ingredients(products) if len(products) == len(self.inputs) else None

    def settings(self, settings: "Settings", ingredients: Ingredients) -> dict[str, Any]:
        """Everything but inputs and code that shaped the product, as recorded with the product."""
        result: dict[str, Any] = jsonable({**self.shaped_by(settings), **ingredients.facts})
        return result

    def shaped_by(self, settings: "Settings") -> dict[str, Any]:
        """The settings that shape the product, options as mappings."""
        values = {name: getattr(settings, name) for name in self.shaping}
        return {name: asdict(v) if is_dataclass(v) and not isinstance(v, type) else v for name, v in values.items()}

    def outdated(self, product: "Product", settings: "Settings") -> str:
        """How the code version or settings of the product differ from those in force, regardless of its inputs; '' if they do not."""
        if product.code_version != self.code_version:
            return f"made by code version {product.code_version}, now {self.code_version}"
        now = jsonable(self.shaped_by(settings))
        differing = sorted(name for name in now if now[name] != product.settings.get(name))
        return f"made with other settings: {', '.join(differing)}" if differing else ""

    def request(self, settings: "Settings", partition: str | None, ingredients: Ingredients) -> str:
        """A name for the product a partition would get now: the same input bytes, settings and code always give the same name."""
        made_from = sorted(_bytes(p) for p in ingredients.products)
        content = json.dumps([self.code_version, made_from, self.settings(settings, ingredients)], sort_keys=True)
        return f"{self.name} {partition or ''}:{xxhash.xxh3_64_hexdigest(content.encode(errors='surrogateescape'))}"

    def stale(self, archive: "Archive", product: "Product", settings: "Settings", ingredients: Ingredients) -> str | None:
        """Why the product differs from the one that would be made now; None if it does not. Equal bytes count as the same input."""
        if product.code_version != self.code_version:
            return f"made by code version {product.code_version}, now {self.code_version}"
        former_inputs = [archive.get(i) for i in set(product.inputs) - set(ingredients.ids)]
        made_from = [
            p for p in former_inputs if not (p.removed and p.state == "current")
        ]  # a removed current input was right when it was used
        new_inputs = [p for p in ingredients.products if p.id not in product.inputs]
        if {_bytes(p) for p in made_from} != {_bytes(p) for p in new_inputs}:
            changed = sorted(p.id for p in new_inputs or made_from)
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
    """All assets with their bodies, each after everything it is made from; called once `graph` has imported every module.

    An asset comes a phase after its inputs of another grain, and in the same phase as those of its own grain. Raises
    ConfigurationError for an input that is not an asset, and for assets that are made from each other.
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
    """The names in an order in which each comes after its inputs. Raises ConfigurationError if there is no such order."""
    for name, its_inputs in inputs.items():
        if unknown := [i for i in its_inputs if i not in inputs]:
            raise ConfigurationError(f"{name} is made from {', '.join(unknown)}, which is no asset; there are {', '.join(inputs)}")
    try:
        yield from TopologicalSorter(inputs).static_order()
    except CycleError as error:
        raise ConfigurationError(f"assets are made from each other: {' from '.join(error.args[1])}") from None


def assets() -> dict[str, Asset]:
    """All assets by name, each after everything it is made from. Raises RuntimeError if `graph` has not been imported yet."""
    if not _known:
        raise RuntimeError("no asset is known yet: import dsa110_assets.orchestration.graph first, which finds them all")
    return _known


def of_grain(grain: Grain) -> list[str]:
    """The assets of this grain, in order."""
    return [asset.name for asset in assets().values() if asset.grain == grain]


def phases() -> Phases:
    """The phases in which the graph is processed. Assets of one phase and partition run in one Dagster run."""
    assets()
    return tuple(_phases)


def consumers(known: Mapping[str, Asset]) -> dict[str, tuple[str, ...]]:
    """For each asset, the assets that are always made from it; retention keeps it until they are made.

    `hour_mosaic/night_mosaic` means that night mosaics read it through the hour mosaics that were made from it.
    """
    by_input: dict[str, list[str]] = {}
    for asset in known.values():
        for name in asset.uses_up:
            by_input.setdefault(name, []).append(asset.name)
        for name in known[asset.reads_through].inputs if asset.reads_through else ():
            by_input.setdefault(name, []).append(f"{asset.reads_through}/{asset.name}")
    return {name: tuple(by_input[name]) for name in known if name in by_input}


def read_through(archive: "Archive", asset: str, ingredients: Ingredients) -> "list[Product]":
    """The products that making this asset reads beside its ingredients: the tiles of mosaics, the light curves of earlier nights."""
    specified = assets()[asset]
    through = [p for p in ingredients.products if p.asset == specified.reads_through]
    read = [archive.get(i) for i in sorted({i for product in through for i in product.inputs})]
    return read + (specified.also_reads(archive, ingredients) if specified.also_reads else [])


def without_data(archive: "Archive", asset: str, ingredients: Ingredients) -> "list[Product]":
    """The products that making this asset from these ingredients would read, but whose data retention has removed."""
    return [p for p in (*ingredients.products, *read_through(archive, asset, ingredients)) if p.removed]


def outdated_inputs(archive: "Archive", settings: "Settings", inputs: "Sequence[Product]") -> dict[str, Any]:
    """Figures for a product to be made: which of its inputs, or of the products those were made from, would be made differently now.

    For inputs that reach back over earlier nights only the inputs themselves are examined, and the same figure that they recorded.
    """
    from dsa110_assets.archive import rows

    known = assets()
    traced = [p.id for p in inputs if p.asset not in known or not known[p.asset].reaches_back]
    below = archive.index.read(lambda c: rows.by_ids(c, archive.root, rows.ancestors(c, traced)))
    reasons = {p.id: known[p.asset].outdated(p, settings) for p in {**below, **{p.id: p for p in inputs}}.values() if p.asset in known}
    inherited = {p.id: "made from inputs that were made otherwise" for p in inputs if p.metadata.get("inputs_made_otherwise")}
    outdated = {**inherited, **{i: why for i, why in reasons.items() if why}}
    return {"n_inputs": len(inputs), "inputs_made_otherwise": dict(sorted(outdated.items()))}
