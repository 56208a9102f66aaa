"""The part of the past that a night's light curves need, in bounded form: a few rows of some sources, and discovered names.

For each source bright enough to be a reference, and for a sample of all others, the first clean rows (a reference's baseline)
and the last ones (its scatter) are kept. The size grows with the number of sources, not with that of nights.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from dsa110_assets.photometry.nighterrors import PAST, NightErrors
from dsa110_assets.photometry.options import EnsembleOptions
from dsa110_assets.photometry.quality import Quality
from dsa110_assets.photometry.sample import SourceSample

ROWS, NAMES = f"{PAST}/rows.parquet", f"{PAST}/names.parquet"
LAST_ROWS = 10
"""Of each source: the scatter of hundreds of sources over ten nights gives the errors to 2 %."""
SAMPLE_ROWS = 100_000
"""Of sources that are no references: their scatter is then known to 0.2 %, in some 3 MB."""
PAST_COLUMNS = (
    "source_id", "epoch", "mjd", "flux_jy", "raw_flux_err_jy", "correction", "correction_err", "quality", "catalogue_flux_jy",
)  # fmt: skip
UNFIT = int(
    Quality.EDGE | Quality.BLENDED | Quality.EXTENDED | Quality.NAN | Quality.CONFUSED | Quality.TILE_SUSPECT | Quality.DOUBTFUL_NEW
)
"""Bits of rows that are not used for normalisation or for measuring errors."""


@dataclass(frozen=True)
class Past:
    """`rows`: PAST_COLUMNS, corrected, by source_id and mjd. `names`: each new source's name, the name it is called by, and when
    and where it was first seen (mjd, ra_deg, dec_deg). `errors`: the model of the last of these nights."""

    rows: pd.DataFrame
    names: pd.DataFrame
    errors: NightErrors

    @classmethod
    def nothing(cls, options: EnsembleOptions) -> Past:
        """Return the past before the first night."""
        numbers = {name: np.zeros(0) for name in PAST_COLUMNS if name not in ("source_id", "epoch", "quality")}
        texts = {name: pd.Series([], dtype="str") for name in ("source_id", "epoch")}
        rows = pd.DataFrame({**texts, **numbers, "quality": np.zeros(0, np.int64)})[list(PAST_COLUMNS)]
        named = {"source_id": texts["source_id"], "called": texts["source_id"]}
        names = pd.DataFrame({**named, **dict.fromkeys(("mjd", "ra_deg", "dec_deg"), np.zeros(0))})
        return cls(rows, names, NightErrors.before_any(options.prior_fraction))

    @classmethod
    def read(cls, folder: Path) -> Past:
        """Read the past that `write` left in an earlier night's product. Raises NotFoundError where there is none."""
        errors = NightErrors.read(folder)
        return cls(pd.read_parquet(folder / ROWS), pd.read_parquet(folder / NAMES), errors)

    def write(self, folder: Path) -> None:
        """Write the past into the night's product, for the next night."""
        (folder / PAST).mkdir()
        self.rows.to_parquet(folder / ROWS, index=False)
        self.names.to_parquet(folder / NAMES, index=False)
        self.errors.write(folder)


def normalised(rows: pd.DataFrame) -> NDArray[np.bool_]:
    """Return which corrected rows are on the common scale and clean, so that baselines can be made of them."""
    flux = rows["flux_jy"].to_numpy(np.float64)
    unfit = rows["quality"].to_numpy(np.int64) & (UNFIT | int(Quality.UNNORMALISED))
    return np.asarray((unfit == 0) & (flux > 0) & (rows["raw_flux_err_jy"].to_numpy(np.float64) > 0))


def first_rows(rows: pd.DataFrame, number: int, errors: NightErrors) -> pd.DataFrame:
    """Return the first `number` normalised rows of each source, from rows sorted by source_id and mjd; rows of noisy epochs are
    omitted where the source has two others.

    With only two nights that disagree, it is not known which one is bad.
    """
    usable = rows[normalised(rows)]
    if len(errors.noisy):
        quiet = ~usable["epoch"].isin(errors.noisy.index)
        number_quiet = quiet.groupby(usable["source_id"], observed=True).transform("sum")
        usable = usable[quiet | (number_quiet < 2)]
    return usable[usable.groupby("source_id", observed=True).cumcount() < number]


def kept_rows(rows: pd.DataFrame, errors: NightErrors, options: EnsembleOptions, sample_rows: int = SAMPLE_ROWS) -> pd.DataFrame:
    """Return the part that the next night needs of these corrected rows, of this night and of what was kept before it."""
    rows = rows[list(PAST_COLUMNS)].sort_values(["source_id", "mjd"], kind="stable").reset_index(drop=True)
    first = first_rows(rows, options.baseline_epochs, errors)
    last = rows.groupby("source_id", observed=True).cumcount(ascending=False) < LAST_ROWS
    rows = rows[last | rows.index.isin(first.index)]
    snr = first["flux_jy"] * first["correction"] / first["raw_flux_err_jy"]
    brightness = snr.groupby(first["source_id"], observed=True).median()
    bright = rows["source_id"].isin(brightness.index[brightness >= options.lowest_snr])
    sample = SourceSample(sample_rows)
    sample.add(rows[~bright])
    return pd.concat([rows[bright], sample.rows()]).sort_values(["source_id", "mjd"], kind="stable").reset_index(drop=True)
