"""Faults of a simulated signal: their kinds, parameters and notation."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Any, Literal

from dsa110_assets.errors import ConfigurationError

Value = float | str | tuple[float, ...]
_GROUPS = re.compile(r"(\*)|(\d+)(?:(-)(\d*))?")
FORM = "KIND:GROUPS[:NAME=VALUE,...] with GROUPS one of 3, 3- (from 3 on), 3-7, * (all)"


@dataclass(frozen=True)
class Parameter:
    """One parameter of a fault. `form`: a number, numbers joined by +, stations (1 to 117) joined by +, or a word.

    Numbers lie in [low, high]; a word is one of `choices` unless that is empty. With a default of None the value is
    absent unless given, or must be given when `required`.
    """

    name: str
    default: Value | None = None
    form: Literal["number", "numbers", "stations", "word"] = "number"
    low: float = -math.inf
    high: float = math.inf
    choices: tuple[str, ...] = ()
    required: bool = False

    def read(self, text: str) -> Value:
        """Parse the value written as `text`. ConfigurationError names the text and what is allowed."""
        if self.form == "word":
            if text and (not self.choices or text in self.choices):
                return text
            raise ConfigurationError(f"{self.name}={text}: write {self.allowed}")
        try:
            numbers = tuple(float(part) for part in text.split("+"))
        except ValueError:
            numbers = ()
        whole = self.form != "stations" or all(number.is_integer() for number in numbers)
        if not numbers or not whole or not all(self.low <= number <= self.high for number in numbers):
            raise ConfigurationError(f"{self.name}={text}: write {self.allowed}")
        if self.form == "number":
            if len(numbers) > 1:
                raise ConfigurationError(f"{self.name}={text}: write {self.allowed}")
            return numbers[0]
        if self.form == "stations" and len(set(numbers)) < len(numbers):
            raise ConfigurationError(f"{self.name}={text}: a station is listed twice")
        return numbers

    @property
    def allowed(self) -> str:
        """The allowed values, in words."""
        if self.form == "word":
            return " or ".join(self.choices) or "a name"
        if self.form == "stations":
            return "stations of the array (1 to 117), joined by +, as in 12+48"
        limits = f"from {self.low:g} to {self.high:g}" if math.isfinite(self.high) else f"of at least {self.low:g}"
        return f"numbers {limits}, joined by +" if self.form == "numbers" else f"a number {limits}"


@dataclass(frozen=True)
class Kind:
    """One kind of fault. `where` is the part of the simulator that plants it; sky faults apply to all groups."""

    name: str
    where: Literal["instrument", "sky", "interference"]
    meaning: str
    parameters: tuple[Parameter, ...]

    @property
    def usage(self) -> str:
        """Its parameters with their defaults: 'power_loss: antenna=…, db=6'."""
        return f"{self.name}: {', '.join(f'{p.name}={_written(p.default)}' for p in self.parameters)}"


@dataclass(frozen=True)
class SignalFault:
    """A planted fault of the signal in groups `first` to `last` (None: to the end), counted from 0 over all nights.

    `values` are all its parameters by name; those not given have their defaults.
    """

    kind: str
    first: int
    last: int | None
    values: tuple[tuple[str, Value], ...] = ()

    def touches(self, group: int) -> bool:
        """Whether the fault is active in the group with this index."""
        return self.first <= group and (self.last is None or group <= self.last)

    @property
    def groups(self) -> str:
        """Its groups in notation: '3', '3-', '3-7' or '*'."""
        if self.last is None:
            return f"{self.first}-" if self.first else "*"
        return f"{self.first}-{self.last}" if self.last > self.first else f"{self.first}"

    def has(self, name: str) -> bool:
        """Whether a parameter has a value."""
        return name in dict(self.values)

    def number(self, name: str) -> float:
        """A parameter that is one number. KeyError without it."""
        value = dict(self.values)[name]
        assert isinstance(value, float)
        return value

    def word(self, name: str) -> str:
        """A parameter that is a word. KeyError without it."""
        value = dict(self.values)[name]
        assert isinstance(value, str)
        return value

    def numbers(self, name: str) -> tuple[float, ...]:
        """A parameter that is several numbers. KeyError without it."""
        value = dict(self.values)[name]
        assert isinstance(value, tuple)
        return value

    @property
    def antennas(self) -> tuple[int, ...]:
        """The stations (1 to 117) it names; empty for a fault that does not act on single antennas."""
        return tuple(int(number) for number in self.numbers("antenna")) if self.has("antenna") else ()

    def records(self, **more: Any) -> list[dict[str, Any]]:
        """The fault's entries in truth.json, without observations: kind, groups, all parameters and `more`; one entry
        per antenna if the fault has antennas."""
        record: dict[str, Any] = {"kind": self.kind, "groups": self.groups}
        record |= {name: list(value) if isinstance(value, tuple) else value for name, value in self.values} | more
        if not self.antennas:
            return [record]
        records = [record | {"antenna": station} for station in self.antennas]
        if self.has("ns"):
            delays = self.numbers("ns") * (len(records) if len(self.numbers("ns")) == 1 else 1)
            records = [entry | {"ns": ns} for entry, ns in zip(records, delays, strict=True)]
        return records


_ANTENNA = Parameter("antenna", form="stations", low=1, high=117, required=True)
_CALIBRATOR = Parameter("calibrator", form="word")
_PA = Parameter("pa_deg", 30.0, low=-360, high=360)

INSTRUMENT = (
    Kind(
        "deaf_antenna", "instrument", "no sky, but unchanged noise",
        (_ANTENNA, Parameter("receptor", "both", "word", choices=("both", "x", "y"))),
    ),
    Kind(
        "quiet_antenna", "instrument", "no sky, and noise power lower by db",
        (_ANTENNA, Parameter("db", 3.0, low=0, high=60)),
    ),
    Kind(
        "power_loss", "instrument", "sky and noise lower by db in power",
        (_ANTENNA, Parameter("db", 6.0, low=0, high=60)),
    ),
    Kind(
        "delay_jump", "instrument", "a phase slope over frequency, zero at the band's centre; one ns for all antennas or one for each",
        (_ANTENNA, Parameter("ns", (2.0,), "numbers", low=-1000, high=1000)),
    ),
    Kind(
        "gain_drift", "instrument", "a random error of each receptor's gain: ln amplitude and phase, both normal",
        (Parameter("amplitude", 0.1, low=0, high=1), Parameter("phase_deg", 30.0, low=0, high=180)),
    ),
    Kind(
        "swapped_feeds", "instrument", "cables of X and Y exchanged, or only the products' labels, or only the gains",
        (_ANTENNA, Parameter("how", "inputs", "word", choices=("inputs", "labels", "gains"))),
    ),
    Kind(
        "power_down", "instrument", "all receptors' power (sky and noise) times factor",
        (Parameter("factor", 0.85, low=0.001, high=1000),),
    ),
    Kind(
        "noise_up", "instrument", "the system temperature times factor, the sky unchanged",
        (_ANTENNA, Parameter("factor", 4.0, low=0.001, high=1000)),
    ),
    Kind(
        "receptor_noise", "instrument", "the system temperature of all Y receptors over that of X",
        (Parameter("ratio", 1.5, low=0.001, high=1000),),
    ),
)  # fmt: skip
SKY = (
    Kind(
        "calibrator_flux", "sky", "its true flux is factor times the listed one",
        (Parameter("factor", 1.15, low=0.001, high=1000), _CALIBRATOR),
    ),
    Kind(
        "calibrator_offset", "sky", "it is offset from its listed position",
        (Parameter("arcsec", 8.0, low=0, high=3600), _PA, _CALIBRATOR),
    ),
    Kind(
        "calibrator_size", "sky", "a Gaussian of this FWHM, its total flux unchanged",
        (
            Parameter("major_arcsec", 20.0, low=0, high=3600), Parameter("minor_arcsec", 20.0, low=0, high=3600),
            _PA, _CALIBRATOR,
        ),
    ),
    Kind(
        "calibrator_double", "sky", "two sources with this flux ratio, total flux and centroid as listed",
        (Parameter("arcsec", 25.0, low=0, high=3600), Parameter("ratio", 1.0, low=0.001, high=1000), _PA, _CALIBRATOR),
    ),
    Kind(
        "resolved_source", "sky", "a further source, Gaussian (FWHM); by default 0.3 deg from the track's middle",
        (
            Parameter("flux_jy", 2.0, low=1e-4, high=1000), Parameter("major_arcsec", 30.0, low=0, high=3600),
            Parameter("minor_arcsec", 20.0, low=0, high=3600), _PA, Parameter("ra_deg", low=0, high=360),
            Parameter("dec_deg", low=-90, high=90), Parameter("catalogued", "yes", "word", choices=("yes", "no")),
        ),
    ),
    Kind(
        "polarised", "sky", "Stokes Q over I of every source: XX = I + Q, YY = I - Q; sign random per source",
        (
            Parameter("fraction", 0.05, low=0, high=1),
            Parameter("sign", "random", "word", choices=("random", "+", "-")),
        ),
    ),
)  # fmt: skip


def _transmission(
    power_jy: float, centre_mhz: float, width_mhz: float, *, always: bool, elevation_deg: float, rate_deg_s: float = 0.0
) -> tuple[Parameter, ...]:
    """The parameters that all transmitters have; see transmitters.Transmitter for their meaning."""
    start_s, duration_s = (0.0, 1e4) if always else (50.0, 200.0)
    return (
        Parameter("power_jy", float(power_jy), low=1e-3, high=1e9), Parameter("centre_mhz", float(centre_mhz), low=1000, high=2000),
        Parameter("width_mhz", float(width_mhz), low=1e-3, high=1000), Parameter("rolloff", 0.35, low=0, high=1),
        Parameter("start_s", start_s, low=-1e5, high=1e5), Parameter("duration_s", duration_s, low=1e-3, high=1e5),
        Parameter("azimuth_deg", 120.0, low=-360, high=360), Parameter("elevation_deg", float(elevation_deg), low=0, high=90),
        Parameter("rate_deg_s", rate_deg_s, low=0, high=10), Parameter("heading_deg", 90.0, low=-360, high=360),
    )  # fmt: skip


INTERFERENCE = (
    Kind(
        "satellite", "interference", "a smooth wide downlink from a direction that moves",
        _transmission(100, 1400, 35, always=False, elevation_deg=45, rate_deg_s=0.01),
    ),
    Kind(
        "wide_rfi", "interference", "the same from a fixed direction on the horizon",
        _transmission(100, 1400, 35, always=False, elevation_deg=0),
    ),
    Kind(
        "radar", "interference", "an air surveillance radar that sweeps over the dishes every period_s",
        (*_transmission(300, 1330, 2, always=True, elevation_deg=0), Parameter("period_s", 12.0, low=0.1, high=1e4)),
    ),
    Kind(
        "hopping", "interference", "in every integration, hops new random places of width_mhz within span_mhz",
        (
            *_transmission(100, 1400, 5, always=False, elevation_deg=5), Parameter("span_mhz", 80.0, low=1e-3, high=1000),
            Parameter("hops", 4.0, low=1, high=100),
        ),
    ),
    Kind(
        "comb", "interference", "harmonics of a clock: lines of 10 kHz every spacing_mhz, always on",
        (*_transmission(1e4, 1400, 150, always=True, elevation_deg=0), Parameter("spacing_mhz", 10.0, low=0.1, high=1000)),
    ),
)  # fmt: skip
KINDS = {kind.name: kind for kind in (*INSTRUMENT, *SKY, *INTERFERENCE)}


def parse(text: str) -> SignalFault:
    """Parse a fault written as 'KIND:GROUPS[:NAME=VALUE,...]', such as 'power_loss:3-:antenna=12+48,db=3'.

    ConfigurationError names the fault, the value that is wrong and what is allowed.
    """
    name, _, rest = text.partition(":")
    if name not in KINDS:
        raise ConfigurationError(f"fault {text!r}: {name!r} is not a kind of fault; write {FORM} and KIND one of {', '.join(KINDS)}")
    written, _, values = rest.partition(":")
    kind, (first, last) = KINDS[name], _read_groups(text, written)
    if kind.where == "sky" and (first, last) != (0, None):
        raise ConfigurationError(f"fault {text!r}: {name} is a fault of the sky, which all groups see: write {name}:*")
    try:
        parsed = _read_values(kind, values)
    except ConfigurationError as error:
        raise ConfigurationError(f"fault {text!r}: {error}") from None
    return SignalFault(name, first, last, parsed)


def _read_groups(text: str, written: str) -> tuple[int, int | None]:
    match = _GROUPS.fullmatch(written)
    if not match:
        raise ConfigurationError(f"fault {text!r}: groups {written!r}; write {FORM}")
    if match[1]:
        return 0, None
    first = int(match[2])
    last = int(match[4]) if match[4] else None if match[3] else first
    if last is not None and last < first:
        raise ConfigurationError(f"fault {text!r}: groups {written!r} end before they begin; write {FORM}")
    return first, last


def _read_values(kind: Kind, text: str) -> tuple[tuple[str, Value], ...]:
    parameters = {parameter.name: parameter for parameter in kind.parameters}
    given = {p.name: p.default for p in kind.parameters if p.default is not None}
    for part in text.split(",") if text else ():
        name, equals, value = part.partition("=")
        if name not in parameters or not equals:
            raise ConfigurationError(f"{part!r}: write NAME=VALUE with NAME one of {', '.join(parameters)}")
        given[name] = parameters[name].read(value)
    for parameter in kind.parameters:
        if parameter.required and parameter.name not in given:
            raise ConfigurationError(f"{parameter.name} is missing: write {parameter.name}= and {parameter.allowed}")
    stations, delays = (given.get(name) for name in ("antenna", "ns"))
    if isinstance(stations, tuple) and isinstance(delays, tuple) and len(delays) not in (1, len(stations)):
        raise ConfigurationError(f"ns: {len(delays)} values for {len(stations)} antennas; write one, or one for each")
    if ("ra_deg" in given) != ("dec_deg" in given):
        raise ConfigurationError("ra_deg and dec_deg: write both or neither")
    return tuple((name, given[name]) for name in parameters if name in given)


def _written(value: Value | None) -> str:
    if value is None:
        return "..."
    if isinstance(value, tuple):
        return "+".join(f"{number:g}" for number in value)
    return value if isinstance(value, str) else f"{value:g}"
