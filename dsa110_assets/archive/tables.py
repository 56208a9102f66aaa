"""Tables across products: the Parquet files of current products as one relation, queried with DuckDB."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import duckdb

from dsa110_assets.archive.product import Product
from dsa110_assets.errors import NotFoundError

if TYPE_CHECKING:
    import pandas as pd

    from dsa110_assets.archive.store import Archive


def parquet_files(products: Sequence[Product], name: str = "*.parquet") -> list[Path]:
    """The Parquet files of `products`, sorted within each product."""
    return [path for product in products for path in sorted(product.path.glob(name))]


@contextmanager
def opened(
    archive: Archive,
    asset: str,
    since: datetime | str | None = None,
    until: datetime | str | None = None,
    name: str = "*.parquet",
) -> Iterator[duckdb.DuckDBPyConnection]:
    """A DuckDB connection with a view `rows`: all rows of an asset's current products, with `product_id`.

    Only current products are seen, so a superseded version's rows never mix in. Columns that some files lack
    are NULL there. Raises NotFoundError, saying what there is, when there are no rows to look into.
    """
    chosen = archive.products(asset, since, until)
    files = parquet_files(chosen, name)
    if not files:
        everything = archive.partitions(asset)
        span = f"{everything[0]} to {everything[-1]}" if everything else "nothing"
        raise NotFoundError(f"no {asset} tables between {since or 'the beginning'} and {until or 'now'}; there is {span}")
    owners = {str(path): product.id for product in chosen for path in parquet_files([product], name)}
    with duckdb.connect(":memory:") as connection:
        connection.execute("CREATE TABLE owners (filename VARCHAR, product_id VARCHAR)")
        connection.executemany("INSERT INTO owners VALUES (?, ?)", [list(pair) for pair in owners.items()])
        source = connection.read_parquet([str(path) for path in files], filename=True, union_by_name=True, hive_partitioning=False)
        source.create_view("raw_rows")
        connection.execute(
            "CREATE VIEW rows AS SELECT raw_rows.* EXCLUDE (filename), owners.product_id "
            "FROM raw_rows JOIN owners ON raw_rows.filename = owners.filename"
        )
        yield connection


def query(
    archive: Archive,
    asset: str,
    sql: str = "SELECT * FROM rows",
    parameters: Sequence[Any] = (),
    since: datetime | str | None = None,
    until: datetime | str | None = None,
) -> pd.DataFrame:
    """The result of `sql` over `rows` (see `opened`); `parameters` fill its question marks."""
    with opened(archive, asset, since, until) as connection:
        return connection.execute(sql, list(parameters)).df()
