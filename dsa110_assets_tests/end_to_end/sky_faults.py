"""A small run of the 3C138 strip with planted faults, processed to the end and compared with its truth. This module has no tests.

outcome = run(tmp_path, ["deaf_antenna:3-:antenna=103"])
outcome.tiles      # one row per observation and isolated bright source: ratio = product over truth
outcome.rows       # the same of source_measurements, with the rows' quality bits
outcome.failed_checks
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from astropy.wcs import WCS
from numpy.typing import NDArray

from dsa110_assets.archive.product import HELD, VERDICTS, Product
from dsa110_assets.archive.store import Archive
from dsa110_assets.imaging import fits
from dsa110_assets.orchestration.graph import specifications
from dsa110_assets.orchestration.judging import rules
from dsa110_assets.orchestration.running.process import ProcessReport, process
from dsa110_assets.photometry.measure import frequency_hz
from dsa110_assets.photometry.quality import decode
from dsa110_assets.settings import Settings
from dsa110_assets.simulator.options import SimulationOptions, parse_fault
from dsa110_assets.simulator.simulate import simulate
from dsa110_assets.sky import model
from dsa110_assets.telescope import astrometry, beam

SKY: dict[str, Any] = {
    "start": "2026-01-26T04:45:00", "dec_deg": 16.27, "antennas": 24, "channels": 8, "subbands": 16, "seed": 110,
    "variables": False, "restart_every": 0,
}  # fmt: skip
"""The strip and seed of ops/demo. 3C138 transits at 04:53:48, in the second group, so faults from group 3 on come
after it."""
GROUPS = 5
CROWD_ARCSEC, CROWD_FRACTION = 200.0, 0.01
"""A source is isolated if all others within three beams sum to less than 1 % of its flux."""
MATCH_ARCSEC = 15.0
MIN_APPARENT_JY = 0.1
"""Least flux of a bright source through the primary beam: some fifty times a healthy tile's noise."""
SMALL_DISK = Path(__file__).parents[2] / "ops" / "small_disk.toml"
_CUT_BEAMS = 0.75


