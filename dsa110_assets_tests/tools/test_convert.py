"""`convert`: which groups are selected, and that the sets written are those the graph writes."""

from __future__ import annotations

import json
import os
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest

from dsa110_assets.calibration.transits import transit_mjd
from dsa110_assets.errors import BadDataError, ConfigurationError, NotFoundError
from dsa110_assets.sky import calibrators
from dsa110_assets.sky.calibrators import Calibrator
from dsa110_assets.telescope import timegrid
from dsa110_assets.tools.convert import GroupSelection, convert, select
from dsa110_assets.tools.outputs import record_of
from dsa110_assets.visibilities import measurement_set
from dsa110_assets.visibilities.ingest import ingest
from dsa110_assets_tests.tiny import SUBBANDS, simulate_tiny
from dsa110_assets_tests.visibilities.conftest import Observation, hour_angle_dec

CALIBRATOR = "3C454.3"


def test_a_window_takes_groups_by_when_their_data_start(tiny_run: Path) -> None:
    since, until = datetime(2026, 1, 25, 22, 25, tzinfo=UTC), datetime(2026, 1, 25, 22, 30, tzinfo=UTC)
    selected = select(tiny_run, GroupSelection(since, until)).groups
    starts = [timegrid.mjd_to_datetime(group.mjd_start) for group, _ in selected]
    assert [since <= start < until for start in starts] == [True]
    every = select(tiny_run).groups
    assert [group.observation for group, _ in every] == ["2026-01-25T22:20", "2026-01-25T22:25", "2026-01-25T22:30"]
    with pytest.raises(NotFoundError, match="no group of subband files starts from 2026-01-27"):
        select(tiny_run, GroupSelection(since + timedelta(days=2)))


def test_a_calibrator_takes_the_group_it_transits_in_and_those_around(tiny_run: Path) -> None:
    ((group, transit),) = select(tiny_run, GroupSelection(calibrator=CALIBRATOR)).groups
    assert group.times_mjd[0] < transit < group.times_mjd[-1]
    source = calibrators.find(CALIBRATOR)
    hour_angle, _ = hour_angle_dec(np.deg2rad(source.ra_deg), np.deg2rad(source.dec_deg), transit)
    # the two chains differ by 10 mas; polar motion, which ERFA's omits here, moves the meridian by up to 0.5 arcsec (0.03 s)
    assert abs(np.angle(np.exp(1j * hour_angle))) < 2 * np.pi * 0.1 / 86400
    assert len(select(tiny_run, GroupSelection(calibrator=CALIBRATOR, around_min=10)).groups) == 3
    with pytest.raises(NotFoundError, match=r"nearest: .*3C286"):
        select(tiny_run, GroupSelection(calibrator="3C2866"))
    with pytest.raises(NotFoundError, match=r"no group|nearest, 2026"):
        select(tiny_run, GroupSelection(calibrator="3C48"))


class TestTransits:
    """Groups of one subband of four antennas: transits across midnight UTC, at RA 0, and twice in a UTC day."""

    @pytest.fixture
    def known(self, monkeypatch: pytest.MonkeyPatch) -> list[Calibrator]:
        added: list[Calibrator] = []
        listed = calibrators.load()
        monkeypatch.setattr(calibrators, "load", lambda: (*listed, *added))
        return added

    def write(self, place: Path, starts_mjd: list[float]) -> None:
        for start in starts_mjd:
            Observation(mjd_start=start, n_antennas=3, n_times=24, n_channels=1, subbands=(0,)).write_all(place)

    @pytest.mark.parametrize("ra_deg", [0.0, 359.999, 183.2])
    def test_the_groups_around_each_transit_are_found(self, known: list[Calibrator], tmp_path: Path, ra_deg: float) -> None:
        known.append(Calibrator("TEST", None, ra_deg, 16.3, 5.0, "A", "P", None, False))
        first = transit_mjd(ra_deg, 16.3, 61065.5)
        group_d = timegrid.GROUP_S / 86400
        transits = [first, first + 1 / timegrid.SIDEREAL_RATIO]
        self.write(tmp_path, [t + k * group_d - group_d / 3 for t in transits for k in (-2, -1, 0, 1, 2)])
        exact = select(tmp_path, GroupSelection(calibrator="TEST")).groups
        assert len(exact) == 2
        for (group, found), truth in zip(exact, transits, strict=True):
            # the second is a sidereal day later, to 0.1 s: nutation and aberration change by less than 0.1 s in a day
            assert abs(found - truth) * 86400 < 0.1
            assert group.times_mjd[0] <= found <= group.times_mjd[-1]
        assert len(select(tmp_path, GroupSelection(calibrator="TEST", around_min=4)).groups) == 6

    def test_groups_across_midnight_are_selected(self, known: list[Calibrator], tmp_path: Path) -> None:
        """The calibrator transits 10 s before midnight UTC, in a group that starts 100 s before it; the next group starts after it."""
        midnight = 61066.0
        ra_deg = 100.0
        for _ in range(5):
            ra_deg = (ra_deg + (midnight - 10 / 86400 - transit_mjd(ra_deg, 16.3, midnight)) * 360 * timegrid.SIDEREAL_RATIO) % 360
        known.append(Calibrator("TEST", None, ra_deg, 16.3, 5.0, "A", "P", None, False))
        start = midnight - 100 / 86400
        group_d = timegrid.GROUP_S / 86400
        self.write(tmp_path, [start + k * group_d for k in (-1, 0, 1)])
        ((group, transit),) = select(tmp_path, GroupSelection(calibrator="TEST")).groups
        assert abs(group.mjd_start - start) * 86400 < 0.01
        assert abs(transit - (midnight - 10 / 86400)) * 86400 < 0.01
        taken = select(tmp_path, GroupSelection(calibrator="TEST", around_min=4)).groups
        assert [group.observation for group, _ in taken] == ["2026-01-25T23:50", "2026-01-25T23:55", "2026-01-26T00:00"]

    def test_two_transits_in_one_utc_day_are_found(self, known: list[Calibrator], tmp_path: Path) -> None:
        """A sidereal day is 236 s shorter: a source that transits 100 s after midnight transits again 136 s before the next midnight."""
        day = 61065.0
        ra_deg = 100.0
        for _ in range(5):
            ra_deg = (ra_deg + (day + 100 / 86400 - transit_mjd(ra_deg, 16.3, day)) * 360 * timegrid.SIDEREAL_RATIO) % 360
        known.append(Calibrator("TEST", None, ra_deg, 16.3, 5.0, "A", "P", None, False))
        self.write(tmp_path, [day + 10 / 86400, day + 0.5, day + 1 - 200 / 86400])
        selection = GroupSelection(datetime(2026, 1, 25, tzinfo=UTC), datetime(2026, 1, 26, tzinfo=UTC), "TEST")
        transits = [transit for _, transit in select(tmp_path, selection).groups]
        assert np.allclose((np.array(transits) - day) * 86400, [100, 86400 - 136], atol=1.0)

    def test_a_calibrator_outside_the_beam_is_refused_with_the_reason(self, known: list[Calibrator], tmp_path: Path) -> None:
        known.append(Calibrator("TEST", None, 100.0, 20.0, 5.0, "A", "P", None, False))
        self.write(tmp_path, [transit_mjd(100.0, 20.0, 61065.5) - 100 / 86400])
        with pytest.raises(NotFoundError, match=r"TEST transits at .* outside the beam .* declination 16.27"):
            select(tmp_path, GroupSelection(calibrator="TEST"))


