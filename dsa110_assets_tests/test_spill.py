"""Large arrays in a file: there, the same, gone when they are done with, and none that the disk has no room for."""

from __future__ import annotations

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from numba import njit

from dsa110_assets import heap, spill

N = 4_000_000
BYTES = 8 * N


def in_file_bytes() -> int:
    """What the open file takes on the disk."""
    return os.fstat(spill._file[0]).st_blocks * 512


def test_large_arrays_are_in_the_file_and_small_ones_in_memory(tmp_path: Path) -> None:
    spill._handler()  # compiling takes memory of its own
    held = heap.held_bytes()
    with spill.large_arrays_in(tmp_path):
        large, small = np.arange(N), [np.arange(8) for _ in range(100)]
        held_then, stored = heap.held_bytes(), in_file_bytes()
        assert large.sum() == N * (N - 1) // 2
        assert all(one.sum() == 28 for one in small)
        assert list(tmp_path.iterdir()) == []
        del large
        left = in_file_bytes()
    assert BYTES <= stored < 1.01 * BYTES
    assert left < 0.01 * BYTES
    assert held_then - held < 0.1 * BYTES
    assert spill._file[0] == spill._NO_FILE


def test_they_are_zeros_where_zeros_are_asked_for_also_after_others(tmp_path: Path) -> None:
    with spill.large_arrays_in(tmp_path):
        for _ in range(3):
            used = np.full(N, 7.0)
            del used
            assert not np.zeros(N).any()
        assert not np.zeros(10).any()


@pytest.mark.parametrize(("before", "after"), [(100, N), (N, 2 * N), (2 * N, N), (N, 100)])
def test_an_array_that_is_resized_keeps_its_numbers(before: int, after: int, tmp_path: Path) -> None:
    with spill.large_arrays_in(tmp_path):
        values = np.arange(before)
        values.resize(after, refcheck=False)
        same = min(before, after)
        assert np.array_equal(values[:same], np.arange(same))
        assert not values[same:].any()
        del values
        assert in_file_bytes() == 0


def test_arrays_outlive_the_block_and_leave_others_alone(tmp_path: Path) -> None:
    """One of an earlier file, freed while another is open, takes nothing of the latter."""
    with spill.large_arrays_in(tmp_path), spill.large_arrays_in(tmp_path):
        old = np.full(N, 1.0)
    old += 1
    with spill.large_arrays_in(tmp_path):
        new = np.full(N, 5.0)
        assert old.sum() == 2 * N
        del old
        assert new.sum() == 5 * N
        assert in_file_bytes() >= BYTES
    again = new * 2
    assert again.sum() == 10 * N


def test_it_is_for_one_thread_and_what_it_made_for_all(tmp_path: Path) -> None:
    with spill.large_arrays_in(tmp_path), ThreadPoolExecutor(2) as pool:
        ours = np.ones(N)
        stored = in_file_bytes()
        theirs = pool.submit(lambda: ours * 2).result()
        assert in_file_bytes() == stored
        assert theirs.sum() == 2 * N
        pool.submit(ours.fill, 3).result()
        assert ours.sum() == 3 * N


@njit(cache=True)
def _squared(values):  # type: ignore[no-untyped-def]
    return values * values


def test_compiled_code_and_failures_leave_nothing(tmp_path: Path) -> None:
    def fails() -> None:
        with spill.large_arrays_in(tmp_path):
            values = np.full(N, 3.0)
            assert _squared(values).sum() == 9 * N
            raise RuntimeError(f"{values.sum()}")

    with pytest.raises(RuntimeError, match=str(3.0 * N)):
        fails()
    assert spill._file[0] == spill._NO_FILE


def test_a_folder_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), spill.large_arrays_in(tmp_path / "gone"):
        pass
    assert spill._users == 0
    assert np.ones(N).sum() == N


LIMITED = """
import resource, sys
from pathlib import Path
import numpy as np
from dsa110_assets import spill
spill._handler()
spared = 1 << 28
if sys.argv[1] == "memory":
    used = int(open("/proc/self/statm").read().split()[5]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_DATA, (used + spared, used + spared))
else:
    resource.setrlimit(resource.RLIMIT_FSIZE, (spared, spared))
def work():
    return sum(float(one.sum()) for one in [np.full(1 << 24, float(k)) for k in range(6)])  # 768 MiB
if sys.argv[2] == "in memory":
    print(work())
else:
    with spill.large_arrays_in(Path(sys.argv[3])):
        print(work())
"""


@pytest.mark.parametrize(
    ("limited", "where", "expected"),
    [
        ("memory", "in memory", "MemoryError"),
        ("memory", "in a file", f"{15.0 * (1 << 24)}"),
        ("disk", "in memory", f"{15.0 * (1 << 24)}"),
        ("disk", "in a file", "MemoryError"),
    ],
)
def test_what_memory_cannot_hold_the_disk_can_and_nothing_crashes(limited: str, where: str, expected: str, tmp_path: Path) -> None:
    """The kernel allows 256 MiB more of memory, or of file, for arrays of 768 MiB."""
    told = subprocess.run([sys.executable, "-c", LIMITED, limited, where, str(tmp_path)], capture_output=True, text=True)
    assert expected in told.stdout + told.stderr
    assert told.returncode == int(expected == "MemoryError")
    assert list(tmp_path.iterdir()) == []
