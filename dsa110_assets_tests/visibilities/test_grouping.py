"""Traps 1 and 2: subbands are grouped by the time of their data, whatever their names and arrival."""

import itertools
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from dsa110_assets.errors import TransientError
from dsa110_assets.visibilities import grouping, uvh5

GROUP_D = 24 * 12.884901888 / 86400


@pytest.fixture
def header(observe, tmp_path):  # type: ignore[no-untyped-def]
    """One real header, from which other headers are made without writing more files."""
    return uvh5.read_header(observe(n_times=1).write(tmp_path, 0))


def at(header, subband: int, start: float, stamp: str = "2026-01-25T22:24:57", directory: str = "in"):  # type: ignore[no-untyped-def]
    times = start + (header.times_mjd - header.mjd_start)
    path = Path(directory) / f"{stamp}_sb{subband:02d}.hdf5"
    return replace(header, subband=subband, mjd_start=start, times_mjd=times, path=path, name_stamp=stamp)


def test_names_shifted_by_105_s_group_by_header(observe, tmp_path) -> None:  # type: ignore[no-untyped-def]
    """Trap 1: after a correlator restart names precede the data by 105 s."""
    first, shifted = observe(stamp_offset_s=-3), observe(stamp_offset_s=-105)
    paths = [first.write(tmp_path, 0), shifted.write(tmp_path, 1)]
    (group,) = grouping.group_headers([uvh5.read_header(p) for p in paths])
    assert set(group.files) == {0, 1}
    assert group.observation == "2026-01-25T22:25"
    assert group.mjd_start == pytest.approx(first.mjd_start, abs=1e-9)
    assert group.rejected == ()
    assert group.pointing_dec_deg == pytest.approx(16.27)


@pytest.mark.parametrize("seed", range(5))
def test_jitter_of_a_minute_and_any_order_of_arrival(header, seed: int) -> None:  # type: ignore[no-untyped-def]
    """Trap 2: names +-60 s apart are one group; groups 309 s apart never merge; order does not matter."""
    rng = np.random.default_rng(seed)
    stamps = [f"2026-01-25T22:{24 + s // 60:02d}:{s % 60:02d}" for s in rng.integers(0, 120, 48)]
    starts = [header.mjd_start + g * GROUP_D for g in range(3)]
    headers = [at(header, s, starts[g], stamps[g * 16 + s], f"group{g}") for g, s in itertools.product(range(3), range(16))]
    rng.shuffle(headers)
    groups = grouping.group_headers(headers)
    assert [g.mjd_start for g in groups] == starts
    assert all(g.complete() and not g.missing() and not g.rejected for g in groups)
    for group, start in zip(groups, starts, strict=True):
        assert {h.mjd_start for h in group.files.values()} == {start}


def test_missing_subbands_are_listed(header) -> None:  # type: ignore[no-untyped-def]
    (group,) = grouping.group_headers([at(header, s, header.mjd_start) for s in range(16) if s not in (3, 15)])
    assert group.missing() == (3, 15)
    assert not group.complete()
    assert group.missing(4) == (3,)
    assert group.complete(3)


def test_eighty_files_of_few_subbands_are_not_complete(header, tmp_path) -> None:  # type: ignore[no-untyped-def]
    """The set of subbands counts, not the number of files."""
    headers = [at(header, s, header.mjd_start, directory=str(tmp_path / f"d{i}")) for s in range(8) for i in range(10)]
    for copy in headers:
        copy.path.parent.mkdir(exist_ok=True)
        copy.path.write_bytes(b"the same")
    (group,) = grouping.group_headers(headers)
    assert group.missing() == tuple(range(8, 16))
    assert len(group.rejected) == 72


