"""A failed check is shown with figure and limit on every page that leads to the product, in Chromium and in the API."""

from __future__ import annotations

from pathlib import Path

from dsa110_assets import settings
from dsa110_assets.portal.app import create_app
from dsa110_assets_tests.browser import chromium, served
from dsa110_assets_tests.portal import small_archive as made
from dsa110_assets_tests.portal.conftest import ask
from dsa110_assets_tests.portal.test_browser import FITS, NARROW, SETTLED, WIDE, shown, until, violations

KEY = made.NIGHTS[-1] + made.OBSERVATIONS[0]
SAID = "rms_over_radiometer is 8.8, above 1.25"


def test_a_failed_check_is_shown_on_all_pages_of_its_product(tmp_path: Path, no_settings_of_this_machine: None) -> None:
    small = made.build(tmp_path)
    tile = made.failed_check(small)
    configured = settings.load(inbox=small.inbox, archive=small.root, DAGSTER_HOME=tmp_path / "home")
    app = create_app(small.root, inbox=small.inbox, settings=configured)
    (row,) = [one for one in ask(app, "/api/v1/checks?asset=tile_image").json["items"] if one["check"] == "rms"]
    assert (row["product_id"], row["passed"], row["severity"], row["stops"]) == (tile, False, "ERROR", False)
    assert SAID in row["reason"]
    with served(app) as address, chromium(tmp_path / "profile", "--hide-scrollbars") as browser:
        for page, text in (
            ("/", SAID), (f"/products/{tile}", SAID), ("/gallery?checks=failed", "checks failed"), (f"/observations/{KEY}", tile),
            (f"/timeline?since={KEY[:10]}&until={KEY[:10]}&checks=failed", KEY), (f"/nights/{KEY[:10]}", tile),
        ):  # fmt: skip
            for width, dark in ((WIDE, False), (NARROW, True)):
                shown(browser, width, dark=dark)
                browser.get(address + page)
                until(browser, SETTLED)
                until(browser, FITS)
                assert text in browser.execute_script("return document.body.textContent"), page
                assert violations(browser) == [], page
        assert "Attention" in ask(app, "/").text or "Trouble" in ask(app, "/").text
        severe = [entry["message"] for entry in browser.get_log("browser") if entry["level"] in ("SEVERE", "WARNING")]
        assert severe == []
    passed = ask(app, "/gallery?checks=passed").text
    assert tile not in passed
