"""The image and compose, tested as far as possible without a container engine: each line of the Dockerfile is carried out in a clean
root, the platform is started there as compose starts it, and the contents of the compose file are checked.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from dsa110_assets import settings
from dsa110_assets_tests.docs import pages
from dsa110_assets_tests.docs.test_commands import wrong

DOCKER = pages.ROOT / "ops" / "docker"
COMPOSE: dict[str, Any] = yaml.safe_load((DOCKER / "compose.yaml").read_text(encoding="utf-8"))
SERVICES: dict[str, Any] = COMPOSE["services"]
OWN = ("platform", "worker")
READY_S = 600
INTERPRETER, DEPENDENCIES = "/opt/interpreter", "/opt/dependencies"
CLEAN_ROOT = """
set -eu
mount -t tmpfs -o mode=755 tmpfs "$1"
mkdir "$1/upper" "$1/work" "$1/root"
mount -t overlay overlay -o "lowerdir=/,upperdir=$1/upper,workdir=$1/work" "$1/root"
for place in /proc /dev /sys; do mount --rbind "$place" "$1/root$place"; done
chroot "$1/root" sh -euc "$2"
user=$(chroot "$1/root" id -u dsa110)
mount -o remount,ro "$1/root"
for place in /tmp /data/dagster /data/archive /var/cache/dsa110; do mount -t tmpfs -o mode=1777 tmpfs "$1/root$place"; done
alone='ip link set lo up; exec chroot "$1/root" setpriv --reuid "$2" --clear-groups --no-new-privs sh -euc "$3"'
exec unshare --net sh -euc "$alone" sh "$1" "$user" "$3"
"""
"""The first process of a mount and process namespace. It sees this machine's files, with everything written kept separately. It builds the
image there with the script $2. Then, as in compose, it runs the script $3 read-only except for volumes and /tmp, as another user and
without a network."""


def instructions() -> list[tuple[str, str]]:
    """The Dockerfile's instructions in order, as keyword and arguments, without comments."""
    text = (DOCKER / "Dockerfile").read_text(encoding="utf-8")
    lines = [line for line in re.sub(r"\\\n", " ", text).splitlines() if line.strip() and not line.startswith("#")]
    return [(word, rest.strip()) for word, _, rest in (line.partition(" ") for line in lines)]


def built(context: Path) -> Iterator[str]:
    """Shell lines that build the image as an engine does, with an interpreter that already has the dependencies."""
    read = {parent for used in (Path(sys.executable).resolve(), Path(pytest.__file__)) for parent in used.parents}
    yield f"chmod a+rx {' '.join(map(str, sorted(read)))}"  # other users can read these in an image, but not always here
    yield f"{sys.executable} -m venv {INTERPRETER}"
    # mounted under a separate name, because /tmp, where this checkout may be, is a different one there
    yield f"mkdir {DEPENDENCIES} && mount --bind {Path(pytest.__file__).parents[1]} {DEPENDENCIES}"
    yield f"echo {DEPENDENCIES} > $(echo {INTERPRETER}/lib/python*/site-packages)/dependencies.pth"
    yield f"export PATH={INTERPRETER}/bin:$PATH HOME=/root"
    # The dependencies are installed, in versions that pyproject.toml and the constraints must allow: only the build tools are fetched.
    yield "export PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore PIP_RETRIES=0"
    for word, rest in instructions():
        if word == "WORKDIR":
            yield f"mkdir -p {rest} && cd {rest}"
        elif word == "COPY":
            *sources, target = shlex.split(rest)
            yield f"mkdir -p $(dirname {target}/.)" if target.endswith("/") else f"mkdir -p $(dirname {target})"
            yield f"cp -r {' '.join(str(context / source) for source in sources)} {target}"
        elif word == "RUN":
            yield rest
        elif word in ("ARG", "ENV"):
            yield f"export {rest}"
        else:
            assert word in ("FROM", "USER", "HEALTHCHECK", "CMD"), f"nobody knows here what {word} does"


def environment_of_image() -> str:
    return " ".join(rest for word, rest in instructions() if word == "ENV")


def test_the_image_runs_as_an_unprivileged_user() -> None:
    words = [word for word, _ in instructions()]
    assert dict(instructions())["USER"] == "dsa110"
    assert "ADD" not in words
    assert words.index("USER") > max(place for place, word in enumerate(words) if word in ("RUN", "COPY"))
    assert wrong(json.loads(dict(instructions())["CMD"])[1:]) == ""


