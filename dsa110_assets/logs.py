"""The log lines of this package, as text or JSON (the setting `log_format`), with the run and trace they belong to; and log rotation.

Dagster writes its own lines, also as JSON if configured so; the field names here are the same as there.
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
"""The loggers that are configured here: this package's, and those of libraries whose lines Dagster does not write."""
_PLAIN = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "run_id", "trace_id"}


class Text(logging.Formatter):
    """The formatter of lines for people: time, level, logger, run and trace, and message."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s - %(name)s - %(levelname)s - %(where)s%(message)s", "%Y-%m-%d %H:%M:%S %z")

    def format(self, record: logging.LogRecord) -> str:
        """The line, followed by any traceback."""
        ids = ids_of(record)
        record.where = "".join(f"{name.removesuffix('_id')} {value} - " for name, value in ids.items())
        return super().format(record)


class Json(logging.Formatter):
    """The formatter of lines for programs: one JSON object, including the fields given as `extra`."""

    def format(self, record: logging.LogRecord) -> str:
        """The line; any traceback is one of its fields."""
        at = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
        fields: dict[str, Any] = {"event": record.getMessage(), "logger": record.name, "level": record.levelname.lower(), "timestamp": at}
        fields |= ids_of(record)
        if record.exc_info:
            fields["exception"] = self.formatException(record.exc_info)
        extra = {name: value for name, value in vars(record).items() if name not in _PLAIN and isinstance(value, str | int | float | bool)}
        return json.dumps(extra | fields, default=str)


def ids_of(record: logging.LogRecord) -> dict[str, str]:
    """The ids of the run and the trace that a line belongs to, if known: from the process's place, or for the run from Dagster."""
    place, dagster = tracing.here(), getattr(record, "dagster_meta", None)
    run = place.run or (str(dagster.get("run_id") or "") if isinstance(dagster, dict) else "")
    return {name: value for name, value in (("run_id", run), ("trace_id", place.trace)) if value}


def formatter(form: Form) -> logging.Formatter:
    """The formatter for this form."""
    return Json() if form == "json" else Text()


def configure(form: Form) -> None:
    """Configure this process, a service or a run, to write its lines to standard error in this form, from INFO on."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(formatter(form))
    logging.captureWarnings(True)
    for name in OURS:
        logger = logging.getLogger(name)
        logger.handlers, logger.propagate = [handler], False
        logger.setLevel(logging.INFO if name == "dsa110_assets" else logging.WARNING)


def run_logger(form: Form, name: str, level: int | str) -> logging.Logger:
    """A logger for the lines of one run, from INFO on, because each of Dagster's events is in its database already."""
    logger = logging.Logger(name, max(logging.INFO, logging.Logger("", level).level))
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(formatter(form))
    logger.addHandler(handler)
    return logger


def rotate(path: Path, most_bytes: float, keep: int) -> bool:
    """Rotate a log that is larger than `most_bytes`: to `<name>.1`, the former `.1` to `.2` and so on, `keep` files in all.

    Returns whether it did. The writer keeps the file open for appending, and continues at its new end, the beginning of the emptied
    file. Lines written in the microseconds between the copy and the truncation are lost.
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
