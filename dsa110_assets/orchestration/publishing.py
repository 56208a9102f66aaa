"""How an asset's body ends: publish what science wrote, judge it by the asset's rules, report to Dagster.

An observation's HARD rules are judged before its product becomes visible: a product that breaks one is never
published. Hour and night products are published first, as evidence, but a broken blocking rule holds them:
nothing is made from a held product, and Dagster's partition-aware blocking check fails their run.
"""

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import cache
from importlib import metadata as distributions
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dagster as dg
import xxhash

from dsa110_assets import heap
from dsa110_assets.archive import files, lineage, naming, quarantine
from dsa110_assets.archive.product import HELD, VERDICTS
from dsa110_assets.errors import ConfigurationError, OverrunError, SilentWrongnessError, WaitingError
from dsa110_assets.orchestration import instance, plan, policy, recipes, requests, room, rules, spec
from dsa110_assets.orchestration.resources import Platform

if TYPE_CHECKING:
    from dsa110_assets.archive.product import Product
    from dsa110_assets.archive.publish import Draft
    from dsa110_assets.archive.store import Archive

TRIAL_TAG = "dsa110/trial"
"""On a run that made products of a trial: its name."""
NOTHING_TAG = "dsa110/nothing_made"
"""On a run of which an asset had nothing to be made from: why."""
VERSION_TAG = "dagster/data_version"
"""On a materialisation that no run reports; in a run Dagster writes it, with the versions of the inputs."""
MOST_TOLD = 200
PREVIEW_BYTES = 20_000
LOCKS = 256
_LIBRARIES = (
    "aoflagger",
    "astropy",
    "casatasks",
    "ducc0",
    "numba",
    "numpy",
    "python-casacore",
    "reproject",
    "scipy",
)
Make = Callable[[recipes.Ingredients, "Draft"], Mapping[str, Any]]


