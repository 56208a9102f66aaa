"""A night's measurements: names and transits over midnight; and many nights read as one table."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from dsa110_assets.archive.light_curves import Nights
from dsa110_assets.errors import NotFoundError
from dsa110_assets.photometry import nightrows
from dsa110_assets.photometry.ensemble import normalise
from dsa110_assets.photometry.errormodel import ErrorModel
from dsa110_assets.photometry.nighterrors import NightErrors
from dsa110_assets.photometry.options import EnsembleOptions
from dsa110_assets.photometry.past import Past, kept_rows
from dsa110_assets.photometry.sample import SourceSample
from dsa110_assets_tests.photometry.nightly import light_curves_of, stored

OPTIONS = EnsembleOptions()
NIGHT, MIDNIGHT = "2026-01-01", 61042.0
"""A night, and the MJD of its end."""
NO_NAMES = Past.nothing(OPTIONS).names


def hour(name: str, sources: dict[str, float], mjd: float, offset_arcsec: float = 0.0, error: float = 0.01) -> pd.DataFrame:
    """Measurements of sources at their right ascensions [deg] in an hour's mosaic, each of 1 Jy at this MJD."""
    return pd.DataFrame(
        {
            "source_id": list(sources), "ra_deg": list(sources.values()), "dec_deg": 16.0 + offset_arcsec / 3600, "epoch": name,
            "mjd": mjd, "flux_jy": 1.0, "flux_err_jy": error, "rms_jy": error, "limit_jy": np.nan, "detected": True, "quality": 0,
            "mosaic_id": f"m-{name}", "catalogue_flux_jy": 1.0,
        }
    )  # fmt: skip


def files(folder: Path, *tables: pd.DataFrame) -> list[Path]:
    paths = [folder / f"{n}.parquet" for n in range(len(tables))]
    for table, path in zip(tables, paths, strict=True):
        table.to_parquet(path)
    return paths


def test_one_object_found_twice_has_its_earliest_name_for_good(tmp_path: Path) -> None:
    """Two hours of a night find the object separately; a third hour, on a later night, finds it again. Two sources of one mosaic also
    keep separate names for good."""
    first = hour("2026-01-01T20:00", {"DSA_Ja": 10.0, "DSA_Jx": 20.0, "DSA_Jy": 20.0015}, MIDNIGHT - 0.16)
    second = hour("2026-01-01T21:00", {"DSA_Jb": 10.0}, MIDNIGHT - 0.12, offset_arcsec=2)
    rows, names = nightrows.measured(files(tmp_path, second, first), NIGHT, NO_NAMES, None, OPTIONS.merge_arcsec)
    assert rows["source_id"].tolist() == ["DSA_Ja", "DSA_Jx", "DSA_Jy"]
    assert rows["epoch"].tolist()[0] == "2026-01-01T20:00"
    third = hour("2026-01-02T20:00", {"DSA_Jb": 10.0, "DSA_Jx": 20.0, "DSA_Jc": 10.0, "NVSS": 30.0}, MIDNIGHT + 0.84, error=0.02)
    third.loc[2, "dec_deg"] += 3 / 3600
    third.loc[2, "mosaic_id"] = "elsewhere"
    rows, later = nightrows.measured(files(tmp_path, third), "2026-01-02", names, None, OPTIONS.merge_arcsec)
    assert rows["source_id"].tolist() == ["DSA_Ja", "DSA_Jx", "NVSS"]
    assert dict(zip(later["source_id"], later["called"], strict=True)) == {
        "DSA_Ja": "DSA_Ja", "DSA_Jb": "DSA_Ja", "DSA_Jc": "DSA_Ja", "DSA_Jx": "DSA_Jx", "DSA_Jy": "DSA_Jy"
    }  # fmt: skip


