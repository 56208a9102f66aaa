"""A night's table sets together: whose validity is shortened, which scales disagree, and what is reported about them."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest

from dsa110_assets.archive.product import Product
from dsa110_assets.calibration import transit_sets
from dsa110_assets.calibration.options import TransitOptions
from dsa110_assets.calibration.transit_sets import TransitObservation, TransitSet
from dsa110_assets.calibration.transits import Transit
from dsa110_assets.orchestration import graph
from dsa110_assets.orchestration.calibrating import calibrators as observing
from dsa110_assets.orchestration.judging import rules
from dsa110_assets.sky import calibrators
from dsa110_assets.thresholds import Thresholds


class Stored:
    """Those attributes of an observation's measurement set that choosing transits reads."""

    def __init__(self, start_mjd: float) -> None:
        self.id = self.partition = f"{start_mjd:.6f}"
        self.metadata = {"pointing_dec_deg": 16.3, "mjd_start": start_mjd, "mjd_end": start_mjd + 1 / 288}


def solved(name: str, mid_mjd: float, amplitude: float = 0.068, dec_deg: float = 16.3, **figures: Any) -> TransitSet:
    calibrator = calibrators.find(name)
    all_figures = {
        "mid_mjd": mid_mjd, "anchor": calibrator.anchor, "anchor_provisional": calibrator.variable, "field_group_count": 20,
        "field_flux_ratio": 1.001, "calibrator_flux_factor": 0.999, "calibrator_flux_set": False,
        "calibrator_offset_ra_arcsec": 0.0, "calibrator_offset_dec_arcsec": 0.0, "calibrator_major_arcsec": 0.0,
        "calibrator_minor_arcsec": 0.0,
    } | figures  # fmt: skip
    transit = Transit(calibrator, mid_mjd, 0.0, 1.0)
    amplitudes = {str(n): (amplitude * (1 + 0.1 * n), amplitude) for n in range(5)}
    return TransitSet(name, TransitObservation(Path(), name, dec_deg, ()), transit, (), all_figures, (), amplitudes)


def judged(*sets: TransitSet) -> dict[str, str]:
    figures = transit_sets.night_figures(sets, ())
    graph.specifications()  # loads the rules, so that this file can be run alone
    return {v.check: v.reason for v in rules.judge("caltables", figures, Thresholds()) if not v.passed}


def test_a_standard_has_precedence_within_its_strip_and_night() -> None:
    """Where both are valid, the nearest would be chosen. So the listed calibrator is not made valid there."""
    standard, listed = solved("3C138", 61066.2), solved("0318+164", 61066.1)
    both = [standard, listed]
    assert transit_sets.validity(standard, both, 0.5) == pytest.approx((61065.7, 61066.7))
    assert transit_sets.validity(listed, both, 0.5) == pytest.approx((61066.1, 61066.1))
    assert transit_sets.validity(listed, [listed], 0.5) == pytest.approx((61065.6, 61066.6))
    assert transit_sets.validity(listed, [solved("3C138", 61066.2, dec_deg=33.0)], 0.5) == pytest.approx((61065.6, 61066.6))
    later = replace(standard, figures={**standard.figures, "mid_mjd": 61066.9})
    assert transit_sets.validity(listed, [later], 0.5) == pytest.approx((61065.6, 61066.4))


def test_the_validity_of_tables_is_a_setting() -> None:
    assert transit_sets.validity(solved("3C138", 61066.2), [], 2.0) == pytest.approx((61064.2, 61068.2))


def test_settings_determine_which_transits_are_solved() -> None:
    """A day of measurement sets of the strip at 16.3 deg contains transits of 3C138 (8.5 Jy) and fainter calibrators of the list."""
    day = [Stored(61065.0 + k / 288) for k in range(288)]
    known = calibrators.load()

    def chosen(**options: Any) -> list[Transit]:
        return [t for _, t in observing.observed_transits(cast(list[Product], day), known, TransitOptions(**options))]

    all_transits = chosen(min_share=0.0)
    assert len(all_transits) > 3
    assert [t.calibrator.standard for t in chosen(most=1)] == ["3C138"]
    assert len(chosen(min_share=0.0, most=3)) == 3
    brightest = max(t.apparent_flux_jy for t in all_transits)
    assert chosen(min_share=0.5) == [t for t in all_transits if t.apparent_flux_jy >= 0.5 * brightest]
    assert {t.calibrator.name for t in chosen(min_share=0.0, max_dec_offset_deg=0.4)} == {
        t.calibrator.name for t in all_transits if abs(t.dec_offset_deg) <= 0.4
    }
    assert chosen(min_share=0.0, min_flux_jy=3.0) == [t for t in all_transits if t.flux_jy >= 3.0]


def test_sets_of_different_flux_scales_are_named() -> None:
    """Amplitudes differ by sqrt(1.15), because the calibrator is 15 % brighter than its model; the other set is of a standard."""
    wrong = solved("0318+164", 61066.1, 0.068 * math.sqrt(1.15))
    found = judged(solved("3C138", 61066.2), wrong)
    assert list(found) == ["one_scale"]
    assert "0318+164: +15.0%" in found["one_scale"]
    assert "3C138: +0.0%" in found["one_scale"]
    assert judged(solved("3C138", 61066.2), solved("0318+164", 61066.1, 0.068 * 1.01)) == {}
    assert judged(wrong) == {}


def test_corrected_and_unjudged_calibrators_are_reported() -> None:
    bright = solved(
        "0318+164", 61066.1, anchor="field of 20 catalogue sources; VLA:0318+164 measured 1.150 of its listed flux",
        calibrator_flux_set=True, calibrator_flux_factor=1.15, calibrator_offset_ra_arcsec=8.0, calibrator_major_arcsec=20.0,
    )  # fmt: skip
    unjudged = solved("3C138", 61066.2, field_group_count=2, field_flux_ratio=math.nan, calibrator_flux_factor=math.nan)
    figures = transit_sets.night_figures([bright, unjudged], [])
    assert figures["calibrator_flux_factor"] == 1.15
    assert figures["field_group_count"] == 2
    assert figures["anchor"].startswith("PB17:3C138, field of 20")
    found = judged(bright, unjudged)
    assert found["as_listed"] == "0318+164: 1.150 of its listed flux, 8.0 arcsec from its listed place, resolved, 20.0 by 0.0 arcsec"
    assert found["judged_by_field"] == "3C138: 2 clear catalogue sources in the field"