@dataclass(frozen=True)
class Outcome:
    """The settings, the processing report and the simulation's truth of one run."""

    settings: Settings
    report: ProcessReport
    truth: dict[str, Any]

    @property
    def archive(self) -> Archive:
        return Archive(self.settings.archive)

    @property
    def observations(self) -> list[str]:
        """The observations' keys in order of time: group 0 first."""
        return [group["observation"] for group in self.truth["groups"]]

    @property
    def held(self) -> dict[str, str]:
        """Products that a blocking check stopped, by id, with its reason."""
        return self.archive.held()

    @cached_property
    def sources(self) -> pd.DataFrame:
        """The true sources, including components of doubles: name, position, kind, flux, and whether each is isolated and a
        point."""
        frame = pd.DataFrame(self.truth["sources"]).drop(columns=["light_curve"])
        polynomials = np.array([s.get("log_coefficients", np.zeros(6)) for s in self.truth["sources"]])
        frame = frame.assign(**{f"a{i}": polynomials[:, i] for i in range(6)}, frequency_hz=1.4e9)
        ra, dec = np.deg2rad(frame["ra_deg"].to_numpy()), np.deg2rad(frame["dec_deg"].to_numpy())
        near = 3600 * astrometry.separation_deg(ra[:, None], dec[:, None], ra, dec) < CROWD_ARCSEC
        flux = frame["flux_jy"].to_numpy()
        crowd = near @ flux - flux
        size = frame["major_arcsec"].fillna(0) if "major_arcsec" in frame else np.zeros(len(frame))
        return frame.assign(isolated=crowd < CROWD_FRACTION * flux, point=size == 0)

    def true_jy(self, at_hz: float) -> NDArray[np.float64]:
        """True fluxes [Jy] of `sources` at a frequency."""
        return model.from_frame(self.sources).flux_at([at_hz])[:, 0]

    @cached_property
    def tiles(self) -> pd.DataFrame:
        """One row per tile and bright, isolated point source in it: observation, name, kind, true_jy, apparent_jy,
        separation_deg (from the tile's centre), flux_jy (see `fitted_jy`) and ratio = product over truth."""
        columns = ["observation", "name", "kind", "true_jy", "apparent_jy", "separation_deg", "flux_jy", "ratio"]
        rows = [row for product in self.archive.products("tile_image") for row in self._tile(product)]
        return pd.DataFrame(rows, columns=columns)

    def _tile(self, product: Product) -> Iterator[tuple[Any, ...]]:
        image = fits.read_image(product.path / "image-pb.fits")
        at_hz = frequency_hz(image.header)
        true = self.true_jy(at_hz)
        ra, dec = np.deg2rad(self.sources["ra_deg"].to_numpy()), np.deg2rad(self.sources["dec_deg"].to_numpy())
        centre = np.deg2rad([image.header["CRVAL1"], image.header["CRVAL2"]])
        separation_deg = astrometry.separation_deg(ra, dec, *centre)
        apparent = true * beam.power(separation_deg[:, None], np.array([at_hz]))[:, 0]
        bright = (apparent > MIN_APPARENT_JY) & self.sources["isolated"].to_numpy() & self.sources["point"].to_numpy()
        for i in np.flatnonzero(bright):
            flux = fitted_jy(image, np.rad2deg(ra[i]), np.rad2deg(dec[i]))
            if np.isfinite(flux):
                source = self.sources.iloc[i]
                yield product.partition, source["name"], source["kind"], true[i], apparent[i], separation_deg[i], flux, flux / true[i]

    @cached_property
    def rows(self) -> pd.DataFrame:
        """The rows of source_measurements that lie on an isolated point source: the table's columns and name, source_kind,
        true_jy, ratio = product over truth, hour, bits (names of the quality bits)."""
        return self._beside_truth("source_measurements")

    @cached_property
    def points(self) -> pd.DataFrame:
        """The rows of light_curves, as `rows`; here `hour` is the night."""
        return self._beside_truth("light_curves")

    def _beside_truth(self, asset: str) -> pd.DataFrame:
        parts = [self.table(product) for product in self.archive.products(asset)]
        if not parts:
            return pd.DataFrame(columns=["name", "source_kind", "true_jy", "ratio", "hour", "bits"])
        table = pd.concat(parts, ignore_index=True)
        sources = self.sources
        ra, dec = np.deg2rad(sources["ra_deg"].to_numpy()), np.deg2rad(sources["dec_deg"].to_numpy())
        separation_arcsec = 3600 * astrometry.separation_deg(
            np.deg2rad(table["ra_deg"].to_numpy())[:, None], np.deg2rad(table["dec_deg"].to_numpy())[:, None], ra, dec
        )
        nearest = np.argmin(separation_arcsec, axis=1)
        usable = (sources["isolated"] & sources["point"]).to_numpy()[nearest]
        matched = (separation_arcsec.min(axis=1) < MATCH_ARCSEC) & usable & np.isfinite(table["flux_jy"].to_numpy())
        at_hz = table["frequency_hz"].iloc[0] if "frequency_hz" in table else self._frequency_hz
        table = table.assign(
            name=sources["name"].to_numpy()[nearest], source_kind=sources["kind"].to_numpy()[nearest],
            true_jy=self.true_jy(float(at_hz))[nearest], bits=[decode(int(q)) for q in table["quality"]],
        )  # fmt: skip
        return table.assign(ratio=table["flux_jy"] / table["true_jy"])[matched].reset_index(drop=True)

    @property
    def _frequency_hz(self) -> float:
        return float(self.table(self.archive.products("source_measurements")[0])["frequency_hz"].iloc[0])

    def table(self, product: Product) -> pd.DataFrame:
        """A product's table, with the column `hour` for its partition."""
        (path,) = product.path.glob(f"{product.asset}.parquet")
        return pd.read_parquet(path).assign(hour=product.partition)

    @cached_property
    def failed_checks(self) -> pd.DataFrame:
        """Checks that failed on current products: asset, partition, check, hard, held, reason."""
        return pd.DataFrame(
            [
                (p.asset, p.partition, verdict.check, verdict.hard, HELD in p.metadata, verdict.reason)
                for asset in specifications()
                for p in self.archive.products(asset)
                if VERDICTS in p.metadata
                for verdict in rules.from_metadata(asset, p.metadata)
                if not verdict.passed
            ],
            columns=["asset", "partition", "check", "hard", "held", "reason"],
        )

    @property
    def failed_of_observations(self) -> pd.DataFrame:
        """The `failed_checks` on products of single observations. The asset decides, because the key of an hour may also be the key
        of an observation."""
        is_of_observation = [specifications()[asset].grain == "observation" for asset in self.failed_checks["asset"]]
        return self.failed_checks[np.array(is_of_observation, dtype=bool)]

    @cached_property
    def candidates(self) -> pd.DataFrame:
        """The rows of variability that the platform calls candidates, of all nights."""
        tables = [self.table(product) for product in self.archive.products("variability")]
        return pd.concat([t[t["kind"] != ""] for t in tables], ignore_index=True) if tables else pd.DataFrame()

    def silent(self, limit: float = 0.02) -> pd.DataFrame:
        """The observations whose median ratio in the tile is off by more than `limit` although no check on any of their products
        failed. There must be none."""
        reported = set(self.failed_of_observations["partition"])
        median = self.tiles.groupby("observation")["ratio"].agg(["median", "std", "count"]).reset_index()
        return median[((median["median"] - 1).abs() > limit) & ~median["observation"].isin(reported)]


