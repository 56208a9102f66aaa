"""The sky of a run: VLA-list calibrators, the random population, fixed sources and the planted variables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dsa110_assets.simulator import light_curves
from dsa110_assets.simulator.light_curves import LightCurve
from dsa110_assets.simulator.options import SimulationOptions
from dsa110_assets.simulator.population import cells_near, population
from dsa110_assets.simulator.schedule import SECONDS_PER_DAY, SIDEREAL_DAY_S, ScheduledGroup
from dsa110_assets.sky import calibrators, model
from dsa110_assets.sky.model import SkyModel
from dsa110_assets.sky.names import position_name
from dsa110_assets.telescope import astrometry, timegrid

SKY_RADIUS_DEG = 6.0
"""The sky contains sources out to this distance from every pointing, which is beyond the beam's first sidelobe."""
USABLE_FLUX_JY, USABLE_OFFSET_DEG = 1.0, 1.5
_SYNTHETIC_FLUX_JY = 8.0
_ISOLATION_DEG, _BRIGHT_ISOLATION_DEG = 0.1, 0.5
_MAX_DEC_OFFSET_DEG = 0.6
_VARIABLE_FLUX_JY = (0.7, 1.3)
_STREAM_VARIABLES = 8
Float = NDArray[np.float64]


@dataclass(frozen=True)
class Listed:
    """The catalogue entry of a source: ICRS [deg], Stokes I [Jy] at 1.4 GHz."""

    name: str
    ra_deg: float
    dec_deg: float
    flux_jy: float


@dataclass(frozen=True)
class SimulatedSky:
    """`model` has mean (quiescent) fluxes; `kinds` and `curves` run along it; `note` states what calibration rests on.

    shapes (n, 3): Gaussian FWHM along the major and minor axis [arcsec] and the major axis's position angle [deg, east
    of ICRS north]; axes given in the other order are exchanged, and those of a point are 0. stokes_q (n,): Q over I. If
    omitted, both are 0. `listed`: catalogue entries by name, for sources whose entry differs from the truth; None: the
    source is not in the catalogue.
    """

    model: SkyModel
    kinds: tuple[str, ...]
    curves: tuple[LightCurve | None, ...]
    note: str
    shapes: Float = field(default_factory=lambda: np.zeros((0, 3)))
    stokes_q: Float = field(default_factory=lambda: np.zeros(0))
    listed: Mapping[str, Listed | None] = field(default_factory=dict)

    def __post_init__(self) -> None:
        n = len(self.model)
        for name, empty in (("shapes", np.zeros((n, 3))), ("stokes_q", np.zeros(n))):
            value = getattr(self, name)
            object.__setattr__(self, name, value if value.size else empty)
            if getattr(self, name).shape != empty.shape:
                raise ValueError(f"sky: {name} must have shape {empty.shape}, has {value.shape}")
        exchanged = self.shapes[:, [1, 0, 2]] + [0.0, 0.0, 90.0]
        longer = (self.shapes[:, 0] >= self.shapes[:, 1])[:, None]
        object.__setattr__(self, "shapes", np.where(longer, self.shapes, exchanged))

    def factors(self, times_mjd: Float) -> Float:
        """Flux over mean flux, (n_times, n_sources)."""
        factors = np.ones((times_mjd.size, len(self.model)))
        for i, curve in enumerate(self.curves):
            if curve is not None:
                factors[:, i] = curve.factor(times_mjd)
        return factors


def build_sky(options: SimulationOptions, groups: Sequence[ScheduledGroup], previous: Mapping[str, Any] | None = None) -> SimulatedSky:
    """Build the sky within 6 degrees of the pointings of `groups`.

    `previous` is the truth of an earlier call into the same directory: its variables and synthetic calibrators are
    kept, with their reference times, so that several calls have the same sky.
    """
    first_night = [group for group in groups if group.night_index == 0]
    pointings = astrometry.meridian_icrs_rad([g.mjd_mid for g in first_night], np.deg2rad(options.dec_deg))
    entries = _Entries()
    if options.population:
        usable = [c for c in calibrators.load() if c.standard or c.flux_20cm_jy]
        listed = model.concat(*(model.from_calibrator(c) for c in usable))
        entries.add(_near(listed, pointings), "calibrator")
        cells = cells_near(pointings[:, 0], pointings[:, 1], SKY_RADIUS_DEG)
        entries.add(_near(population(options, cells), pointings), "constant")
    for fixed in options.fixed_sources:
        source_model = _single_source(fixed.name, fixed.ra_deg, fixed.dec_deg, fixed.flux_jy, fixed.spectral_index)
        shape = (fixed.major_arcsec, fixed.minor_arcsec, fixed.pa_deg)
        entries.add(source_model, "constant", None, shape, fixed.stokes_q_fraction)
    kept = [s for s in (previous or {}).get("sources", []) if s["kind"] in ("flare", "ese") or s.get("synthetic")]
    for source in kept:
        curve = LightCurve(**source["variability"]) if source.get("variability") else None
        # the catalogue entry, because faults of the sky are applied to it again
        if (listed := source.get("listed", source)) is not None:
            source_model = _single_source(listed["name"], listed["ra_deg"], listed["dec_deg"], listed["flux_jy"], source["spectral_index"])
            entries.add(source_model, source["kind"], curve)
    note = _ensure_calibrator(options, first_night, entries) if options.calibrator == "auto" else "calibrators as in the sky model"
    if options.variables and not any(source["kind"] in ("flare", "ese") for source in kept):
        _plant_variables(options, first_night, entries)
    return entries.sky(note)


