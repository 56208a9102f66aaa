"""The examples of CONTRIBUTING.md are executed: their edits are made to the package's modules in memory, then each example is run."""

from __future__ import annotations

import importlib
import re
import sys
import types
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from dsa110_assets.orchestration.specification import spec
from dsa110_assets_tests.docs import pages

PAGE = pages.ROOT / "CONTRIBUTING.md"
_PLACE = re.compile(r"# (\S+\.py), (?:(a new file)|(before|in place of): (.*))\n")


@dataclass(frozen=True)
class Edit:
    """A code block to insert into a file: as a new file, before the line with the anchor, or in place of the anchor."""

    file: str
    how: str
    anchor: str
    code: str

    def made_in(self, source: str) -> str:
        """The source after the edit. Raises AssertionError unless the anchor occurs exactly once."""
        if self.how == "a new file":
            assert not source, f"{self.file} is there already"
            return self.code
        assert source.count(self.anchor) == 1, f"{self.file} has {source.count(self.anchor)} times {self.anchor!r}"
        place = source.index(self.anchor)
        if self.how == "in place of":
            return source[:place] + self.code.rstrip("\n") + source[place + len(self.anchor) :]
        line = source.rindex("\n", 0, place) + 1
        separator = "" if self.code.startswith(" ") else "\n\n"
        return source[:line] + self.code + separator + source[line:]


def edits_and_trial(heading: str) -> tuple[list[Edit], str]:
    """The edits of a section of the page, and the code that it then runs."""
    edits, trials = [], []
    for block in pages.fenced(pages.section(PAGE, heading), "python"):
        header = _PLACE.match(block)
        if header is None:
            trials.append(block)
        else:
            edits.append(Edit(header[1], header[2] or header[3], header[4] or "", block[header.end() :]))
    (trial,) = trials
    return edits, trial


@pytest.fixture
def patch(no_settings_of_this_machine: None) -> Iterator[pytest.MonkeyPatch]:
    """A patch that undoes all edits. Modules that would keep references to an edited module are imported first."""
    for name in (
        "definitions", "settings", "engines", "calibration.calibrated", "calibration.night", "imaging.tile", "sky.catalogues",
        "visibilities.measurement_set",
    ):  # fmt: skip
        importlib.import_module(f"dsa110_assets.{name}")
    before = set(sys.modules)
    with pytest.MonkeyPatch.context() as context:
        yield context
    assert {name for name in set(sys.modules) - before if name.startswith("dsa110_assets.")} == set()


def load(patch: pytest.MonkeyPatch, file: str, edits: list[Edit]) -> types.ModuleType:
    """Load a file with its edits as a module that replaces the present one."""
    path = pages.ROOT / file
    source = path.read_text(encoding="utf-8") if path.exists() else ""
    for edit in edits:
        source = edit.made_in(source)
    parent, _, stem = file.removesuffix(".py").replace("/", ".").rpartition(".")
    module = types.ModuleType(f"{parent}.{stem}")
    module.__file__, module.__package__ = str(path), parent
    patch.setitem(sys.modules, module.__name__, module)
    patch.setattr(importlib.import_module(parent), stem, module, raising=False)
    edited: dict[str, tuple[spec.Asset, spec.Body]] = {}
    patch.setattr(spec, "_registered", edited)
    exec(compile(source, str(path), "exec"), module.__dict__)
    for name, (asset, _) in edited.items():
        patch.setitem(spec.assets(), name, asset)
    return module


def carried_out(patch: pytest.MonkeyPatch, heading: str, also: tuple[str, ...] = ()) -> dict[str, types.ModuleType]:
    """Make a section's edits, reload modules that import names from the edited ones, and run the section's example."""
    edits, trial = edits_and_trial(heading)
    files = list(dict.fromkeys(edit.file for edit in edits))
    made = {file: load(patch, file, [edit for edit in edits if edit.file == file]) for file in (*files, *also)}
    exec(compile(trial, f"{PAGE.name}, {heading}", "exec"), {"__name__": "tried"})
    return made


def test_a_check(patch: pytest.MonkeyPatch) -> None:
    """The new rule works, and the tests of all rules pass with its cases."""
    made = carried_out(patch, "How to add a check")
    cases_of_rules(made["dsa110_assets_tests/orchestration/test_rules.py"])


PLACES_OF_A_CHECK = ("max_flag_fraction_calibrated: Annotated", "Rule(", '"flag_fraction_calibrated": 0.2', '("calibrated_ms", "flagged"')


@pytest.mark.parametrize("left_out", PLACES_OF_A_CHECK)
def test_a_check_added_incompletely_fails_the_tests(patch: pytest.MonkeyPatch, left_out: str) -> None:
    """Each of the edits that the page names is needed: without it a test of the rules fails."""
    edits, _ = edits_and_trial("How to add a check")
    kept = [edit for edit in edits if left_out not in edit.code]
    assert len(kept) == len(edits) - 1

    def tests_of_rules() -> None:
        made = {
            file: load(patch, file, [edit for edit in kept if edit.file == file]) for file in dict.fromkeys(edit.file for edit in edits)
        }
        cases_of_rules(made["dsa110_assets_tests/orchestration/test_rules.py"])

    with pytest.raises((AssertionError, AttributeError)):  # AttributeError: without its threshold the cases of the rule cannot be collected
        tests_of_rules()


def cases_of_rules(tests: types.ModuleType) -> None:
    """Run the tests of the rules that a new check must pass."""
    tests.test_there_are_rules_for_every_asset_and_only_for_those()
    tests.test_every_rule_has_a_case_in_which_it_fails()
    tests.test_good_figures_pass_every_rule("calibrated_ms")
    tests.test_a_bad_figure_fails_its_rule_and_says_why("calibrated_ms", "flagged", {"flag_fraction_calibrated": 0.61})


def test_an_alert(patch: pytest.MonkeyPatch) -> None:
    carried_out(patch, "How to add an alert")


def test_a_catalogue(patch: pytest.MonkeyPatch) -> None:
    carried_out(
        patch,
        "How to add a catalogue",
        also=tuple(f"dsa110_assets/sky/{name}.py" for name in ("repeats", "scale", "table_files", "catalogues")),
    )


def test_an_engine(patch: pytest.MonkeyPatch) -> None:
    carried_out(patch, "How to add an engine")


@pytest.mark.parametrize("heading", ["How to add a check", "How to add an alert", "How to add a catalogue", "How to add an engine"])
def test_the_examples_fail_without_the_edits(heading: str, no_settings_of_this_machine: None) -> None:
    """Without the edits every example fails."""
    _, trial = edits_and_trial(heading)
    with pytest.raises(Exception, match=r".*"):
        exec(compile(trial, heading, "exec"), {"__name__": "tried"})


def test_the_page_names_all_functions_that_depend_on_the_engine() -> None:
    """The table names exactly the functions in which the package tests which engine is configured."""
    named = pages.names(pages.section(PAGE, "How to add an engine"))
    asking = re.compile(r"(?:settings|options|self\._options)\.\w*engine ==|engine [!=]= \"")
    modules = {
        ".".join(path.relative_to(pages.PACKAGE).with_suffix("").parts)
        for path in pages.PACKAGE.rglob("*.py")
        if asking.search(path.read_text(encoding="utf-8"))
    }
    assert modules == {name.rpartition(".")[0] for name in named if name.startswith(tuple(modules))}
