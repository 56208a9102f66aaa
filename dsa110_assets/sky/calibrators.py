"""The `Calibrator` class, and the VLA list with the Perley-Butler 2017 standards marked in it."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import MISSING, dataclass, fields
from functools import cache
from importlib.resources import files
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from dsa110_assets.errors import ConfigurationError
from dsa110_assets.sky import flux_scale
from dsa110_assets.sky.names import look_up

LIST_FREQUENCY_HZ = 1.4e9
"""The frequency at which the list's 20 cm fluxes are assumed to be measured."""
LIST_SPECTRAL_INDEX = -0.7
LIST_NAME = "VLA"
"""The catalogue name of the list."""
OWN_NAME = "own"
"""The catalogue name of the observers' own list."""

STANDARD_NAMES: dict[str, str] = {
    "0137+331": "3C48",
    "0437+296": "3C123",
    "0521+166": "3C138",
    "0542+498": "3C147",
    "0813+482": "3C196",
    "1331+305": "3C286",
    "1411+522": "3C295",
    "1829+487": "3C380",
}
"""VLA-list names of the Perley-Butler 2017 standards."""

_UNLISTED_STANDARDS = (("3C353", 260.117279, -0.979756), ("CYGA", 299.868153, 40.733916))
"""Standards missing from the VLA list (both arcminutes wide): name, ICRS ra and dec [deg]."""

VARIABLE_NAMES = frozenset(
    {
        "0238+166", "0319+415", "0423-013", "0433+053", "0854+201", "0958+655", "1159+292", "1229+020",
        "1256-057",
        "1310+323", "1512-090", "1642+398", "1733-130", "1751+096", "1800+784", "2136+006", "2148+069",
        "2202+422",
        "2225-049", "2232+117", "2253+161",
    }
)  # fmt: skip
"""Blazars known to vary by tens of per cent at 20 cm (long-term monitoring at Michigan and Metsähovi),
3C454.3 first."""


@dataclass(frozen=True)
class Calibrator:
    """One calibrator: ICRS position [deg]; `flux_20cm_jy` is None where the list has none; `quality` is that in
    configuration A.

    `position_code` A, B, C, T is the list's: better than 2 mas, 10 mas, 0.1", or worse. `standard` is the
    Perley-Butler name or None. `catalogue` names the origin of the flux. `index` is the spectral index if the source
    is not a standard.
    """

    name: str
    alias: str | None
    ra_deg: float
    dec_deg: float
    flux_20cm_jy: float | None
    position_code: str
    quality: str
    standard: str | None
    variable: bool
    catalogue: str = LIST_NAME
    index: float = LIST_SPECTRAL_INDEX

    def flux_jy(self, frequency_hz: ArrayLike) -> NDArray[np.float64]:
        """Return the flux density [Jy] at frequencies [Hz], same shape: from the standard's polynomial, else a power law.

        Raises ConfigurationError where the list gives no flux: there is no default.
        """
        if self.standard:
            return flux_scale.perley_butler_2017_jy(self.standard, frequency_hz)
        if self.flux_20cm_jy is None:
            raise ConfigurationError(
                f"calibrator {self.name} has no 20 cm flux in the VLA list: choose one that has, or a "
                f"standard ({', '.join(flux_scale.standards())})"
            )
        ratio = np.asarray(frequency_hz, dtype=np.float64) / LIST_FREQUENCY_HZ
        return np.asarray(self.flux_20cm_jy * ratio**self.index)

    @property
    def spectral_index(self) -> float:
        """d log S / d log nu at 1.4 GHz: the standard's slope, else `index`."""
        if not self.standard:
            return self.index
        slope = np.polynomial.Polynomial(flux_scale.coefficients(self.standard)).deriv()
        return float(slope(np.log10(LIST_FREQUENCY_HZ / 1e9)))

    @property
    def anchor(self) -> str:
        """The name of what the absolute flux scale rests on: 'PB17:3C138', 'VLA:2253+161', 'catalogue:NVSS J051202+151648' or 'own:...'."""
        if self.standard:
            return f"PB17:{self.standard}"
        kind = {LIST_NAME: "VLA", OWN_NAME: "own"}.get(self.catalogue, "catalogue")
        return f"{kind}:{self.name}"


def from_rows(rows: Iterable[Mapping[str, Any]]) -> tuple[Calibrator, ...]:
    """Return the calibrators in the rows of a published catalogue.

    A catalogue published before a field was added gets that field's default. A missing field without a default raises KeyError.
    """
    needed = {field.name: field.default is MISSING for field in fields(Calibrator)}
    return tuple(Calibrator(**{n: _plain(row[n]) for n, is_required in needed.items() if is_required or n in row}) for row in rows)


def _plain(value: Any) -> Any:
    """Return a table cell as a Python value: None for missing text and numbers, numpy scalars converted to Python's."""
    if value is None or (isinstance(value, float) and np.isnan(value)):
        return None
    return value.item() if isinstance(value, np.generic) else value


@cache
def load() -> tuple[Calibrator, ...]:
    """Return all calibrators of the packaged VLA list, including those without a flux (flux None), and the other
    standards."""
    with files("dsa110_assets.sky").joinpath("data/vla_calibrators.csv").open() as handle:
        listed = tuple(_calibrator(row) for row in csv.DictReader(handle))
    unlisted = (Calibrator(name, None, ra, dec, None, "T", "X", name, False) for name, ra, dec in _UNLISTED_STANDARDS)
    return (*listed, *unlisted)


def find(name: str, among: Sequence[Calibrator] | None = None) -> Calibrator:
    """Return the calibrator with this name, alias or standard's name in `among`, or else the VLA list, by the rules of `names.look_up`.

    Raises NotFoundError if several have the name (an alias such as JVAS names a survey) or none has it; it then lists the nearest.
    """
    known = load() if among is None else among
    named = [(calibrator.name, calibrator) for calibrator in known]
    standards = [(calibrator.standard, calibrator) for calibrator in known if calibrator.standard]
    aliases = [(calibrator.alias, calibrator) for calibrator in known if calibrator.alias]
    return look_up(name, (named, standards, aliases), "calibrator")


def _calibrator(row: dict[str, str]) -> Calibrator:
    flux = float(row["flux_20cm_jy"]) if row["flux_20cm_jy"] else None
    standard = STANDARD_NAMES.get(row["name"])
    return Calibrator(
        name=row["name"],
        alias=row["alias"] or standard,
        ra_deg=float(row["ra_deg"]),
        dec_deg=float(row["dec_deg"]),
        # the list writes 0.0 where a source is resolved out or was never measured: unknown, not zero
        flux_20cm_jy=flux if flux and flux > 0 else None,
        position_code=row["position_code"],
        quality=row["quality_a"],
        standard=standard,
        variable=row["name"] in VARIABLE_NAMES,
    )
