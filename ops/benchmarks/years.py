"""Cost of regular operations on an archive of years: CPU seconds by number of nights.

The last three nights are complete (an observation every 5 minutes, every product that the planner would make, with files). Earlier
nights are index rows of twelve observations each, with their data removed by retention, and a file of light curves.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import derived
import lightcurves
import scaling
from common import Contender, Data, Row, compare

if TYPE_CHECKING:
    from dsa110_assets.archive.product import Product
    from dsa110_assets.archive.store import Archive
    from dsa110_assets.orchestration.specification.recipes import Ingredients
    from dsa110_assets.settings import Settings

NIGHTS = (10, 100, 300, 1000)
WHOLE, OBSERVATIONS_BEFORE, SOURCES = 3, 12, 10_000
NAMES = ("NVSS J000100+161612", "NVSS J000200+161612")
LAST = datetime(2026, 3, 10, tzinfo=UTC)
NOW = LAST + timedelta(days=1, hours=3)
"""The simulated present: all products of the last night are made, and nothing of the next night was observed."""
CURVES = {
    "tick of the planner": ("planner", 0.0),
    "tick of the inbox": ("inbox_tick", 0.0),
    "ticks of the other sensors": ("others", 0.0),
    "plan of the last three days": ("plan_of_days", 0.0),
    "`process` of the last night, nothing to do": ("nothing_to_do", 0.0),
    "`status`": ("status", 0.0),
    "portal's front page": ("front_page", 0.0),
    "a scrape of the portal's metrics": ("scrape", 0.0),
    "portal's candidates": ("candidates_page", 0.0),
    "portal's sources": ("sources_page", 0.0),
    "portal's page of a source, not asked for before": ("source_page", 1.0),
    "thumbnail of a source, not asked for before": ("thumbnail", 1.0),
    "the API's queue": ("queue", 0.0),
    "a light curve": ("light_curve", 1.0),
    "`archive retain --dry-run`": ("retain", 1.0),
}
"""By name: the function that does the work, and the power of the number of nights with which its cost may grow."""


REMARK = "seconds of CPU, the second of two; the first column is that of the most nights"


def rows(data: Data, repeats: int) -> list[Row]:
    places = {nights: str(derived.once(data.scratch / f"years-{nights}", make, nights=nights)) for nights in NIGHTS}
    found = compare(
        [
            Contender(name, "dsa110_assets", measure, {"function": function, "places": places, "theory": theory}, REMARK)
            for name, (function, theory) in CURVES.items()
        ]
    )
    scaling.plot(found, Path(__file__).with_name("years.png"), "nights", "s of CPU")
    return found


def measure(function: str, places: dict[str, str], theory: float) -> dict[str, Any]:
    """CPU seconds of one of the functions below for each number of nights."""
    import time

    import numpy as np

    seconds = {}
    for nights, place in places.items():
        work = globals()[function](settings_of(Path(place)))
        work()
        began = time.process_time()
        work()
        seconds[int(nights)] = time.process_time() - began
    exponent = np.polyfit(np.log(list(seconds)[1:]), np.log(list(seconds.values())[1:]), 1)[0]
    most = seconds[max(seconds)]
    return {"wall_s": most, "exponent": float(exponent), "theory": theory, **{f"s at {nights}": value for nights, value in seconds.items()}}


def settings_of(place: Path) -> Settings:
    """Settings of one archive. Also sets the clock to after its last night."""
    os.environ["DSA110_START"] = "2023-01-01"
    from dsa110_assets import settings
    from dsa110_assets.orchestration import graph
    from dsa110_assets.orchestration.ingest import inbox

    assert graph.PHASES  # every asset is registered from here on
    inbox.now_s = NOW.timestamp
    (place / "inbox").mkdir(parents=True, exist_ok=True)
    small_disk = Path(__file__).parents[1] / "small_disk.toml"
    return settings.load(inbox=place / "inbox", archive=place / "archive", DAGSTER_HOME=place / "home", thresholds=small_disk)


def tick(settings: Settings, *names: str) -> Callable[[], object]:
    """Ticks of these sensors as the daemon evaluates them; none may request a run."""
    import dagster as dg

    from dsa110_assets.definitions import defs
    from dsa110_assets.orchestration.resources import Platform
    from dsa110_assets.orchestration.running import instance as instances

    repository, platform, dagster = defs.get_repository_def(), Platform(settings), instances.open_instance(settings.dagster_home)

    def work() -> None:
        for name in names:
            context = dg.build_sensor_context(instance=dagster, repository_def=repository, resources={"platform": platform})
            asked = repository.get_sensor_def(name).evaluate_tick(context).run_requests
            assert not asked, [(request.tags, request.partition_key) for request in asked]

    return work


def planner(settings: Settings) -> Callable[[], object]:
    return tick(settings, "planner")


def inbox_tick(settings: Settings) -> Callable[[], object]:
    return tick(settings, "inbox")


def others(settings: Settings) -> Callable[[], object]:
    return tick(settings, "alerts", "orphaned_runs")


def plan_of_days(settings: Settings) -> Callable[[], object]:
    from dsa110_assets.archive.store import Archive
    from dsa110_assets.orchestration.planning import plan

    archive, span = Archive(settings.archive), plan.Span(NOW - timedelta(days=3), NOW)

    def work() -> None:
        assert plan.missing(archive, settings, span) == ([], [])

    return work


def nothing_to_do(settings: Settings) -> Callable[[], object]:
    from dsa110_assets.orchestration.running.process import process

    def work() -> None:
        report = process(settings, since=LAST)
        assert (report.made, report.failed) == ((), ())

    return work


def status(settings: Settings) -> Callable[[], object]:
    from functools import partial

    from dsa110_assets.analyst import AnalystArchive
    from dsa110_assets.archive.store import Archive
    from dsa110_assets.orchestration.planning import plan
    from dsa110_assets.portal import overview

    archive = AnalystArchive(Archive(settings.archive))
    return lambda: overview.status(archive, settings.inbox, NOW, partial(plan.scan_for_display, settings=settings))


def front_page(settings: Settings) -> Callable[[], object]:
    return page(settings, "/")


def scrape(settings: Settings) -> Callable[[], object]:
    return page(settings, "/metrics")


def candidates_page(settings: Settings) -> Callable[[], object]:
    return page(settings, "/candidates")


def sources_page(settings: Settings) -> Callable[[], object]:
    return page(settings, "/sources")


def source_page(settings: Settings) -> Callable[[], object]:
    return page(settings, *(f"/sources/{name}" for name in NAMES))


def thumbnail(settings: Settings) -> Callable[[], object]:
    return page(settings, *(f"/sources/{name}/spark.svg" for name in NAMES))


def queue(settings: Settings) -> Callable[[], object]:
    return page(settings, "/api/v1/queue")


def page(settings: Settings, *paths: str) -> Callable[[], object]:
    """Requests of these pages, each call for the next in turn."""
    from functools import partial
    from itertools import cycle

    from dsa110_assets.orchestration.planning import plan
    from dsa110_assets.portal.app import create_app
    from dsa110_assets_tests.portal.conftest import ask

    look = partial(plan.scan_for_display, settings=settings)
    app, asked = create_app(settings.archive, inbox=settings.inbox, look=look, settings=settings), cycle(paths)

    def work() -> None:
        answer = ask(app, next(asked))
        assert answer.status == 200, answer.text

    return work


def light_curve(settings: Settings) -> Callable[[], object]:
    from dsa110_assets.analyst import AnalystArchive
    from dsa110_assets.archive.store import Archive

    archive = AnalystArchive(Archive(settings.archive))

    def work() -> None:
        assert len(archive.light_curve(NAMES[0])) == len(archive.store.products("light_curves"))

    return work


def retain(settings: Settings) -> Callable[[], object]:
    from dsa110_assets.archive.store import Archive
    from dsa110_assets.orchestration.watching import housekeeping
    from dsa110_assets.thresholds import Thresholds

    archive = Archive(settings.archive)
    return lambda: housekeeping.apply_retention(archive, Thresholds(), dry_run=True)


def make(nights: int, out: str) -> dict[str, Any]:
    """Make an archive of `nights` nights in `out`, with the real catalogues and everything else synthetic."""
    settings = settings_of(Path(out))
    from dsa110_assets.archive.store import Archive
    from dsa110_assets.orchestration.running.process import process

    process(settings, through="sky_model")
    keys = [f"{LAST - timedelta(days=n):%Y-%m-%d}" for n in range(nights)][::-1]
    curves = Path(out) / "curves"
    lightcurves.make(SOURCES, nights, str(curves))
    with Archive(settings.archive) as archive:
        insert(archive, (one for night in keys[:-WHOLE] for one in before(archive, night)))
        for night, folder in zip(keys, sorted(curves.iterdir()), strict=True):
            place = archive.root / directory("light_curves", night)
            place.parent.mkdir(parents=True)
            folder.rename(place)
        whole(archive, settings, keys[-WHOLE:])
    return {}


def directory(asset: str, key: str) -> Path:
    from dsa110_assets.archive.naming import ProductName

    return Path(ProductName(asset, key, 1).directory)


def before(archive: Archive, night: str) -> Iterator[tuple[dict[str, Any], list[str]]]:
    """Index rows of an old night, each with its inputs."""
    hour = f"{night}T00:00"
    for number in range(OBSERVATIONS_BEFORE):
        key, above = f"{night}T00:{5 * number:02d}", ""
        for asset in ("subband_group", "measurement_set", "calibrated_ms", "tile_image"):
            yield row(asset, key, removed=asset in ("measurement_set", "calibrated_ms")), [above] if above else []
            above = identity(asset, key)
    yield row("hour_mosaic", hour), [identity("tile_image", f"{night}T00:{5 * number:02d}") for number in range(OBSERVATIONS_BEFORE)]
    yield row("source_measurements", hour), [identity("hour_mosaic", hour)]
    for asset in ("caltables", "night_mosaic", "light_curves", "variability", "night_report"):
        yield row(asset, night), [identity("source_measurements", f"{night}T00:00")] if asset == "light_curves" else []


def whole(archive: Archive, settings: Settings, nights: Sequence[str]) -> None:
    """Insert complete nights: all partitions of each asset with the inputs that its specification finds, and a file each."""
    from dsa110_assets.orchestration import graph

    for grain, assets in [phase for phase in graph.PHASES[1:] if phase[0] != "request"]:
        for asset in assets:
            for night in nights:
                insert(archive, of_night(archive, settings, asset, grain, night))


def of_night(archive: Archive, settings: Settings, asset: str, grain: str, night: str) -> Iterator[tuple[dict[str, Any], list[str]]]:
    """Index rows of an asset's partitions of a night, each with its inputs. Caltables are published directly instead."""
    from dsa110_assets.orchestration import graph
    from dsa110_assets.orchestration.planning import plan
    from dsa110_assets.orchestration.specification import recipes
    from dsa110_assets.telescope import timegrid

    start, find = timegrid.parse_key(night), graph.specifications()[asset].find
    observed = [timegrid.key(start + timedelta(minutes=5 * n)) for n in range(288)]
    there = plan.snapshot_of_span(archive, plan.Span(start, start + timegrid.NIGHT))
    for key in {"observation": observed, "hour": observed[::12], "night": [night]}[grain]:
        files = [f"{key}:10_sb{s:02d}.hdf5:146000000:1" for s in range(16)]
        found = recipes.Ingredients(facts={"files": files}) if asset == "subband_group" else find(there, settings, key)
        assert found is not None, f"{asset} {key} has nothing to be made from"
        if asset == "caltables":
            tables(archive, settings, night, found)
        else:
            yield of_now(archive, settings, asset, key, found), list(found.ids)


