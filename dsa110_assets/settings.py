"""All settings: typed, with a default, a range and one line of help. `load()` reads them from DSA110_* variables.

Nested settings belong to the science stages; their option classes are the only source of the defaults.
"""

from __future__ import annotations

import dataclasses
import difflib
import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError, field_validator, model_validator
from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from dsa110_assets import surroundings
from dsa110_assets.calibration.epoch_options import EpochOptions
from dsa110_assets.calibration.options import SolveOptions, TransitOptions
from dsa110_assets.calibration.select import ChooseOptions
from dsa110_assets.errors import ConfigurationError
from dsa110_assets.imaging.options import ImagingOptions
from dsa110_assets.mosaics.options import CoaddOptions
from dsa110_assets.photometry.options import EnsembleOptions, PhotometryOptions
from dsa110_assets.telescope.band import N_SUBBANDS
from dsa110_assets.telescope.timegrid import GROUP_S
from dsa110_assets.variability.options import VariabilityOptions
from dsa110_assets.visibilities.options import FlaggingOptions

PREFIX = "DSA110_"
NOT_SETTINGS = frozenset({"DSA110_CRASH_AT", "DSA110_VENV", "DSA110_DEMO", "DSA110_DB_PASSWORD"})
"""Other variables of this project: read by its tests and by the scripts in ops/."""
_MASK = "********"
SECRETS = frozenset({"database_url", "token", "alert_channels", "heartbeat_url"})
"""Settings that may hold a password or a token: never printed."""
_NEVER_SHOWN = frozenset(PREFIX + name.upper() for name in (*SECRETS, "db_password"))


