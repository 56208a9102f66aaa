"""Ensemble normalisation on synthetic nights with known gains (traps 32 sigma_C, 41 overlapping hours)."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy.special import chdtrc

from dsa110_assets.photometry.ensemble import LIGHT_CURVE_COLUMNS, normalise
from dsa110_assets.photometry.options import EnsembleOptions
from dsa110_assets.photometry.past import Past
from dsa110_assets.photometry.quality import Quality
from dsa110_assets.photometry.transits import one_per_transit
from dsa110_assets_tests.photometry.nightly import each_night, light_curves_of

OPTIONS = EnsembleOptions()


def nights(seed, sources, epochs, fraction=0.01, gain_sd=0.05, rms=0.005, change=None):
    """Measurement rows, true fluxes (sources,) and gains (epochs,); `change` maps (source, epoch) to a
    factor.
    """
    rng = np.random.default_rng(seed)
    flux = 10 ** rng.uniform(-1.5, 0.7, sources)
    gains = 1 + gain_sd * rng.standard_normal(epochs)
    tables = []
    for e in range(epochs):
        true = flux * np.array([(change or {}).get((k, e), 1.0) for k in range(sources)])
        observed = gains[e] * true * (1 + fraction * rng.standard_normal(sources)) + rms * rng.standard_normal(sources)
        day = pd.Timestamp("2026-01-01") + pd.Timedelta(days=e)
        tables.append(
            pd.DataFrame(
                {
                    "source_id": [f"s{k:05d}" for k in range(sources)],
                    "ra_deg": np.arange(sources) * 0.1 % 360,
                    "dec_deg": 16.0,
                    "epoch": f"{day:%Y-%m-%d}T22:00",
                    "mjd": 61041.9 + e * 0.99727,
                    "flux_jy": observed,
                    "flux_err_jy": rms,
                    "rms_jy": rms,
                    "limit_jy": np.where(observed > 5 * rms, np.nan, 5 * rms),
                    "detected": observed > 5 * rms,
                    "quality": 0,
                    "mosaic_id": f"m{e}",
                    "catalogue_flux_jy": flux,
                }
            )
        )
    return pd.concat(tables, ignore_index=True), flux, gains


def corrections_of(rows: pd.DataFrame) -> pd.DataFrame:
    """correction, correction_err and n_references by epoch, from sources that are no references."""
    curves = light_curves_of(rows).sort_values("n_references", kind="stable")
    return curves.groupby("epoch")[["correction", "correction_err", "n_references"]].last()


def residual_rms(curves: pd.DataFrame) -> float:
    """sqrt(sum chi^2 / sum(N - 1)) over the sources that do not vary (p > 0.001)."""
    finite = curves[np.isfinite(curves["flux_jy"])].assign(weight=lambda c: 1 / c["flux_err_jy"] ** 2)
    sums = finite.assign(product=finite["weight"] * finite["flux_jy"]).groupby("source_id")[["weight", "product"]].transform("sum")
    chi2 = (finite["weight"] * (finite["flux_jy"] - sums["product"] / sums["weight"]) ** 2).groupby(finite["source_id"]).sum()
    freedom = finite.groupby("source_id").size() - 1
    steady = chdtrc(freedom.clip(lower=1), chi2) > 1e-3
    return float(np.sqrt(chi2[steady].sum() / freedom[steady].sum()))


def figures_of(rows: pd.DataFrame) -> dict[str, float]:
    """The last night's figures."""
    return list(each_night(rows))[-1].figures


def test_gains_are_recovered_within_their_stated_errors() -> None:
    """C_e against the true gains (one common factor free): pulls of 60 epochs have sd 1 within 4/sqrt(120) =
    0.37.

    If sigma_C were the plain scatter, the sd would be 0.18 (50 references); if C were not normalised, 10.
    """
    rows, _, gains = nights(1, 200, 60)
    table = corrections_of(rows)
    ratio = table["correction"].to_numpy() / gains
    pull = (ratio / np.median(ratio) - 1) / (table["correction_err"] / table["correction"]).to_numpy()
    assert 0.63 < pull.std() < 1.37
    assert table["n_references"].min() > 40


