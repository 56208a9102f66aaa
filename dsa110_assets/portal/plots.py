"""Pictures drawn on the server: a light curve as SVG, an image on sky coordinates as PNG."""

from __future__ import annotations

import io
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from dsa110_assets.analyst_views import Image
from dsa110_assets.archive.product import Product
from dsa110_assets.portal.remembered import remembered

if TYPE_CHECKING:
    from astropy.timeseries import TimeSeries

_DRAWING = threading.Lock()  # matplotlib's font and text caches are not thread-safe
DETECTED, LIMIT = "#0b5fa5", "#8a5a00"
LONGEST_SIDE = 1000


def light_curve_svg(curve: TimeSeries) -> bytes:
    """Flux against UTC date with error bars, upper limits as downward arrows, and the weighted mean."""
    from matplotlib.figure import Figure

    times = curve.time.to_datetime()
    flux, error = curve["flux"].to_value("mJy"), curve["error"].to_value("mJy")
    limit, detected = curve["limit"].to_value("mJy"), np.asarray(curve["detected"])
    with _DRAWING:
        figure = Figure(figsize=(9, 4), layout="constrained")
        axes = figure.add_subplot()
        axes.errorbar(
            times[detected],
            flux[detected],
            error[detected],
            fmt="o",
            ms=5,
            capsize=2,
            color=DETECTED,
            label="detected",
        )
        if (~detected).any():
            axes.errorbar(
                times[~detected], limit[~detected], 0.15 * np.nanmedian(limit[~detected]),
                fmt="_", uplims=True,
                color=LIMIT, label="upper limit, 5 sigma",
            )  # fmt: skip
        good = detected & (error > 0)
        if good.sum() > 1:
            mean = np.average(flux[good], weights=error[good] ** -2)
            axes.axhline(mean, ls="--", lw=1, color="0.45", label=f"weighted mean {mean:.3g} mJy")
        axes.set(
            xlabel="Time (UTC)", ylabel="Flux density [mJy]",
            title=f"{curve.meta['source_id']}: {len(flux)} epochs, normalised to the ensemble",
        )  # fmt: skip
        axes.grid(alpha=0.3)
        if axes.get_legend_handles_labels()[0]:
            axes.legend(frameon=False)
        axes.tick_params(axis="x", rotation=20)
        return _bytes(figure, "svg")


def image_png(product: Product) -> bytes:
    """The main image of an image product on sky coordinates, −3 to 15 rms, with colour bar and beam; PNG."""
    found = Image.of(product)
    rms_jy = found.metadata.get("rms_jy")
    return _drawn(found.product_id, found.path, None if rms_jy is None else float(rms_jy))


@remembered(8 << 20, len)
def _drawn(product_id: str, path: Path, rms_jy: float | None) -> bytes:
    image = Image(product_id, path, {"rms_jy": rms_jy})
    from matplotlib.figure import Figure
    from matplotlib.patches import Ellipse

    step = max(1, -(-max(image.data.shape) // LONGEST_SIDE))
    wcs = image.wcs[::step, ::step]
    pixels, sigma = binned(image.data, step), image.rms.value
    with _DRAWING:
        figure = Figure(figsize=(8.2, 7), layout="constrained")
        axes = figure.add_subplot(projection=wcs)
        shown = axes.imshow(
            1e3 * pixels,
            origin="lower",
            cmap="gray_r",
            vmin=-3e3 * sigma,
            vmax=15e3 * sigma,
            interpolation="nearest",
        )
        axes.set(xlabel="Right ascension (ICRS)", ylabel="Declination (ICRS)")
        axes.set_title(f"{image.product_id}, rms {1e3 * sigma:.3g} mJy/beam", fontsize=11)
        axes.coords.grid(color="0.5", alpha=0.25)
        beam = image.beam
        if beam is not None:
            scale = abs(float(wcs.proj_plane_pixel_scales()[0].to_value("deg")))
            width, height = beam.minor.to_value("deg") / scale, beam.major.to_value("deg") / scale
            axes.add_patch(
                Ellipse(
                    (0.05 * pixels.shape[1], 0.05 * pixels.shape[0]),
                    width,
                    height,
                    angle=beam.pa.to_value("deg"),
                    fc="none",
                    ec="#b00020",
                    lw=1.2,
                )
            )
        figure.colorbar(shown, ax=axes, label="Flux density [mJy/beam]", shrink=0.85)
        return _bytes(figure, "png")


def binned(data: NDArray[np.floating[Any]], step: int) -> NDArray[np.floating[Any]]:
    """Means of step × step pixels; NaN where any of them is. Picking every step-th pixel instead would lose sources."""
    ny, nx = (length // step * step for length in data.shape)
    means: NDArray[np.floating[Any]] = data[:ny, :nx].reshape(ny // step, step, nx // step, step).mean((1, 3))
    return means


def _bytes(figure: Any, kind: str) -> bytes:
    import matplotlib

    buffer = io.BytesIO()
    # text stays text: smaller, and a screen reader can read it; a fixed salt makes equal plots equal bytes
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "dsa110"}):
        figure.savefig(buffer, format=kind, dpi=110, metadata={"Date": None} if kind == "svg" else None)
    return buffer.getvalue()
