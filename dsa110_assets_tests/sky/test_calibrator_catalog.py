"""Which catalogue sources may set a flux scale."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

from dsa110_assets.calibration import transits
from dsa110_assets.errors import ConfigurationError
from dsa110_assets.sky import calibrator_catalog, calibrators, catalogues

GOOD = {
    "source_id": "NVSS J010000+713000", "name": "NVSS J010000+713000", "ra_deg": 15.0, "dec_deg": 71.5,
    "flux_jy": 8.0, "frequency_hz": 1.4e9, "spectral_index": -0.9, "catalogue": "NVSS",
}  # fmt: skip


def sources(*rows):
    return catalogues.merge([pd.DataFrame([GOOD | row for row in rows]), catalogues.builtin()], ["NVSS"], 15.0)


def added(*rows):
    all_calibrators = calibrator_catalog.of_sources(sources(*rows))
    assert all_calibrators[: len(calibrators.load())] == calibrators.load()
    return all_calibrators[len(calibrators.load()) :]


def test_a_bright_lone_source_of_known_flux_is_a_calibrator():
    (source,) = added({})
    assert (source.anchor, source.catalogue, source.variable, source.standard) == ("catalogue:NVSS J010000+713000", "NVSS", False, None)
    # a power law: 8 Jy (1.3/1.4)^-0.9
    assert float(source.flux_jy(1.3e9)) == pytest.approx(8 * (1.3 / 1.4) ** -0.9)
    assert source.spectral_index == -0.9


def test_flux_is_brought_to_20_cm():
    """RACS-mid measures at 1367.5 MHz: 8 Jy there with index -0.9 are 7.83 Jy at 1.4 GHz."""
    (source,) = added({"frequency_hz": 1367.5e6})
    assert source.flux_20cm_jy == pytest.approx(8 * (1.4 / 1.3675) ** -0.9)


@pytest.mark.parametrize(
    "wrong",
    [
        {"flux_jy": np.nan},
        {"flux_jy": 1.9},
        {"frequency_hz": 147.5e6},  # TGSS: a flux at 1.4 GHz would be an extrapolation
        {"frequency_hz": 3e9},  # VLASS: also an extrapolation
    ],
)
def test_unsuitable_catalogue_sources_do_not_calibrate(wrong):
    assert added(wrong) == ()


def test_a_source_with_a_bright_companion_is_no_calibrator():
    """A second component 90 arcsec away with 10 % of the flux excludes a source; with 1 % it does not."""
    twin = {"name": "b", "source_id": "b", "dec_deg": GOOD["dec_deg"] + 90 / 3600}
    assert added({}, twin | {"flux_jy": 0.8}) == ()
    assert [one.name for one in added({}, twin | {"flux_jy": 0.08})] == [GOOD["name"]]


def test_the_list_has_precedence_and_catalogues_fill_unknown_fluxes():
    """A catalogue entry of a listed calibrator adds nothing if the list has a flux; otherwise it supplies the flux."""
    listed = calibrators.find("3C138")
    assert added({"ra_deg": listed.ra_deg, "dec_deg": listed.dec_deg + 20 / 3600}) == ()
    builtin = catalogues.builtin()
    without = next(
        c for c in calibrators.load()
        if c.flux_20cm_jy is None and not c.standard
        and np.hypot((builtin["ra_deg"] - c.ra_deg) * np.cos(np.deg2rad(c.dec_deg)), builtin["dec_deg"] - c.dec_deg).min() > 0.1
    )  # fmt: skip
    (filled,) = added({"ra_deg": without.ra_deg, "dec_deg": without.dec_deg})
    assert filled.alias == without.name
    assert filled.anchor == f"catalogue:{GOOD['name']}"


def test_calibrators_survive_writing_and_reading_the_table(tmp_path):
    original = calibrator_catalog.of_sources(sources({}))
    frame = calibrator_catalog.to_frame(original)
    frame.to_parquet(tmp_path / "c.parquet")
    assert calibrators.from_rows(pq.read_table(tmp_path / "c.parquet").to_pylist()) == original
    unknown = frame["flux_20cm_jy"].isna() & frame["standard"].isna()
    assert unknown.sum() > 500
    assert frame.loc[unknown, "anchor"].isna().all()


def test_a_table_from_before_a_field_was_added_is_read_with_its_default():
    listed = calibrators.load()
    older = calibrator_catalog.to_frame(listed).drop(columns=["catalogue", "index"])
    assert calibrators.from_rows(older.to_dict("records")) == listed
    with pytest.raises(KeyError, match="ra_deg"):
        calibrators.from_rows(older.drop(columns="ra_deg").to_dict("records"))


OWN = "name,ra_deg,dec_deg,flux_jy,spectral_index\nMINE,15.0,71.5,7.5,-0.4\nHERS,343.4906,16.1482,11.0,\n"


def test_observers_own_calibrators_go_before_others_of_their_place(tmp_path):
    """3C454.3 is known to vary; the observers, who measured it, state its present flux."""
    path = tmp_path / "own.csv"
    path.write_text(OWN)
    own = calibrator_catalog.read_own(path)
    listed = calibrators.load()
    combined = calibrator_catalog.with_own(own, listed)
    assert [one.name for one in combined[:2]] == ["MINE", "HERS"]
    assert len(combined) == len(listed) + 1
    mine, hers = combined[:2]
    assert (mine.alias, hers.alias, hers.variable) == (None, calibrators.find("2253+161").alias, False)
    assert float(mine.flux_jy(0.7e9)) == pytest.approx(7.5 * 2**0.4, rel=1e-12)
    assert float(hers.flux_jy(1.4e9)) == 11.0
    assert hers.index == calibrators.LIST_SPECTRAL_INDEX
    assert (mine.anchor, hers.anchor) == ("own:MINE", "own:HERS")
    assert calibrators.find("HERS", combined) is hers
    faint, bright = (transits.Transit(one, 61065.0, 0.0, 1.0) for one in (mine, calibrators.find("2202+422")))
    assert transits.most_trusted([bright, faint]) == [faint]  # the observers' own, which does not vary; 2202+422 is listed as variable
    assert calibrator_catalog.with_own((), listed) == listed


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (OWN.replace("7.5", "-7.5"), "line 2: flux_jy is '-7.5'; write a number from 0.001"),
        (OWN.replace("16.1482", "far"), "line 3: dec_deg is 'far'"),
        (OWN.replace("MINE", ""), "line 2: there is no name"),
        (OWN.replace("flux_jy", "flux"), "line 2: flux_jy is None"),
    ],
)
def test_a_wrong_line_of_the_own_list_is_named(tmp_path, text, words):
    path = tmp_path / "own.csv"
    path.write_text(text)
    with pytest.raises(ConfigurationError, match=words):
        calibrator_catalog.read_own(path)
    with pytest.raises(ConfigurationError, match="cannot be read"):
        calibrator_catalog.read_own(tmp_path / "away.csv")
