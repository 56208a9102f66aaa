"""The errors of light curves: one model of all nights, applied to every row when it is read.

The scatter of constant sources is known better the more nights there are, and that an early night was bad is known only from
later ones. Rows therefore keep the measured values and their correction; their errors follow from the model of the last night.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from dsa110_assets.errors import NotFoundError
from dsa110_assets.photometry.epocherrors import epoch_errors, typical_model
from dsa110_assets.photometry.errormodel import ErrorModel, absolute_fraction, calibrate_errors, sample_of

FloatArray = NDArray[np.float64]
MADE_OF = ("flux_jy", "raw_flux_err_jy", "correction", "correction_err")
"""The columns from which the errors of a row are computed, besides its epoch."""
PAST = "past"
"""The folder of a night's product that later nights read."""
FILE = f"{PAST}/errors.parquet"
_ALL = ""
"""The epoch of the model's own row in the file."""
_COLUMNS = ("epoch", "scale", "fraction", "absolute", "rows")


@dataclass(frozen=True)
class NightErrors:
    """`model` (k and f) about a source's own light curve, `absolute` about its true flux; `noisy` epochs with additional errors.

    `noisy` is indexed by epoch: scale (k_e) and fraction (f_e), and the number of rows they were measured on.
    """

    model: ErrorModel
    absolute: ErrorModel
    noisy: pd.DataFrame

    @classmethod
    def before_any(cls, prior_fraction: float) -> NightErrors:
        """Return the errors assumed before there are two epochs to compare."""
        noisy = pd.DataFrame({"scale": [], "fraction": [], "rows": []}, index=pd.Index([], name="epoch", dtype=object), dtype=np.float64)
        return cls(ErrorModel(1.0, prior_fraction), ErrorModel(1.0, prior_fraction), noisy)

    @classmethod
    def read(cls, folder: Path) -> NightErrors:
        """Read the model that a night's product was published with. Raises NotFoundError where there is none."""
        require(folder)
        table = pd.read_parquet(folder / FILE).set_index("epoch")
        model_row = table.loc[_ALL]
        noisy = table[table.index != _ALL][["scale", "fraction", "rows"]]
        model, absolute = ErrorModel(float(model_row["scale"]), float(model_row["fraction"])), float(model_row["absolute"])
        return cls(model, ErrorModel(max(model.scale, 1.0), absolute), noisy)

    def write(self, folder: Path) -> None:
        """Write the model into the night's product."""
        model_row = pd.DataFrame([[_ALL, self.model.scale, self.model.fraction, self.absolute.fraction, 0.0]], columns=list(_COLUMNS))
        noisy = self.noisy.rename_axis("epoch").reset_index().assign(absolute=np.nan)[list(_COLUMNS)]
        (pd.concat([model_row, noisy], ignore_index=True) if len(noisy) else model_row).to_parquet(folder / FILE, index=False)

    def with_errors(self, rows: pd.DataFrame) -> pd.DataFrame:
        """Return the rows with flux_err_jy and absolute_err_jy by this model, and limit_jy, if present, scaled to its noise.

        Needs epoch, flux_jy, raw_flux_err_jy, correction and correction_err; for limits also noise_scale, the factor on the
        noise that was applied to them last. NaN stays NaN.
        """
        code, epochs = pd.factorize(rows["epoch"])
        noise, fraction = (values[code] for values in self.of_epochs([*epochs, ""]))  # code -1, no epoch, is the last
        columns = {name: rows[name].to_numpy(np.float64) for name in MADE_OF}
        errors = {name: self.of(columns, noise, fraction, absolute=name != "flux_err_jy") for name in ("flux_err_jy", "absolute_err_jy")}
        if "limit_jy" in rows:
            errors["noise_scale"] = self.model.scale * noise
            errors["limit_jy"] = rows["limit_jy"].to_numpy(np.float64) * errors["noise_scale"] / rows["noise_scale"].to_numpy(np.float64)
        return rows.assign(**errors)

    @cached_property
    def _additional(self) -> dict[str, tuple[float, float]]:
        filled = self.noisy[["scale", "fraction"]].fillna({"scale": 1.0, "fraction": 0.0})
        return dict(zip(filled.index, filled.itertuples(index=False, name=None), strict=True))

    def of_epochs(self, epochs: Sequence[str]) -> tuple[FloatArray, FloatArray]:
        """Return the additional scale and fraction of each of these epochs: 1 and 0 for those that are not noisy."""
        values = np.array([self._additional.get(epoch, (1.0, 0.0)) for epoch in epochs], np.float64).reshape(-1, 2)
        return values[:, 0], values[:, 1]

    def of(self, rows: Mapping[str, FloatArray], noise: FloatArray, fraction: FloatArray, *, absolute: bool = False) -> FloatArray:
        """Return the total errors [Jy] (n,) of rows with the columns MADE_OF, in epochs with these additional scales and fractions."""
        model, value = self.absolute if absolute else self.model, rows["correction"]
        return model.apply(rows["flux_jy"], noise * rows["raw_flux_err_jy"] / value, np.hypot(rows["correction_err"] / value, fraction))

    def lines(self) -> list[str]:
        """Return a line for each noisy epoch."""
        return [f"{e.Index}: noise x {e.scale:.2f}, fluxes to {100 * e.fraction:.1f} %" for e in self.noisy.itertuples()]


