"""The monitoring configuration: rules fire also in the silent cases, and rules and panels use only series that the portal serves."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import threading
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import uvicorn
import yaml

from dsa110_assets.archive.store import Archive
from dsa110_assets.cli.services import free_port
from dsa110_assets.orchestration.planning import plan
from dsa110_assets.portal.app import create_app
from dsa110_assets.settings import Settings
from dsa110_assets.thresholds import Thresholds
from dsa110_assets_tests.portal.conftest import ask

OPS = Path(__file__).resolve().parents[2] / "ops"
sys.path.insert(0, str(OPS))

import monitoring  # noqa: E402  a script of ops/

PROMETHEUS = OPS / "prometheus"
NAME = re.compile(r"\bdsa110_[a-z_]+\b")


def rules() -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = yaml.safe_load((PROMETHEUS / "alerts.yml").read_text())["groups"][0]["rules"]
    return found


def expressions(name: str) -> list[str]:
    panels = json.loads((OPS / "grafana" / "dashboards" / f"{name}.json").read_text())["panels"]
    return [target["expr"] for panel in panels for target in panel["targets"]]


def test_the_files_are_what_the_command_writes() -> None:
    for path, text in monitoring.written(Thresholds()).items():
        assert path.read_text(encoding="utf-8") == text, f"{path.name}: run ops/monitoring"


def test_limits_are_the_thresholds(tmp_path: Path) -> None:
    """A changed limit in the site's file changes the limit in the rules."""
    site = tmp_path / "thresholds.toml"
    site.write_text("queue_critical = 77\ndaemon_silent_s = 133\n")
    text = monitoring.rules_text(monitoring.read(site))
    assert "dsa110_waiting_observations > 77" in text
    assert "dsa110_daemon_heartbeat_age_seconds > 133" in text


def test_every_series_in_rules_and_panels_exists_from_the_start(tmp_path: Path) -> None:
    """Checked on an archive in which nothing ever happened, because a rule on an absent series never fires."""
    Archive.create(tmp_path / "archive").close()
    text = ask(create_app(tmp_path / "archive"), "/metrics").text
    served = {line.partition("{")[0].partition(" ")[0] for line in text.splitlines() if not line.startswith("#")}
    in_rules = {name for rule in rules() for name in NAME.findall(rule["expr"])}
    in_panels = {name for board in monitoring.DASHBOARDS for one in expressions(board) for name in NAME.findall(one)}
    late = {*monitoring.NOT_FROM_THE_START, "dsa110_image_dynamic_range", "dsa110_flagged_fraction_calibrated", "dsa110_inbox_files"}
    assert len(in_rules) == 25
    assert (in_rules | in_panels) - late <= served


def test_every_rule_has_a_severity_and_a_section_of_the_runbook() -> None:
    lines = (OPS / "runbook.md").read_text().splitlines()
    anchors = {re.sub(r"[^a-z0-9 -]", "", line.lstrip("# ").lower()).strip().replace(" ", "-") for line in lines if line.startswith("#")}
    assert {rule["annotations"]["runbook"].split("#")[1] for rule in rules()} <= anchors
    assert {rule["labels"]["severity"] for rule in rules()} == {"warning", "critical"}


def test_every_route_of_alertmanager_leads_to_a_receiver() -> None:
    config = yaml.safe_load((PROMETHEUS / "alertmanager.yml").read_text())
    receivers = {inhibition["name"] for inhibition in config["receivers"] if inhibition["webhook_configs"]}
    assert {config["route"]["receiver"], *(route["receiver"] for route in config["route"]["routes"])} <= receivers
    names = {rule["alert"] for rule in rules()}
    for inhibition in config["inhibit_rules"]:
        assert re.findall(r'alertname="(\w+)"', inhibition["source_matchers"][0])[0] in names


def test_prometheus_takes_its_configuration() -> None:
    run = subprocess.run(["promtool", "check", "config", str(PROMETHEUS / "prometheus.yml")], capture_output=True, text=True, timeout=60)
    assert run.returncode == 0, run.stdout + run.stderr


