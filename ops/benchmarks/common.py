"""Shared by all benchmarks: contenders run in child processes, rows of figures, tables and plots.

A contender is a function of a benchmark file, called in a separate process. Its wall time is that of the whole process,
including imports and compiled caches, unless the function returns "wall_s": then that is the figure, and the remark must
say what it leaves out. CPU seconds and peak memory are always those of the whole process tree. Contenders that are not
peers keep freed memory for reuse (`heap`), as the platform's steps do.

A benchmark file NAME.py has `rows(data: Data, repeats: int) -> list[Row]`; `ops/benchmarks/NAME` runs it alone and
`ops/benchmarks/all` with the others.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import importlib.util
import json
import os
import platform
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

GIB = 2**30
SAMPLING_S = 0.05
PACKAGES = (
    "numpy", "numba", "h5py", "pyuvdata", "python-casacore", "casatools", "ducc0", "reproject", "astropy", "duckdb", "pyarrow",
    "dagster",
)  # fmt: skip
PROGRAMS = {"wsclean": ("wsclean", "--version"), "aoflagger": ("aoflagger", "--version")}


@dataclass(frozen=True)
class Contender:
    """One engine at one stage: `function`, module-level in a benchmark file, called with `arguments` (plain JSON).

    The function returns a dict of accuracy figures (name with unit: number), and may add "wall_s" (see above) and
    "remark". `peer` marks the engines that the project is measured against. `most` limits the repeats of a slow engine.
    `inputs`, files and folders, are read before the clock starts, so that they are in the page cache, as the stage before
    leaves them.
    """

    stage: str
    engine: str
    function: Callable[..., dict[str, Any]]
    arguments: dict[str, Any] = field(default_factory=dict)
    remark: str = ""
    peer: bool = False
    most: int = 100
    limit_s: float = 900.0
    inputs: tuple[str, ...] = ()


@dataclass(frozen=True)
class Row:
    """Figures of one engine at one stage, one value per repeat. `failed` says why there are none, or why `wall_s` is only the time
    limit at which the engine was ended."""

    stage: str
    engine: str
    wall_s: tuple[float, ...] = ()
    cpu_s: tuple[float, ...] = ()
    peak_gib: float = float("nan")
    remark: str = ""
    accuracy: dict[str, float] = field(default_factory=dict)
    peer: bool = False
    failed: str = ""

    @property
    def median_s(self) -> float:
        return statistics.median(self.wall_s) if self.wall_s else float("nan")


def compare(contenders: Sequence[Contender], repeats: int = 1) -> list[Row]:
    """Run every contender `repeats` times, in turn, so that a slow minute of the machine affects all of them equally.

    A contender that fails is not tried again, and its row says why. Peak memory is the largest of the repeats, accuracy
    that of the last.
    """
    rows = [Row(c.stage, c.engine, remark=c.remark, peer=c.peer) for c in contenders]
    for repeat in range(repeats):
        for number, contender in enumerate(contenders):
            if rows[number].failed or repeat >= contender.most:
                continue
            sys.stdout.write(f"{time.strftime('%H:%M:%S')} {contender.stage}: {contender.engine}, {repeat + 1} of {repeats} ... ")
            sys.stdout.flush()
            rows[number] = done = _added(rows[number], contender)
            print(f"failed: {done.failed}" if done.failed else f"{done.wall_s[-1]:.2f} s, {done.peak_gib:.2f} GiB", flush=True)
    return rows


def _added(row: Row, contender: Contender) -> Row:
    _read(contender.inputs)
    try:
        wall_s, cpu_s, peak_gib, figures = run(contender.function, contender.arguments, contender.limit_s, not contender.peer)
    except subprocess.TimeoutExpired:
        why = f"ended after {contender.limit_s:.0f} s"
        return Row(row.stage, row.engine, (contender.limit_s,), (float("nan"),), remark=row.remark, peer=row.peer, failed=why)
    except RuntimeError as problem:
        return Row(row.stage, row.engine, remark=row.remark, peer=row.peer, failed=str(problem).replace("\n", " ")[-300:])
    remark = "; ".join(filter(None, (contender.remark, figures.pop("remark", ""))))
    wall_s = figures.pop("wall_s", wall_s)
    peak = peak_gib if not row.wall_s else max(peak_gib, row.peak_gib)
    return Row(row.stage, row.engine, (*row.wall_s, wall_s), (*row.cpu_s, cpu_s), peak, remark, figures, row.peer)


def _read(inputs: Sequence[str]) -> None:
    chunk = bytearray(4 << 20)
    for path in map(Path, inputs):
        for file in sorted(path.rglob("*")) if path.is_dir() else [path]:
            if file.is_file():
                with file.open("rb", buffering=0) as source:
                    while source.readinto(chunk):
                        pass


def run(
    function: Callable[..., dict[str, Any]], arguments: dict[str, Any], limit_s: float = 900.0, step: bool = False
) -> tuple[float, float, float, dict[str, Any]]:
    """Call `function` in a new process and return (wall s, CPU s, peak GiB of the process tree, its result).

    A `step` keeps freed memory for reuse. Raises RuntimeError with the end of standard error if the function fails, and
    TimeoutExpired after `limit_s`, when the whole process group has been killed.
    """
    with tempfile.TemporaryDirectory(prefix="dsa110-benchmark-") as place:
        answer, errors = Path(place) / "answer.json", Path(place) / "errors"
        called = {
            "file": function.__code__.co_filename, "function": function.__name__, "arguments": arguments, "answer": str(answer),
            "step": step,
        }  # fmt: skip
        with errors.open("wb") as stderr:
            began = time.perf_counter()
            child = subprocess.Popen(
                [sys.executable, __file__, json.dumps(called)], stdout=stderr, stderr=stderr, start_new_session=True,
                env={**os.environ, "PYTHONPATH": _path()},
            )  # fmt: skip
            memory = _Memory(child.pid)
            overrun = threading.Timer(limit_s, lambda: os.killpg(child.pid, signal.SIGKILL))
            overrun.start()
            _, status, usage = os.wait4(child.pid, 0)
            wall_s = time.perf_counter() - began
            child.returncode = os.waitstatus_to_exitcode(status)
            overrun.cancel()
        peak = max(memory.stop(), usage.ru_maxrss * 1024)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child.pid, signal.SIGKILL)  # so that nothing outlives its turn and disturbs the next one
        if wall_s >= limit_s:
            raise subprocess.TimeoutExpired(function.__name__, limit_s)
        if child.returncode or not answer.exists():
            raise RuntimeError(f"exit status {child.returncode}: {errors.read_text(errors='replace').strip()[-300:]}")
        return wall_s, usage.ru_utime + usage.ru_stime, peak / GIB, json.loads(answer.read_text())


def _path() -> str:
    """PYTHONPATH of child processes, which import the package of this tree and other benchmark files."""
    here = Path(__file__).resolve().parent
    return os.pathsep.join([str(here.parent.parent), str(here), os.environ.get("PYTHONPATH", "")])


class _Memory:
    """Peak resident memory of a process tree [bytes]: the sampled sum over its processes. Shared pages count in each process."""

    def __init__(self, pid: int) -> None:
        self._pid, self._peak, self._ended = pid, 0, threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def stop(self) -> int:
        self._ended.set()
        self._thread.join()
        return self._peak

    def _watch(self) -> None:
        while not self._ended.wait(SAMPLING_S):
            self._peak = max(self._peak, sum(_resident(pid) for pid in _tree(self._pid)))


def _tree(root: int) -> Iterable[int]:
    waiting = [root]
    while waiting:
        pid = waiting.pop()
        yield pid
        for task in _listed(f"/proc/{pid}/task"):
            with contextlib.suppress(OSError):
                waiting.extend(map(int, Path(f"/proc/{pid}/task/{task}/children").read_text().split()))


def _listed(folder: str) -> list[str]:
    with contextlib.suppress(OSError):
        return os.listdir(folder)
    return []


def _resident(pid: int) -> int:
    with contextlib.suppress(OSError, IndexError):
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    return 0


def answer() -> None:
    """The child's side of `run`."""
    call = json.loads(sys.argv[1])
    spec = importlib.util.spec_from_file_location(Path(call["file"]).stem, call["file"])
    if spec is None or spec.loader is None:
        raise ImportError(f"{call['file']} is no Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    with contextlib.ExitStack() as keeping:
        if call["step"]:
            from dsa110_assets import heap

            keeping.enter_context(heap.kept())
        figures = getattr(module, call["function"])(**call["arguments"])
    Path(call["answer"]).write_text(json.dumps(figures or {}))


def machine() -> dict[str, str]:
    """The machine of the measurement: processor, cores, memory, system, date, and versions of every engine."""
    model = next((line.split(":")[1].strip() for line in _lines("/proc/cpuinfo") if "model name" in line), platform.processor())
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / GIB
    found = {
        "machine": f"{os.cpu_count()} cores, {model}, {memory:.0f} GiB",
        "system": f"{platform.system()} {platform.release()}, Python {platform.python_version()}",
        "date": time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()),
    }
    for package in PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[package] = importlib.metadata.version(package)
    for name, command in PROGRAMS.items():
        if shutil.which(command[0]):
            said = subprocess.run(command, capture_output=True, text=True, check=False, timeout=30)
            lines = [line.strip() for line in (said.stdout + said.stderr).splitlines() if "ersion" in line or name in line.lower()]
            found[name] = lines[0] if lines else "present"
    return found


