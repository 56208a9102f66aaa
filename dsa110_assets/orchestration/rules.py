"""The rules products are judged by: one function each, used by the gate before publishing and by the checks.

A rule looks at a product's figures and the thresholds and says what is wrong; nothing means passed. A figure
that should be there and is not is wrong too: silence never passes. A HARD rule stops what follows.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import dagster as dg

if TYPE_CHECKING:
    from dsa110_assets.thresholds import Thresholds

VERDICTS = "checks"
"""Metadata key under which a product keeps what its rules said when it was published."""
Figures = Mapping[str, Any]
Judge = Callable[[Figures, "Thresholds"], list[str]]
WARN, ERROR = dg.AssetCheckSeverity.WARN, dg.AssetCheckSeverity.ERROR


@dataclass(frozen=True)
class Rule:
    """A rule: its check's name, the figures it is about, how it judges, and whether it stops what follows."""

    check: str
    description: str
    figures: tuple[str, ...]
    judge: Judge
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


def _at_most(name: str, limit: Callable[["Thresholds"], float], unit: str = "") -> Judge:
    def judge(figures: Figures, thresholds: "Thresholds") -> list[str]:
        return _unless(
            figures, name, lambda v: v <= limit(thresholds), f"above {limit(thresholds):g}{unit}", unit
        )

    return judge


def _at_least(name: str, limit: Callable[["Thresholds"], float], unit: str = "") -> Judge:
    def judge(figures: Figures, thresholds: "Thresholds") -> list[str]:
        return _unless(
            figures, name, lambda v: v >= limit(thresholds), f"below {limit(thresholds):g}{unit}", unit
        )

    return judge


def _none_of(name: str) -> Judge:
    return _at_most(name, lambda _: 0)


def _unless(
    figures: Figures, name: str, good: Callable[[float], bool], wrong: str, unit: str = ""
) -> list[str]:
    value = figures.get(name)
    if value is None or not math.isfinite(value):
        return [f"{name} is unknown"]
    return [] if good(value) else [f"{name} is {value:.4g}{unit}, {wrong}"]


def _if_known(count: str, judge: Judge) -> Judge:
    """Judge only where there was anything to compare with; a sky without a catalogue proves nothing."""

    def sometimes(figures: Figures, thresholds: "Thresholds") -> list[str]:
        return judge(figures, thresholds) if figures.get(count) else []

    return sometimes


def _all(*judges: Judge) -> Judge:
    def together(figures: Figures, thresholds: "Thresholds") -> list[str]:
        return [reason for judge in judges for reason in judge(figures, thresholds)]

    return together


def _problems(figures: Figures, _: "Thresholds") -> list[str]:
    if "problems" not in figures:
        return ["problems were not looked for"]
    return list(figures["problems"])


def _subbands_known(figures: Figures, _: "Thresholds") -> list[str]:
    present, needed = figures["n_subbands"], figures["n_subbands_needed"]
    return [] if present >= needed else [f"{present} subbands, at least {needed} are needed"]


def _solved(figures: Figures, _: "Thresholds") -> list[str]:
    return (
        []
        if figures.get("n_sets")
        else [f"no transit gave usable tables: {'; '.join(figures.get('refused', []))}"]
    )


def _refused(figures: Figures, _: "Thresholds") -> list[str]:
    return list(figures.get("refused", ()))


def _anchored(figures: Figures, _: "Thresholds") -> list[str]:
    return [] if figures.get("anchor") else ["the anchor of the flux scale is not recorded"]


def _age(figures: Figures, thresholds: "Thresholds") -> list[str]:
    return _at_most("caltable_age_h", lambda t: t.calibration_stale_h, " h")(figures, thresholds)


def _aging(figures: Figures, thresholds: "Thresholds") -> list[str]:
    return _at_most("caltable_age_h", lambda t: t.calibration_aging_h, " h")(figures, thresholds)


def _same_strip(figures: Figures, _: "Thresholds") -> list[str]:
    return _at_most("caltable_dec_offset_deg", lambda _t: 0.5, " deg")(figures, _)


def _flux_ratio(figures: Figures, thresholds: "Thresholds") -> list[str]:
    return _all(
        _at_least("flux_ratio", lambda t: t.min_flux_ratio),
        _at_most("flux_ratio", lambda t: t.max_flux_ratio),
    )(figures, thresholds)


def _rms(figures: Figures, thresholds: "Thresholds") -> list[str]:
    return _all(
        _at_least("rms_over_radiometer", lambda t: t.min_rms_ratio),
        _at_most("rms_over_radiometer", lambda t: t.max_rms_ratio),
        _at_most("rms_jy", lambda t: t.max_tile_rms_jy, " Jy"),
    )(figures, thresholds)