def transits_mjd(ra_rad: Float, dec_rad: Float, near_mjd: float) -> Float:
    """Times [MJD UTC] of the meridian transits nearest to `near_mjd` of ICRS directions [rad] (n,); good to 10 ms."""
    mjd = np.full(np.shape(ra_rad), near_mjd)
    for _ in range(2 if mjd.size else 0):  # the second step corrects for precession and aberration over half a day
        mjd = mjd - astrometry.hour_angle_rad(ra_rad, dec_rad, mjd) / (2 * np.pi) * SIDEREAL_DAY_S / SECONDS_PER_DAY
    return np.asarray(mjd)


def observed_transits(sources: SkyModel, groups: Sequence[ScheduledGroup]) -> Float:
    """The transit [MJD UTC] of each source during one night's groups; NaN if no group was taking data."""
    mjd = transits_mjd(sources.ra_rad, sources.dec_rad, (groups[0].mjd_start + groups[-1].mjd_start) / 2)
    half = timegrid.INTEGRATION_S / 2 / SECONDS_PER_DAY
    first, last = (np.array([g.times_mjd[i] for g in groups])[:, None] for i in (0, -1))
    return np.where(np.any((mjd >= first - half) & (mjd <= last + half), axis=0), mjd, np.nan)


def offset_rad(ra_rad: Float, dec_rad: Float, distance_rad: float, angle_rad: Float) -> tuple[Float, Float]:
    """Directions (ra, dec) [rad] at a distance [rad] from given ones, at position angles [rad] east of north; correct
    at the pole. Spherical law of cosines."""
    near, far = np.cos(distance_rad), np.sin(distance_rad)
    dec = np.arcsin(np.sin(dec_rad) * near + np.cos(dec_rad) * far * np.cos(angle_rad))
    turn = np.arctan2(np.sin(angle_rad) * far * np.cos(dec_rad), near - np.sin(dec_rad) * np.sin(dec))
    return np.asarray((ra_rad + turn) % (2 * np.pi)), np.asarray(dec)


class _Entries:
    """Accumulates sources, with lists of their further properties."""

    def __init__(self) -> None:
        self.models: list[SkyModel] = []
        self.kinds: list[str] = []
        self.curves: list[LightCurve | None] = []
        self.shapes: list[tuple[float, float, float]] = []
        self.stokes_q: list[float] = []

    def add(
        self, sources: SkyModel, kind: str, curve: LightCurve | None = None,
        shape: tuple[float, float, float] = (0.0, 0.0, 0.0), stokes_q: float = 0.0,
    ) -> None:  # fmt: skip
        self.models.append(sources)
        self.kinds += [kind] * len(sources)
        self.curves += [curve] * len(sources)
        self.shapes += [shape] * len(sources)
        self.stokes_q += [stokes_q] * len(sources)

    def model(self) -> SkyModel:
        empty = SkyModel((), np.zeros(0), np.zeros(0), np.zeros(0), np.zeros(0))
        return model.concat(empty, *self.models)

    def sky(self, note: str) -> SimulatedSky:
        shapes = np.array(self.shapes).reshape(-1, 3)
        return SimulatedSky(self.model(), tuple(self.kinds), tuple(self.curves), note, shapes, np.array(self.stokes_q))


def _single_source(name: str, ra_deg: float, dec_deg: float, flux_jy: float, index: float) -> SkyModel:
    return SkyModel((name,), np.deg2rad([ra_deg]), np.deg2rad([dec_deg]), np.array([flux_jy]), np.array([index]))


