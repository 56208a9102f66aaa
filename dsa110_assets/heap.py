"""Keeping freed memory in the process during a computation.

glibc returns every freed block above 32 MB to the system at once, and for the next array of that size the system has to find
and clear new pages. This takes a third of the CPU time of an image, which has hundreds of such arrays.
"""

from __future__ import annotations

import ctypes
import resource
from collections.abc import Iterator
from contextlib import contextmanager

_TRIM_THRESHOLD, _MMAP_MAX = -1, -4
"""Parameters of mallopt (malloc.h)."""
ENOUGH_BYTES = 3 << 29
"""More than any stage except imaging needs, and little in addition to the peak of imaging."""


@contextmanager
def kept() -> Iterator[None]:
    """Keep memory that is freed in the block, for later allocations in the block and afterwards in this process.

    At the end, free memory is returned to the system if the process then holds more than ENOUGH_BYTES, so that it does not
    accumulate from step to step. Does nothing if the C library is not glibc. The peak is that of the memory in use, except for
    gaps: 2 % of an image's.
    """
    libc = ctypes.CDLL(None)
    if hasattr(libc, "mallopt"):
        libc.mallopt(_MMAP_MAX, 0)
        libc.mallopt(_TRIM_THRESHOLD, -1)
    try:
        yield
    finally:
        if held_bytes() > ENOUGH_BYTES:
            give_back()


def give_back() -> None:
    """Return free memory to the system now, if the C library supports it."""
    libc = ctypes.CDLL(None)
    if hasattr(libc, "malloc_trim"):
        libc.malloc_trim(0)


def held_bytes() -> int:
    """The resident memory of this process that does not belong to files [bytes]."""
    with open("/proc/self/statm", encoding="ascii") as file:
        _, resident, of_files, *_ = (int(pages) for pages in file.read().split())
    return (resident - of_files) * resource.getpagesize()
