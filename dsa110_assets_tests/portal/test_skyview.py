"""The sky of a night, in the portal's own picture and in Aladin Lite as npm installs it, without requests to other origins."""

from __future__ import annotations

import io
import re
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
import pytest
from PIL import Image

from dsa110_assets import settings
from dsa110_assets.portal import skyview
from dsa110_assets.portal.app import create_app
from dsa110_assets_tests.browser import chromium, served
from dsa110_assets_tests.portal import small_archive as made
from dsa110_assets_tests.portal.conftest import Answer, Get, ask
from dsa110_assets_tests.portal.small_archive import SmallArchive
from dsa110_assets_tests.portal.test_browser import FITS, NARROW, WIDE, shown, until, violations

NIGHT = made.NIGHTS[0]
SOURCE, PLACE = next(iter(made.SOURCES)), "ra=40&dec=16.27"
ALADIN = "aladin-lite@3.8.2"
SWIFTSHADER = ("--enable-unsafe-swiftshader", "--use-angle=swiftshader", "--hide-scrollbars")
"""WebGL without a graphics card."""


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> tuple[SmallArchive, str]:
    """A private small archive with the mosaic of a night, and the id of the mosaic."""
    small = made.build(tmp_path_factory.mktemp("sky"))
    return small, made.sky_of(small)


@pytest.fixture(scope="module")
def get(archive: tuple[SmallArchive, str]) -> Get:
    app = create_app(archive[0].root)
    return lambda url, **options: ask(app, url, **options)


