"""Candidates from synthetic light curves: variable sources are found and named, steady ones are not."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from dsa110_assets.photometry.quality import Quality
from dsa110_assets.variability.candidates import VARIABLE_COLUMNS, find_variables
from dsa110_assets.variability.injection import completeness, false_alarm_rate, injection_figures
from dsa110_assets.variability.options import VariabilityOptions

OPTIONS = VariabilityOptions()


def curves(flux, error, names=None, catalogue=None, ra=None, dec=16.0):
    """Light-curve rows of a matrix (n_sources, n_epochs), one epoch per sidereal day; NaN entries make no row."""
    n, _ = flux.shape
    error = np.broadcast_to(error, flux.shape)
    names = names or [f"NVSS_{k:04d}" for k in range(n)]
    row, column = np.nonzero(np.isfinite(flux))
    return pd.DataFrame(
        {
            "source_id": np.array(names, object)[row],
            "ra_deg": ((np.arange(n) * 0.2) % 360 if ra is None else np.asarray(ra))[row],
            "dec_deg": dec,
            "epoch": [f"E{k:04d}" for k in column],
            "mjd": 61000 + 0.99727 * column,
            "flux_jy": flux[row, column],
            "flux_err_jy": error[row, column],
            "rms_jy": error[row, column] / 1.1,
            "detected": flux[row, column] > 5 * error[row, column],
            "quality": 0,
            "mosaic_id": [f"m{k}" for k in column],
            "catalogue_flux_jy": (np.full(n, np.nan) if catalogue is None else catalogue)[row],
        }
    )


def steady(rng, n, epochs, error=0.05):
    return 1 + error * rng.standard_normal((n, epochs))


@pytest.mark.parametrize("epochs", [3, 10, 60])
def test_flare_and_dip_are_found_and_nothing_else(epochs) -> None:
    flux = steady(np.random.default_rng(epochs), 60, epochs)
    flux[7, epochs // 2] += 1.0
    flux[11, epochs // 3] -= 0.6
    out = find_variables(curves(flux, 0.05), OPTIONS).set_index("source_id")
    assert tuple(out.reset_index().columns) == VARIABLE_COLUMNS
    assert out.loc["NVSS_0007", "kind"] == "flare"
    assert out.loc["NVSS_0011", "kind"] == "ese"
    assert (out["kind"] != "").sum() == 2
    assert out.loc["NVSS_0007", "deviation_mjd"] == pytest.approx(61000 + 0.99727 * (epochs // 2))
    assert out.loc["NVSS_0011", "deviation"] < 0


def test_the_catalogue_distinguishes_a_dip_of_most_nights_from_a_flare() -> None:
    """Quiet, low, low: from three fluxes alone this is a flare; the catalogue's flux shows which level is the quiet one."""
    flux = steady(np.random.default_rng(1), 30, 3)
    flux[5] = [1.0, 0.5, 0.45]
    without_catalogue = find_variables(curves(flux, 0.03), OPTIONS).set_index("source_id")
    assert without_catalogue.loc["NVSS_0005", "kind"] == "flare"
    with_catalogue = find_variables(curves(flux, 0.03, catalogue=np.ones(30)), OPTIONS).set_index("source_id")
    assert with_catalogue.loc["NVSS_0005", "kind"] == "ese"


def test_a_source_that_varies_both_ways_is_variable() -> None:
    flux = steady(np.random.default_rng(2), 30, 20)
    flux[3] += 0.5 * np.sin(np.arange(20))
    out = find_variables(curves(flux, 0.05), OPTIONS).set_index("source_id")
    assert out.loc["NVSS_0003", "kind"] == "variable"


def test_bright_sources_with_percent_errors_are_not_candidates() -> None:
    """A 10 Jy source with an unmodelled 3 % scatter is off by 100 sigma of its noise, but its modulation is below 0.26."""
    rng = np.random.default_rng(3)
    flux = 10 * (1 + 0.03 * rng.standard_normal((50, 30)))
    out = find_variables(curves(flux, 0.01), OPTIONS)
    assert (out["q_value"] < 1e-6).all()
    assert (out["kind"] == "").all()


