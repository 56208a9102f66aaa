"""Comparison of two runs: the numbers, texts and files of every product, except what identifies the run that made it."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from astropy.io import fits

from dsa110_assets.archive.product import Product
from dsa110_assets.archive.store import Archive

OF_THE_RUN = {"RUNID", "CHECKSUM", "DATASUM"}
"""Header cards that differ from run to run: the run's id, and checksums over a header that contains it."""
PICTURES = {".png", ".html"}
"""Not compared: they are drawn from data that are compared, in whole grey levels, and the pages name versions and times."""
_NAMED = re.compile(r"-v\d+|(?<=\dT\d{4})-[0-9a-f]{8}")
"""Versions of products, and the part of a calibration set's name that comes from the digest of its measurement set. That digest
differs between runs because casacore leaves some bytes of its table files unwritten."""


def greatest_difference(ours: Archive, theirs: Archive) -> tuple[float, str]:
    """The greatest relative difference between the current products of two archives, and its place; (0, '') if there is none.

    Infinite for products or contents in only one archive, and for counts, texts or bytes that differ.
    """
    worst, where = 0.0, ""
    first, second = ({(p.asset, p.partition): p for p in one.products()} for one in (ours, theirs))
    for key in sorted(first.keys() | second.keys(), key=str):
        pair = [dict(contents(side[key])) if key in side else {} for side in (first, second)]
        for name in sorted(pair[0].keys() | pair[1].keys()):
            distance = difference(*(side.get(name) for side in pair))
            if distance > worst:
                worst, where = distance, f"{key[0]} {key[1]}: {name}"
    return worst, where


def difference(ours: Any, theirs: Any) -> float:
    """The relative difference of two values.

    For numbers and arrays, the greatest difference divided by the greatest absolute value of the second; NaN equals NaN.
    For lists, the greatest difference of their members. For anything else, 0 or infinite.
    """
    if isinstance(ours, list) and isinstance(theirs, list):
        if len(ours) != len(theirs):
            return float("inf")
        return max((difference(*pair) for pair in zip(ours, theirs, strict=True)), default=0.0)
    numbers = (np.ndarray, float, complex)
    if not isinstance(ours, numbers) or not isinstance(theirs, numbers):
        return 0.0 if type(ours) is type(theirs) and ours == theirs else float("inf")
    first, second = np.asarray(ours), np.asarray(theirs)
    if first.shape != second.shape or first.dtype != second.dtype:
        return float("inf")
    if first.dtype.kind not in "fc":
        return 0.0 if np.array_equal(first, second) else float("inf")
    finite = ~np.isnan(second)
    if not np.array_equal(~np.isnan(first), finite):
        return float("inf")
    greatest = float(np.max(np.abs(first[finite] - second[finite]), initial=0))
    return greatest / float(np.max(np.abs(second[finite]), initial=0) or 1.0)


def contents(product: Product) -> Iterator[tuple[str, Any]]:
    """Yield (name, value) of everything a product contains: arrays, columns of tables, headers, counts, bytes of other files."""
    tables = sorted(path.parent for path in product.path.rglob("table.dat"))
    yield "inputs", _plain(product.inputs)
    yield "counts", [f"{name} {value}" for name, value in product.metadata.items() if isinstance(value, int)]
    for path in sorted(path for path in product.path.rglob("*") if path.is_file()):
        name = _plain(path.relative_to(product.path).parts)
        if any(table in path.parents for table in tables) or path.name == "product.json" or path.suffix in PICTURES:
            continue
        if path.suffix == ".fits":
            yield from fits_contents(str(name), path)
        elif path.suffix == ".parquet":
            frame = pd.read_parquet(path)
            yield from ((f"{name} {column}", _column(frame[column])) for column in frame)
        elif path.suffix == ".json":
            yield str(name), _plain(json.loads(path.read_text()))
        else:
            yield str(name), _plain(path.read_text()) if path.suffix == "" else path.read_bytes()
    for table in tables:
        yield from table_contents(str(_plain(table.relative_to(product.path).parts)), table)


def fits_contents(name: str, path: Path) -> Iterator[tuple[str, Any]]:
    """Each HDU's header, without the cards in OF_THE_RUN, and its data."""
    with fits.open(path, memmap=False) as hdus:
        for number, hdu in enumerate(hdus):
            yield f"{name}[{number}] header", [[key, _plain(value)] for key, value in hdu.header.items() if key not in OF_THE_RUN]
            data = np.asarray(hdu.data) if hdu.data is not None else np.empty(0)
            yield f"{name}[{number}]", data.tobytes() if data.dtype.names else data.astype(data.dtype.newbyteorder("="))


def table_contents(name: str, path: Path) -> Iterator[tuple[str, Any]]:
    """Every cell of a casacore table. Its files cannot be compared, because they contain bytes that casacore never wrote."""
    from casacore.tables import table

    with table(str(path), ack=False) as opened:
        for column in opened.colnames():
            cells = [opened.getcell(column, row) for row in range(opened.nrows()) if opened.iscelldefined(column, row)]
            if cells and all(isinstance(cell, np.ndarray) and cell.shape == cells[0].shape for cell in cells):
                yield f"{name} {column}", np.stack(cells)
            else:
                yield f"{name} {column}", _plain(cells)


def _column(column: pd.Series[Any]) -> Any:
    values = column.to_numpy()
    return values if values.dtype.kind in "fiub" else _plain(list(values))


def _plain(value: Any) -> Any:
    """The value without versions of products and without folders, so that a night made again compares equal."""
    if isinstance(value, str):
        return _NAMED.sub("", value.rpartition("/")[2] if value.startswith("/") else value)
    if isinstance(value, np.ndarray) and value.dtype.kind in "OSU":
        return _plain(value.tolist())
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    if isinstance(value, dict):
        return [[key, _plain(value[key])] for key in sorted(value)]
    return value
