"""The commands on real files: simulated, processed through Dagster, and read back."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

import dsa110_assets as dsa
from dsa110_assets_tests.cli.conftest import Run
from dsa110_assets_tests.tiny import SMALL_DISK

SMALL = (
    "--antennas",
    "6",
    "--channels",
    "4",
    "--subbands",
    "2",
    "--integrations",
    "4",
    "--noise-scale",
    "0.1",
)
START = "2026-01-26T04:52:00"
WINDOW = "2026-01-26T04:50"


@pytest.mark.slow
def test_from_simulation_to_a_measurement_set_in_pyuvdata(bare: Run, tmp_path: Path) -> None:
    inbox, root = tmp_path / "inbox", tmp_path / "archive"
    done = bare("simulate", inbox, "--start", START, "--groups", "2", *SMALL, "--fault", "truncated:1:1", "--json")
    assert done.status == 0
    truth = json.loads((inbox / "truth.json").read_text())
    assert done.json["files"] == len(list(inbox.glob("*.hdf5"))) == 4
    settings = {
        "DSA110_INBOX": inbox, "DSA110_ARCHIVE": root, "DSA110_SUBBANDS": 2, "DSA110_MIN_SUBBANDS": 1,
        "DSA110_THRESHOLDS": SMALL_DISK,
    }  # fmt: skip

    rows = bare("groups", "--json", **settings).json
    assert [(row["observation"], row["state"]) for row in rows["groups"]] == [
        (WINDOW, "complete"), ("2026-01-26T04:55", "semi-complete"),
    ]  # fmt: skip
    assert [Path(row["path"]).name for row in rows["files"]] == [name for name in truth["groups"][1]["files"] if "_sb01" in name]
    assert not root.exists()

    planned = bare("process", "--dry-run", "--through", "measurement_set", "--json", **settings)
    assert planned.status == 0
    assert not root.exists()
    planned_steps = {(step["asset"], step["partition"]) for step in planned.json["planned"]}

    first = bare("process", "--through", "measurement_set", "--json", **settings)
    assert first.status == 0, first.out
    made = {(row["asset"], row["partition"]) for row in first.json["made"]}
    assert made == planned_steps
    assert len(first.json["quarantined"]) == 1
    again = bare("process", "--through", "measurement_set", "--json", **settings)
    assert (again.status, again.json["made"]) == (0, [])

    archive = dsa.open_archive(root)
    found = archive.measurement_set(WINDOW)
    files = archive.lineage(found).files()
    assert [Path(leaf.path).name for leaf in files] == sorted(truth["groups"][0]["files"])
    assert {leaf.digest for leaf in files} != {None}
    vis = found.to_uvdata()
    assert vis.Nfreqs == 8
    assert vis.Ntimes == 4
    assert np.all(np.diff(vis.freq_array) > 0)

    state = bare("status", "--json", **settings).json
    assert state["products"]["measurement_set"] == 2
    assert {row["next"] for row in state["waiting"]} == {"calibrated_ms"}
    assert state["failed_runs"] == []
    assert bare("archive", "verify", **settings).status == 0


def test_a_wrong_inbox_or_archive_is_reported_in_one_sentence(bare: Run, tmp_path: Path) -> None:
    settings = {"DSA110_INBOX": tmp_path / "nowhere", "DSA110_ARCHIVE": tmp_path / "archive"}
    done = bare("process", **settings)
    assert (done.status, "DSA110_INBOX" in done.err, done.err.count("dsa110: ")) == (1, True, 1)
    (tmp_path / "inbox").mkdir()
    (tmp_path / "file").write_text("in the way")
    done = bare("process", DSA110_INBOX=tmp_path / "inbox", DSA110_ARCHIVE=tmp_path / "file" / "archive")
    assert (done.status, "DSA110_ARCHIVE" in done.err, "Traceback" in done.err) == (1, True, False)
    assert (tmp_path / "file").read_text() == "in the way"


def test_a_backfill_of_nights_without_data_is_refused(bare: Run, tmp_path: Path) -> None:
    (tmp_path / "inbox").mkdir()
    settings = {"DSA110_INBOX": tmp_path / "inbox", "DSA110_ARCHIVE": tmp_path / "archive"}
    done = bare("backfill", "--nights", "2026-01-20..2026-01-21", "--dry-run", **settings)
    assert (done.status, "2026-01-20" in done.err) == (1, True)
