"""What Prometheus is told, and the health probe. These gauges are read from the index when asked."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

from prometheus_client import CollectorRegistry
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.exposition import generate_latest
from prometheus_client.registry import Collector
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response

from dsa110_assets import __version__
from dsa110_assets.portal import overview
from dsa110_assets.telescope import timegrid

Sample = tuple[str, str, dict[str, str], float | None]
FIGURES = {
    "rms_jy": ("dsa110_image_noise_jy", "Noise of the newest 5-minute image"),
    "dynamic_range": ("dsa110_image_dynamic_range", "Peak over noise of the newest 5-minute image"),
    "flag_fraction": ("dsa110_flagged_fraction", "Flagged part of what living receptors saw, behind the newest 5-minute image"),
    "flag_fraction_calibrated": (
        "dsa110_flagged_fraction_calibrated",
        "Flagged part of all that was calibrated, lost antennas included, behind the newest 5-minute image",
    ),
}


class Gauges(Collector):
    """The figures of a status, asked for at each collection; what is unknown or not finite is left out."""

    def __init__(self, status: Callable[[], overview.Status]) -> None:
        self._status = status

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """One family a name."""
        families: dict[str, GaugeMetricFamily] = {}
        for name, explanation, labels, value in samples(self._status()):
            if value is not None and math.isfinite(value):
                family = families.setdefault(name, GaugeMetricFamily(name, explanation, labels=list(labels)))
                family.add_metric(list(labels.values()), value)
        yield from families.values()


def registry(status: Callable[[], overview.Status]) -> CollectorRegistry:
    """What one application tells of."""
    made = CollectorRegistry()
    made.register(Gauges(status))
    return made


def metrics(request: Request) -> Response:
    """All that is registered, in Prometheus' text format 0.0.4."""
    return PlainTextResponse(generate_latest(request.app.state.registry), media_type="text/plain; version=0.0.4; charset=utf-8")


def healthz(request: Request) -> Response:
    """200 while the index answers; otherwise the error's own status with its sentence."""
    request.app.state.archive.store.current("source_catalog")
    return JSONResponse({"status": "ok", "version": __version__})


def samples(state: overview.Status) -> Iterator[Sample]:
    """(name, help, labels, value) of every gauge; unknown values are None and are left out."""
    yield "dsa110_build_info", "Version of dsa110_assets", {"version": __version__}, 1
    for asset, count in state.products.items():
        yield "dsa110_products", "Current products by asset", {"asset": asset}, count
    latest = state.latest_observation
    seconds = timegrid.parse_key(latest).timestamp() if latest else None
    yield "dsa110_last_observation_timestamp_seconds", "Start of the newest observation", {}, seconds
    yield "dsa110_waiting_observations", "Observations known but not imaged", {}, len(state.waiting)
    for name, number in (state.inbox_groups or {}).items():
        yield "dsa110_inbox_groups", "Observations in the inbox that nobody took up, by state", {"state": name}, number
    alone = None if state.inbox_groups is None else len(state.inbox_files)
    yield "dsa110_inbox_files", "Files in the inbox that are in no group", {}, alone
    yield "dsa110_failed_checks", "Failed checks of severity ERROR of the last two nights", {}, len(state.failed_checks)
    yield "dsa110_quarantined", "Files and groups put aside", {}, len(state.quarantined)
    yield "dsa110_rejected_products", "Products rejected", {}, len(state.rejected)
    yield "dsa110_held_products", "Products held by a failed blocking check", {}, len(state.held)
    in_force = float(state.calibration is not None)
    yield "dsa110_calibration_in_force", "Whether an observation like the newest would be calibrated now", {}, in_force
    if state.calibration:
        age = state.calibration["age_h"]
        yield "dsa110_calibration_age_hours", "Age of the calibration in force", {}, age
        at_observation = state.calibration["age_at_latest_observation_h"]
        yield (
            "dsa110_calibration_age_at_observation_hours",
            "The same at the newest observation",
            {},
            at_observation,
        )
    if state.disk:
        yield "dsa110_disk_free_bytes", "Free space of the archive's disk", {}, state.disk.free_bytes
        yield "dsa110_disk_total_bytes", "Size of the archive's disk", {}, state.disk.total_bytes
        yield "dsa110_disk_full_in_days", "Days until the disk is full", {}, state.disk.full_in_days
    for key, (name, explanation) in FIGURES.items():
        yield name, explanation, {}, state.latest_figures.get(key)
