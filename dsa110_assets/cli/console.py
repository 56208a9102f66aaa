"""Output of the commands: tables and sentences for people, pure JSON for programs, progress on stderr."""

from __future__ import annotations

import io
import json
import math
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from typing import TYPE_CHECKING, Any, Protocol, TextIO

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from dsa110_assets.plain_json import jsonable

if TYPE_CHECKING:
    import pandas as pd

WIDE = 4096  # columns if the output is not a terminal, so that a piped table is never cut or folded

NAMED = 5


class Progress(Protocol):
    """Called with the amount done, the total amount, and the item in progress."""

    def __call__(self, done: int, total: int, label: str = "", /) -> None: ...


def make_streams_fit() -> None:
    """Make the standard streams accept any text: characters that a terminal cannot show are replaced, closed streams are discarded.

    A closed stream is opened on the null device because libraries write to its file number: otherwise the next file opened,
    such as a product, would have that number.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.dup2(os.open(os.devnull, os.O_RDWR), number)
    sys.stdout = sys.stdout or io.TextIOWrapper(io.FileIO(1, "w", closefd=False), encoding="utf-8")
    sys.stderr = sys.stderr or io.TextIOWrapper(io.FileIO(2, "w", closefd=False), encoding="utf-8")
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")


def is_lost(stream: TextIO) -> bool:
    """Whether a stream cannot be written, for example because its disk is full; tested by writing an empty line."""
    try:
        stream.write("\n")
        stream.flush()
    except OSError:
        return True
    return False


def discard_output(stream: TextIO) -> None:
    """Redirect a stream and its buffered text to the null device, so that the end of the process does not fail on it."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def out() -> Console:
    """Return the console on standard output; wide when piped, so that no identifier is ever cut."""
    return Console(width=None if sys.stdout.isatty() else WIDE, highlight=False)


def err() -> Console:
    """Return the console on standard error, for progress, warnings and error sentences."""
    return Console(stderr=True, width=None if sys.stderr.isatty() else WIDE, highlight=False)


def say(text: str) -> None:
    """Print a line of plain text on standard output."""
    out().print(escape(text))


def say_if_possible(text: str) -> None:
    """Print as `say` does, but continue if standard output cannot be written."""
    try:
        say(text)
        sys.stdout.flush()
    except OSError:
        discard_output(sys.stdout)


def warn(text: str) -> None:
    """Print a line of plain text on standard error; continue if it cannot be written."""
    try:
        err().print(escape(text))
    except OSError:
        discard_output(sys.stderr)


def emit_json(value: Any) -> None:
    """Print `value` as JSON, the only thing on standard output; missing values are null."""
    unicode = (sys.stdout.encoding or "").lower().replace("-", "").startswith("utf")
    sys.stdout.write(json.dumps(jsonable(value), indent=2, ensure_ascii=not unicode, allow_nan=False) + "\n")


def records(frame: pd.DataFrame) -> list[dict[str, Any]]:
    """Return the rows of a data frame as JSON-ready dictionaries; missing values are null."""
    return [
        {str(key): None if entry is None or entry != entry else jsonable(entry) for key, entry in row.items()}
        for row in frame.to_dict(orient="records")
    ]


def table(columns: Sequence[str], rows: Sequence[Sequence[Any]], *, title: str = "") -> None:
    """Print rows under a heading; numbers are right-aligned, missing values are a dash."""
    out().print(grid(columns, rows, title=title))


def grid(columns: Sequence[str], rows: Sequence[Sequence[Any]], *, title: str = "") -> Table:
    """Return the table that `table` prints."""
    grid_table = Table(title=title or None, title_justify="left", box=None, pad_edge=False, header_style="bold")
    for position, name in enumerate(columns):
        numeric = any(isinstance(row[position], int | float) for row in rows)
        grid_table.add_column(name, justify="right" if numeric else "left", overflow="fold", no_wrap=position == 0)
    for row in rows:
        grid_table.add_row(*(escape(cell(entry)) for entry in row))
    return grid_table


def cell(value: Any) -> str:
    """Return the text of a table cell: four significant figures for floats, a dash for missing values."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, datetime):
        return value.strftime("%Y-%m-%d %H:%M:%S")
    return str(value)


def age_text(hours: float) -> str:
    """Return a span of hours in a suitable unit: 12 min, 3.4 h, 2.1 d."""
    if abs(hours) < 1:
        return f"{hours * 60:.0f} min"
    return f"{hours:.1f} h" if abs(hours) < 48 else f"{hours / 24:.1f} d"


def failed_checks_text(failed: Sequence[tuple[str, str]]) -> str:
    """Return how many checks of severity ERROR failed, and name the first of them; `failed` holds (product, check)."""
    if not failed:
        return "no check of severity ERROR failed"
    named = ", ".join(f"{product_id} {check}" for product_id, check in failed[:NAMED])
    rest = f" and {len(failed) - NAMED} more" if len(failed) > NAMED else ""
    return f"{len(failed)} {'check' if len(failed) == 1 else 'checks'} of severity ERROR failed: {named}{rest}"


@contextmanager
def progress_bar(label: str) -> Iterator[Progress]:
    """A progress bar on stderr; if stderr is not a terminal, one line for every tenth done."""
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
    from rich.progress import Progress as Bar

    if not sys.stderr.isatty():
        yield _TenthLines(label)
        return
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    with Bar(*columns, console=err(), transient=True) as bar:
        task = bar.add_task(escape(label), total=None)

        def report(done: int, total: int, now: str = "", /) -> None:
            bar.update(task, completed=done, total=total, description=escape(now or label))

        yield report


class _TenthLines:
    """Progress for logs: a line whenever another tenth of the work, or of its next phase, is done, with the time left at the
    speed so far."""

    def __init__(self, label: str, clock: Callable[[], float] = time.monotonic) -> None:
        self.label, self.tenth, self.clock = label, -1, clock
        self.began_s, self.began_at = clock(), 0

    def __call__(self, done: int, total: int, label: str = "", /) -> None:
        tenth = 10 * done // total if total else 0
        if tenth < self.tenth:  # the next phase has begun
            self.began_s, self.began_at = self.clock(), done
        if tenth != self.tenth:
            self.tenth = tenth
            left = self._left_h(done, total)
            warn(f"{label or self.label}: {done} of {total}" + (f", about {age_text(left)} left" if left else ""))

    def _left_h(self, done: int, total: int) -> float:
        """Return the hours left; 0 while nothing is done, or when everything is."""
        each_s = (self.clock() - self.began_s) / max(done - self.began_at, 1)
        return each_s * (total - done) / 3600 if done > self.began_at else 0.0
