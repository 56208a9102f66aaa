"""The available memory: limited by the machine, by control groups as different systems show them, and by the setting."""

from __future__ import annotations

from pathlib import Path

import pytest

from dsa110_assets.orchestration.running import capacity

GB = 10**9


@pytest.fixture
def system(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Path, Path]:
    """(control groups, membership, meminfo) of a machine with 8 GB free and no swap, where no group has a limit."""
    groups, membership, meminfo = tmp_path / "cgroup", tmp_path / "self", tmp_path / "meminfo"
    groups.mkdir()
    membership.write_text("0::/\n")
    meminfo.write_text("MemTotal: 16000000 kB\nMemFree: 100 kB\nMemAvailable: 8000000 kB\nHugePages_Total: 0\nSwapFree: 0 kB\n")
    for name, path in (("GROUPS", groups), ("MEMBERSHIP", membership), ("MEMINFO", meminfo)):
        monkeypatch.setattr(capacity, name, path)
    return groups, membership, meminfo


def write(group: Path, **figures: object) -> None:
    """Write files of a control group; '__' in a name stands for a dot."""
    group.mkdir(parents=True, exist_ok=True)
    for name, value in figures.items():
        (group / name.replace("__", ".")).write_text(f"{value}\n")


def test_without_control_groups_the_machines_memory_counts(system: tuple[Path, Path, Path]) -> None:
    system[1].write_text("4:memory:/jobs/7\n")  # version 1
    assert capacity.available_bytes(1e5) == 8.192e9


def test_free_swap_counts_as_available_memory(system: tuple[Path, Path, Path]) -> None:
    system[2].write_text("MemTotal: 4000000 kB\nMemAvailable: 3000000 kB\nSwapFree: 2000000 kB\n")
    assert capacity.available_bytes(1e5) == 5e6 * 1024
    write(system[0], memory__max=1 * GB, memory__current=GB // 2, memory__stat="anon 1")
    assert capacity.available_bytes(1e5) == 2e6 * 1024 + 0.5e9


def test_the_memory_setting_limits_what_is_available(system: tuple[Path, Path, Path]) -> None:
    assert capacity.available_bytes(0.5) == 0.5 * 2**30
    assert capacity.available_bytes(100.0) == 8.192e9


def test_memory_of_a_version_2_group_excludes_its_page_cache(system: tuple[Path, Path, Path]) -> None:
    groups, membership, _ = system
    membership.write_text("0::/system.slice/dsa110.service\n")
    write(groups / "system.slice/dsa110.service", memory__max="max", memory__current=GB, memory__stat="active_file 7\ninactive_file 7")
    assert capacity.available_bytes(1e5) == 8.192e9
    write(groups / "system.slice", memory__max=4 * GB, memory__current=3 * GB, memory__stat=f"anon 5\nactive_file {GB}\ninactive_file {GB}")
    assert capacity.available_bytes(1e5) == 3e9


def test_the_control_group_of_a_container_is_at_the_top(system: tuple[Path, Path, Path]) -> None:
    groups, membership, _ = system
    membership.write_text("0::/docker/0123\n")  # as the host names it
    write(groups, memory__max=2 * GB, memory__current=GB, memory__stat="active_file 0\ninactive_file 0")
    assert capacity.available_bytes(1e5) == 1e9


def test_the_machines_own_memory_is_measured() -> None:
    assert capacity.available_bytes(1e5) > 2**28
