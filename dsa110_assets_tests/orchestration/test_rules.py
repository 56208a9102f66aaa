"""Every rule passes on good figures, fails on bad ones, and never passes without figures."""

from __future__ import annotations

from typing import Any

import pytest

from dsa110_assets.archive.store import Archive
from dsa110_assets.calibration import quality
from dsa110_assets.orchestration.graph import specifications
from dsa110_assets.orchestration.judging import judges, rules
from dsa110_assets.orchestration.watching import conditions
from dsa110_assets.thresholds import Thresholds
from dsa110_assets_tests.tiny import regular_assets

NEIGHBOURS: dict[str, Any] = {
    "overlap_flux_worst": 0.04, "overlap_worst_error": 0.005, "overlap_worst_tiles": ["a", "b"], "n_anchors": 2,
    "anchor_scales": ["VLA:0521+166: 1.0200 +- 0.0100, divided by 1.0000"], "anchor_difference": 0.02,
    "anchor_difference_error": 0.01, "anchor": "PB17:3C138, VLA:0521+166",
}  # fmt: skip
ALIKE: dict[str, Any] = {"n_inputs": 3, "inputs_made_otherwise": {}}
GOOD: dict[str, dict[str, Any]] = {
    "source_catalog": {"n_sources": 10, "n_invalid_positions": 0},
    "calibrator_catalog": {"n_unknown_flux_used": 0, "n_with_flux": 1041},
    "sky_model": {"n_sources": 10, "n_left_out": 1},
    "subband_group": {"n_subbands": 16, "n_subbands_needed": 14, "n_subbands_missing": 0, "n_rejected_files": 0},
    "measurement_set": {"problems": [], "n_problems": 0, "flag_fraction": 0.1, "flag_fraction_raw": 0.3, "flag_judged_wide": 0.9},
    "caltables": {
        "n_sets": 2, "n_transits": 2, "refused": [], "anchor": "PB17:3C138", "scale_spread": 0.02, "scales": ["a: +1.0%", "b: -1.0%"],
        "calibrators_corrected": [], "calibrators_unjudged": [],
    },
    "calibrated_ms": {
        "caltable_age_h": 2.0, "caltable_dec_offset_deg": 0.0, "n_antennas_without_tables": 0, "calibrator": "3C138",
        "antennas_judged": True, "receptors_lost": [], "kept_antenna_fraction": 1.0, "flux_scale_references": 20, "flux_scale_needed": 3,
        "flux_scale": 1.005, "flux_scale_error": 0.004, "flux_scale_applied": 1.0, "flux_scale_reason": "the tables' scale stands",
        "drift_amplitude": 0.01, "drift_phase_deg": 1.0, "epoch_gains": "none", "gain_error": 0.002, "n_receptors_lost": 0,
        "n_antennas_lost": 0, "n_antennas_kept": 24, "n_receptors_interpolated": 0, "receptors_not_interpolated": [],
        "receptors_of_one_set": [],
    },
    "tile_image": {
        "rms_jy": 0.002, "rms_over_radiometer": 1.2, "beam_major_arcsec": 45.0, "beam_minor_arcsec": 20.0,
        "dynamic_range": 500.0, "reference_count": 5.0, "reference_missing": 0.0, "flux_ratio": 1.01, "flux_ratio_error": 0.005,
        "astrometry_ra_arcsec": 0.2, "astrometry_dec_arcsec": -0.1, "astrometry_ra_error_arcsec": 0.06,
        "astrometry_dec_error_arcsec": 0.08,
    },
    "hour_mosaic": {
        "measured_over_noise": 1.02, "overlap_pairs": 9.0, "overlap_flux_ratio": 0.99, "overlap_flux_scatter": 0.01,
        "windows_completed": 1.0, **NEIGHBOURS, **ALIKE,
        "left_out": [], "n_left_out": 0, "pointing_dec_deg": 16.27,
    },
    "source_measurements": {
        "n_compared": 5, "flux_ratio": 1.0, "flux_ratio_error": 0.004, "n_expected": 9, "completeness": 1.0,
        "false_detection_rate": 0.0, "history_count": 4, "history_flux_ratio": 1.02, "history_flux_ratio_error": 0.01,
        "n_suspect_tiles": 0, "n_suspect_rows": 0, **ALIKE,
    },
    "night_mosaic": {
        "measured_over_noise": 0.98, "overlap_pairs": 2.0, "overlap_flux_ratio": 1.01, "overlap_flux_scatter": 0.02,
        "windows_completed": 0.95, **NEIGHBOURS, **ALIKE,
    },
    "requested_mosaic": {
        "measured_over_noise": 1.02, "overlap_pairs": 9.0, "overlap_flux_ratio": 0.99, "overlap_flux_scatter": 0.01,
        **NEIGHBOURS, **ALIKE,
    },
    "light_curves": {
        "n_references_min": 7.0, "n_epochs": 3.0, "n_comparable_epochs": 3.0, "ensemble_note": "",
        "residual_rms": 1.0, "n_steady": 200.0, **ALIKE,
    },
    "variability": {"n_injected": 500, "false_alarm_ratio": 1.0, **ALIKE},
    "night_report": {},
}  # fmt: skip

