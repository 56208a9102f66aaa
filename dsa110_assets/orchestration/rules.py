"""The rules products are judged by: one function each, used by the gate before publishing and by the checks.

A rule looks at a product's figures and the thresholds and says what is wrong; nothing means passed. A figure
that should be there and is not is wrong too: silence never passes. A HARD rule stops what follows.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import dagster as dg

from dsa110_assets.orchestration import judges

if TYPE_CHECKING:
    from dsa110_assets.thresholds import Thresholds

VERDICTS = "checks"
"""Metadata key under which a product keeps what its rules said when it was published."""
FEWEST_REFERENCES = 3
"""An image is not withheld for what one or two sources say, which may have changed."""
WARN, ERROR = dg.AssetCheckSeverity.WARN, dg.AssetCheckSeverity.ERROR


@dataclass(frozen=True)
class Rule:
    """A rule: its check's name, the figures it is about, how it judges, and whether it stops what follows."""

    check: str
    description: str
    figures: tuple[str, ...]
    judge: judges.Judge
    hard: bool = False
    severity: dg.AssetCheckSeverity = ERROR


@dataclass(frozen=True)
class Verdict:
    """What a rule said about one product."""

    check: str
    passed: bool
    reason: str
    figures: dict[str, Any]
    hard: bool
    severity: dg.AssetCheckSeverity


_OFFSETS = (
    "astrometry_ra_arcsec",
    "astrometry_dec_arcsec",
    "astrometry_ra_error_arcsec",
    "astrometry_dec_error_arcsec",
)
_OF_ONE_SCALE = (
    Rule(
        "neighbours",
        "the two tiles that agree least agree",
        ("overlap_flux_worst", "overlap_worst_error", "overlap_worst_tiles"),
        judges.neighbours,
    ),
    Rule(
        "one_scale",
        "flux scales of different calibrators agree where they meet",
        ("n_anchors", "anchor_difference", "anchor_difference_error", "anchor_scales"),
        judges.one_scale,
    ),
)
"""What every mosaic of several tiles is asked."""

SAME_SETTINGS = Rule(
    "same_settings",
    "everything it was made from was made with the settings and the code in force",
    ("n_inputs", "inputs_made_otherwise"),
    judges.inputs_as_now,
    severity=WARN,
)
"""Asked of whatever is made of several products: a mixture of settings is nobody's measurement."""