@pytest.fixture(scope="module")
def aladin(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of Aladin Lite, installed as an operator would. Tests that need it are skipped if npm or its registry is not available."""
    place = tmp_path_factory.mktemp("npm")
    if shutil.which("npm") is None:
        pytest.skip("no npm: Aladin Lite is not tried (Debian: npm)")
    command = ["npm", "install", "--no-audit", "--no-fund", "--ignore-scripts", "--prefix", str(place), ALADIN]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    if done.returncode:
        pytest.skip(f"npm could not install Aladin Lite, so it is not tried: {done.stderr.strip().splitlines()[-1:]}")
    return place


def test_the_page_has_the_nights_picture_coverage_and_sources(get: Get, archive: tuple[SmallArchive, str]) -> None:
    answer = get(f"/sky?night={NIGHT}&{PLACE}&fov=1")
    assert answer.status == 200
    assert "wasm" not in answer.headers["content-security-policy"]
    assert f"Sky of the night {NIGHT}" in answer.text
    for name in made.SOURCES:
        assert f'<a href="/sources/{quote(name)}" aria-label="{name}"><circle' in answer.text
    assert f"/files/{archive[1]}/coverage.moc.fits" in answer.text
    assert "+16.4°" in answer.text  # label of a line of the graticule
    assert "02h40m" in answer.text  # 40 degrees of right ascension
    (centre,) = re.findall(rf'aria-label="{re.escape(SOURCE)}"><circle class="" cx="([\d.]+)" cy="([\d.]+)"', answer.text)
    assert [float(value) for value in centre] == pytest.approx([(skyview.WIDTH - 1) / 2, (skyview.HEIGHT - 1) / 2], abs=0.06)


def picture(answer: Answer) -> np.ndarray:
    assert answer.headers["content-type"] == "image/png"
    return np.asarray(Image.open(io.BytesIO(answer.body)))


def test_the_picture_is_brightest_at_the_source_and_blank_off_the_coverage(get: Get, archive: tuple[SmallArchive, str]) -> None:
    levels = picture(get(f"/sky/{archive[1]}/window.png?{PLACE}&fov=1"))
    assert levels.shape == (skyview.HEIGHT, skyview.WIDTH)
    middle = levels[skyview.HEIGHT // 2 - 8 : skyview.HEIGHT // 2 + 8, skyview.WIDTH // 2 - 8 : skyview.WIDTH // 2 + 8]
    assert middle.max() == skyview.EDGE  # 250 times the noise, hence the last colour of the palette
    assert levels[:, 0].max() == 0  # half a degree from the centre, outside the 0.64 degrees of data
    assert picture(get(f"/sky/{archive[1]}/window.png?ra=220&dec=-16&fov=1")).max() == 0


def test_links_of_the_window_move_it_within_the_sky(get: Get) -> None:
    page = get(f"/sky?night={NIGHT}&ra=0.01&dec=89.9&fov=180").text
    (wider,) = re.findall(r'href="([^"]+)">Wider', page)
    (north,) = re.findall(r'href="([^"]+)">North', page)
    assert "fov=180" in wider
    assert "dec=90.00000" in north
    links = dict(re.findall(r'<a href="(/sky\?[^"]+)">(\w+)</a>', page))
    assert set(links.values()) == {"East", "West", "North", "South", "Closer", "Wider"}
    for address in links:
        assert get(address.replace("&amp;", "&")).status == 200, address


@pytest.mark.parametrize(
    ("url", "status"),
    [
        ("/sky?night=2020-01-01", 404), ("/sky?ra=abc&dec=1", 400), ("/sky?ra=12", 400), (f"/sky?{PLACE}&fov=0", 400),
        (f"/sky?{PLACE}&fov=nan", 400), ("/sky/hour_mosaic-20260125T2200-v1/window.png", 404), ("/sky/nothing-v1/sources.json", 404),
        ("/sky/night_mosaic-20260125-v1/hips/../product.json", 404), ("/sky/night_mosaic-20260125-v1/hips/absent.txt", 404),
        ("/sky/aladin.js", 404),
    ],
)  # fmt: skip
def test_missing_or_invalid_sky_views_get_an_http_error(get: Get, url: str, status: int) -> None:
    assert get(url).status == status


def test_the_hips_is_served_with_blank_tiles_where_it_has_none(get: Get, archive: tuple[SmallArchive, str]) -> None:
    base = f"/sky/{archive[1]}/hips"
    assert "hips_order " in get(f"{base}/properties").text
    (tile,) = (archive[0].products[archive[1]].path / "hips" / "Norder3").rglob("Npix*.png")
    assert get(f"{base}/Norder3/Dir0/{tile.name}").body == tile.read_bytes()
    assert picture(get(f"{base}/Norder3/Dir0/Npix1.png")).max() == 0
    assert picture(get(f"{base}/Norder3/Allsky.png")).shape == (29 * 64, 27 * 64)
    assert get(f"{base}/Moc.fits").body[:6] == b"SIMPLE"
    sources = get(f"/sky/{archive[1]}/sources.json").json["sources"]
    assert [(one["source_id"], one["flux_jy"]) for one in sources] == [(name, flux) for name, (_, _, flux) in made.SOURCES.items()]


def test_the_sky_page_without_nights_has_a_notice(empty: Get) -> None:
    answer = empty("/sky")
    assert answer.status == 200
    assert "No night's mosaic yet" in answer.text


@contextmanager
def opened(archive: tuple[SmallArchive, str], folder: Path | None, place: Path) -> Iterator[tuple[Any, str]]:
    configured = settings.load(inbox=archive[0].inbox, archive=archive[0].root, DAGSTER_HOME=place / "home", aladin=folder)
    app = create_app(archive[0].root, inbox=archive[0].inbox, settings=configured)
    with served(app) as address, chromium(place / "profile", *SWIFTSHADER) as browser:
        yield browser, address


MIDDLE = """
const box = document.getElementById("aladin").getBoundingClientRect();
return [box.left + box.width / 2, box.top + box.height / 2, box.width / 2];
"""


def around(screen: np.ndarray, x: float, y: float) -> np.ndarray:
    return screen[round(y) - 6 : round(y) + 7, round(x) - 6 : round(x) + 7]


def complaints(browser: Any) -> list[str]:
    """Warnings and errors on the console, except the software renderer's message about its own speed."""
    entries = [entry for entry in browser.get_log("browser") if entry["level"] in ("SEVERE", "WARNING")]
    return [entry["message"] for entry in entries if "GPU stall due to ReadPixels" not in entry["message"]]


def test_the_sky_page_without_aladin_is_readable_and_links_to_sources(
    archive: tuple[SmallArchive, str], tmp_path: Path, no_settings_of_this_machine: None
) -> None:
    with opened(archive, None, tmp_path) as (browser, address):
        for width, dark in ((WIDE, False), (NARROW, True)):
            shown(browser, width, dark=dark)
            browser.get(f"{address}/sky?night={NIGHT}")
            until(browser, "return document.readyState === 'complete'")
            until(browser, FITS)
            assert violations(browser) == []
        shown(browser, WIDE, dark=False)
        browser.get(f"{address}/sky?night={NIGHT}&{PLACE}&fov=1")
        click = """
        const one = [...document.querySelectorAll("svg.sky a")].find((a) => a.getAttribute("aria-label") === arguments[0]);
        const box = one.querySelector("circle").getBoundingClientRect();
        const hit = document.elementFromPoint(box.left + box.width / 2, box.top + box.height / 2);
        hit.dispatchEvent(new MouseEvent("click", { bubbles: true, cancelable: true, view: window }));
        """
        browser.execute_script(click, SOURCE)
        until(browser, "return decodeURIComponent(location.pathname) === arguments[0]", f"/sources/{SOURCE}")
        assert complaints(browser) == []


def test_aladin_shows_the_night_and_contacts_no_other_host(
    archive: tuple[SmallArchive, str], aladin: Path, tmp_path: Path, no_settings_of_this_machine: None
) -> None:
    """The npm package draws the night at the given position with coverage and sources, and a click on a source opens its page. Every
    request goes to our origin, and the console is empty."""
    with opened(archive, aladin, tmp_path) as (browser, address):
        shown(browser, WIDE, dark=True)
        window = {"width": WIDE, "height": 1400, "deviceScaleFactor": 1, "mobile": False}  # WebGL surfaces are limited to 8192 pixels
        browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", window)
        browser.get(f"{address}/sky?night={NIGHT}&{PLACE}&fov=1")
        until(browser, "return document.getElementById('aladin').dataset.drawn")
        assert browser.execute_script("return document.getElementById('aladin').dataset.drawn") == "yes"
        requested = "return performance.getEntriesByType('resource').map((one) => one.name)"
        until(browser, f"{requested}.some((one) => one.includes('/hips/Norder3/Dir0/'))")
        assert [name for name in browser.execute_script(requested) if not name.startswith((f"{address}/", "data:", "blob:"))] == []
        place = "const [ra, dec] = globalThis.sky.aladin.getRaDec(); return [ra, dec, globalThis.sky.aladin.getFov()[0]]"
        assert browser.execute_script(place) == pytest.approx([made.RA_DEG, made.DEC_DEG, 1.0], abs=1e-3)
        names = "return globalThis.sky.marks.getSources().map((one) => one.data.name)"
        assert browser.execute_script(names) == list(made.SOURCES)
        shown_there = np.asarray(Image.open(io.BytesIO(browser.get_screenshot_as_png())).convert("L"), int)
        x, y, half = browser.execute_script(MIDDLE)
        assert around(shown_there, x, y).max() > 240, "the source, 250 times the noise, is white"
        assert around(shown_there, x - 0.9 * half, y).max() < 100, "0.45 degrees from the centre of 0.64 degrees of data there is none"
        assert violations(browser) == []
        until(browser, FITS)
        assert complaints(browser) == []
        from selenium.webdriver.common.action_chains import ActionChains

        actions = ActionChains(browser)
        actions.w3c_actions.pointer_action.move_to_location(round(x), round(y))
        actions.w3c_actions.pointer_action.click()
        actions.perform()
        until(browser, "return decodeURIComponent(location.pathname) === arguments[0]", f"/sources/{SOURCE}")


def test_without_webgl_the_page_says_so_and_leads_to_the_other_view(
    archive: tuple[SmallArchive, str], aladin: Path, tmp_path: Path, no_settings_of_this_machine: None
) -> None:
    configured = settings.load(inbox=archive[0].inbox, archive=archive[0].root, DAGSTER_HOME=tmp_path / "home", aladin=aladin)
    app = create_app(archive[0].root, settings=configured)
    with served(app) as address, chromium(tmp_path / "profile", "--disable-3d-apis") as browser:
        browser.get(f"{address}/sky?night={NIGHT}")
        until(browser, "return document.getElementById('aladin').dataset.drawn === 'no'")
        assert "cannot be shown here" in browser.execute_script("return document.getElementById('told').textContent")
        browser.execute_script("document.querySelector('#told a').click()")
        until(browser, "return document.querySelector('svg.sky') !== null")
