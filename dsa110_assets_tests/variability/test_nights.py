"""From measurements to candidates over many nights, normalised one after another, on constant skies with faults and on changing skies."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest
from scipy.stats import kstest

from dsa110_assets.variability.candidates import find_variables
from dsa110_assets.variability.options import VariabilityOptions
from dsa110_assets_tests.photometry.nightly import light_curves_of

RMS, SOURCES = 0.004, 100
Flux = np.ndarray[tuple[int], np.dtype[np.float64]]
Fault = Callable[[np.random.Generator, Flux], tuple[Flux, Flux]]


def _healthy(rng: np.random.Generator, flux: Flux) -> tuple[Flux, Flux]:
    """Fluxes of a night with errors of 0.5 %, and their noise."""
    return flux * (1 + 0.005 * rng.standard_normal(flux.size)), np.full(flux.size, RMS)


def _scale(rng: np.random.Generator, flux: Flux) -> tuple[Flux, Flux]:
    """All power 15 % off."""
    observed, noise = _healthy(rng, flux)
    return observed * rng.choice([0.85, 1.15]), noise


def _deaf(rng: np.random.Generator, flux: Flux) -> tuple[Flux, Flux]:
    """An antenna is deaf: fluxes are 14 % low and scatter by 8 %; the stated noise is 2.3 times higher, the true noise 1.5 times that."""
    observed, noise = _healthy(rng, flux)
    return 0.86 * observed * (1 + 0.08 * rng.standard_normal(flux.size)) + 1.5 * 2.3 * noise * rng.standard_normal(flux.size), 2.3 * noise


def _noisy(rng: np.random.Generator, flux: Flux) -> tuple[Flux, Flux]:
    """Interference: the noise is three times the stated one."""
    observed, noise = _healthy(rng, flux)
    return observed + 2.8 * noise * rng.standard_normal(flux.size), noise


def _drift(rng: np.random.Generator, flux: Flux) -> tuple[Flux, Flux]:
    """Gains drift: fluxes fall by up to 12 % from one end of the strip to the other."""
    observed, noise = _healthy(rng, flux)
    return observed * np.linspace(1.0, 0.88, flux.size), noise


FAULTS: tuple[Fault, ...] = (_scale, _deaf, _noisy, _drift)


def night(rng: np.random.Generator, flux: Flux, number: int, fault: Fault) -> pd.DataFrame:
    """An hour's measurements of a night."""
    observed, noise = fault(rng, flux)
    observed = observed + noise * rng.standard_normal(flux.size)
    day = pd.Timestamp("2026-01-01") + pd.Timedelta(days=number)
    return pd.DataFrame(
        {
            "source_id": [f"s{k:04d}" for k in range(flux.size)], "ra_deg": np.arange(flux.size) * 0.1, "dec_deg": 16.0,
            "epoch": f"{day:%Y-%m-%d}T22:00", "mjd": 61041.9 + number * 0.99727, "flux_jy": observed, "flux_err_jy": noise, "rms_jy": noise,
            "limit_jy": 5 * noise, "detected": observed > 5 * noise, "quality": 0, "mosaic_id": f"m{number}", "catalogue_flux_jy": flux,
        }
    )  # fmt: skip


def candidates(seed: int, faults: list[Fault], change: dict[tuple[int, int], float] | None = None) -> pd.DataFrame:
    """The search over nights with these faults; `change` maps (source, night) to a factor on the true flux."""
    rng = np.random.default_rng(seed)
    flux = 10 ** rng.uniform(-1.6, 0.5, SOURCES)
    nights = []
    for number, fault in enumerate(faults):
        true = flux * np.array([(change or {}).get((k, number), 1.0) for k in range(SOURCES)])
        nights.append(night(rng, true, number, fault).assign(catalogue_flux_jy=flux))
    return find_variables(light_curves_of(pd.concat(nights, ignore_index=True)), VariabilityOptions())


@pytest.mark.parametrize("fault", FAULTS)
def test_one_bad_night_of_five_invents_nothing(fault: Fault) -> None:
    """Nothing is marked and no antenna flagged: the night's scatter becomes its error. Of 20 skies of 100 constant sources one may
    have a candidate: at a rate of 1 %, two have one in one test of 60.
    """
    tables = [candidates(seed, [_healthy, _healthy, fault, _healthy, _healthy]) for seed in range(20)]
    assert sum(int((table["kind"] != "").sum()) for table in tables) <= 1


@pytest.mark.slow
def test_ten_faults_in_thirty_nights_invent_nothing() -> None:
    """A random fault every third night, none of them marked, in ten skies. With Benjamini-Hochberg at 1 %, one sky of constant sources
    in 100 has a candidate."""
    rng = np.random.default_rng(1)
    skies_with_candidates = 0
    for seed in range(10):
        faults = [FAULTS[int(rng.integers(len(FAULTS)))] if number % 3 == 2 else _healthy for number in range(30)]
        skies_with_candidates += int((candidates(100 + seed, faults)["kind"] != "").any())
    assert skies_with_candidates <= 1


def test_flare_dip_and_trend_are_found_beside_a_bad_night() -> None:
    """In the brightest sources of ten nights, one of them with a deaf antenna: 50 % up, 50 % down, and a slow fall to 60 %."""
    rng = np.random.default_rng(7)
    bright = np.argsort(-(10 ** np.random.default_rng(3).uniform(-1.6, 0.5, SOURCES)))[10:13]
    change = {(bright[0], 6): 1.5, (bright[1], 4): 0.5, **{(bright[2], n): f for n, f in enumerate(np.linspace(1, 0.6, 10))}}
    faults: list[Fault] = [_healthy] * 10
    faults[int(rng.integers(1, 4))] = _deaf
    table = candidates(3, faults, change).set_index("source_id")
    names = [f"s{k:04d}" for k in bright]
    assert table.loc[names[:2], "kind"].tolist() == ["flare", "ese"]
    assert table.loc[names[2], "kind"] != ""
    assert (table["kind"] != "").sum() == 3


@pytest.mark.slow
def test_p_values_of_constant_sources_stay_uniform() -> None:
    """40 skies of 10 healthy nights, 4000 values: uniform by Kolmogorov and Smirnov to 0.05.

    Errors are measured on each sky itself, the noise's scale to 3 % and the fraction to 4 %: chi^2 values of 9 degrees of freedom that
    are 5 % off shift the distribution by 0.05 at most.
    """
    p = np.concatenate([candidates(200 + seed, [_healthy] * 10)["p_eta"].to_numpy() for seed in range(40)])
    assert kstest(p, "uniform").statistic < 0.05
