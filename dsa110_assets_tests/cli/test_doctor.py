"""`dsa110 doctor` reads the configured catalogues as the asset does, and reports on each what the asset would."""

from __future__ import annotations

from pathlib import Path

import pytest

from dsa110_assets.errors import ConfigurationError
from dsa110_assets.orchestration.running.process import process
from dsa110_assets.settings import Settings
from dsa110_assets.sky import catalogues
from dsa110_assets_tests.cli.conftest import Run
from dsa110_assets_tests.cli.test_standing import environment

GOOD = "name,ra,dec,flux_mjy,frequency_mhz\nA,80.1,-16.2,120,888\nA2,80.10001,-16.2,120,888\nB,81.1,-16.2,,1367\n"
REFUSED = {
    "silent.csv": ("ra,dec,flux_mjy\n80.1,-16.2,120\n", "at which frequency"),
    "faint.csv": ("ra,dec,flux_mjy,frequency_mhz\n80.1,-16.2,-3,1400\n", "no row has a flux above 0"),
    "blank.csv": ("ra,dec,flux_mjy,frequency_mhz\n", "no row"),
    "nothing.csv": ("", "nothing.csv"),
    "gone.csv": (None, "is not there"),
    "nowhere.csv": ("flux_mjy\n3\n", "nowhere.csv"),
}


def test_doctor_reports_catalogues_that_the_asset_would_refuse(settings: Settings, bare: Run, tmp_path: Path) -> None:
    (tmp_path / "good.csv").write_text(GOOD)
    (tmp_path / "stated.csv").write_text(REFUSED["silent.csv"][0])
    for name, (text, _) in REFUSED.items():
        if text is not None:
            (tmp_path / name).write_text(text)
    names = ["good.csv", "stated.csv", *REFUSED]
    variables = {"DSA110_CATALOGUES": ":".join(str(tmp_path / name) for name in names)}
    variables["DSA110_CATALOGUE_FREQUENCIES_MHZ"] = '{"stated.csv": 943.5}'
    done = bare("doctor", "--json", **environment(settings), **variables)
    findings = [one for one in done.json if one["check"] == "catalogue"]
    assert done.status == 1
    assert [one["ok"] for one in findings] == [True, True, *([False] * len(REFUSED))]
    assert findings[0]["found"] == f"{tmp_path / 'good.csv'}: 2 sources of good at 888 to 1367 MHz, 1 repeats left out, 1 without a flux"
    assert findings[1]["found"] == f"{tmp_path / 'stated.csv'}: 1 sources of stated at 943.5 MHz, 0 repeats left out, 0 without a flux"
    for one, (name, (_, words)) in zip(findings[2:], REFUSED.items(), strict=True):
        with pytest.raises(ConfigurationError) as caught:
            catalogues.read_catalogue(tmp_path / name)
        assert one["found"] == str(caught.value)
        assert words in one["found"]
        assert str(tmp_path / name) in one["found"]
    configured = settings.model_copy(update={"catalogues": (tmp_path / "silent.csv",)})
    (failed,) = process(configured, through="source_catalog").failed
    assert failed.reason == findings[2]["found"]
