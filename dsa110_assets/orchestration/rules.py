"""The rules products are judged by: one function each, used by the gate before publishing and by the checks.

A rule looks at a product's figures and the thresholds and says what is wrong; nothing means passed. A figure
that should be there and is not is wrong too: silence never passes. A HARD rule stops what follows.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import dagster as dg

from dsa110_assets.orchestration import judges, spec

if TYPE_CHECKING:
    from dsa110_assets.thresholds import Thresholds

VERDICTS = "checks"
"""Metadata key under which a product keeps what its rules said when it was published."""
FEWEST_REFERENCES = 3
"""An image is not withheld for what one or two sources say, which may have changed."""
WARN, ERROR = dg.AssetCheckSeverity.WARN, dg.AssetCheckSeverity.ERROR


@dataclass(frozen=True)
class Rule:
    """A rule: its check's name, the figures it is about, how it judges, and whether it stops what follows."""

    check: str
    description: str
    figures: tuple[str, ...]
    judge: judges.Judge
    hard: bool = False
    severity: dg.AssetCheckSeverity = ERROR


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


def judge(asset: str, figures: judges.Figures, thresholds: "Thresholds") -> list[Verdict]:
    """What every rule of an asset says about a product with these figures."""
    verdicts = []
    for rule in spec.assets()[asset].rules:
        reasons = judges.said_of(rule.judge, rule.figures, figures, thresholds)
        shown = {name: figures[name] for name in rule.figures if name in figures}
        verdicts.append(Verdict(rule.check, not reasons, "; ".join(reasons), shown, rule.hard, rule.severity))
    return verdicts


def to_metadata(verdicts: Sequence[Verdict]) -> dict[str, Any]:
    """The verdicts as a product keeps them: {check: reason}, '' when passed; and how many failed."""
    if not verdicts:
        return {}
    return {
        VERDICTS: {v.check: v.reason for v in verdicts},
        "n_failed_checks": sum(not v.passed for v in verdicts),
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
