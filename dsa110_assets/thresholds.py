"""Thresholds of checks, alerts and retention: a TOML file, re-read when it changes, refused whole if wrong.

    max_flag_fraction = 0.4
    astrometry_warn_arcsec = "0.02 arcmin"  # any unit astropy knows; a bare number is in the field's own
    [retention_days]
    measurement_set = 14

Everything has a default, so the file may be missing. While it is wrong, the last valid state stays in force, also for
processes that start meanwhile: a process that may write the archive keeps a copy of that state there. If the file was never
valid, the defaults apply, and nothing is removed by them.
"""

from __future__ import annotations

import json
import logging
import os
import threading
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from dsa110_assets.errors import ConfigurationError

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Unit:
    """The unit in which a threshold is stored."""

    name: str


def _in(unit: str) -> tuple[Unit, BeforeValidator]:
    """The annotations of a threshold given as a number in `unit`, or as text with any unit that converts to it."""

    def convert(value: Any) -> Any:
        if not isinstance(value, str):
            return value
        from astropy import units as u

        try:
            quantity = u.Quantity(value)
            if quantity.unit == u.dimensionless_unscaled and unit:
                raise ValueError(f"has no unit; write it as a number in {unit}, or with a unit")
            return float(quantity.to_value(u.Unit(unit)))
        except (TypeError, u.UnitConversionError):
            raise ValueError(f"is not a quantity in {unit or 'no unit'}") from None

    return Unit(unit), BeforeValidator(convert)


_HOURS, _ARCSEC, _JY, _GB, _DAYS = _in("h"), _in("arcsec"), _in("Jy"), _in("GB"), _in("d")
_MINUTES, _SECONDS = _in("min"), _in("s")
Hours = Annotated[float, *_HOURS, Field(gt=0, le=24 * 365)]
Arcsec = Annotated[float, *_ARCSEC, Field(gt=0, le=3600)]
Jansky = Annotated[float, *_JY, Field(gt=0, le=1e3)]
Gigabytes = Annotated[float, *_GB, Field(ge=0, le=1e7)]
Days = Annotated[float, *_DAYS, Field(ge=0, le=36500)]
Minutes = Annotated[float, *_MINUTES, Field(ge=0, le=60 * 24 * 7)]
Seconds = Annotated[float, *_SECONDS, Field(gt=0, le=86400)]
Fraction = Annotated[float, Field(ge=0, le=1)]
Count = Annotated[int, Field(ge=1, le=100_000)]
Ratio = Annotated[float, Field(gt=0, le=1e6)]


