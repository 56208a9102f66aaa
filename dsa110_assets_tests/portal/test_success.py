"""Success figures of a night whose truth is known, because every observation, run and file was chosen here."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import dagster as dg
import pytest

from dsa110_assets.archive import quarantine
from dsa110_assets.archive.lineage import MANIFEST
from dsa110_assets.archive.store import Archive
from dsa110_assets.cli import main
from dsa110_assets.orchestration.ingest.inbox import Inbox
from dsa110_assets.orchestration.running import instance as instances
from dsa110_assets.orchestration.watching import uptime
from dsa110_assets.portal import success
from dsa110_assets.portal.app import create_app
from dsa110_assets_tests.portal.conftest import ask

NIGHT = "2026-01-25"
GOOD, AGAIN, FAR, ASIDE, BY_HAND, GONE = (f"{NIGHT}T22:{minute:02d}" for minute in range(0, 30, 5))
SINCE = datetime(2026, 1, 25, tzinfo=UTC)
NOBODY_LEFT = Inbox((), (), (), 0, 0, False)


@dataclass
class Truth:
    """The archive, its inbox and Dagster's home, with the recovery time and the lost files of the scene."""

    archive: Archive
    inbox: Path
    home: Path
    recovery_s: float
    lost: tuple[str, ...]

    def figures(self, until: datetime | None = None, seen: Inbox | None = NOBODY_LEFT) -> dict[str, success.Figure]:
        found = success.figures(self.archive, self.home, self.inbox, seen, SINCE, until or datetime.now(UTC) + timedelta(seconds=1))
        return {one.name: one for one in found}


class Scene:
    """Makes observations and runs."""

    def __init__(self, archive: Archive, inbox: Path, instance: dg.DagsterInstance) -> None:
        self.archive, self.inbox, self.instance = archive, inbox, instance

    def publish(self, asset: str, key: str, **metadata: float) -> datetime:
        with self.archive.publish(asset, key, (), settings={}, code_version="1", run_id="r", engines={}) as draft:
            (draft.path / "data").write_text(asset)
            draft.metadata.update(metadata)
        return draft.product.created_at

    def take_up(self, key: str, written_ago_s: float) -> Path:
        """Put the single file of an observation, written `written_ago_s` ago, into the inbox, and publish its manifest."""
        raw = self.inbox / f"{key}:00_sb00.hdf5"
        raw.write_bytes(key.encode())
        at_ns = int((time.time() - written_ago_s) * 1e9)
        os.utime(raw, ns=(at_ns, at_ns))
        identity = f"{raw.name}:{raw.stat().st_size}:{at_ns}"
        with self.archive.publish(
            "subband_group", key, (), settings={"files": [identity]}, code_version="1", run_id="r", engines={}
        ) as draft:  # fmt: skip
            (draft.path / MANIFEST).write_text(json.dumps({"files": [{"path": str(raw)}]}))
        return raw

    def run(self, key: str, asset: str, lane: str | None, *, fails: bool = False, makes: str | None = None) -> datetime:
        """Record an ended run of an asset and return its end. With `makes` it has two assets, and made that one before it ended."""
        tags = {"dagster/partition": key, **({instances.LANE_TAG: lane} if lane else {})}
        run = self.instance.create_run_for_job(dg.JobDefinition(graph_def=dg.GraphDefinition("observations")), tags=tags)
        self.instance.delete_run(run.run_id)
        chosen = frozenset({dg.AssetKey(asset), dg.AssetKey(makes or asset)})
        self.instance.add_run(run._replace(asset_selection=chosen, status=dg.DagsterRunStatus.STARTING))
        for kind in ("PIPELINE_START", "PIPELINE_FAILURE" if fails else "PIPELINE_SUCCESS"):
            if kind != "PIPELINE_START" and makes:
                self.publish(makes, key)
            if kind == "PIPELINE_FAILURE":
                self.instance.report_run_failed(run, "as chosen")
            else:
                self.instance.report_dagster_event(dg.DagsterEvent(kind, "observations"), run.run_id)
        record = self.instance.get_run_record_by_id(run.run_id)
        assert record is not None
        assert record.end_time is not None
        return datetime.fromtimestamp(record.end_time, UTC)


@pytest.fixture
def truth(tmp_path: Path) -> Iterator[Truth]:
    inbox, home = tmp_path / "inbox", tmp_path / "archive" / "dagster"
    inbox.mkdir()
    with Archive.create(tmp_path / "archive") as archive, instances.open_instance(home) as instance:
        scene = Scene(archive, inbox, instance)
        for key, written_ago_s, age_h in ((GOOD, 100.0, 1.0), (AGAIN, 200.0, 5.9), (FAR, 300.0, 8.0), (BY_HAND, 7 * 3600.0, 0.1)):
            scene.take_up(key, written_ago_s)
            scene.publish("measurement_set", key)
            scene.publish("calibrated_ms", key, caltable_age_h=age_h)
        scene.run(GOOD, "tile_image", instances.LIVE)
        scene.publish("tile_image", GOOD)
        failed = scene.run(AGAIN, "tile_image", instances.LIVE, fails=True)
        scene.run(AGAIN, "tile_image", instances.LIVE, fails=True)
        made = scene.publish("tile_image", AGAIN)
        scene.run(FAR, "tile_image", instances.LIVE, fails=True)
        scene.run(BY_HAND, "tile_image", None)
        scene.publish("tile_image", BY_HAND)
        aside = inbox / f"{ASIDE}:00_sb00.hdf5"
        aside.write_bytes(b"bad")
        quarantine.quarantine(archive, aside, "it is bad", ASIDE)
        gone = scene.take_up(GONE, 100.0)
        gone.unlink()
        unknown = inbox / f"{NIGHT}T23:00:00_sb00.hdf5"
        unknown.write_bytes(b"nobody knows")
        yield Truth(archive, inbox, home, (made - failed).total_seconds(), (str(gone), str(unknown)))


