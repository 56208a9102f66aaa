"""The front page: its one-line summary of each state, ages compared with the clock, and figures compared with the input."""

from __future__ import annotations

import json
import os
import re
import shutil
import time
from dataclasses import asdict, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from dsa110_assets.archive import beats, files
from dsa110_assets.archive.store import Archive
from dsa110_assets.orchestration.watching import disks, history, hosts
from dsa110_assets.portal import front, overview
from dsa110_assets.portal.app import create_app
from dsa110_assets.thresholds import Thresholds
from dsa110_assets_tests.portal.conftest import Get, ask
from dsa110_assets_tests.portal.small_archive import SmallArchive

NOW = datetime(2026, 1, 27, 0, 0, tzinfo=UTC)
LIMITS = Thresholds()
ROOMY = disks.Disk("/archive", int(5e12), int(2e13), 1e11, 50.0)


@pytest.fixture
def status(small: SmallArchive) -> overview.Status:
    """The status two hours after the last observation, without troubles and with enough disk space."""
    from dsa110_assets.analyst import open_archive

    found = overview.status(open_archive(small.root), small.inbox, NOW)
    return replace(found, disk=ROOMY, quarantined=[], troubles=[])


def ages(beat_s: float | None, observed_s: float | None) -> list[front.Age]:
    then = {"Daemon's heartbeat": beat_s, "Last observation": observed_s}
    return [front.Age(what, None if age is None else NOW - timedelta(seconds=age), age) for what, age in then.items()]


FRESH = front.Calibration("fresh", 6.0, 12.0, 24.0, None)


@pytest.mark.parametrize(
    ("change", "level", "words"),
    [
        ({}, front.WELL, ""),
        ({"beat": None}, front.ATTENTION, "never ran here"),
        ({"beat": 181.0}, front.TROUBLE, "gave no sign of life for 3.0 min"),
        ({"observed": 306 * 86400.0}, front.ATTENTION, "the last data are 306 days old"),
        ({"observed": None}, front.ATTENTION, "there are no data yet"),
        ({"calibration": None}, front.TROUBLE, "no calibration is in force"),
        ({"calibration": replace(FRESH, band="aging", age_h=13.0)}, front.ATTENTION, "13.0 h away"),
        ({"calibration": replace(FRESH, band="stale", age_h=25.0)}, front.TROUBLE, "25.0 h away"),
        ({"disk": replace(ROOMY, free_bytes=int(4e10))}, front.TROUBLE, "full: 40 GB free, ingest is paused"),
        ({"disk": replace(ROOMY, free_bytes=int(1.5e11))}, front.ATTENTION, "filling: 150 GB free"),
        ({"disk": replace(ROOMY, full_in_days=3.0)}, front.ATTENTION, "full in 3.0 days"),
        ({"refused": "thresholds t.toml: there is no threshold x"}, front.TROUBLE, "refused thresholds t.toml: there is no threshold x"),
        ({"halted": ["nothing new is begun: drained by ann"]}, front.ATTENTION, "drained by ann"),
        ({"held": [{"product_id": "p", "reason": "r"}]}, front.TROUBLE, "1 product is held by a check"),
        ({"quarantined": [{}, {}]}, front.ATTENTION, "2 files or groups are quarantined"),
        ({"troubles": ["the inbox: it is away"]}, front.TROUBLE, "could not be found out: the inbox: it is away"),
        ({"failed": [history.FailedRun("r", ("tile_image",), "w", NOW, "why")]}, front.TROUBLE, "1 run failed"),
        ({"waiting": [{}] * 101}, front.ATTENTION, "101 observations wait"),
    ],
)
def test_each_state_is_reported(status: overview.Status, change: dict[str, Any], level: str, words: str) -> None:
    others = {"beat": 20.0, "observed": 300.0, "calibration": FRESH, "refused": None, "failed": []}
    given = {name: change.get(name, value) for name, value in others.items()}
    stood = replace(status, **{"waiting": [], **{name: value for name, value in change.items() if name not in others}})
    reasons = list(
        front.reasons_of(stood, ages(given["beat"], given["observed"]), given["calibration"], given["failed"], LIMITS, given["refused"])
    )
    assert [(one.level, words in one.text) for one in reasons] == ([] if level == front.WELL else [(level, True)])


def test_calibration_age_bands_follow_the_thresholds(small: SmallArchive, status: overview.Status) -> None:
    """The small archive's calibration is 6 h and 5 min before its last observation."""
    with Archive(small.root) as archive:
        for aging, stale, band in ((7, 24, "fresh"), (6, 24, "aging"), (3, 6, "stale")):
            found = front.calibration_of(archive, status, Thresholds(calibration_aging_h=aging, calibration_stale_h=stale))
            assert found is not None
            assert (found.band, found.age_h) == (band, pytest.approx(6 + 5 / 60, abs=1e-6))
        assert front.calibration_of(archive, replace(status, calibration=None), LIMITS) is None


