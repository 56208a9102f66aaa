"""Every alert has its section of the runbook, which names it and its limits and says what to type; the commands exist (`test_commands`)."""

from __future__ import annotations

import re

import pytest

from dsa110_assets.orchestration.watching import conditions
from dsa110_assets.portal.alerts import anchor
from dsa110_assets.thresholds import Thresholds
from dsa110_assets_tests.docs import pages
from dsa110_assets_tests.docs.test_commands import typed

RUNBOOK = pages.ROOT / "ops" / "runbook.md"


def sections() -> dict[str, str]:
    """The text below each second-level heading, by anchor."""
    parts = re.split(r"^## (.+)$", RUNBOOK.read_text(encoding="utf-8"), flags=re.MULTILINE)
    return {anchor(heading): text for heading, text in zip(parts[1::2], parts[2::2], strict=True)}


@pytest.mark.parametrize("name", conditions.NAMES)
def test_every_alert_has_a_section_that_names_it_and_its_limits(name: str) -> None:
    text = sections()[conditions.runbook(name)]
    assert f"`{name}`" in text
    limits = conditions.CONDITIONS[name].limits if name in conditions.CONDITIONS else ()
    assert set(limits) <= Thresholds.model_fields.keys()
    assert [limit for limit in limits if f"`{limit}`" not in text and limit not in ("failures_of_runs", "recent_h")] == []


@pytest.mark.parametrize("name", [name for name in conditions.NAMES if conditions.runbook(name) != "good-news"])
def test_every_section_says_what_to_do(name: str) -> None:
    text = sections()[conditions.runbook(name)]
    assert list(typed(text)) or "systemctl" in text or "thresholds.toml" in text


@pytest.mark.parametrize("heading", ["installation", "every-day", "every-week", "emergencies", "recovery", "drills"])
def test_the_sections_an_operator_needs_are_not_empty(heading: str) -> None:
    assert len(sections()[heading].split()) > 40


def test_links_within_the_runbook_lead_somewhere() -> None:
    text, known = RUNBOOK.read_text(encoding="utf-8"), set(sections())
    assert set(re.findall(r"\]\(#([^)]+)\)", text)) - known == set()
