"""Memory that a computation keeps for itself while it lasts.

glibc returns every freed block above 32 MB to the system at once, and the next array of that size is made of pages the
system has to find and clear: a third of the CPU time of an image, which has hundreds of such arrays.
"""

from __future__ import annotations

import ctypes
import resource
from collections.abc import Iterator
from contextlib import contextmanager

_TRIM_THRESHOLD, _MMAP_MAX = -1, -4
"""Parameters of mallopt (malloc.h)."""
ENOUGH_BYTES = 3 << 29
"""More than all stages but the image need, and with the image's peak above it still little."""


@contextmanager
def kept() -> Iterator[None]:
    """Blocks freed inside are used again by what is allocated next, and by what follows in this process.

    At the end what is free goes back to the system if the process then holds more than ENOUGH_BYTES: the next step begins with
    that, and no more is gathered from step to step. Does nothing where the C library is not glibc. The peak is that of what
    is in use, but for gaps: 2 % of an image's.
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
    """Return what is free to the system now, where that is possible."""
    libc = ctypes.CDLL(None)
    if hasattr(libc, "malloc_trim"):
        libc.malloc_trim(0)


def held_bytes() -> int:
    """Memory of this process that is no file's."""
    with open("/proc/self/statm", encoding="ascii") as file:
        _, resident, of_files, *_ = (int(pages) for pages in file.read().split())
    return (resident - of_files) * resource.getpagesize()
