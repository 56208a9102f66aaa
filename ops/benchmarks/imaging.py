"""A cleaned 4 degree image of a calibrated full-scale observation: our engine compared with WSClean and CASA tclean.

All engines use the same measurement set (channels averaged by four), pixels, weighting and restoring beam, and no mask. They clean
with robust 0.5 and natural weights down to five times the residual rms of our engine. WSClean stops after 4,000 components: its
next minor cycle, from about 5 mJy, diverges on these data, with any -mgain from 0.5 to 0.9 and with pixels of half the size. tclean
is ended after five minutes, and runs once more with 4,000 components to measure its accuracy.
Accuracy is measured on the 20 brightest isolated sources within the half-power beam: flux over truth (median and worst deviation,
with and without the noise at the source), distance from the true position in minor axes of the beam, and rms of the residual.
"""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import derived
from common import Contender, Data, Row, compare, run

SIGMA, GAIN, ITERATIONS = 5.0, 0.1, 50_000
WSCLEANS_GAIN, WSCLEANS_ITERATIONS = 0.5, 4_000
TCLEANS_S = 300.0
"""More than twelve times what our engine needs."""
WEIGHTINGS = {"robust 0.5": {"weighting": "briggs", "robust": 0.5}, "natural": {"weighting": "natural"}}
SOURCES = 20


def rows(data: Data, repeats: int) -> list[Row]:
    given = {"ms": str(derived.raw_set(data)), "sky": str(derived.sky_model(data))}
    ms = str(derived.once(data.scratch / "calibrated-4.ms", calibrated, **given))
    return [row for name, weights in WEIGHTINGS.items() for row in weighted(data, name, weights, ms, repeats)]


def weighted(data: Data, name: str, weights: dict[str, Any], ms: str, repeats: int) -> list[Row]:
    """Rows of all engines with one weighting. A first image of our engine sets the pixels and the beam for all."""
    places = {engine: str(data.scratch / f"image-{engine}-{weights['weighting']}") for engine in ("own", "default", "wsclean", "tclean")}
    call = {"ms": ms, "inbox": str(data.inbox)}
    ours = {**call, "sky": str(derived.sky_model(data))}
    plan = run(own, {**ours, "out": places["own"], "options": weights})[3]
    geometry = {
        "n_pixels": int(plan["pixels"]), "pixel_arcsec": plan["pixel arcsec"], "beam": [plan[f"beam {axis}"] for axis in "abc"],
        "depth_jy": 1e-3 * plan["depth mJy"],
    }  # fmt: skip
    stage = f"tile image, 4 degrees, {name}, to 5 sigma"
    contenders = [
        Contender(stage, "dsa110_assets", own, {**ours, "out": places["own"], "options": weights},
                  "whole process, outliers taken out, FITS written", inputs=(ms,)),
        Contender(stage, "WSClean", wsclean, {**call, "out": places["wsclean"], "weights": weights, **geometry},
                  "wgridder, 4,000 components", peer=True, most=2, inputs=(ms,)),
    ]  # fmt: skip
    if name == "robust 0.5":
        deeper = {**weights, "auto_mask_sigma": 5.0, "auto_threshold_sigma": 1.0}
        contenders += [
            Contender(stage, "CASA tclean", tclean, {**call, "out": places["tclean"], "weights": weights, **geometry},
                      "wproject, Hogbom; set copied beforehand is not counted", peer=True, most=1, limit_s=TCLEANS_S),
            Contender(f"tile image, {name}, {WSCLEANS_ITERATIONS:,} components", "CASA tclean", tclean,
                      {**call, "out": f"{places['tclean']}-shallow", "weights": weights, "niter": WSCLEANS_ITERATIONS, **geometry},
                      "as deep as WSClean, for its accuracy", peer=True, most=1),
            Contender(f"tile image as the platform makes it, {name}", "dsa110_assets", own,
                      {**ours, "out": places["default"], "options": deeper}, "mask at 5 sigma, on to 1 sigma within it", inputs=(ms,)),
        ]  # fmt: skip
    measured = compare(contenders, repeats)
    noise = str(data.scratch / f"image-noise-{weights['weighting']}")
    run(own, {**call, "out": noise, "options": {**weights, "clean_iterations": 0}})
    truth = {"inbox": str(data.inbox), "pb": f"{places['own']}/primary-beam.fits", "noise": noise}
    return [
        row if row.failed else replace(row, accuracy={**row.accuracy, **run(judged, {**truth, "folder": made.arguments["out"]})[3]})
        for row, made in zip(measured, contenders, strict=True)
    ]


