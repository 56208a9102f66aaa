"""The command tree, and the only place that turns an error into a sentence and an exit status."""

from __future__ import annotations

import errno
import gc
import importlib
import logging
import os
import signal
import sys
import tempfile
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import typer

from dsa110_assets import surroundings
from dsa110_assets.cli import console
from dsa110_assets.errors import DsaError

EXIT_INCOMPLETE, EXIT_USAGE, EXIT_CHECKS, EXIT_FAULT, EXIT_INTERRUPTED = 1, 2, 3, 70, 130
REFUSALS = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.ESTALE, errno.ENAMETOOLONG)
"""Errors which mean that a path cannot be used, rather than that this program requested the wrong one."""
_GARBAGE_AFTER = 50_000
"""Number of new objects after which Python looks for cycles; its default of 700 costs a second, all of it in imports."""
COMMAND_MODULES = (
    "simulate",
    "process",
    "up",
    "inbox",
    "transits",
    "products",
    "sources",
    "export",
    "status",
    "checks",
    "runs",
    "drain",
    "units",
    "report",
    "doctor",
    "docs",
    "calibration",
    "archive",
    "trial",
    "requested",
    "alerts",
    "worker",
    "tools.convert",
    "tools.image",
    "tools.calibrate",
    "tools.measure",
)
# Typer gives no public name to the base of its usage errors; BadParameter → UsageError → this.
_USAGE_ERROR: type[Exception] = typer.BadParameter.__mro__[2]

app = typer.Typer(
    name="dsa110",
    help="The DSA-110 continuum sky as an asset graph: simulate, process, look, trust.",
    epilog="Start with: dsa110 doctor · Settings are environment variables: dsa110 settings",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.callback()
def _root(
    version: bool = typer.Option(False, "--version", help="Print the version and stop.", is_eager=True),
) -> None:
    if version:
        from dsa110_assets import __version__

        console.say(f"dsa110 {__version__}")
        raise typer.Exit


def build() -> typer.Typer:
    """Return the whole command tree; every module adds its commands to `app` once."""
    for name in COMMAND_MODULES:
        importlib.import_module(f"dsa110_assets.cli.{name}")
    return app


def run(arguments: Sequence[str] | None) -> int:
    """Run the command tree and turn whatever happens into an exit status (see `cli.main`)."""
    gc.set_threshold(_GARBAGE_AFTER)
    if not sys.warnoptions:  # observers do not need the libraries' warnings; -W shows them
        logging.captureWarnings(True)
    console.make_streams_fit()
    if any(not word.strip() for word in (sys.argv[1:] if arguments is None else arguments)):
        console.warn("dsa110: an argument is empty, perhaps a variable that is not set; as a path it would mean the current directory")
        return EXIT_USAGE
    try:
        with _sigterm_interrupts():
            status = build()(args=arguments, prog_name="dsa110", standalone_mode=False)
        if status == EXIT_INTERRUPTED:  # Typer's own, for an interrupt inside a command
            raise KeyboardInterrupt
        sys.stdout.flush()
    except _USAGE_ERROR as error:
        return _usage(error)
    except DsaError as error:
        console.warn(f"dsa110: {' '.join(str(error).split())}")
        return EXIT_INCOMPLETE
    except (KeyboardInterrupt, typer.Abort):
        console.warn("dsa110: interrupted; what was published stays, the rest resumes when run again")
        return EXIT_INTERRUPTED
    except BrokenPipeError:  # the reader, such as `head`, has read enough
        console.discard_output(sys.stdout)
        return EXIT_INCOMPLETE
    except Exception as error:  # noqa: BLE001  the process boundary: nothing may end in a bare traceback
        if surroundings.is_nowhere():  # whatever failed: 3.13 cannot even import from there
            console.warn("dsa110: the current directory is gone; change to another (cd), and run this again")
            return EXIT_INCOMPLETE
        return _refused(error) if isinstance(error, OSError) else _fault(error)
    return status if isinstance(status, int) else 0


@contextmanager
def _sigterm_interrupts() -> Iterator[None]:
    """Make SIGTERM end a command as Ctrl-C does: with a sentence, after removing locks and drafts."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    previous_handler = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous_handler)


def _usage(error: Exception) -> int:
    context = getattr(error, "ctx", None)
    command = context.command_path if context is not None else "dsa110"
    message = getattr(error, "format_message", error.__str__)()
    if not message:  # a group without a command: print its help
        console.say(context.get_help() if context is not None else "")
        return EXIT_USAGE
    console.warn(f"{command}: {' '.join(message.split()).rstrip('.')}. Try: {command} --help")
    return EXIT_USAGE


def _refused(error: OSError) -> int:
    """Report an error of the system: standard output, or a path that this user or this machine may not use; any other is a fault."""
    if error.filename is not None and error.errno in REFUSALS:
        console.warn(f"dsa110: {error.filename}: {error.strerror}; let this user use it, or name another place (dsa110 doctor)")
        return EXIT_INCOMPLETE
    if not console.is_lost(sys.stdout):
        return _fault(error)
    console.discard_output(sys.stdout)
    console.warn(f"dsa110: standard output cannot be written ({error.strerror}): the output is incomplete; send it elsewhere")
    return EXIT_INCOMPLETE


def _fault(error: Exception) -> int:
    path = log_path()
    handler: logging.StreamHandler[Any] = logging.StreamHandler() if path is None else logging.FileHandler(path, encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s %(message)s"))
    logger = logging.getLogger("dsa110_assets.cli")
    logger.addHandler(handler)
    logger.propagate = False
    logger.error("dsa110 %s", " ".join(sys.argv[1:]), exc_info=error)
    logger.removeHandler(handler)
    handler.close()
    summary = " ".join(str(error).split()) or "no message"
    console.warn(
        f"dsa110: a fault of this program, {type(error).__name__}: {summary}; the traceback is {f'in {path}' if path else 'above'}"
    )
    return EXIT_FAULT


def log_path() -> Path | None:
    """Return the log of this program's faults: in the user's state directory, else the temporary one; None if neither is writable."""
    home = os.environ.get("XDG_STATE_HOME") or os.path.join(os.path.expanduser("~"), ".local", "state")
    for folder, name in ((Path(home, "dsa110"), "dsa110.log"), (None, f"dsa110-{os.getuid()}.log")):
        try:
            path = (folder or Path(tempfile.gettempdir())) / name
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("a", encoding="utf-8"):
                return path
        except OSError:
            continue
    return None
