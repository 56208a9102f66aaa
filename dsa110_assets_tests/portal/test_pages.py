"""The pages show the contents of the archive and are well-formed, and every link works."""

from __future__ import annotations

import html
import io
import json
import re
import shutil
from collections import Counter
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import quote

import numpy as np
import pandas as pd
import pytest
from matplotlib.image import imread

from dsa110_assets.archive import requested, trials
from dsa110_assets.archive.store import Archive
from dsa110_assets.photometry.ensemble import LIGHT_CURVE_COLUMNS
from dsa110_assets.portal.app import create_app
from dsa110_assets.telescope import timegrid
from dsa110_assets_tests.photometry.nightly import stored
from dsa110_assets_tests.portal import small_archive as made
from dsa110_assets_tests.portal.conftest import Get, ask

TILE = "tile_image-20260125T2205-v1"
START_PAGES = {
    "/": "No image yet. dsa110 process makes them from the inbox.",
    "/observations": "No observation yet. dsa110 groups says what is in the inbox, dsa110 process takes it up.",
    "/sources": "No light curves yet. They are made at the end of a night, or by dsa110 process.",
    "/candidates": "No night has been searched yet. dsa110 process searches those that are over.",
    "/calibration": "No table yet. They are solved from a calibrator's transit; dsa110 transits says when one is.",
    "/trials": "No trial yet. dsa110 trial make makes one, and so does the launchpad.",
    "/nights": "No night yet. dsa110 process makes them from the inbox.",
}
"""Pages from which links are followed, and the text of each in an empty archive."""
QUESTIONS = 4
"""How many links that differ only in the query are followed per page; the others are similar."""
VOID = {"meta", "link", "img", "input", "br"}


