"""`dsa110 docs`: build the book from the repository's pages and the code, and serve it on this machine."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import subprocess
import sys
import tempfile
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import typer

import dsa110_assets
from dsa110_assets.cli import console, services
from dsa110_assets.cli.app import app
from dsa110_assets.errors import ConfigurationError, ResourceError

NEEDED = ("mkdocs", "material", "mkdocstrings")
PAGES = "mkdocs.yml"
OUT = typer.Option(None, help="Only build it, into this directory, for another web server.")
SOURCE = typer.Option(None, help="The repository with its pages (default: that of this program, or the current directory).")


@app.command(epilog="Example: dsa110 docs")
def docs(
    port: int = typer.Option(8000, min=1, max=65535, help="Port to show it on; this machine only."),
    out: Path | None = OUT,
    source: Path | None = SOURCE,
) -> None:
    """Build the book (tutorials, how-to, reference, explanation) and show it until Ctrl-C."""
    repository = _repository(source)
    if lacking := [name for name in NEEDED if importlib.util.find_spec(name) is None]:
        missing = ", ".join(lacking)
        raise ConfigurationError(f'the book needs {missing}: pip install "dsa110-assets[docs]"; its pages can be read in docs/ without it')
    if out is not None:
        _build(repository, out)
        console.say(str(out / "index.html"))
        return
    services.require_port("127.0.0.1", port, "--port")
    with tempfile.TemporaryDirectory(prefix="dsa110-book-") as folder:
        _build(repository, Path(folder))
        with ThreadingHTTPServer(("127.0.0.1", port), partial(_Quiet, directory=folder)) as server:
            console.say(f"http://127.0.0.1:{port}")
            console.say_if_possible("Ctrl-C stops it.")
            with contextlib.suppress(KeyboardInterrupt):
                server.serve_forever()


def _repository(source: Path | None) -> Path:
    """Return the folder with the pages. Raises ConfigurationError if there is none: the installed package does not include them."""
    folders = [source] if source is not None else [Path(dsa110_assets.__file__).parents[1], Path.cwd()]
    for folder in folders:
        if (folder / PAGES).is_file():
            return folder.resolve()
    searched = " or ".join(map(str, folders))
    raise ConfigurationError(f"no {PAGES} in {searched}: name a checkout of the repository with --source")


def _build(repository: Path, site: Path) -> None:
    """Build the site. Raises ResourceError with the first warning or error."""
    console.say_if_possible("Building the book takes some seconds ...")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(site.absolute())]
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(command, cwd=repository, env=environment, capture_output=True, text=True)
    if done.returncode:
        messages = [line for line in done.stderr.splitlines() if line.strip()]
        first = next((line for line in messages if line.startswith(("WARNING", "ERROR"))), messages[-1] if messages else "no message")
        raise ResourceError(f"the book was not built: {first}; `mkdocs build --strict` in {repository} shows all")


class _Quiet(SimpleHTTPRequestHandler):
    """Serves the files of a directory without printing a line for each request."""

    def log_message(self, format: str, *args: object) -> None:
        """Print nothing."""
