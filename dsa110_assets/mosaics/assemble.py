"""Bring tiles to one flux scale, coadd them and compare them with their neighbours: a mosaic on disk and its figures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from astropy.io.fits import Header

from dsa110_assets.imaging.fits import Cards
from dsa110_assets.mosaics import anchors, coadd, overlap, write
from dsa110_assets.mosaics.coadd import TileInput
from dsa110_assets.mosaics.options import CoaddOptions


def assemble(
    tiles: Sequence[TileInput],
    anchor_of: Mapping[str, str],
    suspicions: Mapping[str, str],
    options: CoaddOptions,
    most_different: float,
    directory: Path,
    cards: Cards,
    target: Header | None = None,
) -> dict[str, Any]:
    """Coadd tiles into `directory` on the grid `target` (None: one that holds them all), with `cards` in the headers. Return the
    figures, including how well neighbours agree.

    Tiles of several anchors (`anchor_of`, by product id) are brought to one scale first (`anchors`); the factors they were divided by
    are kept by product id as `tile_scales`. `suspects` has, with the reason, each tile that was already under suspicion (`suspicions`,
    by product id), or whose fluxes differ from all its neighbours' by more than `most_different` beyond errors.
    """
    pairs = overlap.compared_pairs(tiles)
    scales = anchors.anchor_scales(anchor_of, pairs)
    applied = anchors.corrections(scales)
    divided = {i: applied[name] for i, name in anchor_of.items() if applied[name] != 1}
    scaled = [replace(tile, scale=divided.get(tile.product_id, 1.0)) for tile in tiles]
    mosaic = coadd.coadd(scaled, target, options)
    write.write_mosaic(mosaic, directory, cards)
    pairs = overlap.compared_pairs(scaled) if divided else pairs
    odd = overlap.odd_ones_out(pairs, most_different)
    reasons = {t.product_id: "; ".join(filter(None, [suspicions.get(t.product_id), odd.get(t.product_id)])) for t in tiles}
    return {
        **mosaic.figures,
        **overlap.agreement(pairs),
        **anchors.anchor_figures(scales, applied),
        "tile_scales": divided,
        "suspects": {i: reason for i, reason in reasons.items() if reason},
        "n_tiles": len(mosaic.tiles),
    }
