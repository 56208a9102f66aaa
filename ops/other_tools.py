"""Open an archive's products with PyBDSF, Aegean and xradio. Run by ops/other-tools, in an environment that lacks this package."""

from __future__ import annotations

import math
import subprocess
import sys
import tempfile
from collections.abc import Callable
from contextlib import redirect_stdout
from importlib.metadata import version
from pathlib import Path
from typing import Any

from astropy.io import fits

FLUX_TOLERANCE = 0.1
"""Relative tolerance of the brightest source's flux. Source finders fit a shape; the expected value is that of the highest pixel."""


def newest(archive: Path, asset: str, partition: str = "*") -> Path:
    """The directory of the newest product of an asset."""
    found = sorted(archive.glob(f"{asset}/night=*/partition={partition}/v*/product.json"))
    if not found:
        raise SystemExit(f"{archive} holds no {asset} of {partition}: name an archive that `dsa110 process` has filled")
    return found[-1].parent


def brightest(image: Path) -> float:
    """The highest pixel [Jy/beam]."""
    import numpy as np

    return float(np.nanmax(fits.getdata(image)))


def agrees(value: float, expected: float) -> str:
    return "" if math.isclose(value, expected, rel_tol=FLUX_TOLERANCE) else f"fault: {value:.4g} Jy where the image has {expected:.4g}"


def pybdsf(image: Path, scratch: Path) -> tuple[str, str]:
    """Run PyBDSF, which takes frequency and beam from the header alone, and check frequency and brightest source."""
    import bdsf

    local = scratch / image.name  # because PyBDSF writes its log beside the image
    local.write_bytes(image.read_bytes())
    found = bdsf.process_image(str(local), quiet=True, ncores=1, rms_box=(150, 50))
    header = fits.getheader(image)
    fluxes = [float(source.peak_flux_max) for source in found.sources]
    fault = "" if found.frequency == header["CRVAL3"] else f"fault: frequency {found.frequency}"
    said = f"{found.frequency / 1e6:.2f} MHz, {found.nsrc} sources, brightest {max(fluxes):.4g} Jy/beam"
    return said, fault or agrees(max(fluxes), brightest(image))


def aegean(image: Path, scratch: Path) -> tuple[str, str]:
    """Run Aegean's command and check the brightest source. A mosaic is searched with its own noise map."""
    from astropy.table import Table

    noise = image.with_name("noise.fits")
    known = ["--noise", str(noise)] if noise.exists() else []
    command = [str(Path(sys.executable).parent / "aegean"), "--cores", "1", "--seedclip", "8", "--table", str(scratch / "aegean.fits")]
    done = subprocess.run([*command, *known, str(image)], capture_output=True, text=True, timeout=1200)
    table = scratch / "aegean_comp.fits"
    if done.returncode or not table.exists():
        return "", f"fault: {done.stderr.strip().splitlines()[-1:]}"
    found = Table.read(table)
    peak = float(max(found["peak_flux"]))
    return f"{len(found)} components, brightest {peak:.4g} Jy/beam", agrees(peak, brightest(image))


def xradio_image(image: Path, scratch: Path) -> tuple[str, str]:
    """Open an image with xradio and check its frequency and Stokes coordinates."""
    from xradio.image import open_image

    found = open_image(str(image))
    frequency, stokes = float(found.frequency[0]), str(found.polarization.values[0])
    right = frequency == fits.getheader(image)["CRVAL3"] and stokes == "I"
    return (
        f"{frequency / 1e6:.2f} MHz, Stokes {stokes}, {found.sizes['l']} x {found.sizes['m']}",
        "" if right else "fault: not the header's",
    )


def xradio_visibilities(ms: Path, scratch: Path) -> tuple[str, str]:
    """Convert a measurement set to a processing set with xradio, open it, and check its polarizations."""
    from xradio.measurement_set import convert_msv2_to_processing_set, open_processing_set

    convert_msv2_to_processing_set(in_file=str(ms), out_file=str(scratch / "xradio"))
    (written,) = scratch.glob("xradio*")
    (one,) = open_processing_set(str(written)).values()
    sizes = {name: one.sizes[name] for name in ("time", "baseline_id", "frequency", "polarization")}
    return ", ".join(f"{size} {name}" for name, size in sizes.items()), "" if one.sizes["polarization"] == 2 else "fault: not XX and YY"


def main(archive: Path, partition: str) -> int:
    tile, night = newest(archive, "tile_image", partition), newest(archive, "night_mosaic")
    (ms,) = newest(archive, "calibrated_ms", tile.parent.name.removeprefix("partition=")).glob("*.ms")
    tries: list[tuple[str, str, Callable[[Path, Path], tuple[str, str]], Path]] = [
        ("bdsf", "PyBDSF", pybdsf, tile / "image.fits"),
        ("bdsf", "PyBDSF", pybdsf, night / "mosaic.fits"),
        ("AegeanTools", "Aegean", aegean, tile / "image.fits"),
        ("AegeanTools", "Aegean", aegean, night / "mosaic.fits"),
        ("xradio", "xradio", xradio_image, tile / "image.fits"),
        ("xradio", "xradio", xradio_image, night / "mosaic.fits"),
        ("xradio", "xradio", xradio_visibilities, ms),
    ]
    faults = 0
    print("| tool | product | found | |\n|---|---|---|---|")
    for package, name, attempt, product in tries:
        with tempfile.TemporaryDirectory() as scratch:
            said, fault = _tried(attempt, product, Path(scratch))
        faults += bool(fault)
        asset = product.relative_to(archive).parts[0]
        print(f"| {name} {version(package)} | `{asset}`: {product.name} | {said} | {fault or 'right'} |", flush=True)
    return int(faults > 0)


def _tried(attempt: Callable[[Path, Path], tuple[str, str]], product: Path, scratch: Path) -> tuple[str, Any]:
    try:
        with redirect_stdout(sys.stderr):  # so that what a tool logs does not become part of the table
            return attempt(product, scratch)
    except Exception as error:  # noqa: BLE001  another tool's boundary: whatever it raises is its answer
        return "", f"fault: {type(error).__name__}: {error}"


if __name__ == "__main__":
    raise SystemExit(main(Path(sys.argv[1]).resolve(), sys.argv[2] if len(sys.argv) > 2 else "*"))