SOUND = {
    'up{job="dsa110"}': "1+0x400",
    "dsa110_daemon_heartbeat_age_seconds": "20+0x400",
    'dsa110_sensor_success_age_seconds{sensor="inbox"}': "3+0x400",
    "dsa110_alerts_look_age_seconds": "10+0x400",
    'dsa110_unknown{part="Dagster"}': "0+0x400",
    'dsa110_disk_free_bytes{disk="archive, inbox"}': "3e12+0x400",
    'dsa110_disk_total_bytes{disk="archive, inbox"}': "4e12+0x400",
    "dsa110_disk_full_in_days": "30+0x400",
    "dsa110_backup_age_hours": "3+0x400",
    "dsa110_thresholds_refused": "0+0x400",
    "dsa110_host_memory_available_bytes": "5+0x400",
    "dsa110_host_memory_bytes": "10+0x400",
    "dsa110_last_observation_timestamp_seconds": "-300+60x400",  # one observation a minute; the test's clock begins at 0
    "dsa110_waiting_observations": "2+0x400",
    'dsa110_stage_failures_total{asset="tile_image",error_class="ResourceError"}': "0+0x400",
    'dsa110_stage_attempts_total{asset="tile_image",outcome="made"}': "0+1x400",
    'dsa110_product_latency_seconds_bucket{asset="tile_image",lane="live",le="300"}': "0+1x400",
    'dsa110_product_latency_seconds_bucket{asset="tile_image",lane="live",le="600"}': "0+1x400",
    'dsa110_product_latency_seconds_bucket{asset="tile_image",lane="live",le="3600"}': "0+1x400",
    'dsa110_product_latency_seconds_bucket{asset="tile_image",lane="live",le="+Inf"}': "0+1x400",
    "dsa110_failed_checks": "0+0x400",
    "dsa110_held_products": "0+0x400",
    'dsa110_refusals_total{asset="tile_image",check="sane"}': "0+0x400",
    "dsa110_calibration_in_force": "1+0x400",
    "dsa110_calibration_age_hours": "2+0x400",
}  # fmt: skip
"""The series of a healthy platform, for 400 minutes."""
LATENCY = 'dsa110_product_latency_seconds_bucket{asset="tile_image",lane="live",'
CASES: dict[str, tuple[dict[str, str | None], str, set[str]]] = {
    "all is well": ({}, "390m", set()),
    "the portal is down": ({'up{job="dsa110"}': "0+0x400"}, "3m", {"PortalDown"}),
    "the portal was never there": (dict.fromkeys(SOUND), "10m", {"PortalDown", "SeriesAbsent"}),
    "one series is absent": ({"dsa110_calibration_in_force": None}, "10m", {"SeriesAbsent"}),
    "the daemon is dead": ({"dsa110_daemon_heartbeat_age_seconds": "0+60x400"}, "5m", {"DaemonSilent"}),
    "the daemon never ran": (
        {"dsa110_daemon_heartbeat_age_seconds": "1e9+0x400", 'dsa110_sensor_success_age_seconds{sensor="inbox"}': "1e9+0x400",
         "dsa110_alerts_look_age_seconds": "1e9+0x400"},
        "3m", {"DaemonSilent", "IngestFailing", "AlertsNotLookedFor"},
    ),
    "a service is silent": ({'dsa110_service_heartbeat_age_seconds{service="code server"}': "0+60x400"}, "5m", {"ServiceSilent"}),
    "ingest fails": ({'dsa110_sensor_success_age_seconds{sensor="inbox"}': "0+60x400"}, "70m", {"IngestFailing"}),
    "no observation any more": ({"dsa110_last_observation_timestamp_seconds": "0+0x400"}, "40m", {"NoNewObservation"}),
    "no observation ever": ({"dsa110_last_observation_timestamp_seconds": "-1e9+0x400"}, "6m", {"NoNewObservation"}),
    "no calibration ever": (
        {"dsa110_calibration_in_force": "0+0x400", "dsa110_calibration_age_hours": "277777+0x400"}, "361m",
        {"CalibrationAging", "NoCalibration", "NoCalibrationForLong"},
    ),
    "no calibration for an hour": ({"dsa110_calibration_in_force": "0+0x400"}, "60m", set()),
    "no calibration for three hours": ({"dsa110_calibration_in_force": "0+0x400"}, "181m", {"NoCalibration"}),
    "the calibration ages": ({"dsa110_calibration_age_hours": "13+0x400"}, "5m", {"CalibrationAging"}),
    "the disk is full": ({'dsa110_disk_free_bytes{disk="archive, inbox"}': "3e10+0x400"}, "6m", {"DiskNearlyFull", "DiskLow"}),
    "the disk is low": ({'dsa110_disk_free_bytes{disk="archive, inbox"}': "1.5e11+0x400"}, "6m", {"DiskLow"}),
    "a small disk has room": (
        {'dsa110_disk_free_bytes{disk="archive, inbox"}': "3e10+0x400", 'dsa110_disk_total_bytes{disk="archive, inbox"}': "1e11+0x400"},
        "30m", set(),
    ),
    "the disk fills": ({"dsa110_disk_full_in_days": "2+0x400"}, "31m", {"DiskFullSoon"}),
    "no backup ever": ({"dsa110_backup_age_hours": "277777+0x400"}, "61m", {"BackupOld"}),
    "something is not known": ({'dsa110_unknown{part="Dagster"}': "1+0x400"}, "11m", {"NotFoundOut"}),
    "the queue grows": ({"dsa110_waiting_observations": "60+0x400"}, "11m", {"QueueLong"}),
    "the queue is out of hand": ({"dsa110_waiting_observations": "110+0x400"}, "11m", {"QueueLong", "QueueVeryLong"}),
    "one stage in seven fails": (
        {'dsa110_stage_failures_total{asset="tile_image",error_class="ResourceError"}': "0+1x400",
         'dsa110_stage_attempts_total{asset="tile_image",outcome="made"}': "0+7x400"}, "70m", {"StageFails"},
    ),
    "a stage fails always": (
        {'dsa110_stage_failures_total{asset="tile_image",error_class="ResourceError"}': "0+1x400",
         'dsa110_stage_attempts_total{asset="tile_image",outcome="made"}': "0+0x400",
         'dsa110_stage_attempts_total{asset="tile_image",outcome="failed"}': "0+1x400"}, "70m", {"StageFails", "StageFailsOften"},
    ),
    "a stage waits": ({'dsa110_stage_failures_total{asset="tile_image",error_class="WaitingError"}': "0+1x400"}, "70m", set()),
    "images are late": ({LATENCY + 'le="300"}': "0+0x400", LATENCY + 'le="600"}': "0+0x400"}, "70m", {"ImagesLate"}),
    "images are refused": ({'dsa110_refusals_total{asset="tile_image",check="sane"}': "0+1x400"}, "30m", {"ProductsRefused"}),
    "a check failed": ({"dsa110_failed_checks": "1+0x400", "dsa110_held_products": "1+0x400"}, "11m", {"ChecksFailed", "ProductsHeld"}),
    "images are bad": (
        {"dsa110_image_noise_jy": "2+0x400", "dsa110_flagged_fraction": "0.7+0x400"}, "21m", {"NoisyImage", "HeavyFlagging"},
    ),
    "nobody takes up": ({'dsa110_inbox_groups{state="ready"}': "5+0x400"}, "21m", {"ObservationsNotTakenUp"}),
    "thresholds are refused": ({"dsa110_thresholds_refused": "1+0x400"}, "2m", {"ThresholdsRefused"}),
    "memory is low": ({"dsa110_host_memory_available_bytes": "0.1+0x400"}, "11m", {"MemoryLow"}),
}  # fmt: skip
"""By name: series that differ from those of a healthy platform (None: absent), the time of evaluation, and exactly the rules that fire."""


