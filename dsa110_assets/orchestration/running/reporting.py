"""Reports to Dagster about a step: its product with figures and checks, or why nothing was made."""

from base64 import b64encode
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dagster as dg

from dsa110_assets.archive.product import VERDICTS
from dsa110_assets.orchestration.judging import rules

if TYPE_CHECKING:
    from dsa110_assets.archive.product import Product

TRIAL_TAG = "dsa110/trial"
"""Set on a run that made products of a trial: the trial's name."""
NOTHING_TAG = "dsa110/nothing_made"
"""Set on a run in which an asset had nothing to be made from: the reason."""
VERSION_TAG = "dagster/data_version"
"""Set on a materialisation that is reported outside a run; inside a run Dagster writes it, with the versions of the inputs."""
LONGEST_TAG = 200
PREVIEW_BYTES = 20_000


def report(context: dg.AssetExecutionContext, product: "Product") -> dg.MaterializeResult[Any] | None:
    """Report a product: a science product as the step's materialisation, a trial's product as an observation and a tag of the run.

    A trial's product is not a materialisation, because it would count as science; None is returned for it.
    """
    verdicts = rules.from_metadata(product.asset, product.metadata)
    if not product.trial:
        return materialization(product, verdicts)
    failed = "; ".join(f"{v.check}: {v.reason}" for v in verdicts if not v.passed) or "no check failed"
    metadata: dict[str, Any] = {"trial": product.trial, "checks": failed, **materialization_metadata(product)}
    description = f"{product.id}, of the trial {product.trial}: {failed}"
    context.log_event(dg.AssetObservation(context.asset_key, partition=product.partition, description=description, metadata=metadata))
    context.instance.add_run_tags(context.run.run_id, {TRIAL_TAG: product.trial})
    return None


def report_nothing_made(context: dg.AssetExecutionContext, reason: str) -> None:
    """Say on the asset's page, in the run's log and in the list of runs why a run that succeeds has made nothing."""
    partition = context.partition_key if context.has_partition_key else None
    description = f"{context.asset_key.to_user_string()} {partition or ''}".strip() + f": nothing to make it from: {reason}"
    context.log.warning(description)
    metadata: dict[str, Any] = {"made": False, "reason": reason}
    context.log_event(dg.AssetObservation(context.asset_key, partition=partition, description=description, metadata=metadata))
    context.instance.add_run_tags(context.run.run_id, {NOTHING_TAG: description[:LONGEST_TAG]})


def log_failed_checks(context: dg.AssetExecutionContext, verdicts: Iterable[rules.Verdict]) -> None:
    """Log the checks of a product that is not published, because no materialisation reports them."""
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


def materialization(product: "Product", verdicts: Iterable[rules.Verdict]) -> dg.MaterializeResult[Any]:
    """The report of a published product to Dagster: numbers, path, inputs, preview, checks, and a version from its bytes.

    From these versions Dagster itself works out what has become stale, as the archive does: equal bytes are the same input.
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
    metadata = _metadata({k: v for k, v in product.metadata.items() if k != VERDICTS})
    inputs = "\n".join(f"- `{i}`" for i in product.inputs) or "- the inbox or a packaged catalogue"
    metadata |= {
        "product": product.id,
        "path": dg.MetadataValue.path(str(product.path)),
        "size_bytes": product.size_bytes,
        "inputs": dg.MetadataValue.md(inputs),
    }
    preview = product.path / "preview.png"
    if preview.is_file() and preview.stat().st_size <= PREVIEW_BYTES:
        metadata["preview"] = dg.MetadataValue.md(f"![{product.id}]({data_uri(preview)})")
    return metadata


def data_uri(png: Path) -> str:
    """A PNG as a data: URI, so that pages and events contain their pictures."""
    return f"data:image/png;base64,{b64encode(png.read_bytes()).decode()}"


def _metadata(figures: Mapping[str, Any]) -> dict[str, Any]:
    """Figures in types that Dagster accepts. Figures without a value (NaN, None) are left out, because Dagster cannot plot NaN."""
    metadata: dict[str, Any] = {}
    for name, value in figures.items():
        if value is None or (isinstance(value, float) and value != value):
            continue
        if isinstance(value, bool):
            metadata[name] = dg.MetadataValue.bool(value)
        elif isinstance(value, int | str):
            metadata[name] = value
        elif isinstance(value, float):
            metadata[name] = dg.MetadataValue.float(value)
        else:
            metadata[name] = dg.MetadataValue.json(value)
    return metadata
