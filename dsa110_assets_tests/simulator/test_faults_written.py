"""Faults as text: what is read, what is refused, and what `simulate --help` shows."""

from __future__ import annotations

import json
import typing
from pathlib import Path
from typing import Any

import pytest

from dsa110_assets.cli.simulate import FAULTS
from dsa110_assets.errors import ConfigurationError
from dsa110_assets.simulator.fault_kinds import KINDS, SignalFault
from dsa110_assets.simulator.options import Fault, FaultKind, SimulationOptions, parse_fault, perfect
from dsa110_assets.simulator.simulate import simulate

THE_PAGE = Path(__file__).parents[2] / "docs" / "simulator-faults.md"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("power_down:3", SignalFault("power_down", 3, 3, (("factor", 0.85),))),
        ("power_down:3-:factor=0.5", SignalFault("power_down", 3, None, (("factor", 0.5),))),
        ("power_loss:3-7:antenna=12+48", SignalFault("power_loss", 3, 7, (("antenna", (12.0, 48.0)), ("db", 6.0)))),
        (
            "delay_jump:*:ns=2+-4,antenna=103+2",
            SignalFault("delay_jump", 0, None, (("antenna", (103.0, 2.0)), ("ns", (2.0, -4.0)))),
        ),
        ("polarised:*:sign=+", SignalFault("polarised", 0, None, (("fraction", 0.05), ("sign", "+")))),
        ("truncated:2:5", Fault("truncated", 2, 5)),
    ],
)
def test_a_fault_is_read_from_its_text(text: str, expected: Fault | SignalFault) -> None:
    fault = parse_fault(text)
    assert fault == expected
    assert [g for g in range(9) if fault.touches(g)] == {
        "3": [3], "3-": list(range(3, 9)), "3-7": [3, 4, 5, 6, 7], "*": list(range(9)), "2": [2],
    }[text.split(":")[1]]  # fmt: skip
    if isinstance(fault, SignalFault):
        assert fault.groups == text.split(":")[1]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("explode:1", ["'explode:1'", "missing_subband", "deaf_antenna", "KIND:GROUPS"]),
        ("truncated:3-:1", ["truncated:3-:1", "KIND:GROUP:SUBBAND"]),
        ("power_down", ["groups ''", "3- (from 3 on)"]),
        ("power_down:x", ["groups 'x'", "3- (from 3 on)"]),
        ("power_down:-3", ["groups '-3'"]),
        ("power_down:7-3", ["'7-3' end before they begin"]),
        ("power_down:3:factor", ["'factor'", "NAME=VALUE"]),
        ("power_down:3:factr=2", ["'factr=2'", "one of factor"]),
        ("power_down:3:factor=nan", ["factor=nan", "from 0.001 to 1000"]),
        ("power_down:3:factor=", ["factor=", "from 0.001 to 1000"]),
        ("power_down:3:factor=1+2", ["factor=1+2", "a number from"]),
        ("power_loss:3:db=2", ["antenna is missing", "1 to 117"]),
        ("power_loss:3:antenna=0", ["antenna=0", "1 to 117"]),
        ("power_loss:3:antenna=118", ["antenna=118", "1 to 117"]),
        ("power_loss:3:antenna=12.5", ["antenna=12.5", "1 to 117"]),
        ("power_loss:3:antenna=12+12", ["antenna=12+12", "twice"]),
        ("deaf_antenna:3:antenna=12,receptor=z", ["receptor=z", "both or x or y"]),
        ("delay_jump:3:antenna=1+2+3,ns=1+2", ["2 values for 3 antennas"]),
        ("calibrator_flux:3", ["which all groups see", "calibrator_flux:*"]),
        ("calibrator_flux:*:calibrator=", ["calibrator=", "a name"]),
        ("resolved_source:*:ra_deg=10", ["ra_deg and dec_deg", "both or neither"]),
        ("resolved_source:*:catalogued=maybe", ["catalogued=maybe", "yes or no"]),
    ],
)
def test_a_wrong_fault_is_refused_with_the_value_and_what_is_allowed(text: str, words: list[str]) -> None:
    with pytest.raises(ConfigurationError) as refused:
        parse_fault(text)
    assert all(word in str(refused.value) for word in words), str(refused.value)


@pytest.mark.parametrize("text", ["power_down:9", "power_down:1-4", "power_down:4-"])
def test_groups_that_the_run_does_not_have_are_refused(text: str) -> None:
    with pytest.raises(ConfigurationError, match="there are 4 groups"):
        SimulationOptions(groups=2, nights=2, faults=(parse_fault(text),))


def test_the_truth_has_every_fault_with_its_parameters_and_observations(tmp_path: Path) -> None:
    texts = ("truncated:1:0", "deaf_antenna:1-:antenna=12+103,receptor=x", "power_down:*", "delay_jump:2:antenna=2,ns=-3")
    options = perfect(
        groups=2, nights=2, antennas=4, channels=1, subbands=1, integrations=1, restart_every=0,
        faults=tuple(map(parse_fault, texts)),
    )  # fmt: skip
    truth = simulate(tmp_path, options)
    keys = [g["observation"] for g in truth["groups"]]
    expected: list[dict[str, Any]] = [
        {"kind": "truncated", "group": 1, "subband": 0, "observation": keys[1]},
        {"kind": "power_down", "groups": "*", "factor": 0.85, "observations": keys},
        *({"kind": "deaf_antenna", "groups": "1-", "antenna": station, "receptor": "x", "observations": keys[1:]} for station in (12, 103)),
        {"kind": "delay_jump", "groups": "2", "antenna": 2, "ns": -3.0, "observations": [keys[2]]},
    ]
    assert truth["faults"] == expected
    assert json.loads((tmp_path / "truth.json").read_text())["faults"] == expected
    assert [len(g["faults"]) for g in truth["groups"]] == [1, 4, 4, 3]


def test_help_and_page_name_every_kind_and_parameter() -> None:
    page = THE_PAGE.read_text()
    for where in ("\n".join(FAULTS), page):
        for kind in typing.get_args(FaultKind):
            assert kind in where
        for kind in KINDS.values():
            assert kind.name in where
    for kind in KINDS.values():
        row = next(line for line in page.splitlines() if line.startswith(f"| `{kind.name}`"))
        for parameter in kind.parameters:
            shown = kind.usage.split(f"{parameter.name}=")[1].split(",")[0]
            assert f"`{parameter.name}`" in row if shown == "..." else f"`{parameter.name}={shown}`" in row
