"""Subband files to one flagged measurement set, in one pass over the samples, within a limit of memory.

Some baselines at a time are read, flagged and written. Only flags are kept until all baselines were processed, as
bytes. The result does not depend on the number of baselines at a time. Methods that compare the samples of all
baselines (AOFlagger's median clip) or that read in another way (pyuvdata) load the whole observation.
"""

from __future__ import annotations

import math
import shutil
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dsa110_assets.telescope import band
from dsa110_assets.visibilities import flagging, measurement_set, ms_columns
from dsa110_assets.visibilities.flagging import Flagger, FlagReport
from dsa110_assets.visibilities.options import FlaggingOptions
from dsa110_assets.visibilities.reader import Engine, Group, open_group, read_group
from dsa110_assets.visibilities.types import Visibilities

BLOCK_BYTES = 128 << 20
"""Size of a block of baselines; larger blocks are no faster."""
_COPIES = 3
"""A block being read, one being flagged or written, and its excesses, which flagging keeps."""


def ingest(
    files: Mapping[int, Path],
    path: Path,
    *,
    n_subbands: int = band.N_SUBBANDS,
    options: FlaggingOptions | None = None,
    engine: Engine = "direct",
    memory_bytes: float = np.inf,
    observer_note: str = "",
) -> tuple[Visibilities, FlagReport]:
    """Write {subband: path} as a flagged measurement set at `path`; the result is that of read_group, flag and
    measurement_set.write.

    `memory_bytes` limits the memory in use beyond the flags (a byte per sample); with less, ingesting takes longer.
    Returns the set's frame (a Visibilities whose arrays of samples are constants) and the report of flagging. Raises
    BadDataError for unusable files, FileExistsError.
    """
    options = options or FlaggingOptions()
    group = open_group(files, n_subbands)
    flagger = Flagger(group.frame, group.frame.weights[0, 0, :, 0] > 0, options)
    if engine != "direct" or flagger.whole:
        vis, report = flagging.flag(read_group(files, n_subbands, engine), options)
        measurement_set.write(vis, path, observer_note=observer_note)
        return group.frame, report
    limit_bytes = min(BLOCK_BYTES, memory_bytes / _COPIES)
    streamed = _stream(group, flagger, path, limit_bytes, observer_note, per_sample=False)
    if streamed is None:
        shutil.rmtree(path)
        flagger = Flagger(group.frame, group.frame.weights[0, 0, :, 0] > 0, options)
        streamed = _stream(group, flagger, path, limit_bytes, observer_note, per_sample=True)
    assert streamed is not None, "only a pass without weights per sample can return None"
    return group.frame, streamed


def _stream(group: Group, flagger: Flagger, path: Path, limit_bytes: float, note: str, *, per_sample: bool) -> FlagReport | None:
    """Make one pass. Returns None, with the set half written, if some samples are not finite: their weights need `per_sample`."""
    frame = group.frame
    n_times, n_baselines, n_channels, n_pols = frame.data.shape
    new = measurement_set.NewSet(frame, path, None if per_sample else np.ascontiguousarray(frame.weights[0, 0]))
    flags = np.empty(frame.flags.shape, np.bool_)
    blocks = group.blocks(limit_bytes)
    buffers = [np.empty(n_times * len(blocks[0]) * n_channels * n_pols, np.complex64) for _ in blocks[:2]]
    writing: Future[None] | None = None
    with ExitStack() as stack:
        data_column = stack.enter_context(new.column("DATA"))
        weight_column = stack.enter_context(new.column("WEIGHT_SPECTRUM")) if per_sample else None
        writer = stack.enter_context(ThreadPoolExecutor(1))
        for i, baselines in enumerate(blocks):
            shape = n_times, baselines.size, n_channels, n_pols
            data = buffers[i % 2][: math.prod(shape)].reshape(shape)
            part, weights = np.empty(shape, np.bool_), np.empty(shape, np.float32) if per_sample else None
            if group.load(baselines, data, part, weights, conjugate=True) and not per_sample:
                return None
            flagger.block(baselines, data, part)
            flags[:, baselines] = part
            if weight_column is not None and weights is not None:
                _put(weight_column, baselines, n_baselines, weights)
            if writing is not None:
                writing.result()
            writing = writer.submit(_put, data_column, baselines, n_baselines, data)
        if writing is not None:
            writing.result()
        settling = writer.submit(data_column.settle)
        report = flagger.finish(flags)
        settling.result()
    new.finish(flags, measurement_set.mean_weights(np.ascontiguousarray(frame.weights[:, :1]), flags), note)
    return report


def _put(column: ms_columns.TiledColumn, baselines: NDArray[np.int64], n_baselines: int, values: NDArray[Any]) -> None:
    """Write (time, len(baselines), channel, pol) to the rows of those baselines; adjacent baselines are written together."""
    starts = np.flatnonzero(np.diff(baselines, prepend=-2) != 1)
    for t in range(values.shape[0]):
        for low, high in zip(starts, [*starts[1:], baselines.size], strict=True):
            column.put(t * n_baselines + int(baselines[low]), values[t, low:high])
