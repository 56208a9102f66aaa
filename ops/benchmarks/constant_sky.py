"""Thirty nights of a constant sky with one instrument fault per night: every source reported as variable is false.

24 antennas observe the 3C138 strip four times a night. Each night's fault, its antenna and its first observation are drawn
at random (seeded); the observation of the calibrator can be affected too. All observations go through the whole graph, so
that every night publishes candidates from the nights up to it. Figures: candidates published in any night and at the end;
p-values of constant sources at the end (share below 0.05 and 0.5, and the probability of the Kolmogorov-Smirnov distance
from uniform); pulls about the truth.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from common import Contender, Data, Row, compare

NIGHTS, GROUPS, SEED = 30, 4, 7
KINDS = (
    "deaf_antenna:{groups}:antenna={antenna}",
    "deaf_antenna:{groups}:antenna={antenna},receptor=x",
    "quiet_antenna:{groups}:antenna={antenna},db=3",
    "quiet_antenna:{groups}:antenna={antenna},db=10",
    "power_loss:{groups}:antenna={antenna},db=6",
    "delay_jump:{groups}:antenna={antenna},ns=3",
    "gain_drift:{groups}:amplitude=0.1,phase_deg=30",
    "swapped_feeds:{groups}:antenna={antenna}",
    "swapped_feeds:{groups}:antenna={antenna},how=labels",
    "swapped_feeds:{groups}:antenna={antenna},how=gains",
    "power_down:{groups}:factor=0.85",
    "noise_up:{groups}:antenna={antenna},factor=4",
    "receptor_noise:{groups}:ratio=1.5",
    "satellite:{groups}:power_jy=100",
    "wide_rfi:{groups}:power_jy=100",
)
"""All instrument faults and interference, each strong enough to spoil an observation."""


def rows(data: Data, repeats: int) -> list[Row]:
    arguments = {"scratch": str(data.scratch), "nights": NIGHTS}
    remark = f"{NIGHTS} nights of {GROUPS} observations, 24 antennas, one fault a night"
    return compare([Contender("constant sky, faults", "dsa110_assets", judged, arguments, remark, limit_s=4 * 3600)], 1)


def planted(nights: int, antennas: tuple[int, ...]) -> tuple[str, ...]:
    """One fault per night, in the form of the option `dsa110 simulate --fault`."""
    import numpy as np

    rng = np.random.default_rng(SEED)
    out = []
    for night in range(nights):
        first, last = night * GROUPS + int(rng.integers(GROUPS)), (night + 1) * GROUPS - 1
        groups = f"{first}-{last}" if first < last else str(first)
        out.append(str(rng.choice(KINDS)).format(groups=groups, antenna=int(rng.choice(antennas))))
    return tuple(out)


def judged(scratch: str, nights: int) -> dict[str, Any]:
    """Simulate and process the nights under `scratch`, and return the figures."""
    import tempfile

    import numpy as np
    import pandas as pd
    from scipy import stats

    from dsa110_assets_tests.end_to_end import sky_faults

    with tempfile.TemporaryDirectory(dir=scratch) as place:
        antennas = sky_faults.SKY["antennas"]
        faults = planted(nights, active(Path(place) / "asked", antennas))
        done = sky_faults.run(Path(place), faults, groups=GROUPS, nights=nights)
        variability = [done.table(product) for product in done.archive.products("variability")]
        points = done.points
        usable = np.isfinite(points["flux_jy"]) & (points["quality"] == 0)
        pull = ((points["flux_jy"] - points["true_jy"]) / points["absolute_err_jy"])[usable]
        ratio = done.tiles.groupby("observation")["ratio"].median()
        worst = str((ratio - 1).abs().idxmax())
        told = done.failed_of_observations.loc[done.failed_of_observations["partition"] == worst, "check"]
        p = variability[-1]["p_eta"].dropna().to_numpy(float)
        names = sorted({str(name) for table in variability for name in table.loc[table["kind"] != "", "source_id"]})
        ever = pd.concat([table[table["kind"] != ""].assign(night=k) for k, table in enumerate(variability)])
        return {
            "candidates ever": float(len(ever)), "nights with any": float(ever["night"].nunique()),
            "candidates at the end": float((variability[-1]["kind"] != "").sum()), "sources tested": float(p.size),
            "share of p below 0.05": float((p < 0.05).mean()), "below 0.5": float((p < 0.5).mean()),
            "uniform (KS p)": float(stats.kstest(p, "uniform").pvalue),
            "mean of pulls": float(pull.mean()), "sd of pulls": float(pull.std()), "points": float(pull.size),
            "tiles": float(ratio.size), "tiles' worst median ratio": float(ratio[worst]),
            "silent": float(len(done.silent())),
            "remark": f"failed: {len(done.report.failed)}; held: {len(done.held)}; candidates: {', '.join(names) or 'none'}; "
            f"worst tile: {worst}, failed checks: {', '.join(sorted(set(told))) or 'none'}",
        }  # fmt: skip


def active(folder: Path, antennas: int) -> tuple[int, ...]:
    """Station numbers of a simulated array of this size."""
    from dsa110_assets.simulator.options import SimulationOptions
    from dsa110_assets.simulator.simulate import simulate
    from dsa110_assets_tests.end_to_end import sky_faults

    smallest = {**sky_faults.SKY, "groups": 1, "channels": 1, "subbands": 1, "integrations": 1, "antennas": antennas}
    return tuple(int(name) for name in simulate(folder, SimulationOptions(**smallest))["antennas"])
