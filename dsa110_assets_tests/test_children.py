"""Children: exit statuses, deadlines, and that no process is left behind."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time

import pytest

from dsa110_assets import children
from dsa110_assets.errors import ConfigurationError, ResourceError, TransientError


def python(code):
    return [sys.executable, "-c", code]


def gone(pid, within_s=10.0):
    """Whether process `pid` disappears (or is a zombie of another parent) in time."""
    end = time.monotonic() + within_s
    while time.monotonic() < end:
        try:
            with open(f"/proc/{pid}/stat") as handle:
                if handle.read().rpartition(")")[2].split()[0] == "Z":
                    return True
        except (FileNotFoundError, ProcessLookupError):  # the latter if it ends between opening and reading
            return True
    return False


def test_output_status_and_environment_are_as_given(tmp_path):
    """stdout and stderr reach the log, the status is returned, and the environment is the given one."""
    code = "import os, sys; print(os.getcwd(), os.environ['WHAT'], flush=True); print('oops', file=sys.stderr); sys.exit(3)"
    done = children.run(
        python(code),
        deadline_s=60,
        log_path=tmp_path / "deep" / "log",
        cwd=tmp_path,
        env={**os.environ, "WHAT": "this"},
    )
    assert done.returncode == 3
    assert done.tail.splitlines() == [f"{tmp_path} this", "oops"]
    with pytest.raises(TransientError, match=r"status 3(.|\n)*oops"):
        done.require_success()
    good = children.run(python("pass"), deadline_s=60, log_path=tmp_path / "log")
    assert good.require_success() is good
    assert 0 < good.elapsed_s < 60


def test_a_child_has_its_own_session(tmp_path):
    """A Ctrl-C at the terminal does not reach the child: it leads its own process group."""
    done = children.run(
        python("import os; print(os.getpgid(0) == os.getpid() == os.getsid(0))"),
        deadline_s=60,
        log_path=tmp_path / "log",
    )
    assert done.tail == "True"


FAMILY = """
import os, signal, subprocess, sys, time
{ignore}
code = 'import signal, time; {grandignore} print(0, flush=True); time.sleep(600)'
grandchild = subprocess.Popen([sys.executable, '-c', code], stdout=subprocess.PIPE)
grandchild.stdout.readline()
open({marker!r}, 'w').write(f'{{os.getpid()}} {{grandchild.pid}}')
print('working on it', flush=True)
{then}
"""


def family(marker, *, ignore=False, then="time.sleep(600)"):
    word = "signal.signal(signal.SIGTERM, signal.SIG_IGN);" if ignore else ""
    return python(FAMILY.format(ignore=word, grandignore=word, marker=str(marker), then=then))


@pytest.mark.parametrize("ignore", [False, True])
def test_overrun_kills_the_whole_group(tmp_path, monkeypatch, ignore):
    """At the deadline child and grandchild are gone, even if they ignore SIGTERM."""
    monkeypatch.setattr(children, "GRACE_S", 0.5)
    marker = tmp_path / "pids"
    with pytest.raises(TransientError, match=r"deadline of 3 s(.|\n)*working on it"):
        children.run(family(marker, ignore=ignore), deadline_s=3, log_path=tmp_path / "log")
    assert all(gone(int(pid)) for pid in marker.read_text().split())


def test_grandchildren_that_outlive_the_child_are_killed(tmp_path):
    """A grandchild that outlives a successful child is killed."""
    marker = tmp_path / "pids"
    done = children.run(family(marker, then="pass"), deadline_s=60, log_path=tmp_path / "log")
    assert done.returncode == 0
    assert all(gone(int(pid)) for pid in marker.read_text().split())


def test_an_exception_in_the_caller_kills_the_group(tmp_path):
    """Ctrl-C (or Dagster's termination) while waiting leaves no process behind."""
    marker, main = tmp_path / "pids", threading.get_ident()

    def interrupt():
        while not (marker.exists() and marker.read_text().count(" ")):
            pass
        signal.pthread_kill(main, signal.SIGINT)  # the kernel also delivers Ctrl-C to the thread that waits

    thread = threading.Thread(target=interrupt)
    thread.start()
    with pytest.raises(KeyboardInterrupt):
        children.run(family(marker), deadline_s=60, log_path=tmp_path / "log")
    thread.join()
    assert all(gone(int(pid)) for pid in marker.read_text().split())


def test_crash_and_out_of_memory_are_distinguished(tmp_path):
    """A segmentation fault may not recur and is transient; SIGKILL from outside means that memory is short."""
    crash = python("import os, signal; print('last words', flush=True); os.kill(os.getpid(), signal.SIGSEGV)")
    with pytest.raises(TransientError, match=r"SIGSEGV(.|\n)*last words"):
        children.run(crash, deadline_s=60, log_path=tmp_path / "log")
    with pytest.raises(ResourceError, match="memory"):
        children.run(
            python("import os, signal; os.kill(os.getpid(), signal.SIGKILL)"),
            deadline_s=60,
            log_path=tmp_path / "log",
        )


def test_a_program_that_cannot_start_is_a_configuration_error(tmp_path):
    with pytest.raises(ConfigurationError, match="no-such-program"):
        children.run(["no-such-program"], deadline_s=60, log_path=tmp_path / "log")


def test_no_shell_reads_the_command(tmp_path):
    done = children.run(
        [sys.executable, "-c", "import sys; print(sys.argv[1])", "$(id); a b"],
        deadline_s=60,
        log_path=tmp_path / "log",
    )
    assert done.tail == "$(id); a b"


def test_log_tail_is_short_and_tolerates_invalid_bytes(tmp_path):
    path = tmp_path / "log"
    path.write_bytes(b"\n".join(b"line %d" % i for i in range(5000)) + b"\n\xff\n\n")
    assert children.log_tail(path, 3).splitlines() == ["line 4998", "line 4999", "�"]
    assert children.log_tail(tmp_path / "none") == ""
