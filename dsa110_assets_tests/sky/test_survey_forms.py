"""Catalogues in the surveys' own forms, with the columns, units, separators and comments of each: read correctly, or refused in one
sentence."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from astropy.io import fits
from astropy.table import MaskedColumn, Table

from dsa110_assets.errors import ConfigurationError
from dsa110_assets.sky import catalogues
from dsa110_assets_tests.sky.survey_files import DEC, JY, RA, REFUSED, TEXTS, text


def is_right(frame: pd.DataFrame, mhz: float, jy: float = JY) -> None:
    np.testing.assert_allclose(frame.loc[0, ["ra_deg", "dec_deg", "flux_jy"]].astype(float), [RA, DEC, jy], rtol=1e-6)
    assert set(frame["frequency_hz"]) == {mhz * 1e6}


@pytest.mark.parametrize("what", TEXTS)
def test_text_tables_of_surveys_are_read(tmp_path: Path, what: str) -> None:
    name, content, mhz, source = TEXTS[what]
    frame = catalogues.read_catalogue(text(tmp_path, name, content, "utf-16" if what == "16-bit text" else "utf-8"))
    is_right(frame, mhz)
    if source:
        assert frame.loc[0, "name"] == source
    packed = tmp_path / f"{name}.gz"
    packed.write_bytes(gzip.compress((tmp_path / name).read_bytes()))
    is_right(catalogues.read_catalogue(packed), mhz)


def test_unreliable_rows_of_surveys_are_left_out(tmp_path: Path) -> None:
    name, content, *_ = TEXTS["VLASS, CIRADA"]
    assert len(catalogues.read_catalogue(text(tmp_path, name, content))) == 1
    name, content, *_ = TEXTS["RACS-low Gaussians"]
    np.testing.assert_allclose(catalogues.read_catalogue(text(tmp_path, name, content))["flux_jy"], [0.12, 0.08])


def test_a_table_with_its_readme_is_read(tmp_path: Path) -> None:
    (tmp_path / "ReadMe").write_text(
        "VIII/65  1.4GHz NRAO VLA Sky Survey (NVSS)  (Condon+ 1998)\n"
        + "=" * 80
        + "\nByte-by-byte Description of file: nvss.dat\n"
        + "-" * 80
        + "\n   Bytes Format Units   Label    Explanations\n"
        + "-" * 80
        + "\n   1-  2  I2    h       RAh      Right Ascension J2000 (hours)\n"
        "   4-  5  I2    min     RAm      Right Ascension J2000 (minutes)\n"
        "   7- 11  F5.2  s       RAs      Right Ascension J2000 (seconds)\n"
        "  13      A1    ---     DE-      Declination J2000 (sign)\n"
        "  14- 15  I2    deg     DEd      Declination J2000 (degrees)\n"
        "  17- 18  I2    arcmin  DEm      Declination J2000 (minutes)\n"
        "  20- 23  F4.1  arcsec  DEs      Declination J2000 (seconds)\n"
        "  25- 32  F8.1  mJy     S1.4     ? Integrated 1.4GHz flux density\n"
        "  34- 38  F5.1  arcsec  MajAxis  ? Fitted major axis\n" + "-" * 80 + "\n"
    )
    dat = text(tmp_path, "nvss.dat", "05 20 24.00 -16 12 00.0    120.0  18.4\n05 20 24.00 -00 12 00.0     12.0  18.4\n")
    frame = catalogues.read_catalogue(dat)
    is_right(frame, 1400)
    assert frame.loc[1, "dec_deg"] == pytest.approx(-0.2)


def column(name: str, value: object, unit: str | None, kind: str = "D") -> fits.Column:
    return fits.Column(name, kind, array=[value], unit=unit)


@pytest.mark.parametrize(
    ("columns", "mhz"),
    [
        ([("RA", RA, "DEGREE"), ("DEC", DEC, "DEGREE"), ("S1400", JY, "JY/BEAM")], 1400),
        ([("RA", RA / 15, "hours"), ("DEC", DEC, "deg"), ("FLUX_150_MHZ", JY, "Jy")], 150),
        ([("RA", RA / 15, "hr"), ("DEC", DEC, "degrees"), ("S1.4", 120.0, "mJy/bm")], 1400),
        ([("RA", RA, None), ("DEC", DEC, None), ("FPEAK", 110.0, None), ("FINT", 120.0, None), ("RMS", 0.1, None)], 1400),
        ([("RAJ2000", RA, "deg"), ("DEJ2000", DEC, "deg"), ("Fintwide", JY, "Jy"), ("alpha", -0.8, None)], 200),
        ([("RAJ2000", RA, "deg"), ("DEJ2000", DEC, "deg"), ("Sp", 110.0, "mJy"), ("St", 120.0, "mJy"), ("Mosaic", 1.0, None)], 843),
        ([("RA", RA, "deg"), ("DEC", DEC, "deg"), ("FLUX", 120.0, "mJy"), ("FREQ", 943.5, "MHZ")], 943.5),
    ],
)
def test_fits_tables(tmp_path: Path, columns: list[tuple[str, float, str | None]], mhz: float) -> None:
    fits.BinTableHDU.from_columns([column(*arguments) for arguments in columns]).writeto(tmp_path / "t.fits")
    is_right(catalogues.read_catalogue(tmp_path / "t.fits"), mhz)
    packed = tmp_path / "t.fits.gz"
    packed.write_bytes(gzip.compress((tmp_path / "t.fits").read_bytes()))
    is_right(catalogues.read_catalogue(packed), mhz)


def test_duplicate_columns_are_refused(tmp_path: Path) -> None:
    columns = [column("RA", 10.0, "deg"), column("DEC", DEC, "deg"), column("RB", RA, "deg"), column("S1.4", JY, "Jy")]
    for second in ("RA", "Ra"):
        fits.BinTableHDU.from_columns(columns).writeto(tmp_path / "t.fits", overwrite=True)
        content = (tmp_path / "t.fits").read_bytes()
        (tmp_path / "t.fits").write_bytes(content.replace(b"'RB      '", f"'{second}      '".encode()))
        with pytest.raises(ConfigurationError, match="column 'RA' is there twice"):
            catalogues.read_catalogue(tmp_path / "t.fits")
    pd.DataFrame({"ra": [RA], "RA": [10.0], "dec": [DEC], "S1.4 [mJy]": [120.0]}).to_parquet(tmp_path / "t.parquet")
    with pytest.raises(ConfigurationError, match="column 'ra' is there twice"):
        catalogues.read_catalogue(tmp_path / "t.parquet")


VOTABLE = (
    '<?xml version="1.0"?>\n<VOTABLE version="1.4" xmlns="http://www.ivoa.net/xml/VOTable/v1.3"><RESOURCE>'
    '<COOSYS ID="used" system="SYSTEM" equinox="EQUINOX"/><COOSYS ID="unused" system="eq_FK4" equinox="B1950"/><TABLE>'
    '<FIELD name="RA" ref="used" datatype="double" unit="deg"/><FIELD name="DEC" ref="used" datatype="double" unit="deg"/>'
    '<FIELD name="old" ref="unused" datatype="double" unit="deg"/><FIELD name="S1.4" datatype="double" unit="Jy"/>'
    f"<DATA><TABLEDATA><TR><TD>{RA}</TD><TD>{DEC}</TD><TD>79.5</TD><TD>{JY}</TD></TR></TABLEDATA></DATA></TABLE></RESOURCE></VOTABLE>\n"
)


def test_positions_of_another_equinox_are_refused(tmp_path: Path) -> None:
    """The equinox as each format states it: a card, a column's comment, a coordinate system that the columns refer to."""
    columns = [column("RA", RA, "deg"), column("DEC", DEC, "deg"), column("S1.4", JY, "Jy")]
    for card, old, new in (("EQUINOX", 1950.0, 2000.0), ("RADESYS", "FK4", "FK5"), ("TCOMM1", "RA (B1950)", "RA, J2000, of B1950 plates")):
        for value in (old, new):
            table = fits.BinTableHDU.from_columns(columns)
            table.header[card] = value
            table.writeto(tmp_path / "t.fits", overwrite=True)
            if value == new:
                is_right(catalogues.read_catalogue(tmp_path / "t.fits"), 1400)
                continue
            with pytest.raises(ConfigurationError, match="another equinox"):
                catalogues.read_catalogue(tmp_path / "t.fits")
    path = text(tmp_path, "t.vot", VOTABLE.replace("SYSTEM", "eq_FK4").replace("EQUINOX", "B1950"))
    with pytest.raises(ConfigurationError, match="another equinox"):
        catalogues.read_catalogue(path)
    is_right(catalogues.read_catalogue(text(tmp_path, "t.vot", VOTABLE.replace("SYSTEM", "ICRS").replace("EQUINOX", "J2000"))), 1400)


