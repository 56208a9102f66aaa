"""A spectrum over HTTP is measured once in a separate process, then cached; if there is none, the reason is given."""

from __future__ import annotations

import json
from typing import Any
from urllib.parse import quote

import pytest

from dsa110_assets.analyst import open_archive
from dsa110_assets.portal.app import create_app
from dsa110_assets.portal.v1 import spectra
from dsa110_assets_tests.portal import small_archive as made
from dsa110_assets_tests.portal.conftest import Get, ask


def test_the_spectrum_is_the_analysts_and_is_measured_once(finished_run: tuple[Any, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    root = finished_run[0].archive
    archive, app = open_archive(root), create_app(root)
    name = str(archive.sources(343.49062, 16.14821, 0.05)["source_id"][0])
    monkeypatch.setattr(spectra, "_known", type(spectra._known)())
    answer = ask(app, f"/api/v1/sources/{quote(name)}/spectrum")
    assert answer.status == 200, answer.text
    body, table = answer.json, archive.spectrum(name)
    assert [one["flux_jy"] for one in body["subbands"]] == pytest.approx(table["flux"].to_value("Jy"), rel=1e-9)
    assert (body["epoch"], body["product_id"]) == (table.meta["epoch"], table.meta["product_id"])
    assert body["spectral_index"] == pytest.approx(table.meta["index"], rel=1e-6)

    def measured_again(*_: object) -> dict[str, Any]:
        raise AssertionError("it was measured before")

    monkeypatch.setattr(spectra, "_measured", measured_again)
    assert ask(app, f"/api/v1/sources/{quote(name)}/spectrum?epoch={body['epoch']}").json == body
    drawn = json.dumps(ask(app, f"/sources/{quote(name)}/spectrum.json").json)
    assert "Frequency (MHz)" in drawn
    assert "Flux density (mJy)" in drawn
    assert f"index {body['spectral_index']:.2f}" in drawn


def test_an_empty_set_gives_the_reason_instead_of_a_spectrum(get: Get) -> None:
    """The small archive's sets are empty, and the page shows the reason in place of the plot."""
    source = quote(made.FAINT)
    answer = get(f"/api/v1/sources/{source}/spectrum")
    assert answer.status == 404, answer.text
    assert get(f"/sources/{source}/spectrum.json").json["said"] == answer.json["detail"]
    assert get(f"/api/v1/sources/{source}/spectrum?epoch=2020").status == 404
    assert get("/api/v1/sources/nobody/spectrum").status == 404


def test_a_spectrum_after_retention_gives_the_reason(small: made.SmallArchive, tmp_path: Any) -> None:
    import shutil

    from dsa110_assets.archive.store import Archive

    shutil.copytree(small.root, tmp_path / "archive")
    with Archive(tmp_path / "archive") as archive:
        for product in archive.products("calibrated_ms"):
            shutil.rmtree(product.path / "calibrated.ms")
    answer = ask(create_app(tmp_path / "archive"), f"/api/v1/sources/{quote(made.FAINT)}/spectrum")
    assert answer.status == 404
    assert "retention removed them" in answer.json["detail"]
