"""What each product is made from: the one place that finds inputs, for the assets and for the plan alike.

A recipe names the products an asset's partition ought to be made from now, and the settings that shape it. A
product is up to date while it was made from just these. A partition whose inputs are not there has no
ingredients (None): it stays unmaterialised, which is no failure. A product whose data retention took is still what
others are made from: by its record nothing has changed, and only who has to read it needs its data again.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, is_dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import xxhash

from dsa110_assets.archive.product import HELD
from dsa110_assets.telescope import timegrid

if TYPE_CHECKING:
    from pathlib import Path

    from dsa110_assets.archive.product import Product
    from dsa110_assets.archive.store import Archive
    from dsa110_assets.settings import Settings

Grain = Literal["catalogue", "observation", "hour", "night"]
NEIGHBOUR_TILES = 2
STRIP_TOLERANCE_DEG = 1.0
"""Tiles further than this from the hour's median declination belong to another strip."""


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
        (found,) = [product for product in self.products if product.asset == asset]
        return found

    def all(self, asset: str) -> "list[Product]":
        """The inputs of this asset, in time order."""
        return sorted((p for p in self.products if p.asset == asset), key=lambda p: p.partition or "")


Find = Callable[["Archive", "Settings", str], Ingredients | None]
READ_TILES = frozenset({"source_measurements", "night_mosaic"})
"""They read the tiles of the mosaics they are made from."""
WITH_A_PAST = frozenset({"source_measurements", "light_curves", "variability"})
"""They lead back through all nights before them: whoever followed them would read the whole archive."""
KEEP_TO_WHAT_IS_THERE = frozenset({"light_curves", "night_report"})
"""Nothing that retention took is made again for them: what cannot be made anew without it stays as it is."""


@dataclass(frozen=True)
class Recipe:
    """How one asset is made. `code_version` is raised whenever the same inputs would give another product."""

    asset: str
    grain: Grain
    code_version: str
    find: Find
    shaping: Callable[["Settings"], dict[str, Any]] = lambda _settings: {}

    def settings(self, settings: "Settings", ingredients: Ingredients) -> dict[str, Any]:
        """Everything but inputs and code that shaped the product, as it is recorded with it."""
        from dsa110_assets.archive.product import jsonable

        result: dict[str, Any] = jsonable({**self.shaped_by(settings), **ingredients.facts})
        return result

    def shaped_by(self, settings: "Settings") -> dict[str, Any]:
        """The settings that shape the product, options as mappings."""
        return {name: asdict(v) if is_dataclass(v) and not isinstance(v, type) else v for name, v in self.shaping(settings).items()}

    def otherwise(self, product: "Product", settings: "Settings") -> str:
        """In what way the product was made as it would not be made now, whatever it was made from; '' if it was not."""
        from dsa110_assets.archive.product import jsonable

        if product.code_version != self.code_version:
            return f"made by code version {product.code_version}, now {self.code_version}"
        now = jsonable(self.shaped_by(settings))
        differing = sorted(name for name in now if now[name] != product.settings.get(name))
        return f"made with other settings: {', '.join(differing)}" if differing else ""

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


def usable(archive: "Archive", asset: str, partition: str | None) -> "Product | None":
    """The current product that may be built upon: not held by a failed blocking rule. Its data may be removed."""
    product = archive.current(asset, partition, removed=True)
    return None if product is None or product.metadata.get(HELD) else product


def all_usable(
    archive: "Archive", asset: str, since: str | None = None, until: str | None = None, *, removed: bool = True
) -> "list[Product]":
    """Usable products with partitions from `since` to `until`, both included; unless `removed`, only those whose data are there."""
    return [p for p in archive.products(asset, since, until, removed=removed) if not p.metadata.get(HELD)]


def without_data(archive: "Archive", asset: str, ingredients: Ingredients) -> "list[Product]":
    """What making this asset would read of these ingredients, and retention has taken."""
    return [p for p in (*ingredients.products, *read_through(archive, asset, ingredients)) if p.removed]


