"""Memory blocks are reused while they are kept, and returned to the system afterwards."""

from __future__ import annotations

import resource

import pytest

from dsa110_assets import heap

_BYTES = 256 << 20
_PAGE = resource.getpagesize()


def _faults_of_a_block() -> int:
    """The number of page faults of writing one block from end to end."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    block = bytearray(b"\1") * _BYTES
    after = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    del block
    return after - before


def test_a_kept_block_causes_no_page_faults_again() -> None:
    with heap.kept(), heap.kept():
        _faults_of_a_block()
        again = _faults_of_a_block()
    # other allocations may use a part of the block: at most a hundredth
    assert again < _BYTES / _PAGE / 100


@pytest.mark.parametrize("enough", [2 * _BYTES, _BYTES // 2])
def test_memory_above_the_limit_is_given_back_at_the_end(enough: int, monkeypatch: pytest.MonkeyPatch) -> None:
    heap.give_back()
    held = heap.held_bytes()
    monkeypatch.setattr(heap, "ENOUGH_BYTES", held + enough)
    with heap.kept():
        _faults_of_a_block()
    if enough > _BYTES:
        assert heap.held_bytes() - held > 0.9 * _BYTES
        heap.give_back()
    assert heap.held_bytes() - held < 0.1 * _BYTES


def _fails() -> None:
    with heap.kept():
        _faults_of_a_block()
        raise RuntimeError


def test_memory_is_given_back_when_the_computation_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(heap, "ENOUGH_BYTES", 0)
    before = heap.held_bytes()
    with pytest.raises(RuntimeError):
        _fails()
    assert heap.held_bytes() - before < 0.1 * _BYTES
