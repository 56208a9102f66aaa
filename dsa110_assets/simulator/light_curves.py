"""Light curves of the planted variables: one flare, one ESE-like dip."""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from dsa110_assets.simulator.schedule import SECONDS_PER_DAY, SIDEREAL_DAY_S

_FLARE_AMPLITUDE = 1.5
_FLARE_RISE_D = 0.25
_FLARE_DECAY_D, _FLARE_DECAY_PER_NIGHT_D = 0.25, 0.04
_DIP_DEPTH = 0.45
_DIP_EDGE_D = 0.1
_FEWEST_NIGHTS = 3
"""A run of one or two nights may be continued by further calls, so curves are laid out for at least three nights."""


@dataclass(frozen=True)
class LightCurve:
    """Flux factor over time: `reference_mjd` is the source's transit on night 0 of `nights`.

    flare: 1 + 1.5 f, f rising as a Gaussian (0.25 d) to the transit of night `first` and decaying
    exponentially (0.25 d + 0.04 d per night). ese: 1 - 0.45 between half a day before the transit of night
    `first` and half a day after that of night `last`, with edges of 0.1 d (tanh).
    """

    kind: Literal["flare", "ese"]
    reference_mjd: float
    nights: int
    first: int
    last: int

    def factor(self, mjd: ArrayLike) -> NDArray[np.float64]:
        """Flux over quiescent flux at times [MJD UTC], same shape."""
        night = (np.asarray(mjd, dtype=np.float64) - self.reference_mjd) * SECONDS_PER_DAY / SIDEREAL_DAY_S
        if self.kind == "flare":
            after = night - self.first
            decay = _FLARE_DECAY_D + _FLARE_DECAY_PER_NIGHT_D * self.nights
            shape = np.where(after < 0, np.exp(-0.5 * (after / _FLARE_RISE_D) ** 2), np.exp(-np.maximum(after, 0) / decay))
            return np.asarray(1 + _FLARE_AMPLITUDE * shape)
        inside = np.tanh((night - self.first + 0.5) / _DIP_EDGE_D) - np.tanh((night - self.last - 0.5) / _DIP_EDGE_D)
        return np.asarray(1 - _DIP_DEPTH * inside / 2)


def flare(reference_mjd: float, nights: int) -> LightCurve:
    """A flare that peaks on a middle night (night 1 of 3, 5 of 10)."""
    n = max(nights, _FEWEST_NIGHTS)
    return LightCurve("flare", reference_mjd, n, n // 2, n // 2)


def dip(reference_mjd: float, nights: int) -> LightCurve:
    """A dip over half of the nights (rounded down): the last ones of a short run, the middle ones of a run of six or more."""
    n = max(nights, _FEWEST_NIGHTS)
    first = ceil(n / 4) if n >= 6 else n - n // 2
    return LightCurve("ese", reference_mjd, n, first, first + n // 2 - 1)
