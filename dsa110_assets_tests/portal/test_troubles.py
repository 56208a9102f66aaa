"""Every state of trouble is produced and shown in Chromium at two widths and in two schemes: reported, readable, and without overflow.

Screenshots stay in the test's directory for inspection: `pytest --basetemp DIRECTORY`.
"""

from __future__ import annotations

import base64
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from dagster._daemon.types import DaemonHeartbeat

from dsa110_assets import settings
from dsa110_assets.archive import caltable_registry, quarantine
from dsa110_assets.archive.store import Archive
from dsa110_assets.orchestration.running import instance as instances
from dsa110_assets.orchestration.watching import watch
from dsa110_assets.portal.app import create_app
from dsa110_assets.settings import Settings
from dsa110_assets.thresholds import load_thresholds, refused_thresholds
from dsa110_assets_tests.browser import chromium, served
from dsa110_assets_tests.portal import small_archive as made
from dsa110_assets_tests.portal.conftest import ask
from dsa110_assets_tests.portal.small_archive import SmallArchive
from dsa110_assets_tests.portal.test_browser import FITS, NARROW, SETTLED, WIDE, shown, until, violations

HOSTILE = "2026-01-26T23:00:00_sb01 <img src=x onerror=alert(1)>\n\u202egnp.\x1b[31m{{ 7*7 }}.hdf5"
FULL = (int(4e12), int(3.999e12), int(1e9))
KEY = made.NIGHTS[-1] + made.OBSERVATIONS[0]


@dataclass(frozen=True)
class Place:
    """A private small platform that a test can bring into a state."""

    small: SmallArchive
    settings: Settings
    patch: pytest.MonkeyPatch

    def thresholds(self, text: str) -> None:
        self.settings.thresholds_path.write_text(text)

    def dagster(self, age_s: float) -> None:
        """Record a sign of life of the daemon `age_s` seconds ago."""
        with instances.open_instance(self.settings.home_path) as dagster:
            dagster.add_daemon_heartbeat(DaemonHeartbeat(time.time() - age_s, "SENSOR", "x", []))


def no_calibration(place: Place) -> None:
    with Archive(place.small.root) as archive:
        for one in caltable_registry.sets(archive):
            caltable_registry.reject(archive, one.set_id, "antenna 5 swapped (Ada)")


def stale_calibration(place: Place) -> None:
    place.thresholds("calibration_aging_h = 2\ncalibration_stale_h = 4\n")


def disk_full(place: Place) -> None:
    place.patch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(*FULL))  # because no test may fill this machine's disk


def daemon_dead(place: Place) -> None:
    place.dagster(5400.0)


def thresholds_wrong(place: Place) -> None:
    place.thresholds("max_flag_fraction = 25\n")


def failed_check(place: Place) -> None:
    made.failed_check(place.small, KEY)


def quarantined(place: Place) -> None:
    path = place.small.inbox / HOSTILE
    path.write_bytes(b"x")
    with Archive(place.small.root) as archive:
        quarantine.quarantine(archive, path, f"not readable as HDF5: {HOSTILE}", None)


def old_data(place: Place) -> None:
    """Change nothing: the last observation of the archive is of January."""


STATES: dict[str, tuple[Callable[[Place], None], str, dict[str, str]]] = {
    "no-calibration": (no_calibration, "no calibration is in force", {"/calibration": "antenna 5 swapped"}),
    "stale-calibration": (stale_calibration, "6.1 h away from the last observation: stale", {"/calibration": "0521+166"}),
    "disk-full": (disk_full, "the archive's disk is full", {"/alerts": "disk"}),
    "daemon-dead": (daemon_dead, "no sign of life for 90 min", {"/alerts": "sign of life"}),
    "thresholds-wrong": (thresholds_wrong, "max_flag_fraction", {"/alerts": "max_flag_fraction"}),
    "failed-check": (
        failed_check,
        "rms_over_radiometer is 8.8, above 1.25",
        {
            f"/products/tile_image-{KEY.replace('-', '').replace(':', '')}-v2": "8.8",
            "/gallery?checks=failed": "checks failed",
            f"/observations/{KEY}": "v2",
            "/alerts": "check",
        },
    ),
    "quarantined": (quarantined, "2 files or groups are quarantined", {"/control": "not readable as HDF5", "/alerts": "quarantined"}),
    "old-data": (old_data, "the last data are", {"/timeline": KEY, "/nights": "2026-01-26"}),
}
"""By name: the function that produces the state, the text on the front page, and the text on each of the pages linked there."""


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, no_settings_of_this_machine: None) -> Place:
    small = made.build(tmp_path)
    configured = settings.load(inbox=small.inbox, archive=small.root, DAGSTER_HOME=tmp_path / "home", token="a-token-of-some-length")
    return Place(small, configured, monkeypatch)


