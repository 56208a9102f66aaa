"""Alerts: list, acknowledge, end, mark as false, silence."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Annotated, Literal

from fastapi import APIRouter, HTTPException, Path, Query
from pydantic import AwareDatetime, BaseModel, Field, StrictBool

from dsa110_assets.archive import alerts
from dsa110_assets.orchestration.watching import about, conditions
from dsa110_assets.portal.v1 import access, paging
from dsa110_assets.portal.v1.context import Portal

router = APIRouter(tags=["alerts"])
State = Literal["active", "acknowledged", "resolved"]
Severity = Literal["info", "warning", "critical"]
AlertId = Annotated[int, Path(ge=0, le=2**31 - 1)]
Note = Annotated[
    str, Field(max_length=alerts.LONGEST_NOTE, pattern=r"^[^\x00-\x1f\x7f]*$", description="what is known about it, or what was done")
]
Name = Annotated[str | None, Query(max_length=40, pattern=r"^[a-z_]+$")]


class AlertRow(BaseModel):
    """A condition about a subject, from when it was first found until it was no longer found."""

    id: int
    condition: str
    subject: str = Field(description="empty where the condition has only one")
    topic: conditions.Topic
    severity: Severity
    state: State
    words: str = Field(description="what is wrong, with figure and limit, as last found")
    page: str = Field(description="the portal's page that shows it")
    runbook: str = Field(description="the section of the runbook that says what to do")
    run_id: str = Field(description="the run that failed, or made what the alert is about; empty if there is no such run, or several")
    trace_id: str = Field(description="that run's trace; empty if none was kept")
    began_at: datetime
    told_at: datetime | None = Field(description="when the last message about it was decided; null: no message yet")
    acknowledged_at: datetime | None
    acknowledged_by: str | None
    note: str | None
    false_alarm: bool
    resolved_at: datetime | None


class AlertFigures(BaseModel):
    """Figures of the alerts that began in a span."""

    number: int
    false_alarms: int
    acknowledge_s: float | None = Field(description="median time until acknowledged [s]")
    resolve_s: float | None = Field(description="median time until over [s]")
    undelivered: dict[str, int] = Field(description="messages that wait to be sent, by channel")


class ConditionRow(BaseModel):
    """A condition that raises alerts."""

    name: str
    title: str
    topic: conditions.Topic
    runbook: str
    limits: dict[str, float] = Field(description="the thresholds in force by which it is judged")


class SilenceRow(BaseModel):
    """A silence: what sends no messages, and until when."""

    id: int
    what: str = Field(description="a condition, a topic, or everything")
    until: datetime
    by: str
    why: str
    made_at: datetime


class Noting(BaseModel):
    """A note on what is known."""

    note: Note = ""


class Marking(Noting):
    """Whether an alert was a false alarm."""

    false_alarm: StrictBool = True


class Silencing(BaseModel):
    """Send no messages about something for a while."""

    what: Annotated[str, Field(max_length=40, pattern=r"^[a-z_]+$", description="a condition, a topic, or everything")]
    hours: Annotated[float, Field(gt=0, le=24 * 30, description="how long [h]")] = 1.0
    until: Annotated[AwareDatetime | None, Field(description="or until this time (UTC)")] = None
    reason: access.Reason


@router.get("/alerts")
def list_alerts(
    portal: Portal,
    state: Annotated[list[State] | None, Query(max_length=3, description="only in these states; may be repeated")] = None,
    condition: Name = None,
    topic: Annotated[conditions.Topic | None, Query()] = None,
    severity: Annotated[Severity | None, Query()] = None,
    cursor: paging.Cursor = None,
    limit: paging.Limit = 100,
) -> paging.Page[AlertRow]:
    """Alerts, the last begun first: current ones and, in the state resolved, the history."""
    after = paging.decode(cursor, int)
    before = int(after[0]) if after else None
    found = alerts.listed(portal.store, state or (), condition, topic, severity, limit + 1, before)
    items = [_row(portal, one) for one in found[:limit]]
    return paging.Page(items=items, next=paging.encode((found[limit - 1].id,)) if len(found) > limit else None)


@router.get("/alerts/figures")
def show_alert_figures(portal: Portal, days: Annotated[float, Query(gt=0, le=3660)] = 30.0) -> AlertFigures:
    """Of the alerts that began in the last `days`: how many, how many false, and how soon they were acknowledged and over."""
    now = datetime.now(UTC)
    figures = alerts.figures(portal.store, now - timedelta(days=days))
    return AlertFigures(**vars(figures), undelivered=alerts.undelivered(portal.store, now))


@router.get("/alerts/conditions")
def list_conditions(portal: Portal) -> list[ConditionRow]:
    """All conditions that raise alerts, with the limits in force."""
    limits = portal.thresholds()
    return [
        ConditionRow(
            name=one.name,
            title=one.title,
            topic=one.topic,
            runbook=one.runbook,
            limits={name: getattr(limits, name) for name in one.limits},
        )
        for one in conditions.CONDITIONS.values()
    ]


@router.get("/alerts/{alert_id}")
def show_alert(alert_id: AlertId, portal: Portal) -> AlertRow:
    """One alert."""
    return _row(portal, alerts.get(portal.store, alert_id))


@router.post("/alerts/{alert_id}/acknowledge")
def acknowledge_alert(alert_id: AlertId, body: Noting, portal: Portal, actor: access.Controller) -> AlertRow:
    """Acknowledge an active alert: it is neither repeated nor escalated."""
    with access.ordered(portal, actor, "acknowledge alert", str(alert_id), note=body.note or None) as order:
        done = alerts.acknowledge(portal.store, alert_id, actor.name, body.note)
        order.told = f"{done} is acknowledged"
    return _row(portal, done)


@router.post("/alerts/{alert_id}/resolve")
def resolve_alert(alert_id: AlertId, body: Noting, portal: Portal, actor: access.Controller) -> AlertRow:
    """End an active alert by hand; it begins again if its condition holds at the next look."""
    with access.ordered(portal, actor, "resolve alert", str(alert_id), note=body.note or None) as order:
        done = alerts.resolve(portal.store, alert_id, actor.name, body.note)
        order.told = f"{done} is over"
    return _row(portal, done)


@router.post("/alerts/{alert_id}/false-alarm")
def mark_false_alarm(alert_id: AlertId, body: Marking, portal: Portal, actor: access.Controller) -> AlertRow:
    """Mark an alert as a false alarm, even if it is over, or undo that."""
    with access.ordered(portal, actor, "mark false alarm", str(alert_id), false_alarm=body.false_alarm, note=body.note or None) as order:
        done = alerts.mark_false(portal.store, alert_id, actor.name, body.note, false=body.false_alarm)
        order.told = f"{done} is {'marked as a' if done.false_alarm else 'no'} false alarm"
    return _row(portal, done)


@router.get("/silences")
def list_silences(portal: Portal) -> list[SilenceRow]:
    """The silences in force."""
    return [SilenceRow.model_validate(one, from_attributes=True) for one in alerts.silences(portal.store)]


@router.post("/silences", status_code=201)
def silence_alerts(body: Silencing, portal: Portal, actor: access.Controller) -> SilenceRow:
    """Send no messages about a condition, a topic or everything for a while. Alerts that still hold afterwards are sent then."""
    if body.what not in conditions.SILENCED:
        raise HTTPException(422, f"what {body.what!r}: choose from {', '.join(conditions.SILENCED)}")
    until = body.until or datetime.now(UTC) + timedelta(hours=body.hours)
    with access.ordered(portal, actor, "silence alerts", body.what, until=until, reason=body.reason) as order:
        done = alerts.silence(portal.store, body.what, until, actor.name, body.reason)
        order.told = f"no messages about {body.what} until {done.until.isoformat(timespec='minutes')}"
    return SilenceRow.model_validate(done, from_attributes=True)


@router.post("/silences/{silence_id}/end")
def end_silence(silence_id: AlertId, portal: Portal, actor: access.Controller) -> access.Outcome:
    """End a silence now."""
    with access.ordered(portal, actor, "end silence", str(silence_id)) as order:
        alerts.end_silence(portal.store, silence_id)
        order.told = f"silence {silence_id} has ended"
    return access.done(order.told)


def _row(portal: Portal, alert: alerts.Alert) -> AlertRow:
    runbook, ids = f"/runbook#{conditions.runbook(alert.condition)}", about.about(portal.store, portal.history, alert.page)
    return AlertRow.model_validate({**vars(alert), **vars(ids), "state": alert.state, "runbook": runbook})
