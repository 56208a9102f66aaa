"""False share and completeness of blind detections near bright sources, on simulated skies of several seeds.

The sky has thermal noise, the random population and one source of 8 to 20 Jy whose spectral index differs from the one that
CLEAN assumes, observed with 24 antennas. One tile is coadded and searched as in the platform, once with the simulation's
catalogue as the sky model and once with the packaged calibrators alone. All this is done with equal gains, and with the
simulator's ordinary gains, solved on 3C138's transit five minutes earlier and compared with the sky of the same model.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from common import Contender, Data, Row, compare

SKIES = ((21, 8.0, 0.2), (22, 12.0, -1.2), (23, 20.0, -0.3))
"""Seed, flux [Jy at 1.4 GHz] and spectral index of the bright source."""
OFFSET_DEG = (0.25, 0.3)
"""Offsets of the bright source east and north of the pointing at mid-group."""
EDGES = (3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 10.0, 15.0, 1e9)
"""Edges of the bins of true flux over local noise."""
FAINTEST_JY = 0.006
"""Faintest source of the random population: 4 times the noise of these tiles where they are deepest."""
START = "2026-01-26T04:50:00"


def rows(data: Data, repeats: int) -> list[Row]:
    plot = str(Path(__file__).with_suffix(".png"))
    remark = "24 antennas, 6 tiles"
    return compare(
        [
            Contender("blind detections", "dsa110_assets", searched, {"plot": plot}, remark, limit_s=3600),
            Contender("blind detections, gains solved", "dsa110_assets", searched, {"solve": True}, remark, limit_s=3600),
        ],
        1,
    )


def searched(plot: str | None = None, solve: bool = False) -> dict[str, Any]:
    """False detections and completeness of all skies, each with and without a catalogue. A plot is saved to `plot`."""
    import numpy as np

    snr, hit, found, false = [], [], 0, 0
    with tempfile.TemporaryDirectory(prefix="dsa110-detection-") as place:
        for seed, flux_jy, index in SKIES:
            folder = Path(place) / str(seed)
            vis = None if solve else observed(folder, seed, flux_jy, index)
            for catalogue in (True, False):
                one = detections(vis or calibrated(folder, seed, flux_jy, index, catalogue), folder, catalogue)
                snr.append(one["snr"])
                hit.append(one["hit"])
                found, false = found + one["found"], false + one["false"]
    bins = completeness(np.concatenate(snr), np.concatenate(hit), EDGES)
    if plot:
        save_plot(bins, plot)
    shares = {f"complete at {low:g} to {high:g} sigma": share for low, high, n, share in bins if n and 5 <= low < 10}
    return {"detections": float(found), "false": float(false), "false share": false / max(found, 1), **shares}


def observed(folder: Path, seed: int, flux_jy: float, index: float) -> Any:
    """Visibilities of one simulated sky, with one phase centre. Leaves truth.json and catalogue.csv in `folder`."""
    from dsa110_assets.simulator.options import perfect
    from dsa110_assets.simulator.simulate import simulate
    from dsa110_assets.visibilities import grouping, phasing, reader, uvh5

    bright = beside_pointing(START, flux_jy, index)
    folder.mkdir(parents=True)
    sky: dict[str, Any] = {"population": True, "flux_min_jy": FAINTEST_JY, "fixed_sources": (bright,)}
    simulate(folder, perfect(start=START, groups=1, seed=seed, noise_scale=1.0, **sky))
    headers = [uvh5.read_header(path) for path in sorted(folder.glob("*.hdf5"))]
    (group,) = grouping.group_headers(headers)
    return phasing.to_common_centre(reader.read_group({s: h.path for s, h in group.files.items()}, 16))


def beside_pointing(start: str, flux_jy: float, index: float) -> Any:
    """The bright source, OFFSET_DEG from the mid-group pointing of the group that begins at `start`."""
    from datetime import UTC, datetime

    import numpy as np

    from dsa110_assets.simulator.options import FixedSource
    from dsa110_assets.telescope import astrometry, timegrid

    middle = timegrid.datetime_to_mjd(datetime.fromisoformat(start).replace(tzinfo=UTC)) + timegrid.GROUP_S / 2 / 86400
    ra, dec = np.rad2deg(astrometry.meridian_icrs_rad([middle], np.deg2rad(16.27))[0])
    return FixedSource("bright", ra + OFFSET_DEG[0] / np.cos(np.deg2rad(dec)), dec + OFFSET_DEG[1], flux_jy, index)


def calibrated(folder: Path, seed: int, flux_jy: float, index: float, catalogue: bool) -> Any:
    """As `observed`, but with gains, which are solved and compared with the sky. The sky is the simulation's catalogue, or the
    packaged calibrators without `catalogue`.
    """
    from dsa110_assets.calibration import calibrated as calibration
    from dsa110_assets.calibration.epoch_options import EpochOptions
    from dsa110_assets.imaging.search import bright_sources
    from dsa110_assets.sky import catalogues, model
    from dsa110_assets.visibilities import measurement_set
    from dsa110_assets_tests.end_to_end import later_observation as later

    scale = {**later.SMALL, "seed": seed, "flux_min_jy": FAINTEST_JY, "fixed_sources": (beside_pointing(later.LATER, flux_jy, index),)}
    place = folder / ("listed" if catalogue else "unlisted")
    (place / "transit").mkdir(parents=True)
    (place / "later").mkdir()
    known = None if catalogue else model.from_frame(catalogues.builtin())
    solution, sky = later.solved(place / "transit", scale=scale, known=known)
    raw, _ = later.observation(place / "later", later.LATER, (), scale)
    for name in ("truth.json", "catalogue.csv"):
        (folder / name).write_bytes((place / "later" / "in" / name).read_bytes())
    against = calibration.SkyComparison(sky, EpochOptions(), bright_sources)
    calibration.calibrate_set(raw, solution.tables, place / "calibrated.ms", against=against)
    return measurement_set.read(place / "calibrated.ms")


def detections(vis: Any, folder: Path, catalogue: bool) -> dict[str, Any]:
    """Tile, mosaic and blind search of one sky.

    Returns `found` and `false` (int), `snr` (true flux over local noise) and `hit` (n,) of the true sources expected above
    3 sigma, and the `table` of false detections.
    """
    import json

    import numpy as np
    from astropy.wcs import WCS

    from dsa110_assets.imaging import fits
    from dsa110_assets.imaging.options import ImagingOptions
    from dsa110_assets.imaging.tile import make_tile
    from dsa110_assets.mosaics.coadd import TileInput, coadd
    from dsa110_assets.photometry.blind import find_in_scene
    from dsa110_assets.photometry.forced import local_rms, prepare
    from dsa110_assets.photometry.options import PhotometryOptions
    from dsa110_assets.sky import catalogues, model

    listed = catalogues.read_catalogue(folder / "catalogue.csv") if catalogue else catalogues.builtin()
    tile = make_tile(vis, ImagingOptions(), model.from_frame(listed[listed["flux_jy"] > 0]))
    with tempfile.TemporaryDirectory(dir=folder) as place:
        fits.write_tile(tile, Path(place))
        one = TileInput(Path(place) / "image.fits", Path(place) / "primary-beam.fits", tile.rms_jy, "tile", vis.mid_mjd)
        mosaic = coadd([one])
    options = PhotometryOptions()
    scene = prepare(mosaic.image, mosaic.noise, mosaic.header, options)
    found = find_in_scene(scene, options)
    sources = json.loads((folder / "truth.json").read_text())["sources"]
    ra, dec, flux, index = (np.array([s[k] for s in sources]) for k in ("ra_deg", "dec_deg", "flux_jy", "spectral_index"))
    flux = flux * (mosaic.header["RESTFRQ"] / 1.4e9) ** index
    x, y = WCS(mosaic.header).celestial.wcs_world2pix(ra, dec, 0)
    inside = np.isfinite(x) & np.isfinite(y)
    _, rms = local_rms(scene, np.where(inside, x, -1.0), np.where(inside, y, -1.0))
    apart = separations_deg(found["ra_deg"].to_numpy(), found["dec_deg"].to_numpy(), ra, dec)
    near = apart < mosaic.header["BMAJ"]
    expected = inside & (flux > EDGES[0] * rms)  # false for NaN: no data there
    return {
        "found": len(found), "false": int((~near.any(axis=1)).sum()), "snr": (flux / rms)[expected],
        "hit": near.any(axis=0)[expected], "table": found[~near.any(axis=1)],
    }  # fmt: skip


def separations_deg(ra: Any, dec: Any, true_ra: Any, true_dec: Any) -> Any:
    """(found, true) separations [deg] in the flat-sky approximation about each true source."""
    import numpy as np

    east = (ra[:, None] - true_ra + 180) % 360 - 180
    return np.hypot(east * np.cos(np.deg2rad(true_dec)), dec[:, None] - true_dec)


def completeness(snr: Any, hit: Any, edges: Sequence[float]) -> list[tuple[float, float, int, float]]:
    """(low, high, number of true sources, share found) of each bin of true flux over noise. The share of an empty bin is NaN."""
    import numpy as np

    out = []
    for low, high in pairwise(edges):
        there = (snr >= low) & (snr < high)
        out.append((low, high, int(there.sum()), float(hit[there].mean()) if there.any() else float(np.nan)))
    return out


def save_plot(bins: Sequence[tuple[float, float, int, float]], path: str) -> None:
    """Plot completeness against true flux over local noise with binomial errors, and the curve of a 5 sigma cut in Gaussian noise."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt
    import numpy as np
    from scipy.stats import norm

    low, high, number, share = (np.array(column, float) for column in zip(*bins, strict=True))
    middle = np.where(high < 1e6, (low + high) / 2, 1.2 * low)
    figure, axes = plt.subplots(figsize=(6, 4), layout="constrained")
    axes.errorbar(middle, share, np.sqrt(share * (1 - share) / np.maximum(number, 1)), fmt="o", label="found")
    fine = np.linspace(3, 18, 200)
    axes.plot(fine, norm.cdf(fine - 5), color="tab:grey", label="5 sigma in Gaussian noise")
    axes.set(xlabel="true flux / local noise", ylabel="share found", ylim=(-0.02, 1.05))
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(path, dpi=110)
    plt.close(figure)