def test_a_transit_over_midnight_is_in_one_night(tmp_path: Path) -> None:
    """The hours on both sides of midnight measure the same tiles: each transit is in its own night, once."""
    before = hour("2026-01-01T23:00", {"S1": 1.0, "S2": 2.0, "S3": 3.0}, MIDNIGHT)
    before["mjd"] = MIDNIGHT + np.array([-0.01, 0.001, 0.006])
    after = hour("2026-01-02T00:00", {"S1": 1.0, "S2": 2.0, "S3": 3.0}, MIDNIGHT)
    after["mjd"] = np.maximum(before["mjd"], MIDNIGHT - 0.007)
    first_night, _ = nightrows.measured(files(tmp_path, before), NIGHT, NO_NAMES, None, 10.0)
    assert first_night["source_id"].tolist() == ["S1", "S2"], "S3 crosses the meridian 8.6 minutes after midnight: the next night's"
    second_night, _ = nightrows.measured(files(tmp_path, after), "2026-01-02", NO_NAMES, first_night, 10.0)
    assert second_night["source_id"].tolist() == ["S3"]
    without_first, _ = nightrows.measured(files(tmp_path, after), "2026-01-02", NO_NAMES, None, 10.0)
    assert without_first["source_id"].tolist() == ["S1", "S2", "S3"], "nobody else has them"


def many_nights(sources: int, number: int) -> pd.DataFrame:
    """Measurements of constant sources, one bad night (the second) among them: its fluxes scatter by 10 %."""
    rng = np.random.default_rng(3)
    flux = 10 ** rng.uniform(-1, 0.7, sources)
    tables = []
    for n in range(number):
        day = pd.Timestamp("2026-01-01") + pd.Timedelta(days=n)
        names = {f"s{k:04d}": k * 0.05 for k in range(sources)}
        rows = hour(f"{day:%Y-%m-%d}T22:00", names, MIDNIGHT - 0.1 + n * 0.99727, error=0.005)
        scatter = 0.1 if n == 1 else 0.01
        observed = flux * (1 + scatter * rng.standard_normal(sources)) + 0.005 * rng.standard_normal(sources)
        tables.append(rows.assign(flux_jy=observed, limit_jy=np.where(observed > 0.025, np.nan, 0.025), catalogue_flux_jy=flux))
    return pd.concat(tables, ignore_index=True)


def test_nights_on_disk_are_read_as_one_table_with_the_errors_of_the_last(tmp_path: Path) -> None:
    """Each night is made from the files of the one before, as the asset does. Read back, all rows equal one pass in memory to the last
    bit."""
    measured = many_nights(120, 6)
    folders: list[Path] = []
    for night, tonight in measured.groupby(measured["epoch"].str[:10]):
        past = Past.read(folders[-1]) if folders else Past.nothing(OPTIONS)
        place = tmp_path / str(night)
        (place / "hours").mkdir(parents=True)
        rows, names = nightrows.measured(files(place / "hours", tonight), str(night), past.names, None, 10.0)
        assert len(names) == 0
        made = normalise(rows, past, OPTIONS)
        nightrows.write(made.curves, place)
        made.past.write(place)
        folders.append(place)
    expected = light_curves_of(measured)
    expected.attrs = {}
    nights = Nights.of(folders)
    assert list(nights.errors.noisy.index) == ["2026-01-02T22:00"]
    assert nights.names() == sorted(measured["source_id"].unique())
    whole = nights.of_sources(nights.names())
    pd.testing.assert_frame_equal(whole, expected[whole.columns], check_exact=True, check_dtype=False)
    single_source = nights.of_sources(["s0007"])
    pd.testing.assert_frame_equal(single_source, whole[whole["source_id"] == "s0007"].reset_index(drop=True), check_exact=True)
    columns = ("mjd", "flux_jy", "flux_err_jy")
    tables = [
        pd.DataFrame({"source_id": np.repeat(names, np.diff(starts)), **values}) for names, starts, values in nights.parts(columns, 100)
    ]
    assert len(tables) == 8, "720 rows"
    parts = pd.concat(tables).sort_values(["source_id", "mjd"], ignore_index=True)
    pd.testing.assert_frame_equal(parts, whole[["source_id", *columns]], check_exact=True, check_dtype=False)
    early = Nights.of(folders[:2]).of_sources(["s0007"])
    assert early["flux_jy"].tolist() == single_source["flux_jy"].tolist()[:2]
    assert early["correction"].tolist() == single_source["correction"].tolist()[:2]


