"""`dsa110 simulate`: the options of the simulator, as it declares them, on the command line."""

from __future__ import annotations

import dataclasses
import inspect
import types
import typing
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin

import typer

from dsa110_assets.cli import console
from dsa110_assets.cli.app import app
from dsa110_assets.cli.options import described, validated
from dsa110_assets.cli.times import parse_time
from dsa110_assets.simulator import fault_kinds
from dsa110_assets.simulator.options import FaultKind, SimulationOptions, parse_fault

FLAGS = {"dec_deg": "--dec", "faults": "--fault"}
PYTHON_ONLY = frozenset({"fixed_sources"})
EXAMPLE = "Example: dsa110 simulate inbox --start 2026-01-25T22:00:00 --groups 12 --antennas 24 --channels 8"
FAULTS = (
    "Faults of one file, KIND:GROUP:SUBBAND as in truncated:2:5 · " + ", ".join(get_args(FaultKind)),
    "Faults of the signal, KIND:GROUPS:NAME=VALUE,... as in power_loss:3-:antenna=12+48,db=3 · GROUPS: 3, 3- (from 3 "
    "on), 3-7 or * (all), counted from 0 over all nights · below: the parameters and their defaults",
    *(f"{kind.usage} · {kind.meaning}" for kind in fault_kinds.KINDS.values()),
)


def simulate(out: Path, **values: Any) -> None:
    """Write subband files as the correlator writes them, and truth.json beside them."""
    as_json = values.pop("json")
    values["start"] = parse_time(values["start"]).strftime("%Y-%m-%dT%H:%M:%S")
    values["faults"] = tuple(parse_fault(text) for text in values["faults"] or ())
    options = validated(SimulationOptions, values, FLAGS)
    from dsa110_assets.simulator.simulate import simulate as write

    with console.progress_bar(f"simulating into {out}") as progress:
        truth = write(out, options, progress)
    files = [name for group in truth["groups"] for name in group["files"]]
    faults = truth["faults"]
    if as_json:
        console.emit_json({"out": out, "truth": out / "truth.json", "groups": truth["groups"], "files": len(files)})
        return
    console.say(f"{len(truth['groups'])} groups, {len(files)} files, {len(faults)} planted faults in {out}")
    console.say(f"{len(truth['sources'])} sources; the truth is in {out / 'truth.json'}")


def _flag(field: str) -> str:
    return FLAGS.get(field, f"--{field.replace('_', '-')}")


def _parameter(field: dataclasses.Field[Any], annotation: Any) -> inspect.Parameter:
    """Return a typer option for one field of SimulationOptions: its flag, type, default, range and line of help."""
    kind, info, limits = described(annotation)
    default: Any = field.default
    if kind is bool:
        flag_text = f"{_flag(field.name)}/{_flag(field.name).replace('--', '--no-', 1)}"
        option: Any = typer.Option(default, flag_text, help=info.description)
    elif get_origin(kind) is tuple:
        kind = Union[list[str], None]  # noqa: UP007  typer reads it at run time
        option = typer.Option(None, _flag(field.name), help=f"{info.description}, listed below; repeatable")
    elif get_origin(kind) is Literal:
        kind, choices = str, ", ".join(map(str, get_args(kind)))
        option = typer.Option(default, _flag(field.name), help=f"{info.description} ({choices})")
    else:
        if isinstance(kind, types.UnionType):
            kind = next(part for part in get_args(kind) if part is not type(None))
        option = typer.Option(default, _flag(field.name), help=info.description, **limits)
    return inspect.Parameter(field.name, inspect.Parameter.KEYWORD_ONLY, default=option, annotation=kind)


def _register() -> None:
    hints = typing.get_type_hints(SimulationOptions, include_extras=True)
    out = inspect.Parameter(
        "out", inspect.Parameter.KEYWORD_ONLY, annotation=Path,
        default=typer.Argument(..., help="Directory to write into; created if missing."),
    )  # fmt: skip
    as_json = inspect.Parameter(
        "json", inspect.Parameter.KEYWORD_ONLY, annotation=bool,
        default=typer.Option(False, "--json", help="Print what was written as JSON."),
    )  # fmt: skip
    fields = [_parameter(field, hints[field.name]) for field in dataclasses.fields(SimulationOptions) if field.name not in PYTHON_ONLY]
    parameters = [out, *fields, as_json]

    def command(**values: Any) -> None:
        simulate(values.pop("out"), **values)

    command.__doc__ = simulate.__doc__
    command.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    app.command("simulate", epilog="\n\n".join((EXAMPLE, *FAULTS)))(command)


_register()