@pytest.mark.parametrize(
    ("sources", "epochs", "slack"), [(60, 3, 0.12), (60, 10, 0.06), pytest.param(300, 30, 0.03, marks=pytest.mark.slow)]
)
def test_residuals_of_steady_sources_have_unit_scatter(sources, epochs, slack) -> None:
    """An unstated intrinsic error of 1 % is found, and pulls of steady sources have rms 1.

    The rms is the mean over 8 sets of nights: that of one set has error 1/sqrt(2 N_s (N_e - 1)), 6, 3 and 0.8 %; the estimated
    fraction adds as much again, and for three epochs so does the prior.
    """
    figures = []
    for seed in range(8):
        rows, _, _ = nights(seed, sources, epochs)
        figures.append(figures_of(rows))
    assert np.mean([f["residual_rms"] for f in figures]) == pytest.approx(1, abs=slack)
    assert np.mean([f["fractional_error"] for f in figures]) == pytest.approx(0.01, rel=0.25)


def test_faint_sources_rescale_a_wrong_noise() -> None:
    """Errors quoted 25 % too small are rescaled by the scatter of faint sources; 18 sources x 19 give it to 5 %."""
    rows, _, _ = nights(3, 400, 20)
    rows["flux_err_jy"] *= 0.8
    assert figures_of(rows)["error_scale"] == pytest.approx(1.25, rel=0.15)


def test_noise_that_is_the_same_every_night_is_not_scatter() -> None:
    """Confusion of 0.7 rms, the same every night, is part of the flux errors: light curves scatter by 0.82 of these.

    Hardly any source is below 10 sigma, and discoveries, which noise made bright once, must not determine the scale. About 100
    degrees of freedom give the scale to 0.07, eight sets to 0.025; three times that is allowed.
    """
    scales, rms = [], []
    for seed in range(8):
        rows, _, _ = nights(seed, 150, 3, fraction=0.0)
        static = 0.7 * 0.005 * np.random.default_rng(seed).standard_normal(150)
        rows = rows.assign(flux_jy=rows["flux_jy"] + np.tile(static, 3), flux_err_jy=0.005 * np.hypot(1, 0.7))
        blind = rows[rows["source_id"] < "s00060"].assign(flux_jy=0.005 * np.random.default_rng(seed).standard_normal(180))
        blind.loc[blind["epoch"] == rows["epoch"].min(), "flux_jy"] = 0.035
        blind = blind.assign(source_id="DSA_J" + blind["source_id"], dec_deg=10.0, catalogue_flux_jy=np.nan)
        curves = light_curves_of(pd.concat([rows, blind], ignore_index=True))
        scales.append(curves.attrs["error_scale"])
        faint = curves[curves["catalogue_flux_jy"] < 0.25]  # 50 sigma: above, the prior's part of the fraction shows
        rms.append(residual_rms(faint))
    assert np.mean(scales) == pytest.approx(1 / np.hypot(1, 0.7), abs=0.08)
    assert np.mean(rms) == pytest.approx(1, abs=0.08)


@pytest.mark.parametrize("epochs", [2, 3, 8])
def test_a_reference_does_not_calibrate_its_own_variation_away(epochs) -> None:
    """The brightest of eight sources flares by half in one epoch: the whole flare remains, and the others do not dip."""
    rows, flux, _ = nights(5, 40, epochs, gain_sd=0.03)
    bright = int(np.argmax(flux))
    rows, _, _ = nights(5, 40, epochs, gain_sd=0.03, change={(bright, epochs - 1): 1.5})
    keep = np.argsort(flux)[-8:]
    rows = rows[rows["source_id"].isin([f"s{k:05d}" for k in keep])]
    out = light_curves_of(rows)
    flare = out[out["source_id"] == f"s{bright:05d}"]["flux_jy"].to_numpy()
    # Eight references of 1 to 3 %: each epoch's correction has an error of about 1 %, the flux one of 1 %; four sigma are allowed.
    assert flare[-1] / np.median(flare[:-1]) == pytest.approx(1.5, rel=0.07)
    others = out[out["source_id"] != f"s{bright:05d}"]
    last = others.groupby("source_id")["flux_jy"].apply(lambda s: s.iloc[-1] / s.iloc[0])
    assert np.median(last) == pytest.approx(1.0, abs=0.03)
    assert (flare[-1] - flare[0]) / out["flux_err_jy"].max() > 5


