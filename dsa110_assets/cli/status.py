"""`dsa110 status`, `dsa110 settings` and `dsa110 thresholds`: the present state of the platform."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import typer

from dsa110_assets import plain_text
from dsa110_assets.cli import console
from dsa110_assets.cli.app import app

if TYPE_CHECKING:
    from dsa110_assets.orchestration.watching.history import FailedRun
    from dsa110_assets.portal.overview import Status

JSON_HELP = "Print JSON, and nothing else, on standard output."
SHOWN = 12
FAR_DAYS = 3650.0


@app.command(epilog="Example: dsa110 status --json")
def status(as_json: bool = typer.Option(False, "--json", help=JSON_HELP)) -> None:
    """Show what was processed, what waits or failed, how old the calibration is, and what comes next."""
    from dsa110_assets import settings
    from dsa110_assets.analyst import AnalystArchive
    from dsa110_assets.archive.store import Archive
    from dsa110_assets.orchestration.planning import plan
    from dsa110_assets.orchestration.watching import history
    from dsa110_assets.portal import overview

    configured = settings.load()
    archive = AnalystArchive(Archive(configured.archive, configured.database_url))
    now = overview.status(archive, configured.inbox, look=partial(plan.scan_for_display, settings=configured))
    failed = history.failed(configured.home_path, archive.store)
    if as_json:
        console.emit_json({**now.as_json(), "failed_runs": failed})
        return
    _tell(now, failed)


def short(now: Status) -> list[tuple[str, str | None]]:
    """Return the first lines: archive, inbox, latest observation, strip, calibration, next transit, disk."""
    rows: list[tuple[str, str | None]] = [*(("halted", reason) for reason in now.halted), ("archive", now.archive)]
    rows += [("inbox", now.inbox), ("latest observation", now.latest_observation)]
    if now.pointing_dec_deg is not None:
        rows.append(("strip", f"{now.pointing_dec_deg:.2f} deg declination"))
    if now.calibration:
        age_at_observation = console.age_text(now.calibration["age_at_latest_observation_h"])
        age = console.age_text(now.calibration["age_h"])
        interpolated = "".join(f", interpolated with {one['set_id']}" for one in now.calibration["interpolated_with"])
        rows.append(
            (
                "calibration",
                f"{now.calibration['set_id']}, {age_at_observation} from the latest observation, {age} old{interpolated}",
            )
        )
    else:
        rows.append(("calibration", "none in force"))
    if now.next_transit:
        rows.append(("next transit", f"{now.next_transit['calibrator']} at {now.next_transit['utc'][:19]} UTC"))
    if now.disk:
        full = now.disk.full_in_days
        until_full = "" if full is None or full >= FAR_DAYS else plain_text.duration(plain_text.DAY_S * full)
        eta = f"full in {until_full} at the rate of the last 24 h" if until_full else "not filling"
        rows.append(("disk", f"{plain_text.size(now.disk.free_bytes)} free, {eta}"))
    return rows


def _tell(now: Status, failed: list[FailedRun]) -> None:
    console.table(("", ""), short(now))
    console.say("")
    counts = [(asset, count, now.latest_counts.get(asset, 0)) for asset, count in now.products.items()]
    console.table(("asset", "current products", f"of {now.latest_night}"), counts)
    _say_list("waiting", [f"{row['observation']} for {row['next']}{row['reason'] and ': '}{row['reason']}" for row in now.waiting])
    _say_list("in the inbox, in no group", [f"{row['path']}: {row['reason']}" for row in now.inbox_files])
    _say_list("failed", [f"{', '.join(run.assets)} {run.partition or ''}: {run.reason}" for run in failed])
    _say_list("quarantined", [f"{', '.join(row['paths'])}: {row['reason']}" for row in now.quarantined])
    _say_list("held", [f"{row['product_id']}: {row['reason']}" for row in now.held])
    _say_list("rejected", [f"{row['product_id']}: {row['reason']}" for row in now.rejected])
    _say_list("check failed", [f"{row['product_id']}: {row['check']}: {row['reason']}" for row in now.failed_checks])
    _say_list("could not be found out", now.troubles)
    console.say(f"\n{_summary_line(now, failed)}")


def _summary_line(now: Status, failed: list[FailedRun]) -> str:
    """Return the last line: the number of each thing that needs a person."""
    ready = (now.inbox_groups or {}).get("ready", 0)
    counts = (("runs failed", len(failed)), ("observations in the inbox not taken up", ready), ("held", len(now.held)))
    parts = [f"{count} {what}" for what, count in counts if count]
    checks = console.failed_checks_text([(row["product_id"], row["check"]) for row in now.failed_checks])
    return ", ".join([*parts, f"{checks} in the last two nights"])


def _say_list(title: str, lines: list[str]) -> None:
    if lines:
        console.say(f"\n{title}: {len(lines)}")
    for line in lines[:SHOWN]:
        console.say(f"  {line}")
    if len(lines) > SHOWN:
        console.say(f"  … and {len(lines) - SHOWN} more; dsa110 status --json has all")


@app.command("settings", epilog="Example: dsa110 settings --json")
def show_settings(as_json: bool = typer.Option(False, "--json", help=JSON_HELP)) -> None:
    """List every setting: its value, the origin of the value, its range and its meaning."""
    from dsa110_assets import settings

    rows = settings.describe(settings.load())
    if as_json:
        console.emit_json(rows)
        return
    console.table(
        ("setting", "value", "from", "range", "what it is"),
        [(row.name, row.value or "–", row.source, row.limits, row.help) for row in rows],
    )


@app.command("thresholds", epilog="Example: dsa110 thresholds flux")
def show_thresholds(
    text: str = typer.Argument("", help="Only thresholds with this text in their name, meaning or checks."),
    as_json: bool = typer.Option(False, "--json", help=JSON_HELP),
) -> None:
    """List the limits of checks, alerts and retention in force, what each limits, and which checks it decides."""
    from dsa110_assets import settings, thresholds
    from dsa110_assets.orchestration import graph
    from dsa110_assets.orchestration.judging import rules
    from dsa110_assets.orchestration.resources import Platform

    platform = Platform(settings.load())
    assets = graph.specifications().values()
    rows = [(*row, ", ".join(rules.decided_by(row[0], assets))) for row in thresholds.describe(platform.thresholds)]
    selected = [row for row in rows if text.lower() in f"{row[0]} {row[3]} {row[4]}".lower()]
    if as_json:
        console.emit_json([dict(zip(("name", "value", "unit", "help", "checks"), row, strict=True)) for row in selected])
        return
    console.table(("threshold", "value", "unit", "what it limits", "checks"), selected)
    refused = platform.refused_thresholds
    console.warn(f"{platform.settings.thresholds_path}: {refused or 'a line such as max_flux_offset = 0.03 there changes one at once'}")
