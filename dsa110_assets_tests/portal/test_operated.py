"""A holder of the token operates the platform in Chromium: every form that gives an order, and the pages seen without a token."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from selenium.webdriver.common.by import By
from starlette.types import ASGIApp

from dsa110_assets import settings
from dsa110_assets.archive import audit, caltable_registry, judgements, requested
from dsa110_assets.archive.store import Archive
from dsa110_assets.orchestration.ingest import pausing
from dsa110_assets.orchestration.running import instance as instances
from dsa110_assets.portal.app import create_app
from dsa110_assets_tests.browser import chromium, served
from dsa110_assets_tests.portal import small_archive
from dsa110_assets_tests.portal.small_archive import SmallArchive
from dsa110_assets_tests.portal.test_browser import shown, until, violations

TOKEN = "a-token-of-some-length"
SET = "caltables-20260125-v1/3C138"
TILE = "tile_image-20260125T2205-v1"


def portal(small: SmallArchive, place: Path, token: str | None) -> ASGIApp:
    """A portal whose platform has this token, or none."""
    configured = settings.load(inbox=small.inbox, archive=small.root, DAGSTER_HOME=place / "home", token=token)
    return create_app(small.root, inbox=small.inbox, settings=configured)


@pytest.fixture
def own(small: SmallArchive, tmp_path: Path, no_settings_of_this_machine: None) -> SmallArchive:
    """A private archive of this test, and a Dagster home that was used once."""
    shutil.copytree(small.root, tmp_path / "archive")
    with instances.open_instance(tmp_path / "home"):
        return SmallArchive(tmp_path / "archive", small.inbox, small.products)


class Person:
    """A person at a browser."""

    def __init__(self, browser: Any, address: str) -> None:
        self.browser, self.address = browser, address

    def go(self, page: str) -> None:
        self.browser.get(self.address + page)
        until(self.browser, "return document.body.dataset.session === 'known'")

    def sign_in(self, token: str = TOKEN) -> None:
        self.go("/control")
        self.browser.find_element(By.ID, "name").send_keys("Ada")
        self.browser.find_element(By.ID, "token").send_keys(token)
        self.browser.find_element(By.CSS_SELECTOR, "#sign-in button").click()

    def order(self, resource: str, *, confirmed: bool = False, label: str = "", **values: str) -> str:
        """Fill in a form, send it, confirm it if requested, and return the answer that is shown."""
        chosen = f'form[data-order="{resource}"]' + (f'[aria-label="{label}"]' if label else "")
        form = self.browser.find_element(By.CSS_SELECTOR, chosen)
        assert form.is_displayed(), resource
        for name, value in values.items():
            field = form.find_element(By.CSS_SELECTOR, f'[name="{name}"]')
            self.browser.execute_script("arguments[0].value = arguments[1]", field, value)
        form.find_element(By.CSS_SELECTOR, "button").click()
        ended = "const o = document.querySelector(arguments[0] + ' output'); return o.className !== 'soft' && o.textContent"
        answer = str(until(self.browser, ended, chosen))
        if confirmed:
            assert answer.startswith("This would "), answer
            form.find_element(By.CSS_SELECTOR, "output button").click()
            again = "const o = document.querySelector(arguments[0] + ' output'); return o.className === 'good' && o.textContent"
            answer = str(until(self.browser, again, chosen))
        return answer


def test_the_platform_is_operated_with_the_token(own: SmallArchive, tmp_path: Path) -> None:
    with (
        served(portal(own, tmp_path, TOKEN)) as address,
        chromium(tmp_path / "profile", "--hide-scrollbars") as browser,
        Archive(own.root) as archive,
    ):
        ada = Person(browser, address)
        shown(browser, 1400, dark=False)
        ada.sign_in("wrong")
        assert "not the platform's token" in until(browser, "return document.getElementById('trouble').textContent")
        assert [entry["message"] for entry in browser.get_log("browser") if "401" not in entry["message"]] == []
        ada.sign_in()
        until(browser, "return document.body.classList.contains('signed-in')")
        assert browser.execute_script("return document.cookie") == "", "no script can read the session"

        ada.order("ingest/pause", reason="maintenance")
        assert pausing.paused(own.root) is not None
        ada.go("/control")
        ada.order("ingest/resume")
        assert pausing.paused(own.root) is None
        ada.order("drain/begin", reason="version 2")
        assert pausing.paused(own.root, pausing.ALL) is not None
        ada.go("/control")
        ada.order("drain/end")
        assert pausing.halted(own.root) == []
        assert "2026-01-25T22:05" in ada.order("runs", label="Partitions", asset="tile_image", partitions="2026-01-25T22:05")
        assert "Queued as backfill" in ada.order("requested-mosaics", name="virgo", tiles=TILE)
        assert requested.read(archive, "virgo") is not None
        assert "no such directory" in ada.order("caltables/import", directory="/nowhere/at/all")
        record = browser.find_element(By.CSS_SELECTOR, 'form[data-order^="quarantine/"]').get_attribute("data-order")
        assert "judged afresh" in ada.order(record)

        ada.go(f"/calibration/{SET}")
        assert "stale" in ada.order(f"caltables/{SET}/reject", confirmed=True, label="Reject", reason="bad phases")
        assert caltable_registry.get(archive, SET).status == caltable_registry.REJECTED
        ada.go(f"/calibration/{SET}")
        ada.order(f"caltables/{SET}/restore", confirmed=True)
        assert caltable_registry.get(archive, SET).status == caltable_registry.ACTIVE

        ada.go(f"/sources/{quote(small_archive.FAINT)}")
        ada.order("judgements", verdict="artefact", note="<b>beside</b> a bright one")
        (judgement,) = judgements.judgements(archive)
        assert (judgement.name, judgement.verdict, judgement.note) == ("Ada", "artefact", "<b>beside</b> a bright one")
        ada.go(f"/products/{TILE}")
        ada.order(f"products/{TILE}/pin", reason="in the paper")
        assert archive.get(TILE).pinned
        ada.go("/trials")
        ada.order("requested-mosaics/virgo/delete", confirmed=True)
        assert requested.read(archive, "virgo") is None

        ada.go("/gallery")
        assert requested.read(archive, "of_these") is None
        browser.execute_script("for (const one of document.querySelectorAll('[data-choice]')) one.checked = false")
        assert "Nothing is ticked" in ada.order("requested-mosaics", name="of_these")
        browser.find_element(By.CSS_SELECTOR, f'[data-choice="tile"][value="{TILE}"]').click()
        assert "Queued as backfill" in ada.order("requested-mosaics", name="of_these")
        assert requested.read(archive, "of_these").tiles == ("2026-01-25T22:05",)
        shown(browser, 420, dark=True)
        assert violations(browser) == []

        ada.go("/control")
        for width, dark in ((1400, False), (420, True)):
            shown(browser, width, dark=dark)
            assert violations(browser) == []
        assert {line.verb for line in audit.lines(own.root, 100)} >= {"pause ingest", "start runs", "reject caltables", "judge", "pin"}
        browser.find_element(By.CSS_SELECTOR, "#sign-out button").click()
        until(browser, "return !document.body.classList.contains('signed-in')")
        assert not browser.find_element(By.CSS_SELECTOR, "form.order").is_displayed()
        severe = [entry["message"] for entry in browser.get_log("browser") if entry["level"] == "SEVERE"]
        assert [text for text in severe if "/caltables/import" not in text] == []


def test_without_a_token_the_page_says_so_and_shows_no_form(own: SmallArchive, tmp_path: Path) -> None:
    with served(portal(own, tmp_path, None)) as address, chromium(tmp_path / "profile") as browser:
        Person(browser, address).go("/control")
        assert browser.find_element(By.ID, "read-only").is_displayed()
        assert not any(form.is_displayed() for form in browser.find_elements(By.TAG_NAME, "form"))
