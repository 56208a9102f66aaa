"""The architecture page agrees with the code in its storeys, graph and steps."""

from __future__ import annotations

import itertools
import re

from dsa110_assets.orchestration.graph import specifications
from dsa110_assets_tests.docs import pages
from dsa110_assets_tests.test_house_rules import STOREYS

PAGE = pages.DOCS / "architecture.md"


def test_the_storeys_on_the_page_are_those_tested() -> None:
    rows = re.findall(r"^\| (`.*?) \|", pages.section(PAGE, "Storeys"), re.MULTILINE)
    assert [tuple(re.findall(r"`([\w.]+)`", row)) for row in rows] == list(reversed(STOREYS))


def test_the_graph_on_the_page_is_that_of_the_assets() -> None:
    (drawn,) = pages.fenced(PAGE.read_text(encoding="utf-8"), "mermaid")
    chains = [re.split(r" --> ", line.strip()) for line in drawn.splitlines() if "-->" in line]
    arrows = {(above, below) for chain in chains for above, below in itertools.pairwise(chain)}
    inputs = {(above, name) for name, asset in specifications().items() for above in asset.inputs}
    assert arrows == {("inbox[(inbox)]", "subband_group")} | inputs


def test_the_graph_has_every_asset_among_its_own_windows() -> None:
    (drawn,) = pages.fenced(PAGE.read_text(encoding="utf-8"), "mermaid")
    grains = dict(re.findall(r"subgraph (\w+) .*?\n(.*?)\n  end", drawn, re.DOTALL))
    named = {"catalogue": "none", "observation": "five", "hour": "hour", "night": "night", "request": "request"}
    for name, asset in specifications().items():
        assert name in re.findall(r"\w+", grains[named[asset.grain]]), name


def test_every_step_names_what_does_it() -> None:
    rows = re.findall(r"^\| (\d+) \| .* \| (.*) \|$", pages.section(PAGE, "From a subband file to a point of a light curve"), re.MULTILINE)
    assert [int(number) for number, _ in rows] == list(range(1, len(rows) + 1))
    assert all(pages.names(where) for _, where in rows)


def test_the_page_answers_where_the_parts_of_a_tile_are() -> None:
    """The first table names the asset, trigger, rules and threshold, and all names exist."""
    named = pages.names(pages.section(PAGE, "Where is ...?"))
    assert {"orchestration.assets.imaging.tile_image", "orchestration.specification.spec.Asset", "thresholds.Thresholds"} <= named
    assert {"orchestration.planning.planner.planner_sensor", "orchestration.planning.plan.missing"} <= named
