"""The pages in a browser: Dagster's pages of our graph, and the portal's, with the real products of the tiny run.

Headless Chromium is driven through WebDriver. The tests assert that the content is visible and the console has no errors.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from threading import Event
from typing import Any

import pytest

from dsa110_assets.archive.store import Archive
from dsa110_assets.cli.services import free_port
from dsa110_assets.orchestration.graph import specifications
from dsa110_assets.orchestration.running.process import ProcessReport
from dsa110_assets.settings import Settings
from dsa110_assets_tests.browser import answers, chromium

START_S, SEEN_S = 120.0, 60.0
GROUPS = {
    "catalogues": ("source_catalog", "sky_model", "calibrator_catalog"), "ingest": ("subband_group", "measurement_set"),
    "calibration": ("caltables", "calibrated_ms"), "imaging": ("tile_image", "hour_mosaic", "night_mosaic"),
    "sources": ("source_measurements", "light_curves", "variability"), "reports": ("night_report",),
    "requested": ("requested_mosaic",),
}  # fmt: skip
OBSERVATION, HOUR, NIGHT = "2026-01-25T22:25", "2026-01-25T22:00", "2026-01-25"


@pytest.fixture(scope="session")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A headless Chromium with a separate profile."""
    with chromium(tmp_path_factory.mktemp("chromium")) as opened:
        yield opened


@pytest.fixture(scope="module")
def served(finished_run: tuple[Settings, ProcessReport], tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, str]]:
    """The addresses of Dagster's web server and of the portal, over the processed tiny run."""
    settings, _ = finished_run
    place, port, pages = tmp_path_factory.mktemp("servers"), free_port(), free_port()
    assert settings.dagster_home is not None
    welcomed = settings.dagster_home / ".nux" / "nux.yaml"  # otherwise an invitation to Dagster's newsletter covers every page
    welcomed.parent.mkdir(exist_ok=True)
    welcomed.write_text("seen: 1")
    environment = {
        **os.environ, "DSA110_INBOX": str(settings.inbox), "DSA110_ARCHIVE": str(settings.archive),
        "DAGSTER_HOME": str(settings.dagster_home), "DAGSTER_DISABLE_TELEMETRY": "1",
    }  # fmt: skip
    commands = (
        (sys.executable, "-m", "dagster_webserver", "--port", str(port), "--module-name", "dsa110_assets.definitions"),
        (sys.executable, "-m", "dsa110_assets.portal", "--port", str(pages)),
    )
    addresses = (f"http://127.0.0.1:{port}", f"http://127.0.0.1:{pages}")
    with (place / "log").open("wb") as log:
        started = [subprocess.Popen(one, env=environment, cwd=place, stdout=log, stderr=subprocess.STDOUT) for one in commands]
    try:
        for process, url in zip(started, (f"{addresses[0]}/server_info", f"{addresses[1]}/health"), strict=True):
            waited = 0.0
            while not answers(url):
                assert process.poll() is None, (place / "log").read_text()
                assert waited < START_S, (place / "log").read_text()
                Event().wait(0.2)
                waited += 0.2
        yield addresses
    finally:
        for process in started:
            process.terminate()
        for process in started:
            process.wait(60)


Visit = Callable[..., Any]


@pytest.fixture
def visit(browser: Any) -> Visit:
    """Open a page, wait until these texts are visible, and fail if its console holds an error."""
    from selenium.webdriver.support.ui import WebDriverWait

    def open_page(url: str, *texts: str) -> Any:
        browser.get_log("browser")  # discard the log of earlier pages
        browser.get(url)

        def seen(opened: Any) -> bool:
            shown = opened.execute_script("return document.body.innerText")
            return all(text in shown for text in texts)

        try:
            WebDriverWait(browser, SEEN_S, poll_frequency=0.2).until(seen)
        finally:
            if folder := os.environ.get("SCREENSHOTS"):
                name = "".join(c if c.isalnum() else "-" for c in url.partition("//")[2].partition("/")[2]) or "front"
                browser.save_screenshot(str(Path(folder) / f"{name[:80]}.png"))
        errors = [entry for entry in browser.get_log("browser") if entry["level"] == "SEVERE"]
        assert errors == []
        return browser

    return open_page


def test_the_web_server_loads_the_definitions(served: tuple[str, str], visit: Visit) -> None:
    visit(f"{served[0]}/locations", "dsa110_assets", "Loaded")


def test_the_asset_graph_is_drawn_with_its_groups(served: tuple[str, str], visit: Visit) -> None:
    visit(f"{served[0]}/asset-groups/", *GROUPS)


@pytest.mark.parametrize("group", GROUPS)
def test_every_group_shows_its_assets(served: tuple[str, str], visit: Visit, group: str) -> None:
    visit(f"{served[0]}/locations/dsa110_assets.definitions/asset-groups/{group}/lineage", *GROUPS[group])


def test_a_partition_shows_its_figures(served: tuple[str, str], visit: Visit) -> None:
    visit(f"{served[0]}/assets/tile_image?view=partitions&partition={OBSERVATION}", OBSERVATION, "caltable_set", "dynamic_range")


@pytest.mark.parametrize("asset", ["tile_image", "hour_mosaic"])
def test_checks_are_shown_with_their_figures_plotted(served: tuple[str, str], visit: Visit, asset: str) -> None:
    page = visit(f"{served[0]}/assets/{asset}?view=checks", *(rule.check for rule in specifications()[asset].rules), "Succeeded")
    if asset == "tile_image":  # three observations are plotted; a single hour is not
        from selenium.webdriver.support.ui import WebDriverWait

        drawn = "return Array.from(document.querySelectorAll('canvas')).filter(c => c.width > 0).length"
        WebDriverWait(page, SEEN_S).until(lambda opened: opened.execute_script(drawn) >= 2)


def test_the_portals_front_page_shows_tonight_and_a_gallery(served: tuple[str, str], visit: Visit) -> None:
    page = visit(f"{served[1]}/", OBSERVATION, "tile_image")
    assert loaded_images(page) >= 3


def test_an_image_page_draws_the_image(served: tuple[str, str], visit: Visit) -> None:
    page = visit(f"{served[1]}/images/{HOUR}", "hour_mosaic", HOUR)
    assert loaded_images(page) >= 1


def test_a_light_curve_is_drawn(served: tuple[str, str], finished_run: tuple[Settings, ProcessReport], visit: Visit) -> None:
    import pandas as pd

    with Archive(finished_run[0].archive) as archive:
        curves = archive.current("light_curves", NIGHT)
    assert curves is not None
    (table,) = curves.path.glob("*.parquet")
    source = str(pd.read_parquet(table)["source_id"].iloc[0])
    page = visit(f"{served[1]}/sources/{source}", source, "hour_mosaic")
    assert loaded_images(page) >= 1


def test_the_page_of_a_nights_report_opens(served: tuple[str, str], visit: Visit) -> None:
    visit(f"{served[1]}/nights/{NIGHT}", NIGHT, "night_report")


def loaded_images(page: Any) -> int:
    """The number of images of the page that have loaded; fails if one of them is broken."""
    from selenium.webdriver.support.ui import WebDriverWait

    script = "return Array.from(document.images).map(i => [i.complete, i.naturalWidth, i.src])"
    WebDriverWait(page, SEEN_S).until(lambda opened: all(complete for complete, _, _ in opened.execute_script(script)))
    pictures = page.execute_script(script)
    assert [source for _, width, source in pictures if width == 0] == []
    return len(pictures)
