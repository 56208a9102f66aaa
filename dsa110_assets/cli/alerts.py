"""`dsa110 alerts`: current and past alerts, acknowledging and resolving them, silences, and a test of the channels."""

from __future__ import annotations

import getpass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dsa110_assets.cli import console
from dsa110_assets.cli.app import EXIT_INCOMPLETE, app
from dsa110_assets.cli.times import parse_time
from dsa110_assets.cli.tools.common import JSON

if TYPE_CHECKING:
    from dsa110_assets.archive.alerts import Alert, Silence
    from dsa110_assets.archive.store import Archive

commands = typer.Typer(help="Alerts: list, acknowledge, resolve, silence; and a test of the channels.", no_args_is_help=True)
app.add_typer(commands, name="alerts")
IDS: Any = typer.Argument(..., help="Ids of alerts, as `dsa110 alerts list` shows them.")
BY: Any = typer.Option(None, help="Who does this; default: the user's name.")
NOTE: Any = typer.Option("", help="What is known about it, or what was done.")
FIGURES_OF = timedelta(days=30)
SHOWN = 200


@commands.command("list", epilog="Example: dsa110 alerts list --topic calibration --all")
def list_alerts(
    every: bool = typer.Option(False, "--all", help="Also alerts that are over; at most the last 200."),
    condition: str | None = typer.Option(None, help="Only of this condition, for example disk."),
    topic: str | None = typer.Option(None, help="Only of this topic: platform, data, calibration or science."),
    severity: str | None = typer.Option(None, help="Only of this severity: info, warning or critical."),
    as_json: bool = JSON,
) -> None:
    """List what is wrong now, latest first, and the messages that wait to be sent."""
    from dsa110_assets.archive import alerts
    from dsa110_assets.orchestration.watching import conditions

    _one_of("--condition", condition, conditions.NAMES)
    _one_of("--topic", topic, conditions.TOPICS)
    _one_of("--severity", severity, alerts.SEVERITIES)
    archive = _archive()
    alerts_found = alerts.listed(archive, () if every else (alerts.ACTIVE, alerts.ACKNOWLEDGED), condition, topic, severity, limit=SHOWN)
    if as_json:
        console.emit_json([_row(entry) for entry in alerts_found])
        return
    rows = [(entry.id, entry.severity, entry.condition, entry.subject, entry.state, entry.began_at, entry.words) for entry in alerts_found]
    console.table(("id", "severity", "condition", "subject", "state", "since (UTC)", "said"), rows)
    since = datetime.now(UTC) - FIGURES_OF
    figures, waiting = alerts.figures(archive, since), alerts.undelivered(archive, datetime.now(UTC))
    acknowledged, resolved = (None if seconds is None else seconds / 60 for seconds in (figures.acknowledge_s, figures.resolve_s))
    console.warn(
        f"in 30 days {figures.number} alerts, {figures.false_alarms} false; median until acknowledged {console.cell(acknowledged)} min, "
        f"until over {console.cell(resolved)} min"
    )
    for channel, number in waiting.items():
        console.warn(f"channel {channel}: {number} messages wait to be sent")
    for entry in alerts.silences(archive):
        console.warn(f"silence {entry.id}: no messages about {entry.what} until {console.cell(entry.until)} UTC ({entry.by}: {entry.why})")


@commands.command(epilog="Example: dsa110 alerts ack 12 13 --note 'a disk is ordered'")
def ack(ids: list[int] = IDS, note: str = NOTE, by: str | None = BY) -> None:
    """Acknowledge alerts: they are neither repeated nor escalated."""
    from dsa110_assets.archive import alerts

    archive = _archive()
    for one in ids:
        done = alerts.acknowledge(archive, one, by or getpass.getuser(), note)
        console.say(f"{done} is acknowledged by {done.acknowledged_by}")


@commands.command(epilog="Example: dsa110 alerts resolve 12 --note 'moved to another disk'")
def resolve(ids: list[int] = IDS, note: str = NOTE, by: str | None = BY) -> None:
    """End alerts by hand. An alert whose condition still holds begins again at the next evaluation."""
    from dsa110_assets.archive import alerts

    archive = _archive()
    for one in ids:
        done = alerts.resolve(archive, one, by or getpass.getuser(), note)
        console.say(f"{done} is over")