def test_every_share_is_that_of_the_truth(truth: Truth) -> None:
    figures = truth.figures()
    shares = {
        "zero touch": {FAR, ASIDE, BY_HAND, GONE},
        "converted": {ASIDE, GONE},
        "imaged": {FAR, ASIDE, GONE},
        "calibrated from near": {FAR, ASIDE, GONE},
        "calibrated within 6 h": {ASIDE, BY_HAND, GONE},
    }
    for name, against in shares.items():
        assert set(figures[name].cases) == against, name
        assert figures[name].number == 6
        assert figures[name].value == pytest.approx(1 - len(against) / 6)
    assert figures["zero touch"].kept is False
    assert figures["runs succeeded"].value == pytest.approx(2 / 5)
    assert all(one.definition for one in figures.values())


def test_times_are_those_of_the_truth(truth: Truth) -> None:
    figures = truth.figures()
    latencies = [(truth.archive.current("tile_image", key), ago) for key, ago in ((GOOD, 100.0), (AGAIN, 200.0), (BY_HAND, 7 * 3600.0))]
    assert all(product is not None for product, _ in latencies)
    assert figures["latency, median"].value == pytest.approx(200.0, abs=60.0)  # because the fixture takes seconds
    assert figures["latency, 95th percentile"].kept is False
    assert figures["latency, 95th percentile"].cases == (BY_HAND,)
    assert figures["recovery, median"].number == 1
    assert figures["recovery, longest"].value == pytest.approx(truth.recovery_s, abs=1e-3)
    assert figures["not recovered"].value == 1
    assert figures["not recovered"].cases == (f"tile_image {FAR}",)
    assert figures["queue, 95th percentile"].number == 4


def test_only_the_failed_asset_of_a_run_counts_as_unrecovered(tmp_path: Path) -> None:
    """A failed run of two assets had made the first; only the second has to recover, and another run makes it."""
    (tmp_path / "inbox").mkdir()
    home = tmp_path / "archive" / "dagster"
    with Archive.create(tmp_path / "archive") as archive, instances.open_instance(home) as instance:
        scene = Scene(archive, tmp_path / "inbox", instance)
        scene.take_up(GOOD, 100.0)
        scene.run(GOOD, "tile_image", instances.LIVE, fails=True, makes="calibrated_ms")
        truth = Truth(archive, scene.inbox, home, 0.0, ())
        assert truth.figures()["not recovered"].cases == (f"tile_image {GOOD}",)
        scene.publish("tile_image", GOOD)
        figures = truth.figures()
    assert (figures["not recovered"].value, figures["not recovered"].number, figures["recovery, median"].number) == (0, 1, 1)


def test_only_files_without_a_reason_count_as_lost(truth: Truth) -> None:
    lost = truth.figures()["files lost"]
    assert lost.cases == tuple(sorted(truth.lost))
    assert lost.kept is False
    named = Inbox((), ((Path(truth.lost[1]), "it is empty"),), (), 0, 0, False)
    assert truth.figures(seen=named)["files lost"].cases == (truth.lost[0],)
    assert truth.figures(seen=None)["files lost"].value is None


def test_a_time_without_data_has_no_figures_and_breaks_no_promise(truth: Truth) -> None:
    found = success.figures(truth.archive, truth.home, truth.inbox, None, SINCE - timedelta(days=9), SINCE - timedelta(days=8))
    assert [one.name for one in found if one.value is not None] == ["not recovered"]
    assert [one.name for one in found if one.kept is False] == []


def test_gaps_between_uptime_notes_count_as_downtime(tmp_path: Path) -> None:
    began = datetime(2026, 1, 25, tzinfo=UTC)
    assert uptime.share(tmp_path, began, began + timedelta(hours=1)) == (None, 0.0)
    for second in [*range(0, 1801, 15), *range(2700, 3601, 15)]:
        uptime.note(tmp_path, began.timestamp() + second)
    part, known_s = uptime.share(tmp_path, began - timedelta(hours=1), began + timedelta(hours=1))
    assert known_s == 3600.0
    assert part == pytest.approx(2700 / 3600)
    assert len(uptime.spans(tmp_path)) == 2
    uptime.note(tmp_path, began.timestamp() + 100.0)  # a clock that was set back
    assert len(uptime.spans(tmp_path)) == 3


def test_command_and_page_show_the_same_figures(truth: Truth, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("DSA110_INBOX", str(truth.inbox))
    monkeypatch.setenv("DSA110_ARCHIVE", str(truth.archive.root))
    monkeypatch.delenv("DAGSTER_HOME", raising=False)
    assert main(["report", "--since", NIGHT, "--json"]) == 0
    figures = {one["name"]: one for one in json.loads(capsys.readouterr().out)["figures"]}
    assert figures["imaged"]["value"] == pytest.approx(0.5)
    assert figures["files lost"]["cases"] == [truth.lost[0]], "the other has a reason, once somebody looks: it cannot be read"
    assert main(["report", "--since", NIGHT]) == 0
    assert "not kept: zero touch" in capsys.readouterr().err
    page = ask(create_app(truth.archive.root, inbox=truth.inbox), "/success?days=400").text
    assert "50.00 %" in page
    assert figures["imaged"]["definition"] in page
