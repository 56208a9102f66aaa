"""Imported catalogues: the same two sources read from every format, unit and column name."""

from __future__ import annotations

from pathlib import Path

import astropy.units as u
import numpy as np
import pandas as pd
import pytest
from astropy.table import Table

from dsa110_assets.errors import ConfigurationError
from dsa110_assets.sky import calibrators, catalogues
from dsa110_assets.sky.names import position_name

RA, DEC, FLUX_JY = [10.684708, 359.9], [41.26875, -0.5], [0.25, 0.003]


def written(path: Path, kind: str) -> Path:
    """Write one catalogue as surveys do, and return its path."""
    if kind == "own.csv":
        pd.DataFrame({"name": ["a", "b"], "ra_deg": RA, "dec_deg": DEC, "flux_jy": FLUX_JY}).to_csv(path, index=False)
    elif kind == "mjy.csv":
        milli = np.array(FLUX_JY) * 1e3
        pd.DataFrame({"RAJ2000": RA, "DEJ2000": DEC, "S1.4 [mJy]": milli, "e_S1.4": 0}).to_csv(path, index=False)
    elif kind == "words.csv":
        frame = pd.DataFrame({"RA": ["00:42:44.32992", "23:59:36.0"], "Dec": ["+41:16:07.5", "-00:30:00"]})
        frame.assign(total_flux_ujy=np.array(FLUX_JY) * 1e6).to_csv(path, index=False)
    elif kind == "own.parquet":
        pd.DataFrame({"ra_deg": RA, "dec_deg": DEC, "flux_mjy": np.array(FLUX_JY) * 1e3}).to_parquet(path)
    else:
        table = Table(
            {
                "RA": np.deg2rad(RA) * u.rad,
                "DEC": DEC * u.deg,
                "PEAK_FLUX": np.array(FLUX_JY) * 9e3 * u.mJy / u.beam,
            }
        )
        table["TOTAL_FLUX"] = np.array(FLUX_JY) * 1e3 * u.mJy
        table.write(path, format="votable" if kind.endswith("vot") else "fits")
    return path


@pytest.mark.parametrize("kind", ["own.csv", "mjy.csv", "words.csv", "own.parquet", "survey.fits", "survey.vot"])
def test_one_catalogue_in_every_form(tmp_path: Path, kind: str) -> None:
    frame = catalogues.read_catalogue(written(tmp_path / kind, kind), "RACS-low")
    assert tuple(frame.columns) == catalogues.COLUMNS
    np.testing.assert_allclose(frame["ra_deg"], RA, atol=1e-9)
    np.testing.assert_allclose(frame["dec_deg"], DEC, atol=1e-9)
    np.testing.assert_allclose(frame["flux_jy"], FLUX_JY, rtol=1e-12)
    assert set(frame["frequency_hz"]) == {887.5e6}
    assert set(frame["spectral_index"]) == {-0.7}
    expected = ["a", "b"] if kind == "own.csv" else ["RACS-low J004244.3+411607", "RACS-low J235936.0-003000"]
    assert list(frame["source_id"]) == expected


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"ra_deg": [1.0], "dec_deg": [2.0], "flux": [3.0]}, "no unit"),
        ({"ra_deg": [1.0], "flux_jy": [3.0]}, "no dec column"),
        ({"ra_deg": [1.0], "dec_deg": [92.0], "flux_jy": [3.0]}, "row 1"),
        ({"ra_deg": [1.0], "dec_deg": [2.0], "flux_deg": [3.0]}, "flux_deg"),
        ({"ra_jy": [1.0], "dec_deg": [2.0], "flux_jy": [3.0]}, "angle"),
        ({"ra_deg": [1.0], "dec_deg": [2.0], "flux_jy": ["bright"]}, "numbers"),
    ],
)
def test_columns_that_cannot_be_understood_are_refused(tmp_path: Path, columns: dict[str, list[object]], message: str) -> None:
    path = tmp_path / "odd.csv"
    pd.DataFrame(columns).to_csv(path, index=False)
    with pytest.raises(ConfigurationError, match=message) as caught:
        catalogues.read_catalogue(path)
    assert "odd.csv" in str(caught.value)


def test_a_missing_file_and_an_unknown_kind_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="not there"):
        catalogues.read_catalogue(tmp_path / "none.csv")
    (tmp_path / "x.docx").write_text("?")
    with pytest.raises(ConfigurationError, match="CSV, FITS"):
        catalogues.read_catalogue(tmp_path / "x.docx")


def test_missing_and_non_positive_fluxes_are_unknown(tmp_path: Path) -> None:
    path = tmp_path / "gaps.csv"
    path.write_text("ra_deg,dec_deg,flux_mjy,alpha\n1,2,,-1\n2,2,-3,\n3,2,4,0.5\n")
    frame = catalogues.read_catalogue(path)
    np.testing.assert_array_equal(np.isnan(frame["flux_jy"]), [True, True, False])
    np.testing.assert_array_equal(frame["spectral_index"], [-1, -0.7, 0.5])


def sources(catalogue: str, ra: list[float], dec: list[float]) -> pd.DataFrame:
    n = len(ra)
    names = [f"{catalogue}{i}" for i in range(n)]
    return pd.DataFrame(
        {"source_id": names, "name": names, "ra_deg": ra, "dec_deg": dec, "flux_jy": 1.0,
        "frequency_hz": 1.4e9,
         "spectral_index": -0.7, "catalogue": catalogue}
    )  # fmt: skip


def test_merge_follows_precedence_and_works_across_zero_hours() -> None:
    nvss = sources("NVSS", [359.9995, 20.0, 20.0 + 2 / 3600], [0.0, 10.0, 10.0])
    first = sources("FIRST", [0.0005, 30.0], [0.0, 80.0])  # 3.6 arcsec from NVSS0, over the 0 h line
    other = sources("OTHER", [30.0 + 20 / 3600], [80.0])  # 3.5 arcsec on the sky at declination 80
    merged = catalogues.merge([nvss, first, other], ["FIRST", "NVSS"], radius_arcsec=5.0)
    # NVSS1 and NVSS2 are 2 arcsec apart in one catalogue: that catalogue resolved them
    assert list(merged["source_id"]) == ["FIRST0", "FIRST1", "NVSS1", "NVSS2"]
    assert len(catalogues.merge([nvss, first, other], ["FIRST"], radius_arcsec=3.0)) == 6
    assert catalogues.merge([], [], 1.0).empty


def test_builtin_holds_exactly_the_calibrators_with_a_known_flux() -> None:
    frame = catalogues.builtin()
    assert frame["flux_jy"].gt(0).all()
    assert frame["source_id"].is_unique
    with_flux = {c.name for c in calibrators.load() if c.flux_20cm_jy is not None or c.standard}
    assert set(frame["name"]) == with_flux
    row = frame.set_index("name").loc["0521+166"]
    assert row["flux_jy"] == pytest.approx(float(calibrators.find("3C138").flux_jy(1.4e9)))


def test_names_are_truncated_not_rounded() -> None:
    assert position_name("DSA", 15 * (12 + 34 / 60 + 56.79 / 3600), -(16 + 16 / 60 + 22.9 / 3600)) == "DSA J123456.7-161622"
    assert position_name("DSA", 0.0, 0.0) == "DSA J000000.0+000000"
    assert position_name("DSA", 45.0, 30.0) == "DSA J030000.0+300000"
    assert position_name("DSA", 359.9999999, 89.99999) == "DSA J235959.9+895959"
