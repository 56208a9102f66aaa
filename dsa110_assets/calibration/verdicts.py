"""The verdicts on an observation's antennas as a table, figures, a picture and a calibration table."""

from __future__ import annotations

import math
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from dsa110_assets.calibration import caltables
from dsa110_assets.calibration.antennas import Observed, channel_gains
from dsa110_assets.calibration.calibrated import Calibrated
from dsa110_assets.calibration.gains import Gains
from dsa110_assets.calibration.receptors import read_receptors
from dsa110_assets.visibilities.types import Visibilities

RECEPTORS = "XY"
_POWER_CHANGED = 1.25
_WIDTH, _HEIGHT, _MARGIN = 640, 160, 24


def table(
    observed: Observed, vis: Visibilities, system_jy: NDArray[np.float64], then_jy: Mapping[str, tuple[float, float]]
) -> pd.DataFrame:
    """Return a table with a row per receptor that has data.

    antenna (station name), receptor ("X", "Y"); amplitude, phase_deg, error: its gain relative to the sky model and to the median of
    all, and the error per real part; delay_ns; noise_factor: variance of its noise over that implied by the weights; system_jy: its
    autocorrelation as a flux density; system_over_calibrator: that over its value at the calibrator's transit (`then_jy`, by antenna);
    verdict. NaN where unknown.
    """
    epoch, names = observed.epoch, vis.antennas.names
    present = np.isfinite(epoch.measured)
    with np.errstate(invalid="ignore"):
        noise = np.array([[_median(observed.noise[a, :, p]) for p in range(2)] for a in range(len(names))])
    rows = []
    for a, p in zip(*np.nonzero(present), strict=True):
        gain = epoch.measured[a, p] / epoch.common
        then = then_jy.get(names[a], (np.nan, np.nan))[p]
        row = {
            "antenna": names[a],
            "receptor": RECEPTORS[p],
            "amplitude": float(abs(gain)),
            "phase_deg": float(np.degrees(np.angle(gain))),
            "error": float(epoch.error[a, p] / epoch.common),
            "delay_ns": float(epoch.delay_ns[a, p]),
            "noise_factor": float(noise[a, p]),
            "system_jy": float(system_jy[a, p]),
            "system_over_calibrator": float(system_jy[a, p] / then),
        }
        rows.append(row | {"verdict": _verdict(observed, int(a), int(p), row)})
    return pd.DataFrame(rows, columns=list(_COLUMNS))


_COLUMNS = (
    "antenna", "receptor", "amplitude", "phase_deg", "error", "delay_ns", "noise_factor", "system_jy", "system_over_calibrator", "verdict",
)  # fmt: skip


def _median(values: NDArray[np.float64]) -> float:
    finite = values[np.isfinite(values)]
    return float(np.median(finite)) if finite.size else float("nan")


def _verdict(observed: Observed, antenna: int, pol: int, row: Mapping[str, Any]) -> str:
    """Return one phrase: what is wrong with a receptor, and what was done."""
    epoch = observed.epoch
    if not epoch.judged:
        return "not judged: the field is too faint, or not as its model"
    power = row["system_over_calibrator"]
    if epoch.lost[antenna, pol]:
        noise = f", and {power:.2f} times the power it had" if power == power and not 1 / _POWER_CHANGED < power < _POWER_CHANGED else ""
        return f"shows {row['amplitude']:.2f} of the sky's amplitude in phase with the others{noise}: flagged"
    done = []
    if epoch.delay_ns[antenna, pol]:
        done.append(f"delay of {row['delay_ns']:.2f} ns")
    if epoch.changed[antenna, pol]:
        done.append("another bandpass")
    if epoch.stand_out[antenna, pol] and not epoch.changed[antenna, pol]:
        done.append(f"gain of {row['amplitude']:.3f} at {row['phase_deg']:.1f} deg")
    return f"{', '.join(done)}: corrected" if done else "well"


UNJUDGED: dict[str, Any] = {
    "antennas_judged": False, "receptors_lost": [], "n_receptors_lost": 0, "n_antennas_lost": 0, "n_antennas_kept": math.nan,
    "kept_antenna_fraction": math.nan, "epoch_gains": "none", "gain_error": math.nan, "drift_amplitude": math.nan,
    "drift_phase_deg": math.nan, "flux_scale": math.nan, "flux_scale_error": math.nan, "flux_scale_applied": 1.0,
    "flux_scale_references": 0, "flux_scale_needed": 0, "flux_scale_reason": "there is no sky to compare with",
}  # fmt: skip
"""`figures` of an observation without a sky to compare with."""


