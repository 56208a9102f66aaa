"""Access to the portal: nothing is written, no file outside current products is read, and unknown hosts are refused."""

from __future__ import annotations

import http.client
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from dsa110_assets.archive.store import Archive
from dsa110_assets.cli.services import free_port
from dsa110_assets.errors import ConfigurationError
from dsa110_assets.portal.app import create_app
from dsa110_assets_tests.portal.conftest import Get, ask
from dsa110_assets_tests.portal.small_archive import SmallArchive, build
from dsa110_assets_tests.tiny import SMALL_DISK

TILE = "tile_image-20260125T2205-v1"
ESCAPES = (
    "../v0001/image.fits", "../../../../index.sqlite", "..%2f..%2f..%2f..%2findex.sqlite",
    "%2e%2e/product.json",
    "/etc/passwd", "%2fetc%2fpasswd", "./image.fits", "image.fits/", "image.fits/..", "", "image.fits%00.png",
    "image%0a.fits", "..%5cindex.sqlite", "x" * 500, "~/.bashrc", "nothing.fits",
)  # fmt: skip


@pytest.mark.parametrize("name", ESCAPES)
def test_only_files_inside_a_product_are_served(get: Get, name: str) -> None:
    answer = get(f"/files/{TILE}/{name}")
    assert answer.status in (400, 404)
    assert b"SQLite" not in answer.body
    assert b"root:" not in answer.body


@pytest.mark.parametrize("product", ["..", "tile_image-20260125T2205-v1%2f..", "tile_image", "archive.json", "%00"])
def test_only_products_have_files(get: Get, product: str) -> None:
    assert get(f"/files/{product}/image.fits").status in (400, 404)


def test_files_are_served_whole(get: Get, small: SmallArchive) -> None:
    answer = get(f"/files/{TILE}/image.fits")
    assert answer.status == 200
    assert answer.body == (small.products[TILE].path / "image.fits").read_bytes()
    assert f'filename="{TILE}-image.fits"' in answer.headers["content-disposition"]


def test_links_and_rejected_products_are_not_served(small: SmallArchive, tmp_path: Path) -> None:
    root = tmp_path / "archive"
    shutil.copytree(small.root, root)
    with Archive(root) as archive:
        place = Path(archive.get(TILE).path)
        (place / "outside.txt").symlink_to(small.root / "archive.json")
        (place / "elsewhere").symlink_to(small.root)
        app = create_app(root)
        assert ask(app, f"/files/{TILE}/image.fits").status == 200
        assert ask(app, f"/files/{TILE}/outside.txt").status == 404
        assert ask(app, f"/files/{TILE}/elsewhere/archive.json").status == 404
        archive.reject(TILE, "wrong")
    assert ask(app, f"/files/{TILE}/image.fits").status == 404
    assert "rejected" in ask(app, f"/products/{TILE}").text


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE"])
def test_methods_that_write_are_refused(get: Get, method: str) -> None:
    for url in ("/api/v1/products", "/", "/products/x", "/metrics"):
        assert get(url, method=method).status == 405


def test_unknown_host_names_are_refused(get: Get, small: SmallArchive) -> None:
    """A foreign page cannot reach the portal by pointing its own host name to 127.0.0.1 (DNS rebinding)."""
    assert get("/", host="evil.example").status == 400
    assert ask(create_app(small.root, hosts=("dsa110.example",)), "/", host="dsa110.example").status == 200


def test_every_answer_carries_the_security_headers(get: Get) -> None:
    for url in ("/", "/api/v1/status", "/nope", f"/files/{TILE}/preview.png"):
        headers = get(url).headers
        assert headers["x-content-type-options"] == "nosniff"
        assert "default-src 'self'" in headers["content-security-policy"]


def test_a_missing_archive_is_a_configuration_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="no archive"):
        create_app(tmp_path)


def test_the_server_starts_answers_and_ends(tmp_path: Path) -> None:
    small, port = build(tmp_path), free_port()  # a separate archive, because other tests leave alerts whose end the server would log
    command = [sys.executable, "-m", "dsa110_assets.portal", "--port", str(port)]
    environment = {**os.environ, **small.environment, "DSA110_THRESHOLDS": str(SMALL_DISK)}  # this machine's disk may be nearly full
    with (tmp_path / "log").open("wb") as log:
        server = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
    try:
        assert _answered(server, port, "/health").startswith(b'{"status":"ok"')
        raw = _answered(server, port, f"/files/{TILE}/../../../../index.sqlite")
        assert b"SQLite" not in raw
    finally:
        server.send_signal(signal.SIGTERM)
        server.wait(30)
    assert [line for line in (tmp_path / "log").read_text().splitlines() if " - INFO - " not in line] == []


def _answered(server: subprocess.Popen[bytes], port: int, path: str) -> bytes:
    """The response body of a raw request, repeated until the server listens. Raises AssertionError if it has ended."""
    while server.poll() is None:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        try:
            connection.request("GET", path)
            return connection.getresponse().read()
        except ConnectionRefusedError:
            try:
                server.wait(0.1)
            except subprocess.TimeoutExpired:
                continue
        finally:
            connection.close()
    raise AssertionError(f"the portal ended with status {server.returncode}")