def read_through(archive: "Archive", asset: str, ingredients: Ingredients) -> "list[Product]":
    """What making this asset reads beside its ingredients: the tiles of mosaics, and the light curves of earlier nights."""
    if asset == "variability":
        return [p for key in ingredients.products for p in nights_until(archive, key.partition or "") if p.id != key.id]
    mosaics = [p for p in ingredients.products if p.asset == "hour_mosaic"] if asset in READ_TILES else []
    return [archive.get(i) for i in sorted({i for mosaic in mosaics for i in mosaic.inputs})]


def made_otherwise(archive: "Archive", settings: "Settings", inputs: "Sequence[Product]") -> dict[str, Any]:
    """Figures of a product to be: which of its inputs, or of what those were made from, are not as they would be made now.

    Of what reaches back over the nights only the inputs themselves are asked, and what they were told of theirs.
    """
    from dsa110_assets.archive import rows

    near = [p.id for p in inputs if p.asset not in WITH_A_PAST]
    below = archive.index.read(lambda c: rows.by_ids(c, archive.root, rows.ancestors(c, near)))
    told = {p.id: RECIPES[p.asset].otherwise(p, settings) for p in {**below, **{p.id: p for p in inputs}}.values() if p.asset in RECIPES}
    inherited = {p.id: "made of what was made otherwise" for p in inputs if p.metadata.get("inputs_made_otherwise")}
    found = {**inherited, **{i: why for i, why in told.items() if why}}
    return {"n_inputs": len(inputs), "inputs_made_otherwise": dict(sorted(found.items()))}


def told_without(asset: str, partition: str | None, gone: "Sequence[Product]") -> str:
    """The sentence about what cannot be made for want of these products' data."""
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


def _of_same_window(*assets: str) -> Find:
    """Ingredients that are the same partition of other assets, and catalogues; all must be there."""

    def find(archive: "Archive", settings: "Settings", partition: str) -> Ingredients | None:
        found = [usable(archive, a, None if RECIPES[a].grain == "catalogue" else partition) for a in assets]
        products = tuple(product for product in found if product is not None)
        return Ingredients(products) if len(products) == len(assets) else None

    return find


def _catalogue_files(archive: "Archive", settings: "Settings", partition: str) -> Ingredients:
    """The imported catalogues are files outside the archive; other bytes are another catalogue, another time of change is not."""
    facts = [f"{path}:{_content(path)}" if path.exists() else f"{path}:missing" for path in settings.catalogues]
    return Ingredients(facts={"catalogues": facts})


def _content(path: "Path") -> str:
    """A file's digest, read once while its stamp stays."""
    facts = path.stat()
    return _digest(path, facts.st_size, facts.st_mtime_ns, facts.st_ctime_ns)


@lru_cache(maxsize=64)
def _digest(path: "Path", *stamp: int) -> str:
    from dsa110_assets.archive import files

    return files.digest(path)


def _inbox_files(archive: "Archive", settings: "Settings", partition: str) -> Ingredients | None:
    from dsa110_assets.orchestration import inbox

    start = timegrid.parse_key(partition)
    around = (_key(start + sign * inbox.NAME_SKEW) for sign in (-1, 1))
    current = archive.current("subband_group", partition)
    own = frozenset(current.settings.get("files", ()) if current else ())
    found = inbox.find_group(settings.inbox, partition, settings.subbands, inbox.known(archive, *around), own)
    if found is None:
        return None
    group, identities = found
    return Ingredients(facts={"files": list(identities)}, prepared=group)


def _transit_sets(archive: "Archive", settings: "Settings", night: str) -> Ingredients | None:
    """The measurement sets in which a calibrator transits that night, with the transit of each."""
    from dsa110_assets.orchestration import calibrators

    sky, catalog = usable(archive, "sky_model", None), usable(archive, "calibrator_catalog", None)
    if sky is None or catalog is None:
        return None
    observed = calibrators.observed_transits(all_usable(archive, "measurement_set", night, night), calibrators.known(archive))
    if not observed:
        return None
    facts = {"transits": [f"{transit.calibrator.name}@{product.partition}" for product, transit in observed]}
    return Ingredients((*(product for product, _ in observed), sky, catalog), facts, prepared=observed)