def _lines(path: str) -> list[str]:
    return Path(path).read_text().splitlines() if Path(path).exists() else []


def table(rows: Sequence[Row]) -> str:
    """Markdown table of medians, ranges, the ratio of each peer to our first engine of its stage, memory and accuracy."""
    lines = [
        "| stage | engine | median s | range | CPU s | times ours | peak GiB | accuracy | remark |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        own = next((r for r in rows if r.stage == row.stage and not r.peer and r.wall_s), None)
        ratio = f"{row.median_s / own.median_s:.2f}" if row.peer and own and row.wall_s else ""
        if row.failed:
            least = f"> {row.median_s:.0f} | | | > {ratio}" if ratio else "failed | | | "
            lines.append(f"| {row.stage} | {row.engine} | {least} | | | {_cell(row.failed)} |")
            continue
        accuracy = "; ".join(f"{name} {value:.4g}" for name, value in row.accuracy.items() if isinstance(value, int | float))
        lines.append(f"| {row.stage} | {row.engine} | {_cost(row, ratio)} | {_cell(accuracy)} | {_cell(row.remark)} |")
    return "\n".join(lines) + "\n"


def _cost(row: Row, ratio: str) -> str:
    """Table cells of time and memory; empty where only accuracy was measured."""
    if not row.wall_s:
        return " | | | | "
    spread = f"{min(row.wall_s):.2f} to {max(row.wall_s):.2f} ({len(row.wall_s)})"
    return f"{row.median_s:.2f} | {spread} | {statistics.median(row.cpu_s):.2f} | {ratio} | {row.peak_gib:.2f}"


def _cell(text: str) -> str:
    return text.replace("|", "/").replace("\n", " ")


def plot(rows: Sequence[Row], path: Path) -> None:
    """Plot one bar per engine and stage: median wall seconds on a logarithmic scale, with ranges as whiskers."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    shown = [row for row in rows if row.wall_s][::-1]
    figure, axes = plt.subplots(figsize=(9, 1 + 0.28 * len(shown)), layout="constrained")
    ends = [[row.median_s - min(row.wall_s) for row in shown], [max(row.wall_s) - row.median_s for row in shown]]
    axes.barh(
        [f"{row.stage}: {row.engine}" for row in shown], [row.median_s for row in shown], xerr=ends,
        color=["tab:grey" if row.peer else "tab:blue" for row in shown], log=True,
    )  # fmt: skip
    axes.set_xlabel("wall time [s], median and range; blue: dsa110_assets, grey: peers")
    axes.grid(axis="x", alpha=0.3)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def attempt(stage: str, work: Callable[[], list[Row]]) -> list[Row]:
    """The rows of a stage. A stage that fails as a whole becomes one row that says why, so that the other stages go on."""
    try:
        return work()
    except Exception as problem:  # noqa: BLE001 - a process boundary: the stages are independent of one another
        traceback.print_exc()
        return [Row(stage, "dsa110_assets", failed=f"{type(problem).__name__}: {problem}"[:300])]


@dataclass(frozen=True)
class Data:
    """The input of the stages. `inbox` holds one full-scale group with truth.json and catalogue.csv. `scratch` holds data that a
    stage derives from it, also from earlier runs: derived files must be named after the parameters that shaped them."""

    inbox: Path
    scratch: Path

    @property
    def files(self) -> list[Path]:
        """The subband files in order of subband."""
        return sorted(self.inbox.glob("*.hdf5"))


def saved(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """Rows as plain JSON."""
    return [asdict(row) for row in rows]


def loaded(plain: Sequence[dict[str, Any]]) -> list[Row]:
    """The inverse of `saved`."""
    return [Row(**{**row, "wall_s": tuple(row["wall_s"]), "cpu_s": tuple(row["cpu_s"])}) for row in plain]


if __name__ == "__main__":
    answer()
