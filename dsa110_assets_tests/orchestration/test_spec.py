"""Specifications: what is derived from them, and the errors of wrong ones."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from dsa110_assets.archive.store import Archive
from dsa110_assets.errors import ConfigurationError
from dsa110_assets.orchestration import graph
from dsa110_assets.orchestration.specification import spec
from dsa110_assets.orchestration.specification.spec import Asset
from dsa110_assets.orchestration.watching import housekeeping
from dsa110_assets.settings import Settings
from dsa110_assets.thresholds import Thresholds

README = Path(__file__).parents[2] / "README.md"
KNOWN = graph.specifications()


@pytest.fixture
def empty(monkeypatch: pytest.MonkeyPatch) -> None:
    """No asset is registered."""
    for name in ("_registered", "_known"):
        monkeypatch.setattr(spec, name, {})
    monkeypatch.setattr(spec, "_phases", [])


def register(name: str, grain: spec.Grain, *inputs: str, reported: bool = True) -> None:
    Asset(name, grain=grain, kinds=set(), code_version="1", inputs=inputs, reported=reported)(lambda step: {})


def completed() -> list[str]:
    return [asset.name for asset, _ in spec.complete()]


@pytest.mark.usefixtures("empty")
def test_phases_follow_grain_and_order_of_registration() -> None:
    register("night", "night", "*")
    register("late", "hour", "image")
    register("image", "observation", "set", "tables")
    register("tables", "night", "set")
    register("set", "observation", reported=False)
    register("list", "catalogue")
    assert completed() == ["list", "set", "tables", "image", "late", "night"]
    assert spec.phases() == (
        ("catalogue", ("list",)), ("observation", ("set",)), ("night", ("tables",)), ("observation", ("image",)),
        ("hour", ("late",)), ("night", ("night",)),
    )  # fmt: skip
    assert spec.assets()["night"].inputs == ("tables", "image", "late")  # all reported assets of a night


@pytest.mark.usefixtures("empty")
@pytest.mark.parametrize(
    ("assets", "words"),
    [
        ({"image": ("set",)}, "image is made from set, which is no asset; there are image"),
        ({"one": ("two",), "two": ("one",)}, "assets are made from each other: "),
    ],
)
def test_a_wrong_input_is_refused_when_the_graph_is_loaded(assets: dict[str, tuple[str, ...]], words: str) -> None:
    for name, inputs in assets.items():
        register(name, "observation", *inputs)
    with pytest.raises(ConfigurationError, match=words):
        spec.complete()


@pytest.mark.usefixtures("empty")
def test_a_second_asset_of_the_same_name_is_refused() -> None:
    register("image", "observation")
    with pytest.raises(ConfigurationError, match="two assets are called image"):
        register("image", "hour")


def test_using_assets_before_the_graph_is_loaded_names_the_import() -> None:
    code = (
        "from dsa110_assets.orchestration.planning import plan; from dsa110_assets.orchestration.specification import spec; spec.assets()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert "RuntimeError: no asset is known yet: import dsa110_assets.orchestration.graph first" in done.stderr


def test_looking_at_the_inbox_does_not_load_the_assets() -> None:
    """The planner is light: it imports neither Dagster nor the science packages."""
    code = "import sys; from dsa110_assets.orchestration.planning import plan; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True)
    assert not {"dagster", "pandas", "casacore", "numba"} & set(done.stdout.split())


def test_shaping_names_of_assets_are_settings() -> None:
    assert {name for asset in KNOWN.values() for name in asset.shaping} <= set(Settings.model_fields)


def test_assets_used_up_or_read_through_are_inputs() -> None:
    for asset in KNOWN.values():
        assert set(asset.uses_up) <= set(asset.inputs)
        assert asset.reads_through in (None, *asset.inputs)


def test_retention_waits_for_consumers_that_are_always_made() -> None:
    assert spec.consumers(KNOWN) == {
        "measurement_set": ("calibrated_ms",),
        "calibrated_ms": ("tile_image",),
        "tile_image": ("hour_mosaic", "hour_mosaic/source_measurements", "hour_mosaic/night_mosaic"),
        "hour_mosaic": ("source_measurements",),
        "source_measurements": ("light_curves",),
        "light_curves": ("variability",),
    }


def test_retention_times_of_thresholds_override_the_specification(tmp_path: Path) -> None:
    archive = Archive.create(tmp_path / "archive")
    for asset in ("measurement_set", "tile_image", "hour_mosaic"):
        with archive.publish(asset, "2026-01-25T22:00", [], settings={}, code_version="1", run_id="test", engines={}) as draft:
            (draft.path / "data").write_text(asset)

    def reasons(**days: float) -> dict[str, str]:
        decisions = housekeeping.apply_retention(archive, Thresholds(retention_days=days), dry_run=True)
        return {one.product.asset: one.reason for one in decisions}

    assert reasons() == {
        "measurement_set": "0.0 days old, kept for 30",
        "tile_image": "0.0 days old, kept for 365",
        "hour_mosaic": "hour_mosaic is kept for ever",
    }
    assert reasons(measurement_set=7, hour_mosaic=9) == {
        "measurement_set": "0.0 days old, kept for 7",
        "tile_image": "0.0 days old, kept for 365",
        "hour_mosaic": "0.0 days old, kept for 9",
    }


def row(asset: Asset) -> str:
    """An asset's line in the README: its name, its partitions, its inputs, and the first line of its description."""
    description = next(one.description for made in graph.ASSETS for one in made.specs if one.key.to_user_string() == asset.name)
    partitions = {"catalogue": "–", "observation": "5 minutes"}.get(asset.grain, asset.grain)
    summary = (description or "").partition("\n")[0].removesuffix(".")
    inputs = "everything told of the night" if asset.name == "night_report" else ", ".join(f"`{name}`" for name in asset.inputs)
    return f"| `{asset.name}` | {partitions} | {inputs or 'files'} | {summary} |"


def test_the_readme_has_the_table_of_the_specifications() -> None:
    """If this fails, replace the lines between the markers by those that the failure shows."""
    text = README.read_text(encoding="utf-8")
    written = text.partition("<!-- assets -->\n")[2].partition("<!-- end of assets -->")[0].splitlines()
    assert written == ["| asset | partition | made from | what it is |", "|---|---|---|---|", *map(row, KNOWN.values())]