class Thresholds(BaseModel):
    """All thresholds with their defaults. The units of the fields are hours, arcsec, Jy, GB, days, minutes and seconds."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    calibration_aging_h: Annotated[Hours, Field(description="caltables older than this are a warning")] = 12.0
    calibration_stale_h: Annotated[Hours, Field(description="beyond this age the staleness check fails")] = 24.0
    max_flag_fraction: Annotated[Fraction, Field(description="largest fraction of flagged data, without receptors known to be dead")] = 0.5
    min_judged_wide: Annotated[
        Fraction, Field(description="least fraction of the antennas in which wide interference could be searched for")
    ] = 0.5
    max_solution_flag_fraction: Annotated[
        Fraction, Field(description="largest fraction of flagged calibration solutions of living receptors")
    ] = 0.3
    min_solution_snr: Annotated[Ratio, Field(description="least median SNR of calibration solutions")] = 3.0
    min_gain_amplitude: Annotated[Ratio, Field(description="least gain amplitude relative to the median")] = 0.1
    max_gain_amplitude: Annotated[Ratio, Field(description="largest gain amplitude relative to the median")] = 10.0
    max_closure_phase_deg: Annotated[float, Field(gt=0, le=180, description="largest rms closure phase after calibration [deg]")] = 30.0
    max_closure_excess: Annotated[
        Fraction,
        Field(
            description="largest rms of closure amplitudes, or phases in radians, that is neither noise nor in the model; largest part "
            "of the sky missing from the model that a transit's gains may have absorbed"
        ),
    ] = 0.02
    max_reduced_chi2: Annotated[
        Ratio, Field(description="largest chi-squared of a transit less its model, against the radiometer equation")
    ] = 4.0
    max_field_flux_difference: Annotated[
        Fraction, Field(description="largest departure of the field's common flux from the catalogue's, in a calibrator's transit")
    ] = 0.05
    max_calibrator_offset_arcsec: Annotated[Arcsec, Field(description="largest distance of a calibrator from its listed position")] = 30.0
    max_scale_spread: Annotated[Fraction, Field(description="largest difference of the flux scales of one night's table sets")] = 0.05
    min_receptor_flux_ratio: Annotated[
        Fraction, Field(description="least fraction of the calibrator model's flux that a receptor sees after calibration")
    ] = 0.5
    min_antennas_kept: Annotated[Fraction, Field(description="least share of an observation's antennas that see the sky")] = 0.6
    flux_scale_warn: Annotated[
        Fraction, Field(description="departure of the tables' flux scale from the field's reference sources that warns")
    ] = 0.05
    max_flux_scale_left: Annotated[
        Fraction, Field(description="largest departure of the flux scale that is left uncorrected, beyond its error")
    ] = 0.03
    max_gain_drift: Annotated[Fraction, Field(description="spread of amplitude gains since the tables that warns")] = 0.05
    max_gain_drift_deg: Annotated[float, Field(gt=0, le=180, description="spread of phases since the tables that warns [deg]")] = 10.0
    min_dynamic_range: Annotated[Ratio, Field(description="least peak over rms of a tile")] = 5.0
    # The scatter of clean data, in 27 tiles of 24 antennas over three nights: rms 0.99 to 1.13 of the radiometer's (0.98 to 1.11
    # with 96 antennas), flux ratio 0.993 to 1.004 with errors of 0.003 to 0.007, offsets of 0.009 beams at most; neighbours' fluxes
    # within 0.4 % (2.0 errors). The limits are three times as far out, and 3 errors of the figure are allowed beyond them.
    max_rms_ratio: Annotated[Ratio, Field(description="largest rms of a tile over the radiometer's that is not suspect")] = 1.25
    min_rms_ratio: Annotated[
        Ratio, Field(description="least rms of a tile over the radiometer's that is not suspect: a lower one is too good to be true")
    ] = 0.9
    max_tile_rms_jy: Annotated[Jansky, Field(description="largest rms of a tile")] = 1.0
    min_flux_ratio: Annotated[Ratio, Field(description="least flux over the catalogue's, beyond 3 errors, that is published at all")] = 0.9
    max_flux_ratio: Annotated[Ratio, Field(description="largest flux over the catalogue's, beyond 3 errors, that is published at all")] = (
        1.1
    )
    max_flux_offset: Annotated[
        Fraction, Field(description="largest departure of flux from the catalogue's or history's, beyond 3 errors, not suspect")
    ] = 0.02
    max_missing_references: Annotated[
        Fraction, Field(description="largest fraction of a tile's bright catalogue sources, if three or more, without a peak in it")
    ] = 0.5
    max_overlap_difference: Annotated[
        Fraction, Field(description="largest flux difference of two tiles' common sources, beyond 3 errors, with which both enter a mosaic")
    ] = 0.1
    max_neighbour_difference: Annotated[
        Fraction, Field(description="largest flux difference of two tiles' common sources, beyond 3 errors, not suspect")
    ] = 0.03
    max_noise_ratio_error: Annotated[Fraction, Field(description="largest departure of measured noise from a mosaic's noise map")] = 0.3
    min_completeness: Annotated[Fraction, Field(description="least share of catalogue sources above 10 sigma detected")] = 0.9
    min_windows_completed: Annotated[Fraction, Field(description="least share of a night's observations imaged")] = 0.9
    max_false_detections: Annotated[Fraction, Field(description="most negative detections per positive one")] = 0.05
    astrometry_warn_arcsec: Annotated[
        Arcsec, Field(description="offset from the catalogue, beyond 3 errors, that makes a tile suspect")
    ] = 2.0
    astrometry_warn_beams: Annotated[Ratio, Field(description="the same in minor axes of the beam; the smaller counts")] = 0.05
    astrometry_fail_arcsec: Annotated[
        Arcsec, Field(description="offset from the catalogue, beyond 3 errors, with which a tile is not published")
    ] = 5.0
    min_references: Annotated[int, Field(ge=1, le=10000, description="least reference sources of an epoch's normalisation")] = 3
    min_residual_rms: Annotated[Ratio, Field(description="least rms of constant sources' pulls in light curves")] = 0.95
    max_residual_rms: Annotated[Ratio, Field(description="largest rms of constant sources' pulls in light curves")] = 1.05
    max_false_alarm_ratio: Annotated[Ratio, Field(description="largest measured over nominal false-alarm rate of candidates")] = 2.0
    disk_warn_gb: Annotated[Gigabytes, Field(description="free space of the archive's disk that warns")] = 200.0
    disk_critical_gb: Annotated[Gigabytes, Field(description="free space that pauses ingest, and is critical")] = 50.0
    backup_warn_h: Annotated[Hours, Field(description="age of the newest verified backup that warns")] = 48.0
    keep_backups: Annotated[int, Field(ge=1, le=1000, description="backups kept by rotation")] = 14
    disk_full_days: Annotated[Days, Field(description="a disk that is full sooner than this at the rate of the last day warns")] = 3.0
    no_calibration_warn_h: Annotated[Hours, Field(description="this long without a usable calibration warns")] = 3.0
    no_calibration_critical_h: Annotated[Hours, Field(description="this long without a usable calibration is critical")] = 6.0
    transit_solved_h: Annotated[Hours, Field(description="a calibrator's transit that was observed is solved within this time")] = 2.0
    failures_warn: Annotated[Fraction, Field(description="share of an hour's runs of a stage that failed, which warns")] = 0.1
    failures_critical: Annotated[Fraction, Field(description="share of an hour's runs of a stage that failed, which is critical")] = 0.2
    failures_of_runs: Annotated[Count, Field(description="least runs of a stage in an hour for which the failed share is judged")] = 5
    queue_warn: Annotated[Count, Field(description="number of waiting observations above which it warns")] = 50
    queue_critical: Annotated[Count, Field(description="number of waiting observations above which it is critical")] = 100
    max_retries: Annotated[Count, Field(description="most retries of one partition that raise no alert")] = 3
    run_silent_min: Annotated[Minutes, Field(description="a run without an event for this long makes no progress")] = 30.0
    inbox_silent_min: Annotated[Minutes, Field(description="this long without a new file in the inbox warns")] = 15.0
    service_silent_s: Annotated[Seconds, Field(description="a service or worker without a sign of life for this long is dead")] = 35.0
    # Parts of Dagster's daemon give a sign of life every 10 s (at most 12.4 s were seen at a load of 10, except in its first minute,
    # in which it loads the code); some parts sleep for up to a full minute.
    part_silent_s: Annotated[Seconds, Field(description="the same of a part of Dagster's daemon that observations wait for")] = 35.0
    daemon_silent_s: Annotated[Seconds, Field(description="the same of its other parts, while its process lives")] = 120.0
    channel_silent_min: Annotated[
        Minutes, Field(description="a channel that accepted no alert for this long is reported to the others")
    ] = 5.0
    off_in_a_row: Annotated[
        Count, Field(description="number of observations in a row with bad noise, flags, flux or positions that raises an alert")
    ] = 3
    recent_h: Annotated[Hours, Field(description="how long a single event (a failed check, a quarantine, a candidate) is reported")] = 24.0
    repeat_h: Annotated[Hours, Field(description="an alert nobody acknowledged is sent again after this time")] = 6.0
    group_min: Annotated[
        Minutes,
        Field(description="after an alert, further ones of its condition that are not critical wait this long and are sent together"),
    ] = 5.0
    escalate_min: Annotated[Minutes, Field(description="a critical alert nobody acknowledged for this long is escalated")] = 15.0
    superseded_days: Annotated[Days, Field(description="superseded and rejected versions are kept this long [d]")] = 30.0
    trial_days: Annotated[Days, Field(description="products of trials are kept this long [d]")] = 30.0
    history_days: Annotated[Days, Field(description="Dagster's runs are kept this long after their end, with their logs [d]")] = 90.0
    retention_free_gb: Annotated[
        float,
        Field(ge=0, description="retention also removes products that only their age protects, oldest first, until this much is free"),
    ] = 0.0
    retention_days: Annotated[
        dict[str, Days], Field(description="how long an asset's products are kept [d]; an asset not named here: as its specification says")
    ] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _ordered(self) -> Thresholds:
        for low, high in _ORDERED:
            if not getattr(self, low) <= getattr(self, high):
                raise ValueError(f"{low}={getattr(self, low):g} is above {high}={getattr(self, high):g}")
        return self


_ORDERED = (
    ("calibration_aging_h", "calibration_stale_h"),
    ("min_gain_amplitude", "max_gain_amplitude"),
    ("min_rms_ratio", "max_rms_ratio"),
    ("max_neighbour_difference", "max_overlap_difference"),
    ("min_flux_ratio", "max_flux_ratio"),
    ("min_residual_rms", "max_residual_rms"),
    ("astrometry_warn_arcsec", "astrometry_fail_arcsec"),
    ("disk_critical_gb", "disk_warn_gb"),
    ("no_calibration_warn_h", "no_calibration_critical_h"),
    ("failures_warn", "failures_critical"),
    ("queue_warn", "queue_critical"),
)
_Stamp = tuple[int, int, int] | None


class ThresholdFile:
    """One thresholds file that is watched: `current()` is always its last valid state, which an earlier process may have read.

    `kept` is the file that keeps this state from one process to the next (None: none). `refused` says what is wrong with the
    thresholds file at present, None if nothing. `guessed` is true if no state of it was ever valid, so that the defaults apply.
    """

    def __init__(self, path: Path, kept: Path | None = None) -> None:
        self.path, self.kept = path, kept
        self._stamp: _Stamp = (-1, -1, -1)
        self._good: Thresholds | None = None
        self.refused: str | None = None
        self.guessed = False
        self._lock = threading.Lock()

    def current(self) -> Thresholds:
        """The thresholds in force: the file's, else the last valid ones, else the defaults."""
        with self._lock:
            stamp = _stamp(self.path)
            if stamp == self._stamp and self._good is not None:
                return self._good
            try:
                new, self.refused, self.guessed = read(self.path), None, False
            except ConfigurationError as error:
                good = self._good or (None if self.kept is None else _read_kept(self.kept))
                self.refused, self.guessed = str(error), self.guessed or good is None
                new = good or Thresholds()
                log.error("%s; %s", error, "until then the defaults hold" if self.guessed else "the thresholds in force stay as they were")
            else:
                _log_changes(self.path, self._good, new)
                if self.kept is not None:
                    _keep(self.kept, new)
            self._stamp, self._good = stamp, new
            return new