def test_a_set_is_what_the_graph_writes_and_says_what_it_came_from(tiny_run: Path, tmp_path: Path) -> None:
    selection, out = GroupSelection(calibrator=CALIBRATOR), tmp_path / "sets"
    (planned,) = convert(tiny_run, out, selection, n_subbands=SUBBANDS, dry_run=True)
    assert (planned.state, planned.path) == ("wanted", out / "20260125T2225.ms")
    assert not out.exists()
    (made,) = convert(tiny_run, out, selection, n_subbands=SUBBANDS)
    files = {subband: header.path for subband, header in made.group.files.items()}
    ingest(files, tmp_path / "truth.ms", n_subbands=SUBBANDS)
    ours, theirs = measurement_set.read(made.path), measurement_set.read(tmp_path / "truth.ms")
    assert np.array_equal(ours.data, theirs.data)
    assert np.array_equal(ours.flags, theirs.flags)
    record = json.loads(record_of(made.path).read_text())
    assert record["tool"] == "convert"
    assert [Path(source_file["path"]).name for source_file in record["inputs"]] == [path.name for path in files.values()]
    assert record["figures"]["flag_fraction"] == made.flag_fraction
    assert sorted(path.name for path in out.iterdir()) == ["20260125T2225.ms", "20260125T2225.ms.provenance.json"]
    with pytest.raises(ConfigurationError, match=r"20260125T2225.ms exists; .* --force"):
        convert(tiny_run, out, selection, n_subbands=SUBBANDS)
    before = made.path.stat().st_ino
    (skipped,) = convert(tiny_run, out, selection, n_subbands=SUBBANDS, skip_existing=True)
    assert (skipped.state, made.path.stat().st_ino) == ("exists", before)
    (again,) = convert(list(files.values()), out, n_subbands=SUBBANDS, force=True)
    assert (again.state, made.path.stat().st_ino != before) == ("made", True)
    assert len(list(out.iterdir())) == 2


def test_directories_that_no_tool_made_are_not_replaced(tiny_run: Path, tmp_path: Path) -> None:
    (tmp_path / "20260125T2225.ms").mkdir()
    with pytest.raises(ConfigurationError, match=r"it was not made by a tool"):
        convert(tiny_run, tmp_path, GroupSelection(calibrator=CALIBRATOR), n_subbands=SUBBANDS, force=True)


def test_incomplete_groups_and_bad_files_are_named(tmp_path: Path) -> None:
    inbox = tmp_path / "inbox"
    simulate_tiny(inbox, groups=1)
    files = sorted(inbox.glob("*.hdf5"))
    for path in files[2:]:
        path.unlink()
    os.truncate(files[1], 100)
    with pytest.raises(BadDataError, match=files[1].name):
        convert(files[:2], tmp_path / "out")
    (group,) = convert(inbox, tmp_path / "out", n_subbands=SUBBANDS)
    assert group.state == "incomplete"
    assert not (tmp_path / "out").exists()
    assert [path.name for path, _ in select(inbox).unusable] == [files[1].name]


def test_files_of_two_observations_are_not_one_group(tiny_run: Path, tmp_path: Path) -> None:
    files = sorted(tiny_run.glob("*.hdf5"))
    with pytest.raises(BadDataError, match=r"2 observations \(2026-01-25T22:20, 2026-01-25T22:25\)"):
        convert([files[0], files[SUBBANDS]], tmp_path)