class Channel(BaseModel):
    """A channel for alerts: its URL, the lowest severity, its topics (none: all), and quiet hours in which only critical alerts are sent.

    `http://` and `https://` receive JSON; any other URL is apprise's (slack://, mailtos://, pagerduty://, ...). With `escalation` it
    receives only alerts that nobody acknowledged elsewhere.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    url: SecretStr
    severity: Literal["info", "warning", "critical"] = "warning"
    topics: tuple[Literal["platform", "data", "calibration", "science"], ...] = ()
    quiet: Annotated[str, Field(pattern=r"^(([01]\d|2[0-3]):[0-5]\d-([01]\d|2[0-3]):[0-5]\d)?$")] = ""
    escalation: bool = False

    @field_validator("url", mode="after")
    @classmethod
    def _is_url(cls, value: SecretStr) -> SecretStr:
        text = value.get_secret_value()
        if "://" not in text or not (text.isascii() and text.isprintable()) or " " in text:
            raise ValueError("it must be a URL without blanks, such as https://..., slack://... or mailtos://...")
        return value


class Settings(BaseSettings):
    """The platform's settings. Only `inbox`, `archive` (and DAGSTER_HOME for services) must be given."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX, env_nested_delimiter="__", env_ignore_empty=True, frozen=True, extra="forbid", populate_by_name=True
    )

    inbox: Annotated[Path, Field(description="directory where the correlator drops its UVH5 files")]
    archive: Annotated[Path, Field(description="directory where products are published")]
    dagster_home: Annotated[
        Path | None,
        Field(validation_alias="DAGSTER_HOME", description="directory of Dagster's own configuration and state"),
    ] = None
    database_url: Annotated[
        str | None,
        Field(
            repr=False,
            description="the index: postgresql://user:password@host/name (unset: SQLite in the archive)",
        ),
    ] = None
    thresholds: Annotated[
        Path | None,
        Field(description="thresholds in TOML, re-read when changed (unset: thresholds.toml in the archive)"),
    ] = None
    backups: Annotated[
        Path | None, Field(description="directory of the daily backups, best on another disk (unset: beside the archive)")
    ] = None
    start: Annotated[date, Field(description="first night of the partitions: a constant of the season, never today")] = date(2025, 1, 1)
    subbands: Annotated[int, Field(ge=1, le=N_SUBBANDS, description="subbands that make a complete group")] = N_SUBBANDS
    min_subbands: Annotated[
        int,
        Field(
            ge=1,
            le=N_SUBBANDS,
            description="subbands with which a group is processed when the rest never came",
        ),
    ] = 14
    group_wait_s: Annotated[float, Field(ge=0, le=86400, description="how long an incomplete group waits for late subbands [s]")] = (
        2 * GROUP_S
    )
    still_s: Annotated[float, Field(ge=0, le=3600, description="how long a file must stay unchanged before it is opened [s]")] = 5.0
    hung_after_min: Annotated[
        float, Field(gt=0, le=1440, description="a run without progress for this long is ended, tried once more, then set aside [min]")
    ] = 30.0
    catalogues: Annotated[
        tuple[Path, ...],
        NoDecode,
        Field(description="catalogue files (CSV, FITS, Parquet, VOTable), separated as in PATH, or a JSON list"),
    ] = ()
    catalogue_frequencies_mhz: Annotated[
        dict[str, Annotated[float, Field(ge=10, le=1e5)]],
        NoDecode,
        Field(
            description='JSON: frequency of the fluxes [MHz] by file name, for catalogues that do not state it, as in {"deep.csv": 943.5}'
        ),
    ] = {}
    calibrators: Annotated[
        Path | None,
        Field(
            description="your own calibrators, which take precedence over others at the same place: CSV of name, ra_deg, dec_deg (ICRS), "
            "flux_jy (at 1.4 GHz), spectral_index"
        ),
    ] = None
    name_calibrator_field: Annotated[
        bool, Field(description="name the field in which a listed calibrator transits after it, as 3C286_t12, in the measurement set")
    ] = True
    memory_limit_gib: Annotated[float, Field(gt=0, le=1e5, description="memory of a step [GiB]; one that needs more does not start")] = 6.0
    host: Annotated[str, Field(min_length=1, description="address the web servers listen on")] = "127.0.0.1"
    hosts: Annotated[
        tuple[str, ...],
        NoDecode,
        Field(description="names under which the web servers are reached, besides this machine's name and addresses; comma-separated"),
    ] = ()
    port: Annotated[int, Field(ge=1, le=65535, description="port of Dagster's web server")] = 3000
    portal_port: Annotated[int, Field(ge=1, le=65535, description="port of the portal")] = 3001
    token: Annotated[
        str | None,
        Field(
            repr=False,
            min_length=16,
            description="token required for orders to the portal, and for Dagster's web server where others reach it (unset: read-only)",
        ),
    ] = None
    alert_channels: Annotated[
        dict[Annotated[str, Field(pattern=r"^[a-z0-9_-]{1,30}$")], Channel],
        NoDecode,
        Field(
            repr=False,
            description='JSON: where alerts go, by a name, as {"ops": {"url": "slack://...", "severity": "warning", "topics": [], '
            '"quiet": "22:00-06:00", "escalation": false}}; times are UTC (unset: console only)',
        ),
    ] = {}
    heartbeat_url: Annotated[
        str | None,
        Field(repr=False, description="URL requested while all is watched and every service lives, for an external watcher (healthchecks)"),
    ] = None
    portal_url: Annotated[
        str | None, Field(description="the portal's URL as people reach it, for links in alerts (unset: this machine and portal_port)")
    ] = None
    carta_url: Annotated[
        str | None, Field(description="URL of CARTA, for links that open an image there: http://host:3002 (unset: no links)")
    ] = None
    aladin: Annotated[
        Path | None,
        Field(description="folder into which npm installed aladin-lite, for the portal's sky view (unset: the portal's own view)"),
    ] = None
    log_format: Annotated[Literal["text", "json"], Field(description="how services and runs write their log lines")] = "text"
    log_mb: Annotated[float, Field(gt=0, le=1e5, description="`dsa110 up` rotates a service's log when it is larger than this [MB]")] = 20.0
    log_files: Annotated[int, Field(ge=1, le=100, description="number of rotated logs of each service that are kept")] = 5
    reader_engine: Annotated[Literal["direct", "pyuvdata"], Field(description="engine that reads UVH5 files")] = "direct"
    solve_engine: Annotated[Literal["own", "casa"], Field(description="engine that solves and applies calibration")] = "own"
    imaging_engine: Annotated[Literal["own", "casa"], Field(description="engine that makes images")] = "own"
    average_channels: Annotated[
        int, Field(ge=0, le=384, description="channels averaged into one in calibrated_ms; 1 = none, 0 = up to 1 MHz")
    ] = 0
    average_times: Annotated[int, Field(ge=1, le=24, description="integrations averaged into one in calibrated_ms; 1 = none")] = 1
    flagging: Annotated[FlaggingOptions, Field(description="flagging")] = FlaggingOptions()
    transits: Annotated[TransitOptions, Field(description="which calibrator transits are solved")] = TransitOptions()
    solve: Annotated[SolveOptions, Field(description="solving for bandpass and gains")] = SolveOptions()
    choose: Annotated[ChooseOptions, Field(description="choosing the calibration")] = ChooseOptions()
    epoch: Annotated[EpochOptions, Field(description="comparing every observation with the sky")] = EpochOptions()
    imaging: Annotated[ImagingOptions, Field(description="imaging")] = ImagingOptions()
    coadd: Annotated[CoaddOptions, Field(description="mosaics")] = CoaddOptions()
    photometry: Annotated[PhotometryOptions, Field(description="photometry")] = PhotometryOptions()
    ensemble: Annotated[EnsembleOptions, Field(description="normalising light curves")] = EnsembleOptions()
    variability: Annotated[VariabilityOptions, Field(description="finding variables")] = VariabilityOptions()

    @field_validator("catalogues", mode="before")
    @classmethod
    def _split_paths(cls, value: Any) -> Any:
        if isinstance(value, str):
            return json.loads(value) if value.lstrip().startswith("[") else [p for p in value.split(os.pathsep) if p]
        return value

    @field_validator("catalogue_frequencies_mhz", mode="before")
    @classmethod
    def _decode_frequencies(cls, value: Any) -> Any:
        return json.loads(value) if isinstance(value, str) else value

    @field_validator("hosts", mode="before")
    @classmethod
    def _split_names(cls, value: Any) -> Any:
        return [name for name in value.replace(",", " ").split() if name] if isinstance(value, str) else value

    @field_validator("alert_channels", mode="before")
    @classmethod
    def _decode_channels(cls, value: Any) -> Any:
        try:
            return json.loads(value) if isinstance(value, str) else value
        except ValueError:
            raise ValueError('it is no JSON such as {"ops": {"url": "slack://..."}}') from None

    @field_validator("heartbeat_url", "portal_url", "carta_url", mode="after")
    @classmethod
    def _is_address(cls, value: str | None) -> str | None:
        plain = value is None or (value.isascii() and value.isprintable() and " " not in value)
        if value is not None and not (plain and value.startswith(("http://", "https://"))):
            raise ValueError("it must be an address without blanks that begins with http:// or https://")
        return value

    @field_validator("inbox", "archive", "dagster_home", "thresholds", "backups", "calibrators", "aladin", mode="after")
    @classmethod
    def _absolute(cls, value: Path | None) -> Path | None:
        return None if value is None else surroundings.place(value)

    @field_validator("catalogues", mode="after")
    @classmethod
    def _absolute_all(cls, value: tuple[Path, ...]) -> tuple[Path, ...]:
        return tuple(surroundings.place(path) for path in value)

    @model_validator(mode="before")
    @classmethod
    def _blank_is_unset(cls, values: Any) -> Any:
        """Remove blank values: NAME= in an environment file means unset, but as a path it would be the current directory."""
        return _without_blanks(dict(values))

    @model_validator(mode="before")
    @classmethod
    def _decode_nested(cls, values: Any) -> Any:
        """Decode lists, objects and null inside nested options, which arrive as JSON text."""
        return {
            key: {k: _decoded(v) for k, v in value.items()} if isinstance(value, dict) else value for key, value in dict(values).items()
        }

    @model_validator(mode="after")
    def _consistent(self) -> Settings:
        if self.min_subbands > self.subbands:
            raise ValueError(f"DSA110_MIN_SUBBANDS={self.min_subbands} exceeds DSA110_SUBBANDS={self.subbands}; lower it")
        if self.inbox == self.archive or self.archive in self.inbox.parents or self.inbox in self.archive.parents:
            raise ValueError(
                f"DSA110_INBOX={self.inbox} and DSA110_ARCHIVE={self.archive} overlap; "
                "choose two separate directories, because raw files are never touched"
            )
        return self

    @model_validator(mode="after")
    def _frequencies_of_catalogues(self) -> Settings:
        names = {name for path in self.catalogues for name in (path.name, str(path))}
        for name in self.catalogue_frequencies_mhz:
            if name not in names:
                raise ValueError(
                    f"DSA110_CATALOGUE_FREQUENCIES_MHZ names {name!r}, which is not among DSA110_CATALOGUES "
                    f"({', '.join(path.name for path in self.catalogues) or 'none'}); correct one of them"
                )
        return self

    def catalogue_frequency_hz(self, path: Path) -> float | None:
        """The frequency [Hz] of a catalogue's fluxes in `catalogue_frequencies_mhz`; None if it is not listed there."""
        frequency_mhz = self.catalogue_frequencies_mhz.get(str(path), self.catalogue_frequencies_mhz.get(path.name))
        return None if frequency_mhz is None else frequency_mhz * 1e6

    @property
    def portal_address(self) -> str:
        """The portal's address for links, without a slash at its end."""
        default = f"http://{self.host if self.host != '0.0.0.0' else os.uname().nodename}:{self.portal_port}"
        return (self.portal_url or default).rstrip("/")

    @property
    def thresholds_path(self) -> Path:
        """The thresholds file, which need not exist."""
        return self.thresholds or self.archive / "thresholds.toml"

    @property
    def home_path(self) -> Path:
        """Dagster's home directory, which need not exist yet: DAGSTER_HOME, or `dagster` in the archive."""
        return self.dagster_home or self.archive / "dagster"

    @property
    def backups_path(self) -> Path:
        """The directory of the backups, which need not exist."""
        return self.backups or self.archive.with_name(f"{self.archive.name}-backups")