_followed: dict[tuple[Path, Path | None], ThresholdFile] = {}
_followed_lock = threading.Lock()


def load_thresholds(path: Path, kept: Path | None = None) -> Thresholds:
    """The thresholds in force from `path`, which is read again when it has changed.

    A missing file means the defaults. A wrong one is logged, and the last valid state stays in force, which is kept in the file
    `kept` for other processes; the defaults apply if no valid state is known.
    """
    return _file(path, kept).current()


def chosen_thresholds(path: Path, kept: Path | None = None) -> Thresholds:
    """The thresholds in force, for actions that cannot be undone. Raises ConfigurationError if the defaults replace a wrong file."""
    file = _file(path, kept)
    limits = file.current()
    if file.guessed:
        raise ConfigurationError(f"{file.refused}; nothing is removed before that")
    return limits


def refused_thresholds(path: Path, kept: Path | None = None) -> str | None:
    """What is wrong with the thresholds file at present, and what to do; None if nothing."""
    file = _file(path, kept)
    file.current()
    return file.refused


def _file(path: Path, kept: Path | None) -> ThresholdFile:
    with _followed_lock:
        return _followed.setdefault((path.absolute(), kept), ThresholdFile(path.absolute(), kept))


def _keep(kept: Path, good: Thresholds) -> None:
    """Write the explicitly set thresholds to `kept`, if they differ from its contents. If it cannot be written, nothing is kept."""
    text = json.dumps(good.model_dump(mode="json", exclude_unset=True), indent=1, sort_keys=True)
    draft = kept.with_name(f".{kept.name}.{os.getpid()}")
    try:
        if kept.exists() and kept.read_text(encoding="utf-8") == text:
            return
        draft.write_text(text, encoding="utf-8")
        draft.replace(kept)
    except OSError as error:
        log.debug("%s is not kept: %s", kept, error)