def test_significant_small_changes_are_found_with_small_errors() -> None:
    """A single rise by 12 % and a slow fall by 15 % are found among 40 sources with errors of 1 %, but not with errors of 4 %.

    In 20 skies of 200 constant sources with errors of 1 %, there is no spurious small change.
    """
    rng = np.random.default_rng(6)
    flux = steady(rng, 40, 12, 0.01)
    flux[3, 5] *= 1.12
    flux[8] *= np.linspace(1, 0.85, 12)
    out = find_variables(curves(flux, 0.01), OPTIONS).set_index("source_id")
    assert (out.loc[["NVSS_0003", "NVSS_0008"], "m_max"] < OPTIONS.min_modulation).all()
    assert out.loc["NVSS_0003", "kind"] == "flare"
    assert out.loc["NVSS_0008", "kind"] != ""
    assert (out["kind"] != "").sum() == 2
    worse = find_variables(curves(1 + 4 * (steady(rng, 40, 12, 0.01) - 1) + (flux - 1).clip(0.1) - 0.1, 0.04), OPTIONS)
    assert (worse["kind"] == "").all()
    for _ in range(20):
        assert (find_variables(curves(steady(rng, 200, 12, 0.01), 0.01), OPTIONS)["kind"] == "").all()


def test_suspect_tiles_and_doubtful_discoveries_make_no_candidates() -> None:
    """Half the sources are 40 % low in a night whose tiles are suspect; a new source is doubtful, as the negative image has as many."""
    rng = np.random.default_rng(9)
    flux = steady(rng, 40, 5, 0.02)
    flux[:20, 2] *= 0.6
    rows = curves(flux, 0.02)
    rows.loc[(rows["epoch"] == "E0002") & (rows["source_id"] < "NVSS_0020"), "quality"] = int(Quality.TILE_SUSPECT)
    new = np.full((1, 5), np.nan)
    new[0, 2:] = [0.5, 0.012, -0.01]
    artefact = curves(new, 0.02, names=["DSA_J0001"], ra=[1.05])
    artefact.loc[artefact["epoch"] == "E0002", "quality"] = int(Quality.DOUBTFUL_NEW)
    assert (find_variables(pd.concat([rows, artefact]), OPTIONS)["kind"] == "").all()
    bare = pd.concat([rows, artefact]).assign(quality=0)
    assert (find_variables(bare, OPTIONS)["kind"] != "").sum() == 21


def test_insignificant_modulation_is_not_a_candidate() -> None:
    """Noise makes sources at 3 sigma change by far more than 26 %: none of 20 x 200 is a candidate (expected 0.2)."""
    rng = np.random.default_rng(4)
    n_candidates = 0
    for _ in range(20):
        out = find_variables(curves(0.15 + 0.05 * rng.standard_normal((200, 12)), 0.05), OPTIONS)
        assert (out["m_max"] > 0.26).mean() > 0.9
        n_candidates += (out["kind"] != "").sum()
    assert n_candidates <= 2


def test_a_new_source_at_a_place_seen_before_is_a_transient() -> None:
    """Only the last night has the source; its neighbours prove that the position was observed before. Without earlier observations,
    or if a constant flux near the limit explains it, it is no transient.
    """
    rng = np.random.default_rng(5)
    names = [f"NVSS_{k:04d}" for k in range(30)] + [
        "DSA_J000012.0+160000",
        "DSA_J000024.0+160000",
        "DSA_J080000.0+160000",
    ]
    flux = np.full((33, 3), np.nan)
    flux[:30] = steady(rng, 30, 3)
    flux[30, 2], flux[31, 2], flux[32, 2] = 1.0, 0.28, 1.0
    ra = np.r_[np.arange(30) * 0.02, 0.05, 0.1, 120.0]
    out = find_variables(curves(flux, 0.05, names=names, ra=ra), OPTIONS).set_index("source_id")
    assert out.loc[names[30], "kind"] == "transient"
    assert out.loc[names[31], "kind"] == ""
    assert out.loc[names[32], "kind"] == ""
    assert np.isnan(out.loc[names[32], "q_value"])