class Page(HTMLParser):
    """A parser that collects links and images. Raises AssertionError for a tag that is closed wrongly."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.links: list[str] = []
        self.images: list[dict[str, str | None]] = []
        self.open: list[str] = []
        self.labels: set[str | None] = set()
        self.inputs: set[str | None] = set()
        self.feed(text)
        assert not self.open, f"never closed: {self.open}"

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        found = dict(attributes)
        if tag in ("a", "link") and found.get("href"):
            self.links.append(str(found["href"]))
        if tag == "img":
            self.images.append(found)
            self.links.append(str(found["src"]))
        if tag == "label":
            self.labels.add(found.get("for"))
        if tag in ("input", "select") and found.get("type") != "hidden":
            self.inputs.add(found.get("id"))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_both_sets_in_force_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small = made.build(tmp_path)
    made.later_transit(small)
    app = create_app(small.root, inbox=small.inbox)
    assert "interpolated with" not in ask(app, "/calibration").text
    monkeypatch.setenv("DSA110_CHOOSE__INTERPOLATE", "true")
    page = " ".join(ask(create_app(small.root, inbox=small.inbox), "/calibration").text.split())
    assert 'interpolated with <span class="id">caltables-20260126-v1/3C138</span>, weights 0.5 and 0.5.' in page


def test_every_link_of_every_page_leads_somewhere(get: Get) -> None:
    seen: set[str] = set()
    queue, requests = list(START_PAGES), Counter[str]()
    while queue:
        url = queue.pop()
        if url in seen or not url.startswith("/") or requests[url.partition("?")[0]] == QUESTIONS:
            continue
        seen.add(url)
        requests[url.partition("?")[0]] += 1
        answer = get(url)
        if url.endswith("/spectrum"):  # measured on request, which needs products that this archive lacks
            assert (answer.status, "there is no sky model" in answer.text) == (404, True), url
            continue
        assert answer.status in (200, 303), (url, answer.status)
        if answer.headers.get("content-type", "").startswith("text/html") and not url.startswith("/files/"):
            page = Page(answer.text)
            assert all(image.get("alt") for image in page.images), url
            assert page.inputs <= page.labels, url
            queue += page.links
    assert f"/products/{TILE}" in seen
    assert f"/files/{TILE}/image.fits" in seen
    assert len(seen) > 50


def test_front_page_shows_new_and_quarantined_files(get: Get) -> None:
    text = get("/").text
    assert "2026-01-26T22:10" in text
    assert "2 of 2" in text
    assert "2026-01-26T23:00:00_sb00.hdf5" in text
    assert "the file is empty" in text
    assert "PB17:3C138" in text


@pytest.mark.parametrize("url", START_PAGES)
def test_empty_archive_has_all_pages_and_says_how_to_begin(empty: Get, url: str) -> None:
    answer = empty(url)
    assert answer.status == 200
    Page(answer.text)
    assert START_PAGES[url] in " ".join(html.unescape(re.sub(r"<[^>]+>", "", answer.text)).split())


def test_source_page_shows_every_point_and_its_lineage_down_to_the_files(get: Get) -> None:
    text = get(f"/sources/{made.FAINT}").text
    assert text.count("hour_mosaic-20260125T2200-v1") >= 2
    assert "10.000" in text  # the limit, 5 x 2 mJy
    for epoch in (night + suffix for night in made.NIGHTS for suffix in made.OBSERVATIONS):
        assert f"point?epoch={quote(epoch)}" in text
        assert f"{epoch}:00_sb01.hdf5" in get(f"/sources/{made.FAINT}/point?epoch={epoch}").text


def test_light_curve_plot_has_title_axes_and_units(get: Get) -> None:
    answer = get(f"/sources/{made.FAINT}/plot.svg")
    assert answer.headers["content-type"] == "image/svg+xml"
    for words in (made.FAINT, "Time (UTC)", "Flux density [mJy]", "upper limit, 5 sigma"):
        assert words in answer.text


def test_image_plot_shows_the_source_where_it_is(get: Get) -> None:
    """The only black area (above 15 rms) within the axes is the bright pixel, in the middle of the picture."""
    answer = get(f"/products/{TILE}/plot.png")
    assert answer.headers["content-type"] == "image/png"
    picture = imread(io.BytesIO(answer.body), format="png")[..., :3].sum(axis=2)
    height, width = picture.shape
    inside = picture[int(0.25 * height) : int(0.75 * height), int(0.25 * width) : int(0.65 * width)]
    rows, columns = np.nonzero(inside < 0.1)
    # the reference pixel is half a pixel of 64 from the middle; the axes cover about 0.7 of the picture
    assert abs(rows.mean() / inside.shape[0] - 0.5) < 0.1
    assert np.ptp(rows) < 0.05 * height
    assert np.ptp(columns) < 0.05 * width


def test_image_redirects_from_a_window_to_its_product(get: Get) -> None:
    answer = get("/images/2026-01-25T22:05")
    assert (answer.status, answer.headers["location"]) == (303, f"/products/{TILE}")
    assert get("/images/2026-01-25T22:00").headers["location"] == "/products/hour_mosaic-20260125T2200-v1"


def test_trials_and_requests_are_listed_and_a_trial_says_what_it_is(tmp_path: Path) -> None:
    small = made.build(tmp_path)
    with Archive(small.root) as archive:
        tile = archive.get(TILE)
        trial, _ = trials.opened(archive, "robust_0", {"imaging.robust": 0.0})
        since = timegrid.parse_key("2026-01-25T22:00")
        request = requested.Request("virgo", since, since + timegrid.HOUR, "ann", since)
        for store, asset, key, inputs in (
            (trial, "tile_image", tile.partition, tile.inputs),
            (archive, requested.ASSET, requested.keep(archive, request).partition, (tile.id,)),
        ):
            with store.publish(asset, key, inputs, settings={}, code_version="1", run_id="r") as draft:
                shutil.copytree(tile.path, draft.path, dirs_exist_ok=True)
                (draft.path / "product.json").unlink()
                draft.metadata.update(tile.metadata)
    app = create_app(small.root, inbox=small.inbox)
    ours, theirs = "tile_image~robust_0-20260125T2205-v1", "requested_mosaic-@virgo-v1"
    listing = Page(ask(app, "/trials").text)
    assert {f"/products/{ours}", f"/products/{theirs}"} <= set(listing.links)
    text = " ".join(ask(app, "/trials").text.split())
    assert "imaging.robust=0.0" in text
    assert "2026-01-25T22:00:00 to 2026-01-25T23:00:00, science" in text
    badge = '<a class="badge" href="/trials">trial robust_0</a>'
    pages = {name: ask(app, f"/products/{name}").text for name in (ours, theirs, TILE)}
    assert {name: badge in page for name, page in pages.items()} == {ours: True, theirs: False, TILE: False}
    assert ask(app, f"/products/{ours}/plot.png").status == ask(app, f"/files/{theirs}/image.fits").status == 200
    assert ask(app, "/images/@virgo").headers["location"] == f"/products/{theirs}"
    assert ours not in ask(app, "/").text
    assert "@virgo" not in ask(app, "/nights/2026-01-25").text + ask(app, "/observations").text


def test_names_from_outside_are_escaped(get: Get) -> None:
    answer = get("/nights/%3Cscript%3Ealert(1)%3C/script%3E")
    assert answer.status == 404
    assert "<script>" not in get("/sources?name=%3Cscript%3E").text


def test_night_report_runs_in_a_sandbox(get: Get) -> None:
    answer = get("/files/night_report-20260125-v1/report.html")
    assert answer.headers["content-security-policy"].startswith("sandbox")
    assert "Night 2026-01-25" in answer.text
    assert "/files/night_report-20260125-v1/report.html" in get("/nights/2026-01-25").text


def test_binning_keeps_the_mean_and_a_source_and_blanks() -> None:
    from dsa110_assets.portal.plots import binned

    image = np.zeros((9, 8))
    image[5, 6], image[0, 0] = 16.0, np.nan
    small = binned(image, 4)
    assert small.shape == (2, 2)
    assert np.isnan(small[0, 0])
    assert small[1, 1] == 1.0  # 16 divided by 4 x 4 pixels
    np.testing.assert_array_equal(binned(image, 1), image)


def test_names_with_url_delimiters_lead_to_their_own_page(tmp_path: Path) -> None:
    """'S#1' once led to the page of 'S'. Names are looked up exactly as written."""
    names = ["S", "S#1", "S?1", "S%231", "s"]
    rows = [
        dict.fromkeys(LIGHT_CURVE_COLUMNS, 1.0)
        | {"source_id": name, "epoch": "2026-01-25T22:05", "detected": True, "quality": 0, "mosaic_id": "m", "n_references": 3}
        for name in names
    ]
    with Archive.create(tmp_path / "a") as store:
        with store.publish("light_curves", "2026-01-25", [], settings={}, code_version="1", run_id="x") as draft:
            stored(pd.DataFrame(rows), draft.path)
        app = create_app(tmp_path / "a")
        for name in names:
            answer = ask(app, f"/sources?name={quote(name)}")
            assert answer.status == 303
            assert ask(app, answer.headers["location"].replace("/sources/", "/api/v1/light-curves/")).json["source_id"] == name
        assert "may be any of 2 sources: S, s" in ask(app, "/api/v1/light-curves/_s").json["detail"]


@pytest.mark.row(41, cases="pages beside a damaged product")
@pytest.mark.parametrize("damage", ["cut short", "not there"])
def test_a_nights_damaged_light_curves_hide_no_other_nights(tmp_path: Path, damage: str) -> None:
    small = made.build(tmp_path)
    bad, last = (small.products[f"light_curves-{night.replace('-', '')}-v1"].path / "light_curves.parquet" for night in made.NIGHTS)
    bad.write_bytes(bad.read_bytes()[:-9])
    if damage == "not there":
        bad.unlink()
    app = create_app(small.root, inbox=small.inbox)
    with pytest.warns(UserWarning, match="left out.*light_curves-20260125-v1; run: dsa110 archive verify"):
        page = ask(app, f"/sources/{quote(made.FAINT)}")
    assert "Without 2026-01-25, whose light curves are cut short" in page.text
    with pytest.warns(UserWarning, match="left out"):
        body = ask(app, "/api/v1/sources").json
    assert body["left_out"] == ["2026-01-25"]
    assert {row["n_epochs"] for row in body["items"]} == {2}
    last.write_bytes(last.read_bytes()[:9])
    nothing = ask(app, "/api/v1/sources")
    assert nothing.status == 503
    assert "cut short or not there: run: dsa110 archive verify" in nothing.json["detail"]


@pytest.mark.row(41, cases="pages beside a damaged product")
def test_invalid_figures_of_one_product_stop_no_page(tmp_path: Path) -> None:
    small = made.build(tmp_path)
    candidates = small.products["variability-20260126-v1"].path / "variability.parquet"
    candidates.write_bytes(candidates.read_bytes()[:20])
    wrong = "update products set metadata = ? where id = 'subband_group-20260126T2210-v1'"
    with Archive(small.root) as archive:
        archive.index.write(lambda c: c.exec_driver_sql(wrong, (json.dumps({"pointing_dec_deg": "north"}),)))
    app = create_app(small.root, inbox=small.inbox)
    assert ask(app, "/api/v1/status").json["pointing_dec_deg"] == made.DEC_DEG, "of the observation before"
    for url in ("/", "/calibration", "/observations", "/metrics", "/sources"):
        assert ask(app, url).status == 200
    assert "variability.parquet cannot be read" in ask(app, "/api/v1/candidates").json["detail"]