OTHERWISE = {"inputs_made_otherwise": {"tile_image-20260125T2220-v1": "made with other settings: imaging"}}
BAD = [
    *((asset, "same_settings", OTHERWISE) for asset, known in specifications().items() if rules.SAME_SETTINGS in known.rules),
    ("source_catalog", "coverage", {"n_sources": 0}),
    ("source_catalog", "coverage", {"n_invalid_positions": 1}),
    ("calibrator_catalog", "no_unknown_flux", {"n_unknown_flux_used": 1}),
    ("sky_model", "coverage", {"n_sources": 0}),
    ("subband_group", "subbands_known", {"n_subbands": 13}),
    ("subband_group", "complete", {"n_subbands_missing": 1}),
    ("subband_group", "headers_agree", {"n_rejected_files": 1}),
    ("measurement_set", "hard_four", {"problems": ["FIELD: REFERENCE_DIR differs from PHASE_DIR"]}),
    ("measurement_set", "flag_fraction", {"flag_fraction": 0.51}),
    ("measurement_set", "wide_interference", {"flag_judged_wide": 0.4}),
    ("caltables", "usable", {"n_sets": 0, "refused": ["3C138: median gain SNR 1.0 below 3"]}),
    ("caltables", "all_transits", {"refused": ["3C138: median gain SNR 1.0 below 3"]}),
    ("caltables", "one_scale", {"scale_spread": 0.06}),
    ("caltables", "as_listed", {"calibrators_corrected": ["0521+166: 1.150 of its listed flux"]}),
    ("caltables", "judged_by_field", {"calibrators_unjudged": ["0521+166: 2 clear catalogue sources in the field"]}),
    ("caltables", "flux_anchor", {"anchor": ""}),
    ("calibrated_ms", "staleness", {"caltable_age_h": 24.1}),
    ("calibrated_ms", "aging", {"caltable_age_h": 12.1}),
    ("calibrated_ms", "interpolated", {"receptors_not_interpolated": ["20X"]}),
    ("calibrated_ms", "same_strip", {"caltable_dec_offset_deg": 0.6}),
    ("calibrated_ms", "same_antennas", {"n_antennas_without_tables": 1}),
    ("calibrated_ms", "antennas_judged", {"antennas_judged": False}),
    ("calibrated_ms", "antennas", {"receptors_lost": ["20X", "20Y"]}),
    ("calibrated_ms", "enough_antennas", {"kept_antenna_fraction": 0.59}),
    ("calibrated_ms", "flux_scale", {"flux_scale": 0.6}),
    ("calibrated_ms", "flux_scale", {"flux_scale": 1.2, "flux_scale_applied": 1.1}),
    ("calibrated_ms", "flux_scale_drift", {"flux_scale": 0.87, "flux_scale_applied": 0.87}),
    ("calibrated_ms", "gain_drift", {"drift_amplitude": 0.06}),
    ("calibrated_ms", "gain_drift", {"drift_phase_deg": 11.0}),
    ("tile_image", "sane", {"rms_jy": 0.0}),
    ("tile_image", "sane", {"beam_minor_arcsec": 50.0}),
    ("tile_image", "rms", {"rms_over_radiometer": 3.1}),
    ("tile_image", "rms", {"rms_over_radiometer": 0.4}),
    ("tile_image", "rms", {"rms_over_radiometer": 1.26}),
    ("tile_image", "rms", {"rms_over_radiometer": 0.89}),
    ("tile_image", "rms", {"rms_jy": 1.1}),
    ("tile_image", "references", {"reference_missing": 6.0}),
    ("tile_image", "dynamic_range", {"dynamic_range": 4.0}),
    # limits of 2 % plus 3 errors of 0.5 %, and of 10 % plus the same
    ("tile_image", "flux_ratio", {"flux_ratio": 0.964}),
    ("tile_image", "flux_ratio", {"flux_ratio": 1.036}),
    ("tile_image", "flux_ratio", {"flux_ratio_error": float("nan")}),
    ("tile_image", "flux_scale", {"flux_ratio": 0.884}),
    ("tile_image", "flux_scale", {"flux_ratio": 1.116}),
    # the limit is 0.05 of a beam of 20 arcsec plus 3 errors of 0.1 arcsec
    ("tile_image", "astrometry", {"astrometry_ra_arcsec": 1.31}),
    ("tile_image", "astrometry", {"beam_minor_arcsec": 42.0, "astrometry_dec_arcsec": -2.31}),
    ("tile_image", "position", {"astrometry_ra_arcsec": 5.31}),
    ("tile_image", "position", {"astrometry_ra_error_arcsec": None}),
    ("hour_mosaic", "noise_map", {"measured_over_noise": 1.31}),
    ("hour_mosaic", "overlap", {"overlap_flux_ratio": 1.11}),
    ("hour_mosaic", "overlap", {"overlap_flux_worst": 0.12}),
    ("hour_mosaic", "neighbours", {"overlap_flux_worst": 0.046}),
    ("hour_mosaic", "neighbours", {"overlap_worst_error": float("nan")}),
    ("hour_mosaic", "one_scale", {"anchor_difference": 0.051}),
    ("hour_mosaic", "one_scale", {"anchor_difference": float("nan")}),
    ("hour_mosaic", "completeness", {"windows_completed": 0.5}),
    ("hour_mosaic", "one_strip", {"left_out": ["tile_image-20260125T2235-v1 at 21.27 deg"]}),
    ("source_measurements", "flux_ratio", {"flux_ratio": 1.033}),
    ("source_measurements", "flux_scale", {"flux_ratio": 1.113}),
    ("source_measurements", "history", {"history_flux_ratio": 0.949}),
    ("source_measurements", "tiles", {"n_suspect_tiles": 1}),
    ("source_measurements", "completeness", {"completeness": 0.8}),
    ("source_measurements", "false_detections", {"false_detection_rate": 0.06}),
    ("night_mosaic", "noise_map", {"measured_over_noise": 0.69}),
    ("night_mosaic", "overlap", {"overlap_pairs": 4.0, "overlap_flux_ratio": 0.89}),
    ("night_mosaic", "neighbours", {"overlap_flux_worst": 0.046}),
    ("night_mosaic", "one_scale", {"anchor_difference": 0.051}),
    ("night_mosaic", "completeness", {"windows_completed": 0.89}),
    ("requested_mosaic", "noise_map", {"measured_over_noise": 0.69}),
    ("requested_mosaic", "overlap", {"overlap_flux_ratio": 0.89}),
    ("requested_mosaic", "neighbours", {"overlap_flux_worst": 0.046}),
    ("requested_mosaic", "one_scale", {"anchor_difference": 0.051}),
    ("light_curves", "ensemble", {"n_references_min": 2.0}),
    # 200 sources: three standard errors of an rms are 3 / sqrt(400) = 0.15
    ("light_curves", "residual_rms", {"residual_rms": 1.21}),
    ("variability", "false_alarms", {"false_alarm_ratio": 2.1}),
]


