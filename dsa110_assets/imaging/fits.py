"""Images on disk: FITS files with everything that DS9, CARTA, CASA and PyBDSF need to place and scale them."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from astropy.io import fits
from astropy.io.fits import Header
from astropy.utils.exceptions import AstropyUserWarning
from astropy.wcs import WCS
from numpy.typing import NDArray

from dsa110_assets.errors import BadDataError, NotFoundError
from dsa110_assets.imaging.axes import with_axes, without_axes
from dsa110_assets.imaging.fitsbytes import Through, write_plane
from dsa110_assets.imaging.preview import preview_png
from dsa110_assets.imaging.restoring import Beam

if TYPE_CHECKING:
    from dsa110_assets.imaging.tile import TileImage

_CARD = 80
Cards = Mapping[str, str | int | float | bool]


@dataclass(frozen=True)
class FitsImage:
    """An image read from a file: `data` (ny, nx) float32, NaN where blank; its 2-axis `header`; its `beam`."""

    data: NDArray[np.float32]
    header: Header
    beam: Beam


def write_tile(tile: TileImage, directory: Path, cards: Cards | None = None) -> dict[str, Path]:
    """Write a tile's FITS files and preview.png into an existing directory; return the paths by file name.

    `cards` (provenance: product id, run, anchor ...) go into every header, with keywords of at most 8 characters. Each file
    carries CHECKSUM and DATASUM.
    """
    images = {
        "image.fits": (tile.image, "Jy/beam", "restored, not corrected for the primary beam"),
        "image-pb.fits": (tile.pbcor, "Jy/beam", "restored, divided by the primary beam"),
        "residual.fits": (tile.residual, "Jy/beam", "residual"),
        "model.fits": (tile.model, "Jy/pixel", "clean components"),
        "psf.fits": (tile.psf, "", "dirty beam"),
        "primary-beam.fits": (tile.primary_beam, "", "effective primary beam power"),
    }
    written = {}
    for name, (data, unit, kind) in images.items():
        header = tile.header.copy()
        header["BUNIT"] = unit
        header["IMTYPE"] = kind
        written[name] = write_image(data, header, directory / name, cards)
    preview_png(tile.image, directory / "preview.png")
    written["preview.png"] = directory / "preview.png"
    return written


def write_image(data: NDArray[np.floating], header: Header, path: Path, cards: Cards | None = None, through: Through | None = None) -> Path:
    """Write (ny, nx) as float32 FITS with a header plus `cards`; the path must be new. NaN means blank.

    Frequency and Stokes become axes of one pixel, as in `axes.with_axes`. `through`, if given, transforms the pixels as they
    are written: see `write_plane`.
    """
    complete = with_axes(header)
    for keyword, value in (cards or {}).items():
        complete[keyword] = value
    if any(len(card.image) > _CARD for card in complete.cards):
        complete["LONGSTRN"] = ("OGIP 1.0", "long strings go on in CONTINUE cards")
    write_plane(data.astype(np.float32, copy=False), complete, path, through)
    return path


def read_image(path: Path) -> FitsImage:
    """Read a FITS image with 2 celestial axes (further axes of length 1 are dropped).

    Blank pixels stay NaN, never 0. Raises NotFoundError if there is no file, BadDataError if it cannot be
    read, is no such image, has no finite pixel, no celestial coordinates, or no positive BMAJ and BMIN.
    """
    data, header = read_plane(path)
    return FitsImage(data, *_celestial(path, header))


def read_plane(path: Path) -> tuple[NDArray[np.float32], Header]:
    """Return the pixels (ny, nx) float32, NaN where blank, and their 2-axis header: like `read_image`, but no beam is needed."""
    mapped, header = map_plane(path)
    return np.array(mapped, dtype=np.float32, order="C"), header


def map_image(path: Path) -> FitsImage:
    """Read an image like `read_image`, but with the file's own pixels mapped read-only as `data`: float32 in the file's byte
    order, if the file holds float32."""
    data, header = map_plane(path)
    return FitsImage(data, *_celestial(path, header))


def map_plane(path: Path) -> tuple[NDArray[np.float32], Header]:
    """Read a plane like `read_plane`, but with the file's own pixels mapped read-only."""
    raw, header = _open(path)
    if raw is None or raw.ndim < 2 or raw.size != raw.shape[-1] * raw.shape[-2]:
        raise BadDataError(f"{path}: shape {None if raw is None else raw.shape} is no image of two axes")
    plane = np.asarray(raw).reshape(raw.shape[-2:])
    data = plane if plane.dtype == np.dtype(">f4") else np.ascontiguousarray(plane, dtype=np.float32)
    if not any(np.isfinite(row).any() for row in data):
        raise BadDataError(f"{path}: no pixel is finite; the image holds nothing")
    without_axes(header, str(path))
    return data, header


def read_header(path: Path) -> tuple[Header, Beam]:
    """Return the header and beam of an image without its pixels; a header without coordinates or beam raises the same errors as in
    `read_image`."""
    header = _open(path, pixels=False)[1]
    without_axes(header, str(path))
    return _celestial(path, header)


def _open(path: Path, pixels: bool = True) -> tuple[NDArray[np.floating] | None, Header]:
    if not path.exists():
        raise NotFoundError(f"{path}: no such image")
    try:
        with path.open("rb") as handle, warnings.catch_warnings():
            warnings.filterwarnings("error", message="File may have been truncated")
            hdus = fits.open(handle, memmap=True)
            return (hdus[0].data if pixels else None), hdus[0].header.copy()
    except (OSError, ValueError, TypeError, fits.VerifyError, AstropyUserWarning) as error:
        raise BadDataError(f"{path}: not readable as FITS ({error}); image it again") from error


def _celestial(path: Path, header: Header) -> tuple[Header, Beam]:
    if not WCS(header).has_celestial:
        raise BadDataError(f"{path}: the header has no celestial coordinates")
    return header, _beam(path, header)


def _beam(path: Path, header: Header) -> Beam:
    values = [header.get(keyword) for keyword in ("BMAJ", "BMIN", "BPA")]
    for keyword, value in zip(("BMAJ", "BMIN"), values, strict=False):
        if not isinstance(value, int | float) or not np.isfinite(value) or value <= 0:
            raise BadDataError(f"{path}: {keyword} is {value}; an image in Jy/beam needs a positive beam in degrees")
    angle = values[2] if isinstance(values[2], int | float) and np.isfinite(values[2]) else 0.0
    return Beam(float(values[0]), float(values[1]), float(angle))
