"""Epochs left out of a source's page: plots and statistics are computed without them, and only the address records this."""

from __future__ import annotations

import csv
import io
import json
import re
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
import pandas as pd
import pytest

from dsa110_assets.analyst import open_archive
from dsa110_assets.photometry.association import NEW_PREFIX
from dsa110_assets.photometry.quality import Quality
from dsa110_assets.portal import statistics
from dsa110_assets.portal.app import create_app
from dsa110_assets.variability.candidates import find_variables
from dsa110_assets.variability.options import VariabilityOptions
from dsa110_assets_tests.browser import chromium, served
from dsa110_assets_tests.portal import small_archive as made
from dsa110_assets_tests.portal.conftest import Get
from dsa110_assets_tests.portal.small_archive import SmallArchive
from dsa110_assets_tests.portal.test_browser import NARROW, SETTLED, WIDE, shown, until, violations

HERE = f"/sources/{quote(made.FAINT)}"
LEFT_OUT, OTHER = "2026-01-25T22:10", "2026-01-26T22:10"
QUERY = f"?without={quote(LEFT_OUT)}"


def words(page: str) -> dict[str, str]:
    """The figures of a source's page by label."""
    return dict(re.findall(r'<tr><th scope="row">(.*?)</th><td>(.*?)</td>', page))


def test_statistics_use_the_remaining_epochs(get: Get) -> None:
    """One limit is left out of the points 0.1, 0.001 (a limit), 0.1 and 0.001 Jy, each ± 2 mJy. The formulae are written out here."""
    all_, some = words(get(HERE).text), words(get(HERE + QUERY).text)
    assert (all_["Epochs"], some["Epochs"]) == ("4, detected in 2", "3, detected in 2")
    flux = np.array([0.1, 0.1, 0.001])
    eta = ((flux - flux.mean()) ** 2).sum() / made.RMS_JY**2 / 2
    assert float(some["η"]) == pytest.approx(eta, rel=5e-3), "three digits are shown"
    assert float(some["V"].split()[0]) == pytest.approx(100 * flux.std(ddof=1) / flux.mean(), rel=5e-3)
    off = (0.001 - 0.1) / (made.RMS_JY * 1.5**0.5)  # the error of the point and that of the mean of the two others
    assert float(some["Largest deviation"].split()[0]) == pytest.approx(off, rel=5e-3)
    assert some["q"] == "not known without these epochs"
    assert all_["q"] == "1e-06"
    assert all_["η"] == "40", "as the night's search has it"


def test_the_page_lists_omitted_epochs_with_links_to_restore_them(get: Get) -> None:
    page = get(f"{HERE}{QUERY}&without={quote(OTHER)}").text
    assert "<strong>2 of 4 epochs are left out</strong>" in page
    assert f'<a href="{HERE}">Bring all back</a>' in page
    assert f'href="{HERE}{QUERY}" aria-label="Bring {OTHER} back"' in page
    assert page.count(" checked>") == 2
    assert page.count("left out</td>") == 2
    assert "left out</strong>" not in get(HERE).text, "the next one to look sees all again"


@pytest.mark.parametrize("part", ["", "/chart.json", "/ensemble.json", "/plot.svg", "/table.csv"])
def test_an_unknown_epoch_of_a_source_is_named(get: Get, part: str) -> None:
    answer = get(f"{HERE}{part}?without=2026-02-30T00:00")
    assert (answer.status, "no point of epoch" in answer.text) == (404, True)


def test_plots_table_and_api_leave_out_these_epochs(get: Get, small: SmallArchive) -> None:
    def points(answer: Any) -> int:
        found: list[int] = []

        def walk(part: Any) -> None:
            if isinstance(part, dict):
                data = part.get("data", {})
                entries = dict(data.get("entries", [])) if isinstance(data, dict) and data.get("type") == "map" else {}
                found.extend(len(entries["epoch"]["array"]) for _ in [0] if isinstance(entries.get("epoch"), dict))
                found.extend(len(entries["epoch"]) for _ in [0] if isinstance(entries.get("epoch"), list))
            for below in part.values() if isinstance(part, dict) else part if isinstance(part, list) else ():
                walk(below)

        walk(json.loads(answer.body))
        return sum(found)

    for chart in ("chart", "ensemble"):
        assert [points(get(f"{HERE}/{chart}.json{query}")) for query in ("", QUERY)] == [4, 3], chart
    rows = list(csv.DictReader(io.StringIO(get(f"{HERE}/table.csv{QUERY}").text)))
    assert LEFT_OUT not in [row["epoch"] for row in rows]
    assert len(rows) == 3
    assert "3 epochs" in get(f"{HERE}/plot.svg{QUERY}").text
    api = f"/api/v1/light-curves/{quote(made.FAINT)}"
    curve = get(api + QUERY).json
    assert (curve["without"], [point["epoch"] for point in curve["points"]]) == ([LEFT_OUT], [row["epoch"] for row in rows])
    assert (get(api).json["without"], len(get(api).json["points"])) == ([], 4)
    assert get(f"{api}?without=x").status == 404
    all_epochs = "&".join(f"without={quote(night + suffix)}" for night in made.NIGHTS for suffix in made.OBSERVATIONS)
    assert words(get(f"{HERE}?{all_epochs}").text)["Epochs"] == "0, detected in 0"
    assert get(f"{HERE}/chart.json?{all_epochs}").json is None