def failed(asset: str, figures: dict[str, Any]) -> dict[str, str]:
    return {v.check: v.reason for v in rules.judge(asset, figures, Thresholds()) if not v.passed}


class Noted:
    """Thresholds that record which of them are read."""

    def __init__(self) -> None:
        self.read: set[str] = set()

    def __getattr__(self, name: str) -> Any:
        self.read.add(name)
        return getattr(Thresholds(), name)


@pytest.mark.parametrize(("asset", "rule"), [(a, rule) for a, known in specifications().items() for rule in known.rules])
def test_a_rule_names_the_thresholds_it_judges_by(asset: str, rule: rules.Rule) -> None:
    """The thresholds of a transit's tables are read when these are made; two rules fail by the reasons recorded then."""
    noted = Noted()
    for figures in [GOOD[asset], *(GOOD[asset] | change for a, check, change in BAD if (a, check) == (asset, rule.check))]:
        rule.judge(figures, noted)  # type: ignore[arg-type]
    if rule.check in ("usable", "all_transits"):
        noted.read |= {name for name in dir(quality.Thresholds) if not name.startswith("_")}
    assert noted.read == set(rule.limits)


def test_a_failed_check_names_its_thresholds() -> None:
    reason = failed("tile_image", GOOD["tile_image"] | {"rms_over_radiometer": 9.0})["rms"]
    assert reason.endswith("; thresholds: min_rms_ratio = 0.9, max_rms_ratio = 1.25, max_tile_rms_jy = 1")
    assert rules.decided_by("max_rms_ratio", specifications().values()) == ["tile_image:rms"]


