"""Large arrays in a file: how a computation goes on where memory is short and there is no swap.

Pages of a file can go to the disk and come back when they are touched; memory without swap has nowhere to go. NumPy
lets its allocator be replaced (NEP 49), so that nobody who computes needs to know.
"""

from __future__ import annotations

import ctypes
import errno
import os
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numba import carray, cfunc, njit, types
from numba.extending import intrinsic

LEAST_BYTES = 1 << 20
"""Smaller arrays stay in memory."""
_PAGE = os.sysconf("SC_PAGESIZE")
_HEADER = 64
"""Bytes before every array: its size, how long its part of the file is (0: none), where that begins, and in which file."""
_SHARED, _READ_WRITE, _PUNCH_A_HOLE, _INTERRUPTED = 1, 3, 3, errno.EINTR
"""Flags of mmap(2) and fallocate(2) on Linux; what a signal does to the latter."""
_SET_HANDLER = 304
"""Place of PyDataMem_SetHandler in NumPy's table of functions, the same since 1.22."""
_NO_FILE = -1
_lock = threading.Lock()
_users = 0
_file = (ctypes.c_int64 * 3)(_NO_FILE, 0, 0)
"""Descriptor, how much of it has been given out (what is freed is a hole, not used again), and a number of its own."""
_CONTEXT = types.CPointer(types.int64)
"""What the functions see of `_file`."""
_kept: list[Any] = []
"""What NumPy points to, for as long as the process lives."""


@contextmanager
def large_arrays_in(folder: Path) -> Iterator[None]:
    """Arrays of LEAST_BYTES or more that this thread makes inside have their data in an unlinked file in `folder`.

    They may be used by all threads, and after the block. Nothing remains of them when the process ends, however it does.
    Raises OSError if no file can be made there; an array the disk has no room for is a MemoryError.
    """
    global _users
    ours = _handler()
    with _lock:
        if not _users:
            with tempfile.TemporaryFile(dir=folder) as file:
                _file[:] = [os.dup(file.fileno()), 0, _file[2] + 1]
        _users += 1
    before = _set_handler()(ours)
    try:
        yield
    finally:
        _set_handler()(before)
        with _lock:
            _users -= 1
            if not _users:
                descriptor, _file[0] = _file[0], _NO_FILE
                os.close(descriptor)


class _Handler(ctypes.Structure):
    """PyDataMem_Handler of NumPy's ndarraytypes.h."""

    _fields_ = (
        ("name", ctypes.c_char * 127),
        ("version", ctypes.c_uint8),
        ("context", ctypes.c_void_p),
        ("malloc", ctypes.c_void_p),
        ("calloc", ctypes.c_void_p),
        ("realloc", ctypes.c_void_p),
        ("free", ctypes.c_void_p),
    )


@cache
def _set_handler() -> Any:
    """PyDataMem_SetHandler: takes this thread's new handler and returns the one before."""
    pointer = ctypes.pythonapi.PyCapsule_GetPointer
    pointer.restype, pointer.argtypes = ctypes.c_void_p, (ctypes.py_object, ctypes.c_char_p)
    table = pointer(np._core._multiarray_umath._ARRAY_API, None)  # type: ignore[attr-defined]
    address = ctypes.cast(table, ctypes.POINTER(ctypes.c_void_p))[_SET_HANDLER]
    return ctypes.PYFUNCTYPE(ctypes.py_object, ctypes.py_object)(address)


@cache
def _handler() -> Any:
    """The handler in its capsule."""
    functions = _functions()
    handler = _Handler(b"large arrays in a file", 1, ctypes.addressof(_file), *(one.address for one in functions))
    _kept.extend((functions, handler))
    capsule = ctypes.pythonapi.PyCapsule_New
    capsule.restype, capsule.argtypes = ctypes.py_object, (ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p)
    return capsule(ctypes.addressof(handler), b"mem_handler", None)


@intrinsic
def _header(typing_context, address):  # type: ignore[no-untyped-def]
    """Pointer to the header of the array at an address."""

    def generate(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        pointer = context.get_value_type(signature.return_type)
        return builder.inttoptr(builder.sub(arguments[0], arguments[0].type(_HEADER)), pointer)

    return types.CPointer(types.intp)(types.intp), generate


def _functions() -> tuple[Any, Any, Any, Any]:
    """malloc, calloc, realloc and free: compiled, for NumPy frees arrays where no Python may run (an exception's way up)."""
    word, libc = ctypes.c_ssize_t, ctypes.CDLL(None)

    def of_libc(name: str, arguments: int, result: Any = word) -> Any:
        function = getattr(libc, name)
        function.restype, function.argtypes = result, (word,) * arguments
        return function

    clear, release, copy = of_libc("calloc", 2), of_libc("free", 1, None), of_libc("memcpy", 3)
    map_file, unmap, reserve, punch = of_libc("mmap", 6), of_libc("munmap", 2), of_libc("posix_fallocate", 3), of_libc("fallocate", 4)

    @njit
    def made(context, size):  # type: ignore[no-untyped-def]
        file, length, offset = carray(context, 3), 0, 0
        if size < LEAST_BYTES or file[0] == _NO_FILE:
            block = clear(1, _HEADER + size)
            if block == 0:
                return 0
            address = block + _HEADER
        else:
            length, offset = (size // _PAGE + 2) * _PAGE, file[1]
            failed = reserve(file[0], offset, length)
            while failed == _INTERRUPTED:
                failed = reserve(file[0], offset, length)
            if failed:
                return 0
            file[1] += length
            block = map_file(0, length, _READ_WRITE, _SHARED, file[0], offset)
            if block == -1:
                return 0
            address = block + _PAGE
        header = carray(_header(address), 4)
        header[0], header[1], header[2], header[3] = size, length, offset, file[2]
        return address

    @njit
    def freed(context, address):  # type: ignore[no-untyped-def]
        file, header = carray(context, 3), carray(_header(address), 4)
        length, offset, number = header[1], header[2], header[3]
        if length == 0:
            release(address - _HEADER)
            return
        unmap(address - _PAGE, length)
        if file[0] != _NO_FILE and file[2] == number:
            punch(file[0], _PUNCH_A_HOLE, offset, length)

    @cfunc(types.intp(_CONTEXT, types.intp))
    def malloc(context, size):  # type: ignore[no-untyped-def]
        return made(context, size)

    @cfunc(types.intp(_CONTEXT, types.intp, types.intp))
    def calloc(context, number, size):  # type: ignore[no-untyped-def]
        return made(context, number * size)

    @cfunc(types.intp(_CONTEXT, types.intp, types.intp))
    def realloc(context, address, size):  # type: ignore[no-untyped-def]
        moved = made(context, size)
        if moved and address:
            copy(moved, address, min(size, carray(_header(address), 4)[0]))
            freed(context, address)
        return moved

    @cfunc(types.void(_CONTEXT, types.intp, types.intp))
    def free(context, address, size):  # type: ignore[no-untyped-def]
        if address:
            freed(context, address)

    return malloc, calloc, realloc, free
