"""The alert rules and the dashboard ask only for metrics that the portal serves (trap 34)."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import yaml

OPS = Path(__file__).resolve().parents[2] / "ops"
METRICS_SOURCE = Path(__file__).resolve().parents[2] / "dsa110_assets" / "portal" / "metrics.py"
NAME = re.compile(r"\bdsa110_[a-z_]+\b")


def served() -> set[str]:
    """Names of all metrics the portal can emit, as its source spells them."""
    return set(re.findall(r'"(dsa110_[a-z_]+)"', METRICS_SOURCE.read_text()))


def asked_for(path: Path) -> set[str]:
    if path.suffix == ".json":
        expressions = [t["expr"] for panel in json.loads(path.read_text())["panels"] for t in panel["targets"]]
    else:
        groups = yaml.safe_load(path.read_text())["groups"]
        expressions = [rule["expr"] for group in groups for rule in group["rules"]]
    return {name for expression in expressions for name in NAME.findall(re.sub(r"\{.*?\}", "", expression))}


@pytest.mark.parametrize("name", ["prometheus/alerts.yml", "grafana/dsa110.json"])
def test_only_metrics_that_exist_are_asked_for(name: str) -> None:
    wanted = asked_for(OPS / name)
    assert len(wanted) >= 8  # the file was really parsed
    assert wanted <= served()


def test_every_alert_names_a_section_of_the_runbook() -> None:
    anchors = {
        re.sub(r"[^a-z0-9 -]", "", line.lstrip("# ").lower()).strip().replace(" ", "-")
        for line in (OPS / "runbook.md").read_text().splitlines()
        if line.startswith("#")
    }
    groups = yaml.safe_load((OPS / "prometheus" / "alerts.yml").read_text())["groups"]
    targets = {rule["annotations"]["runbook"].split("#")[1] for group in groups for rule in group["rules"]}
    assert targets <= anchors
