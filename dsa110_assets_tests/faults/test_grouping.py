"""Rows 6 to 9: files that arrive twice, in any order, too late, or with wrong clocks."""

from __future__ import annotations

import os
import random
import shutil
from collections import deque
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dsa110_assets.archive import alerts, quarantine
from dsa110_assets.archive.product import Product
from dsa110_assets.archive.stale import stale
from dsa110_assets.archive.store import Archive
from dsa110_assets.orchestration.ingest import inbox as looking
from dsa110_assets.orchestration.running.process import process
from dsa110_assets.orchestration.watching import conditions
from dsa110_assets.orchestration.watching.facts import Facts
from dsa110_assets.settings import Settings
from dsa110_assets.simulator.options import SimulationOptions
from dsa110_assets.simulator.simulate import simulate
from dsa110_assets.thresholds import Thresholds
from dsa110_assets.visibilities import grouping, uvh5
from dsa110_assets_tests.faults.figures import record_figure
from dsa110_assets_tests.tiny import OPTIONS, SUBBANDS, tiny_settings
from dsa110_assets_tests.visibilities.conftest import Observation

GROUP = "2026-01-25T22:25"


def twin(path: Path, seconds: int, *, other_bytes: bool) -> Path:
    """A second copy of a file whose name is some seconds later, as after a restart of the writer."""
    stamp = datetime.fromisoformat(path.name[:19]) + timedelta(seconds=seconds)
    copy = path.with_name(f"{stamp:%Y-%m-%dT%H:%M:%S}{path.name[19:]}")
    content = bytearray(path.read_bytes())
    if other_bytes:
        content[-1] ^= 1
    copy.write_bytes(content)
    return copy


def group_product(archive: Archive) -> Product:
    product = archive.current("subband_group", GROUP)
    assert product is not None
    return product


def files_of(archive: Archive) -> dict[int, str]:
    """{subband: digest} of the current manifest."""
    import json

    manifest = json.loads((group_product(archive).path / "manifest.json").read_text())
    return {entry["subband"]: entry["digest"] for entry in manifest["files"]}


@pytest.mark.row(6)
def test_the_same_bytes_twice_are_ignored_whichever_came_first(settings: Settings, inbox: Path) -> None:
    process(settings, through="subband_group")
    with Archive(settings.archive) as archive:
        before = group_product(archive)
        original = min(inbox.glob(f"{GROUP}*_sb02.hdf5"))
        for seconds in (-4, 4):
            copy = twin(original, seconds, other_bytes=False)
            report = process(settings, through="subband_group")
            assert report.made == ()
            assert len(report.quarantined) == 1
            assert group_product(archive) == before
            assert archive.verify(before) == []
            assert "same bytes" in next(r.reason for r in quarantine.quarantined(archive) if copy in r.paths)
    record_figure(6, "same bytes: products made anew", 0)


@pytest.mark.row(6)
@pytest.mark.parametrize("published", [False, True])
def test_other_bytes_quarantine_both_and_an_alert_says_so(settings: Settings, inbox: Path, published: bool) -> None:
    """Also when one of them is in a published manifest: that version stays as it is, and a new version excludes the file."""
    if published:
        process(settings, through="subband_group")
    first = min(inbox.glob(f"{GROUP}*_sb02.hdf5"))
    second = twin(first, 4, other_bytes=True)
    process(settings, through="subband_group")
    overwritten = 0
    with Archive(settings.archive) as archive:
        assert sorted(files_of(archive)) == [0, 1, 3]
        records = quarantine.quarantined(archive)
        assert sorted(record.paths[0] for record in records) == sorted([first, second])
        assert all("other bytes" in record.reason for record in records)
        alerts.remember(archive, "watched since", "2026-01-01T00:00:00+00:00")
        raised, _ = conditions.evaluate(Facts(archive, settings, Thresholds()))
        assert sorted(one.subject for one in raised if one.condition == "quarantine") == sorted(path.name for path in (first, second))
        if published:
            old, new = archive.versions("subband_group", GROUP)
            overwritten += archive.verify(old) != []
            assert (old.state, new.state) == ("superseded", "current")
        # recovery: a person knows which file is right
        second.unlink()
        (record,) = quarantine.release(archive, first)
        assert "other bytes" in record.reason
        process(settings, through="subband_group")
        assert sorted(files_of(archive)) == [0, 1, 2, 3]
        kept = quarantine.quarantined(archive, released=True)
        assert [one.reason for one in kept if one.paths == (first,) and one.released_at] == [record.reason]
    record_figure(6, "silent overwrites", overwritten)
    assert overwritten == 0


PERMUTATIONS = 10_000