def test_own_correction_is_exactly_that_of_the_others() -> None:
    """A reference's flux multiplied by ten in an epoch must not change the correction that is applied to it there."""
    rows, _, _ = nights(6, 30, 12)
    name, epoch = rows["source_id"].iloc[0], rows["epoch"].iloc[-1]
    bright = rows.groupby("source_id")["flux_jy"].median().idxmax()
    changed = rows.copy()
    changed.loc[(rows["source_id"] == bright) & (rows["epoch"] == epoch), "flux_jy"] *= 1.2
    before, after = (light_curves_of(r).set_index(["source_id", "epoch"])["correction"] for r in (rows, changed))
    assert after[(bright, epoch)] == pytest.approx(before[(bright, epoch)], rel=1e-3)
    assert name in before.index.get_level_values(0)


def test_overlapping_hours_give_one_row_per_transit_at_ra_zero_too() -> None:
    """The same tiles in two hour mosaics (trap 41) give one row, that of lower noise; nights 0.997 d apart stay two rows."""
    rows, _, _ = nights(7, 20, 4)
    again = rows.assign(
        mjd=rows["mjd"] + 1 / 24,
        mosaic_id=rows["mosaic_id"] + "b",
        flux_err_jy=0.004,
        epoch=rows["epoch"].str.replace("T22", "T23"),
    )
    both = pd.concat([rows, again]).sample(frac=1, random_state=1)
    out = one_per_transit(both)
    assert len(out) == 80
    assert (out["flux_err_jy"] == 0.004).all()
    both.loc[both["epoch"].str.endswith("T23:00"), "flux_jy"] = np.nan
    assert (one_per_transit(both)["flux_err_jy"] == 0.005).all()
    assert len(light_curves_of(both)) == 80


def test_later_nights_do_not_touch_earlier_ones() -> None:
    """Except for errors, every row of the first 15 nights is the same to the last bit with and without 15 more nights."""
    rows, _, _ = nights(8, 80, 30, fraction=0.005)
    early = rows[rows["mjd"] < 61041.9 + 14.5]
    old, new = (list(each_night(r)) for r in (early, rows))
    assert len(old) == 15
    for before, after in zip(old, new, strict=False):
        pd.testing.assert_frame_equal(before.curves, after.curves, check_exact=True)


def joint_corrections(rows: pd.DataFrame) -> pd.Series[float]:
    """C_e of all epochs at once, by least squares of log S = log b_i + log C_e over bright sources. A night-by-night normalisation should
    give the same except for noise and a common factor."""
    bright = rows[rows.groupby("source_id")["flux_jy"].transform("median") > 0.25]
    source, names = pd.factorize(bright["source_id"])
    epoch, epochs = pd.factorize(bright["epoch"], sort=True)
    matrix = np.zeros((len(bright), len(names) + len(epochs)))
    matrix[np.arange(len(bright)), source] = matrix[np.arange(len(bright)), len(names) + epoch] = 1
    solution = np.linalg.lstsq(matrix, np.log(bright["flux_jy"].to_numpy()), rcond=None)[0][len(names) :]
    return pd.Series(np.exp(solution - solution.mean()), index=epochs)


