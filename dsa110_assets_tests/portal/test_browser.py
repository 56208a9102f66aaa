"""Every page in Chromium, at two widths and in both colour schemes: drawn, complete, readable, and without console messages."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.resources import files
from typing import Any
from urllib.parse import quote

import numpy as np
import pytest
from astropy.coordinates import SkyCoord

from dsa110_assets.portal.app import create_app
from dsa110_assets_tests.browser import chromium, served
from dsa110_assets_tests.portal import small_archive as made
from dsa110_assets_tests.portal.small_archive import SmallArchive

WIDE, NARROW = 1400, 420
PATIENCE_S = 60.0
SOURCE = quote(made.FAINT)
MOSAIC = "hour_mosaic-20260125T2200-v1"
PAGES = (
    "/", "/timeline", "/timeline?since=2026-01-01&until=2026-01-26&colour=rms", "/trends", "/gallery", "/sources", f"/sources/{SOURCE}",
    f"/sources/{SOURCE}?without=2026-01-25T22:10",
    f"/sources/{SOURCE}/point?epoch=2026-01-25T22:05", "/candidates", "/calibration", "/calibration/caltables-20260125-v1/3C138",
    f"/view/{MOSAIC}", "/nights", "/nights/2026-01-25", "/observations", "/observations/2026-01-25T22:05", "/products/" + MOSAIC,
    "/trials", "/alerts", "/runbook", "/success", "/control",
)  # fmt: skip
LOOK = """
return {
  broken: [...document.images].filter((one) => one.complete && !one.naturalWidth).map((one) => one.src),
  undrawn: [...document.querySelectorAll("[data-chart]")].filter((one) => one.dataset.drawn !== "yes").map((one) => one.textContent),
};
"""
AXE = (files("selenium_axe_python") / "axe-core" / "axe.min.js").read_text(encoding="utf-8")
VIOLATIONS = """
const done = arguments[arguments.length - 1], part = {include: [["body"]], exclude: [["[data-chart]"], ["#aladin"]]};
axe.run(part, {resultTypes: ["violations"]}).then(({violations}) => done(violations.flatMap((rule) =>
  rule.nodes.map((node) => `${rule.id}: ${node.html.slice(0, 100)}: ${node.failureSummary}`))));
"""
"""The findings of axe on a page, except in parts drawn by others: Bokeh's plots and Aladin's view."""
SETTLED = """
const canvas = document.getElementById("sky");
return document.readyState === "complete" && (!canvas || canvas.dataset.lacking === "0")
  && [...document.querySelectorAll("[data-chart]")].every((one) => one.dataset.drawn);
