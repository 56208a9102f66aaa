"""Spans as an OTLP receiver gets them; without an address the OpenTelemetry library is not loaded."""

from __future__ import annotations

import gzip
import http.server
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from dsa110_assets import tracing
from dsa110_assets.archive.store import Archive
from dsa110_assets.orchestration.running import instance as instances
from dsa110_assets.orchestration.watching import history
from dsa110_assets_tests.tiny import OBSERVATIONS, SMALL_DISK, SUBBANDS

REPOSITORY = Path(__file__).parents[1]
MAIN = "import sys; from dsa110_assets.cli import main; sys.exit(main(sys.argv[1:]))"


class Receiver:
    """Receives spans exported by OTLP over HTTP."""

    def __init__(self) -> None:
        from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

        self.spans: list[Any] = []
        self.services: set[str] = set()
        receiver = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                request = ExportTraceServiceRequest.FromString(
                    gzip.decompress(body) if self.headers.get("content-encoding") == "gzip" else body
                )
                for resource in request.resource_spans:
                    receiver.services |= {one.value.string_value for one in resource.resource.attributes if one.key == "service.name"}
                    receiver.spans += [span for scope in resource.scope_spans for span in scope.spans]
                self.send_response(200)
                self.send_header("content-length", "0")
                self.end_headers()

            def log_message(self, format: str, *args: Any) -> None:
                """Quiet."""

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server.server_port}"

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    made = Receiver()
    yield made
    made.close()


def run(code: str, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("OTEL_", "DSA110_", "DAGSTER"))}
    return subprocess.run(
        [sys.executable, "-c", code, *arguments], env={**inherited, "PYTHONPATH": str(REPOSITORY), **environment}, capture_output=True,
        text=True, timeout=600,
    )  # fmt: skip


def attributes(span: Any) -> dict[str, Any]:
    return {one.key: getattr(one.value, one.value.WhichOneof("value")) for one in span.attributes}


def test_without_an_address_the_library_is_not_loaded() -> None:
    code = (
        "import sys; import dsa110_assets.definitions, dsa110_assets.cli.warm; from dsa110_assets import tracing\n"
        "with tracing.at(tracing.Place('', '', 'r')), tracing.span('x', a=1): tracing.record('y', tracing.here(), 0.0, 1.0)\n"
        "print([name for name in sys.modules if name.startswith('opentelemetry')])"
    )
    found = run(code)
    assert found.stdout.strip() == "[]", found.stderr


def test_ids_follow_from_archive_partition_and_grain() -> None:
    """So separate processes agree. An hour and an observation with the same key have different traces."""
    trace = tracing.trace_of("archive", "2026-01-25T22:00", "observation")
    assert trace == tracing.trace_of("archive", "2026-01-25T22:00", "observation")
    others = [("archive", "2026-01-25T22:00", "hour"), ("another", "2026-01-25T22:00", "observation"), ("archive", None, "observation")]
    assert len({trace, *(tracing.trace_of(*other) for other in others)}) == 4
    assert (len(trace), len(tracing.span_of("run", "r"))) == (32, 16)
    assert tracing.here() == tracing.Place()


def test_an_unavailable_trace_receiver_delays_and_fails_nothing() -> None:
    """The process ends with its normal status after one attempt without waiting to retry; the log reports that spans were lost."""
    code = "from dsa110_assets import tracing\nwith tracing.at(tracing.Place('1' * 32, '2' * 16, 'r')), tracing.span('x'): pass"
    found = run(code, OTEL_EXPORTER_OTLP_ENDPOINT="http://127.0.0.1:9")
    assert found.returncode == 0
    assert "Failed to export" in found.stderr
    assert "retrying" not in found.stderr


@pytest.mark.slow
def test_a_night_is_a_trace_of_each_observation_and_links_between(receiver: Receiver, inbox: Path, tmp_path: Path) -> None:
    """The spans of `dsa110 process` for a transit, from the files' arrival to the image: names, parents, times, attributes."""
    observation = OBSERVATIONS[1]
    for path in inbox.iterdir():
        if not path.name.startswith(observation):
            path.unlink()
    found = run(MAIN, "process", "--through", "tile_image", **environment(inbox, tmp_path, receiver))
    assert found.returncode in (0, 3), found.stdout + found.stderr  # 3: a check failed
    assert receiver.services == {tracing.SERVICE}
    by_id = {span.span_id: span for span in receiver.spans}
    assert len(by_id) == len(receiver.spans), "two spans of one id"
    with Archive(tmp_path / "archive") as archive, instances.open_instance(tmp_path / "home") as dagster:
        _check_observation(archive, dagster, observation, receiver.spans, by_id)
        (tables,), sets = archive.products("caltables"), archive.products("measurement_set")
        night = tables.metadata["trace_id"]
        assert night == tracing.trace_of(archive.index.archive_id, tables.partition, "night")
        (solving,) = [span for span in receiver.spans if attributes(span).get("product") == tables.id]
        assert not by_id[solving.parent_span_id].parent_span_id
        assert {
            (product.metadata["trace_id"], tracing.span_of("run", product.run_id)) for product in sets if product.id in tables.inputs
        } <= linked(solving)
        for product in archive.products("calibrated_ms"):
            (applying,) = [span for span in receiver.spans if attributes(span).get("product") == product.id]
            assert (night, tracing.span_of("run", tables.run_id)) in linked(applying)
        assert all(bytes.fromhex(span_id) in by_id for span in receiver.spans for _, span_id in linked(span))


