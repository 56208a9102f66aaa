"""Mosaics: common grids, weighted coadds, agreement of overlapping tiles, coverage and sky tiles."""
