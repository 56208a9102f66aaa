"""truth.json and catalogue.csv: the true sky and instrument, written beside the simulated files."""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from dsa110_assets.errors import ConfigurationError
from dsa110_assets.simulator import interference, sky_faults
from dsa110_assets.simulator.instrument import Instrument
from dsa110_assets.simulator.options import SimulationOptions
from dsa110_assets.simulator.schedule import ScheduledGroup
from dsa110_assets.simulator.sky import SimulatedSky, observed_transits, variability_record
from dsa110_assets.sky import structures
from dsa110_assets.telescope import band, timegrid

VERSION = 1
_MUST_AGREE = ("seed", "antennas", "channels", "dec_deg")


def load(out: Path, options: SimulationOptions) -> dict[str, Any] | None:
    """The truth of earlier calls into `out`, or None. ConfigurationError if those were of another sky or array."""
    path = out / "truth.json"
    if not path.exists():
        return None
    try:
        truth: dict[str, Any] = json.loads(path.read_text())
        earlier = truth["options"]
    except (ValueError, KeyError) as error:
        raise ConfigurationError(f"{path} was not written by this simulator ({error}): choose another directory") from error
    for name in _MUST_AGREE:
        if earlier[name] != getattr(options, name):
            raise ConfigurationError(
                f"{path} was made with {name} = {earlier[name]}, not {getattr(options, name)}: choose another directory"
            )
    earlier_faults = [fault for fault in earlier["faults"] if fault["kind"] in sky_faults.KINDS]
    if earlier_faults != json.loads(json.dumps([asdict(fault) for fault in options.signal_faults(*sky_faults.KINDS)])):
        raise ConfigurationError(f"{path} was made with other faults of the sky, which hold for all groups: choose another directory")
    return truth


def before_groups(
    options: SimulationOptions, groups: Sequence[ScheduledGroup], sky: SimulatedSky, instrument: Instrument,
    previous: dict[str, Any] | None,
) -> dict[str, Any]:  # fmt: skip
    """The truth of a run before its first group, merged with that of earlier calls: sources by name, gains by night."""
    before = previous or {"sources": [], "groups": [], "gains": {"nights": {}}, "calibration": {}}
    nights = sorted({group.night for group in groups})
    return {
        "version": VERSION,
        "options": asdict(options),
        "antennas": [int(number) + 1 for number in instrument.array.numbers],
        "bad_antennas": {
            "dead_antennas": [number + 1 for number in instrument.dead_antennas],
            "dead_receptors": [[number + 1, "XY"[pol] * 2] for number, pol in instrument.dead_receptors],
        },
        "calibration": before["calibration"] | dict.fromkeys(nights, sky.note),
        "sources": _merge_sources(_sources(groups, sky), before["sources"]),
        "groups": before["groups"],
        "gains": {"nights": before["gains"]["nights"] | {night: _gains(instrument, groups, night) for night in nights}},
        "rfi": {
            "tones": [interference.record(tone) for tone in interference.tones(options)],
        },
        "faults": [],
    }


