"""The rules of the house. Each checker examines a tree of Python files and names every breach.
It runs on the package, and on a small tree that breaks the rule, so that a checker that finds nothing is noticed.
"""

from __future__ import annotations

import ast
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

import dsa110_assets

PACKAGE = "dsa110_assets"
ROOT = Path(dsa110_assets.__file__).parent
TESTS = Path(__file__).parent

STOREYS = (
    ("errors", "plain_json", "plain_text", "surroundings"),
    ("children", "heap"),
    ("forks",),
    ("tracing",),
    ("logs",),
    ("engines", "engines.casa", "engines.casa_child", "engines.aoflagger"),
    ("telescope",),
    ("engines.pyuvdata",),
    ("sky",),
    ("visibilities",),
    ("simulator", "calibration"),
    ("imaging",),
    ("engines.casa_calibration", "engines.casa_imaging"),
    ("mosaics",),
    ("photometry",),
    ("variability",),
    ("tools",),
    ("thresholds", "settings"),
    ("archive",),
    ("orchestration",),
    ("definitions", "analyst"),
    ("portal",),
    ("cli",),
    ("__init__",),
)
SCIENCE = (
    "sky",
    "visibilities",
    "calibration",
    "imaging",
    "mosaics",
    "photometry",
    "variability",
    "simulator",
    "tools",
)
DAGSTER_MAY = ("orchestration", "cli", "portal", "definitions")
BOUNDARIES = ("orchestration", "cli", "portal", "engines.casa_child")
LOGGING = {
    "exception",
    "error",
    "critical",
    "warning",
    "print_exc",
    "format_exc",
    "print_exception",
    "format_exception",
}


def top_of(name: str) -> str:
    """The name in STOREYS of a dotted name below the package; analyst_*.py belong to analyst, an engine to its stage's storey."""
    top = name.split(".")[0] or "__init__"
    if top == "engines":
        return ".".join(name.split(".")[:2])
    return "analyst" if top.startswith("analyst_") else top


@dataclass(frozen=True)
class Module:
    """One parsed file: `name` is dotted below the package ('' for its __init__)."""

    path: Path
    name: str
    tree: ast.Module

    @property
    def top(self) -> str:
        """Its name in STOREYS."""
        return top_of(self.name)

    def at(self, node: ast.AST) -> str:
        return f"{self.path.name if not self.name else self.name}:{getattr(node, 'lineno', 0)}"


@dataclass(frozen=True)
class Import:
    """One import: the dotted name with the imported attribute, its node, and whether it is for type checkers only."""

    target: str
    node: ast.stmt
    typing_only: bool


def modules(root: Path) -> list[Module]:
    found = []
    for path in sorted(root.rglob("*.py")):
        parts = list(path.relative_to(root).with_suffix("").parts)
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        found.append(Module(path, name, ast.parse(path.read_text(encoding="utf-8"))))
    assert found
    return found


