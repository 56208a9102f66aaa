"""A hostile page open in the operator's browser can neither change nor read anything on either server.

It is served under another host name that also resolves to our servers, as an attacker can arrange for a name of his own.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Event
from typing import Any

import pytest

from dsa110_assets.archive import audit
from dsa110_assets.cli.services import free_port
from dsa110_assets.orchestration.ingest import pausing
from dsa110_assets.orchestration.running.instance import open_instance
from dsa110_assets_tests.browser import answers, chromium
from dsa110_assets_tests.portal.small_archive import SmallArchive

pytestmark = pytest.mark.row(51, cases="attacks in a browser with the outcome that is claimed")

EVIL = "evil.example"
START_S, DONE_S = 120.0, 60.0
DELETE = 'mutation { deletePipelineRun(runId: "%s") { __typename } }'
PAGE = """<!doctype html><title>busy</title><body><script>
const findings = {}, address = "ADDRESS", picture = "PICTURE", text = "READ", query = encodeURIComponent(`MUTATION`);
const graphql = address + "/graphql", simple = {mode: "no-cors", method: "POST", headers: {"content-type": "text/plain"}};
function image(url) { return new Promise(done => { const i = new Image(); i.onload = i.onerror = () => done(i.naturalWidth);
  i.src = url; }); }
function frame(url) { return new Promise(done => { const f = document.createElement("iframe"); f.onload = () => done(f); f.src = url;
  document.body.append(f); }); }
function form(url) { return new Promise(done => { const f = document.createElement("iframe"); f.name = "sink" + frames.length;
  document.body.append(f);
  const o = document.createElement("form"); o.method = "POST"; o.action = url; o.target = f.name; document.body.append(o);
  f.onload = () => done(); o.submit(); }); }
function socket(url) { return new Promise(done => { const s = new WebSocket(url, "graphql-ws"); s.onopen = () => done("open");
  s.onerror = () => done("refused"); }); }
async function read(url, options) { try { return (await (await fetch(url, options)).text()).slice(0, 300); }
  catch (error) { return "refused"; } }
