"""AOFlagger as a second flagger, with the packaged strategy. An extra: `pip install 'dsa110-assets[aoflagger]'`."""

from __future__ import annotations

from importlib.resources import as_file, files

import numpy as np
from numpy.typing import NDArray

from dsa110_assets.errors import ConfigurationError

STRATEGY = "data/flagging.lua"


def flag(data: NDArray[np.complex64], flags: NDArray[np.bool_], cross: NDArray[np.bool_]) -> None:
    """Add AOFlagger's flags to `flags` (time, baseline, channel, pol), in place, for every cross-correlation that has unflagged data.
    XX and YY are flagged together.

    Raises ConfigurationError if AOFlagger is not installed.
    """
    try:
        import aoflagger
    except ModuleNotFoundError as error:
        raise ConfigurationError("AOFlagger is not installed: pip install 'dsa110-assets[aoflagger]', or choose another engine") from error
    n_times, _, n_channels, n_pols = data.shape
    flagger = aoflagger.AOFlagger()
    images = flagger.make_image_set(n_times, n_channels, 2 * n_pols, 2 * n_pols)
    mask = flagger.make_flag_mask(n_times, n_channels, False)
    with as_file(files("dsa110_assets.engines").joinpath(STRATEGY)) as path:
        strategy = flagger.load_strategy_file(str(path))
    for baseline in np.flatnonzero(cross):
        before = flags[:, baseline]
        if before.all():
            continue
        # AOFlagger has one mask for all images: a sample is judged where either polarisation is good.
        mask.set_buffer(np.ascontiguousarray(before.all(axis=2).T))
        for pol in range(n_pols):
            values = np.where(before[..., pol], 0, data[:, baseline, :, pol]).T
            images.set_image_buffer(2 * pol, np.ascontiguousarray(values.real, dtype=np.float64))
            images.set_image_buffer(2 * pol + 1, np.ascontiguousarray(values.imag, dtype=np.float64))
        flags[:, baseline] |= strategy.run(images, mask).get_buffer().T[..., None]