def calibrated(ms: str, sky: str, out: str) -> dict[str, Any]:
    """Solve on the transit, apply, average four channels and phase to one centre, as calibrated_ms does."""
    from dsa110_assets.calibration import apply, night
    from dsa110_assets.calibration.options import SolveOptions
    from dsa110_assets.sky.model import read as read_sky
    from dsa110_assets.visibilities import averaging, measurement_set, phasing

    vis = measurement_set.read(Path(ms))
    solution = night.calibrate_transit(vis, read_sky(Path(sky)), derived.transit_in(vis), SolveOptions())
    vis = averaging.average(apply.apply(vis, solution.tables), 4)
    measurement_set.write(phasing.to_common_centre(vis), Path(out))
    return {}


def own(ms: str, inbox: str, out: str, options: dict[str, Any], sky: str = "") -> dict[str, Any]:
    """Image with our engine. Without a sky model the true sky is subtracted first, so that the image shows only noise and
    calibration errors.
    """
    import shutil

    from dsa110_assets.imaging import fits
    from dsa110_assets.imaging.options import ImagingOptions
    from dsa110_assets.imaging.tile import make_tile
    from dsa110_assets.sky.model import read as read_sky
    from dsa110_assets.visibilities import measurement_set

    shutil.rmtree(out, ignore_errors=True)
    Path(out).mkdir(parents=True)
    depth = {"auto_mask_sigma": 0.0, "auto_threshold_sigma": SIGMA, "clean_gain": GAIN, "clean_iterations": ITERATIONS}
    vis = measurement_set.mapped(Path(ms)) if sky else measurement_set.read(Path(ms))
    if not sky:
        from dsa110_assets.visibilities.predict import predict

        vis.data[...] -= predict(vis, true_sky(inbox))[..., None]
    tile = make_tile(vis, ImagingOptions(**{**depth, **options}), read_sky(Path(sky)) if sky else None)
    fits.write_tile(tile, Path(out))
    told = tile.figures
    return {
        "pixels": told["n_pixels"], "pixel arcsec": told["pixel_arcsec"], "beam a": told["beam_major_arcsec"],
        "beam b": told["beam_minor_arcsec"], "beam c": told["beam_pa_deg"], "major cycles": told["major_cycles"],
        "components": told["minor_iterations"], "radiometer mJy": 1e3 * told["radiometer_jy"],
        "depth mJy": 1e3 * SIGMA * told["rms_jy"],
        "samples gridded 1e6": told["samples_gridded"] / 1e6,
    }  # fmt: skip


