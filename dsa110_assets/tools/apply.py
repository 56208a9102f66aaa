"""`apply`: a raw measurement set and its tables to a calibrated one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from dsa110_assets.calibration import apply as applying
from dsa110_assets.calibration import calibrated, caltables
from dsa110_assets.calibration.gains import Gains
from dsa110_assets.errors import BadDataError
from dsa110_assets.tools import outputs
from dsa110_assets.tools.outputs import Progress
from dsa110_assets.visibilities import averaging, measurement_set
from dsa110_assets.visibilities.types import Visibilities


@dataclass(frozen=True)
class Applied:
    """`path` of the calibrated set; `channels` averaged into one; `flag_fraction` of its cross-correlations."""

    path: Path
    channels: int
    flag_fraction: float


def fitting_table(path: Path, vis: Visibilities, ms: Path) -> Gains:
    """Read a table that fits the data. Raises BadDataError, naming the table, if it is for another band or other antennas."""
    gains = caltables.read(path)
    try:
        _, good = applying.total_gains(vis, [gains])
    except BadDataError as error:
        raise BadDataError(f"{path}: {error}") from error
    low, high = float(vis.frequencies_hz[0]) - vis.channel_width_hz, float(vis.frequencies_hz[-1]) + vis.channel_width_hz
    if not low <= gains.frequencies_hz[0] <= high:
        raise BadDataError(
            f"{path}: is for {gains.frequencies_hz[0] / 1e6:.2f} MHz, and {ms} has {low / 1e6:.2f} to {high / 1e6:.2f} MHz; "
            "take a table of the same band"
        )
    if not good[:, vis.active_antennas].any():
        raise BadDataError(f"{path}: has no solution for any antenna of {ms}; take tables of the same antennas")
    return gains


def require_raw(ms: Path) -> None:
    """Raise BadDataError if a set is already calibrated."""
    if measurement_set.unit(ms) == "Jy":
        raise BadDataError(f"{ms}: DATA is in Jy, so the set is calibrated already; give the raw set that dsa110 convert made")


def apply(
    ms: Path,
    tables: Sequence[Path],
    out: Path,
    *,
    channels: int = 0,
    times: int = 1,
    keep_fields: bool = False,
    force: bool = False,
    dry_run: bool = False,
    progress: Progress = outputs.nothing,
) -> Applied:
    """Write the set at `ms`, corrected with all `tables`, as a new set `out` in Jy, like the asset `calibrated_ms` but without the
    comparison with the sky.

    `channels` are averaged into one (0: as many as are together no wider than 1 MHz), and so are `times` integrations, with one phase
    centre, the middle of the meridian track. `keep_fields`: nothing is averaged, and each integration keeps its own phase centre. Raises
    BadDataError for a calibrated set, and for a table of another band or other antennas; ConfigurationError if `out` exists.
    """
    outputs.require_new(out, force)
    require_raw(ms)
    with measurement_set.opened(ms) as stored:
        frame = stored.frame
    gains = [fitting_table(path, frame, ms) for path in tables]
    n_channels = frame.frequencies_hz.size
    channels = channels or averaging.channels_up_to(averaging.WIDEST_HZ, n_channels, frame.channel_width_hz)
    if n_channels % channels:
        raise BadDataError(f"{ms}: has {n_channels} channels, which {channels} do not divide; average another number")
    channels = 1 if keep_fields else channels
    if dry_run:
        return Applied(out, channels, float("nan"))
    progress(0, 1, f"calibrating {ms.name}")
    options = {"channels": channels, "times": times, "keep_fields": keep_fields}
    with outputs.making(out, "apply", [ms, *tables], options, force=force) as draft:
        if keep_fields:
            vis = applying.apply(measurement_set.read(ms), gains)
            measurement_set.write(vis, draft.path, unit="Jy")
            fraction = float(vis.flags[:, ~vis.is_auto].mean())
        else:
            fraction = calibrated.calibrate_set(ms, gains, draft.path, channels=channels, times=times).flag_fraction
        draft.figures = {"flag_fraction": fraction}
    progress(1, 1, "")
    return Applied(out, channels, fraction)
