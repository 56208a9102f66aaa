"""The rules products are judged by: one function each, used by the gate before publishing and by the checks.

A rule looks at a product's figures and the thresholds and says what is wrong; nothing means passed. A figure
that should be there and is not is wrong too: silence never passes. A HARD rule stops what follows.

As Dagster's asset checks: on 5-minute assets these are unpartitioned and never block, for their partitioned state would cost minutes
at every tick after a year, and an unpartitioned blocking check is all or nothing. There the gate in `publishing` does the stopping.
On hour and night assets, and what is asked for by name, they are partition-aware, and the HARD ones block.
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
"""An image is not withheld for what one or two sources say, which may have changed."""
WARN, ERROR = dg.AssetCheckSeverity.WARN, dg.AssetCheckSeverity.ERROR


@dataclass(frozen=True)
class Rule:
    """A rule: its check's name, the figures it is about, how it judges, by which thresholds, and whether it stops what follows."""

    check: str
    description: str
    figures: tuple[str, ...]
    judge: judges.Judge
    hard: bool = False
    severity: dg.AssetCheckSeverity = ERROR
    limits: tuple[str, ...] = ()


@dataclass(frozen=True)
class Verdict:
    """What a rule said about one product."""

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
"""Asked of whatever is made of several products: a mixture of settings is nobody's measurement."""


def check_specs(asset: str, judged: Iterable[Rule], partitions_def: dg.PartitionsDefinition[Any] | None) -> list[dg.AssetCheckSpec]:
    """The checks of an asset that is judged by these rules."""
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
    """What every rule of an asset says about a product with these figures."""
    verdicts = []
    for rule in spec.assets()[asset].rules:
        reasons = judges.reasons_against(rule.judge, rule.figures, figures, thresholds)
        if reasons and rule.limits:
            reasons.append("thresholds: " + ", ".join(f"{name} = {getattr(thresholds, name):g}" for name in rule.limits))
        shown = {name: figures[name] for name in rule.figures if name in figures}
        verdicts.append(Verdict(rule.check, not reasons, "; ".join(reasons), shown, rule.hard, rule.severity))
    return verdicts


def to_metadata(verdicts: Sequence[Verdict]) -> dict[str, Any]:
    """The verdicts as a product keeps them: {check: reason}, '' when passed; how many failed, and which of severity ERROR."""
    if not verdicts:
        return {}
    return {
        VERDICTS: {v.check: v.reason for v in verdicts},
        "n_failed_checks": sum(not v.passed for v in verdicts),
        FAILED_ERRORS: [v.check for v in verdicts if not v.passed and v.severity == ERROR],
    }


def from_metadata(asset: str, metadata: judges.Figures) -> list[Verdict]:
    """What the rules said when a product was published."""
    said = metadata.get(VERDICTS, {})
    return [
        Verdict(
            rule.check,
            not said.get(rule.check),
            said.get(rule.check, ""),
            {name: metadata[name] for name in rule.figures if name in metadata},
            rule.hard,
            rule.severity,
        )
        for rule in spec.assets()[asset].rules
    ]


def decided_by(threshold: str, assets: Iterable[spec.Asset]) -> list[str]:
    """The checks of these assets, as asset:check, whose rule a threshold is a limit of."""
    return [f"{asset.name}:{rule.check}" for asset in assets for rule in asset.rules if threshold in rule.limits]