def with_groups(truth: dict[str, Any], written: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Add groups to the truth, in time order; a group written again replaces its earlier entry."""
    merged = {g["mjd_start"]: g for g in truth["groups"]} | {g["mjd_start"]: g for g in written}
    groups = [merged[start] for start in sorted(merged)]
    touched = float(np.mean([g["rfi"]["touched_fraction"] for g in groups])) if groups else 0.0
    return truth | {
        "groups": groups, "rfi": truth["rfi"] | {"touched_fraction": touched}, "faults": _all_faults(groups),
    }  # fmt: skip


def _all_faults(groups: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Every file fault with its observation; every signal fault once, with all its observations."""
    files: list[dict[str, Any]] = []
    signal: dict[str, dict[str, Any]] = {}
    for group in groups:
        for fault in group["faults"]:
            if "subband" in fault:
                files.append(fault | {"observation": group["observation"]})
            else:
                entry = signal.setdefault(json.dumps(fault, sort_keys=True), fault | {"observations": []})
                entry["observations"].append(group["observation"])
    return [*files, *signal.values()]


def write(out: Path, truth: dict[str, Any]) -> None:
    """Replace OUT/truth.json and OUT/catalogue.csv, each atomically. The catalogue has mean positions and 1.4 GHz
    fluxes, or the catalogue entries where these differ from the truth."""
    _replace(out / "truth.json", json.dumps(truth, indent=1, allow_nan=False))
    path = out / ".catalogue.csv.tmp"
    with path.open("w", newline="") as handle:
        table = csv.writer(handle, lineterminator="\n")
        table.writerow(["name", "ra_deg", "dec_deg", "flux_jy", "spectral_index"])
        for source in truth["sources"]:
            if (s := source.get("listed", source)) is None:
                continue
            table.writerow(
                [
                    s["name"],
                    f"{s['ra_deg']:.8f}",
                    f"{s['dec_deg']:.8f}",
                    f"{s['flux_jy']:.6f}",
                    f"{source['spectral_index']:.4f}",
                ]
            )
    os.replace(path, out / "catalogue.csv")


def _replace(path: Path, text: str) -> None:
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.write_text(text)
    os.replace(temporary, path)


def _sources(groups: Sequence[ScheduledGroup], sky: SimulatedSky) -> list[dict[str, Any]]:
    nights = [[g for g in groups if g.night_index == i] for i in sorted({g.night_index for g in groups})]
    transits = np.stack([observed_transits(sky.model, night) for night in nights], axis=1)
    flux_1400 = sky.model.flux_at([1.4e9])[:, 0]
    structure_of = structures.in_model(sky.model)
    sources = []
    for i, name in enumerate(sky.model.names):
        ra, dec, curve = float(sky.model.ra_rad[i]), float(sky.model.dec_rad[i]), sky.curves[i]
        observed = transits[i][np.isfinite(transits[i])]
        factors = np.ones(observed.size) if curve is None else curve.factor(observed)
        source: dict[str, Any] = {
            "name": name,
            "ra_deg": float(np.rad2deg(ra)),
            "dec_deg": float(np.rad2deg(dec)),
            "flux_jy": float(flux_1400[i]),
            "spectral_index": float(sky.model.spectral_index[i]),
            "kind": sky.kinds[i],
            "light_curve": [[float(mjd), float(flux_1400[i] * f)] for mjd, f in zip(observed, factors, strict=True)],
        }
        if sky.kinds[i] == "calibrator" and name.startswith("SIM"):
            source["synthetic"] = True
        if np.any(sky.model.log_coefficients[i]):
            source["log_coefficients"] = sky.model.log_coefficients[i].tolist()
        if i in structure_of:
            source["components"] = [_component(component) for component in structure_of[i].components]
        if curve is not None:
            source["variability"] = variability_record(curve)
        if sky.shapes[i, 0]:
            source |= dict(zip(("major_arcsec", "minor_arcsec", "pa_deg"), sky.shapes[i].tolist(), strict=True))
        if sky.stokes_q[i]:
            source["stokes_q_fraction"] = float(sky.stokes_q[i])
            source["stokes_q_jy"] = float(sky.stokes_q[i] * flux_1400[i])
        if name in sky.listed:
            listed = sky.listed[name]
            source["listed"] = asdict(listed) if listed else None
        sources.append(source)
    return sources


def _component(component: structures.Component) -> dict[str, float]:
    """A component of a source: offsets from the source's position, share of its flux, FWHM and position angle."""
    major, minor, angle = component.shape.axes_arcsec
    east, north = (3600 * float(np.rad2deg(offset)) for offset in (component.east_rad, component.north_rad))
    return {
        "east_arcsec": east, "north_arcsec": north, "share": component.share, "major_arcsec": major, "minor_arcsec": minor, "pa_deg": angle
    }  # fmt: skip


def _merge_sources(new: list[dict[str, Any]], old: list[dict[str, Any]]) -> list[dict[str, Any]]:
    merged = {source["name"]: source for source in old}
    for source in new:
        points = dict(merged.get(source["name"], source)["light_curve"])
        points |= dict(source["light_curve"])
        merged[source["name"]] = source | {"light_curve": [[mjd, points[mjd]] for mjd in sorted(points)]}
    return sorted(merged.values(), key=lambda source: (source["ra_deg"], source["name"]))


def _gains(instrument: Instrument, groups: Sequence[ScheduledGroup], night: str) -> dict[str, Any]:
    """Gains at the middle of the night's run, per receptor, at one frequency per subband (ascending)."""
    night_groups = [group for group in groups if group.night == night]
    middle = np.array([(night_groups[0].mjd_start + night_groups[-1].mjd_start) / 2])
    subbands = instrument.options.subbands
    frequencies = np.sort([float(np.mean(band.subband_frequencies_hz(s))) for s in range(subbands)])
    values = instrument.gains(night, middle, frequencies)[0]
    return {
        "mjd": float(middle[0]),
        "frequencies_hz": frequencies.tolist(),
        "axes": ["antenna", "frequency", "pol (XX, YY)"],
        "real": np.round(values.real, 9).tolist(),
        "imag": np.round(values.imag, 9).tolist(),
    }


def group_record(group: ScheduledGroup, files: list[str], faults: list[dict[str, Any]], rfi: dict[str, Any]) -> dict[str, Any]:
    """One group's entry in the truth: `stamp` is the first file's."""
    return {
        "mjd_start": group.mjd_start,
        "observation": timegrid.observation_key(group.mjd_start),
        "stamp": group.stamps[0],
        "night": group.night,
        "after_restart": group.after_restart,
        "files": files,
        "faults": faults,
        "rfi": rfi,
    }
