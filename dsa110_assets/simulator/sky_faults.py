"""Planted faults of the sky: calibrators that differ from their catalogue entry, resolved and polarised sources.

They are applied after everything else is in the sky, so the sky's random parts do not depend on them.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dsa110_assets.errors import ConfigurationError, NotFoundError
from dsa110_assets.simulator import fault_kinds
from dsa110_assets.simulator.fault_kinds import SignalFault
from dsa110_assets.simulator.options import SimulationOptions
from dsa110_assets.simulator.schedule import ScheduledGroup
from dsa110_assets.simulator.sky import Listed, SimulatedSky, offset_rad
from dsa110_assets.sky import calibrators, model
from dsa110_assets.sky.model import SkyModel
from dsa110_assets.sky.names import position_name
from dsa110_assets.telescope import astrometry, beam

_STREAM_SIGNS = 12
_RESOLVED_OFFSET_DEG = 0.3
_RESOLVED_INDEX = -0.7
_REFERENCE_HZ = 1.4e9
KINDS = tuple(kind.name for kind in fault_kinds.SKY)
Float = NDArray[np.float64]
FaultChoices = dict[SignalFault, dict[str, Any]]


def apply(
    sky: SimulatedSky, options: SimulationOptions, groups: Sequence[ScheduledGroup],
    previous: Mapping[str, Any] | None = None,
) -> tuple[SimulatedSky, FaultChoices]:  # fmt: skip
    """Apply the run's faults to the sky; return it and what each fault chose: the calibrator's name, the position of a
    resolved source.

    Flux, offset, size and double are applied in this order to one calibrator. `previous` is the truth of an earlier
    call into the same directory, whose choices are kept. ConfigurationError if a fault names no source.
    """
    pointings = astrometry.meridian_icrs_rad([g.mjd_mid for g in groups if g.night_index == 0], np.deg2rad(options.dec_deg))
    faults = sorted(options.signal_faults(*_CALIBRATOR_FAULTS), key=lambda fault: KINDS.index(fault.kind))
    # choose all names first, because the brightest calibrator is the one before any fault
    chosen: FaultChoices = {
        fault: {"calibrator": _earlier(fault, previous).get("calibrator") or _calibrator(sky, fault, pointings)} for fault in faults
    }
    if len({(fault.kind, chosen[fault]["calibrator"]) for fault in faults}) < len(faults):
        raise ConfigurationError("a calibrator has two faults of one kind: give every kind once per calibrator")
    for fault in faults:
        sky = _CALIBRATOR_FAULTS[fault.kind](sky, fault, chosen[fault]["calibrator"])
    for fault in options.signal_faults("resolved_source"):
        ra_deg, dec_deg = _place(sky, fault, pointings, _earlier(fault, previous))
        chosen[fault] = {"ra_deg": ra_deg, "dec_deg": dec_deg, "name": position_name("SIM", ra_deg, dec_deg)}
        if chosen[fault]["name"] in sky.model.names:
            raise ConfigurationError(f"fault resolved_source: {chosen[fault]['name']} is already in the sky")
        sky = _with_resolved(sky, fault, chosen[fault])
    for fault in options.signal_faults("polarised"):
        sky = replace(sky, stokes_q=fault.number("fraction") * _signs(sky, fault, options.seed))
    return sky, chosen


def _earlier(fault: SignalFault, previous: Mapping[str, Any] | None) -> dict[str, Any]:
    """The entry of the same fault in an earlier truth; empty if there is none."""
    for entry in (previous or {}).get("faults", []):
        if all(entry.get(name) == value for name, value in (("kind", fault.kind), *fault.values)):
            return dict(entry)
    return {}


def _calibrator(sky: SimulatedSky, fault: SignalFault, pointings: Float) -> str:
    """The source that a fault names, by its own or another of its calibrator names. Without a name, the calibrator that
    is apparently brightest through the primary beam at its nearest pointing."""
    if fault.has("calibrator"):
        requested = fault.word("calibrator")
        try:
            canonical = calibrators.find(requested).name
        except NotFoundError:
            canonical = requested
        for name in (requested, canonical):
            if name in sky.model.names:
                return name
    listed = [i for i, kind in enumerate(sky.kinds) if kind == "calibrator"]
    if not listed:
        raise ConfigurationError(f"fault {fault.kind}: the sky has no calibrator; name a source: calibrator=NAME")
    nearest = _nearest_deg(sky.model, pointings)[listed]
    apparent = sky.model.flux_jy[listed] * beam.power(nearest[:, None], np.array([_REFERENCE_HZ]))[:, 0]
    brightest = [sky.model.names[listed[i]] for i in np.argsort(-apparent)]
    if fault.has("calibrator"):
        raise ConfigurationError(
            f"fault {fault.kind}: calibrator={requested} is not in the sky; the brightest there: {', '.join(brightest[:5])}"
        )
    return str(brightest[0])


def _nearest_deg(sources: SkyModel, pointings: Float) -> Float:
    ra, dec = sources.ra_rad[:, None], sources.dec_rad[:, None]
    return np.asarray(np.min(astrometry.separation_deg(ra, dec, pointings[:, 0], pointings[:, 1]), axis=1))


def _flux(sky: SimulatedSky, fault: SignalFault, name: str) -> SimulatedSky:
    i, factor = sky.model.names.index(name), fault.number("factor")
    flux, polynomial = sky.model.flux_jy.copy(), sky.model.log_coefficients.copy()
    flux[i] *= factor
    if np.any(polynomial[i]):
        polynomial[i, 0] += np.log10(factor)
    return replace(sky, model=replace(sky.model, flux_jy=flux, log_coefficients=polynomial), listed=_listed(sky, name))


def _offset(sky: SimulatedSky, fault: SignalFault, name: str) -> SimulatedSky:
    i = sky.model.names.index(name)
    moved = _shifted(sky.model, i, fault.number("arcsec"), fault.number("pa_deg"))
    return replace(sky, model=moved, listed=_listed(sky, name))


def _size(sky: SimulatedSky, fault: SignalFault, name: str) -> SimulatedSky:
    shapes = sky.shapes.copy()
    shapes[sky.model.names.index(name)] = [fault.number(n) for n in ("major_arcsec", "minor_arcsec", "pa_deg")]
    return replace(sky, shapes=shapes)


def _double(sky: SimulatedSky, fault: SignalFault, name: str) -> SimulatedSky:
    """Split a source: component A at `pa_deg` from the centroid, B opposite, A over B = ratio; the catalogue has their sum."""
    i, ratio = sky.model.names.index(name), fault.number("ratio")
    share = ratio / (1 + ratio)
    entry = _listed(sky, name)[name]
    both = np.r_[np.arange(len(sky.model)), i]
    doubled, last = sky.model.select(both), len(sky.model)
    for k, part, side, label in ((i, share, 1, "A"), (last, 1 - share, -1, "B")):
        names = list(doubled.names)
        names[k] = f"{name} {label}"
        flux, polynomial = doubled.flux_jy.copy(), doubled.log_coefficients.copy()
        flux[k] *= part
        if np.any(polynomial[k]):
            polynomial[k, 0] += np.log10(part)
        doubled = replace(doubled, names=tuple(names), flux_jy=flux, log_coefficients=polynomial)
        doubled = _shifted(doubled, k, side * (1 - part) * fault.number("arcsec"), fault.number("pa_deg"))
    others = {key: value for key, value in sky.listed.items() if key != name}
    return replace(
        sky, model=doubled, kinds=(*sky.kinds, sky.kinds[i]), curves=(*sky.curves, sky.curves[i]),
        shapes=sky.shapes[both], stokes_q=sky.stokes_q[both], listed=others | {f"{name} A": entry, f"{name} B": None},
    )  # fmt: skip


def _with_resolved(sky: SimulatedSky, fault: SignalFault, chosen: dict[str, Any]) -> SimulatedSky:
    name = str(chosen["name"])
    source = SkyModel(
        (name,), np.deg2rad([chosen["ra_deg"]]), np.deg2rad([chosen["dec_deg"]]),
        np.array([fault.number("flux_jy")]), np.array([_RESOLVED_INDEX]),
    )  # fmt: skip
    shape = [[fault.number(n) for n in ("major_arcsec", "minor_arcsec", "pa_deg")]]
    return replace(
        sky, model=model.concat(sky.model, source), kinds=(*sky.kinds, "constant"), curves=(*sky.curves, None),
        shapes=np.concatenate([sky.shapes, shape]), stokes_q=np.append(sky.stokes_q, 0.0),
        listed={**sky.listed, name: None} if fault.word("catalogued") == "no" else sky.listed,
    )  # fmt: skip


def _place(sky: SimulatedSky, fault: SignalFault, pointings: Float, earlier: Mapping[str, Any]) -> tuple[float, float]:
    """ICRS (ra, dec) [deg] of a resolved source: as requested, as in an earlier call, or 0.3 deg from the middle of the
    run's track, on the side where the nearest source is farthest."""
    if fault.has("ra_deg"):
        return fault.number("ra_deg"), fault.number("dec_deg")
    if earlier:
        return float(earlier["ra_deg"]), float(earlier["dec_deg"])
    middle = pointings[len(pointings) // 2]
    angles = np.deg2rad(np.arange(0.0, 360.0, 30.0))
    ra, dec = offset_rad(middle[0], middle[1], np.deg2rad(_RESOLVED_OFFSET_DEG), angles)
    separation = astrometry.separation_deg(ra[:, None], dec[:, None], sky.model.ra_rad, sky.model.dec_rad)
    best = int(np.argmax(np.min(separation, axis=1, initial=180.0)))
    return float(np.rad2deg(ra[best])), float(np.rad2deg(dec[best]))


def _signs(sky: SimulatedSky, fault: SignalFault, seed: int) -> Float:
    """+1 or -1 per source; random signs depend only on seed and name."""
    if fault.word("sign") != "random":
        return np.full(len(sky.model), 1.0 if fault.word("sign") == "+" else -1.0)
    return np.array(
        [np.random.default_rng([seed, _STREAM_SIGNS, zlib.crc32(name.encode())]).choice([-1.0, 1.0]) for name in sky.model.names]
    )


def _listed(sky: SimulatedSky, name: str) -> Mapping[str, Listed | None]:
    """The sky's catalogue entries, with one for this source: an existing entry, or its present values."""
    i = sky.model.names.index(name)
    ra_deg, dec_deg = float(np.rad2deg(sky.model.ra_rad[i])), float(np.rad2deg(sky.model.dec_rad[i]))
    flux_jy = float(sky.model.flux_at([_REFERENCE_HZ])[i, 0])
    return {name: Listed(name, ra_deg, dec_deg, flux_jy), **sky.listed}


def _shifted(sources: SkyModel, i: int, arcsec: float, pa_deg: float) -> SkyModel:
    ra, dec = sources.ra_rad.copy(), sources.dec_rad.copy()
    angle = np.deg2rad(np.array([pa_deg]))
    ra[i : i + 1], dec[i : i + 1] = offset_rad(ra[i : i + 1], dec[i : i + 1], np.deg2rad(arcsec / 3600), angle)
    return replace(sources, ra_rad=ra, dec_rad=dec)


_CALIBRATOR_FAULTS: dict[str, Callable[[SimulatedSky, SignalFault, str], SimulatedSky]] = {
    "calibrator_flux": _flux,
    "calibrator_offset": _offset,
    "calibrator_size": _size,
    "calibrator_double": _double,
}
