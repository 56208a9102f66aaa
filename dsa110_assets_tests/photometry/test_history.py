"""Light curves from the files of many nights: the same whatever the batches, in memory that knows no history."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from dsa110_assets.orchestration.measuring import written
from dsa110_assets.photometry import history
from dsa110_assets.photometry.ensemble import LIGHT_CURVE_COLUMNS, ensemble_figures, normalise
from dsa110_assets.photometry.options import EnsembleOptions
from dsa110_assets.photometry.sample import SourceSample
from dsa110_assets.photometry.transits import one_per_transit

OPTIONS = EnsembleOptions()


def hours(sources: int, epochs: int, seed: int = 1) -> list[pd.DataFrame]:
    """Measurements of `epochs` nights, two overlapping hours each, the second noisier; every third night calls a new source
    by another name, an arcsecond away."""
    rng = np.random.default_rng(seed)
    flux, tables = 10 ** rng.uniform(-2, 0.7, sources), []
    for night in range(epochs):
        for hour in range(2):
            seen = (1 + 0.03 * np.sin(night)) * flux + 0.005 * rng.standard_normal(sources)
            names = [*(f"NVSS_{k:05d}" for k in range(1, sources)), f"DSA_J05{night % 3}"]
            rows = pd.DataFrame(
                {
                    "source_id": names, "ra_deg": np.arange(sources) * 0.01, "dec_deg": 16 + night % 3 / 3600,
                    "epoch": f"{pd.Timestamp('2026-01-01') + pd.Timedelta(days=night):%Y-%m-%d}T{20 + hour}:00",
                    "mjd": 61041.8 + night * 0.99727 + hour / 24, "flux_jy": seen, "flux_err_jy": 0.005 + hour * 0.001,
                    "rms_jy": 0.005, "limit_jy": np.where(seen > 0.025, np.nan, 0.025), "detected": seen > 0.025, "quality": 0,
                    "mosaic_id": f"m{night}-{hour}", "catalogue_flux_jy": flux,
                }
            )  # fmt: skip
            tables.append(rows.sample(frac=1, random_state=night))
    return tables


def stored(tables: list[pd.DataFrame], folder: Path) -> list[Path]:
    files = [folder / f"{n}.parquet" for n in range(len(tables))]
    for table, file in zip(tables, files, strict=True):
        table.to_parquet(file)
    return files


@pytest.mark.parametrize("batch_rows", [1, 500, 1_000_000])
def test_batches_give_what_one_table_gives(tmp_path: Path, batch_rows: int) -> None:
    """To the last bit, rows and figures; sources whose rows fill more than a batch too. The three names become the first."""
    tables = hours(60, 9)
    everything = pd.concat(tables, ignore_index=True)
    everything["source_id"] = everything["source_id"].str.replace("DSA_J05.", "DSA_J050", regex=True)
    (expected,) = normalise(lambda: [one_per_transit(everything)], OPTIONS)
    (tmp_path / "scratch").mkdir()
    found = history.gather(stored(tables, tmp_path), tmp_path / "scratch", OPTIONS.merge_arcsec, batch_rows)
    assert len(found.paths) == {1: 60, 500: 3, 1_000_000: 1}[batch_rows]
    figures = ensemble_figures(written(normalise(found.parts, OPTIONS), tmp_path / "curves.parquet"))
    curves = pd.read_parquet(tmp_path / "curves.parquet")
    pd.testing.assert_frame_equal(curves, expected, check_exact=True)
    assert curves["source_id"].nunique() == 60
    assert figures == ensemble_figures([expected])
    assert figures["n_rows"] == len(curves) == 60 * 9


def test_a_night_without_a_source_is_an_empty_table(tmp_path: Path) -> None:
    files = stored([hours(5, 1)[0].iloc[:0]], tmp_path)
    found = history.gather(files, tmp_path, OPTIONS.merge_arcsec)
    figures = ensemble_figures(written(normalise(found.parts, OPTIONS), tmp_path / "curves.parquet"))
    curves = pd.read_parquet(tmp_path / "curves.parquet")
    assert (len(curves), tuple(curves.columns)) == (0, LIGHT_CURVE_COLUMNS)
    assert (figures["n_rows"], figures["n_sources"], figures["n_comparable_epochs"]) == (0, 0, 0)


def test_a_sample_is_of_whole_sources_and_knows_no_order() -> None:
    """At most as many rows as asked for, and at least half as many but for chance: 200 sources chosen of 2000 are 200 +- 14."""
    rows = pd.DataFrame({"source_id": [f"s{k:04d}" for k in np.repeat(np.arange(2000), 5)], "value": np.arange(10_000)})
    whole, parts = SourceSample(1500), SourceSample(1500)
    whole.add(rows)
    for part in (rows[6000:], rows[:6000]):
        parts.add(part)
    assert 600 < len(whole.rows()) <= 1500
    assert (whole.rows().groupby("source_id").size() == 5).all()
    assert sorted(parts.rows()["value"]) == sorted(whole.rows()["value"])
    few = SourceSample(10_000)
    few.add(rows)
    pd.testing.assert_frame_equal(few.rows(), rows)


PEAK = """
import resource, sys
from pathlib import Path
from dsa110_assets.orchestration.measuring import written
from dsa110_assets.photometry import ensemble, history, options
folder, chosen = Path(sys.argv[1]), options.EnsembleOptions()
files = sorted(folder.glob("*.parquet"), key=lambda file: int(file.stem))
(folder / "scratch").mkdir()
found = history.gather(files, folder / "scratch", chosen.merge_arcsec, 10_000)
figures = ensemble.ensemble_figures(written(ensemble.normalise(found.parts, chosen, 10_000), folder / "curves"), 10_000)
print(figures["n_rows"], resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
"""


def test_memory_does_not_grow_with_the_history(tmp_path: Path) -> None:
    """Fifty nights of 2000 sources (200,000 measurements) take the memory of five; gone through as one table
    they take 72 MB more."""
    peaks = {}
    for nights in (5, 50):
        folder = tmp_path / str(nights)
        folder.mkdir()
        stored(hours(2000, nights), folder)
        done = subprocess.run([sys.executable, "-c", PEAK, str(folder)], capture_output=True, text=True, check=False, timeout=300)
        assert done.returncode == 0, done.stderr
        rows, peaks[nights] = map(float, done.stdout.split())
        assert rows == 2000 * nights
    assert peaks[50] - peaks[5] < 30