def imports(module: Module) -> Iterator[Import]:
    """Every import of a module, also inside functions, with relative names made absolute."""
    hidden = {
        id(inner)
        for node in ast.walk(module.tree)
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
        for statement in node.body
        for inner in ast.walk(statement)
    }
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Import):
            yield from (Import(alias.name, node, id(node) in hidden) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                is_package = module.path.name == "__init__.py"
                parts = [PACKAGE, *module.name.split(".")] if module.name else [PACKAGE]
                parts = parts[: len(parts) - node.level + (1 if is_package else 0)]
                base = ".".join([*parts, *([node.module] if node.module else [])])
            yield from (Import(f"{base}.{alias.name}", node, id(node) in hidden) for alias in node.names)


def storey(top: str) -> int | None:
    for rank, names in enumerate(STOREYS):
        if top in names:
            return rank
    return None


def imports_point_down(root: Path) -> list[str]:
    """A module imports only from lower storeys or from its own package."""
    breaches = []
    for module in modules(root):
        rank = storey(module.top)
        if rank is None:
            breaches.append(f"{module.path.relative_to(root)} is on no storey")
            continue
        for imported in imports(module):
            parts = imported.target.split(".")
            if parts[0] != PACKAGE or len(parts) < 2 or parts[1].startswith("__version"):
                continue
            top = top_of(".".join(parts[1:]))
            imported_rank = storey(top)
            if imported_rank is None or (imported_rank >= rank and top != module.top):
                breaches.append(f"{module.at(imported.node)} imports {imported.target}")
    return breaches


def no_circles(root: Path) -> list[str]:
    """No module imports itself directly or indirectly (imports for type checkers do not count)."""
    names = {m.name for m in modules(root)}
    graph: dict[str, set[str]] = {}
    for module in modules(root):
        targets = set()
        for imported in imports(module):
            if imported.target.startswith(f"{PACKAGE}.") and not imported.typing_only:
                name = imported.target.removeprefix(f"{PACKAGE}.")
                targets.add(name if name in names else name.rpartition(".")[0])
        if "iter_modules(" in ast.unparse(module.tree):  # it imports all modules of a package that it names
            targets |= {name for name in names if name.rpartition(".")[0] in targets}
        graph[module.name] = (targets & names) - {module.name, ""}
    # Remove modules that import none of those left; the rest is in or imports a circle.
    while leaves := {name for name, targets in graph.items() if not targets & graph.keys()}:
        graph = {name: targets for name, targets in graph.items() if name not in leaves}
    return [f"{name} is in or imports a circle with {', '.join(sorted(graph[name] & graph.keys()))}" for name in sorted(graph)]


def casa_only_in_its_child(root: Path) -> list[str]:
    """casatools and casatasks crash beside python-casacore: only engines.casa_child imports them."""
    return _imported(root, ("casatools", "casatasks"), lambda m: m.name == "engines.casa_child")


def dagster_only_upstairs(root: Path) -> list[str]:
    """Dagster is imported in orchestration, cli, portal and definitions only."""
    return _imported(root, ("dagster", "dagster_postgres"), lambda m: m.top in DAGSTER_MAY)


def one_way_to_start_children(root: Path) -> list[str]:
    """Only children.py starts child processes, forks.py forks that take tasks, and the command line services that outlive a call."""
    return _imported(root, ("subprocess", "multiprocessing"), lambda m: m.name in ("children", "forks") or m.top == "cli")


def science_is_plain(root: Path) -> list[str]:
    """Science packages use no settings, database, thresholds or environment."""
    breaches = []
    for module in modules(root):
        if module.top in SCIENCE:
            banned = (
                f"{PACKAGE}.settings",
                f"{PACKAGE}.archive",
                f"{PACKAGE}.thresholds",
                "sqlalchemy",
                "duckdb",
            )
            breaches += [f"{module.at(i.node)} imports {i.target}" for i in imports(module) if i.target.startswith(banned)]
            reads = [n for n in ast.walk(module.tree) if isinstance(n, ast.Attribute) and n.attr in ("environ", "getenv")]
            breaches += [f"{module.at(node)} reads the environment" for node in reads]
    return breaches


def one_primary_beam(root: Path) -> list[str]:
    """Only telescope/beam.py computes the response of the dish: no Bessel function or beam formula elsewhere."""
    breaches = _imported(
        root,
        ("scipy.special.j1", "scipy.special.jv", "scipy.special.jn", "scipy.special.jve", "everybeam"),
        lambda m: m.name == "telescope.beam",
    )
    suspicious = re.compile(r"airy|jinc|bessel|(primary_?beam|pb|dish|antenna)_?(fwhm|power|pattern)|fwhm_(pb|primary)")
    for module in modules(root):
        if module.name == "telescope.beam":
            continue
        for node in ast.walk(module.tree):
            if isinstance(node, ast.FunctionDef | ast.ClassDef) and suspicious.search(node.name.lower()):
                breaches.append(f"{module.at(node)} defines {node.name}")
            if isinstance(node, ast.Attribute) and node.attr in ("j1", "jv", "jn", "AiryDisk2D"):
                breaches.append(f"{module.at(node)} uses {node.attr}")
    # Half power and first null of 2 J1(x)/x, the dish's diameter [m] and the beam's width [deg] at 1.4 GHz.
    return breaches + _constants(root, (1.61634, 3.83170597, 4.65, 2.72), 1e-4, ("telescope.beam", "telescope.stations"))


def one_frequency_table(root: Path) -> list[str]:
    """Only telescope/band.py contains the band's numbers, in any unit."""
    numbers = (1530.0, 1.53, 11.71875, 30.517578125, 30517.578125, 244.140625, 0.244140625, 1311.25)
    scaled = tuple(n * scale for n in numbers for scale in (1.0, 1e3, 1e6, 1e9))
    return _constants(root, scaled, 1e-9, ("telescope.band",))


def one_site(root: Path) -> list[str]:
    """Only telescope/site.py contains the telescope's position; stations.py turns its survey into positions."""
    breaches = _constants(root, (37.2334, 37.2339, 118.283, 118.2817, 1188.05, 1222.0), 2e-5, ("telescope.site",))
    for module in modules(root):
        for node in ast.walk(module.tree):
            makes_location = isinstance(node, ast.Attribute) and node.attr in (
                "of_site",
                "from_geodetic",
                "from_geocentric",
            )
            if makes_location and module.name not in ("telescope.site", "telescope.stations"):
                breaches.append(f"{module.at(node)} makes a location")
    return breaches


def broad_handlers_log(root: Path) -> list[str]:
    """`except Exception` is allowed at a process boundary if it logs, and anywhere if it cleans up and re-raises."""
    breaches = []
    for module in modules(root):
        for node in ast.walk(module.tree):
            if not isinstance(node, ast.ExceptHandler):
                continue
            caught = "" if node.type is None else ast.unparse(node.type)
            if node.type is not None and not re.search(r"\b(Base)?Exception\b", caught):
                continue
            if isinstance(node.body[-1], ast.Raise) and node.body[-1].exc is None:
                continue
            if module.top not in BOUNDARIES or not _logs(node, module):
                breaches.append(f"{module.at(node)} except {caught}")
    return breaches


def _logs(handler: ast.ExceptHandler, module: Module) -> bool:
    """Whether a handler, or a function of its module that it calls, logs."""
    called = {n.func.id for n in ast.walk(handler) if isinstance(n, ast.Call) and isinstance(n.func, ast.Name)}
    bodies: list[ast.AST] = [handler]
    bodies += [n for n in ast.walk(module.tree) if isinstance(n, ast.FunctionDef) and n.name in called]
    return any(isinstance(n, ast.Attribute) and n.attr in LOGGING for body in bodies for n in ast.walk(body))


def nothing_is_evaluated(root: Path) -> list[str]:
    """No shell, no pickle, no eval."""
    breaches = _imported(root, ("pickle", "cPickle", "dill", "marshal", "shelve"), lambda m: False)
    for module in modules(root):
        for node in ast.walk(module.tree):
            if not isinstance(node, ast.Call):
                continue
            name = ast.unparse(node.func)
            shell = any(k.arg == "shell" and not (isinstance(k.value, ast.Constant) and not k.value.value) for k in node.keywords)
            if shell or name in (
                "eval",
                "exec",
                "os.system",
                "os.popen",
                "yaml.load",
                "subprocess.getoutput",
            ):
                breaches.append(f"{module.at(node)} {name}")
    return breaches


def no_machine_paths(root: Path) -> list[str]:
    """No path of a particular machine: all paths come from the settings."""
    path = re.compile(r"/(data|stage|opt|work|home|root|scratch|fast|dev/shm)/")
    return [
        f"{module.at(node)} {node.value[:60]!r}"
        for module in modules(root)
        for node in ast.walk(module.tree)
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and path.match(node.value)
    ]


def _imported(root: Path, names: tuple[str, ...], allowed: Callable[[Module], bool]) -> list[str]:
    """Imports of the named modules (or anything in them) outside the allowed ones."""
    return [
        f"{module.at(one.node)} imports {one.target}"
        for module in modules(root)
        if not allowed(module)
        for one in imports(module)
        if any(one.target == name or one.target.startswith(f"{name}.") for name in names)
    ]


def _constants(root: Path, values: tuple[float, ...], tolerance: float, allowed: tuple[str, ...]) -> list[str]:
    """Number literals that equal one of `values` to a relative tolerance, outside the allowed modules."""
    return [
        f"{module.at(node)} holds {node.value}"
        for module in modules(root)
        if module.name not in allowed
        for node in ast.walk(module.tree)
        if isinstance(node, ast.Constant)
        and type(node.value) in (int, float)
        and any(abs(node.value - value) <= tolerance * abs(value) for value in values)
    ]


BROKEN: dict[Callable[[Path], list[str]], dict[str, list[str]]] = {
    imports_point_down: {
        "sky/a.py": [
            "from dsa110_assets.imaging import tile",
            "def f():\n    from dsa110_assets.archive.store import Archive",
        ],
        "simulator/a.py": ["import dsa110_assets.calibration.gains"],
        "archive/a.py": ["from ..orchestration import policy"],
        "imaging/a.py": ["from dsa110_assets import settings"],
        "novelty.py": ["x = 1"],
    },
    no_circles: {"sky/a.py": ["from dsa110_assets.sky import b"], "sky/b.py": ["from .a import x"]},
    casa_only_in_its_child: {
        "imaging/a.py": [
            "import casatools",
            "from casatasks import tclean",
            "def f():\n    import casatasks.private",
        ]
    },
    dagster_only_upstairs: {"archive/a.py": ["import dagster as dg", "from dagster import asset"]},
    one_way_to_start_children: {"imaging/a.py": ["import subprocess", "from subprocess import run"]},
    science_is_plain: {
        "sky/a.py": [
            "import os\nx = os.environ['X']",
            "from dsa110_assets import settings",
            "import sqlalchemy.orm",
        ]
    },
    one_primary_beam: {
        "imaging/a.py": [
            "from scipy.special import j1",
            "from scipy import special\ny = special.j1(1.0)",
            "def airy_power(x):\n    return x",
            "class PrimaryBeamPattern:\n    pass",
            "DISH_M = 4.65",
        ]
    },
    one_frequency_table: {"imaging/a.py": ["TOP_HZ = 1530e6", "WIDTH_MHZ = 11.71875", "FINE_KHZ = 30.517578125"]},
    one_site: {
        "imaging/a.py": [
            "LATITUDE_DEG = 37.2334051",
            "LONGITUDE_DEG = -118.283",
            "from astropy.coordinates import EarthLocation\nx = EarthLocation.of_site('ovro')",
        ]
    },
    broad_handlers_log: {
        "cli/a.py": ["try:\n    f()\nexcept Exception:\n    pass", "try:\n    f()\nexcept:\n    print()"],
        "imaging/a.py": ["try:\n    f()\nexcept (ValueError, Exception) as e:\n    log.error(e)"],
    },
    nothing_is_evaluated: {
        "cli/a.py": [
            "run('ls', shell=True)",
            "import pickle",
            "eval('1')",
            "import os\nos.system('ls')",
            "run(x, shell=flag)",
        ]
    },
    no_machine_paths: {"cli/a.py": ["P = '/data/incoming'", "P = f'/opt/{x}/y'", "P = '/dev/shm/tmp'"]},
}
RULES = list(BROKEN)
CASES = [(rule, file, text) for rule, files in BROKEN.items() for file, texts in files.items() for text in texts]


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_the_package_keeps_the_rule(rule):
    assert rule(ROOT) == []


@pytest.mark.parametrize(("rule", "file", "text"), CASES, ids=[f"{r.__name__}-{i}" for i, (r, _, _) in enumerate(CASES)])
def test_code_that_breaks_a_rule_is_found(rule, file, text, tmp_path):
    others = BROKEN[rule] if rule is no_circles else {}
    for name, contents in {**{other: texts[0] for other, texts in others.items()}, file: text}.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(contents)
    assert rule(tmp_path), f"{rule.__name__} is blind to {text!r}"


def test_import_circles_through_discovered_modules_are_found(tmp_path):
    """`graph` imports all modules of `assets`, so that none of them may import it."""
    (tmp_path / "sky" / "many").mkdir(parents=True)
    (tmp_path / "sky" / "many" / "__init__.py").touch()
    (tmp_path / "sky" / "all.py").write_text("from dsa110_assets.sky import many\nfor m in iter_modules(many.__path__):\n    f(m)")
    (tmp_path / "sky" / "many" / "one.py").write_text("from dsa110_assets.sky import other")
    assert no_circles(tmp_path) == []
    (tmp_path / "sky" / "many" / "one.py").write_text("from dsa110_assets.sky import all")
    assert no_circles(tmp_path) == [
        "sky.all is in or imports a circle with sky.many.one",
        "sky.many.one is in or imports a circle with sky.all",
    ]


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_allowed_code_breaks_no_rule(rule, tmp_path):
    innocent = {
        "errors.py": "class DsaError(Exception):\n    pass",
        "engines/casa_child.py": "import casatasks",
        "children.py": "import subprocess\nfrom dsa110_assets.errors import DsaError",
        "telescope/band.py": "TOP_HZ = 1530e6",
        "telescope/site.py": "LATITUDE_DEG = 37.2334051",
        "telescope/beam.py": "from scipy.special import j1\nX = 4.65",
        "sky/a.py": "from dsa110_assets.telescope import band\nTEXT = 'https://example.org/data/'\nN = 12",
        "archive/a.py": "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from .b import x",
        "archive/b.py": "from .a import y\ntry:\n    f()\nexcept BaseException:\n    g()\n    raise",
        "orchestration/a.py": "import dagster\ntry:\n    f()\nexcept Exception:\n    log.exception('x')",
        "cli/a.py": "import subprocess\nsubprocess.run(['ls'], shell=False)",
    }
    for name, text in innocent.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    assert rule(tmp_path) == []


def test_tests_do_not_import_casa():
    assert casa_only_in_its_child(TESTS) == []


IMPORTING = """
import json, sys, time
deeds = []
def hook(event, arguments):
    if event == "open":
        path, mode, flags = arguments
        writes = any(c in mode for c in "wax+") if isinstance(mode, str) else bool(flags & 3)
        if writes and str(path) != "/dev/null":
            deeds.append(f"opens {path} for writing")
    elif event in ("os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.chdir", "os.symlink",
                   "subprocess.Popen", "os.posix_spawn", "os.fork", "socket.connect", "socket.bind",
                   "sqlite3.connect"):
        deeds.append(f"{event} {arguments}")
for name in sys.argv[2:]:
    __import__(name)  # other people's import time is theirs
sys.addaudithook(hook)
began = time.process_time()
__import__(sys.argv[1])
print(json.dumps({"seconds": time.process_time() - began, "deeds": deeds, "modules": sorted(sys.modules)}))
"""
HEAVY = (
    "casatools",
    "casatasks",
    "casacore",
    "aoflagger",
    "numba",
    "pyuvdata",
    "matplotlib",
    "everybeam",
)


def import_alone(name: str, before: tuple[str, ...] = (), path: str = "") -> dict:
    """Import a module in a fresh interpreter. Return its CPU time [s], its side effects ('deeds') and the loaded modules."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith("DSA110_")}
    environment |= {
        "PYTHONDONTWRITEBYTECODE": "1",
        "PYTHONPATH": path or str(ROOT.parent),
        "PYTHONWARNINGS": "ignore",
    }
    command = [sys.executable, "-c", IMPORTING, name, *before]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize(("name", "before"), [("dsa110_assets", ()), ("dsa110_assets.definitions", ("dagster",))])
def test_importing_is_quick_and_touches_nothing(name, before):
    seen = import_alone(name, before)
    assert seen["deeds"] == []
    assert set(HEAVY) & set(seen["modules"]) == set()
    # The promise is 1 s. CPU time is measured, because the machine may be busy and the caches cold.
    assert seen["seconds"] < 1.0


def test_settings_load_without_the_science_libraries():
    """The command line first reads the settings, so option classes must be in light modules."""
    assert {*HEAVY, "pandas", "scipy.stats", "ducc0"} & set(import_alone("dsa110_assets.settings")["modules"]) == set()


@pytest.mark.parametrize("text", ["open('{}/x', 'w')", "import os; os.mkdir('{}/d')", "import sqlite3; sqlite3.connect('{}/x.db')"])
def test_an_import_that_writes_is_found(text, tmp_path):
    (tmp_path / "naughty.py").write_text(text.replace("{}", str(tmp_path)))
    assert import_alone("naughty", path=str(tmp_path))["deeds"]


def test_an_import_that_is_heavy_or_slow_is_found(tmp_path):
    (tmp_path / "naughty.py").write_text(
        "import casacore.tables, time\nbegan = time.process_time()\nwhile time.process_time() < began + 1.1: pass"
    )
    seen = import_alone("naughty", path=str(tmp_path))
    assert seen["seconds"] > 1.0
    assert "casacore" in seen["modules"]