def test_rules_fire_exactly_when_they_should(tmp_path: Path) -> None:
    severity, tests = {rule["alert"]: rule["labels"]["severity"] for rule in rules()}, []
    for name, (changed, at, firing) in CASES.items():
        series = [{"series": key, "values": values} for key, values in (SOUND | changed).items() if values is not None]
        samples = [{"labels": f'{{alertname="{one}",severity="{severity[one]}"}}', "value": 1} for one in sorted(firing)]
        fires = {"expr": 'group by (alertname, severity) (ALERTS{alertstate="firing"})', "eval_time": at, "exp_samples": samples}
        tests.append({"name": name, "interval": "1m", "input_series": series, "promql_expr_test": [fires]})
    test_file = {"rule_files": [str(PROMETHEUS / "alerts.yml")], "evaluation_interval": "1m", "tests": tests}
    (tmp_path / "test.yml").write_text(yaml.safe_dump(test_file))
    run = subprocess.run(["promtool", "test", "rules", str(tmp_path / "test.yml")], capture_output=True, text=True, timeout=120)
    assert run.returncode == 0, run.stdout + run.stderr
    assert {name for _, _, firing in CASES.values() for name in firing} == {rule["alert"] for rule in rules()}


@pytest.fixture
def prometheus(processed: Settings, tmp_path: Path) -> Iterator[str]:
    """Address of Debian's Prometheus after it has scraped a portal over a processed run twice."""
    port, own_port = free_port(), free_port()
    look = partial(plan.scan_for_display, settings=processed)
    app = create_app(processed.archive, inbox=processed.inbox, settings=processed, look=look)
    assert ask(app, "/metrics").status == 200  # the first request loads what later ones reuse
    server = uvicorn.Server(uvicorn.Config(app, host="127.0.0.1", port=port, log_level="warning"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    config = yaml.safe_load((PROMETHEUS / "prometheus.yml").read_text())
    config["global"] = {"scrape_interval": "4s", "scrape_timeout": "4s", "evaluation_interval": "2s"}
    config["scrape_configs"] = [{"job_name": "dsa110", "static_configs": [{"targets": [f"127.0.0.1:{port}"]}]}]
    config["rule_files"], config["alerting"] = [str(PROMETHEUS / "alerts.yml")], {}
    (tmp_path / "prometheus.yml").write_text(yaml.safe_dump(config))
    process = subprocess.Popen(
        ["prometheus", f"--config.file={tmp_path / 'prometheus.yml'}", f"--storage.tsdb.path={tmp_path / 'tsdb'}",
         f"--web.listen-address=127.0.0.1:{own_port}"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    address, deadline = f"http://127.0.0.1:{own_port}", time.monotonic() + 60
    try:
        while not _scraped_twice(address):
            assert time.monotonic() < deadline, "Prometheus did not ask the portal"
            time.sleep(0.5)
        yield address
    finally:
        process.terminate()
        process.wait(30)
        server.should_exit = True
        thread.join(30)


def _scraped_twice(address: str) -> bool:
    try:
        found = query(address, 'count_over_time(up{job="dsa110"}[5m]) >= 2 and up{job="dsa110"} == 1')
    except OSError:
        return False
    return bool(found)


def query(address: str, expression: str) -> list[Any]:
    """The series that an expression gives now. Raises HTTPError if the expression is invalid."""
    with urllib.request.urlopen(f"{address}/api/v1/query?{urllib.parse.urlencode({'query': expression})}", timeout=10) as answer:
        found: list[Any] = json.load(answer)["data"]["result"]
    return found


@pytest.mark.slow
def test_every_panel_draws_something_of_a_processed_run(prometheus: str) -> None:
    empty = [
        (board, one)
        for board in monitoring.DASHBOARDS
        for one in expressions(board)
        if not query(prometheus, one.replace("$__rate_interval", "1m"))
    ]
    assert empty == []
    (images,) = query(prometheus, 'dsa110_products_published_total{asset="tile_image"}')
    assert images["value"][1] == "3"