RULES: dict[str, tuple[Rule, ...]] = {
    "source_catalog": (
        Rule(
            "coverage",
            "there are sources, and every position lies on the sky",
            ("n_sources", "n_invalid_positions"),
            judges.every(judges.at_least("n_sources", lambda _: 1), judges.none_of("n_invalid_positions")),
            hard=True,
        ),
    ),
    "calibrator_catalog": (
        Rule(
            "no_unknown_flux",
            "no calibrator without a known flux sets a flux scale",
            ("n_unknown_flux_used", "n_with_flux"),
            judges.every(judges.none_of("n_unknown_flux_used"), judges.at_least("n_with_flux", lambda _: 1)),
            hard=True,
        ),
    ),
    "sky_model": (
        Rule("coverage", "the model holds sources", ("n_sources", "n_left_out"), judges.at_least("n_sources", lambda _: 1), hard=True),
    ),
    "subband_group": (
        Rule(
            "subbands_known",
            "enough subbands of the known set are there",
            ("n_subbands", "n_subbands_needed"),
            judges.subbands_known,
            hard=True,
        ),
        Rule("complete", "no subband is missing", ("n_subbands_missing",), judges.none_of("n_subbands_missing"), severity=WARN),
        Rule(
            "headers_agree",
            "no file was left out for disagreeing",
            ("n_rejected_files",),
            judges.none_of("n_rejected_files"),
            severity=WARN,
        ),
    ),
    "measurement_set": (
        Rule(
            "hard_four",
            "PHASE_DIR, REFERENCE_DIR, TELESCOPE_NAME, field order; uvw, times, frequencies",
            ("n_problems",),
            judges.problems_found,
            hard=True,
        ),
        Rule(
            "flag_fraction",
            "not too much of what living receptors saw is flagged",
            ("flag_fraction", "flag_fraction_raw"),
            judges.at_most("flag_fraction", lambda t: t.max_flag_fraction),
        ),
        Rule(
            "wide_interference",
            "in most antennas the noise is what autocorrelations say, so that wide interference could be looked for",
            ("flag_judged_wide",),
            judges.at_least("flag_judged_wide", lambda t: t.min_judged_wide),
            severity=WARN,
        ),
    ),
    "caltables": (
        Rule(
            "usable",
            "at least one transit passed signal-to-noise, flags, amplitudes and closure",
            ("n_sets", "n_transits"),
            judges.solved,
            hard=True,
        ),
        Rule("all_transits", "every transit passed", ("n_sets", "n_transits"), judges.refused, severity=WARN),
        Rule("one_scale", "all transits give one flux scale", ("scale_spread", "scales"), judges.transits_of_one_scale),
        Rule(
            "as_listed",
            "calibrators have the flux, place and size they are listed with",
            ("calibrators_corrected",),
            judges.listed("calibrators_corrected"),
            severity=WARN,
        ),
        Rule(
            "judged_by_field",
            "the catalogue sources of every calibrator's field judged it",
            ("calibrators_unjudged",),
            judges.listed("calibrators_unjudged"),
            severity=WARN,
        ),
        Rule("flux_anchor", "what the flux scale rests on is recorded", ("anchor",), judges.anchored, hard=True),
    ),
    "calibrated_ms": (
        Rule("staleness", "the tables are not too old", ("caltable_age_h",), judges.age),
        Rule("aging", "the tables are not getting old", ("caltable_age_h",), judges.aging, severity=WARN),
        Rule(
            "interpolated",
            "where gains are interpolated between two table sets, these agree well enough",
            ("n_receptors_interpolated", "receptors_not_interpolated", "receptors_of_one_set"),
            judges.interpolated,
            severity=WARN,
        ),
        Rule("same_strip", "the tables are of this declination strip", ("caltable_dec_offset_deg",), judges.same_strip, hard=True),
        Rule(
            "same_antennas",
            "the tables cover every antenna",
            ("n_antennas_without_tables",),
            judges.none_of("n_antennas_without_tables"),
            hard=True,
        ),
        Rule(
            "antennas_judged",
            "the field is bright enough to tell of every antenna",
            ("antennas_judged", "gain_error"),
            judges.antennas_judged,
            severity=WARN,
        ),
        Rule("antennas", "every receptor sees the sky", ("n_receptors_lost", "n_antennas_lost"), judges.receptors_lost, severity=WARN),
        Rule(
            "enough_antennas",
            "enough antennas see the sky",
            ("kept_antenna_fraction", "n_antennas_kept", "n_antennas_lost"),
            judges.if_known("antennas_judged", judges.at_least("kept_antenna_fraction", lambda t: t.min_antennas_kept)),
            hard=True,
        ),
        Rule(
            "flux_scale",
            "the flux scale is that of the field's reference sources, or was corrected to it",
            ("flux_scale", "flux_scale_error", "flux_scale_applied", "flux_scale_references"),
            judges.of_references(judges.scale_left),
            hard=True,
        ),
        Rule(
            "flux_scale_drift",
            "the tables' flux scale is that of the field's reference sources",
            ("flux_scale", "flux_scale_error", "flux_scale_applied"),
            judges.of_references(judges.scale_moved),
            severity=WARN,
        ),
        Rule(
            "gain_drift",
            "gains are those of the tables",
            ("drift_amplitude", "drift_phase_deg", "epoch_gains"),
            judges.if_known("antennas_judged", judges.gain_drift),
            severity=WARN,
        ),
    ),
    "tile_image": (
        Rule(
            "sane",
            "the image has a positive noise and a possible beam",
            ("rms_jy", "beam_major_arcsec", "beam_minor_arcsec"),
            judges.every(judges.finite_rms, judges.beam),
            hard=True,
        ),
        Rule(
            "references",
            "bright catalogue sources are in the image",
            ("reference_missing", "reference_count"),
            judges.references,
            hard=True,
        ),
        Rule(
            "flux_scale",
            "fluxes are the catalogue's within reason: what is beyond is not published",
            ("flux_ratio", "flux_ratio_error", "reference_count"),
            judges.if_known("reference_count", judges.flux_scale, FEWEST_REFERENCES),
            hard=True,
        ),
        Rule(
            "position",
            "sources are where the catalogue has them, within reason: what is beyond is not published",
            _OFFSETS,
            judges.if_known("reference_count", judges.position, FEWEST_REFERENCES),
            hard=True,
        ),
        Rule("rms", "the noise is what the radiometer equation allows", ("rms_jy", "rms_over_radiometer"), judges.rms),
        Rule(
            "dynamic_range",
            "the brightest source stands out",
            ("dynamic_range",),
            judges.at_least("dynamic_range", lambda t: t.min_dynamic_range),
            severity=WARN,
        ),
        Rule(
            "flux_ratio",
            "fluxes agree with the catalogue",
            ("flux_ratio", "flux_ratio_error", "reference_count"),
            judges.if_known("reference_count", judges.flux_ratio()),
        ),
        Rule("astrometry", "positions agree with the catalogue", _OFFSETS, judges.if_known("reference_count", judges.astrometry)),
    ),
    "hour_mosaic": (
        SAME_SETTINGS,
        Rule("noise_map", "the noise map is what the pixels show", ("measured_over_noise",), judges.noise_map, hard=True),
        Rule(
            "overlap",
            "neighbouring tiles agree on the sources they share, within reason",
            ("overlap_flux_ratio", "overlap_flux_scatter", "overlap_pairs"),
            judges.if_known("overlap_pairs", judges.overlap),
            hard=True,
        ),
        *_OF_ONE_SCALE,
        Rule("one_strip", "all tiles of the hour are in its mosaic", ("n_left_out", "pointing_dec_deg"), judges.one_strip),
        Rule(
            "completeness",
            "the hour's observations were imaged",
            ("windows_completed",),
            judges.at_least("windows_completed", lambda t: t.min_windows_completed),
            severity=WARN,
        ),
    ),
    "source_measurements": (
        SAME_SETTINGS,
        Rule(
            "flux_ratio",
            "fluxes agree with the catalogue",
            ("flux_ratio", "flux_ratio_error", "n_compared"),
            judges.if_known("n_compared", judges.flux_ratio()),
        ),
        Rule(
            "flux_scale",
            "fluxes are the catalogue's within reason: what is beyond is held",
            ("flux_ratio", "flux_ratio_error", "n_compared"),
            judges.if_known("n_compared", judges.flux_scale, FEWEST_REFERENCES),
            hard=True,
        ),
        Rule(
            "history",
            "fluxes agree with those of the same sources in earlier hours",
            ("history_flux_ratio", "history_flux_ratio_error", "history_count"),
            judges.if_known("history_count", judges.flux_ratio("history_flux_ratio")),
        ),
        Rule(
            "tiles",
            "no tile was suspect",
            ("n_suspect_tiles", "n_suspect_rows"),
            judges.none_of("n_suspect_tiles"),
            severity=WARN,
        ),
        Rule(
            "completeness",
            "catalogue sources that should be seen are",
            ("completeness", "n_expected"),
            judges.if_known("n_expected", judges.at_least("completeness", lambda t: t.min_completeness)),
            severity=WARN,
        ),
        Rule(
            "false_detections",
            "few negative sources are found for each positive one",
            ("false_detection_rate",),
            judges.at_most("false_detection_rate", lambda t: t.max_false_detections),
            severity=WARN,
        ),
    ),
    "night_mosaic": (
        SAME_SETTINGS,
        Rule("noise_map", "the noise map is what the pixels show", ("measured_over_noise",), judges.noise_map, hard=True),
        Rule(
            "overlap",
            "neighbouring hours agree on the sources they share, within reason",
            ("overlap_flux_ratio", "overlap_flux_scatter", "overlap_pairs"),
            judges.if_known("overlap_pairs", judges.overlap),
            hard=True,
        ),
        *_OF_ONE_SCALE,
        Rule(
            "completeness",
            "the night's hours are in",
            ("windows_completed",),
            judges.at_least("windows_completed", lambda t: t.min_windows_completed),
            severity=WARN,
        ),
    ),
    "light_curves": (
        SAME_SETTINGS,
        Rule(
            "ensemble",
            "enough reference sources normalise every epoch that can be compared with another",
            ("n_references_min", "n_comparable_epochs", "n_epochs", "ensemble_note"),
            judges.if_known("n_comparable_epochs", judges.at_least("n_references_min", lambda t: t.min_references)),
            severity=WARN,
        ),
        Rule(
            "residual_rms", "constant sources scatter by just their errors", ("residual_rms", "n_steady"), judges.residuals, severity=WARN
        ),
    ),
    "variability": (
        SAME_SETTINGS,
        Rule(
            "false_alarms",
            "injected constant sources become candidates no more often than claimed",
            ("false_alarm_ratio", "n_injected"),
            judges.if_known("n_injected", judges.at_most("false_alarm_ratio", lambda t: t.max_false_alarm_ratio)),
            severity=WARN,
        ),
    ),
    "night_report": (),
}
"""The rules of every asset, in the order they are told."""


