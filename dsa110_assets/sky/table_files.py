"""Reading of table files in the formats of catalogues, which are recognised by their content."""

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
"""What the libraries raise for a file that does not continue in the format of its beginning."""


def read(path: Path) -> Table:
    """Return the table in a file; `meta` holds `frequency_hz`, `survey` and `equinox` where the file states them.

    From text, only the columns that are needed are read. Raises ConfigurationError for a file that is not readable, has more
    than one table, or no rows.
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
    """Suppress the libraries' warnings, such as those about unusual units; a truncated file is an error."""
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
    text = _decoded(content).replace("−", "-")  # documents may have this minus sign
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
    """Return the CDS ReadMe beside a file if it describes this file, else None."""
    readme = next((entry for entry in sorted(path.parent.iterdir()) if entry.name.lower() == "readme"), None)
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
                raise ValueError(f"the service that made it reports {info.value}: the table is incomplete")
    chosen = _only([(element, [field.name for field in element.fields]) for element in document.iter_tables()])
    table = chosen.to_table(use_names_over_ids=True)
    systems = [element for parent in (document, *document.resources) for element in parent.coordinate_systems]
    position_refs = {field.ref for field in chosen.fields if field.name in _needed([field.name])}
    frames = [f"{element.equinox} {element.system}" for element in systems if element.ID in position_refs]
    table.meta["equinox"] = " ".join(frames)
    parameters = [element for resource in document.resources for element in (*resource.params, *chosen.params)]
    for element in parameters:
        if str(element.name).lower().replace("_", " ") == "reference frequency":
            hz = float(element.value) * (float(element.unit.to("Hz")) if element.unit is not None else 1.0)
            table.meta["frequency_hz"] = hz
    return table


def _only(tables: list[tuple[Any, list[str]]]) -> Any:
    """Return the table that has positions. Raises ValueError if none has, or several have."""
    with_positions = [(table, names) for table, names in tables if columns.has_positions(names)]
    if len(with_positions) == 1:
        (table, names) = with_positions[0]
        columns.check_once(names, _needed(names))
        return table
    if with_positions:
        raise ValueError(f"{len(with_positions)} of its tables have positions: give each table a separate file")
    listed = "; ".join(", ".join(names) for _, names in tables)
    raise ValueError(f"no table in it has right ascension and declination; it has {listed or 'no table'}")