def test_gleam_x_says_its_spectral_index(tmp_path: Path) -> None:
    content = "GLEAM-X,RAJ2000,DEJ2000,Fintwide,alpha-SP\nJ052024.0-161200,80.1,-16.2,0.12,-0.9\n"
    frame = catalogues.read_catalogue(text(tmp_path, "gleamx.csv", content))
    is_right(frame, 200)
    assert frame.loc[0, "spectral_index"] == -0.9


def test_fits_tables_of_vizier_are_read(tmp_path: Path) -> None:
    columns = [
        fits.Column("NVSS", "14A", array=["052024-161200"]), fits.Column("RAJ2000", "11A", unit='"h:m:s"', array=["05 20 24.00"]),
        fits.Column("DEJ2000", "11A", unit='"d:m:s"', array=["-16 12 00.0"]), column("S1.4", 120.0, "mJy"),
    ]  # fmt: skip
    fits.BinTableHDU.from_columns(columns).writeto(tmp_path / "asu.fit")
    is_right(catalogues.read_catalogue(tmp_path / "asu.fit"), 1400)


def test_votables_of_vizier_are_read(tmp_path: Path) -> None:
    units = {"_RAJ2000": "", "NVSS": "", "RAJ2000": "&quot;h:m:s&quot;", "DEJ2000": "&quot;d:m:s&quot;", "S1.4": "mJy"}
    fields = "".join(f'<FIELD name="{name}" datatype="char" arraysize="*" unit="{unit}"/>' for name, unit in units.items())
    cells = "".join(f"<TD>{cell}</TD>" for cell in ("", "052024-161200", "05 20 24.00", "-16 12 00.0", "120.0"))
    path = text(
        tmp_path,
        "vizier_votable",
        '<?xml version="1.0"?>\n<VOTABLE version="1.4" xmlns="http://www.ivoa.net/xml/VOTable/v1.3"><RESOURCE><TABLE>'
        f"{fields}<DATA><TABLEDATA><TR>{cells}</TR></TABLEDATA></DATA></TABLE></RESOURCE></VOTABLE>\n",
    )
    is_right(catalogues.read_catalogue(path), 1400)


