"""The chart's values, and a run launched from them by Dagster's own launcher against a server that answers Kubernetes' routes.

No chart is rendered and no cluster is used, because neither is available here. The part of the values that becomes the launcher's
configuration is placed as the chart places it, and read with the launcher's own schema.
"""

from __future__ import annotations

import http.server
import json
import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
import yaml
from dagster._core.definitions.reconstruct import ReconstructableRepository
from dagster._core.launcher import LaunchRunContext, WorkerStatus

import dsa110_assets
from dsa110_assets.orchestration import NO_HOME

VALUES = Path(dsa110_assets.__file__).parents[1] / "ops" / "kubernetes" / "values.yaml"
JOBS = "/apis/batch/v1/namespaces/dsa110/jobs"


class FakeCluster(http.server.ThreadingHTTPServer):
    """A server of Kubernetes routes: jobs can be created, read and deleted, and the list of pods is always empty."""

    def __init__(self) -> None:
        self.jobs: dict[str, dict[str, Any]] = {}
        self.status: dict[str, Any] = {"active": 1}
        super().__init__(("127.0.0.1", 0), _Routes)
        threading.Thread(target=self.serve_forever, daemon=True).start()


class _Routes(http.server.BaseHTTPRequestHandler):
    server: FakeCluster

    def do_POST(self) -> None:
        assert self.path == JOBS
        job = json.loads(self.rfile.read(int(self.headers["content-length"])))
        self.server.jobs[job["metadata"]["name"]] = job
        self._answer(201, job)

    def do_GET(self) -> None:
        if self.path.startswith("/api/v1/namespaces/dsa110/pods?"):
            self._answer(200, {"kind": "PodList", "apiVersion": "v1", "metadata": {}, "items": []})
        elif (found := re.fullmatch(rf"{JOBS}/([^/]+)/status", self.path)) and found[1] in self.server.jobs:
            self._answer(200, {**self.server.jobs[found[1]], "status": self.server.status})
        else:
            self._answer(404, {"kind": "Status", "code": 404})

    def do_DELETE(self) -> None:
        del self.server.jobs[self.path.removeprefix(f"{JOBS}/")]
        self._answer(200, {"kind": "Status", "status": "Success"})

    def _answer(self, code: int, content: dict[str, Any]) -> None:
        body = json.dumps(content).encode()
        self.send_response(code)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Log nothing."""


@pytest.fixture
def cluster() -> Iterator[FakeCluster]:
    server = FakeCluster()
    yield server
    server.shutdown()
    server.server_close()


def snake(name: str) -> str:
    """The name of a chart value in Dagster's configuration."""
    return re.sub(r"(?<=[a-z0-9])([A-Z])", r"_\1", name).lower()


def from_chart(values: dict[str, Any], kubeconfig: Path) -> dict[str, Any]:
    """dagster.yaml as the chart makes it from these values, except for the cluster's address and the storage, which are this test's."""
    given = dict(values["runLauncher"]["config"]["k8sRunLauncher"])
    given |= {"loadInclusterConfig": False, "kubeconfigFile": str(kubeconfig)}
    config = {snake(name): value for name, value in given.items()}
    config["run_k8s_config"] = {snake(part): {snake(k): v for k, v in of.items()} for part, of in config["run_k8s_config"].items()}
    config |= {
        "job_namespace": "dsa110", "service_account_name": "dagster", "instance_config_map": "dsa110-dagster-instance",
        "postgres_password_secret": values["global"]["postgresqlSecretName"], "dagster_home": values["global"]["dagsterHome"],
    }  # fmt: skip
    of_daemon = values["dagsterDaemon"]
    return {
        "run_launcher": {"module": "dagster_k8s", "class": "K8sRunLauncher", "config": config},
        "run_coordinator": of_daemon["runCoordinator"]["config"]["customRunCoordinator"],
        "run_monitoring": {snake(name): value for name, value in of_daemon["runMonitoring"].items()},
        "run_retries": {snake(name): value for name, value in of_daemon["runRetries"].items()},
        "telemetry": values["telemetry"],
    }


@pytest.fixture
def instance(cluster: FakeCluster, tmp_path: Path) -> Iterator[dg.DagsterInstance]:
    """A Dagster instance as the chart configures it, with the fake cluster."""
    address = f"http://127.0.0.1:{cluster.server_port}"
    kubeconfig = {
        "apiVersion": "v1", "kind": "Config", "current-context": "fake", "users": [{"name": "nobody", "user": {}}],
        "clusters": [{"name": "fake", "cluster": {"server": address}}],
        "contexts": [{"name": "fake", "context": {"cluster": "fake", "user": "nobody"}}],
    }  # fmt: skip
    (tmp_path / "kubeconfig").write_text(yaml.safe_dump(kubeconfig))
    values = yaml.safe_load(VALUES.read_text())
    (tmp_path / "dagster.yaml").write_text(yaml.safe_dump(from_chart(values, tmp_path / "kubeconfig")))
    with dg.DagsterInstance.from_config(str(tmp_path)) as made:
        yield made


