"""Files that hold a table, in the formats catalogues come in, told apart by what is in them."""

from __future__ import annotations

import gzip
import re
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import Any
from xml.parsers.expat import ExpatError

import pandas as pd
from astropy.io import fits, votable
from astropy.io.votable.exceptions import VOWarning
from astropy.table import Table
from astropy.utils.exceptions import AstropyUserWarning

from dsa110_assets.errors import ConfigurationError
from dsa110_assets.sky import columns, surveys, text_tables

KNOWN = "give CSV, FITS, Parquet, VOTable or another text with a header"
_UNREADABLE = (
    OSError, EOFError, ValueError, TypeError, KeyError, IndexError, AttributeError, zlib.error, ExpatError, VOWarning, fits.VerifyError,
    MemoryError, NotImplementedError,
)  # fmt: skip
"""What the libraries raise at a file that is not what it begins as."""


def read(path: Path) -> Table:
    """The table in a file; `meta` holds `frequency_hz` or `survey` where the file says so, and `tables` what it came from.

    Text has only the columns that are looked at. Raises ConfigurationError: not readable, more than one table, no rows.
    """
    try:
        with _quiet():
            table = _table(path)
            columns.check_once(table.colnames, _needed(table.colnames))
    except _UNREADABLE as error:
        raise ConfigurationError(f"catalogue {path} cannot be read ({_first_line(error)}): {KNOWN}") from error
    if len(table) == 0:
        raise ConfigurationError(f"catalogue {path} has no rows: give one with sources in it, or take it out of DSA110_CATALOGUES")
    return table


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the libraries' remarks on other people's units; a file that is cut short is refused."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        warnings.filterwarnings("error", message=".*truncated.*", category=AstropyUserWarning)
        try:
            yield
        except AstropyUserWarning as error:
            raise OSError(str(error)) from error


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0][:200]


def _table(path: Path) -> Table:
    content = path.read_bytes()
    if content[:2] == b"\x1f\x8b":
        content = gzip.decompress(content)
    if content.startswith(b"SIMPLE "):
        return _of_fits(content)
    if content.startswith(b"PAR1"):
        return Table.from_pandas(pd.read_parquet(BytesIO(content)))
    head = content[:4096].lstrip(b"\xef\xbb\xbf \t\r\n")
    if head.startswith(b"<") and b"VOTABLE" in head.upper():
        return _of_votable(content)
    if b"\0" in content[:4096] and not content.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise ValueError(f"an unknown kind of file {path.suffix!r}")
    text = _decoded(content).replace("−", "-")  # the sign of minus that documents have
    if text.startswith("# %ECSV"):
        return Table.read(text.split("\n"), format="ascii.ecsv")
    if "Byte-by-byte Description" in text[:100_000]:
        return Table.read(text.split("\n"), format="ascii.mrt" if text.lstrip().startswith("Title:") else "ascii.cds")
    described = _description(path)
    if described is not None:
        return Table.read(str(path), readme=str(described), format="ascii.cds")
    return text_tables.read(text, _needed)


def _needed(names: Any) -> list[str]:
    form = surveys.of_columns({columns.column(name).bare for name in names})
    return columns.needed(names, (form.flux, *form.columns) if form else ())


def _decoded(content: bytes) -> str:
    if content.startswith((b"\xff\xfe", b"\xfe\xff")):
        return content.decode("utf-16")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError:
        return content.decode("latin-1")


def _description(path: Path) -> Path | None:
    """The CDS ReadMe beside a file, if it describes this file."""
    readme = next((one for one in sorted(path.parent.iterdir()) if one.name.lower() == "readme"), None)
    if readme is None or not readme.is_file():
        return None
    described = re.findall(r"Byte-by-byte Description of file:(.*)", readme.read_text("latin-1"))
    return readme if any(Path(path.name).match(word.strip(",;")) for line in described for word in line.split()) else None


def _of_fits(content: bytes) -> Table:
    with fits.open(BytesIO(content), memmap=False) as parts:
        tables = [part for part in parts if isinstance(part, fits.BinTableHDU | fits.TableHDU)]
        chosen = _only([(part, part.columns.names) for part in tables])
        table = Table.read(chosen, unit_parse_strict="silent")
        table.meta["equinox"] = " ".join(str(chosen.header.get(card, "")) for card in ("EQUINOX", "RADESYS", "RADECSYS"))
        for number, name in enumerate(table.colnames, 1):
            table[name].description = chosen.header.get(f"TCOMM{number}") or chosen.header.comments[f"TTYPE{number}"]
        reference = chosen.header.get("FREQ0")
        if isinstance(reference, int | float) and reference > 0:
            table.meta["frequency_hz"] = float(reference)
    return table


def _of_votable(content: bytes) -> Table:
    document = votable.parse(BytesIO(content), verify="ignore")
    for resource in document.resources:
        for info in resource.infos:
            if str(info.name).upper() == "QUERY_STATUS" and str(info.value).upper() in ("ERROR", "OVERFLOW"):
                raise ValueError(f"the service that made it says {info.value}: it is not all of the table")
    chosen = _only([(one, [field.name for field in one.fields]) for one in document.iter_tables()])
    table = chosen.to_table(use_names_over_ids=True)
    systems = [one for place in (document, *document.resources) for one in place.coordinate_systems]
    asked = {field.ref for field in chosen.fields if field.name in _needed([field.name])}
    told = [f"{one.equinox} {one.system}" for one in systems if one.ID in asked]
    table.meta["equinox"] = " ".join(told)
    parameters = [one for resource in document.resources for one in (*resource.params, *chosen.params)]
    for one in parameters:
        if str(one.name).lower().replace("_", " ") == "reference frequency":
            hz = float(one.value) * (float(one.unit.to("Hz")) if one.unit is not None else 1.0)
            table.meta["frequency_hz"] = hz
    return table


def _only(tables: list[tuple[Any, list[str]]]) -> Any:
    """The one table that has positions. ValueError: none has, or several."""
    fitting = [(table, names) for table, names in tables if columns.has_positions(names)]
    if len(fitting) == 1:
        (table, names) = fitting[0]
        columns.check_once(names, _needed(names))
        return table
    if fitting:
        raise ValueError(f"{len(fitting)} of its tables have positions: give each table a file of its own")
    there = "; ".join(", ".join(names) for _, names in tables)
    raise ValueError(f"no table in it has right ascension and declination; it has {there or 'no table'}")
