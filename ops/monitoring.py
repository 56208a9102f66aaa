"""Write Prometheus' alert rules, with the limits from the thresholds, and Grafana's dashboards: the program behind `ops/monitoring`."""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from dsa110_assets.portal.front import PROMISED_S
from dsa110_assets.portal.probes import FAILING
from dsa110_assets.telescope.timegrid import GROUP_S
from dsa110_assets.thresholds import Thresholds, read

OPS = Path(__file__).parent
SMALL_PART = 0.1
"""Fraction of a small disk below which its free space is critical: see `orchestration.watching.disks`."""
WARNING, CRITICAL = "warning", "critical"
GIGABYTE = 1e9
NOT_FROM_THE_START = ("dsa110_image_noise_jy", "dsa110_flagged_fraction", "dsa110_service_heartbeat_age_seconds", "dsa110_inbox_groups")
"""Series that exist only once they have a value. Without an image, a service or a look at the inbox other rules fire."""


@dataclass(frozen=True)
class Rule:
    """An alert: its condition, how long that must hold before it fires, its severity, a sentence, and its section of the runbook."""

    name: str
    expression: str
    lasting: str
    severity: str
    summary: str
    runbook: str

    def as_yaml(self) -> dict[str, Any]:
        """The rule as Prometheus reads it."""
        return {
            "alert": self.name, "expr": self.expression, "for": self.lasting, "labels": {"severity": self.severity},
            "annotations": {"summary": self.summary, "runbook": f"runbook.md#{self.runbook}"},
        }  # fmt: skip


def rules(limits: Thresholds) -> Iterator[Rule]:
    """All rules with these limits."""
    yield from _platform(limits)
    yield from _data(limits)
    yield from _calibration_and_images(limits)


def _platform(limits: Thresholds) -> Iterator[Rule]:
    silent_s = limits.service_silent_s
    yield Rule("PortalDown", 'absent(up{job="dsa110"}) or up{job="dsa110"} == 0', "1m", CRITICAL,
               "The portal does not answer; the platform may be down", "nothing-answers")  # fmt: skip
    yield Rule("DaemonSilent", f"dsa110_daemon_heartbeat_age_seconds > {limits.daemon_silent_s:g}", "30s", CRITICAL,
               "Dagster's daemon gives no sign of life, or never ran: nothing is processed", "no-sign-of-life")  # fmt: skip
    yield Rule("ServiceSilent", f"dsa110_service_heartbeat_age_seconds > {silent_s:g}", "30s", CRITICAL,
               "{{ $labels.service }} gives no sign of life", "no-sign-of-life")  # fmt: skip
    yield Rule("IngestFailing", f'dsa110_sensor_success_age_seconds{{sensor="inbox"}} > {FAILING.total_seconds():g}', "1m", CRITICAL,
               "The look at the inbox has not succeeded for an hour, or never", "no-new-observations")  # fmt: skip
    yield Rule("AlertsNotLookedFor", f"dsa110_alerts_look_age_seconds > {max(300.0, silent_s):g}", "1m", CRITICAL,
               "The platform does not look for its own alerts, so that no message is sent", "nothing-answers")  # fmt: skip
    yield Rule(
        "NotFoundOut", "dsa110_unknown == 1", "10m", WARNING, "{{ $labels.part }} cannot be found out", "something-cannot-be-found-out"
    )
    free, total = 'dsa110_disk_free_bytes{disk=~"archive.*"}', 'dsa110_disk_total_bytes{disk=~"archive.*"}'
    least, little = limits.disk_critical_gb * GIGABYTE, limits.disk_warn_gb * GIGABYTE
    yield Rule("DiskNearlyFull", f"{free} < clamp_max({SMALL_PART} * {total}, {least:g})", "1m", CRITICAL,
               "The archive's disk is all but full: ingest pauses", "disk-fills-up")  # fmt: skip
    large = f"({free} < {little:g} and {total} >= {least / SMALL_PART:g})"
    yield Rule("DiskLow", f"{large} or {free} < clamp_max({2 * SMALL_PART} * {total}, {little:g})", "5m", WARNING,
               "The archive's disk fills up", "disk-fills-up")  # fmt: skip
    yield Rule("DiskFullSoon", f"dsa110_disk_full_in_days < {limits.disk_full_days:g}", "30m", WARNING,
               "At the rate of the last day the archive's disk is soon full", "disk-fills-up")  # fmt: skip
    yield Rule("BackupOld", f"dsa110_backup_age_hours > {limits.backup_warn_h:g}", "1h", WARNING,
               "There is no recent backup", "no-recent-backup")  # fmt: skip
    yield Rule("ThresholdsRefused", "dsa110_thresholds_refused == 1", "1m", WARNING,
               "The thresholds file is wrong; the limits last in force stay", "thresholds-are-refused")  # fmt: skip
    yield Rule("MemoryLow", "dsa110_host_memory_available_bytes / dsa110_host_memory_bytes < 0.05", "10m", WARNING,
               "Less than 5 % of the memory is left for new work", "ingest-pauses")  # fmt: skip