async function attack() {
  await image(graphql + "?query=" + query);
  findings.picture = await image(picture);
  await read(graphql + "?query=" + query, {mode: "no-cors"});
  await read(graphql + "?query=" + query, simple);
  await read(graphql, {method: "POST", headers: {"content-type": "application/json"}, body: JSON.stringify({query: `MUTATION`})});
  findings.read = await read(text);
  findings.socket = await socket(address.replace("http", "ws") + "/graphql");
  await frame(graphql + "?query=" + query);
  await form(graphql + "?query=" + query);
  const rebound = address.replace("127.0.0.1", "evil.example");  // this page's own name, now leading there
  findings.rebound = await read(text.replace("127.0.0.1", "evil.example"), {mode: "no-cors"});
  await image(rebound + "/graphql?query=" + query);
  await form(rebound + "/graphql?query=" + query);
}
attack().then(() => { window.findings = findings; document.title = "done"; }, error => { document.title = "failed: " + error; });
</script></body>"""


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    with chromium(tmp_path_factory.mktemp("hostile"), f"--host-resolver-rules=MAP {EVIL} 127.0.0.1") as opened:
        yield opened


@contextmanager
def serving(page: str) -> Iterator[str]:
    """Run the attacker's server with this page and yield its address."""

    class Server(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("content-type", "text/html")
            self.end_headers()
            self.wfile.write(page.encode())

        def log_message(self, *_: Any) -> None:
            return

    with ThreadingHTTPServer(("127.0.0.1", 0), Server) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://{EVIL}:{server.server_port}/"
        server.shutdown()


@contextmanager
def running(command: tuple[str, ...], ready: str, environment: dict[str, str], log_path: Path) -> Iterator[None]:
    with log_path.open("wb") as log:
        process = subprocess.Popen((sys.executable, "-m", *command), env=environment, stdout=log, stderr=subprocess.STDOUT)
    try:
        waited = 0.0
        while not answers(ready):
            assert process.poll() is None, log_path.read_text()
            assert waited < START_S, log_path.read_text()
            Event().wait(0.2)
            waited += 0.2
        yield
    finally:
        process.terminate()
        process.wait(60)


def visit(browser: Any, address: str) -> dict[str, Any]:
    """Open the hostile page at an address and return its findings."""
    from selenium.webdriver.support.ui import WebDriverWait

    browser.get(address)
    WebDriverWait(browser, DONE_S, poll_frequency=0.1).until(lambda opened: opened.title != "busy")
    assert browser.title == "done"
    findings: dict[str, Any] = browser.execute_script("return window.findings")
    return findings


DOOR = ("dsa110_assets.portal.door", "--local", "--host", "127.0.0.1")


@pytest.mark.slow
@pytest.mark.parametrize(("server", "guarded"), [(DOOR, True), (("dagster_webserver", "--host", "127.0.0.1"), False)])
def test_a_hostile_page_cannot_use_dagsters_server(
    browser: Any, small: SmallArchive, tmp_path: Path, server: tuple[str, ...], guarded: bool
) -> None:
    """Against Dagster's unguarded server the page deletes a run, which shows that the attack works."""
    from dagster._core.test_utils import create_run_for_test

    home, port = tmp_path / "home", free_port()
    with open_instance(home) as instance:
        run_id = create_run_for_test(instance).run_id
    (tmp_path / "workspace.yaml").write_text("load_from: []\n")
    environment = {**os.environ, **small.environment, "DAGSTER_HOME": str(home), "DAGSTER_DISABLE_TELEMETRY": "1"}
    address = f"http://127.0.0.1:{port}"
    command = (*server, "--port", str(port), "--workspace", str(tmp_path / "workspace.yaml"))
    facts = {"ADDRESS": address, "PICTURE": f"{address}/favicon.png", "READ": f"{address}/server_info", "MUTATION": DELETE % run_id}
    with running(command, f"{address}/server_info", environment, tmp_path / "log"), serving(filled(facts)) as page:
        findings = visit(browser, page)
    with open_instance(home) as instance:
        assert (instance.get_run_by_id(run_id) is not None) == guarded
    assert findings["read"] == "refused"  # neither server lets other origins read
    assert findings["socket"] == ("refused" if guarded else "open")


@pytest.mark.slow
def test_a_hostile_page_sees_nothing_of_the_portal(browser: Any, small: SmallArchive, tmp_path: Path) -> None:
    port = free_port()
    address = f"http://127.0.0.1:{port}"
    tile = next(name for name in small.products if name.startswith("tile_image"))
    picture = f"{address}/files/{tile}/preview.png"
    facts = {"ADDRESS": address, "PICTURE": picture, "READ": f"{address}/api/v1/products", "MUTATION": "mutation { x }"}
    environment = {**os.environ, **small.environment}
    command = ("dsa110_assets.portal", "--port", str(port))
    with running(command, f"{address}/health", environment, tmp_path / "log"), serving(filled(facts)) as page:
        findings = visit(browser, page)
        browser.get(address)  # on the operator's own visit everything is there
        assert "tile_image" in browser.execute_script("return document.body.innerText")
        browser.get(f"http://{EVIL}:{port}/")
        assert "host name" in browser.execute_script("return document.body.innerText")
    assert findings["read"] == "refused"
    assert findings["picture"] == 0
    assert findings["socket"] == "refused"
    assert "product_id" not in findings["rebound"]


TOKEN = "a-token-of-some-length"
ORDERS = """<!doctype html><title>busy</title><body><script>
const findings = {}, pause = "ADDRESS/api/v1/ingest/pause", body = JSON.stringify({reason: "evil"});
async function ask(url, options) { try { return (await fetch(url, {credentials: "include", method: "POST", body, ...options})).status; }
  catch (error) { return "refused"; } }
function form(url, kind) { return new Promise(done => { const f = document.createElement("iframe"); f.name = "sink" + frames.length;
  document.body.append(f); const o = document.createElement("form"); o.method = "POST"; o.action = url; o.target = f.name;
  o.enctype = kind; const i = document.createElement("input"); i.name = '{"reason": "evil", "x": "'; i.value = '"}'; o.append(i);
  document.body.append(o); f.onload = () => done(); o.submit(); }); }
async function attack() {
  for (const url of [pause, pause.replace("127.0.0.1", "evil.example")]) {
    findings.json = await ask(url, {headers: {"content-type": "application/json"}});
    findings.bearer = await ask(url, {headers: {"content-type": "application/json", authorization: "Bearer x"}});
    findings.simple = await ask(url, {mode: "no-cors", headers: {"content-type": "text/plain"}});
    findings.beacon = navigator.sendBeacon(url, new Blob([body], {type: "text/plain"}));
    for (const kind of ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data"]) await form(url, kind);
  }
}
attack().then(() => { window.findings = findings; document.title = "done"; }, error => { document.title = "failed: " + error; });
</script></body>"""
OWN = """const [path, body, csrf, done] = arguments;
fetch("/api/v1/" + path, {method: "POST", headers: {"content-type": "application/json", "x-csrf-token": csrf}, body})
  .then(async answer => done([answer.status, await answer.text()]));"""


@pytest.mark.slow
def test_a_hostile_page_cannot_give_orders_to_the_portal(browser: Any, small: SmallArchive, tmp_path: Path) -> None:
    """The page can give no order although the operator is logged in in the same browser; his own page can give the same order."""
    root, port = tmp_path / "archive", free_port()
    shutil.copytree(small.root, root)
    address = f"http://127.0.0.1:{port}"
    environment = {**os.environ, **small.environment, "DSA110_ARCHIVE": str(root), "DSA110_TOKEN": TOKEN}
    command, page = ("dsa110_assets.portal", "--port", str(port)), ORDERS.replace("ADDRESS", address)
    with running(command, f"{address}/health", environment, tmp_path / "log"), serving(page) as evil:
        browser.get(address)
        status, text = browser.execute_async_script(OWN, "session", json.dumps({"token": TOKEN, "name": "Ada"}), "")
        assert status == 201
        assert "dsa110_session" not in browser.execute_script("return document.cookie")
        findings = visit(browser, evil)
        assert pausing.paused(root) is None
        assert audit.lines(root, 1) == []
        browser.get(address)
        own = [browser.execute_async_script(OWN, "ingest/pause", '{"reason": "x"}', csrf)[0] for csrf in ("", json.loads(text)["csrf"])]
        paused = pausing.paused(root)
    assert own == [403, 200]
    assert paused is not None
    assert paused.by == "Ada"
    assert (findings["json"], findings["bearer"]) == ("refused", "refused")
    assert TOKEN not in (tmp_path / "log").read_text()


def filled(facts: dict[str, str]) -> str:
    page = PAGE
    for name, value in facts.items():
        page = page.replace(name, value)
    return page
