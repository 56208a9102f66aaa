"""A fifteenth asset in one module, with nothing else changed, is planned, made, checked, backfilled, kept and shown.

The module is the code block of docs/adding-an-asset.md. It is written to a separate folder, which a child process adds to the
package's `assets`.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from dsa110_assets_tests.tiny import OBSERVATIONS, copy_of

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "adding-an-asset.md"
NAME = "bright_pixels"
CHILD = """
import json, sys
from pathlib import Path

from dsa110_assets.orchestration import assets

assets.__path__.append(sys.argv[1])
from dsa110_assets_tests.orchestration.test_adding_an_asset import seen

print(json.dumps(seen(Path(sys.argv[2]), Path(sys.argv[3]))))
"""


def seen(inbox: Path, place: Path) -> dict[str, Any]:
    """What the platform does with the asset in the processed archive at `place`, as values for JSON. Called in the child."""
    import dagster as dg

    from dsa110_assets.archive.store import Archive
    from dsa110_assets.definitions import defs
    from dsa110_assets.orchestration.judging.check_summary import check_summary
    from dsa110_assets.orchestration.running import backfill
    from dsa110_assets.orchestration.running import instance as instances
    from dsa110_assets.orchestration.running.process import process
    from dsa110_assets.orchestration.watching import housekeeping
    from dsa110_assets.portal import overview
    from dsa110_assets.portal.app import create_app
    from dsa110_assets.thresholds import Thresholds
    from dsa110_assets_tests.portal.conftest import ask
    from dsa110_assets_tests.tiny import tiny_settings

    settings = tiny_settings(inbox, place)
    archive, short = Archive(settings.archive), Thresholds(retention_free_gb=1e9)

    def retention(asset: str) -> list[tuple[bool, str]]:
        return [
            (one.remove, one.reason) for one in housekeeping.apply_retention(archive, short, dry_run=True) if one.product.asset == asset
        ]

    facts: dict[str, Any] = {"tiles_before": retention("tile_image")}
    node = defs.resolve_asset_graph().get(dg.AssetKey(NAME))
    facts["dagster"] = [node.group_name, node.code_version, sorted(key.name for key in node.check_keys)]
    job = defs.resolve_job_def("observations")
    facts["in_job"] = dg.AssetKey(NAME) in job.asset_layer.executable_asset_keys
    facts["planned"] = [(step.asset, step.partition, step.reason) for step in process(settings, dry_run=True).planned]
    report, again = process(settings), process(settings)
    facts["made"] = [(one.asset, one.partition) for one in report.made]
    facts["failed"] = [str(one) for one in (*report.failed, *report.waiting, *again.failed, *again.made)]
    products = archive.products(NAME)
    facts["lineage"] = [[archive.get(i).asset for i in product.inputs] for product in products]
    facts["metadata"] = [product.metadata for product in products]
    facts["tables"] = [(product.path / "bright_pixels.csv").read_text() for product in products]
    facts["tiles_after"], facts["kept"] = retention("tile_image"), retention(NAME)
    (night,) = archive.products("night_report")
    facts["night_report"] = (night.path / "night_report.html").read_text()
    facts["counted"] = overview.status(overview.AnalystArchive(archive)).products[NAME]
    app = create_app(settings.archive)
    facts["pages"] = {url: ask(app, url).text for url in ("/observations", f"/products/{products[0].id}", f"/api/v1/products?asset={NAME}")}
    with instances.open_instance(settings.dagster_home) as instance:
        facts["checked"] = [(row.check, row.passed, row.failed) for row in check_summary(instance) if row.asset == NAME]
        facts["materialized"] = sorted(instance.get_materialized_partitions(dg.AssetKey(NAME)))
        (launch,) = backfill.backfill(settings, "2026-01-25", "2026-01-25", NAME, instance=instance)
        queued = instance.get_backfill(str(launch.backfill_id))
        assert queued is not None
        facts["backfill"] = [launch.partitions, [key.to_user_string() for key in queued.asset_selection or ()]]
    return facts


@pytest.fixture(scope="module")
def outcome(finished_run: tuple[Any, Any], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The result of `seen` in the child process."""
    place = tmp_path_factory.mktemp("fifteenth")
    (block,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    module = place / "more" / "lists.py"
    module.parent.mkdir()
    module.write_text(block)
    settings = copy_of(finished_run[0], place)
    command = [sys.executable, "-W", "ignore", "-c", CHILD, module.parent, settings.inbox, place]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    facts: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return facts


def test_the_new_asset_is_planned_with_only_its_dependents(outcome: dict[str, Any]) -> None:
    own = [[NAME, key, "missing"] for key in OBSERVATIONS]
    assert outcome["planned"] == [*own, ["night_report", "2026-01-25", "its inputs will be made"]]


def test_the_new_asset_is_made_once_for_every_observation(outcome: dict[str, Any]) -> None:
    assert outcome["made"] == [*([NAME, key] for key in OBSERVATIONS), ["night_report", "2026-01-25"]]
    assert outcome["failed"] == []
    assert outcome["lineage"] == [["tile_image"]] * 3
    assert outcome["materialized"] == list(OBSERVATIONS)
    for metadata, table in zip(outcome["metadata"], outcome["tables"], strict=True):
        assert len(table.splitlines()) == 1 + metadata["n_bright"]
        assert metadata["n_bright"] > 0


def test_dagster_shows_group_version_and_rule_of_the_new_asset(outcome: dict[str, Any]) -> None:
    assert outcome["dagster"] == ["lists", "1", ["stands_out"]]
    assert outcome["in_job"]


def test_the_rule_of_the_new_asset_is_applied(outcome: dict[str, Any]) -> None:
    assert outcome["checked"] == [["stands_out", 3, 0]]
    assert all(metadata["checks"] == {"stands_out": ""} for metadata in outcome["metadata"])


def test_partitions_of_the_new_asset_are_backfilled(outcome: dict[str, Any]) -> None:
    assert outcome["backfill"] == [list(OBSERVATIONS), [NAME]]


def test_retention_keeps_tiles_until_the_new_asset_is_made(outcome: dict[str, Any]) -> None:
    """With 1e9 GB required to be free, all products go that only their age protects."""
    assert outcome["tiles_before"] == [[False, "0.0 days old, kept for 365"]] * 3
    short = "but less than 1e+09 GB are free; everything was made from it"
    assert outcome["tiles_after"] == [[True, f"0.0 days old, kept for 365, {short}"]] * 3
    assert outcome["kept"] == [[True, f"0.0 days old, kept for 90, {short}"]] * 3


def test_reports_and_pages_show_the_new_asset(outcome: dict[str, Any]) -> None:
    assert "<th>Bright pixels</th>" in outcome["night_report"]
    for metadata in outcome["metadata"]:
        assert f"<td>{metadata['n_bright']}</td>" in outcome["night_report"]
    assert outcome["counted"] == 3
    assert f"<th>{NAME}</th>" in outcome["pages"]["/observations"]
    assert outcome["pages"]["/observations"].count(f'href="/products/{NAME}-') == 3
    assert all(NAME in page for page in outcome["pages"].values())