@dataclass(frozen=True)
class Row:
    """One setting as `dsa110 settings` prints it."""

    name: str
    value: str
    source: str
    kind: str
    limits: str
    help: str


@dataclass(frozen=True)
class Option:
    """One setting, or one option of a group of options, as shown in a form."""

    kind: Any
    default: Any
    limits: str
    help: str


def options(name: str) -> Option | dict[str, Option]:
    """The setting with this name, or the options of the group with this name, in order."""
    field = Settings.model_fields[name]
    group = _options(field)
    if group is None:
        return Option(field.annotation, field.default, _limits(field.annotation, field), field.description or "")
    parts = {part: FieldInfo.from_annotation(kind) for part, kind in get_type_hints(group, include_extras=True).items()}
    default = group()
    return {
        part: Option(info.annotation, getattr(default, part), _limits(info.annotation, info), info.description or "")
        for part, info in parts.items()
    }


def dotted(nested: Mapping[str, Any]) -> dict[str, Any]:
    """The settings by dotted names: {"imaging": {"robust": 0.0}} becomes {"imaging.robust": 0.0}."""
    found: dict[str, Any] = {}
    for name, value in nested.items():
        field = Settings.model_fields.get(name)
        grouped = isinstance(value, Mapping) and field is not None and _options(field) is not None
        found |= {f"{name}.{part}": option for part, option in value.items()} if grouped else {name: value}
    return found


