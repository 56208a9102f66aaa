"""What memory there is: of the machine, of control groups as systems show them, of the setting, beside other steps."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from dsa110_assets import heap
from dsa110_assets.orchestration import memory

GB = 10**9
UNLIMITED_V1 = "9223372036854771712"


@pytest.fixture
def system(tmp_path: Path) -> tuple[Path, Path, Path]:
    """(control groups, membership, meminfo) of a machine with 8 GB free and no swap, where no group has a limit."""
    groups, membership, meminfo = tmp_path / "cgroup", tmp_path / "self", tmp_path / "meminfo"
    groups.mkdir()
    membership.write_text("0::/\n")
    meminfo.write_text("MemTotal: 16000000 kB\nMemFree: 100 kB\nMemAvailable: 8000000 kB\nHugePages_Total: 0\nSwapFree: 0 kB\n")
    return groups, membership, meminfo


def write(group: Path, **figures: object) -> None:
    """Files of a control group; '__' in a name is a dot."""
    group.mkdir(parents=True, exist_ok=True)
    for name, value in figures.items():
        (group / name.replace("__", ".")).write_text(f"{value}\n")


def test_without_groups_it_is_the_machines(system: tuple[Path, Path, Path]) -> None:
    assert memory.available_bytes(None, *system) == 8.192e9
    system[1].unlink()
    assert memory.available_bytes(None, *system) == 8.192e9


def test_swap_is_memory_that_is_slow(system: tuple[Path, Path, Path]) -> None:
    system[2].write_text("MemTotal: 4000000 kB\nMemAvailable: 3000000 kB\nSwapFree: 2000000 kB\n")
    assert memory.available_bytes(None, *system) == 5e6 * 1024
    write(system[0], memory__max=1 * GB, memory__current=GB // 2, memory__stat="anon 1")
    assert memory.available_bytes(None, *system) == 2e6 * 1024 + 0.5e9


def test_the_setting_counts(system: tuple[Path, Path, Path]) -> None:
    assert memory.available_bytes(0.5, *system) == 0.5 * 2**30
    assert memory.available_bytes(100.0, *system) == 8.192e9


def test_a_group_of_version_2_and_its_page_cache(system: tuple[Path, Path, Path]) -> None:
    groups, membership, _ = system
    membership.write_text("0::/system.slice/dsa110.service\n")
    write(groups / "system.slice/dsa110.service", memory__max="max", memory__current=GB, memory__stat="active_file 7\ninactive_file 7")
    assert memory.available_bytes(None, *system) == 8.192e9
    write(groups / "system.slice", memory__max=4 * GB, memory__current=3 * GB, memory__stat=f"anon 5\nactive_file {GB}\ninactive_file {GB}")
    assert memory.available_bytes(None, *system) == 3e9


def test_a_container_sees_its_own_group_at_the_top(system: tuple[Path, Path, Path]) -> None:
    groups, membership, _ = system
    membership.write_text("0::/docker/0123\n")  # as the host names it
    write(groups, memory__max=2 * GB, memory__current=GB, memory__stat="active_file 0\ninactive_file 0")
    assert memory.available_bytes(None, *system) == 1e9


@pytest.mark.parametrize("mount", ["memory", "cpu,memory"])
def test_a_group_of_version_1_beside_an_empty_hierarchy_of_version_2(system: tuple[Path, Path, Path], mount: str) -> None:
    groups, membership, _ = system
    membership.write_text(f"9:name=systemd:/\n4:{mount}:/jobs/7\n2:cpuset:/\n0::/\n")
    write(groups / "unified")
    none = {"memory__usage_in_bytes": GB, "memory__stat": "total_active_file 0\ntotal_inactive_file 0"}
    write(groups / mount, memory__limit_in_bytes=UNLIMITED_V1, **none)
    assert memory.available_bytes(None, *system) == 8.192e9
    write(groups / mount / "jobs", memory__limit_in_bytes=6 * GB, **none)
    assert memory.available_bytes(None, *system) == 5e9
    cache = {"memory__usage_in_bytes": 2 * GB, "memory__stat": f"cache 1\ntotal_active_file {GB}\ntotal_inactive_file 5"}
    write(groups / mount / "jobs/7", memory__limit_in_bytes=3 * GB, **cache)
    assert memory.available_bytes(None, *system) == 2e9 + 5


def test_this_machine_has_some() -> None:
    assert memory.available_bytes(None) > 2**28


ANOTHER = """
import sys
from pathlib import Path
from dsa110_assets.orchestration import memory
with memory.reserved(Path(sys.argv[1]), None, lambda free: float(sys.argv[2])):
    print("reserved", flush=True)
    sys.stdin.read()
"""


def test_what_others_have_reserved_is_not_available(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Until they hold it, end, or are killed."""
    wanted, found = 2e9, []
    monkeypatch.setattr(memory, "available_bytes", lambda limit_gib: 8e9)

    def look() -> float:
        with memory.reserved(tmp_path, None, lambda free: found.append(free) or 1.0):  # type: ignore[func-returns-value]
            return found[-1]

    command = [sys.executable, "-c", ANOTHER, str(tmp_path), str(wanted)]
    other = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert other.stdout is not None
    assert other.stdout.readline() == "reserved\n"
    assert 8e9 - look() == pytest.approx(wanted, rel=0.05)  # what the other takes in addition while we look
    other.kill()
    other.communicate()
    assert look() == 8e9
    assert [path.name for path in (tmp_path / memory.FOLDER).iterdir()] == [memory.LOCK]


def test_what_is_held_already_is_not_counted_twice(tmp_path: Path) -> None:
    with memory.reserved(tmp_path, None, lambda free: 200e6):
        block = bytearray(b"\1") * 150_000_000
        assert memory._spoken_for(tmp_path / memory.FOLDER) == pytest.approx(50e6, abs=20e6)  # of 200 - 150
        assert heap.held_bytes(os.getpid()) > len(block)
        del block


def test_who_is_refused_reserves_nothing(tmp_path: Path) -> None:
    def refuse(free: float) -> float:
        raise MemoryError(f"{free}")

    with pytest.raises(MemoryError), memory.reserved(tmp_path, None, refuse):
        pass
    assert [path.name for path in (tmp_path / memory.FOLDER).iterdir()] == [memory.LOCK]