def environment(inbox: Path, place: Path, receiver: Receiver) -> dict[str, str]:
    """The tiny telescope's settings with an archive in `place`, whose spans go to `receiver`."""
    return {
        "DSA110_INBOX": str(inbox), "DSA110_ARCHIVE": str(place / "archive"), "DAGSTER_HOME": str(place / "home"),
        "DSA110_THRESHOLDS": str(SMALL_DISK), "DSA110_SUBBANDS": str(SUBBANDS), "DSA110_MIN_SUBBANDS": str(SUBBANDS - 1),
        "DSA110_STILL_S": "0", "DSA110_IMAGING__FIELD_DEG": "2.0", "DSA110_IMAGING__PIXELS_PER_BEAM": "2.5",
        "DSA110_IMAGING__MAX_MAJOR_CYCLES": "2", "DSA110_IMAGING__CLEAN_ITERATIONS": "100", "DSA110_IMAGING__THREADS": "1",
        "OTEL_EXPORTER_OTLP_ENDPOINT": receiver.url,
    }  # fmt: skip


def linked(span: Any) -> set[tuple[str, str]]:
    return {(link.trace_id.hex(), link.span_id.hex()) for link in span.links}


def test_spans_of_forks_are_sent_before_they_end(receiver: Receiver, inbox: Path, tmp_path: Path) -> None:
    """With observations made side by side, every product has a stage span, whose parent is its run."""
    found = run(MAIN, "process", "--at-once", "2", "--through", "measurement_set", **environment(inbox, tmp_path, receiver))
    assert found.returncode == 0, found.stdout + found.stderr
    by_id = {span.span_id: span for span in receiver.spans}
    with Archive(tmp_path / "archive") as archive:
        for product in [*archive.products("subband_group"), *archive.products("measurement_set")]:
            (stage,) = [span for span in receiver.spans if attributes(span).get("product") == product.id]
            assert by_id[stage.parent_span_id].name == f"run {product.partition}"


def _check_observation(archive: Archive, dagster: Any, observation: str, spans: list[Any], by_id: dict[bytes, Any]) -> None:
    """Check the trace of one observation: its arrival is the root, runs are its children, and each product's stage is a child of a run."""
    trace = tracing.trace_of(archive.index.archive_id, observation, "observation")
    observation_spans = [span for span in spans if span.trace_id.hex() == trace]
    (root,) = [span for span in observation_spans if not span.parent_span_id]
    arrived = sorted(int(name.rpartition(":")[2]) for name in archive.current("subband_group", observation).settings["files"])  # type: ignore[union-attr]
    assert root.name == "observation"
    assert abs(root.start_time_unix_nano - arrived[0]) < 1e6  # a time in seconds as a double is good to about a microsecond
    assert abs(root.end_time_unix_nano - arrived[-1]) < 1e6
    for asset in ("subband_group", "measurement_set", "calibrated_ms", "tile_image"):
        product = archive.current(asset, observation)
        assert product is not None
        (stage,) = [span for span in observation_spans if span.name == asset]
        stage_attributes = attributes(stage)
        assert (stage_attributes["asset"], stage_attributes["partition"], stage_attributes["outcome"], stage_attributes["product"]) == (
            asset,
            observation,
            "made",
            product.id,
        )
        assert (stage_attributes["lane"], stage_attributes["dsa110.run"]) == ("process", product.run_id)
        assert product.metadata["trace_id"] == trace
        run_span = by_id[stage.parent_span_id]
        assert (run_span.name, run_span.parent_span_id) == (f"run {observation}", root.span_id)
        assert run_span.start_time_unix_nano <= stage.start_time_unix_nano <= stage.end_time_unix_nano <= run_span.end_time_unix_nano + 1e6
        record = dagster.get_run_record_by_id(product.run_id)
        assert record.dagster_run.tags[history.TRACE_TAG] == trace
        assert abs(run_span.start_time_unix_nano - record.start_time * 1e9) < 1e6
        (queue,) = [span for span in observation_spans if span.name == "queue" and attributes(span)["dsa110.run"] == product.run_id]
        assert queue.parent_span_id == root.span_id
        assert abs(queue.end_time_unix_nano - run_span.start_time_unix_nano) < 1e6
        parts = {span.name for span in observation_spans if span.parent_span_id == stage.span_id}
        assert {"find inputs", "judge", "publish"} <= parts
        (publish,) = [span for span in observation_spans if span.parent_span_id == stage.span_id and span.name == "publish"]
        assert publish.start_time_unix_nano <= product.created_at.timestamp() * 1e9 <= publish.end_time_unix_nano + 1e6
