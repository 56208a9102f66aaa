"""Process one simulated observation with an installed version and compare it with the truth: the test of `ops/deploy` before it switches.

A small array observes a transit of 3C454.3. The files go through `dsa110 process` in a scratch directory, from subbands to light
curves, without the server's inbox, archive or databases. The status is 0, with a line of figures, if the result agrees with the truth.
Kernels that the new version compiles here need not be compiled later while an observation waits.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pandas as pd

SIMULATION = {
    "start": "2026-01-25T22:25:00", "groups": 1, "dec": 16.27, "antennas": 24, "channels": 4, "subbands": 4, "seed": 110,
    "source-density": 0.5,
}  # fmt: skip
SETTINGS = {
    "DSA110_SUBBANDS": "4", "DSA110_MIN_SUBBANDS": "4", "DSA110_STILL_S": "0", "DSA110_IMAGING__FIELD_DEG": "2.5",
    "DSA110_IMAGING__THREADS": "1",
}  # fmt: skip
CHECKS_FAILED = 3
"""Status of `dsa110 process` if everything was made but a check failed. Checks may fail here, because the array is small."""
LEAST_SOURCES, LEAST_SNR = 5, 20.0
MOST_OFF = 0.1
"""Largest departure from 1 of the median of at least five flux ratios. A source at 20 sigma is accurate to 5 %, so the median of five
to 1.25 * 5 % / sqrt(5) = 2.8 %, and the limit is 3.5 sigma. A wrong beam, weight or unit changes the ratio far more. So does a wrong
position: fluxes are measured at catalogue positions, and an image that is off by a fifth of the beam loses 10 % there."""


def main() -> int:
    """Simulate, process and compare; return 1 with a message if the result is wrong, else 0."""
    began = time.monotonic()
    with TemporaryDirectory(prefix="dsa110-smoke-") as scratch:
        try:
            told = compare(*made(Path(scratch)))
        except AssertionError as error:
            print(f"the simulated observation did not come out as it was put in: {error}", file=sys.stderr)
            return 1
    print(f"{told}; {time.monotonic() - began:.0f} s")
    return 0


def made(scratch: Path) -> tuple[Path, Path]:
    """The truth file and the archive that the version made. Raises AssertionError if a command fails."""
    inbox, archive = scratch / "inbox", scratch / "archive"
    limits = scratch / "thresholds.toml"
    limits.write_text("disk_warn_gb = 2\ndisk_critical_gb = 1\n")
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("DSA110_", "DAGSTER"))}
    places = {
        "DSA110_INBOX": inbox, "DSA110_ARCHIVE": archive, "DAGSTER_HOME": scratch / "dagster", "DSA110_THRESHOLDS": limits,
        "DSA110_CATALOGUES": inbox / "catalogue.csv",
    }  # fmt: skip
    environment = {**kept, **SETTINGS, **{name: str(place) for name, place in places.items()}}
    for words, accepted in (
        (["simulate", str(inbox), *(f"--{name}={value}" for name, value in SIMULATION.items())], (0,)),
        (["process"], (0, CHECKS_FAILED)),
    ):
        program = Path(sys.executable).with_name("dsa110")
        done = subprocess.run([program, *words], env=environment, capture_output=True, text=True, cwd=scratch)
        assert done.returncode in accepted, f"dsa110 {words[0]} ended with status {done.returncode}: {reason(done.stdout, done.stderr)}"
    return inbox / "truth.json", archive


def reason(output: str, errors: str) -> str:
    """Why a command failed, in one line: its first failed step, or its last line of output. Progress goes to its standard error."""
    lines = output.strip().splitlines() or errors.strip().splitlines()
    return next((line for line in lines if line.startswith(("failed:", "waiting:"))), lines[-1] if lines else "it says nothing")


def compare(truth: Path, archive: Path) -> str:
    """A sentence comparing the measured fluxes with the simulated ones. Raises AssertionError if they disagree."""
    (table,) = archive.glob("source_measurements/*/*/v0001/source_measurements.parquet")
    (tile,) = archive.glob("tile_image/*/*/v0001/product.json")
    beam_deg = json.loads(tile.read_text())["metadata"]["beam_major_arcsec"] / 3600
    rows = pd.read_parquet(table)
    sources = [one for one in json.loads(truth.read_text())["sources"] if one["kind"] in ("constant", "calibrator")]
    ra, dec, flux, index = (np.array([one[name] for one in sources]) for name in ("ra_deg", "dec_deg", "flux_jy", "spectral_index"))
    ratios = []
    for row in rows[rows["snr"] > LEAST_SNR].itertuples():
        away = np.hypot((ra - row.ra_deg) * np.cos(np.deg2rad(dec)), dec - row.dec_deg)
        nearest = int(away.argmin())
        if away[nearest] < beam_deg:
            ratios.append(row.flux_jy / (flux[nearest] * (row.frequency_hz / 1.4e9) ** index[nearest]))
    assert len(ratios) >= LEAST_SOURCES, (
        f"{len(ratios)} of its sources are seen at {LEAST_SNR:.0f} sigma, at least {LEAST_SOURCES} are required"
    )
    ratio = float(np.median(ratios))
    assert abs(ratio - 1) < MOST_OFF, f"fluxes are {ratio:.3f} of what they were, by the median of {len(ratios)} sources"
    return f"{len(ratios)} sources: fluxes {ratio:.3f} of the truth"


if __name__ == "__main__":
    raise SystemExit(main())
