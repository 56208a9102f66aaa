"""The publishing rule: a product is judged by its asset's rules before anything can be made from it.

An observation's HARD rules are judged before its product becomes visible: a product that breaks one is never
published. Hour and night products are published first, as evidence, but a broken blocking rule holds them:
nothing is made from a held product, and Dagster's partition-aware blocking check fails their run.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from functools import cache
from importlib import metadata as distributions
from typing import TYPE_CHECKING

import dagster as dg

from dsa110_assets import tracing
from dsa110_assets.archive import counters
from dsa110_assets.archive.product import HELD
from dsa110_assets.errors import SilentWrongnessError
from dsa110_assets.orchestration.judging import rules
from dsa110_assets.orchestration.running import reporting
from dsa110_assets.orchestration.specification import spec

if TYPE_CHECKING:
    from dsa110_assets.archive.publish import Draft
    from dsa110_assets.orchestration.resources import Platform
    from dsa110_assets.orchestration.specification.recipes import Ingredients

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


@contextmanager
def judged_draft(
    context: dg.AssetExecutionContext, platform: "Platform", asset: spec.Asset, ingredients: "Ingredients", follows: int
) -> Iterator["Draft"]:
    """A draft of the step's product: the block writes into it and adds its figures. Then the draft is judged, and published if the last
    version is still the one that it `follows`.

    The archive meanwhile keeps the products that are read through the inputs. Raises SilentWrongnessError, and publishes nothing, if an
    observation breaks a HARD rule.
    """
    archive, settings, began = platform.archive, platform.settings, time.perf_counter()
    partition = context.partition_key if context.has_partition_key else None
    through = [product.id for product in spec.read_through(archive, asset.name, ingredients)]
    with (
        archive.hold(*through) if through else nullcontext(),
        archive.publish(
            asset.name,
            partition,
            ingredients.ids,
            settings=asset.settings(settings, ingredients),
            code_version=asset.code_version,
            run_id=context.run.run_id,
            engines=engines(),
            follows=follows,
        ) as draft,
    ):
        yield draft
        draft.metadata.update(spec.outdated_inputs(archive, settings, ingredients.products))
        draft.metadata["seconds"] = round(time.perf_counter() - began, 3)
        limits = platform.thresholds
        draft.metadata["thresholds"] = limits.model_dump(mode="json", exclude_defaults=True)
        if refused := platform.refused_thresholds:
            draft.metadata["thresholds_refused"] = refused
        if trace := tracing.here().trace:
            draft.metadata["trace_id"] = trace
        with tracing.span("judge"):
            verdicts = rules.judge(asset.name, draft.metadata, limits)
        broken = [verdict for verdict in verdicts if verdict.hard and not verdict.passed]
        if broken and asset.grain == "observation" and not archive.trial:  # a trial is published whatever its rules say
            reporting.log_failed_checks(context, verdicts)
            archive.index.write(lambda c: counters.add(c, (counters.Count(counters.REFUSALS, (asset.name, v.check)) for v in broken)))
            reasons = "; ".join(f"{v.check}: {v.reason}" for v in broken)
            raise SilentWrongnessError(f"{asset.name} {partition}: not published: {reasons}")
        draft.metadata.update(rules.to_metadata(verdicts))
        if broken:
            draft.metadata[HELD] = "; ".join(f"{v.check}: {v.reason}" for v in broken)


@cache
def engines() -> dict[str, str]:
    """Versions of the computing libraries, as recorded with every product."""
    versions = {}
    for name in _LIBRARIES:
        try:
            versions[name] = distributions.version(name)
        except distributions.PackageNotFoundError:
            continue
    return versions
