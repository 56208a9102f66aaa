"""How single rules judge a product's figures: functions (figures, thresholds) -> what is wrong, nothing if passed.

A figure that should be there and is not, or is not finite, is wrong too: silence never passes.
"""

import math
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dsa110_assets.thresholds import Thresholds

Figures = Mapping[str, Any]
Judge = Callable[[Figures, "Thresholds"], list[str]]


def at_most(name: str, limit: Callable[["Thresholds"], float], unit: str = "") -> Judge:
    def judge(figures: Figures, thresholds: "Thresholds") -> list[str]:
        return unless(figures, name, lambda v: v <= limit(thresholds), f"above {limit(thresholds):g}{unit}", unit)

    return judge


def at_least(name: str, limit: Callable[["Thresholds"], float], unit: str = "") -> Judge:
    def judge(figures: Figures, thresholds: "Thresholds") -> list[str]:
        return unless(figures, name, lambda v: v >= limit(thresholds), f"below {limit(thresholds):g}{unit}", unit)

    return judge


def none_of(name: str) -> Judge:
    return at_most(name, lambda _: 0)


def unless(figures: Figures, name: str, good: Callable[[float], bool], wrong: str, unit: str = "") -> list[str]:
    value = figures.get(name)
    if value is None or not math.isfinite(value):
        return [f"{name} is unknown"]
    return [] if good(value) else [f"{name} is {value:.4g}{unit}, {wrong}"]


def if_known(count: str, judge: Judge) -> Judge:
    """Judge only where there was anything to compare with; a sky without a catalogue proves nothing."""

    def sometimes(figures: Figures, thresholds: "Thresholds") -> list[str]:
        return judge(figures, thresholds) if figures.get(count) else []

    return sometimes


def every(*judges: Judge) -> Judge:
    def together(figures: Figures, thresholds: "Thresholds") -> list[str]:
        return [reason for judge in judges for reason in judge(figures, thresholds)]

    return together


def problems_found(figures: Figures, _: "Thresholds") -> list[str]:
    if "problems" not in figures:
        return ["problems were not looked for"]
    return list(figures["problems"])


def subbands_known(figures: Figures, _: "Thresholds") -> list[str]:
    present, needed = figures["n_subbands"], figures["n_subbands_needed"]
    return [] if present >= needed else [f"{present} subbands, at least {needed} are needed"]


def solved(figures: Figures, _: "Thresholds") -> list[str]:
    return [] if figures.get("n_sets") else [f"no transit gave usable tables: {'; '.join(figures.get('refused', []))}"]


def refused(figures: Figures, _: "Thresholds") -> list[str]:
    return list(figures.get("refused", ()))


def one_scale(figures: Figures, thresholds: "Thresholds") -> list[str]:
    if figures.get("n_sets", 0) < 2:
        return []
    wrong = at_most("scale_spread", lambda t: t.max_scale_spread)(figures, thresholds)
    return [f"{reason}; {', '.join(figures.get('scales', []))}" for reason in wrong]


def listed(name: str) -> Judge:
    """What a list of figures names is wrong."""

    def judge(figures: Figures, _: "Thresholds") -> list[str]:
        return [f"{name} were not looked for"] if name not in figures else list(figures[name])

    return judge


def anchored(figures: Figures, _: "Thresholds") -> list[str]:
    return [] if figures.get("anchor") else ["the anchor of the flux scale is not recorded"]


def age(figures: Figures, thresholds: "Thresholds") -> list[str]:
    return at_most("caltable_age_h", lambda t: t.calibration_stale_h, " h")(figures, thresholds)


def aging(figures: Figures, thresholds: "Thresholds") -> list[str]:
    return at_most("caltable_age_h", lambda t: t.calibration_aging_h, " h")(figures, thresholds)


def same_strip(figures: Figures, _: "Thresholds") -> list[str]:
    return at_most("caltable_dec_offset_deg", lambda _t: 0.5, " deg")(figures, _)


def flux_ratio(figures: Figures, thresholds: "Thresholds") -> list[str]:
    return every(
        at_least("flux_ratio", lambda t: t.min_flux_ratio),
        at_most("flux_ratio", lambda t: t.max_flux_ratio),
    )(figures, thresholds)


def rms(figures: Figures, thresholds: "Thresholds") -> list[str]:
    return every(
        at_least("rms_over_radiometer", lambda t: t.min_rms_ratio),
        at_most("rms_over_radiometer", lambda t: t.max_rms_ratio),
        at_most("rms_jy", lambda t: t.max_tile_rms_jy, " Jy"),
    )(figures, thresholds)


def beam(figures: Figures, _: "Thresholds") -> list[str]:
    major, minor = figures.get("beam_major_arcsec"), figures.get("beam_minor_arcsec")
    if not major or not minor or not (math.isfinite(major) and math.isfinite(minor)):
        return ["the beam is unknown"]
    return [] if major >= minor > 0 else [f"the beam of {major:.1f} by {minor:.1f} arcsec is impossible"]


def finite_rms(figures: Figures, _: "Thresholds") -> list[str]:
    return unless(figures, "rms_jy", lambda v: v > 0, "not positive", " Jy")


def astrometry(limit: Callable[["Thresholds"], float]) -> Judge:
    def judge(figures: Figures, thresholds: "Thresholds") -> list[str]:
        offset = math.hypot(figures.get("astrometry_ra_arcsec") or 0, figures.get("astrometry_dec_arcsec") or 0)
        return [] if offset <= limit(thresholds) else [f"sources lie {offset:.2f} arcsec off, more than {limit(thresholds):g}"]

    return judge


def noise_map(figures: Figures, thresholds: "Thresholds") -> list[str]:
    return unless(
        figures,
        "measured_over_noise",
        lambda v: abs(v - 1) <= thresholds.max_noise_ratio_error,
        f"more than {thresholds.max_noise_ratio_error:g} from 1: the noise map is not what the pixels show",
    )


def overlap(figures: Figures, thresholds: "Thresholds") -> list[str]:
    return unless(
        figures,
        "overlap_flux_ratio",
        lambda v: abs(v - 1) <= thresholds.max_overlap_difference,
        f"more than {thresholds.max_overlap_difference:g} from 1: neighbours disagree on the sources they share",
    )


def residuals(figures: Figures, thresholds: "Thresholds") -> list[str]:
    """The rms of N pulls scatters by 1/sqrt(2N): the allowance grows by three of those."""
    n = figures.get("n_steady") or 0
    if n < 2:
        return []
    slack = 3 / math.sqrt(2 * n)
    return unless(
        figures,
        "residual_rms",
        lambda v: thresholds.min_residual_rms - slack <= v <= thresholds.max_residual_rms + slack,
        f"outside {thresholds.min_residual_rms:g} to {thresholds.max_residual_rms:g} (+- {slack:.2f} for {n} steady sources)",
    )
