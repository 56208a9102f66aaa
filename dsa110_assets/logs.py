"""Log lines of ours, as text or as JSON (the setting `log_format`), with the run and the trace they were written in; and their files.

Dagster writes lines of its own, which it can also write as JSON; the names of the fields are the same here.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from dsa110_assets import tracing

Form = Literal["text", "json"]
OURS = ("dsa110_assets", "uvicorn", "opentelemetry", "py.warnings")
"""Loggers whose lines are written so: this package's, and those of libraries that Dagster does not write."""
_PLAIN = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "run_id", "trace_id"}


class Text(logging.Formatter):
    """A line for people: time, level, logger, where it belongs to, and what happened."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s - %(name)s - %(levelname)s - %(where)s%(message)s", "%Y-%m-%d %H:%M:%S %z")

    def format(self, record: logging.LogRecord) -> str:
        """The line; tracebacks follow it."""
        ids = ids_of(record)
        record.where = "".join(f"{name.removesuffix('_id')} {value} - " for name, value in ids.items())
        return super().format(record)


class Json(logging.Formatter):
    """A line for programs: one JSON object, with what was given as `extra`."""

    def format(self, record: logging.LogRecord) -> str:
        """The line; a traceback is one of its fields."""
        at = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
        told: dict[str, Any] = {"event": record.getMessage(), "logger": record.name, "level": record.levelname.lower(), "timestamp": at}
        told |= ids_of(record)
        if record.exc_info:
            told["exception"] = self.formatException(record.exc_info)
        more = {name: value for name, value in vars(record).items() if name not in _PLAIN and isinstance(value, str | int | float | bool)}
        return json.dumps(more | told, default=str)


def ids_of(record: logging.LogRecord) -> dict[str, str]:
    """The run and the trace that a line belongs to, those there are: where the process is, or what Dagster says of the line."""
    place, dagster = tracing.here(), getattr(record, "dagster_meta", None)
    run = place.run or (str(dagster.get("run_id") or "") if isinstance(dagster, dict) else "")
    return {name: value for name, value in (("run_id", run), ("trace_id", place.trace)) if value}


def formatter(form: Form) -> logging.Formatter:
    """Of this form."""
    return Json() if form == "json" else Text()


def configure(form: Form) -> None:
    """Have this process, a service or a run, write its lines to standard error in this form, from INFO on."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(formatter(form))
    logging.captureWarnings(True)
    for name in OURS:
        logger = logging.getLogger(name)
        logger.handlers, logger.propagate = [handler], False
        logger.setLevel(logging.INFO if name == "dsa110_assets" else logging.WARNING)


def run_logger(form: Form, name: str, level: int | str) -> logging.Logger:
    """A logger for the lines of one run, from INFO on: each of Dagster's events is in its database already."""
    logger = logging.Logger(name, max(logging.INFO, logging.Logger("", level).level))
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(formatter(form))
    logger.addHandler(handler)
    return logger


def rotate(path: Path, most_bytes: float, keep: int) -> bool:
    """Set a log aside as `<name>.1` once it is larger than this, what was there as `.2` and so on, `keep` in all.

    Whoever writes it has it open and goes on where its end is, which is then its beginning: it was opened for appending. What is
    written between the last copying and the cutting, some microseconds, is lost.
    """
    if not path.exists() or path.stat().st_size <= most_bytes:
        return False
    for number in range(keep, 0, -1):
        older = path.with_name(f"{path.name}.{number}")
        if older.exists() and number == keep:
            older.unlink()
        elif older.exists():
            older.replace(path.with_name(f"{path.name}.{number + 1}"))
    with path.open("rb") as source, path.with_name(f"{path.name}.1").open("wb") as copy:
        while source.tell() < os.fstat(source.fileno()).st_size:
            shutil.copyfileobj(source, copy)
    os.truncate(path, 0)
    return True