def _beam(figures: Figures, _: "Thresholds") -> list[str]:
    major, minor = figures.get("beam_major_arcsec"), figures.get("beam_minor_arcsec")
    if not major or not minor or not (math.isfinite(major) and math.isfinite(minor)):
        return ["the beam is unknown"]
    return [] if major >= minor > 0 else [f"the beam of {major:.1f} by {minor:.1f} arcsec is impossible"]


def _finite_rms(figures: Figures, _: "Thresholds") -> list[str]:
    return _unless(figures, "rms_jy", lambda v: v > 0, "not positive", " Jy")


def _astrometry(limit: Callable[["Thresholds"], float]) -> Judge:
    def judge(figures: Figures, thresholds: "Thresholds") -> list[str]:
        offset = math.hypot(
            figures.get("astrometry_ra_arcsec") or 0, figures.get("astrometry_dec_arcsec") or 0
        )
        return (
            []
            if offset <= limit(thresholds)
            else [f"sources lie {offset:.2f} arcsec off, more than {limit(thresholds):g}"]
        )

    return judge


def _noise_map(figures: Figures, thresholds: "Thresholds") -> list[str]:
    return _unless(
        figures, "measured_over_noise", lambda v: abs(v - 1) <= thresholds.max_noise_ratio_error,
        f"more than {thresholds.max_noise_ratio_error:g} from 1: the noise map is not what the pixels show",
    )  # fmt: skip


def _overlap(figures: Figures, thresholds: "Thresholds") -> list[str]:
    return _unless(
        figures, "overlap_flux_ratio", lambda v: abs(v - 1) <= thresholds.max_overlap_difference,
        f"more than {thresholds.max_overlap_difference:g} from 1: neighbours disagree on the sources they share",
    )  # fmt: skip


def _residuals(figures: Figures, thresholds: "Thresholds") -> list[str]:
    """The rms of N pulls scatters by 1/sqrt(2N): the allowance grows by three of those."""
    n = figures.get("n_steady") or 0
    if n < 2:
        return []
    slack = 3 / math.sqrt(2 * n)
    return _unless(
        figures, "residual_rms",
        lambda v: thresholds.min_residual_rms - slack <= v <= thresholds.max_residual_rms + slack,
        f"outside {thresholds.min_residual_rms:g} to {thresholds.max_residual_rms:g} (+- {slack:.2f} for {n} steady sources)",
    )  # fmt: skip


