"""The frequency of a catalogue's fluxes is known or given, never guessed; fluxes are brought to 1.4 GHz with the stated index."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from dsa110_assets.errors import ConfigurationError
from dsa110_assets.sky import catalogues, model

FLUX_JY = 1.0
GENERIC = pd.DataFrame({"id": ["a"], "RA": [80.1], "DEC": [16.2], "Total_flux [Jy]": [FLUX_JY]})
OWN = pd.DataFrame({"name": ["a"], "ra_deg": [80.1], "dec_deg": [16.2], "flux_jy": [FLUX_JY]})


def read(folder: Path, frame: pd.DataFrame, name: str, told_mhz: float | None = None, called: str | None = None) -> float:
    """The flux at 1.4 GHz in the sky model of one table."""
    frame.to_csv(folder / name, index=False)
    table = catalogues.read_catalogue(folder / name, called, None if told_mhz is None else told_mhz * 1e6)
    return float(model.from_frame(table).flux_jy[0])


@pytest.mark.parametrize(
    ("name", "mhz"),
    [
        ("TGSS.csv", 147.5), ("tgssadr1-strip.csv", 147.5), ("SUMSS.csv", 843), ("sumss_dec-30.csv", 843), ("vlass.csv", 3000),
        ("CIRADA_VLASS1QLv3.1_table1.csv", 3000), ("racs-low.csv", 887.5), ("RACS_mid_dr2.csv", 1367.5), ("racs high.csv", 1655.5),
        ("lotss-dr2.csv", 144), ("gleam.csv", 200), ("GLEAM_EGC_v2.csv", 200), ("nvss.csv", 1400), ("FIRST.csv", 1400),
        ("first_14dec17.csv", 1400), ("deep@943.5MHz.csv", 943.5), ("deep@1.28GHz-v2.csv", 1280),
    ],
)  # fmt: skip
@pytest.mark.parametrize("form", [GENERIC, OWN], ids=["generic", "own"])
def test_a_file_may_be_named_after_its_survey_or_frequency(tmp_path: Path, form: pd.DataFrame, name: str, mhz: float) -> None:
    assert read(tmp_path, form, name) == pytest.approx((1400 / mhz) ** -0.7)


@pytest.mark.parametrize("name", ["list.csv", "first_list.csv", "my-first-nvss.csv", "racs.csv", "racs-low3.csv", "askap943.csv"])
def test_a_catalogue_without_a_known_frequency_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigurationError, match="at which frequency") as refused:
        read(tmp_path, GENERIC, name)
    for remedy in ("frequency_mhz", "@943.5MHz.csv", f"DSA110_CATALOGUE_FREQUENCIES_MHZ='{{\"{name}\": 943.5}}'"):
        assert remedy in str(refused.value)
    assert read(tmp_path, GENERIC, name, told_mhz=943.5) == pytest.approx((1400 / 943.5) ** -0.7)
    assert read(tmp_path, GENERIC.assign(frequency_mhz=943.5), name) == pytest.approx((1400 / 943.5) ** -0.7)


def test_the_platform_s_own_form_is_at_1400_mhz(tmp_path: Path) -> None:
    assert read(tmp_path, OWN, "list.csv") == FLUX_JY
    with pytest.raises(ConfigurationError, match="at which frequency"):  # RACS has three bands, none of them at 1400 MHz
        read(tmp_path, OWN, "racs.csv")


def test_its_own_spectral_index_is_used_where_a_row_has_one(tmp_path: Path) -> None:
    for index, used in ((-1.1, -1.1), (0.4, 0.4), (-99.0, -0.7), ("", -0.7)):
        frame = GENERIC.assign(spectral_index=[index])
        assert read(tmp_path, frame, "tgss.csv") == pytest.approx((1400 / 147.5) ** used)


@pytest.mark.parametrize("prefix", ["TGSSADR", "SUMSS ", "VLASS1QLCIR ", "RACS-MID1 ", "NVSS ", "FIRST ", "GLEAM "])
def test_survey_frequencies_follow_from_source_names(tmp_path: Path, prefix: str) -> None:
    mhz = {"T": 147.5, "S": 843, "V": 3000, "R": 1367.5, "N": 1400, "F": 1400, "G": 200}[prefix[0]]
    frame = GENERIC.assign(name=[f"{prefix}J052024.0+161200"])
    assert read(tmp_path, frame, "list.csv") == pytest.approx((1400 / mhz) ** -0.7)


def test_contradictory_frequencies_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"the setting says 1400 MHz, but it is called TGSS, at 147.5 MHz"):
        read(tmp_path, GENERIC, "tgss.csv", told_mhz=1400)
    with pytest.raises(ConfigurationError, match=r"it is called TGSS.*names of SUMSS"):
        read(tmp_path, GENERIC.assign(name=["SUMSS J052024+161200"]), "tgss.csv")
    with pytest.raises(ConfigurationError, match=r"says 943.5 MHz, but column 'frequency_mhz' 1400 MHz"):
        read(tmp_path, GENERIC.assign(frequency_mhz=1400.0), "list.csv", told_mhz=943.5)
    with pytest.raises(ConfigurationError, match="1400 Hz is beyond"):
        read(tmp_path, GENERIC.assign(frequency_hz=1400.0), "list.csv")


def test_a_row_without_a_frequency_has_no_flux(tmp_path: Path) -> None:
    frame = pd.concat([GENERIC, GENERIC.assign(RA=90.0)]).assign(frequency_mhz=[1400.0, None])
    frame.to_csv(tmp_path / "list.csv", index=False)
    assert catalogues.read_catalogue(tmp_path / "list.csv")["flux_jy"].isna().tolist() == [False, True]
    assert catalogues.read_catalogue(tmp_path / "list.csv", frequency_hz=1.4e9)["flux_jy"].tolist() == [FLUX_JY, FLUX_JY]


def test_the_model_is_at_1400_mhz_whatever_its_first_row(tmp_path: Path) -> None:
    (GENERIC.to_csv(tmp_path / "tgss.csv", index=False), OWN.assign(ra_deg=90.0).to_csv(tmp_path / "own.csv", index=False))
    frames = [catalogues.read_catalogue(tmp_path / name) for name in ("tgss.csv", "own.csv")]
    sky = model.from_frame(catalogues.merge(frames, [], 15.0))
    assert (sky.reference_hz, sky.flux_jy.tolist()) == (1.4e9, pytest.approx([(1400 / 147.5) ** -0.7, FLUX_JY]))