def _read_kept(kept: Path) -> Thresholds | None:
    """The thresholds that `_keep` wrote; None if there are none, or none that this version accepts."""
    try:
        return Thresholds(**json.loads(kept.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None


def read(path: Path) -> Thresholds:
    """Read and validate a thresholds file once. Raises ConfigurationError, which names file and field, if it is wrong."""
    try:
        contents = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return Thresholds()
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigurationError(f"thresholds {path} cannot be read: {error}; correct it, it is read again at once") from None
    try:
        return Thresholds(**contents)
    except ValidationError as error:
        raise ConfigurationError(f"thresholds {path}: {_sentence(error)}; correct it, it is read again at once") from None


def describe(thresholds: Thresholds) -> list[tuple[str, str, str, str]]:
    """Rows of (name, value, unit, help) for printing."""
    rows = []
    for name, field in type(thresholds).model_fields.items():
        unit = next((part.name for part in field.metadata if isinstance(part, Unit)), "")
        rows.append((name, str(getattr(thresholds, name)), unit, field.description or ""))
    return rows


def _sentence(error: ValidationError) -> str:
    first = error.errors(include_url=False, include_context=False)[0]
    message = str(first["msg"]).removeprefix("Value error, ")
    name = ".".join(str(part) for part in first["loc"])
    if first["type"] == "extra_forbidden":
        return f"there is no threshold {name}"
    return f"{name} = {first['input']!r}: {message}" if name else message


def _stamp(path: Path) -> _Stamp:
    """A stamp that changes when the file changes; None while there is no file."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_mtime_ns, status.st_size, status.st_ino


def _log_changes(path: Path, old: Thresholds | None, new: Thresholds) -> None:
    before: Mapping[str, Any] = (old or Thresholds()).model_dump()
    for name, value in new.model_dump().items():
        if value != before[name]:
            log.info("threshold %s: %s -> %s (%s)", name, before[name], value, path)