def judge(asset: str, figures: judges.Figures, thresholds: "Thresholds") -> list[Verdict]:
    """What every rule of an asset says about a product with these figures."""
    verdicts = []
    for rule in RULES[asset]:
        reasons = judges.said_of(rule.judge, rule.figures, figures, thresholds)
        shown = {name: figures[name] for name in rule.figures if name in figures}
        verdicts.append(Verdict(rule.check, not reasons, "; ".join(reasons), shown, rule.hard, rule.severity))
    return verdicts


def to_metadata(verdicts: Sequence[Verdict]) -> dict[str, Any]:
    """The verdicts as a product keeps them: {check: reason}, '' when passed; and how many failed."""
    if not verdicts:
        return {}
    return {
        VERDICTS: {v.check: v.reason for v in verdicts},
        "n_failed_checks": sum(not v.passed for v in verdicts),
    }


def from_metadata(asset: str, metadata: judges.Figures) -> list[Verdict]:
    """What the rules said when a product was published."""
    said = metadata.get(VERDICTS, {})
    return [
        Verdict(
            rule.check,
            not said.get(rule.check),
            said.get(rule.check, ""),
            {name: metadata[name] for name in rule.figures if name in metadata},
            rule.hard,
            rule.severity,
        )
        for rule in RULES[asset]
    ]