def tables(archive: Archive, settings: Settings, night: str, found: Ingredients) -> Product:
    """Publish the night's calibration: a set for noon that is valid for the whole night."""
    from dsa110_assets.archive import caltable_registry
    from dsa110_assets.orchestration import graph

    known, mjd = graph.specifications()["caltables"], middle(night) + 0.5
    with archive.publish(
        "caltables", night, found.ids, settings=known.settings(settings, found), code_version=known.code_version, run_id="r"
    ) as draft:  # fmt: skip
        (draft.path / "data").write_text("x")
        caltable_registry.register(
            draft, "C-1", ["data"], mid_mjd=mjd, valid_start_mjd=mjd - 0.5, valid_end_mjd=mjd + 0.5, dec_deg=16.27,
            antennas=["1"], calibrator="C", anchor="C",
        )  # fmt: skip
    return draft.product


def of_now(archive: Archive, settings: Settings, asset: str, key: str, found: Ingredients) -> dict[str, Any]:
    """The index row of a product as its asset would be made now. Also writes its file, except for light curves, which have one."""
    from dsa110_assets.archive import files
    from dsa110_assets.orchestration import graph

    place, known = archive.root / directory(asset, key), graph.specifications()[asset]
    place.mkdir(parents=True, exist_ok=True)
    if asset == "variability":
        search(archive, settings, place)
    elif asset != "light_curves":
        (place / "data").write_text("x")
    (place / "product.json").write_text("{}")
    told = {"settings": json.dumps(known.settings(settings, found)), "code_version": known.code_version}
    return {**row(asset, key), **told, "size_bytes": files.size(place)}


