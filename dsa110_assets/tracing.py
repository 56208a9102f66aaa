"""The place of this process in the work on an observation: the ids that log lines carry, and the spans sent to a tracing system.

A trace is all work on an observation, an hour or a night. Its id is derived from the archive and the partition, and the id of a
run's span from the run, so that processes that never communicate agree on them. Products made from many observations have links to
each. Spans are sent by OTLP over HTTP to the address in OTEL_EXPORTER_OTLP_ENDPOINT (or ..._TRACES_ENDPOINT). Without it no
library is loaded, and nothing is recorded.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache
from typing import TYPE_CHECKING, Any

import xxhash

from dsa110_assets import children

if TYPE_CHECKING:
    from opentelemetry.trace import Tracer

ENDPOINTS = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
SERVICE = "dsa110_assets"
EXPORT_S, DELAY_MS = 2.0, 1000
"""The time limit of one delivery, and the time a span waits for others to be sent together."""
_log = logging.getLogger(__name__)
Attributes = Mapping[str, str | int | float | bool]


@dataclass(frozen=True)
class Place:
    """The hexadecimal ids of the trace, the span in it, and the run; '' where there is none."""

    trace: str = ""
    span: str = ""
    run: str = ""


_here = Place()
"""The place is that of the process and not of a thread: a run makes one step at a time, and its threads work for that step."""


def here() -> Place:
    """The current place of this process."""
    return _here


def is_on() -> bool:
    """Whether spans are sent."""
    return any(os.environ.get(name, "").strip() for name in ENDPOINTS)


def trace_of(archive_id: str, partition: str | None, grain: str) -> str:
    """The id of a trace: 32 hexadecimal digits."""
    return xxhash.xxh3_128_hexdigest(f"{archive_id} {grain} {partition or ''}".encode())


def span_of(*what: str) -> str:
    """The id of a span, 16 hexadecimal digits; it is derived, so that others can know it before the span ends."""
    return xxhash.xxh3_64_hexdigest(" ".join(what).encode())


@contextmanager
def at(place: Place) -> Iterator[None]:
    """Set the place of this process, and so the ids in its log lines, for the block."""
    global _here
    before, _here = _here, place
    try:
        yield
    finally:
        _here = before


@contextmanager
def span(name: str, links: Sequence[Place] = (), **attributes: str | int | float | bool) -> Iterator[dict[str, Any]]:
    """Record a span around the block, below the current one. The block may add attributes; an error is recorded on the span."""
    added: dict[str, Any] = dict(attributes)
    if not is_on():
        yield added
        return
    outer, span_id, began_s = _here, span_of(name, str(time.time_ns()), str(os.getpid())), time.time()
    error = ""
    try:
        with at(replace(outer, span=span_id)):
            yield added
    except BaseException as raised:
        error = f"{type(raised).__name__}: {raised}"
        raise
    finally:
        record(name, replace(outer, span=span_id), began_s, time.time(), parent=outer.span, links=links, error=error, **added)


def record(
    name: str,
    place: Place,
    began_s: float,
    ended_s: float,
    *,
    parent: str = "",
    links: Sequence[Place] = (),
    error: str = "",
    **attributes: str | int | float | bool,
) -> None:
    """Record a completed span, from one time to another [unix s]."""
    if not is_on():
        return
    from opentelemetry import trace

    def context(of: Place, span_id: str) -> trace.SpanContext:
        sampled = trace.TraceFlags(trace.TraceFlags.SAMPLED)
        return trace.SpanContext(int(of.trace, 16), int(span_id, 16), is_remote=True, trace_flags=sampled)

    tracer, ids = _tracer()
    ids.next = int(place.trace, 16), int(place.span, 16)
    above = trace.NonRecordingSpan(context(place, parent)) if parent else trace.INVALID_SPAN
    all_attributes: dict[str, Any] = {**attributes, **({"dsa110.run": place.run} if place.run else {})}
    linked = [trace.Link(context(link, link.span)) for link in links]
    new_span = tracer.start_span(
        name, trace.set_span_in_context(above), attributes=all_attributes, links=linked, start_time=int(began_s * 1e9)
    )
    if error:
        new_span.set_status(trace.StatusCode.ERROR, error)
    new_span.end(int(ended_s * 1e9))


def load() -> None:
    """Import the libraries for spans, for the processes that are forked from this one."""
    import opentelemetry.exporter.otlp.proto.http.trace_exporter
    import opentelemetry.sdk.trace.export  # noqa: F401


@cache
def _tracer() -> tuple[Tracer, Any]:
    """The tracer of this process, and the object that holds the ids of the next span. Unsent spans are sent when the process ends."""
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor
    from opentelemetry.sdk.trace.id_generator import IdGenerator
    from requests import ConnectionError, RequestException, Session

    class OneTry(Session):
        """A session that does not wait for an unavailable receiver: the exporter retries, a second later, only after a ConnectionError."""

        def request(self, *args: Any, **kwargs: Any) -> Any:
            try:
                return super().request(*args, **kwargs)
            except ConnectionError as error:
                raise RequestException(f"no connection to the receiver of traces: {error}") from error

    class Chosen(IdGenerator):
        next = (0, 0)

        def generate_trace_id(self) -> int:
            return self.next[0]

        def generate_span_id(self) -> int:
            return self.next[1]

    ids = Chosen()
    provider = TracerProvider(resource=Resource.create({"service.name": SERVICE}), id_generator=ids, shutdown_on_exit=False)
    exporter = OTLPSpanExporter(timeout=EXPORT_S, session=OneTry())
    provider.add_span_processor(BatchSpanProcessor(exporter, schedule_delay_millis=DELAY_MS))
    children.at_exit(provider.shutdown, 1)
    return provider.get_tracer(SERVICE), ids
