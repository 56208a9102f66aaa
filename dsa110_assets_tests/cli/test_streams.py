"""Standard streams that are not UTF-8 terminals: another encoding, closed, full, or without a reader."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from dsa110_assets.cli import app
from dsa110_assets_tests.portal.small_archive import SmallArchive

pytestmark = pytest.mark.row(49, cases="commands and streams")

PROGRAM = [sys.executable, "-c", "import sys; from dsa110_assets.cli import main; sys.exit(main(sys.argv[1:]))"]
READING = (("products",), ("--help",), ("settings",), ("thresholds", "flux"), ("calibration", "list"), ("status",))


def shell(
    small: SmallArchive, tmp_path: Path, command: tuple[str, ...], redirections: str = "", **environment: str
) -> tuple[int, str, str]:
    """Exit status, standard output and standard error of a command run by a shell with redirections."""
    given = {**os.environ, **small.environment, "XDG_STATE_HOME": str(tmp_path / "state"), **environment}
    done = subprocess.run(["sh", "-c", f'exec "$@" {redirections}', "sh", *PROGRAM, *command], env=given, capture_output=True, timeout=300)
    return done.returncode, done.stdout.decode("latin-1"), done.stderr.decode("latin-1")


@pytest.mark.parametrize("command", READING, ids=" ".join)
@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp1252", "ascii:strict"])
def test_characters_that_cannot_be_shown_are_replaced(small: SmallArchive, tmp_path: Path, command: tuple[str, ...], encoding: str) -> None:
    status, out, err = shell(small, tmp_path, command, PYTHONIOENCODING=encoding)
    assert (status, "Traceback" in err) == (0, False)
    assert out.strip()


def test_commands_work_in_a_locale_without_unicode(small: SmallArchive, tmp_path: Path) -> None:
    assert shell(small, tmp_path, ("products",), LC_ALL="C", PYTHONUTF8="0", PYTHONCOERCECLOCALE="0")[0] == 0


def test_json_stays_whole_in_any_encoding(small: SmallArchive, tmp_path: Path) -> None:
    """A program that reads the JSON gets every character back."""
    tables = [shell(small, tmp_path, ("settings", "--json"), PYTHONIOENCODING=encoding)[1] for encoding in ("ascii", "utf-8")]
    ascii_, unicode = json.loads(tables[0]), json.loads(tables[1].encode("latin-1").decode())
    assert ascii_ == unicode
    assert any("≥" in row["limits"] for row in ascii_)


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", ">&- 2>&-", "<&- >&- 2>&-"])
def test_closed_streams_stop_no_work(small: SmallArchive, tmp_path: Path, closed: str) -> None:
    assert shell(small, tmp_path, ("products",), closed)[0] == 0


def test_opened_files_do_not_get_the_numbers_of_closed_streams(small: SmallArchive, tmp_path: Path) -> None:
    """Otherwise the output of a library would be written into the file."""
    code = (
        "import os, sys; from dsa110_assets.cli import console; console.make_streams_fit(); "
        "print([os.open('/dev/zero', os.O_RDONLY) > 2 for _ in range(2)], file=open(sys.argv[1], 'w'))"
    )
    subprocess.run(
        ["sh", "-c", 'exec "$@" <&- >&- 2>&-', "sh", sys.executable, "-c", code, str(tmp_path / "outcome")], check=True, timeout=60
    )
    assert (tmp_path / "outcome").read_text().strip() == "[True, True]"


@pytest.mark.parametrize("command", [*READING, ("products", "--json"), ("settings", "--json")], ids=" ".join)
def test_unwritable_standard_output_is_an_error(small: SmallArchive, tmp_path: Path, command: tuple[str, ...]) -> None:
    status, _, err = shell(small, tmp_path, command, ">/dev/full")
    assert status == 1
    assert "standard output cannot be written (No space left on device)" in err
    assert not (tmp_path / "state").exists()  # not logged, because it is no fault of the program


def test_warnings_that_cannot_be_written_stop_no_work(small: SmallArchive, tmp_path: Path) -> None:
    status, out, _ = shell(small, tmp_path, ("products", "--json"), "2>/dev/full")
    assert status == 0
    assert json.loads(out)


def test_a_wrong_command_has_its_exit_status_without_output_too(small: SmallArchive, tmp_path: Path) -> None:
    assert shell(small, tmp_path, ("nonsense",), "2>/dev/full")[0] == 2


def test_a_fault_without_a_log_is_reported_on_standard_error(small: SmallArchive, tmp_path: Path) -> None:
    """Without a log the traceback goes to standard error."""
    code = "import sys; from dsa110_assets.cli import app; app.log_path = lambda: None; sys.exit(app._fault(ValueError('x')))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 70
    assert "the traceback is above" in done.stderr
    assert "ValueError: x" in done.stderr


@pytest.mark.parametrize("number", [errno.EACCES, errno.EROFS, errno.ENOSPC, errno.EIO, errno.ESTALE])
def test_a_refused_path_is_reported_in_a_sentence(number: int, capsys: pytest.CaptureFixture[str]) -> None:
    """An unexpected error with a path is reported as a sentence; without a path it is a fault of the program."""
    assert app._refused(OSError(number, os.strerror(number), "/some/place")) == 1
    assert capsys.readouterr().err.startswith(f"dsa110: /some/place: {os.strerror(number)}; let this user use it")


@pytest.mark.parametrize("command", [("products", ""), ("groups", ""), ("process", " "), ("archive", "backup", ""), ("simulate", "")])
def test_an_empty_argument_is_not_the_current_directory(capsys: pytest.CaptureFixture[str], command: tuple[str, ...]) -> None:
    """As in `dsa110 process "$INBOX"` if the variable is not set."""
    assert app.run(command) == 2
    assert "an argument is empty" in capsys.readouterr().err


def test_a_deleted_current_directory_is_reported_in_a_sentence(small: SmallArchive, tmp_path: Path) -> None:
    code = 'mkdir "$0/gone"; cd "$0/gone"; rmdir "$0/gone"; exec "$@"'
    environment = {**os.environ, **small.environment, "DSA110_ARCHIVE": "relative", "XDG_STATE_HOME": str(tmp_path / "state")}
    command = ["sh", "-c", code, str(tmp_path), *PROGRAM, "status"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert "the current directory is gone" in done.stderr