@pytest.mark.row(7)
def test_ten_thousand_orders_of_arrival_give_one_outcome(tmp_path: Path) -> None:
    """Two groups, copies with the same and with other bytes, a file of another declination, and a short group in a shared window."""
    observation = Observation(n_times=1, n_antennas=3, n_telescope=4, subbands=(0, 1, 2, 3))
    paths = [observation.write(tmp_path, s) for s in range(4)]
    paths += [twin(paths[1], 4, other_bytes=False), twin(paths[2], 5, other_bytes=True)]
    paths.append(Observation(n_times=1, n_antennas=3, n_telescope=4, dec_deg=33.0, stamp_offset_s=-9).write(tmp_path, 3))
    later = Observation(n_times=1, n_antennas=3, n_telescope=4, mjd_start=observation.mjd_start + 309.238 / 86400)
    short = Observation(n_times=1, n_antennas=3, n_telescope=4, mjd_start=later.mjd_start + 60 / 86400)
    paths += [later.write(tmp_path, s) for s in range(4)] + [short.write(tmp_path, 0)]
    headers = [uvh5.read_header(path) for path in paths]
    rng, outcomes = random.Random(7), set()
    for _ in range(PERMUTATIONS):
        rng.shuffle(headers)
        outcomes.add(
            tuple(
                (group.observation, group.mjd_start, tuple(sorted((s, h.path.name) for s, h in group.files.items())), group.rejected)
                for group in grouping.group_headers(headers)
            )
        )
    (outcome,) = outcomes
    assert [[s for s, _ in files] for _, _, files, _ in outcome] == [[0, 1, 3], [0, 1, 2, 3]]
    assert sum(len(rejected) for *_, rejected in outcome) == 5  # the copy, both in dispute, the wrong strip, the short group
    record_figure(7, "permutations", PERMUTATIONS)
    record_figure(7, "distinct outcomes", len(outcomes))


@pytest.mark.row(7)
def test_files_taken_up_as_they_come_in_random_order_give_the_same_groups(settings: Settings, tmp_path: Path) -> None:
    """Three orders and paces through the whole ingest. Groups wait for their files as in a live inbox."""
    source = sorted(settings.inbox.iterdir())
    outcomes = set()
    for seed in range(3):
        rng = random.Random(seed)
        place = tmp_path / f"order{seed}"
        (place / "inbox").mkdir(parents=True)
        own_settings = tiny_settings(place / "inbox", place, min_subbands=SUBBANDS)
        order = [path for path in source if path.suffix == ".hdf5"]
        rng.shuffle(order)
        with Archive.create(own_settings.archive) as archive:
            while order:
                for path in [order.pop() for _ in range(min(len(order), rng.randint(1, 5)))]:
                    os.link(path, place / "inbox" / path.name)
                seen = looking.scan(own_settings.inbox, looking.Patience(SUBBANDS, SUBBANDS, 600.0, 0.0, looking.now_s(), False))
                assert seen.unusable == ()
            process(own_settings, through="subband_group")
            products = archive.products("subband_group")
            outcomes.add(tuple((p.partition, tuple(p.settings["files"])) for p in products))
    record_figure(7, "distinct manifests of incremental arrival", len(outcomes))
    (outcome,) = outcomes
    assert len(outcome) == 3


def dependents_by_hand(archive: Archive, root: Product) -> set[str]:
    """Current products made from `root`, directly or indirectly, found from the recorded inputs alone."""
    products = archive.products()
    found, queue = set(), deque([root.id])
    while queue:
        name = queue.popleft()
        for product in products:
            if name in product.inputs and product.id not in found:
                found.add(product.id)
                queue.append(product.id)
    return found


@pytest.mark.slow
@pytest.mark.row(8)
def test_a_late_subband_makes_a_new_version_and_its_dependents_stale(tmp_path: Path) -> None:
    options = SimulationOptions(**{**OPTIONS, "start": "2026-01-25T22:25:10", "groups": 1})
    simulate(tmp_path / "inbox", options)
    settings = tiny_settings(tmp_path / "inbox", tmp_path)
    (late,) = settings.inbox.glob("*_sb02.hdf5")
    aside = tmp_path / late.name
    late.rename(aside)
    process(settings)
    with Archive(settings.archive) as archive:
        old = group_product(archive)
        assert old.metadata["n_subbands"] == SUBBANDS - 1
        expected = dependents_by_hand(archive, old)
        assert len(expected) >= 5, "no chain to go stale"
        aside.rename(late)
        process(settings, through="subband_group")
        new = group_product(archive)
        assert (new.version, new.metadata["n_subbands"]) == (2, SUBBANDS)
        found = {one.product.id for one in stale(archive)}
        record_figure(8, "stale dependents found / true", f"{len(found & expected)} / {len(expected)}")
        record_figure(8, "wrongly called stale", len(found - expected))
        assert found == expected
        assert archive.get(old.id).state == "superseded"
        assert archive.verify(archive.get(old.id)) == []
        process(settings)
        assert stale(archive) == []