def test_truncated_query_results_are_refused(tmp_path: Path) -> None:
    Table({"ra_deg": [RA], "dec_deg": [DEC], "flux_jy": [JY]}).write(tmp_path / "tap.vot", format="votable")
    complete = (tmp_path / "tap.vot").read_text()
    (tmp_path / "tap.vot").write_text(complete.replace("<TABLE", '<INFO name="QUERY_STATUS" value="OVERFLOW"/><TABLE', 1))
    with pytest.raises(ConfigurationError, match="OVERFLOW"):
        catalogues.read_catalogue(tmp_path / "tap.vot")


@pytest.mark.parametrize("kind", ["fits", "votable", "ascii.ecsv", "parquet"])
def test_catalogues_without_rows_are_refused_in_any_format(tmp_path: Path, kind: str) -> None:
    table = Table({"ra_deg": [RA], "dec_deg": [DEC], "flux_jy": [JY]})[:0]
    if kind == "parquet":
        table.to_pandas().to_parquet(tmp_path / "none")
    else:
        table.write(tmp_path / "none", format=kind)
    with pytest.raises(ConfigurationError, match="no rows"):
        catalogues.read_catalogue(tmp_path / "none")


def test_the_frequency_in_a_source_finders_fits_is_read(tmp_path: Path) -> None:
    table = fits.BinTableHDU.from_columns([column("RA", RA, "deg"), column("DEC", DEC, "deg"), column("Total_flux", JY, "Jy")])
    table.header["FREQ0"] = 888e6
    table.writeto(tmp_path / "out.fits")
    is_right(catalogues.read_catalogue(tmp_path / "out.fits"), 888)


def test_masked_cells(tmp_path: Path) -> None:
    table = Table({"ra_deg": [RA, 81.0, 82.0], "dec_deg": [DEC, 16.0, 16.0]})
    table["name"] = MaskedColumn(["A", "B", "C"], mask=[False, True, False])
    table["flux_jy"] = MaskedColumn([JY, 0.1, 99.0], mask=[False, False, True])
    for name, kind in (("m.fits", "fits"), ("m.vot", "votable"), ("m.ecsv", "ascii.ecsv")):
        table.write(tmp_path / name, format=kind)
        frame = catalogues.read_catalogue(tmp_path / name)
        assert list(frame["name"]) == ["A", "m J052400.0+160000", "C"], kind
        np.testing.assert_array_equal(np.isnan(frame["flux_jy"]), [False, False, True])
    table.to_pandas().to_parquet(tmp_path / "m.parquet")
    assert list(catalogues.read_catalogue(tmp_path / "m.parquet")["name"]) == ["A", "m J052400.0+160000", "C"]


@pytest.mark.parametrize("what", REFUSED)
def test_ambiguous_catalogues_are_refused_in_one_sentence(tmp_path: Path, what: str) -> None:
    name, content, says = REFUSED[what]
    with pytest.raises(ConfigurationError, match=says) as refused:
        catalogues.read_catalogue(text(tmp_path, name, content, "latin-1"))
    assert name in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_file_cut_short_is_refused(tmp_path: Path) -> None:
    rows = Table({"ra_deg": np.linspace(0, 90, 5000), "dec_deg": np.linspace(0, 60, 5000), "flux_jy": np.ones(5000)})
    for name, kind in (("c.fits", "fits"), ("c.vot", "votable")):
        rows.write(tmp_path / name, format=kind)
        whole = (tmp_path / name).read_bytes()
        (tmp_path / name).write_bytes(whole[: len(whole) // 2])
        with pytest.raises(ConfigurationError, match="cannot be read"):
            catalogues.read_catalogue(tmp_path / name)
    rows.to_pandas().to_parquet(tmp_path / "c.parquet")
    whole = (tmp_path / "c.parquet").read_bytes()
    (tmp_path / "c.parquet").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ConfigurationError, match="cannot be read"):
        catalogues.read_catalogue(tmp_path / "c.parquet")
    (tmp_path / "c.csv.gz").write_bytes(gzip.compress(b"ra_deg,dec_deg,flux_jy\n1,2,3\n" * 99)[:-20])
    with pytest.raises(ConfigurationError, match="cannot be read"):
        catalogues.read_catalogue(tmp_path / "c.csv.gz")
