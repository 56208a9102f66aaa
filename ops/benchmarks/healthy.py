"""Twenty healthy observations, hours after their calibrator: does the comparison with the sky ever make their gains worse?

24 antennas observe the 3C138 strip with the simulator's ordinary drift of gains. Each observation is simulated with noise,
calibrated and compared with the sky. The resulting gains are then applied to the same observation without noise, and so are
the gains of the tables alone. Both results are compared with the sky as a perfect instrument sees it. Error: rms of the
difference over the rms of the sky, over the cross-correlations that both use.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from common import Contender, Data, Row, compare

OBSERVATIONS = 20
STEP_MIN = 15
PERFECT = {
    "noise_scale": 0.0, "gain_amplitude": 1.0, "gain_scatter": 0.0, "gain_night_scatter": 0.0, "gain_drift": 0.0,
    "dead_antennas": 0, "dead_receptors": 0, "rfi_tones": 0,
}  # fmt: skip


def rows(data: Data, repeats: int) -> list[Row]:
    call = {"scratch": str(data.scratch), "number": OBSERVATIONS}
    remark = "error of visibilities for gains: tables alone, and with what the comparison found"
    return compare([Contender("healthy observations", "dsa110_assets", paired, call, remark, limit_s=3600)], 1)


def paired(scratch: str, number: int) -> dict[str, Any]:
    """Median and largest of both errors over the observations, and the number in which the comparison made the error larger."""
    import tempfile
    from datetime import datetime, timedelta

    import numpy as np

    from dsa110_assets_tests.end_to_end import later_observation as later

    alone, compared = np.empty(number), np.empty(number)
    with tempfile.TemporaryDirectory(dir=scratch) as place:
        (Path(place) / "tables").mkdir()
        solution, sky = later.solved(Path(place) / "tables")
        for k in range(number):
            start = datetime.fromisoformat(later.LATER) + timedelta(minutes=STEP_MIN * k)
            with tempfile.TemporaryDirectory(dir=place) as folder:
                alone[k], compared[k] = errors(Path(folder), f"{start:%Y-%m-%dT%H:%M:%S}", solution.tables, sky)
    worse = compared > alone
    return {
        "tables alone": float(np.median(alone)), "worst alone": float(alone.max()), "compared": float(np.median(compared)),
        "worst compared": float(compared.max()), "worse in": float(worse.sum()), "observations": float(number),
        "largest increase": float((compared / alone).max()), "mean ratio": float((compared / alone).mean()),
    }  # fmt: skip


def errors(folder: Path, start: str, tables: Any, sky: Any) -> tuple[float, float]:
    """Errors of one observation's visibilities with the tables alone, and with the gains corrected by the comparison."""
    import numpy as np

    from dsa110_assets.calibration import antennas, calibrated
    from dsa110_assets.calibration.epoch_options import EpochOptions
    from dsa110_assets.imaging.search import bright_sources
    from dsa110_assets.visibilities import measurement_set
    from dsa110_assets_tests.end_to_end import later_observation as later

    (folder / "noisy").mkdir()
    raw, _ = later.observation(folder / "noisy", start, (), later.SMALL)
    calibrated.calibrate_set(raw, tables, folder / "calibrated.ms")
    noisy = measurement_set.read(folder / "calibrated.ms")
    seen = antennas.observe(noisy, sky, EpochOptions(), bright_sources)
    alone = without_noise(folder / "silent", start, tables, {"noise_scale": 0.0})
    better = antennas.corrected(alone, seen.sums, seen.epoch, seen.scale_applied, seen.noise)
    true = without_noise(folder / "sky", start, (), PERFECT)
    use = ~(noisy.flags | better.flags) & ~noisy.is_auto[None, :, None, None]
    scale = np.sqrt(np.mean(np.abs(true.data[use]) ** 2))
    of_tables, of_both = (float(np.sqrt(np.mean(np.abs(one.data[use] - true.data[use]) ** 2)) / scale) for one in (alone, better))
    return of_tables, of_both


def without_noise(place: Path, start: str, tables: Any, changes: dict[str, Any]) -> Any:
    """Visibilities of the observation simulated with changed options, divided by the tables' gains, without flagging."""
    from dataclasses import replace

    import numpy as np

    from dsa110_assets.calibration import apply
    from dsa110_assets.visibilities import phasing, reader
    from dsa110_assets_tests.end_to_end import later_observation as later

    files = later.simulated(place, start, (), later.SMALL | changes)[0]
    vis = reader.read_group(files)
    gains, good = apply.total_gains(vis, tables)
    inverse = np.where(good, 1 / gains, 0)
    data = vis.data * inverse[:, vis.ant1] * inverse[:, vis.ant2].conj()
    return phasing.to_common_centre(replace(vis, data=data.astype(np.complex64)))