def _chosen_tables(archive: "Archive", settings: "Settings", partition: str) -> Ingredients | None:
    """The measurement set, the tables chosen for its time, and the sky it is compared with. WaitingError without tables."""
    from dsa110_assets.archive import caltable_registry
    from dsa110_assets.orchestration import calibrators

    product, sky = usable(archive, "measurement_set", partition), usable(archive, "sky_model", None)
    if product is None or sky is None:
        return None
    made = archive.current("calibrated_ms", partition, removed=True)
    used = caltable_registry.used_by(made.metadata) if made else frozenset()
    choice, tables = calibrators.choose_for(archive, settings, product, used=used)
    facts: dict[str, Any] = {"caltable_set": choice.nearest.set_id.partition("/")[2]}
    if len(choice.sets) > 1:
        facts["caltable_sets"] = [one.set_id.partition("/")[2] for one, _ in choice.in_time_order]
    return Ingredients((product, *tables, sky), facts, prepared=choice)


def _tiles_of_hour(archive: "Archive", settings: "Settings", hour: str) -> Ingredients | None:
    """The hour's tiles and the last two before and first two after it, of the hour's own strip. Tiles of the hour that are
    of another are named, so that one that comes later is not passed over in silence."""
    start = timegrid.parse_key(hour)
    within = all_usable(archive, "tile_image", hour, _key(start + timegrid.HOUR - timegrid.OBSERVATION_WINDOW))
    if not within:
        return None
    before = all_usable(archive, "tile_image", _key(start - timegrid.HOUR), _key(start - timegrid.OBSERVATION_WINDOW))
    after = all_usable(
        archive,
        "tile_image",
        _key(start + timegrid.HOUR),
        _key(start + 2 * timegrid.HOUR - timegrid.OBSERVATION_WINDOW),
    )
    decs = sorted(_dec(product) for product in within)
    strip = decs[len(decs) // 2]
    tiles = [*before[-NEIGHBOUR_TILES:], *within, *after[:NEIGHBOUR_TILES]]
    elsewhere = [product.id for product in within if abs(_dec(product) - strip) > STRIP_TOLERANCE_DEG]
    facts = {"left_out": elsewhere} if elsewhere else {}
    return Ingredients(tuple(p for p in tiles if abs(_dec(p) - strip) <= STRIP_TOLERANCE_DEG), facts)


def _mosaic_and_known(archive: "Archive", settings: "Settings", hour: str) -> Ingredients | None:
    """The hour's mosaic, the catalogue, and earlier hours that discovered something: their names are kept."""
    mosaic, catalogue = usable(archive, "hour_mosaic", hour), usable(archive, "source_catalog", None)
    if mosaic is None or catalogue is None:
        return None
    before = all_usable(archive, "source_measurements", None, _key(timegrid.parse_key(hour) - timegrid.HOUR), removed=False)
    return Ingredients((mosaic, catalogue, *(p for p in before if p.metadata.get("n_new"))))


def _mosaics_of_night(archive: "Archive", settings: "Settings", night: str) -> Ingredients | None:
    found = all_usable(archive, "hour_mosaic", night, night)
    return Ingredients(tuple(found)) if found else None


def _night_and_past(archive: "Archive", settings: "Settings", night: str) -> Ingredients | None:
    """The night's measurements, and the light curves of the latest night before it that has any: they hold what is needed of the
    past. Measurements whose data retention took count too: without them the night would not be made anew, but lose hours.
    """
    hours = all_usable(archive, "source_measurements", night, night)
    return Ingredients((*_night_before(archive, night), *hours)) if hours else None


def _night_before(archive: "Archive", night: str) -> "list[Product]":
    """The usable light curves of the latest night before this one; [] if there are none."""
    until = night
    while True:
        day = f"{timegrid.parse_key(until) - timegrid.NIGHT:%Y-%m-%d}"
        found = archive.nights(1, "light_curves", day)
        if not found:
            return []
        if (product := usable(archive, "light_curves", found[0])) is not None:
            return [product]
        until = found[0]


def nights_until(archive: "Archive", night: str) -> "list[Product]":
    """The light curves of all nights until this one whose data are there, in order of time: together the sources' light curves."""
    return all_usable(archive, "light_curves", None, night, removed=False)


def _curves_until(archive: "Archive", settings: "Settings", night: str) -> Ingredients | None:
    """The night's light curves, and which nights are searched with them: their number and a digest of what they hold.

    Not each as an input: a thousand nights would have half a million of those. What a night's light curves were made from leads
    back through all earlier ones.
    """
    product = usable(archive, "light_curves", night)
    if product is None:
        return None
    digests = archive.digests("light_curves", night)
    told = xxhash.xxh3_128_hexdigest("\n".join(f"{key} {digest}" for key, digest in sorted(digests.items())).encode())
    return Ingredients((product,), {"nights_searched": {"number": len(digests), "digest": told}})


def _night(archive: "Archive", settings: "Settings", night: str) -> Ingredients | None:
    """Everything the night has to show; its light curves, or at least a tile, must be there."""
    assets = (
        "caltables",
        "tile_image",
        "hour_mosaic",
        "source_measurements",
        "night_mosaic",
        "light_curves",
        "variability",
    )
    found = [product for asset in assets for product in archive.products(asset, night, night)]
    return Ingredients(tuple(found)) if found else None


def _key(moment: Any) -> str:
    return str(moment.strftime("%Y-%m-%dT%H:%M"))


def _dec(product: "Product") -> float:
    return float(product.metadata["pointing_dec_deg"])


def _averaging(settings: "Settings") -> dict[str, Any]:
    return {"average_channels": settings.average_channels, "average_times": settings.average_times}


ORDER = (
    Recipe("source_catalog", "catalogue", "2", _catalogue_files, lambda s: {"catalogue_frequencies_mhz": s.catalogue_frequencies_mhz}),
    Recipe("calibrator_catalog", "catalogue", "2", _of_same_window("source_catalog")),
    Recipe("sky_model", "catalogue", "2", _of_same_window("source_catalog")),
    Recipe("subband_group", "observation", "1", _inbox_files, lambda s: {"subbands": s.subbands}),
    Recipe(
        "measurement_set",
        "observation",
        "5",
        _of_same_window("subband_group"),
        lambda s: {"flagging": s.flagging, "reader_engine": s.reader_engine},
    ),
    Recipe("caltables", "night", "5", _transit_sets, lambda s: {"solve": s.solve, "solve_engine": s.solve_engine}),
    Recipe(
        "calibrated_ms",
        "observation",
        "5",
        _chosen_tables,
        lambda s: {"solve_engine": s.solve_engine, "epoch": s.epoch, **_averaging(s)},
    ),
    Recipe(
        "tile_image",
        "observation",
        "5",
        _of_same_window("calibrated_ms", "sky_model"),
        lambda s: {"imaging": s.imaging, "imaging_engine": s.imaging_engine},
    ),
    Recipe("hour_mosaic", "hour", "3", _tiles_of_hour, lambda s: {"coadd": s.coadd}),
    Recipe(
        "source_measurements",
        "hour",
        "4",
        _mosaic_and_known,
        lambda s: {"photometry": s.photometry},
    ),
    Recipe("night_mosaic", "night", "3", _mosaics_of_night, lambda s: {"coadd": s.coadd}),
    Recipe("light_curves", "night", "4", _night_and_past, lambda s: {"ensemble": s.ensemble}),
    Recipe("variability", "night", "4", _curves_until, lambda s: {"variability": s.variability}),
    Recipe("night_report", "night", "2", _night),
)
"""All assets, each after everything it is made from."""

RECIPES: dict[str, Recipe] = {recipe.asset: recipe for recipe in ORDER}