def changed(settings: Settings, changes: Mapping[str, Any]) -> Settings:
    """These settings with some of them replaced, by dotted names. Values may be text, as in the environment.

    Raises ConfigurationError, with one sentence, for a name that is not a setting and for a value that is refused.
    """
    values = {name: getattr(settings, name) for name in Settings.model_fields}
    for name, value in changes.items():
        group, _, part = name.partition(".")
        if name not in dotted({known: _as_mapping(value) for known, value in values.items()}):
            raise ConfigurationError(f"{name}: there is no such setting to change; use names such as imaging.robust; see dsa110 settings")
        values[group] = {**_as_mapping(values[group]), part: value} if part else value
    try:
        return Settings(**values)
    except ValidationError as error:
        raise ConfigurationError(_sentence(error)) from None


def log_form() -> Literal["text", "json"]:
    """The form of this process's log lines. It is text if the settings are wrong, which is reported by the code that needs them."""
    try:
        return load().log_format
    except ConfigurationError:
        return "text"


def _as_mapping(value: Any) -> Any:
    """A group of options as a mapping; any other value itself."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {part.name: getattr(value, part.name) for part in dataclasses.fields(value)}
    return value


def load(**overrides: Any) -> Settings:
    """The settings from the environment; `overrides` (from a command line) take precedence.

    Raises ConfigurationError with one sentence that names the variable, its value and what it must be.
    """
    refuse_unknown(os.environ)
    overridden = {key: value for key, value in overrides.items() if value is not None}
    try:
        return Settings(**overridden)
    except ValidationError as error:
        raise ConfigurationError(_sentence(error)) from None


def describe(settings: Settings) -> list[Row]:
    """One row for each setting: value (secrets masked), source, type, limits, help."""
    return list(_rows(settings))


def refuse_unknown(environment: Mapping[str, str]) -> None:
    """Raise ConfigurationError for a DSA110_* variable that is not a setting, because it would be ignored."""
    known = {*_variables(), *NOT_SETTINGS}
    for name in sorted(environment):
        if name.upper().startswith(PREFIX) and name.upper() not in known:
            near = difflib.get_close_matches(name.upper(), known, n=1)
            hint = f"did you mean {near[0]}?" if near else "`dsa110 settings` lists them all"
            # the value of a mistyped name may be a password, and any address may contain one
            harmless = near and near[0] not in _NEVER_SHOWN and "://" not in environment[name]
            shown = repr(environment[name]) if harmless else _MASK
            raise ConfigurationError(f"{name}={shown}: there is no such setting; {hint}")


def is_given(name: str) -> bool:
    """Whether a variable has a non-blank value in the environment."""
    return bool(os.environ.get(name, "").strip())


def _without_blanks(values: dict[str, Any]) -> dict[str, Any]:
    """The values that are not blank, also inside groups of options."""
    kept = {}
    for key, value in values.items():
        content = _without_blanks(value) if isinstance(value, dict) else value.strip() if isinstance(value, str) else True
        if content or value == {}:
            kept[key] = content if isinstance(value, dict) else value
    return kept


def _decoded(value: Any) -> Any:
    if isinstance(value, str) and (value == "null" or value[:1] in ("[", "{")):
        try:
            return json.loads(value)
        except ValueError:
            return value
    return value


def _options(field: FieldInfo) -> type | None:
    """The option class of a nested setting; None for any other."""
    kind = field.annotation
    return kind if isinstance(kind, type) and dataclasses.is_dataclass(kind) else None


def _variable(name: str, field: FieldInfo | None = None) -> str:
    """The environment variable of a setting."""
    alias = field.validation_alias if field else None
    return alias if isinstance(alias, str) else PREFIX + name.upper()


def _variables() -> Iterator[str]:
    for name, field in Settings.model_fields.items():
        options = _options(field)
        if options is None:
            yield _variable(name, field)
        else:
            yield from (f"{PREFIX}{name}__{f.name}".upper() for f in dataclasses.fields(options))


def _sentence(error: ValidationError) -> str:
    """The first error in the settings, as one sentence."""
    first = error.errors(include_url=False, include_context=False)[0]
    where = [str(part) for part in first["loc"]]
    if not where:
        return str(first["msg"]).removeprefix("Value error, ")
    field = Settings.model_fields.get(where[0])
    alias = where[0] == "DAGSTER_HOME"
    top = where[0] if alias else _variable(where[0], field)
    variable = top if len(where) == 1 or alias else "__".join([top, where[1].upper()])
    if first["type"] == "missing":
        return f"{variable} is not set: it names the {field.description if field else 'value'}"
    shown = _MASK if where[0] in SECRETS else repr(first["input"])
    return f"{variable}={shown} is refused: {first['msg'][:1].lower()}{first['msg'][1:]}"


def _rows(settings: Settings) -> Iterator[Row]:
    upper = {name.upper() for name in os.environ if is_given(name)}
    for name, field in Settings.model_fields.items():
        value, options = getattr(settings, name), _options(field)
        if options is None:
            yield _row(
                _variable(name, field),
                value,
                name in settings.model_fields_set,
                upper,
                field.annotation,
                field,
            )
            continue
        for part in dataclasses.fields(options):
            default = FieldInfo.from_annotation(get_type_hints(options, include_extras=True)[part.name])
            chosen = getattr(value, part.name)
            changed = chosen != getattr(options(), part.name)
            yield _row(f"{PREFIX}{name}__{part.name}".upper(), chosen, changed, upper, default.annotation, default)


def _row(variable: str, value: Any, is_set: bool, environment: set[str], kind: Any, field: FieldInfo) -> Row:
    source = "environment" if variable in environment else "argument" if is_set else "default"
    if isinstance(value, dict):
        shown = json.dumps(value, default=str) if value else ""
    else:
        separator = os.pathsep if variable == f"{PREFIX}CATALOGUES" else ","
        shown = separator.join(map(str, value)) if isinstance(value, tuple) else "" if value is None else str(value)
    if shown and variable in _NEVER_SHOWN:
        shown = _MASK
    return Row(variable, shown, source, _kind(kind), _limits(kind, field), field.description or "")


def _kind(kind: Any) -> str:
    """A type as shown in the table of settings."""
    if get_origin(kind) is Literal:
        return "choice"
    text = kind.__name__ if isinstance(kind, type) else str(kind)
    for noise in ("typing.", "pathlib._local.", "pathlib.", "datetime."):
        text = text.replace(noise, "")
    return text.replace(" | None", "")


def _limits(kind: Any, field: FieldInfo) -> str:
    """The range or the choices of a setting."""
    if get_origin(kind) is Literal:
        return " | ".join(map(str, get_args(kind)))
    names = {"ge": "≥", "gt": ">", "le": "≤", "lt": "<"}
    bounds = ((sign, getattr(part, name, None)) for part in field.metadata for name, sign in names.items())
    return ", ".join(f"{sign} {bound:g}" for sign, bound in bounds if bound is not None)