def alarmed(configured: Settings) -> None:
    """Let the portal's watch look for alerts once."""
    limits, refused = load_thresholds(configured.thresholds_path), refused_thresholds(configured.thresholds_path)
    with Archive(configured.archive) as archive:
        watch.look(archive, configured, limits, refused, "portal", always=True)


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    with chromium(tmp_path_factory.mktemp("troubles"), "--hide-scrollbars") as opened:
        yield opened


EACH = ((WIDE, False), (NARROW, False), (NARROW, True), (WIDE, True))


def look_at(browser: Any, address: str, page: str, said: str, picture: Path, forms: Sequence[tuple[int, bool]] = EACH[::2]) -> None:
    """Open a page at these widths and schemes, and check that it has the text, fits and is accessible. A screenshot of each is kept."""
    for width, dark in forms:
        shown(browser, width, dark=dark)
        browser.get(address + page)
        until(browser, SETTLED)
        until(browser, FITS)
        situation = f"{picture.stem}-{width}-{'dark' if dark else 'light'}"
        assert said in browser.find_element("tag name", "body").text, situation
        assert violations(browser) == [], situation
        height = browser.execute_script("return document.body.scrollHeight")
        clip = {"x": 0, "y": 0, "width": width, "height": height, "scale": 1}
        shot = browser.execute_cdp_cmd("Page.captureScreenshot", {"format": "png", "clip": clip})
        picture.with_name(f"{situation}.png").write_bytes(base64.b64decode(shot["data"]))
    assert [one["message"] for one in browser.get_log("browser") if one["level"] in ("SEVERE", "WARNING")] == []


@pytest.mark.slow
@pytest.mark.parametrize("state", STATES)
def test_states_of_trouble_are_reported_and_readable(browser: Any, place: Place, tmp_path: Path, state: str) -> None:
    bring_about, summary, further = STATES[state]
    alarmed(place.settings)  # conditions present at the first look are not reported as new
    bring_about(place)
    alarmed(place.settings)
    app = create_app(place.small.root, inbox=place.small.inbox, settings=place.settings)
    with served(app) as address:
        look_at(browser, address, "/", summary, tmp_path / f"{state}-front", EACH)
        for number, (page, words) in enumerate(further.items()):
            look_at(browser, address, page, words, tmp_path / f"{state}-{number}")
        browser.get("about:blank")


def test_deceptive_file_names_are_shown_escaped(place: Place) -> None:
    """The name has a direction override that would make it seem to end in .png, and code, which is shown as text."""
    quarantined(place)
    app = create_app(place.small.root, inbox=place.small.inbox, settings=place.settings)
    for page in ("/", "/control"):
        text = ask(app, page).text
        assert "\\u202egnp.\\x1b[31m{{ 7*7 }}.hdf5" in text, page
        assert not {"\u202e", "\x1b"} & set(text), page
        assert "<img src=x" not in text


@pytest.mark.slow
def test_pages_of_an_empty_archive_explain_how_to_begin(browser: Any, tmp_path: Path, no_settings_of_this_machine: None) -> None:
    Archive.create(tmp_path / "archive").close()
    (tmp_path / "inbox").mkdir()
    configured = settings.load(inbox=tmp_path / "inbox", archive=tmp_path / "archive", DAGSTER_HOME=tmp_path / "home")
    with served(create_app(tmp_path / "archive", inbox=tmp_path / "inbox", settings=configured)) as address:
        for page, text in (
            ("/", "there are no data yet"),
            ("/timeline", ""),
            ("/gallery", ""),
            ("/sources", ""),
            ("/candidates", "No night"),
        ):
            look_at(browser, address, page, text, tmp_path / f"empty{page.replace('/', '-')}")
        browser.get("about:blank")
