"""Small preview pictures of images for the web pages."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from numba import njit
from numpy.typing import NDArray

from dsa110_assets.imaging.statistics import robust_rms

MAX_BYTES = 20_000
SIDES = (256, 192, 128, 96, 64)
_LOW, _HIGH = -3.0, 20.0
_GREYS = 32
"""With few levels noise compresses several times better, and the picture looks the same at this size."""


def preview_png(
    data: NDArray[np.floating],
    path: Path | None = None,
    *,
    noise: NDArray[np.floating] | None = None,
    rms: float | None = None,
) -> bytes:
    """Return a PNG of at most 20 kB of an image (ny, nx), rows from south to north, north up in the picture.

    Grey from -3 to 20 times `rms`, by default the robust rms, by arcsinh. Blocks keep their brightest pixel, so faint points
    stay visible; NaN is dark blue. With a `noise` map (ny, nx) the ratio of image and noise is shown, and `rms` is that of the
    ratio. The PNG is written to `path` if given. Never raises for blank images.
    """
    sigma = np.broadcast_to(np.ones((), data.dtype), data.shape) if noise is None else noise
    if rms is None:
        rms = robust_rms(data if noise is None else data / noise)
    for side in SIDES:
        brightest = _brightest(data, sigma, max(1, -(-max(data.shape) // side)))[::-1]
        content = encode_png(shades(brightest, rms))
        if len(content) <= MAX_BYTES:
            break
    if path is not None:
        path.write_bytes(content)
    return content


@njit(cache=True, nogil=True, error_model="numpy")
def _brightest(data, noise, step):  # type: ignore[no-untyped-def]
    """Return the highest data / noise in blocks of step x step pixels, float32; NaN where no pixel of a block is finite."""
    out = np.full((-(-data.shape[0] // step), -(-data.shape[1] // step)), np.nan, np.float32)
    for row in range(data.shape[0]):
        line = out[row // step]
        for column in range(data.shape[1]):
            value = np.float32(data[row, column] / noise[row, column])
            if np.isfinite(value) and not value <= line[column // step]:
                line[column // step] = value
    return out


def shades(data: NDArray[np.float32], rms: float) -> NDArray[np.uint8]:
    """Return the palette indices uint8 of an image: 0 where NaN, else greys by arcsinh from _LOW to _HIGH times `rms`."""
    scale = rms if np.isfinite(rms) and rms > 0 else 1.0
    low, high = np.arcsinh(_LOW), np.arcsinh(_HIGH)
    level = (np.arcsinh(np.nan_to_num(data, nan=0.0) / scale) - low) / (high - low)
    shade = 1 + np.rint(np.clip(level, 0, 1) * (_GREYS - 1))
    return np.where(np.isfinite(data), shade, 0).astype(np.uint8)


def encode_png(indices: NDArray[np.uint8], *, transparent: bool = False) -> bytes:
    """Return a PNG of palette indices, first row on top; blank pixels are dark blue, or transparent if `transparent`."""
    from PIL import Image as PillowImage  # imported here, so that this can overlap with the writing of the image files

    picture = PillowImage.fromarray(indices)
    picture = PillowImage.frombytes("P", picture.size, picture.tobytes())
    greys = np.repeat(np.linspace(0, 255, _GREYS).astype(np.uint8), 3)
    picture.putpalette([40, 50, 90, *greys.tolist()])
    buffer = io.BytesIO()
    picture.save(buffer, format="PNG", optimize=True, **({"transparency": 0} if transparent else {}))
    return buffer.getvalue()
