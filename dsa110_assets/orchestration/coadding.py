"""Images and mosaics of products: the tiles of an hour, the hours of a night, and what they say about themselves."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dsa110_assets.orchestration import checks

if TYPE_CHECKING:
    from astropy.io.fits import Header

    from dsa110_assets.archive.product import Product
    from dsa110_assets.archive.store import Archive
    from dsa110_assets.imaging.fits import Cards
    from dsa110_assets.imaging.tile import TileImage
    from dsa110_assets.mosaics.coadd import TileInput
    from dsa110_assets.mosaics.options import CoaddOptions
    from dsa110_assets.settings import Settings
    from dsa110_assets.sky.model import SkyModel


_OBSERVATION = ("mjd_start", "mjd_end", "pointing_dec_deg", "n_subbands", "caltable_set", "caltable_age_h", "anchor")
_GAINS = (
    "receptors_lost", "antennas_lost", "n_antennas_lost", "n_antennas_kept", "flux_scale", "flux_scale_error", "flux_scale_applied",
    "drift_amplitude", "drift_phase_deg", "epoch_gains", "caltable_sets", "caltable_weights",
)  # fmt: skip
"""What calibrating found of antennas and gains, where it looked; and between which sets it interpolated, where it did."""


def of_observation(calibrated: "Product") -> dict[str, Any]:
    """What a tile passes on of its calibrated observation."""
    known = {name: calibrated.metadata[name] for name in _GAINS if name in calibrated.metadata}
    return {name: calibrated.metadata[name] for name in _OBSERVATION} | known


def image(ms_path: Path, settings: "Settings", sky: "SkyModel", work_dir: Path) -> "TileImage":
    """Image a calibrated measurement set with the configured engine."""
    from dsa110_assets.visibilities import measurement_set

    if settings.imaging_engine == "casa":
        from dsa110_assets.engines import casa_imaging

        return casa_imaging.make_tile(ms_path, settings.imaging, sky, work_dir=work_dir)
    from dsa110_assets.imaging import tile

    return tile.make_tile(measurement_set.mapped(ms_path), settings.imaging, sky)


def tile_inputs(tiles: "Sequence[Product]", scales: "Mapping[str, float] | None" = None) -> "list[TileInput]":
    """Tile products as `coadd` takes them; `scales` by product id are what fluxes are divided by (1 if not named)."""
    from dsa110_assets.mosaics.coadd import TileInput

    return [
        TileInput(
            image_path=p.path / "image.fits",
            primary_beam_path=p.path / "primary-beam.fits",
            rms_jy=float(p.metadata["rms_jy"]),
            product_id=p.id,
            mjd=_middle(p),
            scale=(scales or {}).get(p.id, 1.0),
        )
        for p in tiles
    ]


def anchor(tiles: "Sequence[Product]") -> str:
    """What the flux scale of these tiles rests on."""
    return ", ".join(sorted({str(p.metadata["anchor"]) for p in tiles}))


def mosaic(
    tiles: "Sequence[Product]",
    options: "CoaddOptions",
    most_different: float,
    directory: Path,
    cards: "Cards",
    target: "Header | None" = None,
) -> dict[str, Any]:
    """Coadd tiles into `directory` on the grid `target` (None: one that holds them all), with `cards` in the headers; returns the
    figures, with how well neighbours agree.

    Tiles of several anchors are brought to one scale first (`mosaics.anchors`); what they were divided by is kept by product
    id as `tile_scales`. `suspects` are the tiles a soft rule spoke against, with what it said, or whose fluxes differ from all
    their neighbours' by more than `most_different` beyond errors.
    """
    from dsa110_assets.mosaics import anchors, coadd, overlap, write

    named = {p.id: str(p.metadata["anchor"]) for p in tiles}
    pairs = overlap.compared_pairs(tile_inputs(tiles))
    scales = anchors.anchor_scales(named, pairs)
    applied = anchors.corrections(scales)
    divided = {i: applied[name] for i, name in named.items() if applied[name] != 1}
    inputs = tile_inputs(tiles, divided)
    made = coadd.coadd(inputs, target, options)
    write.write_mosaic(made, directory, cards)
    times = [_middle(p) for p in tiles]
    pairs = overlap.compared_pairs(inputs) if divided else pairs
    odd = overlap.odd_ones_out(pairs, most_different)
    return {
        **made.figures,
        **overlap.agreement(pairs),
        **anchors.anchor_figures(scales, applied),
        "tile_scales": divided,
        "suspects": {p.id: said for p in tiles if (said := "; ".join(filter(None, [suspicion(p), odd.get(p.id)])))},
        "antennas_lost": sorted({name for p in tiles for name in p.metadata.get("antennas_lost", ())}),
        "n_tiles": len(made.tiles),
        "mid_mjd": sum(times) / len(times),
        "mjd_start": min(float(p.metadata["mjd_start"]) for p in tiles),
        "mjd_end": max(float(p.metadata["mjd_end"]) for p in tiles),
        "pointing_dec_deg": float(tiles[len(tiles) // 2].metadata["pointing_dec_deg"]),
        "anchor": anchor(tiles),
    }


def suspicion(tile: "Product") -> str:
    """What soft rules of severity ERROR said against a tile; '' if nothing."""
    return "; ".join(f"{one.check}: {one.reason}" for one in checks.failed([tile]))


def windows_completed(archive: "Archive", asset: str, window: str) -> dict[str, float]:
    """Share of the observations taken in an hour or night (its key, or the key's beginning) that got this far."""
    taken = [p for p in archive.products("subband_group", window[:10], window[:10]) if (p.partition or "").startswith(window)]
    done = {p.partition for p in archive.products(asset, window[:10], window[:10])}
    return {
        "n_observations": len(taken),
        "windows_completed": sum(p.partition in done for p in taken) / max(len(taken), 1),
    }


def left_out(archive: "Archive", elsewhere: "Sequence[str]") -> dict[str, Any]:
    """What is told of the hour's tiles (ids) that point elsewhere than its mosaic and are not in it."""
    named = [f"{i} at {float(archive.get(i).metadata['pointing_dec_deg']):.2f} deg" for i in elsewhere]
    return {"n_left_out": len(named), "left_out": named}


def tiles_of(archive: "Archive", mosaics: "Sequence[Product]") -> "list[Product]":
    """The tiles hour mosaics were made of, each once: neighbouring hours share tiles, a night counts them once."""
    ids = sorted({i for m in mosaics for i in m.inputs})
    tiles = [archive.get(i) for i in ids]
    return sorted((t for t in tiles if t.asset == "tile_image"), key=lambda t: t.partition or "")


def _middle(product: "Product") -> float:
    return (float(product.metadata["mjd_start"]) + float(product.metadata["mjd_end"])) / 2