def test_duplicate_files_are_used_once_or_not_at_all(observe, tmp_path) -> None:  # type: ignore[no-untyped-def]
    """Of two files with the same bytes one is used: the one taken before, if any. If their bytes differ, neither is used."""
    observation = observe()
    files = [observation.write(tmp_path, s) for s in (0, 1)]
    copies = tmp_path / "copies"
    copies.mkdir()
    same = observation.write(copies, 0)
    same.write_bytes(files[0].read_bytes())
    other = observe(stamp_offset_s=20, noise=1.0).write(tmp_path, 1)
    headers = [uvh5.read_header(p) for p in (*files, same, other)]
    outcomes = set()
    for order in itertools.permutations(headers):
        (group,) = grouping.group_headers(order)
        assert set(group.files) == {0}
        reasons = dict(group.rejected)
        assert set(reasons) == {files[0] if group.files[0].path == same else same, files[1], other}
        assert other.name in reasons[files[1]]
        assert files[1].name in reasons[other]
        outcomes.add(str(group.files[0].path))
    assert len(outcomes) == 1
    for taken in (files[0], same):
        (group,) = grouping.group_headers(headers, {taken})
        assert group.files[0].path == taken


def test_a_group_of_only_disputed_subbands_has_no_files(observe, tmp_path) -> None:  # type: ignore[no-untyped-def]
    paths = [observe(noise=noise, stamp_offset_s=offset).write(tmp_path, 0) for noise, offset in ((0.0, -3), (1.0, 20))]
    (group,) = grouping.group_headers([uvh5.read_header(path) for path in paths])
    assert group.files == {}
    assert [path for path, _ in group.rejected] == sorted(paths)
    assert (group.n_times, group.observation) == (0, "2026-01-25T22:25")
    assert np.isnan(group.pointing_dec_deg)


def test_copies_that_cannot_be_compared_reject_no_file(header) -> None:  # type: ignore[no-untyped-def]
    headers = [at(header, 0, header.mjd_start, directory=f"d{i}") for i in range(2)]
    with pytest.raises(TransientError, match="cannot be compared"):
        grouping.group_headers(headers)


def test_the_same_path_twice_is_one_file(header) -> None:  # type: ignore[no-untyped-def]
    same = at(header, 0, header.mjd_start)
    (group,) = grouping.group_headers([same, same])
    assert len(group.files) == 1
    assert group.rejected == ()


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"pointing_dec_rad": 0.9}, "declination"),
        ({"interval_s": 6.4}, "integration time"),
        ({"ant1": np.zeros(1, np.int32), "ant2": np.ones(1, np.int32)}, "baselines"),
        ({"frequencies_hz": np.array([1.49e9])}, "channels"),
        ({"times_mjd": np.array([1.0, 2.0])}, "integrations"),
        ({"mjd_start": 61065.9345 + 0.5 / 86400}, "start time"),
    ],
)
def test_a_subband_that_disagrees_is_rejected(header, change, reason: str) -> None:  # type: ignore[no-untyped-def]
    headers = [at(header, s, header.mjd_start) for s in range(4)]
    headers[0] = replace(headers[0], **change)
    (group,) = grouping.group_headers(headers)
    assert set(group.files) == {1, 2, 3}
    ((path, why),) = group.rejected
    assert path == headers[0].path
    assert reason in why


def test_the_fuller_of_two_groups_in_one_window_is_used(header) -> None:  # type: ignore[no-untyped-def]
    """The group with more files is the partition's; the files of the other are accounted for, not lost."""
    start = header.mjd_start // (5 / 1440) * (5 / 1440) + 1e-4
    full = [at(header, s, start + 200 / 86400, "2026-01-25T22:29:00") for s in range(16)]
    short = [at(header, s, start, "2026-01-25T22:26:00") for s in range(12)]
    groups = grouping.group_headers([*short, *full])
    assert [len(g.files) for g in groups] == [16]
    assert sorted(path for path, _ in groups[0].rejected) == sorted(h.path for h in short)
    assert all("fuller group" in reason for _, reason in groups[0].rejected)


def test_scrambled_and_sorted_rows_are_grouped_together(observe, tmp_path) -> None:  # type: ignore[no-untyped-def]
    order = [5, 3, 8, 1, 2, 7, 4, 6]
    paths = [observe(antenna_order=order).write(tmp_path, 0), observe().write(tmp_path, 1)]
    (group,) = grouping.group_headers([uvh5.read_header(p) for p in paths])
    assert set(group.files) == {0, 1}
