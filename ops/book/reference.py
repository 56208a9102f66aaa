"""The pages of the reference, generated from the code so that they list exactly what the code has."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import openapi
import typer.main

import dsa110_assets
from dsa110_assets import open_archive, settings, thresholds
from dsa110_assets.archive.store import Archive
from dsa110_assets.cli import app
from dsa110_assets.orchestration.graph import ASSETS, specifications
from dsa110_assets.orchestration.judging import rules
from dsa110_assets.orchestration.specification.spec import Asset
from dsa110_assets.orchestration.watching import conditions
from dsa110_assets.portal import metrics as portal_metrics

GRAINS = {"catalogue": "–", "observation": "5 minutes", "hour": "hour", "night": "night", "request": "request"}
PYTHON = (
    "dsa110_assets.open_archive", "dsa110_assets.analyst.AnalystArchive", "dsa110_assets.analyst_views",
    "dsa110_assets.tools.convert", "dsa110_assets.tools.image", "dsa110_assets.tools.calibrate", "dsa110_assets.tools.apply",
    "dsa110_assets.tools.photometry", "dsa110_assets.tools.mosaic", "dsa110_assets.simulator.options", "dsa110_assets.errors",
)  # fmt: skip
"""The public Python modules; all others are internal to the platform."""


def pages() -> Iterator[tuple[str, str]]:
    """Name and text of every page."""
    yield "commands", commands()
    yield "settings", all_settings()
    yield "thresholds", all_thresholds()
    yield "assets", assets()
    yield "checks", checks()
    yield "alerts", alerts()
    yield "metrics", metrics()
    yield "http-api", openapi.page()
    yield "python", python()


def table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A Markdown table; vertical bars inside cells are escaped."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(" ".join(str(cell).split()).replace("|", "\\|") for cell in line) + " |" for line in lines) + "\n"


def code(text: object) -> str:
    """The text between backticks; empty for empty text."""
    return f"`{text}`" if str(text) else ""


def commands() -> str:
    """All commands with their arguments and options, as in `--help`."""
    tree: Any = typer.main.get_command(app.build())
    intro = f"# Commands\n\nThe `--help` text of each command. Commands by purpose: {openapi.link('Commands', 'docs/commands.md')}.\n"
    return "\n".join([intro, *_of_group(tree, "dsa110")])


def _of_group(group: Any, path: str) -> Iterator[str]:
    for name, command in sorted(group.commands.items()):
        if command.hidden:
            continue
        if hasattr(command, "commands"):
            yield from _of_group(command, f"{path} {name}")
        else:
            yield _command(command, f"{path} {name}")


def _command(command: Any, path: str) -> str:
    arguments = [parameter for parameter in command.params if parameter.param_type_name == "argument"]
    options = [parameter for parameter in command.params if parameter.param_type_name == "option"]
    usage = " ".join([path, *(["[OPTIONS]"] if options else []), *(_argument(a) if a.required else f"[{_argument(a)}]" for a in arguments)])
    parts = [f"## {path}\n", f"`{usage}`\n", f"{command.help}\n"]
    if command.epilog:
        parts.append(re.sub(r"^Example: (.*)$", r"Example: `\1`", command.epilog) + "\n")
    rows = [(code(_argument(a)), "", getattr(a, "help", "") or "") for a in arguments]
    rows += [(", ".join(map(code, (*o.opts, *o.secondary_opts))), _default(o), o.help or "") for o in options]
    return "\n".join([*parts, table(("argument or option", "default", "what it is"), rows)] if rows else parts)


def _argument(argument: Any) -> str:
    return f"{argument.metavar or argument.name.upper()}{'...' if argument.nargs != 1 else ''}"


def _default(option: Any) -> str:
    shown = option.default
    return code(shown) if isinstance(shown, str | int | float) and not isinstance(shown, bool) and shown != "" else ""


def all_settings() -> str:
    """All settings with their defaults."""
    rows = settings.describe(settings.Settings.model_construct(inbox=None, archive=None))
    shown = [(code(row.name), code(row.value), row.kind, row.limits, row.help) for row in rows]
    intro = "# Settings\n\nEnvironment variables. `dsa110 settings` prints the values in force and where they come from.\n"
    return f"{intro}\n{table(('variable', 'default', 'kind', 'range', 'what it is'), shown)}"


def all_thresholds() -> str:
    """All thresholds with their defaults."""
    known = specifications().values()
    rows = [
        (code(name), code(value), unit, told, ", ".join(map(code, rules.decided_by(name, known))))
        for name, value, unit, told in thresholds.describe(thresholds.Thresholds())
    ]
    intro = (
        "# Thresholds\n\nLimits of checks, alerts and retention. A line `name = value` in `thresholds.toml` in the archive changes one "
        "at once; `dsa110 thresholds` prints what is in force.\n"
    )
    return f"{intro}\n{table(('threshold', 'default', 'unit', 'what it limits', 'checks it decides'), rows)}"


def assets() -> str:
    """All assets with the contents of their specifications."""
    parts = ["# Assets\n\nEach asset's specification: what it is made from, what shapes it, how long its data are kept.\n"]
    told = {key.to_user_string(): " ".join(text.split()) for one in ASSETS for key, text in one.descriptions_by_key.items()}
    for name, asset in specifications().items():
        rows = [
            ("partition", GRAINS[asset.grain]),
            ("made from", ", ".join(map(code, asset.inputs)) or "files"),
            ("shaped by the settings", ", ".join(map(code, asset.shaping)) or "–"),
            ("code version", code(asset.code_version)),
            ("kept", "for ever" if asset.keep_days is None else f"{asset.keep_days:g} days"),
            ("checks", ", ".join(code(rule.check) for rule in asset.rules) or "–"),
        ]
        parts.append(f"## {name}\n\n{told[name]}\n\n{table(('', ''), rows)}")
    return "\n".join(parts)


def checks() -> str:
    """All checks of all assets, with their thresholds."""
    intro = (
        "# Checks\n\nA check that is *hard* keeps an observation's product from being published, and holds an hour's or night's. One of "
        "severity WARN only reports, without counting against `dsa110 process`. A figure that is missing fails its check.\n"
    )
    return "\n".join([intro, *(f"## {name}\n\n{_checks_of(asset)}" for name, asset in specifications().items() if asset.rules)])


def _checks_of(asset: Asset) -> str:
    rows = [
        (
            code(rule.check), rule.description, ", ".join(map(code, rule.figures)),
            ", ".join(map(code, rule.limits)) or "–", "hard" if rule.hard else rule.severity.value,
        )
        for rule in asset.rules
    ]  # fmt: skip
    return table(("check", "passes if", "figures", "thresholds", "when it fails"), rows)


def alerts() -> str:
    """All alert conditions by topic, with their thresholds and a link to what to do."""
    parts = [f"# Alerts\n\nThe conditions that raise alerts. What to do about each: {openapi.link('runbook', 'ops/runbook.md')}.\n"]
    for topic in conditions.TOPICS:
        rows = [
            (
                code(one.name),
                one.title,
                ", ".join(map(code, one.limits)) or "–",
                openapi.link("what to do", f"ops/runbook.md#{one.runbook}"),
            )
            for one in conditions.CONDITIONS.values()
            if one.topic == topic
        ]
        parts.append(f"## {topic.capitalize()}\n\n{table(('alert', 'says that', 'thresholds', ''), rows)}")
    return "\n".join(parts)


def metrics() -> str:
    """All metrics with their labels and help texts."""
    rows = sorted((code(name), ", ".join(map(code, labels)), told) for name, (labels, told) in served().items())
    intro = "# Metrics\n\nWhat the portal serves to Prometheus at `/metrics`. An unknown value is a large age, or has a separate series.\n"
    return f"{intro}\n{table(('metric', 'labels', 'what it is'), rows)}"


def served() -> dict[str, tuple[list[str], str]]:
    """Labels and help of each metric that a portal serves: those of an empty archive, and those of the newest image."""
    found: dict[str, tuple[list[str], str]] = {name: ([], told) for name, told in portal_metrics.FIGURES.values()}
    with TemporaryDirectory() as place:
        root = Path(place) / "archive"
        Archive.create(root).close()
        sources = portal_metrics.Sources(
            open_archive(root), root / "dagster", None, None, root / "backups", lambda: (thresholds.Thresholds(), None)
        )
        registry = portal_metrics.registry(sources)
        portal_metrics.Requests(registry)
        for family in registry.collect():
            labels = {name: None for sample in family.samples for name in sample.labels if name != "le"}
            if family.name.startswith("dsa110_"):
                found[family.name + ("_total" if family.type == "counter" else "")] = list(labels), family.documentation
    return found


def python() -> str:
    """The public Python modules, for mkdocstrings to fill in."""
    intro = f"# Python\n\nVersion {dsa110_assets.__version__}. Start with `open_archive()`; single stages are in `dsa110_assets.tools`.\n"
    return "\n".join([intro, *(f"## {name}\n\n::: {name}\n    options:\n      show_root_heading: false\n" for name in PYTHON)])