"""
FITS = "return document.documentElement.scrollWidth <= innerWidth"
"""Whether nothing extends beyond the right edge, once plots have taken the new width."""


@pytest.fixture(scope="module")
def address(small: SmallArchive) -> Iterator[str]:
    with served(create_app(small.root, inbox=small.inbox)) as opened_at:
        yield opened_at


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    with chromium(tmp_path_factory.mktemp("pages"), "--hide-scrollbars") as opened:
        yield opened


def until(browser: Any, script: str, *arguments: Any) -> Any:
    """Wait until a script returns a true value, and return it."""
    from selenium.webdriver.support.ui import WebDriverWait

    return WebDriverWait(browser, PATIENCE_S, poll_frequency=0.05).until(lambda opened: opened.execute_script(script, *arguments))


def shown(browser: Any, width: int, *, dark: bool) -> None:
    """Set the width of the window, a height at which every plot is drawn, and the colour scheme."""
    scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [scheme]})
    size = {"width": width, "height": 9000, "deviceScaleFactor": 1, "mobile": False}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)


def violations(browser: Any) -> list[str]:
    """Accessibility violations that axe finds on the page."""
    browser.execute_script(AXE)
    found: list[str] = browser.execute_async_script(VIOLATIONS)
    return found


@pytest.mark.parametrize("page", PAGES)
def test_a_page_is_readable_at_both_widths_and_in_both_schemes(browser: Any, address: str, page: str) -> None:
    shown(browser, WIDE, dark=False)
    browser.get_log("browser")
    browser.get(address + page)
    for width, dark in ((WIDE, False), (NARROW, False), (NARROW, True), (WIDE, True)):
        shown(browser, width, dark=dark)
        until(browser, SETTLED)
        until(browser, FITS)
        found = browser.execute_script(LOOK)
        situation = f"{page} at {width} px, {'dark' if dark else 'light'}"
        for name in ("broken", "undrawn"):
            assert found[name] == [], f"{name}: {situation}"
        assert violations(browser) == [], situation
    log = [entry["message"] for entry in browser.get_log("browser") if entry["level"] in ("SEVERE", "WARNING")]
    assert log == [], page


def test_text_of_low_contrast_is_found(browser: Any, address: str) -> None:
    shown(browser, WIDE, dark=False)
    browser.get(address + "/nights")
    browser.execute_script(
        "const p = document.createElement('p'); p.textContent = 'faint'; p.style.color = '#aaa'; document.body.append(p)"
    )
    (violation,) = [one for one in violations(browser) if one.startswith("color-contrast")]
    assert "contrast of 2.32" in violation  # (1 + 0.05)/(0.402 + 0.05), of #aaaaaa on white by WCAG's formula


def test_the_viewer_shows_the_source_with_its_position_and_flux(browser: Any, address: str) -> None:
    shown(browser, WIDE, dark=False)
    browser.get(f"{address}/view/{MOSAIC}?ra={made.RA_DEG}&dec={made.DEC_DEG}")
    until(browser, SETTLED)
    grey = """
    const c = document.getElementById("sky");
    return [...c.getContext("2d").getImageData(c.width / 2 + arguments[0], c.height / 2, 1, 1).data];
    """
    assert browser.execute_script(grey, 0) == [0, 0, 0, 255]  # far above 15 rms, hence the darkest of the scale
    assert browser.execute_script(grey, 40)[0] > 60  # 13 pixels away is noise
    middle = """
    const c = document.getElementById("sky"), box = c.getBoundingClientRect();
    c.dispatchEvent(new PointerEvent("pointermove", {clientX: box.left + box.width / 2, clientY: box.top + box.height / 2, pointerId: 1}));
    """
    browser.execute_script(middle)
    until(browser, "return document.getElementById('told').textContent.includes('mJy')")
    readout = browser.execute_script("return document.getElementById('told').textContent")
    ra, dec = SkyCoord(" ".join(readout.split()[:2])).ra.deg, SkyCoord(" ".join(readout.split()[:2])).dec.deg
    half_a_screen_pixel_deg = made.PIXEL_DEG / 3 / 2  # at the scale of the opened viewer; the middle lies between two pixels
    assert dec == pytest.approx(made.DEC_DEG, abs=1.01 * half_a_screen_pixel_deg)
    assert ra == pytest.approx(made.RA_DEG, abs=1.01 * half_a_screen_pixel_deg / np.cos(np.deg2rad(made.DEC_DEG)))
    assert "500.0 mJy/beam" in readout
    assert f"pixel {made.SIDE // 2}, {made.SIDE // 2}" in readout


def test_the_viewer_shows_marks_blinks_and_goes_to_a_position(browser: Any, address: str) -> None:
    from selenium.webdriver.common.by import By
    from selenium.webdriver.support.ui import Select

    shown(browser, WIDE, dark=False)
    browser.get(f"{address}/view/{MOSAIC}")
    until(browser, SETTLED)
    Select(browser.find_element(By.ID, "marks")).select_by_value("catalogue")
    until(browser, "return shown.marks.length")
    marks = browser.execute_script("return shown.marks.map((one) => [one.name, one.x, one.y])")
    (name, x, y), *_ = marks
    assert (name, x, y) == (next(iter(made.SOURCES)), pytest.approx(made.SIDE / 2, abs=1e-6), pytest.approx(made.SIDE / 2, abs=1e-6))
    Select(browser.find_element(By.ID, "other")).select_by_visible_text("2026-01-26T22:00")
    browser.find_element(By.ID, "blink").click()
    until(browser, "return shown.id !== facts.product")
    browser.find_element(By.ID, "blink").click()
    until(browser, "return shown.id === facts.product")
    browser.find_element(By.ID, "goto").send_keys(f"{made.RA_DEG + 0.1} {made.DEC_DEG}")
    browser.find_element(By.ID, "go").click()
    until(browser, "return Math.abs(centre.x - 22.9) < 0.2")  # 0.1 deg of RA is 9.6 pixels of 0.01 deg to the east, at this declination


def test_a_click_on_a_point_leads_to_its_observation(browser: Any, address: str) -> None:
    from selenium.webdriver.common.action_chains import ActionChains

    shown(browser, WIDE, dark=False)
    browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})  # because clicks go to the real window
    browser.get(address + "/timeline?since=2026-01-25&until=2026-01-25")
    until(browser, SETTLED)
    place = """
    const plot = Bokeh.documents.at(-1).roots()[0], view = Bokeh.index.find_one(plot), data = plot.renderers[0].data_source.data;
    if (!view || !view.frame.x_scale.compute(data.at[0])) return null;
    const box = view.canvas_view.el.getBoundingClientRect();
    return [box.left + view.frame.x_scale.compute(data.at[0]), box.top + view.frame.y_scale.compute(data.value[0])];
    """
    x, y = until(browser, place)
    for act in ("move", "click"):
        actions = ActionChains(browser)
        actions.w3c_actions.pointer_action.move_to_location(round(x), round(y))
        if act == "click":
            actions.w3c_actions.pointer_action.click()
        actions.perform()
    until(browser, "return location.pathname === '/observations/2026-01-25T22:05'")


def test_the_front_page_renews_itself_and_says_when_it_cannot(browser: Any, address: str) -> None:
    shown(browser, WIDE, dark=False)
    browser.get(address + "/")
    browser.execute_script(
        "document.querySelector('main h1').textContent = 'old'; document.getElementById('all').open = true; return renew()"
    )
    until(browser, "return document.querySelector('main h1').textContent !== 'old'")
    assert browser.execute_script("return document.getElementById('all').open")
    browser.execute_script("window.fetch = () => Promise.reject(new Error('away')); last = Date.now() - 60000; return renew()")
    until(browser, "return document.getElementById('renewed').textContent.includes('has not answered')")
    browser.get("about:blank")
    browser.get_log("browser")


def test_no_page_loads_more_than_2_mb(browser: Any, address: str) -> None:
    """A page loads at most 2 MB, scripts and pictures included."""
    for page in ("/", "/timeline", f"/sources/{SOURCE}", f"/view/{MOSAIC}", "/calibration"):
        browser.execute_cdp_cmd("Network.setCacheDisabled", {"cacheDisabled": True})
        browser.get(address + page)
        until(browser, SETTLED)
        kinds = "return ['resource', 'navigation'].flatMap((kind) => performance.getEntriesByType(kind))"
        parts = f"{kinds}.map((one) => one.encodedBodySize)"
        assert 5_000 < sum(browser.execute_script(parts)) < 2e6, page
    browser.execute_cdp_cmd("Network.setCacheDisabled", {"cacheDisabled": False})