def test_an_epoch_is_left_out_and_restored_in_the_browser(small: SmallArchive, tmp_path: Path) -> None:
    from selenium.webdriver.common.by import By

    app = create_app(small.root, inbox=small.inbox)
    with served(app) as address, chromium(tmp_path / "profile", "--hide-scrollbars") as browser:
        shown(browser, WIDE, dark=False)
        browser.get(address + HERE)
        browser.find_element(By.CSS_SELECTOR, f'[aria-label="Leave {LEFT_OUT} out"]').click()
        browser.find_element(By.CSS_SELECTOR, ".points button").click()
        until(browser, "return location.search.includes('without=2026-01-25T22%3A10')")
        for width, dark in ((WIDE, False), (NARROW, True)):
            shown(browser, width, dark=dark)
            until(browser, SETTLED)
            assert violations(browser) == []
        assert "1 of 4 epochs is left out" in browser.find_element(By.CSS_SELECTOR, ".left-out").text
        browser.find_element(By.CSS_SELECTOR, f'[aria-label="Bring {LEFT_OUT} back"]').click()
        until(browser, "return location.search === '' && !document.querySelector('.left-out')")
        assert [entry["message"] for entry in browser.get_log("browser") if entry["level"] == "SEVERE"] == []


def test_statistics_of_all_points_equal_those_of_the_search(small: SmallArchive) -> None:
    """For known sources and for new ones, whose first point was selected because it was bright, with points that the search leaves out."""
    random, rows = np.random.default_rng(17), []
    for number in range(12):
        name = f"{NEW_PREFIX}{number:02d}" if number % 3 == 0 else f"S{number:02d}"
        for epoch in range(6):
            flux, error = random.normal(0.02, 0.004), random.uniform(0.001, 0.003)
            rows.append({
                "source_id": name, "ra_deg": 10.0 + number, "dec_deg": 16.0, "mjd": 61041.0 + epoch,
                "flux_jy": flux + 0.02 * (epoch == 0), "flux_err_jy": error, "rms_jy": error, "detected": True,
                "quality": int(Quality.EDGE) if random.random() < 0.2 else int(Quality.BLENDED) if random.random() < 0.2 else 0,
                "catalogue_flux_jy": np.nan,
            })  # fmt: skip
    frame, archive = pd.DataFrame(rows), open_archive(small.root)
    searched = find_variables(frame, VariabilityOptions()).set_index("source_id")
    assert len(searched) == 12
    for name, rows_of_source in frame.rename(columns={"flux_err_jy": "error_jy", "quality": "flags"}).groupby("source_id"):
        points = rows_of_source.to_dict("records")
        found = statistics.recomputed(archive, {"source_id": name, "points": points}, points)
        for figure in ("eta", "v", "deviation", "deviation_mjd"):
            assert found[figure] == pytest.approx(searched.loc[name, figure], rel=1e-12), (name, figure)


def test_without_the_discovery_point_no_selection_bias_is_corrected(small: SmallArchive) -> None:
    archive = open_archive(small.root)
    points = [{"mjd": 61041.0 + k, "flux_jy": flux, "error_jy": 0.001, "flags": 0} for k, flux in enumerate((0.03, 0.012, 0.010, 0.011))]
    curves = {name: {"source_id": f"{name}01", "points": points} for name in (NEW_PREFIX, "S")}
    new, known = (statistics.recomputed(archive, curve, points[1:]) for curve in curves.values())
    assert new == known
    assert statistics.recomputed(archive, curves[NEW_PREFIX], points) != statistics.recomputed(archive, curves["S"], points)