def wsclean(
    ms: str, inbox: str, out: str, weights: dict[str, Any], n_pixels: int, pixel_arcsec: float, beam: list[float], depth_jy: float
) -> dict[str, Any]:
    import shutil
    import subprocess

    shutil.rmtree(out, ignore_errors=True)
    Path(out).mkdir(parents=True)
    scheme = ["briggs", str(weights["robust"])] if "robust" in weights else ["natural"]
    command = [
        "wsclean", "-name", f"{out}/image", "-size", str(n_pixels), str(n_pixels), "-scale", f"{pixel_arcsec}asec",
        "-weight", *scheme, "-use-wgridder", "-no-update-model-required", "-pol", "I", "-data-column", "DATA",
        "-niter", str(WSCLEANS_ITERATIONS), "-gain", str(GAIN), "-mgain", str(WSCLEANS_GAIN), "-threshold", str(depth_jy),
        "-beam-shape", f"{beam[0]}asec", f"{beam[1]}asec", f"{beam[2]}deg", "-no-dirty", ms,
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError((done.stdout + done.stderr)[-300:])
    Path(f"{out}/image-image.fits").rename(f"{out}/image.fits")
    Path(f"{out}/image-residual.fits").rename(f"{out}/residual.fits")
    return {}


def tclean(
    ms: str,
    inbox: str,
    out: str,
    weights: dict[str, Any],
    n_pixels: int,
    pixel_arcsec: float,
    beam: list[float],
    depth_jy: float,
    niter: int = ITERATIONS,
) -> dict[str, Any]:
    """Image with CASA tclean on a copy of the set, because CASA writes into it. `wall_s` is that of the CASA child alone."""
    import shutil
    import time

    from dsa110_assets.engines import casa

    shutil.rmtree(out, ignore_errors=True)
    Path(out).mkdir(parents=True)
    shutil.copytree(ms, f"{out}/tile.ms")
    parameters = {
        "vis": f"{out}/tile.ms", "imagename": f"{out}/tile", "datacolumn": "data", "antenna": "*&*", "imsize": [n_pixels, n_pixels],
        "cell": [f"{pixel_arcsec:.9f}arcsec"], "stokes": "I", "specmode": "mfs", "gridder": "wproject", "wprojplanes": 32,
        "pblimit": -1e-3, "deconvolver": "hogbom", "niter": niter, "gain": GAIN, "cyclefactor": 1.0, "nmajor": -1,
        "threshold": f"{depth_jy}Jy", "interactive": False, "fullsummary": False, "calcpsf": True,
        "restoringbeam": [f"{beam[0]}arcsec", f"{beam[1]}arcsec", f"{beam[2]}deg"], **weights,
    }  # fmt: skip
    began = time.perf_counter()
    casa.run_task("tclean", parameters, work_dir=Path(out), deadline_s=3500)
    took = time.perf_counter() - began
    for kind in ("image", "residual"):
        written = {"imagename": f"{out}/tile.{kind}", "fitsimage": f"{out}/{kind}.fits", "dropdeg": True}
        casa.run_task("exportfits", written, work_dir=Path(out))
    return {"wall_s": took}


def judged(folder: str, pb: str, inbox: str, noise: str) -> dict[str, Any]:
    """Fluxes, positions and residual rms of an image against the simulator's truth.

    Deviations "beyond noise" are those after subtracting the value at the peak of the image `noise`, made from the same data
    without the true sky. They are errors of the engine, which would occur with any other noise too.
    """
    import numpy as np
    from astropy.wcs import WCS
    from scipy.ndimage import map_coordinates

    from dsa110_assets.imaging.fits import read_image, read_plane
    from dsa110_assets.imaging.peaks import find_peaks
    from dsa110_assets.imaging.statistics import robust_rms

    image, dimming = read_image(Path(folder) / "image.fits"), read_image(Path(pb)).data
    rms = robust_rms(read_plane(Path(folder) / "residual.fits")[0])
    ra, dec, flux = true_sources(json.loads((Path(inbox) / "truth.json").read_text()), dimming_hz(pb))
    x, y = WCS(image.header).celestial.world_to_pixel_values(ra, dec)
    size = image.data.shape[0]
    here = np.isfinite(x) & np.isfinite(y)
    here[here] &= (np.minimum(x[here], y[here]) > 0) & (np.maximum(x[here], y[here]) < size - 1)
    x, y, flux = x[here], y[here], flux[here]
    response = dimming[np.rint(y).astype(int), np.rint(x).astype(int)]
    apparent, pixel_deg = flux * response, abs(image.header["CDELT2"])
    apart = np.hypot(x - x[:, None], y - y[:, None]) * pixel_deg
    crowded = ((apart < 3 * image.beam.bmaj_deg) & (apart > 0) & (apparent > 0.01 * apparent[:, None])).any(axis=1)
    chosen = [k for k in np.argsort(-apparent) if response[k] >= 0.5 and not crowded[k]][:SOURCES]
    peaks = find_peaks(image.data, 3 * rms)
    away = np.hypot(peaks.x - x[chosen, None], peaks.y - y[chosen, None])
    nearest = away.argmin(axis=1)
    ratio = peaks.value[nearest] / apparent[chosen]
    distance = away.min(axis=1) * pixel_deg / image.beam.bmin_deg
    of_noise = read_image(Path(noise) / "image.fits").data
    there = map_coordinates(of_noise, [peaks.y[nearest], peaks.x[nearest]], order=3) / apparent[chosen]
    worst = np.abs(ratio - 1).argmax()
    return {
        "residual rms mJy": 1e3 * rms, "flux ratio": float(np.median(ratio)), "worst flux off %": 100 * float(np.abs(ratio - 1).max()),
        "noise of that one %": 100 * float(robust_rms(of_noise) / apparent[chosen][worst]),
        "worst beyond noise %": 100 * float(np.abs(ratio - there - 1).max()), "position off, median beams": float(np.median(distance)),
        "faintest of 20 mJy": 1e3 * float(apparent[chosen].min()), "sources": float(len(chosen)),
        "beam arcsec": 3600 * math.sqrt(image.beam.bmaj_deg * image.beam.bmin_deg),
    }  # fmt: skip


def dimming_hz(pb: str) -> float:
    from dsa110_assets.imaging.fits import read_image

    return float(read_image(Path(pb)).header["RESTFRQ"])


def true_sky(inbox: str) -> Any:
    """All simulated sources with their fluxes of that night, variable ones included."""
    import numpy as np

    from dsa110_assets.sky.model import SkyModel

    sources = json.loads((Path(inbox) / "truth.json").read_text())["sources"]
    ra, dec, index = (np.array([s[name] for s in sources]) for name in ("ra_deg", "dec_deg", "spectral_index"))
    flux = np.array([s["light_curve"][0][1] if s["light_curve"] else s["flux_jy"] for s in sources])
    return SkyModel(tuple(s["name"] for s in sources), np.deg2rad(ra), np.deg2rad(dec), flux, index, 1.4e9)


def true_sources(truth: dict[str, Any], frequency_hz: float) -> tuple[Any, Any, Any]:
    """(ra [deg], dec [deg], flux [Jy] at the frequency) of the simulated sources that do not vary."""
    import numpy as np

    steady = [s for s in truth["sources"] if s["kind"] in ("constant", "calibrator")]
    ra, dec = (np.array([s[name] for s in steady]) for name in ("ra_deg", "dec_deg"))
    flux = np.array([s["flux_jy"] * (frequency_hz / 1.4e9) ** s["spectral_index"] for s in steady])
    return ra, dec, flux
