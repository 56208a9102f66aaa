"""Stock CASA tclean as a second imager, with the options and results of `imaging.tile.make_tile`.

Weights, image geometry, primary beam and figures are our own; dirty image, dirty beam, CLEAN, restoring beam
and restored image are CASA's (gridder wproject, Hogbom CLEAN). tclean does not account for the sky drifting
through the beam, and neither does its deconvolution.
"""

from __future__ import annotations

import math
import shutil
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import casacore.images
import numpy as np
from numpy.typing import NDArray

from dsa110_assets.engines import casa
from dsa110_assets.errors import BadDataError
from dsa110_assets.imaging.attenuation import attenuation
from dsa110_assets.imaging.geometry import choose_pixels, tile_header
from dsa110_assets.imaging.options import ImagingOptions
from dsa110_assets.imaging.reference import reference_figures
from dsa110_assets.imaging.restoring import Beam
from dsa110_assets.imaging.statistics import robust_rms
from dsa110_assets.imaging.stokes import stokes_i
from dsa110_assets.imaging.tile import TileImage, tile_figures
from dsa110_assets.imaging.weighting import imaging_weights
from dsa110_assets.visibilities import measurement_set

if TYPE_CHECKING:
    from dsa110_assets.sky.model import SkyModel

_STANDARD_GRIDDER_DEG = 0.25
"""For fields with sides below this, w-terms change the phase by less than 0.1 rad even on the longest baseline, so that no
w-projection is needed."""
_UNMASKED_SIGMA = 3.0
"""tclean runs without a mask here and must not clean deeper than this, because it would clean noise."""


def make_tile(ms_path: Path, options: ImagingOptions, sky: SkyModel | None = None, *, work_dir: Path) -> TileImage:
    """The same as `tile.make_tile` on the data of a measurement set, by CASA tclean.

    CASA works on a copy below `work_dir`, which is removed afterwards, because it would write into the set. Raises BadDataError
    with CASA's log if tclean fails, and the errors of `make_tile`.
    """
    started = time.monotonic()
    vis = measurement_set.read(ms_path)
    stokes = stokes_i(vis)
    weighted = imaging_weights(stokes, options.weighting, options.robust, math.radians(options.field_deg), options.min_uv_lambda)
    n_pixels, pixel_rad = choose_pixels(weighted, options)
    work_dir.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".tclean-", dir=work_dir) as scratch_name:
        scratch = Path(scratch_name).resolve()
        shutil.copytree(ms_path, scratch / "tile.ms")
        returned = casa.run_task("tclean", _parameters(options, scratch, n_pixels, pixel_rad), work_dir=scratch)
        images = {name: _plane(scratch / f"tile.{name}") for name in ("image", "residual", "psf", "model")}
        beam = _restoring_beam(scratch / "tile.image")
    by_time_channel = stokes.spread(weighted.weights)
    header = tile_header(vis, n_pixels, pixel_rad, beam, by_time_channel)
    rms_jy = robust_rms(images["residual"])
    header["PBLIMIT"] = (options.pblimit, "PB response below which pbcor is blank")
    header["RMS"] = (rms_jy, "[Jy/beam] robust, before PB correction")
    tile = TileImage(
        image=images["image"],
        residual=images["residual"],
        psf=images["psf"],
        model=images["model"],
        primary_beam=attenuation(vis, by_time_channel, header, n_pixels).mean,
        header=header,
        beam=beam,
        rms_jy=rms_jy,
        pblimit=options.pblimit,
        figures={
            "major_cycles": float(returned.get("nmajordone", 0)),
            "minor_iterations": float(returned.get("iterdone", 0)),
            "points": 0.0,
            "field_deg": n_pixels * math.degrees(pixel_rad),
        },
    )
    tile.figures.update(tile_figures(tile, vis, stokes, weighted))
    if sky is not None:
        tile.figures.update(reference_figures(tile.image, tile.primary_beam, header, rms_jy, sky))
    tile.figures["seconds"] = time.monotonic() - started
    return tile


def _parameters(options: ImagingOptions, scratch: Path, n_pixels: int, pixel_rad: float) -> dict[str, Any]:
    """tclean's parameters for `options`."""
    small = options.field_deg < _STANDARD_GRIDDER_DEG
    return {
        "vis": str(scratch / "tile.ms"),
        "imagename": str(scratch / "tile"),
        "datacolumn": "data",
        # cross-correlations only: autocorrelations at the origin would count in CASA's Briggs density
        "antenna": "*&*",
        "imsize": [n_pixels, n_pixels],
        "cell": [f"{math.degrees(pixel_rad) * 3600:.9f}arcsec"],
        "stokes": "I",
        "specmode": "mfs",
        "gridder": "standard" if small else "wproject",
        "wprojplanes": 1 if small else -1,
        "pblimit": -1e-3,  # negative: no masking by CASA's own beam
        "deconvolver": "hogbom",
        "weighting": options.weighting,
        "robust": options.robust,
        "uvrange": f">{options.min_uv_lambda:g}lambda" if options.min_uv_lambda else "",
        "niter": options.clean_iterations,
        "gain": options.clean_gain,
        "cyclefactor": 1.0,
        "nmajor": -1,  # no limit: CASA's cycles are shorter than ours, so our number of cycles does not apply
        "threshold": f"{options.threshold_jy:.9f}Jy",
        "nsigma": max(options.auto_threshold_sigma, _UNMASKED_SIGMA),
        "restoration": True,
        "interactive": False,
        "fullsummary": False,
        "calcpsf": True,
    }


def _plane(path: Path) -> NDArray[np.float32]:
    """The only plane of a CASA image, (ny, nx) float32 with x towards west, as in FITS."""
    if not path.is_dir():
        raise BadDataError(f"CASA tclean wrote no {path.name}; nothing could be imaged")
    image = casacore.images.image(str(path))
    return np.ascontiguousarray(image.getdata()[0, 0], dtype=np.float32)


def _restoring_beam(path: Path) -> Beam:
    entries = casacore.images.image(str(path)).info()["imageinfo"]["restoringbeam"]
    degrees = {"arcsec": 1 / 3600, "deg": 1.0, "rad": math.degrees(1.0)}
    major, minor, angle = (float(entries[name]["value"]) * degrees[entries[name]["unit"]] for name in ("major", "minor", "positionangle"))
    return Beam(major, minor, angle)
