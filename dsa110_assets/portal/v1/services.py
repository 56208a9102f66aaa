"""The platform's services, where systemd runs them: their states, and restarting one."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Path
from pydantic import BaseModel, Field

from dsa110_assets.errors import ConfigurationError
from dsa110_assets.orchestration.running import units
from dsa110_assets.portal.v1 import access
from dsa110_assets.portal.v1.context import Portal

router = APIRouter(tags=["control"])
Name = Annotated[str, Path(max_length=40, pattern=r"^[a-z][a-z-]*$", description="code-server, daemon, webserver or portal")]


class ServiceRow(BaseModel):
    """A service of the platform."""

    name: str
    unit: str
    there: bool = Field(description="whether it is a unit on this machine, so that it can be restarted")
    state: str = Field(description="its state in systemd's words")
    since: str = Field(description="when it became active, as systemd writes it")
    meaning: str = Field(description="what a restart means")


class Services(BaseModel):
    """All services, or why systemd cannot list them."""

    items: list[ServiceRow]
    refused: str | None = Field(default=None, description="why there are none: no systemd on this machine")


class Restarting(BaseModel):
    """Restart a service."""

    confirm: access.Confirm = None


@router.get("/services")
def list_services() -> Services:
    """The states of the platform's services, on a machine where systemd runs them."""
    try:
        return Services(items=[ServiceRow.model_validate(one, from_attributes=True) for one in units.services()])
    except ConfigurationError as error:
        return Services(items=[], refused=str(error))


@router.post("/services/{name}/restart")
def restart_service(name: Name, body: Restarting, portal: Portal, actor: access.Controller) -> access.Outcome:
    """Have systemd restart one of the platform's services; the answer does not wait for it."""
    found = units.service(name)
    plan = f"restart {found.unit}: {found.meaning}"
    if (rehearsal := access.rehearsed(body.confirm, plan, [found.unit])) is not None:
        return rehearsal
    portal.starts.take()
    with access.ordered(portal, actor, "restart", found.unit) as order:
        order.told = units.restart(name)
    return access.done(order.told, [found.unit])
