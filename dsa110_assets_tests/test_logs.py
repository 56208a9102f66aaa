"""Log lines carry the run and the trace, as text and as JSON; logs are rotated and bounded while they are written."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
from pathlib import Path

import pytest

from dsa110_assets import logs, tracing

PLACE = tracing.Place("a" * 32, "b" * 16, "c-run")


def line(form: logs.Form, *, error: bool = False) -> str:
    try:
        raise ValueError("of the test") if error else KeyError
    except (ValueError, KeyError):
        trace = sys.exc_info() if error else None
    record = logging.LogRecord("dsa110_assets.x", logging.WARNING, __file__, 1, "%s of\n%d", ("one", 2), trace)
    record.partition = "2026-01-25T22:25"
    return logs.formatter(form).format(record)


def test_json_lines_are_one_object_with_what_was_given() -> None:
    with tracing.at(PLACE):
        text = line("json", error=True)
    assert "\n" not in text
    entry = json.loads(text)
    assert {name: entry[name] for name in ("event", "logger", "level", "run_id", "trace_id", "partition")} == {
        "event": "one of\n2", "logger": "dsa110_assets.x", "level": "warning", "run_id": "c-run", "trace_id": "a" * 32,
        "partition": "2026-01-25T22:25",
    }  # fmt: skip
    assert "ValueError: of the test" in entry["exception"]
    assert entry["timestamp"].endswith("Z")


def test_log_lines_outside_a_run_have_no_ids() -> None:
    assert not {"run_id", "trace_id"} & json.loads(line("json")).keys()
    assert " - WARNING - one of" in line("text")


def test_text_lines_name_run_and_trace() -> None:
    with tracing.at(PLACE):
        assert f"WARNING - run c-run - trace {'a' * 32} - one of" in line("text")


def test_a_run_of_dagster_writes_json_with_its_id(tmp_path: Path) -> None:
    """Log lines of its steps, on the console of a process like those of `dsa110 up`."""
    code = (
        "import dagster as dg, dsa110_assets.cli.warm\n"
        "@dg.asset\n"
        "def one(context): context.log.info('hello from a step')\n"
        "defs = dg.Definitions([one], jobs=[dg.define_asset_job('job')])\n"
        "print(defs.resolve_job_def('job').execute_in_process().run_id)"
    )
    environment = {"PYTHONPATH": str(Path(__file__).parents[1]), "DSA110_LOG_FORMAT": "json", "DSA110_INBOX": str(tmp_path / "in"),
                   "DSA110_ARCHIVE": str(tmp_path / "archive"), "PATH": "/usr/bin:/bin"}  # fmt: skip
    run = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=120, check=True)
    entries = [json.loads(one) for one in run.stderr.splitlines() if one.startswith("{")]
    (step_entry,) = [one for one in entries if "hello from a step" in one["event"]]
    assert step_entry["run_id"] == run.stdout.strip()
    assert len(entries) == len(run.stderr.splitlines())
    assert {one["level"] for one in entries} == {"info"}  # Dagster's events, of level DEBUG, are in its database


@pytest.mark.parametrize("keep", [1, 3])
def test_a_log_is_rotated_while_it_is_written(tmp_path: Path, keep: int) -> None:
    """The writer continues in the same file; the last `keep` rotated files exist, complete and in order."""
    path, number = tmp_path / "service.log", 0
    with path.open("ab", buffering=0) as writer:
        for _ in range(5):
            for _ in range(100):
                writer.write(f"line {number:06d}\n".encode())
                number += 1
            assert logs.rotate(path, 1000, keep)
            assert path.stat().st_size == 0
            assert not logs.rotate(path, 1000, keep)
        writer.write(b"the last\n")
    assert path.read_bytes() == b"the last\n"
    assert sorted(one.name for one in tmp_path.iterdir()) == ["service.log", *(f"service.log.{n}" for n in range(1, keep + 1))]
    kept = "".join((tmp_path / f"service.log.{n}").read_text() for n in range(keep, 0, -1)).splitlines()
    assert kept == [f"line {n:06d}" for n in range(500 - 100 * keep, 500)]


def test_a_missing_log_is_not_rotated(tmp_path: Path) -> None:
    assert not logs.rotate(tmp_path / "service.log", 1.0, 3)
    assert list(tmp_path.iterdir()) == []