def test_latency_is_from_the_last_file_to_the_image(tmp_path: Path) -> None:
    """Images are published now from files that are 300 s and 900 s old, which fixes the median and the number of late ones."""
    now = datetime.now(UTC)
    with Archive.create(tmp_path / "a") as archive:
        for key, age_s in (("2026-01-25T22:05", 300), ("2026-01-25T22:10", 900)):
            stamp = int((now - timedelta(seconds=age_s)).timestamp() * 1e9)
            files = [f"{key}:00_sb00.hdf5:10:{stamp - 10**9}", f"{key}:00_sb01.hdf5:10:{stamp}"]
            for asset, settings in (("subband_group", {"files": files}), ("tile_image", {})):
                with archive.publish(asset, key, [], settings=settings, code_version="1", run_id="r") as draft:
                    (draft.path / "x").write_text("x")
        found = front.latencies(archive, "2026-01-25", "2026-01-25")
        latency = front.latency_of(archive, "2026-01-25")
        assert found == {"2026-01-25T22:05": pytest.approx(300, abs=30), "2026-01-25T22:10": pytest.approx(900, abs=30)}
        assert latency is not None
        assert (latency.number, latency.late, latency.median_s) == (2, 1, pytest.approx(600, abs=30))
        assert front.latency_of(archive, "2026-01-24") is None
        flow = front.flows(archive, datetime.now(UTC))
        assert [(one.arrived_per_h, one.imaged_per_h) for one in flow] == [(2.0, 2.0), (pytest.approx(2 / 24), pytest.approx(2 / 24))]
        made_now = dict(front.outcomes(archive, tmp_path / "home", datetime.now(UTC)))
        assert made_now == {"subband_group": [(2, 0)] * 3, "tile_image": [(2, 0)] * 3}


def test_the_page_shows_the_age_of_data_and_units_of_numbers(get: Get) -> None:
    text = get("/").text
    days = (datetime.now(UTC) - datetime(2026, 1, 26, 22, 10, tzinfo=UTC)).days
    assert re.search(rf"the last data are ({days}|{days / 365.25:.1f}|{days + 1}) (days|years) old", text)
    assert "Tonight" not in text
    for fact in re.findall(r"<dd[^>]*>(.*?)<small>", text, re.DOTALL):
        plain = re.sub(r"<[^>]+>", "", fact).strip()
        assert not re.fullmatch(r"[\d.,]+", plain) or plain.isdigit(), plain  # whole numbers are counts, whose unit is in the heading


def test_an_unreadable_home_is_reported_and_hides_nothing(small: SmallArchive, tmp_path: Path) -> None:
    root = tmp_path / "archive"
    shutil.copytree(small.root, root)
    runs = root / "dagster" / history.RUNS
    runs.parent.mkdir(parents=True)
    runs.write_bytes(b"this is no database" * 100)
    answer = ask(create_app(root, inbox=small.inbox), "/")
    assert answer.status == 200
    assert "could not be found out: the failed runs" in answer.text
    assert "2026-01-26T22:10" in answer.text


def test_directories_on_one_disk_are_shown_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(front.tempfile, "gettempdir", lambda: str(tmp_path))
    (place,) = front.places(tmp_path, tmp_path)
    usage = shutil.disk_usage(tmp_path)
    assert (place.what, place.total_bytes) == ("archive, inbox, scratch", usage.total)


def test_every_host_is_listed_and_silent_ones_with_their_age(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two other hosts reported, one of them ten minutes ago. Files that are not host reports hide none of them."""
    with Archive.create(tmp_path / "a") as archive:
        root = archive.root
    for name in ("lxd110h03", "lxd110h04"):
        with monkeypatch.context() as patch:
            patch.setattr(hosts.os, "uname", lambda name=name: os.uname_result(("Linux", name, "6", "1", "x86_64")))
            hosts.tell(root)
    report = root / hosts.FOLDER / "lxd110h04"
    beats.end(root, "lxd110h04", hosts.FOLDER)
    report.write_text(json.dumps(asdict(hosts.here()) | {"load": 7.25, "processors": 16}))
    os.utime(report, (time.time() - 600, time.time() - 600))
    (root / hosts.FOLDER / "torn").write_text('{"load"')
    (root / hosts.FOLDER / "other").write_text('{"something": 1}')
    (root / hosts.FOLDER / "wrong").write_text(json.dumps(asdict(hosts.here()) | {"load": "high"}))
    own, alive, silent = hosts.known(root)
    assert (own.name, alive.name, silent.name) == (os.uname().nodename, "lxd110h03", "lxd110h04")
    assert [one.is_stale for one in (own, alive, silent)] == [False, False, True]
    assert silent.silent_s == pytest.approx(600, abs=60)
    assert 0 < alive.memory_free_bytes <= alive.memory_bytes
    assert 0 < alive.scratch_free_bytes < alive.scratch_bytes
    app = create_app(root, inbox=tmp_path)
    rows = ask(app, "/api/v1/hosts").json
    assert [(row["name"], row["stale"]) for row in rows] == [(own.name, False), ("lxd110h03", False), ("lxd110h04", True)]
    assert (rows[2]["load"], rows[2]["processors"]) == (7.25, 16)
    page = ask(app, "/").text
    assert re.search(r"lxd110h04</dt><dd>load 7\.2 of 16 CPUs <span class=\"warn\">1\d min ago</span>", page)
    assert page.count("its last figures") == 1
    assert beats.living(root) == {}, "no worker is there: nothing is sent to them"
    hosts.tell(root)
    assert [one.name for one in hosts.known(root)] == [own.name, "lxd110h03", "lxd110h04"], "itself is told as it is now, once"
    hosts.leave(root)
    beats.end(root, "lxd110h03", hosts.FOLDER)
    assert [one.name for one in hosts.known(root)] == [own.name, "lxd110h04"]


def test_a_host_keeps_reporting_new_figures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(beats, "BEAT_S", 0.02)
    loads = iter(range(10**9))
    beats.keep(tmp_path, "alpha", lambda: {"load": next(loads)}, hosts.FOLDER)
    try:
        deadline = time.monotonic() + 60
        while (files.read_json(tmp_path / hosts.FOLDER / "alpha") or {"load": 0})["load"] < 2:
            assert time.monotonic() < deadline
    finally:
        beats.end(tmp_path, "alpha", hosts.FOLDER)