def test_nights_in_sequence_agree_with_a_joint_fit() -> None:
    """Thirty nights, five of them not observed, with one source seen only since the twelfth: corrections equal those of a joint fit.

    The median of 50 references that scatter by 1 % and have noise of at most 2 % (snr 50) has an error of 1.25 x 1.2 % / sqrt(50)
    = 0.2 %, the joint fit one of 0.1 %; the common factor is the first night's error. Allowed are five times 0.25 % for the worst of
    25, and 1.5 times for their rms. Constant sources' fluxes then agree as well.
    """
    rows, flux, gains = nights(21, 120, 30)
    night = np.round((rows["mjd"] - 61041.9) / 0.99727).astype(int)
    rows = rows[~night.isin([3, 4, 11, 19, 20]) & ~((rows["source_id"] == "s00007") & (night < 12))]
    nightly, joint = corrections_of(rows)["correction"], joint_corrections(rows)
    assert list(nightly.index) == list(joint.index)
    ratio = (nightly / joint).to_numpy()
    deviation = ratio / np.median(ratio) - 1
    assert np.max(np.abs(deviation)) < 5 * 0.0025
    assert np.std(deviation) < 1.5 * 0.0025
    curves = light_curves_of(rows)
    true = flux[curves["source_id"].str[1:].astype(int)] * gains[0]
    pull = ((curves["flux_jy"] - true) / curves["flux_err_jy"])[curves["catalogue_flux_jy"] > 0.25]
    # the common factor is the mean noise of the first night's references: 0.2 % beside errors of 1 %; 700 pulls give their sd to 3 %
    assert pull.std() == pytest.approx(1, abs=0.12)


def test_the_choice_of_references_is_not_biased_by_noise() -> None:
    """400 sources of the same flux, of which 50 are references: all others are constant from the first night to the second and third.

    A correction by 50 references that scatter by 1 % in both nights has an error of 1.25 x 1.4 % / sqrt(50) = 0.25 %; four times that is
    allowed. The 50 sources of the highest first fluxes would be 1.6 % high in that night, and all others would seem to rise by as much.
    """
    rng = np.random.default_rng(24)
    rows, _, gains = nights(24, 400, 3)
    gain = np.repeat(gains, 400)
    rows = rows.assign(flux_jy=gain * (1 + 0.01 * rng.standard_normal(1200)), catalogue_flux_jy=1.0)
    flux = light_curves_of(rows).groupby("epoch")["flux_jy"].median()
    np.testing.assert_allclose(flux / flux.iloc[0], 1, atol=4 * 0.0025)


def test_a_late_night_changes_only_the_nights_after_it() -> None:
    """Without the fourth of eight nights, the nights before it are the same to the last bit. Those after it have other baselines, which
    differ by less than the largest error of a correction (four times 0.2 %)."""
    rows, _, _ = nights(22, 100, 8)
    without = list(each_night(rows[rows["epoch"] != sorted(rows["epoch"].unique())[3]]))
    whole, again = list(each_night(rows)), list(each_night(rows))
    for first, second in zip(whole, again, strict=True):
        pd.testing.assert_frame_equal(first.curves, second.curves, check_exact=True)
        pd.testing.assert_frame_equal(first.past.rows, second.past.rows, check_exact=True)
    for first, second in zip(whole[:3], without[:3], strict=True):
        pd.testing.assert_frame_equal(first.curves, second.curves, check_exact=True)
    for first, second in zip(whole[4:], without[3:], strict=True):
        assert (first.curves["correction"] != second.curves["correction"]).any()
        np.testing.assert_allclose(first.curves["correction"], second.curves["correction"], rtol=4 * 0.002)


def test_a_bounded_number_of_past_rows_is_kept() -> None:
    """After 60 nights only the first ten and the last ten rows of a source are kept."""
    rows, _, _ = nights(23, 40, 60)
    kept = [night.past.rows.groupby("source_id").size().max() for night in each_night(rows)]
    assert kept[4] == 5
    assert kept[-1] == 20


def test_too_few_references_leave_the_epoch_unnormalised() -> None:
    """Two usable sources give correction 1 and the UNNORMALISED bit; one epoch or no rows raise no error either."""
    rows, _, _ = nights(10, 40, 3)
    bright = rows.groupby("source_id")["flux_jy"].median().sort_values().index[-2:]
    out = light_curves_of(rows[rows["source_id"].isin(bright)])
    assert (out["correction"] == 1).all()
    assert all(q & Quality.UNNORMALISED for q in out["quality"])
    single = rows[rows["epoch"] == rows["epoch"].iloc[0]]
    curves = light_curves_of(single)
    assert tuple(curves.columns) == LIGHT_CURVE_COLUMNS
    assert len(curves) == 40
    assert np.isnan(figures_of(single)["residual_rms"])
    none = normalise(one_per_transit(rows.iloc[:0]), Past.nothing(OPTIONS), OPTIONS)
    assert (len(none.curves), tuple(none.curves.columns)) == (0, LIGHT_CURVE_COLUMNS)
    assert (none.figures["n_rows"], none.figures["n_sources"], none.figures["n_comparable_epochs"]) == (0, 0, 0)