@pytest.mark.slow
@pytest.mark.skipif(os.geteuid() != 0, reason="a clean root needs root")
def test_every_line_of_the_dockerfile_works_and_the_platform_answers_there(tmp_path: Path) -> None:
    """The image is built only from files that COPY names, then run read-only, without privileges, by a user who owns no package file."""
    check = json.loads(re.sub(r".*?CMD ", "", dict(instructions())["HEALTHCHECK"]))
    command = shlex.join(json.loads(dict(instructions())["CMD"]))
    start = f"""
unset PYTHONPATH; cd {dict(instructions())["WORKDIR"]}
export PATH={INTERPRETER}/bin:$PATH HOME=/home/dsa110 {environment_of_image()}
python -c 'import dsa110_assets; print("package", dsa110_assets.__file__)'
! touch /opt/dsa110/probe /data/probe "$(python -c 'import dsa110_assets; print(dsa110_assets.__file__)')" 2>/dev/null
{command} > /tmp/up.log 2>&1 &
up=$!
until {shlex.join(check)} 2>/dev/null; do
  kill -0 $up || {{ cat /tmp/up.log; exit 1; }}
  sleep 1
done
echo healthy; id -u; python -c "import urllib.request as u; print(u.urlopen('http://127.0.0.1:3000/server_info').status)"
kill -TERM $up; wait $up
tail -1 /tmp/up.log
"""
    namespaces = ["unshare", "--mount", "--pid", "--fork", "--kill-child"]
    if subprocess.run([*namespaces, "true"], capture_output=True).returncode:
        pytest.skip("no namespaces on this machine")
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("DSA110_", "DAGSTER", "PYTHON", "NUMBA", "LD_"))}
    done = subprocess.run(
        [*namespaces, "sh", "-c", CLEAN_ROOT, "sh", str(tmp_path), "\n".join(built(pages.ROOT)), start],
        env=inherited, capture_output=True, text=True, timeout=READY_S,
    )  # fmt: skip
    output = done.stdout.splitlines()
    if "No matching distribution found for setuptools" in done.stderr:
        pytest.skip("no package index can be reached for what builds the package")
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert re.fullmatch(rf"package {INTERPRETER}/lib/python3\.\d+/site-packages/dsa110_assets/__init__.py", output[-5])
    assert output[-4:] == ["healthy", "10001", "200", "all stopped"]


def test_own_services_can_neither_change_the_image_nor_gain_privileges() -> None:
    for name in OWN:
        service = SERVICES[name]
        assert service["read_only"] is True
        assert service["cap_drop"] == ["ALL"]
        assert service["security_opt"] == ["no-new-privileges:true"]
        assert any(place.startswith("/tmp") for place in service["tmpfs"])
        written = {target.split(":")[1] for target in map(_plain, service["volumes"]) if not target.endswith(":ro")}
        assert written == {"/data/archive", "/data/dagster", "/var/cache/dsa110"}


def _plain(volume: str) -> str:
    """A volume with each variable replaced by its default."""
    return re.sub(r"\$\{\w+:-(.*?)\}", r"\1", volume)


def test_every_setting_is_passed_through() -> None:
    """Settings come from the file. Compose fixes only paths in the container and addresses of its services, all existing settings."""
    known = {row.name for row in settings.describe(settings.load(inbox="/a", archive="/b"))}
    for name in OWN:
        assert [file["path"] for file in SERVICES[name]["env_file"]] == ["environment"]
        fixed = {variable for variable in SERVICES[name]["environment"] if variable.startswith("DSA110_")}
        assert fixed == {"DSA110_INBOX", "DSA110_ARCHIVE", "DSA110_DATABASE_URL"}
        assert fixed <= known
    assert {part.partition("=")[0] for part in shlex.split(environment_of_image())} >= {"DSA110_HOST", "NUMBA_CACHE_DIR"}


def test_services_of_a_profile_start_only_with_it() -> None:
    of_profile: dict[str, set[str]] = {}
    for name, service in SERVICES.items():
        for profile in service.get("profiles", [""]):
            of_profile.setdefault(profile, set()).add(name)
    assert of_profile == {
        "": {"postgres", "platform"}, "workers": {"redis", "worker"}, "carta": {"carta"},
        "monitoring": {"prometheus", "alertmanager", "grafana"},
    }  # fmt: skip


def test_ports_are_this_machines_only_and_no_two_services_have_one() -> None:
    ports = [port for service in SERVICES.values() for port in service.get("ports", [])]
    assert [port for port in ports if not port.startswith("127.0.0.1:")] == []
    assert len({port.split(":")[1] for port in ports}) == len(ports)


def test_named_services_and_volumes_exist() -> None:
    """Grafana's folders are checked only where the monitoring is present."""
    for name, service in SERVICES.items():
        assert set(service.get("depends_on", [])) <= SERVICES.keys(), name
        mode = service.get("network_mode", "")
        assert not mode or mode.removeprefix("service:") in SERVICES, name
        for volume in map(_plain, service["volumes"]):
            source = volume.split(":")[0]
            if source.startswith("../grafana/") and not (pages.ROOT / "ops" / "grafana" / "provisioning").exists():
                continue
            if source.startswith("../"):
                assert (DOCKER / source).exists(), volume
            elif not source.startswith("./"):
                assert source in COMPOSE["volumes"], volume


def test_every_service_except_worker_and_carta_has_a_health_check() -> None:
    """All services have a health check except CARTA and the worker, which Dagster's own monitoring watches."""
    checked = {name for name, service in SERVICES.items() if service.get("healthcheck", {}).get("test")}
    assert checked | {"platform"} == SERVICES.keys() - {"worker", "carta"}
    assert "HEALTHCHECK" in dict(instructions())


@pytest.mark.parametrize("profile", ["monitoring", "workers", "carta"])
def test_docker_compose_accepts_the_file(profile: str) -> None:
    asks = shutil.which("docker") and subprocess.run(["docker", "compose", "version"], capture_output=True).returncode == 0
    if not asks:
        pytest.skip("no docker compose on this machine: only the file's structure is tested")
    command = ["docker", "compose", "--file", str(DOCKER / "compose.yaml"), "--profile", profile, "config", "--quiet"]
    done = subprocess.run(command, env={**os.environ, "DSA110_DB_PASSWORD": "x"}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