def _data(limits: Thresholds) -> Iterator[Rule]:
    late_s = 60 * limits.inbox_silent_min + 2 * GROUP_S
    yield Rule("NoNewObservation", f"time() - dsa110_last_observation_timestamp_seconds > {late_s:.0f}", "5m", CRITICAL,
               "No new observation, or none ever", "no-new-observations")  # fmt: skip
    yield Rule("ObservationsNotTakenUp", 'dsa110_inbox_groups{state="ready"} > 3', "20m", WARNING,
               "Complete observations wait in the inbox and are not ingested", "no-new-observations")  # fmt: skip
    for name, limit, severity in (("QueueLong", limits.queue_warn, WARNING), ("QueueVeryLong", limits.queue_critical, CRITICAL)):
        yield Rule(name, f"dsa110_waiting_observations > {limit}", "10m", severity, "Observations pile up unimaged", "observations-wait")
    failed = 'sum by (asset) (increase(dsa110_stage_failures_total{error_class!="WaitingError"}[1h]))'
    ended = 'sum by (asset) (increase(dsa110_stage_attempts_total{outcome=~"made|failed"}[1h]))'
    for name, share, severity in (
        ("StageFails", limits.failures_warn, WARNING), ("StageFailsOften", limits.failures_critical, CRITICAL)
    ):  # fmt: skip
        yield Rule(name, f"{failed} > {share:g} * {ended} and {ended} >= {limits.failures_of_runs}", "1m", severity,
                   "{{ $labels.asset }} fails in more than " + f"{share:.0%} of an hour's runs", "observations-wait")  # fmt: skip
    slow = 'histogram_quantile(0.9, sum by (le) (rate(dsa110_product_latency_seconds_bucket{asset="tile_image",lane="live"}[1h])))'
    yield Rule("ImagesLate", f"{slow} > {PROMISED_S:g}", "15m", WARNING,
               "A tenth of the images come later than promised after their last subband", "observations-wait")  # fmt: skip
    yield Rule("ChecksFailed", "dsa110_failed_checks > 0", "10m", WARNING,
               "Checks of severity ERROR failed in the last two nights", "a-check-failed")  # fmt: skip
    yield Rule("ProductsHeld", "dsa110_held_products > 0", "10m", WARNING,
               "Products are held by a failed blocking check", "a-check-failed")  # fmt: skip
    refused = "sum by (asset, check) (increase(dsa110_refusals_total[1h]))"
    yield Rule("ProductsRefused", f"{refused} >= {limits.off_in_a_row}", "1m", WARNING,
               "{{ $labels.asset }} is not published because of {{ $labels.check }}", "a-tile-was-not-published")  # fmt: skip


def _calibration_and_images(limits: Thresholds) -> Iterator[Rule]:
    unusable = f"dsa110_calibration_in_force == 0 or dsa110_calibration_age_hours > {limits.calibration_stale_h:g}"
    yield Rule("CalibrationAging", f"dsa110_calibration_age_hours > {limits.calibration_aging_h:g}", "1m", WARNING,
               "There is no recent calibration", "calibration-is-stale")  # fmt: skip
    for name, hours, severity in (
        ("NoCalibration", limits.no_calibration_warn_h, WARNING), ("NoCalibrationForLong", limits.no_calibration_critical_h, CRITICAL)
    ):  # fmt: skip
        yield Rule(name, unusable, f"{60 * hours:.0f}m", severity, f"No usable calibration for {hours:g} h", "calibration-is-stale")
    yield Rule("NoisyImage", f"dsa110_image_noise_jy > {limits.max_tile_rms_jy:g}", "20m", WARNING,
               "5-minute images are noisy", "images-are-bad")  # fmt: skip
    yield Rule("HeavyFlagging", f"dsa110_flagged_fraction > {limits.max_flag_fraction:g}", "20m", WARNING,
               "Too much of the data is flagged", "images-are-bad")  # fmt: skip