@commands.command("false", epilog="Example: dsa110 alerts false 12 --note 'the array was stowed'")
def false_alarm(
    ids: list[int] = IDS, note: str = NOTE, by: str | None = BY, undo: bool = typer.Option(False, "--undo", help="Withdraw the mark.")
) -> None:
    """Mark alerts as false alarms, including alerts that are over; the figures count them."""
    from dsa110_assets.archive import alerts

    archive = _archive()
    for one in ids:
        done = alerts.mark_false(archive, one, by or getpass.getuser(), note, false=not undo)
        console.say(f"{done} is {'no' if undo else 'marked as a'} false alarm")


@commands.command(epilog="Example: dsa110 alerts silence platform --hours 2 --why 'new disks are put in'")
def silence(
    what: Annotated[str, typer.Argument(help="A condition, a topic (platform, data, calibration, science) or everything.")],
    why: str = typer.Option(..., help="The reason, for those on watch."),
    hours: float = typer.Option(1.0, min=0.01, max=24 * 30, help="For how long [h]."),
    until: str | None = typer.Option(None, help="Until this UTC time, instead of --hours."),
    by: str | None = BY,
) -> None:
    """Send no messages about a condition or topic for a while, for example during maintenance. What still holds at the end is sent then."""
    from dsa110_assets.archive import alerts
    from dsa110_assets.orchestration.watching import conditions

    _one_of("WHAT", what, conditions.SILENCED)
    end = parse_time(until) if until else datetime.now(UTC) + timedelta(hours=hours)
    done = alerts.silence(_archive(), what, end, by or getpass.getuser(), why)
    console.say(f"silence {done.id}: no messages about {what} until {console.cell(done.until)} UTC")


@commands.command(epilog="Example: dsa110 alerts unsilence 3")
def unsilence(silence_id: Annotated[int, typer.Argument(metavar="ID", help="The silence, as `dsa110 alerts silences` shows it.")]) -> None:
    """End a silence now."""
    from dsa110_assets.archive import alerts

    alerts.end_silence(_archive(), silence_id)
    console.say(f"silence {silence_id} has ended")


@commands.command(epilog="Example: dsa110 alerts silences --json")
def silences(as_json: bool = JSON) -> None:
    """List the silences in force."""
    from dsa110_assets.archive import alerts

    found = alerts.silences(_archive())
    if as_json:
        console.emit_json([_silence_row(one) for one in found])
        return
    console.table(("id", "of", "until (UTC)", "by", "why"), [(one.id, one.what, one.until, one.by, one.why) for one in found])


@commands.command("test", epilog="Example: dsa110 alerts test --channel ops")
def try_channels(channel: str | None = typer.Option(None, help="Only this channel of DSA110_ALERT_CHANNELS.")) -> None:
    """Send a test message to every channel and report which accepted it; status 1 if any did not."""
    from dsa110_assets import settings
    from dsa110_assets.orchestration.watching import sending

    configured = settings.load()
    channels = configured.alert_channels
    if channel is not None:
        _one_of("--channel", channel, tuple(channels))
        channels = {channel: channels[channel]}
    if not channels:
        console.warn("no channel is set: alerts go to the log only; DSA110_ALERT_CHANNELS names some (dsa110 settings)")
        raise typer.Exit(EXIT_INCOMPLETE)
    errors = sending.try_all(channels, configured.portal_address)
    console.table(("channel", "result"), [(name, error or "taken") for name, error in errors.items()])
    if any(errors.values()):
        raise typer.Exit(EXIT_INCOMPLETE)


def _archive() -> Archive:
    from dsa110_assets.analyst import open_archive

    return open_archive().store


def _one_of(what: str, value: str | None, choices: tuple[str, ...]) -> None:
    if value is not None and value not in choices:
        raise typer.BadParameter(f"{what} {value!r}: choose from {', '.join(choices) or 'none, as none is set'}")


def _row(one: Alert) -> dict[str, Any]:
    return {**vars(one), "state": one.state}


def _silence_row(one: Silence) -> dict[str, Any]:
    return dict(vars(one))