def launched(instance: dg.DagsterInstance) -> dg.DagsterRun:
    """Launch a run of the platform's own job as the daemon does. Its code server has the image, volumes and variables of the values."""
    (deployment,) = yaml.safe_load(VALUES.read_text())["dagster-user-deployments"]["deployments"]
    image = f"{deployment['image']['repository']}:{deployment['image']['tag']}"
    context = {
        "k8s": {
            "env_vars": [f"{one['name']}={one['value']}" for one in deployment["env"]], "volumes": deployment["volumes"],
            "env_secrets": [one["name"] for one in deployment["envSecrets"]], "volume_mounts": deployment["volumeMounts"],
        }
    }  # fmt: skip
    repository = ReconstructableRepository.for_module("dsa110_assets.definitions", "defs", container_image=image, container_context=context)
    job = repository.get_reconstructable_job("observations")
    run = instance.create_run_for_job(job.get_definition(), job_code_origin=job.get_python_origin(), status=dg.DagsterRunStatus.STARTING)
    instance.run_launcher.launch_run(LaunchRunContext(dagster_run=run, workspace=None))
    return run


def test_a_run_becomes_a_job_with_the_image_the_volumes_and_the_limits(cluster: FakeCluster, instance: dg.DagsterInstance) -> None:
    run = launched(instance)
    (job,) = cluster.jobs.values()
    pod = job["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    assert container["image"] == "registry.example.org/dsa110-assets:0.1.0"
    assert container["args"][:3] == ["dagster", "api", "execute_run"]
    assert run.run_id in container["args"][3]
    assert container["resources"]["limits"] == {"cpu": "2", "memory": "4Gi"}
    assert {mount["mountPath"] for mount in container["volumeMounts"]} >= {"/data/archive", "/data/incoming", "/scratch"}
    assert {volume["name"] for volume in pod["volumes"]} >= {"archive", "incoming", "scratch"}
    assert {"name": "DSA110_ARCHIVE", "value": "/data/archive"} in container["env"]
    assert {"secretRef": {"name": "dsa110-settings"}} in container["envFrom"]
    assert container["securityContext"]["readOnlyRootFilesystem"] is True
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert job["spec"]["backoffLimit"] == 0
    assert job["metadata"]["labels"]["dagster/run-id"] == run.run_id


def test_running_failed_and_vanished_jobs_are_distinguished(cluster: FakeCluster, instance: dg.DagsterInstance) -> None:
    run = launched(instance)
    assert instance.run_launcher.check_run_worker_health(run).status == WorkerStatus.RUNNING
    cluster.status = {"failed": 1}
    assert instance.run_launcher.check_run_worker_health(run).status == WorkerStatus.FAILED
    cluster.jobs.clear()
    assert instance.run_launcher.check_run_worker_health(run).status == WorkerStatus.UNKNOWN


def test_ending_a_run_deletes_its_job(cluster: FakeCluster, instance: dg.DagsterInstance) -> None:
    run = launched(instance)
    assert instance.run_launcher.terminate(run.run_id)
    assert cluster.jobs == {}


def test_daemon_and_portal_share_settings_and_volumes_of_the_code_server() -> None:
    """Otherwise the daemon could give no sign of life, hold no lock and not see `dsa110 drain`, and nothing would notice."""
    values = yaml.safe_load(VALUES.read_text())
    (deployment,), of_daemon = values["dagster-user-deployments"]["deployments"], values["dagsterDaemon"]
    portal, _ = yaml.safe_load_all(VALUES.with_name("portal.yaml").read_text())
    pod = portal["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    home = values["global"]["dagsterHome"]
    assert of_daemon["env"] == deployment["env"]
    assert of_daemon["envSecrets"] == deployment["envSecrets"] == [one["secretRef"] for one in container["envFrom"]]
    assert container["env"][: len(deployment["env"])] == deployment["env"]
    assert container["image"] == f"{deployment['image']['repository']}:{deployment['image']['tag']}"
    assert pod["volumes"] == deployment["volumes"]
    assert container["volumeMounts"] == deployment["volumeMounts"]
    assert of_daemon["volumeMounts"] == [*deployment["volumeMounts"], {"name": "home", "mountPath": home}]
    assert of_daemon["volumes"] == [*deployment["volumes"], {"name": "home", "emptyDir": {}}]


def test_the_image_runs_our_daemon_and_dagsters_other_commands(tmp_path: Path) -> None:
    """The commands with which the chart starts and probes the daemon."""
    path = os.pathsep.join([str(VALUES.parents[1] / "docker"), str(Path(sys.executable).parent), os.environ["PATH"]])
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("DSA110_", "DAGSTER"))}

    def run_command(command: list[str], **settings: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(command, env={**inherited, "PATH": path, **settings}, capture_output=True, text=True, timeout=120)

    run = run_command(["/bin/bash", "-c", "dagster-daemon run -w /dagster-workspace/workspace.yaml"])
    assert (run.returncode, run.stderr.splitlines()) == (1, [NO_HOME])
    (tmp_path / "dagster.yaml").write_text("telemetry: {enabled: false}\n")
    probe = yaml.safe_load(VALUES.read_text())["dagsterDaemon"]["livenessProbe"]["exec"]["command"]
    check = run_command(probe, DAGSTER_HOME=str(tmp_path))
    assert (check.returncode, check.stdout) == (1, "Daemon(s) not running\n"), check.stderr


def test_the_charts_requirements_are_those_in_needed_yaml() -> None:
    values, objects = yaml.safe_load(VALUES.read_text()), yaml.safe_load_all(VALUES.with_name("needed.yaml").read_text())
    names = {(one["kind"], one["metadata"]["name"]) for one in objects}
    (deployment,) = values["dagster-user-deployments"]["deployments"]
    claims = {of["persistentVolumeClaim"]["claimName"] for of in deployment["volumes"] if "persistentVolumeClaim" in of}
    secrets = {values["global"]["postgresqlSecretName"], *(one["name"] for one in deployment["envSecrets"])}
    assert names == {("PersistentVolumeClaim", name) for name in claims} | {("Secret", name) for name in secrets}
