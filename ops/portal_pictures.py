"""Renew the portal's pictures in docs/portal.md from the archive of `ops/demo`: python ops/portal_pictures.py.

DSA110_ARCHIVE and the other settings can name another archive. Needs chromium and chromedriver (Debian: chromium, chromium-driver).
"""

from __future__ import annotations

import os
import sys
import tempfile
import threading
from pathlib import Path
from typing import Any
from urllib.parse import quote

ROOT = Path(__file__).resolve().parent.parent
PICTURES = ROOT / "ops" / "pictures"
WIDE, NARROW, TALL, PATIENCE_S, COLOURS = 1280, 420, 1500, 60.0, 96
DRAWN = """
const sky = document.getElementById("sky");
return document.readyState === "complete" && (!sky || sky.dataset.lacking === "0") && [...document.images].every((one) => one.complete)
  && [...document.querySelectorAll("[data-chart]")].every((one) => one.dataset.drawn);
"""


def main() -> int:
    sys.path.insert(0, str(ROOT))
    demo = Path(os.environ.get("DSA110_DEMO", "").strip() or ROOT / "demo").resolve()
    for name, place in (("DSA110_ARCHIVE", "archive"), ("DSA110_INBOX", "inbox"), ("DAGSTER_HOME", "dagster")):
        os.environ.setdefault(name, str(demo / place))
    from dsa110_assets_tests.browser import chromium

    address = serve()
    with tempfile.TemporaryDirectory() as profile, chromium(Path(profile), "--hide-scrollbars") as browser:
        for name, page, width, height, dark in pages():
            take(browser, address + page, PICTURES / f"portal-{name}.png", width, height, dark=dark)
            print(f"ops/pictures/portal-{name}.png")
    return 0


def pages() -> list[tuple[str, str, int, int, bool]]:
    """(name, page, width, height, whether in the dark colour scheme) of each picture: newest products and first candidate."""
    from dsa110_assets.analyst import open_archive
    from dsa110_assets.archive import caltable_registry

    archive = open_archive()
    source = str(archive.variables(0.01)["source_id"][0])
    curve = archive.light_curve(source)
    place = f"ra={curve.meta['ra'].to_value('deg')}&dec={curve.meta['dec'].to_value('deg')}"
    nights = archive.store.nights(3)
    tables = max(caltable_registry.sets(archive.store), key=lambda one: one.mid_mjd).set_id
    return [
        ("front", "/", WIDE, 1000, False),
        ("front-narrow", "/", NARROW, 1000, True),
        ("timeline", f"/timeline?since={nights[-1]}&until={nights[0]}", WIDE, 760, False),
        ("trends", f"/trends?since={nights[0]}&until={nights[0]}", WIDE, 900, True),
        ("source", f"/sources/{quote(source)}", WIDE, 1150, False),
        ("viewer", f"/view/{curve['product_id'][-1]}?{place}", WIDE, 1000, True),
        ("calibration", f"/calibration/{tables}", WIDE, 900, False),
    ]


def serve() -> str:
    """Serve the portal from this process on a free port and return its address."""
    import uvicorn

    from dsa110_assets import settings
    from dsa110_assets.cli.services import free_port
    from dsa110_assets.portal.app import create_app
    from dsa110_assets_tests.browser import answers

    configured, port = settings.load(), free_port()
    app = create_app(configured.archive, inbox=configured.inbox, settings=configured)
    server = uvicorn.Server(uvicorn.Config(app, port=port, log_level="warning"))
    threading.Thread(target=server.run, daemon=True).start()
    pause = threading.Event()
    while not answers(f"http://127.0.0.1:{port}/health"):
        pause.wait(0.1)
    return f"http://127.0.0.1:{port}"


def take(browser: Any, address: str, path: Path, width: int, height: int, *, dark: bool) -> None:
    """Take one picture and reduce its colours, so that the file is small."""
    from PIL import Image
    from selenium.webdriver.support.ui import WebDriverWait

    scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [scheme]})
    size = {"width": width, "height": TALL, "deviceScaleFactor": 1, "mobile": False}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    browser.get(address)
    WebDriverWait(browser, PATIENCE_S, poll_frequency=0.2).until(lambda opened: opened.execute_script(DRAWN))
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", {**size, "height": height})
    WebDriverWait(browser, PATIENCE_S, poll_frequency=0.2).until(lambda opened: opened.execute_script(DRAWN))
    browser.save_screenshot(str(path))
    Image.open(path).convert("RGB").quantize(COLOURS, dither=Image.Dither.NONE).save(path, optimize=True)


if __name__ == "__main__":
    sys.exit(main())
