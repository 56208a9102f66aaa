"""Light curves of many nights, read from disk in batches, give the same result as one table in memory."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from dsa110_assets.archive.light_curves import Nights
from dsa110_assets.photometry.association import NEW_PREFIX
from dsa110_assets.variability import curves
from dsa110_assets.variability.candidates import find_variables, search
from dsa110_assets.variability.options import VariabilityOptions
from dsa110_assets_tests.photometry.nightly import stored

OPTIONS = VariabilityOptions()


def light_curves() -> pd.DataFrame:
    """Forty sources of 20 epochs: one flares, one dips, one is new and bright in late epochs, one has a NaN."""
    rng = np.random.default_rng(4)
    flux = 1 + 0.05 * rng.standard_normal((40, 20))
    flux[7, 9] += 1.0
    flux[11, 3] -= 0.6
    names = [f"NVSS_{k:04d}" for k in range(40)]
    names[20] = f"{NEW_PREFIX}0520+1616"
    source, epoch = np.divmod(np.arange(800), 20)
    rows = pd.DataFrame(
        {
            "source_id": np.array(names, object)[source],
            "ra_deg": 80 + 0.2 * source,
            "dec_deg": 16.0,
            "mjd": 61000 + 0.99727 * epoch,
            "flux_jy": flux.ravel(),
            "flux_err_jy": 0.05,
            "rms_jy": 0.045,
            "detected": True,
            "quality": 0,
            "catalogue_flux_jy": np.nan,
        }
    )
    rows.loc[30, ["flux_jy", "flux_err_jy"]] = np.nan
    rows = rows[(source != 20) | (epoch > 12)]
    return rows.sort_values(["source_id", "mjd"]).reset_index(drop=True)


def by_night(rows: pd.DataFrame, folder: Path) -> Nights:
    """The rows stored as one product per night."""
    places = []
    for mjd, tonight in rows.groupby("mjd"):
        places.append(folder / f"{mjd:.0f}")
        places[-1].mkdir()
        stored(tonight, places[-1])
    return Nights.of(places)


@pytest.mark.parametrize("batch_rows", [7, 130, 10_000])
def test_batches_from_disk_find_what_one_table_finds(tmp_path: Path, batch_rows: int) -> None:
    """Exactly the same numbers, also where batches are shorter than a source, end with a source, or hold everything."""
    rows = light_curves()
    shuffled = rows.sample(frac=1, random_state=1)
    expected = find_variables(shuffled, OPTIONS)
    on_disk = curves.OnDisk(by_night(rows, tmp_path), batch_rows)
    blocks = list(on_disk.batches())
    assert sum(block.starts[-1] for block in blocks) == len(rows)
    assert max(block.starts[-1] for block in blocks) < batch_rows + 20, "more than whole sources ask for"
    batched = search(on_disk, OPTIONS)
    pd.testing.assert_frame_equal(batched, expected)
    kinds = batched.set_index("source_id")["kind"]
    assert kinds["NVSS_0007"] == "flare"
    assert kinds[f"{NEW_PREFIX}0520+1616"] == "transient"


def test_a_sample_holds_whole_sources(tmp_path: Path) -> None:
    rows = light_curves()
    on_disk = curves.OnDisk(by_night(rows, tmp_path), 50)
    pd.testing.assert_frame_equal(curves.sample(on_disk, 10_000), rows)
    some = curves.sample(on_disk, 200)
    assert 100 <= len(some) <= 200
    sizes = rows.groupby("source_id").size()
    assert (some.groupby("source_id").size() == sizes[some["source_id"].unique()]).all()


def test_candidates_of_many_epochs_are_not_read_again(tmp_path: Path) -> None:
    """Their kind is known from the first pass; only the rows of the new source and its neighbours are read again."""
    requests: list[set[str]] = []

    class Watched(curves.OnDisk):
        def of(self, sources: Collection[str]) -> pd.DataFrame:
            requests.append(set(sources))
            return super().of(sources)

    kinds = search(Watched(by_night(light_curves(), tmp_path)), OPTIONS).set_index("source_id")["kind"]
    assert (kinds["NVSS_0007"], kinds["NVSS_0011"]) == ("flare", "ese")
    new = f"{NEW_PREFIX}0520+1616"
    assert requests == [{new, *(f"NVSS_{k:04d}" for k in (18, 19, 21, 22))}, {new}]
