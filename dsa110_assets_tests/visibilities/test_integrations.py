"""Subbands that stopped early, began late or have gaps: the integrations they share are used, to the last bit."""

from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from dsa110_assets.errors import BadDataError
from dsa110_assets.visibilities import grouping, ingest, measurement_set, reader, uvh5
from dsa110_assets.visibilities.options import FlaggingOptions

pytestmark = pytest.mark.row(36, cases="cases in which what all subbands have is kept")

INTEGRATION_D = 96 * 0.134217728 / 86400
NONE = FlaggingOptions(engine="none", mad_sigma=0)


@pytest.fixture
def written(observe, meridian_radec, tmp_path):  # type: ignore[no-untyped-def]
    """written(integrations of sb00, of sb01, ..): the files of one long observation. Integrations are (first, count) or a list."""
    whole = observe(n_times=12)
    ra, dec = meridian_radec(whole, whole.mjd_start)

    def write(*held: Any) -> dict[int, Path]:
        files = {}
        for subband, have in enumerate(held):
            kept = list(range(have[0], have[0] + have[1])) if isinstance(have, tuple) else have
            last = observe(
                mjd_start=whole.mjd_start + kept[0] * INTEGRATION_D, n_times=kept[-1] - kept[0] + 1, subbands=(subband,),
                sources=[(ra + 0.004, dec, 1.0)],
            )  # fmt: skip
            files[subband] = last.write(tmp_path, subband)
            _keep(files[subband], [n - kept[0] for n in kept], last.n_times)
        return files

    return write


def _keep(path: Path, kept: list[int], n_times: int) -> None:
    with h5py.File(path, "r+") as file:
        n = file["Header/time_array"].size // n_times
        rows = np.concatenate([np.arange(t * n, (t + 1) * n) for t in kept])
        for name in ("time_array", "integration_time", "ant_1_array", "ant_2_array", "uvw_array"):
            value = file[f"Header/{name}"][rows]
            del file[f"Header/{name}"]
            file[f"Header/{name}"] = value
        for name in ("visdata", "flags", "nsamples"):
            value = file[f"Data/{name}"][rows]
            del file[f"Data/{name}"]
            file[f"Data/{name}"] = value
        file["Header/Ntimes"][()], file["Header/Nblts"][()] = len(kept), rows.size


CASES: dict[str, tuple[tuple[Any, ...], list[int]]] = {
    "12 and 11": (((0, 12), (0, 11), (0, 12)), list(range(11))),
    "12, 12 and 10": (((0, 12), (0, 12), (0, 10)), list(range(10))),
    "each another": (((0, 12), (0, 11), (0, 10)), list(range(10))),
    "one began late": (((1, 11), (0, 12), (0, 12)), list(range(1, 12))),
    "late and early": (((1, 11), (0, 11), (0, 12)), list(range(1, 11))),
    "a gap in one": (((0, 12), [0, 1, 2, 4, 5, 6, 7, 8, 9, 10, 11], (0, 12)), [0, 1, 2, *range(4, 12)]),
    "gaps in two": (([0, *range(3, 12)], [*range(6), *range(8, 12)], (0, 12)), [0, 3, 4, 5, 8, 9, 10, 11]),
    "the same gap in all": (([0, 1, 2, 9, 10],) * 3, [0, 1, 2, 9, 10]),
}


@pytest.mark.parametrize("case", CASES)
def test_integrations_common_to_all_subbands_are_kept(written, tmp_path, case: str) -> None:  # type: ignore[no-untyped-def]
    held, kept = CASES[case]
    whole = reader.read_group(written((0, 12), (0, 12), (0, 12)), 3)
    files = written(*held)
    (group,) = grouping.group_headers([uvh5.read_header(path) for path in files.values()])
    assert (set(group.files), group.rejected, group.n_times) == ({0, 1, 2}, (), len(kept))
    np.testing.assert_allclose(group.times_mjd, whole.times_mjd[kept], atol=1e-9)
    vis = reader.read_group(files, 3)
    np.testing.assert_allclose(vis.times_mjd, whole.times_mjd[kept], atol=1e-9)
    np.testing.assert_allclose(vis.data, whole.data[kept], atol=1e-5)  # a Julian date is stored to 40 microseconds
    np.testing.assert_allclose(vis.uvw_m, whole.uvw_m[kept], atol=1e-4)
    ingest.ingest(files, tmp_path / "set.ms", n_subbands=3, options=NONE)
    assert measurement_set.problems(tmp_path / "set.ms") == []
    np.testing.assert_array_equal(measurement_set.read(tmp_path / "set.ms").data, vis.data)


def test_a_late_subband_does_not_change_the_partition(written) -> None:  # type: ignore[no-untyped-def]
    """The first integration, used or not, determines the observation's partition: a late subband does not change it."""
    files = written((1, 11), (0, 12))
    headers = [uvh5.read_header(path) for path in files.values()]
    (group,) = grouping.group_headers(headers)
    (early,) = grouping.group_headers(headers[1:])
    assert group.observation == early.observation
    assert group.mjd_start == early.mjd_start


def test_a_subband_with_few_integrations_is_left_out(written) -> None:  # type: ignore[no-untyped-def]
    """A subband with four integrations is left out, rather than eight integrations of all other subbands."""
    files = written((0, 12), (0, 4), (0, 11))
    (group,) = grouping.group_headers([uvh5.read_header(path) for path in files.values()])
    assert (set(group.files), group.n_times) == ({0, 2}, 11)
    ((path, reason),) = group.rejected
    assert path == files[1]
    assert "4 integrations leave 4 of 12 to share" in reason


def test_files_that_share_nothing_are_refused(written) -> None:  # type: ignore[no-untyped-def]
    files = written((0, 4), (2, 5), (4, 5))
    with pytest.raises(BadDataError, match="differ from"):
        reader.read_group(files, 3)
    files = written([0, 1], [1, 2], [0, 2])
    with pytest.raises(BadDataError, match="no integration is in all 3 subbands"):
        reader.read_group(files, 3)


def test_the_longer_part_of_a_split_subband_is_used(written, tmp_path) -> None:  # type: ignore[no-untyped-def]
    """A node restarted in between: its second file is accounted for, and does not make the first disputed."""
    files = written((0, 12), (0, 8))
    rest = tmp_path / "2026-01-25T22:27:40_sb01.hdf5"
    rest.write_bytes(written((0, 12), (9, 3))[1].read_bytes())
    files = written((0, 12), (0, 8))
    (group,) = grouping.group_headers([uvh5.read_header(path) for path in (*files.values(), rest)])
    assert group.n_times == 8
    assert group.files[1].path == files[1]
    ((path, reason),) = group.rejected
    assert path == rest
    assert "fewer integrations" in reason