def has_model(folder: Path) -> bool:
    return (folder / FILE).is_file()


def require(folder: Path) -> None:
    """Raise NotFoundError unless this product's light curves are one night's, with a model of errors."""
    if not has_model(folder):
        raise missing(folder)


def missing(folder: Path) -> NotFoundError:
    return NotFoundError(f"{folder} has no {FILE}: its light curves are those of an earlier version; run: dsa110 process")


def measured_errors(rows: pd.DataFrame, before: NightErrors, unfit_bits: int, prior_fraction: float) -> NightErrors:
    """Return the model measured on the corrected rows of this night and a sample of earlier ones (columns as in `with_errors`, and
    source_id, quality, catalogue_flux_jy).

    The noisy epochs are determined twice, because the first model includes them. The values that `before` has for an epoch are
    kept where less than half of the rows they were measured on are left.
    """
    sample = sample_of(rows, unfit_bits)
    code, names = pd.factorize(rows["epoch"].to_numpy()[sample.row], sort=True)
    code = code.astype(np.int64)
    model = calibrate_errors(sample, prior_fraction)
    scale, fraction = epoch_errors(sample, code, typical_model(sample, code, model))
    noisy = (scale > 1) | (fraction > 0)
    if noisy.any() and not noisy.all():
        model = calibrate_errors(sample.repeated(~noisy[code]), prior_fraction)
        scale, fraction = epoch_errors(sample, code, model)
        noisy = (scale > 1) | (fraction > 0)
    table = pd.DataFrame(
        {"scale": scale, "fraction": fraction, "rows": np.bincount(code, minlength=len(names))}, index=pd.Index(names, name="epoch")
    ).astype(np.float64)
    known = before.noisy[before.noisy["rows"] > 2 * table["rows"].reindex(before.noisy.index).fillna(0)]
    found = table[noisy & ~table.index.isin(known.index)]
    quiet = rows[~rows["epoch"].isin(found.index)]
    all_sources = sample_of(quiet, unfit_bits, least=1)
    catalogue = quiet["catalogue_flux_jy"].to_numpy(np.float64)[all_sources.row]
    about_truth = absolute_fraction(all_sources, catalogue, model.scale, prior_fraction)
    noisy_epochs = pd.concat([known, found]).sort_index() if len(known) else found
    return NightErrors(model, ErrorModel(max(model.scale, 1.0), about_truth), noisy_epochs)