RULES: dict[str, tuple[Rule, ...]] = {
    "source_catalog": (
        Rule("coverage", "there are sources, and every position lies on the sky", ("n_sources", "n_invalid_positions"),
             _all(_at_least("n_sources", lambda _: 1), _none_of("n_invalid_positions")), hard=True),
    ),
    "calibrator_catalog": (
        Rule("no_unknown_flux", "no calibrator without a known flux sets a flux scale", ("n_unknown_flux_used", "n_with_flux"),
             _all(_none_of("n_unknown_flux_used"), _at_least("n_with_flux", lambda _: 1)), hard=True),
    ),
    "sky_model": (
        Rule("coverage", "the model holds sources", ("n_sources", "n_left_out"), _at_least("n_sources", lambda _: 1), hard=True),
    ),
    "subband_group": (
        Rule("subbands_known", "enough subbands of the known set are there", ("n_subbands", "n_subbands_needed"), _subbands_known, hard=True),
        Rule("complete", "no subband is missing", ("n_subbands_missing",), _none_of("n_subbands_missing"), severity=WARN),
        Rule("headers_agree", "no file was left out for disagreeing", ("n_rejected_files",), _none_of("n_rejected_files"), severity=WARN),
    ),
    "measurement_set": (
        Rule("hard_four", "PHASE_DIR, REFERENCE_DIR, TELESCOPE_NAME, field order; uvw, times, frequencies", ("n_problems",), _problems, hard=True),
        Rule("flag_fraction", "not too much of what living receptors saw is flagged", ("flag_fraction", "flag_fraction_raw"),
             _at_most("flag_fraction", lambda t: t.max_flag_fraction)),
    ),
    "caltables": (
        Rule("usable", "at least one transit passed signal-to-noise, flags, amplitudes and closure", ("n_sets", "n_transits"), _solved, hard=True),
        Rule("all_transits", "every transit passed", ("n_sets", "n_transits"), _refused, severity=WARN),
        Rule("flux_anchor", "what the flux scale rests on is recorded", ("anchor",), _anchored, hard=True),
    ),
    "calibrated_ms": (
        Rule("staleness", "the tables are not too old", ("caltable_age_h",), _age),
        Rule("aging", "the tables are not getting old", ("caltable_age_h",), _aging, severity=WARN),
        Rule("same_strip", "the tables are of this declination strip", ("caltable_dec_offset_deg",), _same_strip, hard=True),
        Rule("same_antennas", "the tables cover every antenna", ("n_antennas_without_tables",), _none_of("n_antennas_without_tables"), hard=True),
    ),
    "tile_image": (
        Rule("sane", "the image has a positive noise and a possible beam", ("rms_jy", "beam_major_arcsec", "beam_minor_arcsec"),
             _all(_finite_rms, _beam), hard=True),
        Rule("rms", "the noise is what the radiometer equation allows", ("rms_jy", "rms_over_radiometer"), _rms),
        Rule("dynamic_range", "the brightest source stands out", ("dynamic_range",), _at_least("dynamic_range", lambda t: t.min_dynamic_range), severity=WARN),
        Rule("flux_ratio", "fluxes agree with the catalogue", ("flux_ratio", "reference_count"), _if_known("reference_count", _flux_ratio)),
        Rule("astrometry", "positions agree with the catalogue", ("astrometry_ra_arcsec", "astrometry_dec_arcsec"),
             _if_known("reference_count", _astrometry(lambda t: t.astrometry_fail_arcsec))),
        Rule("astrometry_drift", "positions agree closely", ("astrometry_ra_arcsec", "astrometry_dec_arcsec"),
             _if_known("reference_count", _astrometry(lambda t: t.astrometry_warn_arcsec)), severity=WARN),
    ),
    "hour_mosaic": (
        Rule("noise_map", "the noise map is what the pixels show", ("measured_over_noise",), _noise_map, hard=True),
        Rule("overlap", "neighbouring tiles agree on the sources they share", ("overlap_flux_ratio", "overlap_flux_scatter", "overlap_pairs"),
             _if_known("overlap_pairs", _overlap), hard=True),
        Rule("completeness", "the hour's observations were imaged", ("windows_completed",),
             _at_least("windows_completed", lambda t: t.min_windows_completed), severity=WARN),
    ),
    "source_measurements": (
        Rule("flux_ratio", "fluxes agree with the catalogue", ("flux_ratio", "n_compared"), _if_known("n_compared", _flux_ratio), hard=True),
        Rule("completeness", "catalogue sources that should be seen are", ("completeness", "n_expected"),
             _if_known("n_expected", _at_least("completeness", lambda t: t.min_completeness)), severity=WARN),
        Rule("false_detections", "few negative sources are found for each positive one", ("false_detection_rate",),
             _at_most("false_detection_rate", lambda t: t.max_false_detections), severity=WARN),
    ),
    "night_mosaic": (
        Rule("noise_map", "the noise map is what the pixels show", ("measured_over_noise",), _noise_map, hard=True),
        Rule("overlap", "neighbouring hours agree on the sources they share", ("overlap_flux_ratio", "overlap_flux_scatter", "overlap_pairs"),
             _if_known("overlap_pairs", _overlap), hard=True),
        Rule("completeness", "the night's hours are in", ("windows_completed",),
             _at_least("windows_completed", lambda t: t.min_windows_completed), severity=WARN),
    ),
    "light_curves": (
        Rule("ensemble", "enough reference sources normalise every epoch", ("n_references_min", "n_epochs"),
             _at_least("n_references_min", lambda t: t.min_references), severity=WARN),
        Rule("residual_rms", "constant sources scatter by just their errors", ("residual_rms", "n_steady"), _residuals, severity=WARN),
    ),
    "variability": (
        Rule("false_alarms", "injected constant sources become candidates no more often than claimed",
             ("false_alarm_ratio", "n_injected"),
             _if_known("n_injected", _at_most("false_alarm_ratio", lambda t: t.max_false_alarm_ratio)), severity=WARN),
    ),
    "night_report": (),
}  # fmt: skip
"""The rules of every asset, in the order they are told."""


def judge(asset: str, figures: Figures, thresholds: "Thresholds") -> list[Verdict]:
    """What every rule of an asset says about a product with these figures."""
    verdicts = []
    for rule in RULES[asset]:
        reasons = rule.judge(figures, thresholds)
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


def from_metadata(asset: str, metadata: Figures) -> list[Verdict]:
    """What the rules said when a product was published."""
    said = metadata.get(VERDICTS, {})
    return [
        Verdict(
            rule.check, not said.get(rule.check), said.get(rule.check, ""),
            {name: metadata[name] for name in rule.figures if name in metadata}, rule.hard, rule.severity,
        )
        for rule in RULES[asset]
    ]  # fmt: skip