def rules_text(limits: Thresholds) -> str:
    """The text of ops/prometheus/alerts.yml. An additional rule fires if a series that another rule uses is absent."""
    found = list(rules(limits))
    asked = sorted({name for rule in found for name in re.findall(r"\bdsa110_[a-z_]+", rule.expression)} - {*NOT_FROM_THE_START})
    absent = " or ".join(f"absent({name})" for name in asked if not name.endswith("_bucket"))
    found.append(Rule("SeriesAbsent", absent, "5m", CRITICAL, "A series is absent, so that its rule cannot fire", "nothing-answers"))
    head = "# Written by ops/monitoring from the thresholds (a test compares); change ops/monitoring.py, or thresholds.toml, not this.\n"
    groups = {"groups": [{"name": "dsa110", "rules": [rule.as_yaml() for rule in found]}]}
    return head + yaml.safe_dump(groups, sort_keys=False, width=140, allow_unicode=True)


@dataclass(frozen=True)
class Panel:
    """A panel: its title, its unit, and pairs of an expression and its legend. `kind` is Grafana's panel type."""

    title: str
    unit: str
    expressions: Sequence[tuple[str, str]]
    kind: str = "timeseries"


def _of(title: str, unit: str, expression: str, legend: str = "", kind: str = "timeseries") -> Panel:
    return Panel(title, unit, ((expression, legend),), kind)


def _quantiles(family: str, by: str, more: str = "") -> tuple[tuple[str, str], ...]:
    rate = f"sum by (le, {by}) (rate({family}_bucket{more}[$__rate_interval]))"
    return tuple((f"histogram_quantile({q}, {rate})", f"{{{{{by}}}}} {q:.0%}") for q in (0.5, 0.9))


DASHBOARDS: dict[str, tuple[str, str, Sequence[Panel]]] = {
    "live": ("DSA-110 live", "now-6h", (
        _of("Daemon's sign of life", "s", "dsa110_daemon_heartbeat_age_seconds", "age", "stat"),
        _of("Ingest's last success", "s", 'dsa110_sensor_success_age_seconds{sensor="inbox"}', "age", "stat"),
        _of("Last observation", "s", "time() - dsa110_last_observation_timestamp_seconds", "age", "stat"),
        _of("Calibration", "h", "dsa110_calibration_age_hours", "age", "stat"),
        _of("Observations not done", "short", "dsa110_queue", "{{state}}"),
        _of("Runs not done", "short", "dsa110_runs", "{{state}}"),
        _of("Runs that ended in the last hour", "short", "dsa110_runs_ended_last_hour", "{{state}}"),
        _of("Stages by outcome", "short", "sum by (outcome) (increase(dsa110_stage_attempts_total[$__rate_interval]))",
            "{{outcome}}"),
        _of("Failures by class", "short", "sum by (asset, error_class) (increase(dsa110_stage_failures_total[$__rate_interval]))",
            "{{asset}} {{error_class}}"),
        Panel("Latency from the last subband", "s", _quantiles("dsa110_product_latency_seconds", "asset", '{lane="live"}')),
        Panel("Wait in the queue", "s", _quantiles("dsa110_queue_seconds", "lane")),
        Panel("Time of stages", "s", _quantiles("dsa110_stage_seconds", "asset")),
        Panel("Memory", "bytes", (("dsa110_host_memory_available_bytes", "available"), ("dsa110_host_memory_bytes", "all"))),
        Panel("Load", "short", (("dsa110_host_load", "load"), ("dsa110_host_processors", "processors"))),
        _of("Disk free", "bytes", "dsa110_disk_free_bytes", "{{disk}}"),
        _of("Requests", "reqps", "sum by (route, status) (rate(dsa110_http_requests_total[$__rate_interval]))", "{{route}} {{status}}"),
        _of("Requests' time", "s", "histogram_quantile(0.9, sum by (le) (rate(dsa110_http_request_seconds_bucket[$__rate_interval])))",
            "90%"),
        _of("Requests in progress", "short", "dsa110_http_requests_in_progress"),
    )),
    "history": ("DSA-110 history", "now-30d", (
        _of("Products published a day", "short", "sum by (asset) (increase(dsa110_products_published_total[1d]))", "{{asset}}"),
        _of("Bytes published a day", "bytes", "sum by (asset) (increase(dsa110_published_bytes_total[1d]))", "{{asset}}"),
        _of("Current products", "short", "dsa110_products", "{{asset}}"),
        _of("Checks a day", "short", "sum by (outcome) (increase(dsa110_checks_total[1d]))", "{{outcome}}"),
        _of("Checks that failed, a day", "short", 'sum by (asset, check) (increase(dsa110_checks_total{outcome!="passed"}[1d])) > 0 '
            "or sum(increase(dsa110_checks_total[1d])) * 0", "{{asset}} {{check}}"),
        _of("Not published, a day", "short", "sum by (asset, check) (increase(dsa110_refusals_total[1d]))", "{{asset}} {{check}}"),
        _of("Retries a day", "short", "sum by (asset) (increase(dsa110_stage_retries_total[1d]))", "{{asset}}"),
        _of("Share of steps whose product existed", "percentunit",
            'sum(increase(dsa110_stage_attempts_total{outcome="up_to_date"}[1d])) / sum(increase(dsa110_stage_attempts_total[1d]))',
            "cache hits"),
        _of("Runs ever requested", "short", "dsa110_newest_run"),
        Panel("Calibration age [h]", "h",
              (("dsa110_calibration_age_hours", "now"), ("dsa110_calibration_age_at_observation_hours", "at the newest observation"))),
        _of("Noise of the newest image", "none", "dsa110_image_noise_jy", "Jy"),
        _of("Dynamic range", "none", "dsa110_image_dynamic_range"),
        Panel("Flagged fraction", "percentunit",
              (("dsa110_flagged_fraction", "living receptors"), ("dsa110_flagged_fraction_calibrated", "all"))),
        _of("Days until the disk is full", "d", "dsa110_disk_full_in_days"),
        _of("Age of the newest backup", "h", "dsa110_backup_age_hours"),
    )),
    "alerts": ("DSA-110 alerts", "now-7d", (
        _of("Alerts not resolved", "short", "dsa110_alerts", "{{severity}} {{state}}"),
        _of("By condition", "short", "dsa110_alert_conditions", "{{condition}}"),
        _of("Since the last look", "s", "dsa110_alerts_look_age_seconds", "age", "stat"),
        _of("Prometheus' rules that fire", "short", 'sum by (alertname, severity) (ALERTS{alertstate="firing"}) or vector(0)',
            "{{alertname}} {{severity}}"),
        Panel("Quarantined, rejected, held", "short", (("dsa110_quarantined", "quarantined"), ("dsa110_rejected_products", "rejected"),
                                                     ("dsa110_held_products", "held"))),
        _of("Checks of severity ERROR that failed", "short", "dsa110_failed_checks", "two nights"),
        Panel("Waiting", "short", (("dsa110_waiting_observations", "not imaged"), ("dsa110_inbox_files", "files in no group"))),
        Panel("Flags", "short", (("dsa110_ingest_paused", "ingest paused"), ("dsa110_thresholds_refused", "thresholds refused"),
                                 ("dsa110_unknown", "not known: {{part}}"))),
    )),
}  # fmt: skip
"""Title, start of the time range and panels of each dashboard, by file name."""