def run(
    place: Path, faults: Sequence[str] = (), groups: int = GROUPS, nights: int = 1, settings: dict[str, Any] | None = None,
    **changes: Any,
) -> Outcome:  # fmt: skip
    """Simulate `groups` of the strip with faults (as on the command line) and process them to the end, in this process.

    `changes` are further simulation options, `settings` further settings of the platform. Inbox, archive and Dagster's home
    are made under `place`.
    """
    from dsa110_assets import settings as configuration

    options = SimulationOptions(**{**SKY, "groups": groups, "nights": nights, "faults": tuple(map(parse_fault, faults)), **changes})
    with pytest.MonkeyPatch.context() as patch:
        for name in [n for n in os.environ if n.startswith("DSA110_") or n == "DAGSTER_HOME"]:
            patch.delenv(name)
        truth = simulate(place / "inbox", options)
        defaults: dict[str, Any] = {
            "inbox": place / "inbox", "archive": place / "archive", "DAGSTER_HOME": place / "home",
            "catalogues": (place / "inbox" / "catalogue.csv",), "thresholds": SMALL_DISK, "still_s": 0,
        }  # fmt: skip
        configured = configuration.load(**defaults | (settings or {}))
        return Outcome(configured, process(configured), truth)


def fitted_jy(image: fits.FitsImage, ra_deg: float, dec_deg: float) -> float:
    """The flux [Jy] of a point source at a position: a least-squares fit of the restoring beam at that position; NaN outside the image.

    The fit uses pixels within 0.75 of the beam's FWHM. It is written out here, so that it is independent of the platform's photometry.
    """
    wcs = WCS(image.header).celestial
    x, y = (float(v) for v in wcs.all_world2pix(ra_deg, dec_deg, 0))
    reach = int(np.ceil(2 * _CUT_BEAMS * image.beam.bmaj_deg / abs(image.header["CDELT1"])))
    row, column = round(y), round(x)
    if not (reach <= row < image.data.shape[0] - reach and reach <= column < image.data.shape[1] - reach):
        return np.nan
    rows, columns = np.mgrid[row - reach : row + reach + 1, column - reach : column + reach + 1]
    # steps on the sky, east and north, along the image's axes
    east, north = ((v - at) * image.header[key] for v, at, key in ((columns, x, "CDELT1"), (rows, y, "CDELT2")))
    sin, cos = np.sin(np.deg2rad(image.beam.bpa_deg)), np.cos(np.deg2rad(image.beam.bpa_deg))
    distance = np.hypot((east * sin + north * cos) / image.beam.bmaj_deg, (east * cos - north * sin) / image.beam.bmin_deg)
    shape = np.where(distance < _CUT_BEAMS, np.exp(-4 * np.log(2) * distance**2), 0)
    pixels = image.data[rows, columns].astype(np.float64)
    return float(np.sum(pixels * shape) / np.sum(shape**2)) if np.all(np.isfinite(pixels)) else np.nan