def test_sources_of_all_nights_are_counted_by_name(tmp_path: Path) -> None:
    nights = [["s1", "s2", "s1"], ["s2"], ["s3", "s2"]]
    for n, names in enumerate(nights):
        (tmp_path / str(n)).mkdir()
        nightrows.write(hour(str(n), {}, MIDNIGHT).reindex(range(len(names))).assign(source_id=names), tmp_path / str(n))
    files = tuple(tmp_path / str(n) / nightrows.FILE for n in range(len(nights)))
    counts = Nights(files, NightErrors.before_any(0.02)).by_source("count(*) AS n")
    assert dict(zip(counts["source_id"], counts["n"], strict=True)) == {"s1": 2, "s2": 3, "s3": 1}


def test_light_curves_of_an_earlier_version_are_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="dsa110 process"):
        Nights.of([tmp_path])


def test_errors_are_those_of_the_formula(tmp_path: Path) -> None:
    """sigma'^2 = (k k_e sigma / C)^2 + F^2 (sigma_C^2 + f^2 + f_e^2), computed by hand for a row of a noisy epoch and one of another
    epoch."""
    noisy = pd.DataFrame({"scale": [3.0], "fraction": [0.2], "rows": [9.0]}, index=pd.Index(["e1"], name="epoch"))
    errors = NightErrors(ErrorModel(1.5, 0.02), ErrorModel(1.5, 0.05), noisy)
    rows = pd.DataFrame(
        {"epoch": ["e0", "e1"], "flux_jy": 2.0, "raw_flux_err_jy": 0.1, "correction": 0.5, "correction_err": 0.005, "limit_jy": 1.0,
         "noise_scale": 1.0}
    )  # fmt: skip
    corrected = errors.with_errors(rows)
    expected = [np.sqrt((1.5 * 0.2) ** 2 + 4 * (0.01**2 + 0.02**2)), np.sqrt((4.5 * 0.2) ** 2 + 4 * (0.01**2 + 0.02**2 + 0.2**2))]
    np.testing.assert_allclose(corrected["flux_err_jy"], expected, rtol=1e-12)
    np.testing.assert_allclose(corrected["absolute_err_jy"].iloc[0], np.sqrt((1.5 * 0.2) ** 2 + 4 * (0.01**2 + 0.05**2)), rtol=1e-12)
    np.testing.assert_allclose(corrected["limit_jy"], [1.5, 4.5], rtol=1e-12)
    np.testing.assert_allclose(errors.with_errors(corrected)["limit_jy"], [1.5, 4.5], rtol=1e-12)
    stored(rows.assign(source_id="s", mjd=1.0, flux_err_jy=0.1), tmp_path, noisy)
    pd.testing.assert_frame_equal(NightErrors.read(tmp_path).noisy, noisy)


def test_the_sample_of_faint_sources_is_bounded() -> None:
    """Of 4000 sources of 5 sigma, which are no references, and 10 of 100 sigma, the sample has all bright ones and at most 1000 others."""
    rows = pd.DataFrame({"source_id": [f"s{k:04d}" for k in range(4010)], "epoch": "2026-01-01T22:00", "mjd": MIDNIGHT - 0.1})
    rows = rows.assign(flux_jy=0.05, raw_flux_err_jy=0.01, correction=1.0, correction_err=0.0, quality=0, catalogue_flux_jy=0.05)
    rows.loc[4000:, "flux_jy"] = 1.0
    kept = kept_rows(rows, NightErrors.before_any(0.03), OPTIONS, sample_rows=1000)
    assert set(rows["source_id"][4000:]) <= set(kept["source_id"])
    assert 400 < len(kept) <= 1010


def test_a_sample_has_whole_sources_and_does_not_depend_on_order() -> None:
    """The sample has at most the requested rows, and except for chance at least half of them: 200 sources chosen of 2000 are 200 +- 14."""
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
