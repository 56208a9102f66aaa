"""Counters that outlive the process that counts: one row of the index for each series, raised by the process that did the work.

Runs are processes of seconds and portals restart, so neither can hold a counter. Kept here, two portals show the same values, a
restart resets nothing, and a product is counted in the transaction that makes it visible. A histogram has a row for each bucket,
by its upper limit `le`, with the number of values between that and the previous limit, and one row for the sum.
"""

from __future__ import annotations

import json
from bisect import bisect_left
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from dsa110_assets.archive import naming
from dsa110_assets.archive.index import counters as table
from dsa110_assets.archive.product import FAILED_ERRORS, VERDICTS, Json

SECONDS = (0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1800.0, 3600.0, 10800.0, 43200.0)
"""Upper limits of a histogram's buckets [s]; a bucket without limit follows."""
INFINITE = "+Inf"
PASSED, WARNED, FAILED = "passed", "warned", "failed"
Labels = tuple[str, ...]


@dataclass(frozen=True)
class Family:
    """The series of one name: their explanation and labels; `histogram` is a histogram of seconds, else they are counts."""

    explanation: str
    labels: tuple[str, ...]
    histogram: bool = False


PRODUCTS, BYTES, CHECKS = "dsa110_products_published", "dsa110_published_bytes", "dsa110_checks"
ATTEMPTS, FAILURES, RETRIES, REFUSALS = "dsa110_stage_attempts", "dsa110_stage_failures", "dsa110_stage_retries", "dsa110_refusals"
DURATION, QUEUED, LATENCY = "dsa110_stage_seconds", "dsa110_queue_seconds", "dsa110_product_latency_seconds"
FAMILIES = {
    PRODUCTS: Family("Products published, without those of trials", ("asset",)),
    BYTES: Family("Bytes of the products published", ("asset",)),
    CHECKS: Family("Outcomes of checks on published products", ("asset", "check", "outcome")),
    REFUSALS: Family("Products not published, by the check that refused them", ("asset", "check")),
    ATTEMPTS: Family("Stages that ended, by outcome; up_to_date: the product existed already", ("asset", "outcome")),
    FAILURES: Family("Stages that failed for good, by the class of the error", ("asset", "error_class")),
    RETRIES: Family("Stages tried again within their run", ("asset",)),
    DURATION: Family("Wall time of a stage that made its product", ("asset",), histogram=True),
    QUEUED: Family("Time from the request of a run to its start", ("lane",), histogram=True),
    LATENCY: Family("Time from the last subband of a product's window to its publication", ("asset", "lane"), histogram=True),
}
"""All families of series that can be counted."""
_OF_PRODUCTS = (PRODUCTS, BYTES, CHECKS)
"""The families that follow from the products' rows, and are counted again when those are written again."""


@dataclass(frozen=True)
class Count:
    """The amount that one event adds to one series."""

    family: str
    labels: Labels
    amount: float = 1.0
    part: str = ""
    """For a histogram, the bucket's limit or `sum`."""


def seconds(family: str, labels: Labels, value_s: float) -> list[Count]:
    """The counts that add one value [s] to a histogram."""
    place = bisect_left(SECONDS, value_s)
    limit = f"{SECONDS[place]:g}" if place < len(SECONDS) else INFINITE
    return [Count(family, labels, 1.0, limit), Count(family, labels, value_s, "sum")]


def of_product(record: Json) -> list[Count]:
    """The counts that a product's record adds; none for a product of a trial, which is not science."""
    asset, trial = naming.of_trial(record["asset"])
    if trial:
        return []
    recorded, errors = record["metadata"].get(VERDICTS), record["metadata"].get(FAILED_ERRORS) or ()
    verdicts = recorded.items() if isinstance(recorded, dict) else ()  # else the record was written by hand
    outcomes = {check: FAILED if check in errors else WARNED if reason else PASSED for check, reason in verdicts}
    checks = [Count(CHECKS, (asset, check, outcome)) for check, outcome in outcomes.items()]
    return [Count(PRODUCTS, (asset,)), Count(BYTES, (asset,), float(record["size_bytes"])), *checks]


def add(connection: Connection, counts: Iterable[Count]) -> None:
    """Raise the series by these counts, in the order of their names, so that two transactions never wait for each other."""
    amounts: dict[tuple[str, Labels, str], float] = {}
    for count in counts:
        assert len(count.labels) == len(FAMILIES[count.family].labels), count
        key = count.family, count.labels, count.part
        amounts[key] = amounts.get(key, 0.0) + count.amount
    rows = [
        {"family": family, "labels": json.dumps(labels), "part": part, "value": value}
        for (family, labels, part), value in sorted(amounts.items())
    ]
    if rows:
        connection.execute(_RAISE, rows)


_RAISE = sa.text(
    "INSERT INTO counters (family, labels, part, value) VALUES (:family, :labels, :part, :value) "
    "ON CONFLICT (family, labels, part) DO UPDATE SET value = counters.value + excluded.value"
)
"""The same statement works in SQLite and PostgreSQL."""


def forget_products(connection: Connection) -> None:
    """Remove the counts of products, before their rows are written again."""
    connection.execute(table.delete().where(table.c.family.in_(_OF_PRODUCTS)))


def read(connection: Connection) -> dict[str, dict[Labels, dict[str, float]]]:
    """All series: {family: {labels: {part: value}}}."""
    found: dict[str, dict[Labels, dict[str, float]]] = {}
    for row in connection.execute(sa.select(table)):
        found.setdefault(row.family, {}).setdefault(tuple(json.loads(row.labels)), {})[row.part] = row.value
    return found


def buckets(parts: Mapping[str, float]) -> Sequence[tuple[str, float]]:
    """A histogram's rows as (limit, number of values at or below it)."""
    total, found = 0.0, []
    for limit in (*(f"{value:g}" for value in SECONDS), INFINITE):
        total += parts.get(limit, 0.0)
        found.append((limit, total))
    return found
