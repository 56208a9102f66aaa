"""The objects that the analysts' archive returns: images, measurement sets and calibration, each with its product id."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from dsa110_assets.errors import BadDataError, NotFoundError, SilentWrongnessError, WaitingError
from dsa110_assets.telescope import earth

if TYPE_CHECKING:
    from astropy import units as u
    from astropy.io.fits import Header
    from astropy.nddata import CCDData
    from astropy.wcs import WCS
    from matplotlib.axes import Axes
    from pyuvdata import UVData

    from dsa110_assets.archive.product import Product
    from dsa110_assets.archive.store import Archive

MAIN_IMAGES = ("image.fits", "mosaic.fits")
"""The file names of the main image: an image product has one of them."""
MAD_TO_SIGMA = 1.482602218505602  # 1 / Φ⁻¹(3/4): a normal's sd over its median absolute deviation


@dataclass(frozen=True)
class Beam:
    """The restoring beam: full widths at half maximum, and position angle (north through east)."""

    major: u.Quantity
    minor: u.Quantity
    pa: u.Quantity

    def __str__(self) -> str:
        return f"{self.major.to('arcsec'):.1f} × {self.minor.to('arcsec'):.1f} at {self.pa.to('deg'):.0f}"


@dataclass(frozen=True)
class Image:
    """A FITS image of a published product, read when first used.

    `.data` (ny, nx) is float in `.unit` (Jy/beam), row 0 in the south; NaN where there are no data. For a
    5-minute image it is the flat-noise image; `.pbcor` is corrected for the primary beam, as mosaics are.
    Reading raises BadDataError for a file that is not an image, or one without a finite pixel.
    """

    product_id: str
    path: Path
    metadata: dict[str, Any]

    @classmethod
    def of(cls, product: Product) -> Image:
        """The main image of an image product. Raises SilentWrongnessError if its file is gone."""
        path = next((path for name in MAIN_IMAGES if (path := Path(product.path) / name).is_file()), None)
        if path is None:
            raise SilentWrongnessError(f"{product.id} is indexed but {product.path} holds no image; run: dsa110 archive verify")
        return cls(product.id, path, dict(product.metadata))

    @cached_property
    def _hdu(self) -> tuple[NDArray[np.floating[Any]], Header]:
        from dsa110_assets.imaging import fits

        return fits.read_plane(self.path)

    @property
    def data(self) -> NDArray[np.floating[Any]]:
        """Pixels (ny, nx) in `.unit`."""
        return self._hdu[0]

    @property
    def header(self) -> Header:
        """The FITS header."""
        return self._hdu[1]

    @property
    def unit(self) -> u.UnitBase:
        """The pixels' unit, from BUNIT."""
        from astropy import units as u

        return u.Unit(self.header.get("BUNIT", "Jy/beam"), format="fits")

    @cached_property
    def wcs(self) -> WCS:
        """The celestial coordinates of the pixels."""
        from astropy.wcs import WCS

        return WCS(self.header).celestial

    @property
    def beam(self) -> Beam | None:
        """The restoring beam; None if the header records none. Raises BadDataError for one without an area."""
        from astropy import units as u

        if "BMAJ" not in self.header:
            return None
        axes = [self.header.get(key) for key in ("BMAJ", "BMIN")]
        if not all(isinstance(value, float) and value > 0 for value in axes):
            raise BadDataError(f"{self.path}: BMAJ and BMIN are {axes} deg, which is not a beam; make {self.product_id} again")
        return Beam(*((self.header[key] * u.deg) for key in ("BMAJ", "BMIN", "BPA")))

    @property
    def rms(self) -> u.Quantity:
        """The noise: as measured when the image was made, else the median of its noise map, else from the pixels' MAD."""
        recorded = self.metadata.get("rms_jy")
        if recorded is None:
            noise = self.companion("noise.fits")
            pixels = self.data - np.nanmedian(self.data) if noise is None else noise
            recorded = np.nanmedian(np.abs(pixels)) * (MAD_TO_SIGMA if noise is None else 1.0)
        return float(recorded) * self.unit

    @property
    def pbcor(self) -> NDArray[np.floating[Any]]:
        """The pixels corrected for the primary beam; NaN beyond its limit."""
        corrected = self.companion("image-pb.fits")
        return self.data if corrected is None else corrected

    @property
    def noise(self) -> NDArray[np.floating[Any]] | None:
        """The noise map of a mosaic in `.unit`; None for a 5-minute image."""
        return self.companion("noise.fits")

    def companion(self, name: str) -> NDArray[np.floating[Any]] | None:
        """Another image of the same product, such as `residual.fits`; None if there is none with that name."""
        from dsa110_assets.imaging import fits

        path = self.path.parent / name
        if Path(name).name != name or not path.is_file():
            return None
        return fits.read_plane(path)[0]

    def to_ccddata(self) -> CCDData:
        """The image as CCDData: unit, WCS, header, the noise as uncertainty and NaN pixels masked."""
        from astropy.nddata import CCDData, StdDevUncertainty

        noise = self.noise
        sigma = np.full(self.data.shape, self.rms.to_value(self.unit)) if noise is None else noise
        return CCDData(
            self.data, unit=self.unit, wcs=self.wcs, meta={**self.header, "product_id": self.product_id},
            uncertainty=StdDevUncertainty(sigma), mask=~np.isfinite(self.data),
        )  # fmt: skip

    def plot(self, ax: Axes | None = None, **options: Any) -> Axes:
        """Draw the image on sky coordinates (greys, −3 to 12 rms); returns the axes. Options go to imshow."""
        import matplotlib.pyplot as plt

        if ax is None:
            ax = plt.figure(figsize=(7, 6)).add_subplot(projection=self.wcs)
        sigma = self.rms.value
        shown = ax.imshow(self.data, origin="lower", **{"cmap": "gray_r", "vmin": -3 * sigma, "vmax": 12 * sigma, **options})
        ax.set(xlabel="Right ascension (ICRS)", ylabel="Declination (ICRS)", title=self.product_id)
        ax.figure.colorbar(shown, ax=ax, label=f"Flux density [{self.unit}]")
        return ax

    def __repr__(self) -> str:
        return f"<Image {self.product_id} {self.path}>"


