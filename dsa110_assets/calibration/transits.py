"""Times at which calibrators cross the meridian, from apparent (of-date) coordinates.

A J2000 right ascension against apparent sidereal time would be wrong by 74 to 123 s in 2026.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dsa110_assets.sky.calibrators import LIST_NAME, OWN_NAME, Calibrator
from dsa110_assets.telescope import astrometry, beam
from dsa110_assets.telescope.timegrid import SIDEREAL_RATIO

REFERENCE_HZ = 1.4e9
_DAYS_PER_RADIAN = 1 / (2 * np.pi * SIDEREAL_RATIO)
_ITERATIONS = 3
"""Nutation and aberration move the apparent place by under 1e-4 of the correction, so two already suffice."""


@dataclass(frozen=True)
class Transit:
    """One passage of a calibrator through the meridian.

    `mjd` UTC [d]; `dec_offset_deg` apparent declination minus pointing; `primary_beam` power response at
    transit at 1.4 GHz; `flux_jy` at 1.4 GHz (before the beam).
    """

    calibrator: Calibrator
    mjd: float
    dec_offset_deg: float
    primary_beam: float

    @property
    def flux_jy(self) -> float:
        """The calibrator's flux density at 1.4 GHz [Jy]. Raises ConfigurationError if it has none."""
        return float(self.calibrator.flux_jy(np.array([REFERENCE_HZ]))[0])

    @property
    def apparent_flux_jy(self) -> float:
        """Flux density times primary beam at transit, 1.4 GHz [Jy]."""
        return self.flux_jy * self.primary_beam


def transit_mjd(ra_deg: float, dec_deg: float, near_mjd: float) -> float:
    """Return the transit (apparent hour angle 0) nearest to `near_mjd` of an ICRS direction [deg]; MJD UTC [d]."""
    return float(_transits_near(np.array([ra_deg]), np.array([dec_deg]), np.array([near_mjd]))[0])


def _transits_near(ra_deg: NDArray[np.float64], dec_deg: NDArray[np.float64], near_mjd: NDArray[np.float64]) -> NDArray[np.float64]:
    mjd = near_mjd
    for _ in range(_ITERATIONS):
        hour_angle = astrometry.hour_angle_rad(np.deg2rad(ra_deg), np.deg2rad(dec_deg), mjd)
        mjd = mjd - hour_angle * _DAYS_PER_RADIAN
    return mjd


def has_flux(calibrator: Calibrator) -> bool:
    """Whether the calibrator has a flux density at 20 cm; one without must never set a flux scale."""
    return calibrator.standard is not None or (calibrator.flux_20cm_jy is not None and np.isfinite(calibrator.flux_20cm_jy))


def transits(
    calibrators: Iterable[Calibrator],
    start_mjd: float,
    end_mjd: float,
    pointing_dec_deg: float,
    *,
    max_dec_offset_deg: float = 1.0,
    min_flux_jy: float = 1.0,
) -> list[Transit]:
    """Return transits in start <= t < end [MJD UTC], by time, of calibrators near an apparent pointing declination.

    Calibrators are left out if they have no flux, are fainter than `min_flux_jy` at 1.4 GHz before the beam, or have an apparent
    declination more than `max_dec_offset_deg` from the pointing.
    """
    near = [
        c
        for c in calibrators
        # precession moves declinations by under 0.2 deg between 2000 and 2030
        if has_flux(c) and abs(c.dec_deg - pointing_dec_deg) < max_dec_offset_deg + 0.5
    ]
    near = [c for c in near if float(c.flux_jy(np.array([REFERENCE_HZ]))[0]) >= min_flux_jy]
    if not near or end_mjd <= start_mjd:
        return []
    ra, dec = np.array([c.ra_deg for c in near]), np.array([c.dec_deg for c in near])
    found: list[Transit] = []
    sidereal_day = 1 / SIDEREAL_RATIO
    for near_mjd in np.arange(start_mjd, end_mjd + sidereal_day, sidereal_day):
        mjd = _transits_near(ra, dec, np.full(ra.size, near_mjd))
        _, apparent_dec = astrometry.icrs_to_apparent_rad(np.deg2rad(ra), np.deg2rad(dec), mjd)
        offset = np.rad2deg(apparent_dec) - pointing_dec_deg
        response = beam.power(np.abs(offset), REFERENCE_HZ)
        found += [
            Transit(c, float(t), float(o), float(b))
            for c, t, o, b in zip(near, mjd, offset, response, strict=True)
            if start_mjd <= t < end_mjd and abs(o) <= max_dec_offset_deg
        ]
    return sorted(found, key=lambda transit: transit.mjd)


def rank(candidates: Sequence[Transit]) -> list[Transit]:
    """Sort transits, best first: flux standards, list calibrators, other catalogues' sources, variable sources last.

    Within a class they are sorted by apparent flux at 1.4 GHz, bright ones first. Calibrators without a flux are dropped; no flux is
    guessed.
    """

    def order(transit: Transit) -> tuple[int, float]:
        return _doubt(transit.calibrator), -transit.apparent_flux_jy

    return sorted((t for t in candidates if has_flux(t.calibrator)), key=order)


def most_trusted(candidates: Sequence[Transit]) -> list[Transit]:
    """Return the transits whose calibrators' flux is trusted most, in the same order: standards and steady list calibrators; if none,
    sources of other catalogues; if none, variable ones."""
    classes = [max(_doubt(transit.calibrator), _LISTED) for transit in candidates]
    return [transit for transit, doubt in zip(candidates, classes, strict=True) if doubt == min(classes)]


_STANDARD, _LISTED, _CATALOGUED, _VARIABLE = range(4)


def _doubt(calibrator: Calibrator) -> int:
    """Return the class of a calibrator by trust in its flux; higher means less trusted."""
    if calibrator.variable:
        return _VARIABLE
    if calibrator.standard:
        return _STANDARD
    return _LISTED if calibrator.catalogue in (LIST_NAME, OWN_NAME) else _CATALOGUED
