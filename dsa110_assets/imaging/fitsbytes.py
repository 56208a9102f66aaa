"""An image's pixels as FITS stores them: big-endian float32 in blocks of 2880 bytes, with the standard's checksum."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
from astropy.io import fits
from astropy.io.fits import Header
from numpy.typing import NDArray

from dsa110_assets.imaging.axes import number_of_axes

_BLOCK = 2880
_CHUNK_BYTES = 4 << 20


Through = Callable[[NDArray[np.float32]], NDArray[np.float32]]


def write_plane(data: NDArray[np.float32], header: Header, path: Path, through: Through | None = None) -> None:
    """Write (ny, nx) float32 as the primary unit of a new file, a few MB at a time; NaN means blank.

    `through` transforms the rows as they are written, keeping their shape, so that a plane derived from another is never whole
    in memory. BITPIX and NAXIS follow the data, whatever the header says; further axes in the header have one pixel. Threads
    may write different files at the same time.
    """
    shape = (1,) * (number_of_axes(header) - 2) + data.shape
    described = fits.PrimaryHDU(np.broadcast_to(np.float32(0), shape), header=header).header
    described["CHECKSUM"], described["DATASUM"] = "0" * 16, "0"  # reserve the cards for the real values
    rows = max(1, _CHUNK_BYTES // max(4 * data.shape[1], 1))
    with path.open("x+b") as file:
        file.write(described.tostring().encode("ascii"))
        for first in range(0, data.shape[0], rows):
            part = data[first : first + rows]
            file.write((part if through is None else through(part)).astype(">f4").data)
        file.write(bytes(-data.size * 4 % _BLOCK))
        file.flush()
        with fits.open(path) as hdus:
            hdus[0].add_datasum("data unit checksum")
            hdus[0].add_checksum("HDU checksum", override_datasum=True)
            file.seek(0)
            file.write(hdus[0].header.tostring().encode("ascii"))
