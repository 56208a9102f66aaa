"""An image's pixels as FITS stores them: big-endian float32 in blocks of 2880 bytes, with the standard's checksum.

FITS 4.0, appendix J: the sum of all 32-bit big-endian words in ones' complement arithmetic. DATASUM is that of the data;
CHECKSUM makes that of the whole unit all ones.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
from astropy.io import fits
from astropy.io.fits import Header
from numba import njit
from numpy.typing import NDArray

from dsa110_assets.imaging.axes import number_of_axes

_BLOCK = 2880
_CHUNK_BYTES = 4 << 20
_ONES = 0xFFFFFFFF


Through = Callable[[NDArray[np.float32]], NDArray[np.float32]]


def write_plane(data: NDArray[np.float32], header: Header, path: Path, through: Through | None = None) -> None:
    """Write (ny, nx) float32 as the primary unit of a new file, a few MB at a time; NaN means blank.

    What is written is what `through` makes of the rows, of the same shape: a plane derived from another is never whole in
    memory. BITPIX and NAXIS follow the data, whatever the header says; further axes it describes have one pixel. Threads may
    write files side by side.
    """
    image = np.ascontiguousarray(data, np.float32)
    shape = (1,) * (number_of_axes(header) - 2) + image.shape
    described = fits.PrimaryHDU(np.broadcast_to(np.float32(0), shape), header=header).header
    described["CHECKSUM"] = ("0" * 16, "HDU checksum")
    described["DATASUM"] = ("0", "data unit checksum")
    with path.open("xb") as file:
        file.write(described.tostring().encode("ascii"))
        datasum = 0
        rows = max(1, _CHUNK_BYTES // max(4 * image.shape[1], 1))
        buffer = np.empty((min(rows, image.shape[0]), image.shape[1]), np.uint32)
        for first in range(0, image.shape[0], rows):
            part = image[first : first + rows] if through is None else through(image[first : first + rows])
            datasum += _big_endian(part.view(np.uint32), buffer)
            file.write(buffer[: part.shape[0]].data)
        file.write(bytes(-image.nbytes % _BLOCK))
        described["DATASUM"] = str(_folded(datasum))
        described["CHECKSUM"] = _encoded(_ONES ^ _folded(datasum + _words(described)))
        file.seek(0)
        file.write(described.tostring().encode("ascii"))


@njit(cache=True, nogil=True)
def _big_endian(bits, out):  # type: ignore[no-untyped-def]
    """Little-endian words into `out` with their bytes turned round; the sum of the words' values."""
    total = np.uint64(0)
    for row in range(bits.shape[0]):
        for column in range(bits.shape[1]):
            word = bits[row, column]
            total += np.uint64(word)
            out[row, column] = swapped(word)
    return total


@njit(inline="always")
def swapped(word):  # type: ignore[no-untyped-def]
    """A uint32 with its bytes in the other order."""
    low = ((word & np.uint32(0xFF00)) << np.uint32(8)) | (word << np.uint32(24))
    # shifts are done in 64 bits
    return np.uint32(low | ((word >> np.uint32(8)) & np.uint32(0xFF00)) | (word >> np.uint32(24)))


def _words(header: Header) -> int:
    return int(np.frombuffer(header.tostring().encode("ascii"), ">u4").sum(dtype=np.uint64))


def _folded(total: int) -> int:
    """Ones' complement: what overflows 32 bits is added below."""
    total = int(total)
    while total > _ONES:
        total = (total & _ONES) + (total >> 32)
    return total


def _encoded(value: int) -> str:
    """The 16 letters and digits whose sum, where CHECKSUM stands in a header, is `value` above that of zeros."""
    columns = []
    for byte in value.to_bytes(4, "big"):
        quarter, rest = divmod(byte, 4)
        letters = [quarter + ord("0") + (rest if n == 0 else 0) for n in range(4)]
        while any(not chr(letter).isalnum() for letter in letters):
            # punctuation is kept out by moving one of a pair up and the other down
            for n in (0, 2):
                if not (chr(letters[n]).isalnum() and chr(letters[n + 1]).isalnum()):
                    letters[n] += 1
                    letters[n + 1] -= 1
        columns.append(letters)
    text = "".join(chr(columns[column][row]) for row in range(4) for column in range(4))
    return text[-1] + text[:-1]  # the value of a card begins one byte after a word does
