"""Importing calibration tables over HTTP, on the tiny night: copies of its tables are tried by a child of the portal and registered."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import casacore.tables as ct
import numpy as np
import pytest

from dsa110_assets.archive import audit
from dsa110_assets.archive import caltable_registry as registry
from dsa110_assets.archive.store import Archive
from dsa110_assets.portal.app import create_app
from dsa110_assets.settings import Settings
from dsa110_assets_tests.browser import chromium, served
from dsa110_assets_tests.cli.test_standing import environment
from dsa110_assets_tests.portal.conftest import Answer, ask
from dsa110_assets_tests.portal.test_browser import shown
from dsa110_assets_tests.portal.test_operated import Person

TOKEN = "a-token-of-some-length"
ADA = ((b"authorization", f"Bearer {TOKEN}".encode()), (b"x-dsa110-user", b"Ada"))


class Portal:
    """The portal of the processed tiny night, and copied tables to import."""

    def __init__(self, processed: Settings, place: Path) -> None:
        self.settings, self.place = processed.model_copy(update={"token": TOKEN}), place
        self.app = create_app(processed.archive, inbox=processed.inbox, settings=self.settings)
        with Archive(processed.archive) as archive:
            (self.own,) = registry.sets(archive)

    def get(self, resource: str) -> Any:
        answer = ask(self.app, f"/api/v1/{resource}")
        assert answer.status == 200, answer.text
        return answer.json

    def bring(self, **body: Any) -> Answer:
        return ask(self.app, "/api/v1/caltables/import", "POST", headers=ADA, body=body)

    def tables(self, name: str) -> Path:
        """Copies of the night's own tables in a folder of that name, as if from elsewhere."""
        place = self.place / name
        for path, new in zip(self.own.paths, ("z.bcal", "a.gcal"), strict=True):
            shutil.copytree(path, place / new)
        return place

    def last_line(self) -> audit.Line:
        return audit.lines(self.settings.archive, 1)[0]


@pytest.fixture
def portal(processed: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Portal:
    """A portal with its settings in the environment, from which its child reads them."""
    for name, value in environment(processed).items():
        monkeypatch.setenv(name, str(value))
    return Portal(processed, tmp_path)


@pytest.mark.slow
def test_good_tables_are_registered_audited_and_shown_on_all_pages(portal: Portal) -> None:
    """The solutions are copies of the platform's, so that calibrator, time, antennas and order are known."""
    place = portal.tables("from elsewhere")
    answer = portal.bring(directory=str(place))
    assert answer.status == 200, answer.text
    (set_id,) = answer.json["affected"]
    assert (answer.json["done"], answer.json["told"]) == (True, f"{set_id} is registered")
    row, own = portal.get(f"caltables/{set_id}"), portal.get(f"caltables/{portal.own.set_id}")
    assert (row["status"], row["calibrator"], row["anchor"]) == ("active", "3C454.3", own["anchor"]), "as the tables name it"
    assert row["antennas"] == own["antennas"]
    assert row["mid_mjd"] == pytest.approx(own["mid_mjd"], abs=1 / 1440)
    assert [Path(path).name for path in row["paths"]] == ["z.bcal", "a.gcal"], "the bandpass applies before the gains"
    assert (row["figures"]["by"], row["figures"]["imported_from"]) == ("Ada", str(place))
    with ct.table(row["paths"][0], ack=False) as copied, ct.table(str(portal.own.paths[0]), ack=False) as original:
        np.testing.assert_array_equal(copied.getcol("CPARAM"), original.getcol("CPARAM"))

    line = portal.last_line()
    assert (line.by, line.origin, line.verb, line.target, line.state) == ("Ada", "127.0.0.1", "import caltables", str(place), "done")
    assert line.told == f"{set_id} is registered"
    assert portal.get("audit")["items"][0]["told"] == line.told

    product = portal.get(f"products/{row['product_id']}")
    assert (product["asset"], product["state"]) == (registry.BY_HAND, "current")
    assert set_id in [one["set_id"] for one in portal.get("caltables")["items"]]
    for page in ("/calibration", f"/calibration/{set_id}", f"/products/{row['product_id']}", "/control"):
        shown_ = ask(portal.app, page)
        assert shown_.status == 200, page
        assert row["product_id"] in shown_.text, page

    assert portal.bring(directory=str(place)).json["affected"] == [set_id.replace("-v1/", "-v2/")], "named alike, it is a new version"


@pytest.mark.slow
def test_hostile_and_bad_tables_are_refused_with_the_reason(portal: Portal, tmp_path: Path) -> None:
    """Refused: links in place of tables, truncated tables, random phases, names that lead out of the archive, malformed requests."""
    turned, cut, link = portal.tables("turned"), portal.tables("cut"), tmp_path / "link"
    with ct.table(str(turned / "z.bcal"), readonly=False, ack=False) as table:
        gains = table.getcol("CPARAM")
        angles = np.random.default_rng(1).random((gains.shape[0], 1, 2))
        table.putcol("CPARAM", (gains * np.exp(2j * np.pi * angles)).astype(np.complex64))
    os.truncate(cut / "z.bcal" / "table.dat", 40)
    (link / "x.B").mkdir(parents=True)
    (link / "x.B" / "table.dat").symlink_to("/etc/hostname")
    good = str(portal.tables("good"))
    for body, status, words in (
        ({"directory": str(turned)}, 422, "gain_drift"), ({"directory": str(cut)}, 422, "z.bcal"), ({"directory": str(link)}, 422, "x.B"),
        ({"directory": good, "check": good}, 422, "not a measurement set"), ({"directory": f"{good}/../nowhere"}, 404, "no such directory"),
        ({"directory": good, "name": "../../out"}, 422, ""), ({"directory": good, "calibrator": "<script>"}, 422, ""),
        ({"directory": "relative"}, 422, ""), ({"directory": "/a\nb"}, 422, ""), ({"directory": ["/a"]}, 422, ""), ({}, 422, ""),
    ):  # fmt: skip
        answer = portal.bring(**body)
        assert answer.status == status, (body, answer.text)
        assert answer.headers["content-type"] == "application/problem+json", body
        assert (answer.json["status"], words in answer.json["detail"]) == (status, True), answer.text
    with Archive(portal.settings.archive) as archive:
        assert archive.products(registry.BY_HAND, state=None) == []
    lines = audit.lines(portal.settings.archive, 100)
    assert {line.state for line in lines} == {audit.BEGUN, "failed"}
    assert len([line for line in lines if line.state == "failed"]) == 5, "a form that is none is no order"
    assert ask(portal.app, "/api/v1/caltables/import", "POST", body={"directory": good}).status == 401


@pytest.mark.slow
def test_a_signed_in_person_imports_tables_on_the_page(portal: Portal, tmp_path: Path) -> None:
    place = portal.tables("brought")
    with served(portal.app) as address, chromium(tmp_path / "profile", "--hide-scrollbars") as browser:
        ada = Person(browser, address)
        shown(browser, 1400, dark=False)
        ada.sign_in()
        answer = ada.order("caltables/import", directory=str(place), calibrator="3C454.3")
    assert "is registered" in answer
    (made,) = [one for one in portal.get("caltables")["items"] if one["product_id"].startswith(registry.BY_HAND)]
    assert made["set_id"] in answer
    assert made["calibrator"] == "3C454.3"
    assert json.loads(portal.last_line().arguments)["calibrator"] == "3C454.3"