def _near(sources: SkyModel, pointings: Float) -> SkyModel:
    separation = astrometry.separation_deg(sources.ra_rad[:, None], sources.dec_rad[:, None], pointings[None, :, 0], pointings[None, :, 1])
    return sources.select(np.min(separation, axis=1, initial=np.inf) <= SKY_RADIUS_DEG)


def _ensure_calibrator(options: SimulationOptions, groups: Sequence[ScheduledGroup], entries: _Entries) -> str:
    """Name the calibrators that transit during a group; if there is none, add a synthetic one at mid-run."""
    sources = entries.model()
    _, dec = astrometry.icrs_to_apparent_rad(sources.ra_rad, sources.dec_rad, groups[0].mjd_start)
    kinds = np.array(entries.kinds, dtype=object)
    close = np.abs(np.rad2deg(dec) - options.dec_deg) < USABLE_OFFSET_DEG
    usable = sources.select((kinds == "calibrator") & close & (sources.flux_jy > USABLE_FLUX_JY))
    usable = usable.select(np.isfinite(observed_transits(usable, groups)))
    if len(usable):
        return f"transits of {', '.join(usable.names)}"
    middle = groups[len(groups) // 2].mjd_mid
    ra, dec_icrs = astrometry.meridian_icrs_rad([middle], np.deg2rad(options.dec_deg + 0.1))[0]
    name = position_name("SIM", float(np.rad2deg(ra)), float(np.rad2deg(dec_icrs)))
    synthetic = _single_source(name, float(np.rad2deg(ra)), float(np.rad2deg(dec_icrs)), _SYNTHETIC_FLUX_JY, -0.7)
    entries.add(synthetic, "calibrator")
    return f"no listed calibrator above 1 Jy transits within 1.5 deg: synthetic {name} of 8 Jy added"


def _plant_variables(options: SimulationOptions, groups: Sequence[ScheduledGroup], entries: _Entries) -> None:
    """Add a flare at 0.35 and a dip at 0.65 of the night's run, without neighbours within 6 arcmin or bright sources within 30 arcmin."""
    rng = np.random.default_rng([options.seed, _STREAM_VARIABLES, round(options.dec_deg * 1000) + 90_000])
    for where, make in ((0.35, light_curves.flare), (0.65, light_curves.dip)):
        place = _isolated_place(options, groups, entries.model(), where, rng)
        flux = float(rng.uniform(*_VARIABLE_FLUX_JY))
        transit = transits_mjd(place[:1], place[1:], groups[len(groups) // 2].mjd_mid)
        curve = make(float(transit[0]), options.nights)
        ra_deg, dec_deg = float(np.rad2deg(place[0])), float(np.rad2deg(place[1]))
        source = _single_source(position_name("SIM", ra_deg, dec_deg), ra_deg, dec_deg, flux, -0.7)
        entries.add(source, curve.kind, curve)


def _isolated_place(
    options: SimulationOptions,
    groups: Sequence[ScheduledGroup],
    sources: SkyModel,
    where: float,
    rng: np.random.Generator,
) -> Float:
    """ICRS (ra, dec) [rad] of an isolated position that transits during a group; the most isolated one tried if none is isolated enough."""
    position = where * len(groups)
    spread = 0.1 * len(groups)
    best, best_score = np.zeros(2), -np.inf
    for _ in range(300):
        number = float(np.clip(position + rng.uniform(-spread, spread), 0.2, len(groups) - 0.2))
        group = groups[int(number)]
        # away from a group's very ends: a restart gap may follow
        fraction = np.clip(number - int(number), 0.1, 0.9)
        mjd = group.mjd_start + fraction * timegrid.GROUP_S / SECONDS_PER_DAY
        dec = np.deg2rad(options.dec_deg + rng.uniform(-_MAX_DEC_OFFSET_DEG, _MAX_DEC_OFFSET_DEG))
        place = astrometry.meridian_icrs_rad([mjd], dec)[0]
        separation = astrometry.separation_deg(sources.ra_rad, sources.dec_rad, place[0], place[1])
        needed = np.where(sources.flux_jy > USABLE_FLUX_JY, _BRIGHT_ISOLATION_DEG, _ISOLATION_DEG)
        score = float(np.min(separation / needed, initial=10.0))
        if score >= 1:
            return np.asarray(place)
        if score > best_score:
            best, best_score = place, score
    return best


def variability_record(curve: LightCurve | None) -> dict[str, Any] | None:
    """A light curve's entry in truth.json; `LightCurve(**record)` restores it."""
    return None if curve is None else asdict(curve)