def test_transients_across_ra_zero_see_their_neighbours() -> None:
    flux = np.full((21, 3), np.nan)
    flux[:20] = steady(np.random.default_rng(6), 20, 3)
    flux[20, 2] = 1.0
    names = [f"N{k}" for k in range(20)] + ["DSA_J000000.0+160000"]
    table = curves(flux, 0.05, names=names, ra=np.r_[np.full(20, 359.9), 0.05])
    assert find_variables(table, OPTIONS).set_index("source_id").loc[names[20], "kind"] == "transient"


def test_points_of_bad_quality_do_not_count() -> None:
    flux = steady(np.random.default_rng(8), 10, 5)
    flux[2, 3] = 30.0
    table = curves(flux, 0.05)
    table.loc[(table["source_id"] == "NVSS_0002") & (table["flux_jy"] > 10), "quality"] = 1
    out = find_variables(table, OPTIONS).set_index("source_id")
    assert out.loc["NVSS_0002", "kind"] == ""
    assert out.loc["NVSS_0002", "n_epochs"] == 4


def test_one_epoch_and_no_rows_are_no_error() -> None:
    table = curves(np.ones((4, 1)), 0.1)
    out = find_variables(table, OPTIONS)
    assert out["q_value"].isna().all()
    assert (out["kind"] == "").all()
    assert find_variables(table.iloc[:0], OPTIONS).empty


@pytest.mark.parametrize("epochs", [5, 20, 50])
def test_false_alarms_stay_below_the_promise_at_any_number_of_epochs(epochs) -> None:
    """Constant sources only: with a false-discovery rate of 1 %, at most 1 % of whole searches may name a candidate.
    In 60 searches of 100 sources 0.6 are expected; 5 have a chance of 4e-4.
    """
    rng = np.random.default_rng(epochs)
    errors = rng.uniform(0.05, 0.3, (100, 1)) * rng.uniform(0.8, 1.2, (100, epochs))
    table = curves(1 + errors * rng.standard_normal((100, epochs)), errors)
    assert false_alarm_rate(table, OPTIONS, trials=60, seed=1) * 6000 < 5


def test_injected_changes_are_recovered_when_they_should_be() -> None:
    """Halving a flux or adding half at 5 % errors is 7 sigma of a pair, and is found; changes of 5 % must not be found."""
    rng = np.random.default_rng(9)
    table = curves(steady(rng, 100, 10), 0.05)
    for kind in ("flare", "ese"):
        assert completeness(table, OPTIONS, kind, 0.6, trials=3, seed=2) > 0.95
        assert completeness(table, OPTIONS, kind, 0.05, trials=3, seed=2) < 0.05
    figures = injection_figures(table, OPTIONS, trials=2)
    assert figures["false_alarm_rate"] < 0.02
    assert figures["completeness_flare"] > 0.8
    assert figures["completeness_ese"] > 0.8


def test_changes_beside_a_bright_neighbour_are_no_candidates() -> None:
    """A new 20 mJy source that comes and goes is a transient if isolated, and a sidelobe beside 2 Jy (1.5 % of that: 30 mJy)."""
    flux = np.array([[2.0, 2.0, 2.0], [0.5, 0.5, 0.5], [0.001, 0.02, 0.02]])
    names = ["NVSS_bright", "NVSS_other", "DSA_J002000.0+160000"]
    for neighbour_deg, kind in ((1.0, ""), (3.0, "transient")):
        table = curves(flux, 0.001, names, ra=np.array([5.0 - neighbour_deg, 4.8, 5.0]))
        kinds = find_variables(table, OPTIONS).set_index("source_id")["kind"]
        assert kinds["DSA_J002000.0+160000"] == kind


def test_a_flare_with_a_tail_is_a_flare() -> None:
    """Three nights: quiet, 2.5 times as bright, and a tenth above quiet. The catalogue has the quiet flux."""
    flux = np.array([[0.99, 2.45, 1.09], [1.0, 1.0, 1.0]])
    kinds = find_variables(curves(flux, 0.01, catalogue=np.array([0.994, 1.0])), OPTIONS).set_index("source_id")["kind"]
    assert list(kinds[["NVSS_0000", "NVSS_0001"]]) == ["flare", ""]
