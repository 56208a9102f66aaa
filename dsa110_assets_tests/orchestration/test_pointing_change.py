"""The pointing changes within an hour: every tile left out of the mosaic is named."""

from __future__ import annotations

import pytest

from dsa110_assets.archive.store import Archive
from dsa110_assets.orchestration.assets import imaging
from dsa110_assets.orchestration.graph import specifications
from dsa110_assets.orchestration.judging import rules
from dsa110_assets.settings import Settings
from dsa110_assets.thresholds import Thresholds

pytestmark = pytest.mark.row(45, cases="changes of pointing that are named")

HOUR = "2026-01-26T04:00"


def tile(archive: Archive, minute: int, dec_deg: float) -> str:
    with archive.publish("tile_image", f"2026-01-26T04:{minute:02d}", (), settings={}, code_version="2", run_id="r", engines={}) as draft:
        draft.metadata["pointing_dec_deg"] = dec_deg
        (draft.path / "image.fits").write_bytes(b"x")
    return draft.product.id


def test_tiles_of_another_pointing_are_named_even_if_late(settings: Settings) -> None:
    archive, recipe = Archive.create(settings.archive), specifications()["hour_mosaic"]
    first = [tile(archive, minute, 16.27) for minute in range(0, 35, 5)]
    found = recipe.find(archive, settings, HOUR)
    assert found is not None
    assert (found.ids, found.facts) == (tuple(first), {})
    with archive.publish(
        "hour_mosaic", HOUR, found.ids, settings=recipe.settings(settings, found), code_version=recipe.code_version, run_id="r", engines={}
    ) as draft:
        (draft.path / "mosaic.fits").write_bytes(b"x")
    assert recipe.stale(archive, draft.product, settings, found) is None
    later = [tile(archive, minute, 21.3) for minute in range(35, 60, 5)]
    found = recipe.find(archive, settings, HOUR)
    assert found is not None
    assert found.ids == tuple(first)
    assert recipe.stale(archive, draft.product, settings, found) == "settings changed: left_out"
    figures = imaging.left_out(archive, found.facts["left_out"])
    assert figures["n_left_out"] == 5
    (verdict,) = [
        v for v in rules.judge("hour_mosaic", {**figures, "pointing_dec_deg": 16.27}, Thresholds()) if v.check == "one_strip"
    ]  # fmt: skip
    assert not verdict.passed
    assert verdict.severity == rules.ERROR
    assert verdict.reason.startswith("5 of the hour's tiles point elsewhere than its mosaic at 16.27 deg and are not in it: ")
    assert all(f"{name} at 21.30 deg" in verdict.reason for name in later)


def test_an_hour_of_one_strip_passes_its_rule(settings: Settings) -> None:
    archive = Archive.create(settings.archive)
    figures = {**imaging.left_out(archive, ()), "pointing_dec_deg": 16.27}
    assert [v.passed for v in rules.judge("hour_mosaic", figures, Thresholds()) if v.check == "one_strip"] == [True]