def test_a_first_epoch_defines_the_scale() -> None:
    """Alone, or after three epochs of another part of the sky, a first epoch does not count as lacking references. Its scale is off by
    the mean noise of its sources: 1.25 x 3 % / sqrt(n), where 3 % is assumed for each source."""
    rows, _, _ = nights(10, 40, 3)
    first = rows[rows["epoch"] == rows["epoch"].iloc[0]]
    curves = light_curves_of(first)
    number = curves["n_references"].iloc[0]
    assert number >= OPTIONS.min_references
    assert (curves["correction"] == 1).all()
    assert curves["correction_err"].iloc[0] == pytest.approx(1.2533 * 0.03 / np.sqrt(number), rel=0.2)
    assert (curves["quality"] == 0).all()
    assert figures_of(first)["n_comparable_epochs"] == 0
    elsewhere = first.assign(
        source_id="new-" + first["source_id"], ra_deg=first["ra_deg"] + 40, mjd=first["mjd"] + 100, epoch="2026-12-01T22:00"
    )
    figures = figures_of(pd.concat([rows, elsewhere], ignore_index=True))
    assert (figures["n_epochs"], figures["n_comparable_epochs"], figures["n_unnormalised_epochs"]) == (1, 0, 0)
    assert figures_of(rows)["n_references_min"] >= OPTIONS.min_references
    # two usable sources in each of three epochs: these epochs can be compared, and do lack references
    bright = rows.groupby("source_id")["flux_jy"].median().sort_values().index[-2:]
    poor = figures_of(rows[rows["source_id"].isin(bright)])
    assert (poor["n_comparable_epochs"], poor["n_references_min"]) == (1, 0)


def test_an_hour_without_references_takes_its_night() -> None:
    """The second hour of each night has only faint sources; its correction is the first hour's."""
    rows, flux, _ = nights(11, 60, 5)
    faint = rows["source_id"].isin([f"s{k:05d}" for k in np.flatnonzero(flux < 0.04)])
    rows.loc[faint, "epoch"] = rows.loc[faint, "epoch"].str.replace("T22", "T23")
    out = light_curves_of(rows)
    late = out[out["epoch"].str.endswith("T23:00")]
    table = corrections_of(rows)["correction"]
    assert len(late)
    for epoch, correction in zip(late["epoch"], late["correction"], strict=True):
        assert correction == pytest.approx(table[epoch.replace("T23", "T22")], rel=0.02)


def test_missing_fluxes_and_limits_pass_through() -> None:
    rows, _, _ = nights(12, 40, 4)
    rows.loc[5, ["flux_jy", "flux_err_jy", "limit_jy"]] = np.nan
    rows.loc[5, "quality"] = int(Quality.NAN)
    out = light_curves_of(rows)
    assert out["flux_jy"].isna().sum() == 1
    faint = out[~out["detected"] & out["flux_jy"].notna()]
    np.testing.assert_allclose(faint["limit_jy"], 0.025 / faint["correction"] * out.attrs["error_scale"], rtol=1e-12)


def spoilt(rows: pd.DataFrame, epoch: int, spread: float, noise: float, seed: int = 5) -> pd.DataFrame:
    """The rows with one epoch's fluxes scattered by a fraction and its noise multiplied, as with a deaf antenna."""
    rng = np.random.default_rng(seed)
    of_epoch = (rows["mjd"] == 61041.9 + epoch * 0.99727).to_numpy()
    factor = np.where(of_epoch, 1 + spread * rng.standard_normal(len(rows)), 1.0)
    more = np.where(of_epoch, noise * rows["flux_err_jy"] * rng.standard_normal(len(rows)), 0.0)
    return rows.assign(flux_jy=rows["flux_jy"] * factor + more)