class Stages:
    """Seconds each named stage of a step took."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        """Time a block under this name."""
        began = time.perf_counter()
        yield
        self.seconds[f"{name}_s"] = round(time.perf_counter() - began, 3)


def produce(context: dg.AssetExecutionContext, platform: Platform, make: Make) -> dg.MaterializeResult[Any] | None:
    """Make this step's asset for its partition: find inputs, `make` into the draft, judge, publish, report.

    `make(ingredients, draft)` writes into `draft.path` and returns the figures. A product that is up to date is
    reported again, not made again, so that a run the platform asked for twice changes nothing; a run asked for by hand makes it
    anew. None when the partition has nothing to be made from, and for a trial, of which Dagster is told by an observation: a
    materialisation would be science's.
    """
    from dsa110_assets.archive import integrity

    asset = context.asset_key.to_user_string()
    partition = context.partition_key if context.has_partition_key else None
    specified = spec.assets()[asset]
    instance.claim(context.instance, context.run)
    instance.give_way(context.run)
    with (
        requests.failure_noted(context.instance, context.run.run_id) as making,
        policy.decided(context.retry_number),
        _set_aside_if_hung(context, platform, partition),
        _alone(platform.archive, asset, partition),
        heap.kept(),
    ):
        _refuse_range(context)
        archive, settings = platform.archive, platform.settings
        integrity.settle(archive, naming.in_trial(asset, archive.trial), partition)
        ingredients = specified.find(archive, settings, partition or "")
        if ingredients is None:
            _tell_nothing_made(context, plan.lacking(archive, settings, asset, partition))
            return None
        making.request = specified.request(settings, partition, ingredients)
        current = archive.current(asset, partition, check=True, removed=True)
        if current and _is_done(context, platform, current, ingredients):
            context.log.info(f"{current.id} is up to date{'; retention has taken its data' if current.removed else ''}")
            return _told(context, current, rules.from_metadata(asset, current.metadata))
        if gone := spec.without_data(archive, asset, ingredients):
            raise WaitingError(recipes.told_without(asset, partition, gone))
        began, through = time.perf_counter(), [p.id for p in spec.read_through(archive, asset, ingredients)]
        room.require(platform, asset, ingredients)
        with (
            archive.hold(*through) if through else nullcontext(),
            archive.publish(
                asset,
                partition,
                ingredients.ids,
                settings=specified.settings(settings, ingredients),
                code_version=specified.code_version,
                run_id=context.run.run_id,
                engines=engines(),
            ) as draft,
        ):
            draft.metadata.update(make(ingredients, draft))
            draft.metadata.update(spec.made_otherwise(archive, settings, ingredients.products))
            draft.metadata["seconds"] = round(time.perf_counter() - began, 3)
            if refused := platform.refused_thresholds:
                draft.metadata["thresholds_refused"] = refused
            verdicts = rules.judge(asset, draft.metadata, platform.thresholds)
            _gate(context, specified.grain, verdicts, archive.trial)
            draft.metadata.update(rules.to_metadata(verdicts))
            if broken := [v for v in verdicts if v.hard and not v.passed]:
                draft.metadata[HELD] = "; ".join(f"{v.check}: {v.reason}" for v in broken)
        return _told(context, draft.product, verdicts)


def _told(context: dg.AssetExecutionContext, product: "Product", verdicts: list[rules.Verdict]) -> dg.MaterializeResult[Any] | None:
    """Report a product: of science as what the step has made, of a trial as an observation and on the run."""
    if not product.trial:
        return report(product, verdicts)
    said = "; ".join(f"{v.check}: {v.reason}" for v in verdicts if not v.passed) or "no check failed"
    metadata = {"trial": product.trial, "checks": said, **materialization_metadata(product)}
    told = f"{product.id}, of the trial {product.trial}: {said}"
    context.log_event(dg.AssetObservation(context.asset_key, partition=product.partition, description=told, metadata=metadata))
    context.instance.add_run_tags(context.run.run_id, {TRIAL_TAG: product.trial})
    return None


def _refuse_range(context: dg.AssetExecutionContext) -> None:
    """ConfigurationError for a run over a range: its first bad window would end the others, and its results would count for all."""
    if context.has_partition_key_range:
        first, last = context.partition_key_range
        raise ConfigurationError(
            f"{context.asset_key.to_user_string()} {first} to {last} in one run: every partition is a run of its own; "
            "launch the range as multiple runs, or with: dsa110 backfill --nights D1..D2 --asset A"
        )


def _tell_nothing_made(context: dg.AssetExecutionContext, reason: str) -> None:
    """Say on the asset's page, in the run's log and in the list of runs why a run that succeeds has made nothing."""
    partition = context.partition_key if context.has_partition_key else None
    told = f"{context.asset_key.to_user_string()} {partition or ''}".strip() + f": nothing to make it from: {reason}"
    context.log.warning(told)
    context.log_event(
        dg.AssetObservation(context.asset_key, partition=partition, description=told, metadata={"made": False, "reason": reason})
    )
    context.instance.add_run_tags(context.run.run_id, {NOTHING_TAG: told[:MOST_TOLD]})


def _is_done(context: dg.AssetExecutionContext, platform: Platform, product: "Product", ingredients: recipes.Ingredients) -> bool:
    """Whether nothing is to be made: nobody asked for it by hand, it is up to date, and nothing needs what retention took of it."""
    archive, settings = platform.archive, platform.settings
    if instance.LANE_TAG not in context.run.tags or product.trial != archive.trial:
        return False
    if spec.assets()[product.asset].stale(archive, product, settings, ingredients) is not None:
        return False
    return not product.removed or plan.needed_again(archive, settings, product) is None


@contextmanager
def _set_aside_if_hung(context: dg.AssetExecutionContext, platform: Platform, partition: str | None) -> Iterator[None]:
    """An observation whose child hung to the last attempt is quarantined: it would hang whoever comes next."""
    try:
        yield
    except OverrunError as error:
        raw = [] if platform.archive.trial else subband_files(platform, partition)
        if raw and policy.last_attempt(error, context.retry_number):
            reason = f"{context.asset_key.to_user_string()}: {str(error).splitlines()[0]}"
            quarantine.quarantine(platform.archive, raw, reason, partition)
        raise


def subband_files(platform: Platform, partition: str | None) -> list[Path]:
    """The raw files of an observation, as its manifest names them; [] for hours and nights."""
    product = platform.archive.current("subband_group", partition) if partition else None
    return [Path(file.path) for file in lineage.raw_files(product)] if product else []


def _alone(archive: "Archive", asset: str, partition: str | None) -> AbstractContextManager[None]:
    """One process at a time makes a partition of an asset, whoever asked twice; the other then finds it up to date.

    The lock is one of a fixed number of files, so that they do not pile up, and dies with its process.
    """
    places, what = archive.root / ".locks", f"{naming.in_trial(asset, archive.trial)} {partition}"
    places.mkdir(exist_ok=True)
    return files.locked(places / f"{xxhash.xxh3_64_intdigest(what.encode()) % LOCKS:03d}")


def _gate(context: dg.AssetExecutionContext, grain: spec.Grain, verdicts: list[rules.Verdict], trial: str) -> None:
    """Before an observation's product is visible: a broken HARD rule is reported as a failed check, and raises.

    What a trial makes is published whatever its rules say, which is what one tries; nothing else is made from it.
    """
    broken = [verdict for verdict in verdicts if verdict.hard and not verdict.passed]
    if grain != "observation" or not broken or trial:
        return
    for verdict in verdicts:
        context.log_event(
            dg.AssetCheckEvaluation(
                asset_key=context.asset_key,
                check_name=verdict.check,
                passed=verdict.passed,
                metadata=_metadata({**verdict.figures, "partition": context.partition_key, "reason": verdict.reason}),
                description=verdict.reason or None,
                severity=verdict.severity,
            )
        )
    raise SilentWrongnessError(
        f"{context.asset_key.to_user_string()} {context.partition_key}: not published: "
        + "; ".join(f"{v.check}: {v.reason}" for v in broken)
    )


def report(product: "Product", verdicts: list[rules.Verdict]) -> dg.MaterializeResult[Any]:
    """What Dagster is told about a published product: numbers, path, inputs, preview, the checks, and its bytes' version.

    By these versions Dagster itself says what has become stale, as the archive does: equal bytes are the same input.
    """
    return dg.MaterializeResult(
        metadata=materialization_metadata(product),
        data_version=dg.DataVersion(product.digest),
        check_results=[
            dg.AssetCheckResult(
                check_name=verdict.check,
                passed=verdict.passed,
                severity=verdict.severity,
                description=verdict.reason or None,
                metadata=_metadata({**verdict.figures, "partition": product.partition or "", "product": product.id}),
            )
            for verdict in verdicts
        ],
    )


def materialization_metadata(product: "Product") -> dict[str, Any]:
    """A product's figures as Dagster's metadata: numbers it plots, path, inputs and a small preview."""
    told = _metadata({k: v for k, v in product.metadata.items() if k != VERDICTS})
    inputs = "\n".join(f"- `{i}`" for i in product.inputs) or "- the inbox or a packaged catalogue"
    told |= {
        "product": product.id,
        "path": dg.MetadataValue.path(str(product.path)),
        "size_bytes": product.size_bytes,
        "inputs": dg.MetadataValue.md(inputs),
    }
    preview = product.path / "preview.png"
    if preview.is_file() and preview.stat().st_size <= PREVIEW_BYTES:
        told["preview"] = dg.MetadataValue.md(f"![{product.id}]({data_uri(preview)})")
    return told


def fits_cards(context: dg.AssetExecutionContext, platform: Platform, found: recipes.Ingredients, anchor: str) -> dict[str, str]:
    """What an image's FITS headers say of its origin: the product, its inputs, code version, run and flux anchor.

    The product is named without its version, which only publishing decides; with the run it is unmistakable.
    """
    from dsa110_assets import __version__

    asset = context.asset_key.to_user_string()
    named = naming.in_trial(asset, platform.archive.trial)
    return {
        "ORIGIN": f"dsa110_assets {__version__}",
        "PRODUCT": f"{named}-{naming.compact(context.partition_key)}",
        "CODEVER": spec.assets()[asset].code_version,
        "RUNID": context.run.run_id,
        "ANCHOR": anchor,
        **{f"INPUT{number:03d}": product_id for number, product_id in enumerate(found.ids, start=1)},
    }


def data_uri(png: Path) -> str:
    """A PNG as a data: URI, so that pages and events hold their pictures themselves."""
    from base64 import b64encode

    return f"data:image/png;base64,{b64encode(png.read_bytes()).decode()}"


@cache
def engines() -> dict[str, str]:
    """Versions of the libraries that compute, as recorded with every product."""
    found = {}
    for name in _LIBRARIES:
        try:
            found[name] = distributions.version(name)
        except distributions.PackageNotFoundError:
            continue
    return found


def _metadata(figures: Mapping[str, Any]) -> dict[str, Any]:
    """Figures in types Dagster takes; what has no value (NaN, None) is left out, for a plot has no NaN."""
    told: dict[str, Any] = {}
    for name, value in figures.items():
        if value is None or (isinstance(value, float) and value != value):
            continue
        if isinstance(value, bool):
            told[name] = dg.MetadataValue.bool(value)
        elif isinstance(value, int | str):
            told[name] = value
        elif isinstance(value, float):
            told[name] = dg.MetadataValue.float(value)
        else:
            told[name] = dg.MetadataValue.json(value)
    return told
