"""The sky model: point sources with power-law or log-polynomial spectra."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from dsa110_assets.sky import flux_scale
from dsa110_assets.sky.calibrators import LIST_FREQUENCY_HZ, LIST_SPECTRAL_INDEX, Calibrator
from dsa110_assets.telescope import astrometry

Float = NDArray[np.float64]
_NO_POLYNOMIAL = np.zeros((0, flux_scale.N_COEFFICIENTS))


@dataclass(frozen=True)
class SkyModel:
    """Point sources, ICRS.

    names (n,); ra_rad, dec_rad (n,) float64; flux_jy (n,) Stokes I at `reference_hz`; spectral_index (n,),
    S ~ nu^index. log_coefficients (n, 6): a row that is not all zero replaces the power law by
    log10 S = sum a_i (log10 nu_GHz)^i (if omitted, all rows are zero). Raises ValueError for NaN in any of these.
    """

    names: tuple[str, ...]
    ra_rad: Float
    dec_rad: Float
    flux_jy: Float
    spectral_index: Float
    reference_hz: float = LIST_FREQUENCY_HZ
    log_coefficients: Float = field(default_factory=lambda: _NO_POLYNOMIAL)

    def __post_init__(self) -> None:
        n = len(self.names)
        if not self.log_coefficients.size:
            object.__setattr__(self, "log_coefficients", np.zeros((n, flux_scale.N_COEFFICIENTS)))
        for name in ("ra_rad", "dec_rad", "flux_jy", "spectral_index", "log_coefficients"):
            value = np.asarray(getattr(self, name), dtype=np.float64)
            if value.shape[0] != n or not np.all(np.isfinite(value)):
                raise ValueError(f"sky model: {name} must hold {n} finite values, has shape {value.shape}")
            object.__setattr__(self, name, value)

    def __len__(self) -> int:
        return len(self.names)

    def flux_at(self, frequencies_hz: ArrayLike) -> Float:
        """Return the flux densities [Jy] at frequencies [Hz] (n_chan,): (n_sources, n_chan) float64."""
        frequencies = np.atleast_1d(np.asarray(frequencies_hz, dtype=np.float64))
        flux = self.flux_jy[:, None] * (frequencies / self.reference_hz) ** self.spectral_index[:, None]
        polynomial = np.any(self.log_coefficients != 0, axis=1)
        flux[polynomial] = flux_scale.evaluate_jy(self.log_coefficients[polynomial], frequencies)
        return np.asarray(flux)

    def select(self, keep: ArrayLike) -> SkyModel:
        """Return the sources that a boolean mask or index array selects."""
        index = np.arange(len(self))[np.asarray(keep)]
        return replace(
            self,
            names=tuple(self.names[i] for i in index),
            ra_rad=self.ra_rad[index],
            dec_rad=self.dec_rad[index],
            flux_jy=self.flux_jy[index],
            spectral_index=self.spectral_index[index],
            log_coefficients=self.log_coefficients[index],
        )

    def within(self, ra_rad: float, dec_rad: float, radius_deg: float) -> SkyModel:
        """Return the sources within `radius_deg` of an ICRS direction [rad]; correct across 0 h and at the pole."""
        return self.select(astrometry.separation_deg(self.ra_rad, self.dec_rad, ra_rad, dec_rad) <= radius_deg)

    def to_frame(self) -> pd.DataFrame:
        """Return a table with the columns name, ra_deg, dec_deg, flux_jy, frequency_hz, spectral_index, a0..a5."""
        columns: dict[str, Any] = {
            "name": list(self.names),
            "ra_deg": np.rad2deg(self.ra_rad),
            "dec_deg": np.rad2deg(self.dec_rad),
            "flux_jy": self.flux_jy,
            "frequency_hz": np.full(len(self), self.reference_hz),
            "spectral_index": self.spectral_index,
        }
        columns |= {f"a{i}": self.log_coefficients[:, i] for i in range(flux_scale.N_COEFFICIENTS)}
        return pd.DataFrame(columns)


def from_frame(frame: pd.DataFrame) -> SkyModel:
    """Return the model of a table with name, ra_deg, dec_deg, flux_jy and, optionally, frequency_hz, spectral_index,
    a0..a5.

    A missing spectral index is -0.7. Fluxes are converted to 1.4 GHz with each row's index; a row without a frequency
    is assumed to be at 1.4 GHz. Rows without a finite flux or position are left out, because a model needs a known flux.
    """
    needed = frame[["ra_deg", "dec_deg", "flux_jy"]].astype(float)
    frame = frame[np.isfinite(needed).all(axis=1)]
    index = _column(frame, "spectral_index", LIST_SPECTRAL_INDEX)
    frequency = _column(frame, "frequency_hz", LIST_FREQUENCY_HZ)
    log_names = [f"a{i}" for i in range(flux_scale.N_COEFFICIENTS)]
    return SkyModel(
        names=tuple(str(name) for name in frame["name"]),
        ra_rad=np.deg2rad(frame["ra_deg"].to_numpy(np.float64)),
        dec_rad=np.deg2rad(frame["dec_deg"].to_numpy(np.float64)),
        flux_jy=frame["flux_jy"].to_numpy(np.float64) * (LIST_FREQUENCY_HZ / frequency) ** index,
        spectral_index=index,
        log_coefficients=np.stack([_column(frame, name, 0.0) for name in log_names], axis=1),
    )


def read(path: Path) -> SkyModel:
    """Read the model in a Parquet file of `SkyModel.to_frame`. Raises FileNotFoundError if the file does not exist."""
    return from_frame(pd.read_parquet(path))


def from_calibrator(calibrator: Calibrator) -> SkyModel:
    """Return the model of one calibrator with its true spectrum. Raises ConfigurationError if its flux is not known."""
    log_coefficients = np.zeros((1, flux_scale.N_COEFFICIENTS))
    if calibrator.standard:
        log_coefficients[0] = flux_scale.coefficients(calibrator.standard)
    return SkyModel(
        names=(calibrator.name,),
        ra_rad=np.deg2rad([calibrator.ra_deg]),
        dec_rad=np.deg2rad([calibrator.dec_deg]),
        flux_jy=np.atleast_1d(calibrator.flux_jy(LIST_FREQUENCY_HZ)),
        spectral_index=np.array([calibrator.spectral_index]),
        log_coefficients=log_coefficients,
    )


def concat(*models: SkyModel) -> SkyModel:
    """Join several models in order, at the first one's reference frequency; the sources are not matched.
    Raises ValueError if no model is given."""
    if not models:
        raise ValueError("concat needs at least one sky model")
    reference = models[0].reference_hz
    return SkyModel(
        names=tuple(name for model in models for name in model.names),
        ra_rad=np.concatenate([model.ra_rad for model in models]),
        dec_rad=np.concatenate([model.dec_rad for model in models]),
        flux_jy=np.concatenate([model.flux_jy * (reference / model.reference_hz) ** model.spectral_index for model in models]),
        spectral_index=np.concatenate([model.spectral_index for model in models]),
        reference_hz=reference,
        log_coefficients=np.concatenate([model.log_coefficients for model in models]),
    )


def _column(frame: pd.DataFrame, name: str, default: float) -> Float:
    if name not in frame:
        return np.full(len(frame), default)
    return np.asarray(frame[name].astype(float).fillna(default).to_numpy(np.float64))
