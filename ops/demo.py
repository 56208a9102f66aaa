"""The demonstration behind `ops/demo`: process three simulated nights into light curves and compare these with the truth."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from dsa110_assets.cli.app import EXIT_CHECKS

ROOT = Path(__file__).resolve().parent.parent
SIMULATION = [
    "--start",
    "2026-01-26T04:32:00",
    "--groups",
    "9",
    "--nights",
    "3",
    "--dec",
    "16.27",
    "--antennas",
    "24",
    "--channels",
    "8",
    "--seed",
    "110",
]  # 3C138, a flux standard, transits 20 minutes after the start
UNNORMALISED = 64  # quality bit of a first night, which has nothing to be normalised against
SHOWN = 12  # number of constant sources printed individually


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--serve", action="store_true", help="leave the web UI and the portal open afterwards")
    serve = parser.parse_args().serve
    home = Path(os.environ.get("DSA110_DEMO", "").strip() or ROOT / "demo").resolve()
    os.environ.update(
        DSA110_INBOX=str(home / "inbox"),
        DSA110_ARCHIVE=str(home / "archive"),
        DAGSTER_HOME=str(home / "dagster"),
        DSA110_CATALOGUES=str(home / "inbox" / "catalogue.csv"),
        DSA110_THRESHOLDS=str(ROOT / "ops" / "small_disk.toml"),
    )
    started = time.monotonic()
    if not (home / "inbox" / "truth.json").exists():
        heading("1. Simulating three nights of the same strip")
        dsa110("simulate", str(home / "inbox"), *SIMULATION)
    heading("2. Inbox to light curves, through Dagster")
    dsa110("process", good=(0, EXIT_CHECKS))
    heading("3. What was produced")
    show_products()
    heading("4. Asset checks")
    show_checks()
    heading("5. Light curves against the truth")
    compare(json.loads((home / "inbox" / "truth.json").read_text()))
    print(f"\nDone in {time.monotonic() - started:.0f} s after installation. Everything is under {home}.")
    if serve:
        heading("The web UI: http://127.0.0.1:3000   The portal: http://127.0.0.1:3001   (Ctrl-C stops both)")
        return dsa110("up", check=False)
    print("The web UI (lineage, partitions, checks, plots): ops/demo --serve, then http://127.0.0.1:3000")
    return 0


def heading(text: str) -> None:
    print(f"\n\033[1m{text}\033[0m", flush=True)


def dsa110(*arguments: str, check: bool = True, good: tuple[int, ...] = (0,)) -> int:
    """Run the `dsa110` command as a user would, in this environment."""
    done = subprocess.run([str(Path(sys.executable).with_name("dsa110")), *arguments])
    if check and done.returncode not in good:
        done.check_returncode()
    return done.returncode


def show_products() -> None:
    import dsa110_assets as dsa

    products = dsa.open_archive().products()
    for asset, rows in products.groupby("asset", sort=False):
        print(f"  {asset:<20} {len(rows):>4}   {rows['size_bytes'].sum() / 1e6:9.1f} MB")


def show_checks() -> None:
    from dsa110_assets import settings
    from dsa110_assets.orchestration.judging.check_summary import check_summary
    from dsa110_assets.orchestration.running.instance import open_instance

    with open_instance(settings.load().dagster_home) as instance:
        for row in check_summary(instance):
            mark = "ok  " if not row.failed else "FAIL"
            print(f"  {mark} {row.asset:<20} {row.check:<28} {row.passed:>4} passed {row.failed:>3} failed  {row.last_failure}")


def compare(truth: dict[str, Any]) -> None:
    """Print recovered light curves beside the injected ones, and whether the variable sources were found."""
    import dsa110_assets as dsa

    archive = dsa.open_archive()
    found = {str(row["source_id"]): str(row["kind"]) for row in archive.variables(max_false_discovery_rate=0.01)}
    pulls, ratios = [], []
    print(f"  {'source':<24} {'kind':<10} {'epochs':>6} {'true Jy':>8} {'measured Jy':>12} {'ratio':>7}  candidate")
    for source, curve in light_curves(archive, sorted(truth["sources"], key=lambda s: -s["flux_jy"])):
        flux, error = curve["flux"].to_value("Jy"), curve["error"].to_value("Jy")
        history, at_hz = source["light_curve"] or [[0.0, source["flux_jy"]]], curve.meta["frequency"].to_value("Hz")
        expected = np.interp(curve.time.mjd, *np.transpose(history)) * (at_hz / 1.4e9) ** source["spectral_index"]
        constant = source["kind"] in ("constant", "calibrator")
        if not constant or len(ratios) < SHOWN:
            identity = str(curve.meta["source_id"])
            print(
                f"  {source['name'][:24]:<24} {source['kind']:<10} {len(flux):>6} {expected.mean():>8.3f} {flux.mean():>12.3f} "
                f"{np.mean(flux / expected):>7.3f}  {found.get(identity) or '-'}"
            )
        if constant and flux.mean() > 20 * error.mean():
            ratios.append(np.mean(flux / expected))
            pulls.extend((flux - flux.mean()) / error * np.sqrt(len(flux) / max(len(flux) - 1, 1)))
    print(f"\n  All fluxes at {at_hz / 1e6:.1f} MHz; true fluxes are scaled from 1400 MHz with each source's spectral index.")
    print(
        f"  {len(ratios)} constant sources above 20 sigma: median flux ratio {np.median(ratios):.4f}, "
        f"scatter {1.4826 * np.median(np.abs(ratios - np.median(ratios))):.4f}; "
        f"pulls of their points about the mean: sd {np.std(pulls):.2f}"
    )
    for night in archive.products("light_curves").itertuples():
        off = pulls_about_truth(Path(night.path), night.frequency_hz, truth["sources"])
        print(
            f"  {night.partition}, as published that night: {off.size} points of all constant sources minus truth, in total errors: "
            f"mean {off.mean():+.2f}, sd {off.std():.2f}"
        )


def pulls_about_truth(product: Path, at_hz: float, injected: list[dict[str, Any]]) -> np.ndarray:
    """(measured - true) / total error of every usable point of every constant source in a night's light curves."""
    import pandas as pd
    from astropy import units as u
    from astropy.coordinates import SkyCoord

    rows = pd.read_parquet(product / "light_curves.parquet")
    rows = rows[np.isfinite(rows["flux_jy"]) & (rows["quality"].isin([0, UNNORMALISED]))]
    true = SkyCoord([s["ra_deg"] for s in injected], [s["dec_deg"] for s in injected], unit="deg")
    nearest, apart, _ = SkyCoord(rows["ra_deg"], rows["dec_deg"], unit="deg").match_to_catalog_sky(true)
    kind, flux, index = (np.array([s[name] for s in injected])[nearest] for name in ("kind", "flux_jy", "spectral_index"))
    known = (apart < 0.008 * u.deg) & np.isin(kind, ["constant", "calibrator"])
    pull = (rows["flux_jy"] - flux * (at_hz / 1.4e9) ** index) / rows["absolute_err_jy"]
    return pull.to_numpy()[known]


def light_curves(archive: Any, injected: list[dict[str, Any]]) -> Iterator[tuple[dict[str, Any], Any]]:
    """The injected sources that the survey has, each with the light curve nearest to its true position."""
    from astropy import units as u
    from astropy.coordinates import SkyCoord

    known = archive.sources()
    true = SkyCoord([s["ra_deg"] for s in injected], [s["dec_deg"] for s in injected], unit="deg")
    nearest, apart, _ = true.match_to_catalog_sky(SkyCoord(known["ra"], known["dec"]))
    for k in np.flatnonzero(apart < 0.008 * u.deg):
        yield injected[k], archive.light_curve(str(known["source_id"][nearest[k]]))


if __name__ == "__main__":
    sys.exit(main())