def search(archive: Archive, settings: Settings, place: Path) -> None:
    """Search all nights for candidates and write them into a product."""
    from dsa110_assets.archive.light_curves import Nights
    from dsa110_assets.variability import candidates, curves
    from dsa110_assets.variability.options import VARIABILITY_FILE

    nights = Nights.of([product.path for product in archive.products("light_curves")])
    candidates.search(curves.OnDisk(nights), settings.variability).to_parquet(place / VARIABILITY_FILE)


def middle(key: str) -> float:
    from dsa110_assets.telescope import timegrid

    return timegrid.datetime_to_mjd(timegrid.parse_key(key))


def identity(asset: str, key: str) -> str:
    from dsa110_assets.archive.naming import ProductName

    return ProductName(asset, key, 1).id


def row(asset: str, key: str, *, removed: bool = False) -> dict[str, Any]:
    """A row of the product index."""
    import xxhash

    start = middle(key)
    figures = {
        "mjd_start": start, "mjd_end": start + 0.0035, "pointing_dec_deg": 16.27, "antennas": ["1"], "caltable_set": "C-1",
        "rms_jy": 0.002, "n_subbands": 16, "frequency_hz": 1.4e9,
    }  # fmt: skip
    if asset == "source_measurements":
        figures["known_sources"] = {f"{number:02d}": "" for number in range(24)}
    return {
        "id": identity(asset, key), "asset": asset, "partition_key": key, "version": 1, "settings": "{}", "engines": "{}",
        "metadata": json.dumps(figures), "code_version": "1", "run_id": "r", "size_bytes": 1,
        "digest": xxhash.xxh3_128_hexdigest(f"{asset} {key}".encode()),
        "created_at": f"{key[:10]}T23:00:00.000000+00:00", "state": "current", "reason": None, "pinned": False, "removed": removed,
    }  # fmt: skip


def insert(archive: Archive, made: Iterable[tuple[dict[str, Any], Sequence[str]]]) -> None:
    """Put rows and their inputs into the index."""
    from dsa110_assets.archive import index

    products = list(made)
    inputs = [
        {"product_id": product["id"], "position": position, "input_id": one}
        for product, above in products
        for position, one in enumerate(above)
    ]

    def work(connection: Any) -> None:
        if products:
            connection.execute(index.products.insert(), [product for product, _ in products])
        if inputs:
            connection.execute(index.product_inputs.insert(), inputs)

    archive.index.write(work)
