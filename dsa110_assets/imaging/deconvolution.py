"""CLEAN: radler's minor loops between our own major cycles."""

from __future__ import annotations

import ctypes
import logging
import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import radler
from numpy.typing import NDArray

from dsa110_assets.imaging.options import ImagingOptions

Image = NDArray[np.float32]
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Deconvolved:
    """`model` [Jy/pixel] and `residual` [Jy/beam], (ny, nx) float32; the counts of both loops."""

    model: Image
    residual: Image
    major_cycles: int
    minor_iterations: int


def deconvolve(
    dirty: Image,
    psf: Image,
    residual_of: Callable[[Image], Image],
    options: ImagingOptions,
    *,
    pixel_rad: float,
    beam_rad: float,
    threads: int,
) -> Deconvolved:
    """CLEAN a dirty image (ny, nx) with its dirty beam (same shape, unit peak at the centre).

    `residual_of(model)` is the exact residual image of a model, from the visibilities: the major cycle. The
    returned residual is always exact for the returned model.
    """
    model = np.zeros_like(dirty)
    residual = dirty.copy()
    if options.clean_iterations == 0:
        return Deconvolved(model, residual, 0, 0)
    engine = radler.Radler(
        _settings(options, dirty.shape, pixel_rad, threads), psf, residual, model, beam_rad
    )
    cycles = 0
    more = True
    while more and cycles < options.max_major_cycles:
        with _radler_output_logged():
            more = engine.perform(cycles)
        cycles += 1
        residual[...] = residual_of(model)
    return Deconvolved(model, residual, cycles, int(engine.iteration_number))


def _settings(options: ImagingOptions, shape: tuple[int, ...], pixel_rad: float, threads: int) -> radler.Settings:
    settings = radler.Settings()
    settings.trimmed_image_height, settings.trimmed_image_width = shape
    settings.pixel_scale.x = settings.pixel_scale.y = pixel_rad
    settings.minor_iteration_count = options.clean_iterations
    settings.minor_loop_gain = options.clean_gain
    settings.major_loop_gain = options.major_gain
    settings.major_iteration_count = options.max_major_cycles
    settings.auto_threshold_sigma = options.auto_threshold_sigma or None
    settings.auto_mask_sigma = options.auto_mask_sigma or None
    settings.absolute_threshold = options.threshold_jy
    settings.thread_count = threads
    settings.use_sub_minor_optimization = True
    if options.multiscale:
        settings.algorithm_type = radler.AlgorithmType.multiscale
    else:
        settings.algorithm_type = radler.AlgorithmType.generic_clean
    return settings


@contextmanager
def _radler_output_logged() -> Iterator[None]:
    """radler reports to the process's standard output, where a caller's JSON may go: into the debug log instead."""
    libc = ctypes.CDLL(None)
    sys.stdout.flush()
    libc.fflush(None)
    kept = os.dup(1)
    with tempfile.TemporaryFile() as captured:
        os.dup2(captured.fileno(), 1)
        try:
            yield
        finally:
            libc.fflush(None)
            os.dup2(kept, 1)
            os.close(kept)
            captured.seek(0)
            for line in captured.read().decode(errors="replace").splitlines():
                _log.debug("radler: %s", line)