@pytest.mark.parametrize("epochs", [3, 5, 20])
def test_an_epoch_that_scatters_more_has_larger_errors_and_no_other(epochs: int) -> None:
    """Fluxes of one epoch are off by 8 % at random, and its noise is three times the stated one: its errors become larger, the others'
    do not.

    240 sources of 30 mJy to 5 Jy, rms 5 mJy: pulls about the true flux of the spoilt epoch have an sd of 1. The robust scatter of
    some 60 faint rows gives the noise to 1.17/sqrt(60) = 15 %, that of 180 bright rows the fraction to 9 %: 4 errors of
    both together are 0.4. Otherwise the sd would be above 3. Of three epochs, the two healthy ones determine their errors poorly.
    """
    rows, flux, _ = nights(7, 240, epochs)
    curves = light_curves_of(spoilt(rows, 1, 0.08, 3.0))
    noisy_epochs = curves.attrs["noisy_epochs"]
    assert noisy_epochs[0].startswith("2026-01-02T22:00: noise x ")
    assert len(noisy_epochs) == 1 or epochs == 3
    true = flux[curves["source_id"].str[1:].astype(int)]
    pull = (curves["flux_jy"] - true) / curves["flux_err_jy"]
    bad = (curves["epoch"] == "2026-01-02T22:00").to_numpy()
    assert pull[bad].std() == pytest.approx(1, abs=0.4)
    healthy = light_curves_of(rows)
    assert healthy.attrs["noisy_epochs"] == []
    ratio = curves["flux_err_jy"] / healthy["flux_err_jy"]
    assert (ratio[bad] > 2).mean() > 0.95
    if epochs > 3:
        np.testing.assert_allclose(ratio[~bad], 1, atol=0.25)


@pytest.mark.slow
def test_healthy_epochs_are_left_alone() -> None:
    """In 400 epochs of 20 skies, judged again every night, nothing is off by 4 standard errors by chance (for each of 800 scatters the
    chance is 1 in 30,000).
    """
    for seed in range(20):
        rows, _, _ = nights(100 + seed, 80, 20)
        assert light_curves_of(rows).attrs["noisy_epochs"] == []


def test_suspect_rows_are_not_used_for_normalisation() -> None:
    """A third of the sources are 30 % low in one epoch, all of them marked: the epoch's correction is that of the others."""
    rows, _, _ = nights(11, 90, 8, gain_sd=0.0)
    low = (rows["mjd"] == 61041.9 + 3 * 0.99727) & (rows["source_id"] < "s00030")
    rows = rows.assign(flux_jy=np.where(low, 0.7 * rows["flux_jy"], rows["flux_jy"]), quality=np.where(low, int(Quality.TILE_SUSPECT), 0))
    table = corrections_of(rows)
    assert table["correction"].iloc[3] == pytest.approx(1, abs=4 * table["correction_err"].iloc[3])


def test_absolute_errors_match_the_scatter_about_the_truth() -> None:
    """Every source is permanently off by 2 % (beam, neighbours): light curves scatter by 1 %, and by more about the truth.

    200 sources x 10 epochs: 2 % and the epochs' 1 % together make the sd of pulls about the truth 1 within 10 %.
    """
    rows, flux, _ = nights(12, 200, 10, gain_sd=0.0)
    rng = np.random.default_rng(3)
    off = dict(zip(sorted(rows["source_id"].unique()), 1 + 0.02 * rng.standard_normal(200), strict=True))
    curves = light_curves_of(rows.assign(flux_jy=rows["flux_jy"] * rows["source_id"].map(off)))
    true = flux[curves["source_id"].str[1:].astype(int)]
    assert curves.attrs["absolute_error"] == pytest.approx(np.hypot(0.02, 0.01), rel=0.15)
    assert ((curves["flux_jy"] - true) / curves["absolute_err_jy"]).std() == pytest.approx(1, abs=0.1)
    assert curves.attrs["fractional_error"] == pytest.approx(0.01, rel=0.25)
