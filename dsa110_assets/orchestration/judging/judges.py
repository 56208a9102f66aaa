"""The functions by which single rules judge a product's figures: (figures, thresholds) -> list of what is wrong, empty if passed.

A required figure that is missing, or is not finite, counts as wrong too, so that nothing passes for lack of data. `Recorded`
detects missing figures for all judges; a figure that could not be measured is present and NaN.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dsa110_assets.thresholds import Thresholds

Figures = Mapping[str, Any]
Judge = Callable[[Figures, "Thresholds"], list[str]]


class Recorded(Mapping[str, Any]):
    """Figures that record in `asked` the names that were looked up."""

    def __init__(self, figures: Figures) -> None:
        self._figures = figures
        self.asked: list[str] = []

    def __getitem__(self, name: str) -> Any:
        self.asked.append(name)
        return self._figures[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._figures)

    def __len__(self) -> int:
        return len(self._figures)


def reasons_against(judge: Judge, named: Sequence[str], figures: Figures, thresholds: "Thresholds") -> list[str]:
    """Return the reasons of `judge`, and "NAME is unknown" for each absent figure that it looked up or that is `named`."""
    recorded = Recorded(figures)
    try:
        reasons = judge(recorded, thresholds)
    except KeyError:
        if all(name in figures for name in recorded.asked):
            raise
        reasons = []
    unknown = [f"{name} is unknown" for name in (*recorded.asked, *named) if name not in figures]
    return list(dict.fromkeys([*reasons, *unknown]))


def at_most(name: str, limit: Callable[["Thresholds"], float], unit: str = "") -> Judge:
    def judge(figures: Figures, thresholds: "Thresholds") -> list[str]:
        return unless(figures, name, lambda v: v <= limit(thresholds), f"above {limit(thresholds):g}{unit}", unit)

    return judge


def at_least(name: str, limit: Callable[["Thresholds"], float], unit: str = "") -> Judge:
    def judge(figures: Figures, thresholds: "Thresholds") -> list[str]:
        return unless(figures, name, lambda v: v >= limit(thresholds), f"below {limit(thresholds):g}{unit}", unit)

    return judge


MOST_INPUTS_LISTED = 5


def none_of(name: str) -> Judge:
    return at_most(name, lambda _: 0)


def _number(figures: Figures, name: str) -> float:
    """The figure as a float; NaN if it is missing."""
    value = figures.get(name)
    return math.nan if value is None else float(value)


def unless(figures: Figures, name: str, good: Callable[[float], bool], wrong: str, unit: str = "") -> list[str]:
    value = figures.get(name)
    if value is None or not math.isfinite(value):
        return [f"{name} is unknown"]
    return [] if good(value) else [f"{name} is {value:.4g}{unit}, {wrong}"]


def if_known(count: str, judge: Judge, least: int = 1) -> Judge:
    """Judge only if the figure `count` is at least `least`: where there is too little to compare with, nothing can be judged."""

    def sometimes(figures: Figures, thresholds: "Thresholds") -> list[str]:
        return judge(figures, thresholds) if figures[count] >= least else []

    return sometimes


def every(*judges: Judge) -> Judge:
    def together(figures: Figures, thresholds: "Thresholds") -> list[str]:
        return [reason for judge in judges for reason in judge(figures, thresholds)]

    return together


def problems_found(figures: Figures, _: "Thresholds") -> list[str]:
    return list(figures["problems"])


def subbands_known(figures: Figures, _: "Thresholds") -> list[str]:
    present, needed = figures["n_subbands"], figures["n_subbands_needed"]
    return [] if present >= needed else [f"{present} subbands, at least {needed} are needed"]


def solved(figures: Figures, _: "Thresholds") -> list[str]:
    return [] if figures["n_sets"] else [f"no transit gave usable tables: {'; '.join(figures['refused'])}"]


def refused(figures: Figures, _: "Thresholds") -> list[str]:
    return list(figures["refused"])


def transits_of_one_scale(figures: Figures, thresholds: "Thresholds") -> list[str]:
    if figures["n_sets"] < 2:
        return []
    wrong = at_most("scale_spread", lambda t: t.max_scale_spread)(figures, thresholds)
    return [f"{reason}; {', '.join(figures['scales'])}" for reason in wrong]


def listed(name: str) -> Judge:
    """A judge that returns the entries of the figure `name`, a list of what is wrong."""

    def judge(figures: Figures, _: "Thresholds") -> list[str]:
        return list(figures[name])

    return judge


def inputs_as_now(figures: Figures, _: "Thresholds") -> list[str]:
    """Require that every input was made with the settings and the code in force."""
    named = [f"{product_id}: {why}" for product_id, why in figures["inputs_made_otherwise"].items()]
    return named[:MOST_INPUTS_LISTED] + ([f"and {len(named) - MOST_INPUTS_LISTED} more"] if len(named) > MOST_INPUTS_LISTED else [])


def one_strip(figures: Figures, _: "Thresholds") -> list[str]:
    """Report tiles of an hour in which the pointing changed that are in no mosaic, so that their sources are in no light curve."""
    tiles, dec_deg = figures["left_out"], _number(figures, "pointing_dec_deg")
    message = f"{len(tiles)} of the hour's tiles point elsewhere than its mosaic at {dec_deg:.2f} deg and are not in it: {', '.join(tiles)}"
    return [message] if tiles else []


def anchored(figures: Figures, _: "Thresholds") -> list[str]:
    return [] if figures.get("anchor") else ["the anchor of the flux scale is not recorded"]


def age(figures: Figures, thresholds: "Thresholds") -> list[str]:
    return at_most("caltable_age_h", lambda t: t.calibration_stale_h, " h")(figures, thresholds)


def aging(figures: Figures, thresholds: "Thresholds") -> list[str]:
    return at_most("caltable_age_h", lambda t: t.calibration_aging_h, " h")(figures, thresholds)


def interpolated(figures: Figures, _: "Thresholds") -> list[str]:
    """Require that two table sets between which gains are interpolated agree well enough for it."""
    receptors = figures["receptors_not_interpolated"]
    message = f"the phases of the two table sets differ too much to interpolate for {', '.join(receptors)}: the nearest set is used there"
    return [message] if receptors else []


def same_strip(figures: Figures, _: "Thresholds") -> list[str]:
    return at_most("caltable_dec_offset_deg", lambda _t: 0.5, " deg")(figures, _)


SIGMAS = 3.0
"""Number of standard errors by which a comparison may always be off."""


def flux_ratio(name: str = "flux_ratio") -> Judge:
    """A judge of a ratio and its error (`name` and `name`_error) against `max_flux_offset`, the largest offset that is not suspect."""

    def judge(figures: Figures, thresholds: "Thresholds") -> list[str]:
        return _near_one(figures, name, thresholds.max_flux_offset, thresholds.max_flux_offset)

    return judge


def flux_scale(figures: Figures, thresholds: "Thresholds") -> list[str]:
    return _near_one(figures, "flux_ratio", 1 - thresholds.min_flux_ratio, thresholds.max_flux_ratio - 1)


def _near_one(figures: Figures, name: str, below: float, above: float) -> list[str]:
    error = _number(figures, f"{name}_error")
    if not math.isfinite(error):
        return [f"{name}_error is unknown"]
    low, high = 1 - below - SIGMAS * error, 1 + above + SIGMAS * error
    return unless(figures, name, lambda v: low <= v <= high, f"outside {low:.3f} to {high:.3f} (its error is {error:.2g})")


def references(figures: Figures, thresholds: "Thresholds") -> list[str]:
    n_missing, n_found = figures["reference_missing"], figures["reference_count"]
    expected = n_missing + n_found
    if expected < 3 or n_missing <= thresholds.max_missing_references * expected:
        return []
    return [f"{n_missing:g} of {expected:g} bright catalogue sources have no peak: this is another field, or no image"]


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


def astrometry(figures: Figures, thresholds: "Thresholds") -> list[str]:
    """Limit the offsets in arcsec and in beams: at 0.05 minor axes a forced flux is 4 ln 2 x^2 = 0.7 % low."""
    in_beams = thresholds.astrometry_warn_beams * _number(figures, "beam_minor_arcsec")
    return _offset(figures, min(in_beams, thresholds.astrometry_warn_arcsec))  # min keeps a NaN only as its first argument


def position(figures: Figures, thresholds: "Thresholds") -> list[str]:
    return _offset(figures, thresholds.astrometry_fail_arcsec)


def _offset(figures: Figures, limit: float) -> list[str]:
    east, north, *errors = (_number(figures, f"astrometry_{axis}{kind}_arcsec") for kind in ("", "_error") for axis in ("ra", "dec"))
    offset, allowed = math.hypot(east, north), limit + SIGMAS * math.hypot(*errors)
    if not math.isfinite(offset + allowed):
        return ["the position offset of the sources, or its error, is unknown"]
    return [] if offset <= allowed else [f"sources lie {offset:.2f} arcsec off, more than {limit:.3g} plus 3 errors, {allowed:.3g}"]


def noise_map(figures: Figures, thresholds: "Thresholds") -> list[str]:
    return unless(
        figures,
        "measured_over_noise",
        lambda v: abs(v - 1) <= thresholds.max_noise_ratio_error,
        f"more than {thresholds.max_noise_ratio_error:g} from 1: the noise map does not match the scatter of the pixels",
    )


def overlap(figures: Figures, thresholds: "Thresholds") -> list[str]:
    median = unless(
        figures,
        "overlap_flux_ratio",
        lambda v: abs(v - 1) <= thresholds.max_overlap_difference,
        f"more than {thresholds.max_overlap_difference:g} from 1: neighbours disagree on the fluxes of the sources they share",
    )
    return median + _worst_pair(figures, thresholds.max_overlap_difference)


def neighbours(figures: Figures, thresholds: "Thresholds") -> list[str]:
    return _worst_pair(figures, thresholds.max_neighbour_difference)


def _worst_pair(figures: Figures, limit: float) -> list[str]:
    """The reason against the pair of tiles that agrees least; none where no two tiles share three sources."""
    tiles = figures["overlap_worst_tiles"]
    if not tiles:
        return []
    error = _number(figures, "overlap_worst_error")
    return unless(
        figures,
        "overlap_flux_worst",
        lambda v: v <= limit + SIGMAS * error,
        f"more than {limit:g} plus 3 errors of {error:.2g}: {' and '.join(tiles)} disagree on the fluxes of the sources they share",
    )


def one_scale(figures: Figures, thresholds: "Thresholds") -> list[str]:
    """Require that the flux scales of anchors that meet in a mosaic agree, if need be after the recorded correction; if they cannot be
    compared, that is wrong too."""
    if figures["n_anchors"] < 2:
        return []
    error = _number(figures, "anchor_difference_error")
    return unless(
        figures,
        "anchor_difference",
        lambda v: v <= thresholds.max_flux_offset + SIGMAS * error,
        f"more than {thresholds.max_flux_offset:g} plus 3 errors of {error:.2g}: the scales of {figures['anchor']} differ",
    )


def residuals(figures: Figures, thresholds: "Thresholds") -> list[str]:
    """Limit the rms of the pulls. The rms of N pulls scatters by 1/sqrt(2N), so three times that is allowed in addition."""
    n = figures["n_steady"]
    if n < 2:
        return []
    slack = 3 / math.sqrt(2 * n)
    return unless(
        figures,
        "residual_rms",
        lambda v: thresholds.min_residual_rms - slack <= v <= thresholds.max_residual_rms + slack,
        f"outside {thresholds.min_residual_rms:g} to {thresholds.max_residual_rms:g} (+- {slack:.2f} for {n} steady sources)",
    )


def antennas_judged(figures: Figures, _: "Thresholds") -> list[str]:
    if figures["antennas_judged"]:
        return []
    return ["the field's known sources are too faint or too few to judge whether antennas and flux scale are right"]


def receptors_lost(figures: Figures, _: "Thresholds") -> list[str]:
    lost = figures["receptors_lost"]
    return [f"{', '.join(lost)} see no sky and are flagged"] if lost else []


def of_references(judge: Judge) -> Judge:
    """Judge the flux scale only where antennas were judged and there are enough reference sources to correct it."""

    def sometimes(figures: Figures, thresholds: "Thresholds") -> list[str]:
        judgeable = figures["antennas_judged"] and figures["flux_scale_references"] >= figures["flux_scale_needed"]
        return judge(figures, thresholds) if judgeable else []

    return sometimes


def scale_left(figures: Figures, thresholds: "Thresholds") -> list[str]:
    """Limit the flux offset left after the correction; three times its error is always allowed."""
    remaining, error = _number(figures, "flux_scale") / _number(figures, "flux_scale_applied") - 1, _number(figures, "flux_scale_error")
    if not math.isfinite(remaining + error):
        return ["flux_scale or its error is unknown"]
    limit = max(thresholds.max_flux_scale_left, SIGMAS * error)
    return (
        []
        if abs(remaining) <= limit
        else [f"fluxes are {remaining:+.1%} off those of the reference sources: {figures['flux_scale_reason']}"]
    )


def scale_moved(figures: Figures, thresholds: "Thresholds") -> list[str]:
    off, error = _number(figures, "flux_scale") - 1, _number(figures, "flux_scale_error")
    if abs(off) <= max(thresholds.flux_scale_warn, SIGMAS * error):
        return []
    return [f"the tables of {figures['calibrator']} give fluxes {off:+.1%} off: {figures['flux_scale_reason']}"]


def gain_drift(figures: Figures, thresholds: "Thresholds") -> list[str]:
    return every(
        at_most("drift_amplitude", lambda t: t.max_gain_drift),
        at_most("drift_phase_deg", lambda t: t.max_gain_drift_deg, " deg"),
    )(figures, thresholds)