def test_every_limit_of_a_product_belongs_to_a_rule() -> None:
    """The others belong to conditions of alerts, or say how often alerts are sent, how long things are kept, and when ingest pauses."""
    others = {name for name in Thresholds.model_fields if not rules.decided_by(name, specifications().values())}
    others -= {name for condition in conditions.CONDITIONS.values() for name in condition.limits}
    assert all(
        name.startswith(("keep_", "superseded_", "trial_", "retention_", "repeat_", "escalate_", "group_", "history_")) for name in others
    ), others


def test_there_are_rules_for_every_asset_and_only_for_those() -> None:
    assert set(specifications()) == set(GOOD)


@pytest.mark.parametrize("asset", GOOD)
def test_good_figures_pass_every_rule(asset: str) -> None:
    assert failed(asset, GOOD[asset]) == {}


@pytest.mark.parametrize(("asset", "check", "change"), BAD)
def test_a_bad_figure_fails_its_rule_and_says_why(asset: str, check: str, change: dict[str, Any]) -> None:
    broken = failed(asset, GOOD[asset] | change)
    assert check in broken
    assert broken[check]


def test_every_rule_has_a_case_in_which_it_fails() -> None:
    assert {(asset, check) for asset, check, _ in BAD} == {
        (a, r.check) for a, specification in specifications().items() for r in specification.rules
    }


def needed(asset: str, rule: rules.Rule) -> list[str]:
    """The figures that the rule names or reads."""
    figures = judges.Recorded(GOOD[asset])
    rule.judge(figures, Thresholds())
    return sorted({*figures.asked, *rule.figures})


NEEDED = [(asset, rule.check, name) for asset, known in specifications().items() for rule in known.rules for name in needed(asset, rule)]


@pytest.mark.parametrize(("asset", "check", "name"), NEEDED)
def test_a_rule_fails_where_any_figure_it_needs_is_missing(asset: str, check: str, name: str) -> None:
    broken = failed(asset, {k: v for k, v in GOOD[asset].items() if k != name})
    assert f"{name} is unknown" in broken[check]


@pytest.mark.parametrize("asset", specifications())
def test_no_rule_passes_without_figures(asset: str) -> None:
    assert failed(asset, {}).keys() == {rule.check for rule in specifications()[asset].rules}


@pytest.mark.parametrize(
    ("asset", "check", "name"),
    [
        ("measurement_set", "flag_fraction", "flag_fraction"),
        ("calibrated_ms", "staleness", "caltable_age_h"),
        ("calibrated_ms", "enough_antennas", "kept_antenna_fraction"),
        ("calibrated_ms", "flux_scale", "flux_scale"),
        ("calibrated_ms", "flux_scale_drift", "flux_scale"),
        ("calibrated_ms", "gain_drift", "drift_phase_deg"),
        ("caltables", "one_scale", "scale_spread"),
        ("tile_image", "sane", "rms_jy"),
        ("tile_image", "rms", "rms_over_radiometer"),
        ("tile_image", "astrometry", "beam_minor_arcsec"),
        ("hour_mosaic", "noise_map", "measured_over_noise"),
        ("hour_mosaic", "overlap", "overlap_worst_error"),
        ("light_curves", "residual_rms", "residual_rms"),
        ("variability", "false_alarms", "false_alarm_ratio"),
    ],
)
def test_a_figure_that_is_not_a_number_fails(asset: str, check: str, name: str) -> None:
    assert check in failed(asset, GOOD[asset] | {name: float("nan")})


def test_every_rule_judges_products_as_they_are_recorded(finished_run: tuple[Any, Any]) -> None:
    """Every product records all figures that its rules read, so that only figures that could not be measured are unknown."""
    with Archive(finished_run[0].archive) as archive:
        for asset in regular_assets():
            products = archive.products(asset)
            assert products, asset
            for product in products:
                names = {name for rule in specifications()[asset].rules for name in (*rule.figures, *needed(asset, rule))}
                assert names <= product.metadata.keys(), product.id


def test_a_sky_without_references_fails_no_rule() -> None:
    blind = GOOD["tile_image"] | {"reference_count": 0.0, "flux_ratio": float("nan")}
    assert failed("tile_image", blind) == {}


def test_rules_use_the_given_thresholds() -> None:
    strict = Thresholds(max_flag_fraction=0.05)
    verdicts = rules.judge("measurement_set", GOOD["measurement_set"], strict)
    assert [v.check for v in verdicts if not v.passed] == ["flag_fraction"]


def test_verdicts_are_restored_from_the_product_record() -> None:
    figures = GOOD["tile_image"] | {"flux_ratio": 0.5}
    verdicts = rules.judge("tile_image", figures, Thresholds())
    again = rules.from_metadata("tile_image", figures | rules.to_metadata(verdicts))
    assert again == verdicts