@dataclass(frozen=True)
class Visibility:
    """A published measurement set. It is immutable: copy it before writing into it."""

    product_id: str
    path: Path
    metadata: dict[str, Any]

    @classmethod
    def of(cls, product: Product) -> Visibility:
        """The measurement set of a product. Raises SilentWrongnessError if it is gone."""
        found = sorted(Path(product.path).glob("*.ms"))
        if len(found) != 1:
            raise SilentWrongnessError(f"{product.id} holds {len(found)} measurement sets instead of one; run: dsa110 archive verify")
        return cls(product.id, found[0], dict(product.metadata))

    def to_uvdata(self) -> UVData:
        """The visibilities as a pyuvdata object; for times after the installed IERS bulletins end, their last day applies."""
        from pyuvdata import UVData

        with earth.bulletins_as_installed():
            return UVData.from_file(str(self.path), file_type="ms")


def calibration_at(store: Archive, mjd: float) -> Calibration:
    """The set with which an observation taken at `mjd` would be calibrated now, by the rules and settings of the pipeline.

    Raises NotFoundError, which says why and lists the existing sets, if it would have to wait.
    """
    from dsa110_assets import settings
    from dsa110_assets.archive import caltable_registry
    from dsa110_assets.orchestration.calibrating import calibrators

    # settings require an inbox, but an analyst has none and it is never read
    configured = settings.load(archive=store.root, inbox=store.root.with_name(f"{store.root.name}-without-inbox"))
    try:
        choice = calibrators.in_force(store, configured, mjd)
    except WaitingError as error:
        known = caltable_registry.sets(store)
        existing = ", ".join(f"{entry.set_id} ({entry.status}, {entry.dec_deg:.2f} deg)" for entry in known[-6:])
        raise NotFoundError(f"{error}; there is {existing or 'no caltable set yet'}") from error
    nearest, *others = (
        Calibration(
            product_id=entry.set_id.partition("/")[0], set_id=entry.set_id, paths=entry.paths, calibrator=entry.calibrator,
            anchor=entry.anchor, mid_mjd=entry.mid_mjd, at_mjd=mjd, status=entry.status, weight=weight,
        )
        for entry, weight in zip(choice.sets, choice.weights, strict=True)
    )  # fmt: skip
    return replace(nearest, across=others[0] if others else None)


@dataclass(frozen=True)
class Calibration:
    """The calibration tables in force at a time, in CASA's format (`.paths`), and how they were chosen.

    Where gains are interpolated between two sets, this is the nearer one, with its `weight`, and `across` the other.
    """

    product_id: str
    set_id: str
    paths: tuple[Path, ...]
    calibrator: str
    anchor: str
    mid_mjd: float
    at_mjd: float
    status: str
    weight: float = 1.0
    across: Calibration | None = None

    @property
    def sets(self) -> tuple[Calibration, ...]:
        """All sets in force, the nearest first."""
        return (self, self.across) if self.across else (self,)

    @property
    def age(self) -> u.Quantity:
        """The time from the calibrator's transit to the requested time; negative before the transit."""
        from astropy import units as u

        return (24 * (self.at_mjd - self.mid_mjd)) * u.hour

    def gains(self) -> tuple[Any, ...]:
        """The solutions of every table as `calibration.gains.Gains`, in the order of `.paths`."""
        from dsa110_assets.calibration import caltables

        return tuple(caltables.read(path) for path in self.paths)
