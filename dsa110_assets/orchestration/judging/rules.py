"""The rules that judge products: one function each, used by the gate before publishing and by the checks.

A rule compares a product's figures with the thresholds and returns what is wrong; an empty list means passed. A missing figure
counts as wrong too, so that nothing passes for lack of data. A HARD rule stops what follows.

As Dagster's asset checks: on 5-minute assets the checks are unpartitioned and never block, because their partitioned state would
cost minutes at every tick after a year, and an unpartitioned blocking check is all or nothing. There the gate in `publishing` does
the stopping. On hour and night assets, and on products requested by name, checks are partition-aware, and the HARD ones block.
"""

import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import dagster as dg

from dsa110_assets.archive.product import FAILED_ERRORS, VERDICTS
from dsa110_assets.orchestration.judging import judges
from dsa110_assets.orchestration.specification import spec

if TYPE_CHECKING:
    from dsa110_assets.thresholds import Thresholds

FEWEST_REFERENCES = 3
"""An image is not withheld because of one or two sources, which may have varied."""
WARN, ERROR = dg.AssetCheckSeverity.WARN, dg.AssetCheckSeverity.ERROR


@dataclass(frozen=True)
class Rule:
    """A rule: its check's name, its figures, its judging function, its thresholds (`limits`), and whether it stops what follows."""

    check: str
    description: str
    figures: tuple[str, ...]
    judge: judges.Judge
    hard: bool = False
    severity: dg.AssetCheckSeverity = ERROR
    limits: tuple[str, ...] = ()


@dataclass(frozen=True)
class Verdict:
    """A rule's verdict on one product."""

    check: str
    passed: bool
    reason: str
    figures: dict[str, Any]
    hard: bool
    severity: dg.AssetCheckSeverity


SAME_SETTINGS = Rule(
    "same_settings",
    "everything it was made from was made with the settings and the code in force",
    ("n_inputs", "inputs_made_otherwise"),
    judges.inputs_as_now,
    severity=WARN,
)
"""For every product made from several others: mixed settings describe no defined measurement."""


def check_specs(asset: str, judged: Iterable[Rule], partitions_def: dg.PartitionsDefinition[Any] | None) -> list[dg.AssetCheckSpec]:
    """Return the check specifications of an asset that is judged by these rules."""
    fine = isinstance(partitions_def, dg.TimeWindowPartitionsDefinition) and partitions_def.cron_schedule.startswith("*/5")
    coarse = partitions_def is not None and not fine
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", dg.PreviewWarning)
        return [
            dg.AssetCheckSpec(
                rule.check,
                asset=asset,
                description=rule.description,
                blocking=rule.hard and (coarse or partitions_def is None),
                partitions_def=partitions_def if coarse else None,
                metadata={"hard": rule.hard, "figures": list(rule.figures), "thresholds": list(rule.limits)},
            )
            for rule in judged
        ]


def judge(asset: str, figures: judges.Figures, thresholds: "Thresholds") -> list[Verdict]:
    """Return the verdict of every rule of an asset on a product with these figures."""
    verdicts = []
    for rule in spec.assets()[asset].rules:
        reasons = judges.reasons_against(rule.judge, rule.figures, figures, thresholds)
        if reasons and rule.limits:
            reasons.append("thresholds: " + ", ".join(f"{name} = {getattr(thresholds, name):g}" for name in rule.limits))
        shown = {name: figures[name] for name in rule.figures if name in figures}
        verdicts.append(Verdict(rule.check, not reasons, "; ".join(reasons), shown, rule.hard, rule.severity))
    return verdicts


def to_metadata(verdicts: Sequence[Verdict]) -> dict[str, Any]:
    """The verdicts as a product records them: {check: reason}, '' when passed; how many failed, and which failed with severity ERROR."""
    if not verdicts:
        return {}
    return {
        VERDICTS: {v.check: v.reason for v in verdicts},
        "n_failed_checks": sum(not v.passed for v in verdicts),
        FAILED_ERRORS: [v.check for v in verdicts if not v.passed and v.severity == ERROR],
    }


def from_metadata(asset: str, metadata: judges.Figures) -> list[Verdict]:
    """The verdicts recorded when a product was published."""
    reasons = metadata.get(VERDICTS, {})
    return [
        Verdict(
            rule.check,
            not reasons.get(rule.check),
            reasons.get(rule.check, ""),
            {name: metadata[name] for name in rule.figures if name in metadata},
            rule.hard,
            rule.severity,
        )
        for rule in spec.assets()[asset].rules
    ]


def decided_by(threshold: str, assets: Iterable[spec.Asset]) -> list[str]:
    """The checks of these assets, as asset:check, whose rules use this threshold as a limit."""
    return [f"{asset.name}:{rule.check}" for asset in assets for rule in asset.rules if threshold in rule.limits]