def misgrouped(files: dict[Path, float]) -> int:
    """The number of files that are not in the group of their data's start time [MJD]."""
    groups = grouping.group_headers([uvh5.read_header(path) for path in files])
    placed = {header.path: group.mjd_start for group in groups for header in group.files.values()}
    return sum(abs(placed.get(path, np.inf) - start) > 1e-6 for path, start in files.items())


NINE = "2026-01-25T22:25"


@pytest.mark.row(9)
@pytest.mark.parametrize(
    ("case", "mjd", "offsets_s"),
    [
        ("an hour fast", 61065.9345, [3600.0, -3.0, 3600.0, -3.0]),
        ("an hour slow", 61065.9345, [-3600.0, -3.0, -3.0, -3600.0]),
        ("stepped back between two groups", 61065.9345, [-3.0, -312.0, -3.0, -312.0]),
        ("across midnight", 61065.99995, [-3.0, 3.0, -30.0, 30.0]),
        ("around a leap second", 57753.9999, [8.0, 7.5, -3.0, 9.0]),
    ],
)
def test_groups_go_by_the_data_not_by_any_clock(tmp_path: Path, case: str, mjd: float, offsets_s: list[float]) -> None:
    """File names follow the nodes' clocks, modification times the file server's clock. Both are wrong."""
    files: dict[Path, float] = {}
    for number in range(3):
        start = mjd + number * 309.238 / 86400
        for subband, offset_s in enumerate(offsets_s):
            observation = Observation(n_times=2, n_antennas=3, n_telescope=4, mjd_start=start, stamp_offset_s=offset_s)
            path = observation.write(tmp_path, subband)
            wrong_s = path.stat().st_mtime + (3600 if subband % 2 else -3600)
            os.utime(path, (wrong_s, wrong_s))
            files[path] = observation.jd(0) - 2400000.5
    assert len(files) == 12, "two groups have files of one name: the case is none"
    found = misgrouped(files)
    record_figure(9, "misgrouped", found)
    assert found == 0, case


@pytest.mark.row(9)
def test_the_sixtieth_second_of_a_leap_minute_is_a_time(tmp_path: Path) -> None:
    observation = Observation(n_times=1, n_antennas=3, n_telescope=4, mjd_start=57753.99999)
    good = observation.write(tmp_path, 0)
    leap = good.with_name("2016-12-31T23:59:60_sb00.hdf5")
    good.rename(leap)
    assert uvh5.read_header(leap).subband == 0
    seen = looking.scan(tmp_path, looking.Patience(1, 1, 0.0, 0.0, looking.now_s(), by_data=True))
    assert [len(candidate.group.files) for candidate in seen.ready()] == [1]


@pytest.mark.row(9)
def test_a_late_file_named_an_hour_off_still_joins_its_published_group(settings: Settings, inbox: Path, tmp_path: Path) -> None:
    """Its name cannot determine its group; its header does, long after the group's other files were published."""
    (path,) = inbox.glob(f"{GROUP}*_sb02.hdf5")
    skewed = inbox / path.name.replace("T22:", "T21:")
    path.rename(tmp_path / path.name)
    process(settings, through="subband_group")
    with Archive(settings.archive) as archive:
        assert sorted(files_of(archive)) == [0, 1, 3]
        shutil.move(tmp_path / path.name, skewed)
        process(settings, through="subband_group")
        assert sorted(files_of(archive)) == [0, 1, 2, 3]
        report = process(settings, through="subband_group")
        assert (report.made, report.quarantined) == ((), ())


@pytest.mark.row(9)
def test_a_file_servers_clock_an_hour_off_does_not_hold_up_a_live_inbox(inbox: Path) -> None:
    """Whether a file still changes is judged from one scan to the next, not from its modification time."""
    for number, path in enumerate(sorted(inbox.glob("*.hdf5"))):
        copy = path.read_bytes()
        path.unlink()
        path.write_bytes(copy)
        wrong_s = looking.now_s() + (3600 if number % 2 else -3600)
        os.utime(path, (wrong_s, wrong_s))

    def look() -> Any:
        return looking.scan(inbox, looking.Patience(SUBBANDS, SUBBANDS, 600.0, 0.01, looking.now_s(), by_data=False))

    assert look().ready() == []
    ready: list[Any] = []
    while not ready:
        ready = look().ready()
    assert len(ready) == 3