def dashboard(name: str) -> str:
    """The text of ops/grafana/dashboards/<name>.json."""
    title, since, panels = DASHBOARDS[name]
    source = {"type": "prometheus", "uid": "dsa110-prometheus"}
    told = [
        {
            "id": number, "title": panel.title, "type": panel.kind, "datasource": source,
            "gridPos": {"h": 8, "w": 8, "x": 8 * ((number - 1) % 3), "y": 8 * ((number - 1) // 3)},
            "fieldConfig": {"defaults": {"unit": panel.unit}, "overrides": []},
            "targets": [
                {"refId": chr(ord("A") + place), "expr": expression, "legendFormat": legend, "datasource": source}
                for place, (expression, legend) in enumerate(panel.expressions)
            ],
        }
        for number, panel in enumerate(panels, start=1)
    ]  # fmt: skip
    made = {
        "title": title, "uid": f"dsa110-{name}", "schemaVersion": 39, "timezone": "utc", "refresh": "30s", "tags": ["dsa110"],
        "time": {"from": since, "to": "now"}, "panels": told,
    }  # fmt: skip
    return json.dumps(made, indent=1) + "\n"


def written(limits: Thresholds) -> dict[Path, str]:
    """The text of every file to be written, by path."""
    dashboards = {OPS / "grafana" / "dashboards" / f"{name}.json": dashboard(name) for name in DASHBOARDS}
    return {OPS / "prometheus" / "alerts.yml": rules_text(limits), **dashboards}


def main(arguments: Sequence[str] | None = None) -> int:
    """Write rules and dashboards."""
    parser = argparse.ArgumentParser(prog="ops/monitoring", description=__doc__)
    parser.add_argument("--thresholds", type=Path, help="the site's thresholds.toml (default: the limits of the package)")
    given = parser.parse_args(arguments)
    for path, text in written(read(given.thresholds) if given.thresholds else Thresholds()).items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        print(path)
    return 0


if __name__ == "__main__":
    sys.exit(main())
