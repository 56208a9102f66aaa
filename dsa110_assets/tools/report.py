"""The report of a solve: every antenna's amplitudes and phases, waterfalls, closures, and the figures, as one page with its plots."""

from __future__ import annotations

import html
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from dsa110_assets.calibration.gains import Gains

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_ACROSS = 8
_LISTED = 12
"""How many entries of a list are shown."""


def write(
    directory: Path, tables: Mapping[str, Gains], figures: Mapping[str, Any], closures: tuple[Sequence[float], Sequence[float]], ms: Path
) -> None:
    """Write report.html, and the PNGs that it shows, into an existing directory."""
    plots: dict[str, Figure] = {}
    for name, gains in tables.items():
        kind = name.partition(".")[0]
        if gains.kind == "K":
            continue
        plots[f"{kind}-amplitude.png"] = _antennas(gains, f"{name}: amplitude", phases=False)
        plots[f"{kind}-phase.png"] = _antennas(gains, f"{name}: phase [deg]", phases=True)
        plots[f"{kind}-waterfall.png"] = _waterfall(gains, name)
    plots["closure.png"] = _closure(*closures)
    for name, figure in plots.items():
        figure.savefig(directory / name, dpi=80)
    rows = "".join(f"<tr><td>{html.escape(key)}</td><td>{html.escape(_text(value))}</td></tr>" for key, value in sorted(figures.items()))
    pictures = "".join(f'<h2>{name}</h2><img src="{name}" alt="{name}">' for name in plots)
    title = f"Calibration of {html.escape(str(ms))}"
    page = (
        f'<!DOCTYPE html><html lang="en"><meta charset="utf-8"><title>{title}</title><h1>{title}</h1><table>{rows}</table>{pictures}</html>'
    )
    (directory / "report.html").write_text(page, encoding="utf-8")


def _text(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.5g}"
    if isinstance(value, list | tuple):
        return ", ".join(map(str, value[:_LISTED])) + (f" and {len(value) - _LISTED} more" if len(value) > _LISTED else "")
    return str(value)


def _figure(width: float, height: float, layout: Literal["constrained"] | None = "constrained") -> Figure:
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout=layout)


def _solved(gains: Gains) -> list[int]:
    """Antennas with any solution."""
    return [int(a) for a in np.flatnonzero(~gains.flags.all(axis=(0, 2, 3)))]


def _along(gains: Gains) -> tuple[Any, str]:
    """The horizontal axis of a table's plots with its unit: channel frequencies [MHz], or minutes since the first solution."""
    if gains.kind == "B":
        return gains.frequencies_hz / 1e6, "MHz"
    return (gains.times_mjd - gains.times_mjd[0]) * 1440, "min"


def _antennas(gains: Gains, title: str, *, phases: bool) -> Figure:
    """A panel for each antenna, X blue and Y orange; flagged solutions are left out."""
    solved, (along, unit) = _solved(gains), _along(gains)
    rows = max(1, math.ceil(len(solved) / _ACROSS))
    height = 1.4 * rows + 1.0
    figure = _figure(2.0 * _ACROSS, height, None)  # laid out by hand: a hundred panels would take matplotlib seconds
    figure.subplots_adjust(0.04, 0.4 / height, 0.99, 1 - 0.7 / height, 0.08, 0.3)
    figure.suptitle(f"{title} over {unit}")
    axes = figure.subplots(rows, _ACROSS, sharex=True, sharey=True, squeeze=False).reshape(-1)
    values = np.where(gains.flags, np.nan, np.rad2deg(np.angle(gains.values)) if phases else np.abs(gains.values))
    for panel, antenna in zip(axes, solved, strict=False):
        lines = values[0, antenna] if gains.kind == "B" else values[:, antenna, 0]
        panel.plot(along, lines, marker=".", markersize=3, linestyle="none" if phases else "-", linewidth=0.7)
        panel.set_title(gains.antenna_names[antenna], fontsize=8)
    for panel in axes[len(solved) :]:
        panel.set_axis_off()
    return figure


def _waterfall(gains: Gains, name: str) -> Figure:
    """Amplitudes divided by each receptor's median, and phases, with antennas down and channels or times across."""
    solved, (_, unit) = _solved(gains), _along(gains)
    figure = _figure(12, 7)
    axes = figure.subplots(2, 2)
    values = np.where(gains.flags, np.nan, gains.values)[:, solved]
    plane = values[0] if gains.kind == "B" else values[:, :, 0].transpose(1, 0, 2)
    for pol, receptor in enumerate("XY"):
        usable = [row for row in plane[..., pol] if np.isfinite(row).any()]
        shown = np.array(usable).reshape(len(usable), plane.shape[1])
        relative = np.abs(shown) / np.nanmedian(np.abs(shown), axis=1, keepdims=True)
        for column, (part, limits, what) in enumerate(((relative, (0.5, 1.5), "amplitude"), (np.angle(shown), (-np.pi, np.pi), "phase"))):
            picture = axes[pol, column].imshow(part, aspect="auto", vmin=limits[0], vmax=limits[1], interpolation="nearest")
            axes[pol, column].set_title(f"{name} {receptor}: {what}; antennas down, {unit} across", fontsize=9)
            figure.colorbar(picture, ax=axes[pol, column])
    return figure


def _closure(phases_rad: Sequence[float], log_amplitudes: Sequence[float]) -> Figure:
    figure = _figure(10, 3.5)
    for panel, values, label in zip(
        figure.subplots(1, 2), (np.rad2deg(phases_rad), log_amplitudes), ("closure phase [deg]", "ln closure amplitude"), strict=True
    ):
        panel.hist(values, bins=40)
        panel.set_xlabel(f"{label}, data over model")
    return figure
