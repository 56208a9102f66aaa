"""Three short nights of a 24-antenna array, simulated and processed once, shared by all end-to-end tests.

The strip's calibrator (0020+156, 2.1 Jy, steady) transits in the last group of each night; the planted flare and dip
are two beams away, so that a sky model without them still calibrates. Noise, gains, dead antennas
and interference are the simulator's own.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import pytest

from dsa110_assets.archive.light_curves import Nights
from dsa110_assets.archive.store import Archive
from dsa110_assets.orchestration.running.process import ProcessReport, process
from dsa110_assets.settings import Settings
from dsa110_assets.simulator.options import SimulationOptions
from dsa110_assets.simulator.simulate import simulate
from dsa110_assets.telescope import astrometry
from dsa110_assets_tests.tiny import SMALL_DISK

NIGHTS = ("2026-01-25", "2026-01-26", "2026-01-27")
GROUPS = 4
SKY = SimulationOptions(
    start="2026-01-25T23:35:40", groups=GROUPS, nights=len(NIGHTS), antennas=24, channels=8, subbands=16, seed=1, restart_every=0
)
MATCH_ARCSEC = 15.0


@dataclass(frozen=True)
class Survey:
    """The simulation's truth, the settings it was processed with, and the report of the processing."""

    settings: Settings
    report: ProcessReport
    truth: dict[str, Any]

    @property
    def archive(self) -> Archive:
        return Archive(self.settings.archive)

    def table(self, asset: str) -> pd.DataFrame:
        """The last night's table of an asset."""
        path = self.archive.products(asset)[-1].path / f"{asset}.parquet"
        return pd.read_parquet(path)


@pytest.fixture(scope="session")
def survey(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Survey]:
    """Simulated, then processed through Dagster."""
    from dsa110_assets import settings

    place = tmp_path_factory.mktemp("survey")
    with pytest.MonkeyPatch.context() as patch:
        for name in [n for n in os.environ if n.startswith("DSA110_") or n == "DAGSTER_HOME"]:
            patch.delenv(name)
        simulate(place / "inbox", SKY)
        configured = settings.load(
            inbox=place / "inbox",
            archive=place / "archive",
            DAGSTER_HOME=place / "home",
            catalogues=(place / "inbox" / "catalogue.csv",),
            thresholds=SMALL_DISK,
            imaging={"field_deg": 4.4},
        )
        report = process(configured)
        yield Survey(configured, report, json.loads((place / "inbox" / "truth.json").read_text()))


@pytest.fixture(scope="session")
def compared(survey: Survey) -> pd.DataFrame:
    """Return every light-curve point with the truth at its time: name, kind, true_jy, true_index, isolated, and the point's columns.

    Truth is scaled to the measurement's frequency by the source's own spectral index. Isolated: all other sources
    within three beams (200 arcsec) sum to less than 1 % of its flux.
    """
    nights = Nights.of([product.path for product in survey.archive.products("light_curves")])
    curves, sources = nights.of_sources(nights.names()), survey.truth["sources"]
    frequency_hz = float(survey.table("source_measurements")["frequency_hz"].iloc[0])
    ra = np.deg2rad([s["ra_deg"] for s in sources])
    dec = np.deg2rad([s["dec_deg"] for s in sources])
    flux = np.array([s["flux_jy"] for s in sources])
    rows = []
    for point in curves.itertuples():
        away = 3600 * astrometry.separation_deg(np.deg2rad(point.ra_deg), np.deg2rad(point.dec_deg), ra, dec)
        nearest = int(np.argmin(away))
        if away[nearest] < MATCH_ARCSEC and np.isfinite(point.flux_jy):
            source = sources[nearest]
            epochs = source["light_curve"] or [[point.mjd, source["flux_jy"]]]
            true = np.interp(point.mjd, *np.transpose(epochs)) * (frequency_hz / 1.4e9) ** source["spectral_index"]
            near = astrometry.separation_deg(ra[nearest], dec[nearest], ra, dec) * 3600 < 200
            crowd = flux[near].sum() - flux[nearest]
            matched = {"name": source["name"], "kind": source["kind"], "true_jy": true, "isolated": crowd < 0.01 * flux[nearest]}
            matched["true_index"] = source["spectral_index"]
            rows.append({**matched, **point._asdict()})
    return pd.DataFrame(rows)