def figures(observed: Observed, receptors: pd.DataFrame) -> dict[str, Any]:
    """Return the numbers and names that a product keeps; unknown numbers are NaN."""
    epoch, scale = observed.epoch, observed.scale
    names = receptors["antenna"] + receptors["receptor"]
    lost = receptors["verdict"].str.endswith("flagged")
    kept = receptors.loc[~lost, "antenna"].unique()
    gone = [name for name in receptors["antenna"].unique() if name not in set(kept)]
    power = receptors["system_over_calibrator"].to_numpy(float)
    power = power[np.isfinite(power)]
    return {
        "antennas_judged": bool(epoch.judged),
        "antennas_lost": gone,
        "receptors_lost": list(names[lost]),
        "n_antennas_lost": len(gone),
        "n_receptors_lost": int(lost.sum()),
        "n_antennas_kept": len(kept),
        "kept_antenna_fraction": len(kept) / max(len(kept) + len(gone), 1),
        "receptors_corrected": list(names[receptors["verdict"].str.endswith("corrected")]),
        "epoch_gains": epoch.applied,
        "epoch_gain_chi2": epoch.gain_chi2,
        "gain_error": float(receptors["error"].median()) if len(receptors) else float("nan"),
        "drift_amplitude": epoch.drift_amplitude if epoch.judged else float("nan"),
        "drift_phase_deg": float(np.degrees(epoch.drift_phase_rad)) if epoch.judged else float("nan"),
        "model_misfit": epoch.misfit,
        "noise_factor_max": float(receptors["noise_factor"].max()) if len(receptors) else float("nan"),
        "system_over_calibrator": float(np.median(power)) if power.size else float("nan"),
        "flux_scale": scale.factor,
        "flux_scale_error": scale.error,
        "flux_scale_references": scale.count,
        "flux_scale_needed": observed.references_needed,
        "flux_scale_applied": observed.scale_applied,
        "flux_scale_reason": observed.scale_reason,
        "field_sources_changed": observed.changed_sources,
        "field_sources_new": observed.new_sources,
    }


def gains(observed: Observed, vis: Visibilities) -> Gains:
    """Return the applied correction as a bandpass table per interval: gains with delays and the flux scale, lost receptors flagged.

    CASA's applycal with this table turns data calibrated with the original tables into the platform's result.
    """
    sums, epoch = observed.sums, observed.epoch
    values = channel_gains(vis.frequencies_hz, sums, epoch) * np.sqrt(observed.scale_applied)
    bounds = sums.first_time
    times = np.array([vis.times_mjd[a:b].mean() for a, b in pairwise(bounds)])
    bad = epoch.lost | ~np.isfinite(epoch.measured)
    flags = np.broadcast_to(bad[None, :, None], values.shape)
    snr = np.divide(epoch.common, epoch.error, out=np.zeros(epoch.error.shape), where=epoch.error > 0)
    return Gains(
        "B", np.where(flags, 1, values), flags.copy(), np.where(flags, 0, snr[None, :, None]).astype(np.float32), times,
        float(np.diff(bounds).max()) * vis.interval_s, vis.frequencies_hz, vis.antennas.names, int(np.argmax(snr.min(axis=1))), "sky",
    )  # fmt: skip


def draw(receptors: pd.DataFrame, path: Path) -> None:
    """Draw all receptors' amplitudes, 0 to 2 (X filled dots, Y hollow dots), lost ones red, corrected ones orange."""
    picture = Image.new("RGB", (_WIDTH, _HEIGHT), "white")
    pen = ImageDraw.Draw(picture)
    antennas = list(receptors["antenna"].unique())
    step = (_WIDTH - 2 * _MARGIN) / max(len(antennas), 1)
    for level, colour in ((0.0, "black"), (1.0, "#bbbbbb"), (2.0, "#eeeeee")):
        pen.line([(_MARGIN, _row(level)), (_WIDTH - _MARGIN, _row(level))], fill=colour)
        pen.text((2, _row(level) - 6), f"{level:g}", fill="black")
    for row in receptors.itertuples():
        x, y = _MARGIN + step * (antennas.index(row.antenna) + 0.5), _row(min(max(row.amplitude, 0.0), 2.0))
        colour = "#c00000" if row.verdict.endswith("flagged") else "#e08000" if row.verdict.endswith("corrected") else "#205090"
        box = (x - 2, y - 2, x + 2, y + 2)
        pen.ellipse(box, fill=colour if row.receptor == "X" else "white", outline=colour)
        if colour == "#c00000":
            pen.text((x - 6, _HEIGHT - 14), row.antenna, fill=colour)
    pen.text((_MARGIN, 2), "amplitude of each receptor against the sky, over the median", fill="black")
    picture.save(path)


def _row(level: float) -> float:
    return _HEIGHT - _MARGIN - level / 2 * (_HEIGHT - 2 * _MARGIN)


def write(made: Calibrated, tables: Path, directory: Path, ms_path: Path) -> dict[str, Any]:
    """Write the verdicts into `directory`: antennas.parquet, a picture, and the applied correction as a CASA table
    (of the measurement set at `ms_path`). Return the figures. `tables` is the directory of the set the data were corrected by.
    """
    if made.observed is None:
        return dict(UNJUDGED)
    verdicts = table(made.observed, made.frame, made.system_jy, read_receptors(tables))
    verdicts.to_parquet(directory / "antennas.parquet")
    draw(verdicts, directory / "preview.png")
    caltables.write(gains(made.observed, made.frame), directory / "epoch.cal", ms_path)
    return figures(made.observed, verdicts)
