"""Query parameters, checked: a wrong one is a ConfigurationError that names it, hence a 400."""

from __future__ import annotations

import math

from starlette.requests import Request

from dsa110_assets.errors import ConfigurationError


def text(request: Request, name: str) -> str | None:
    """A parameter as stripped text; None when absent or empty."""
    return request.query_params.get(name, "").strip() or None


def number(request: Request, name: str, default: float, low: float, high: float) -> float:
    """A finite number in [low, high]. Raises ConfigurationError otherwise."""
    given = text(request, name)
    if given is None:
        return default
    try:
        value = float(given)
    except ValueError:
        value = math.nan
    if not low <= value <= high:
        raise ConfigurationError(f"{name}={given!r} is no number from {low:g} to {high:g}")
    return value


def integer(request: Request, name: str, default: int, low: int, high: int) -> int:
    """A whole number in [low, high]. Raises ConfigurationError otherwise."""
    value = number(request, name, default, low, high)
    if value != int(value):
        raise ConfigurationError(f"{name}={value:g} is no whole number")
    return int(value)


def cone(request: Request) -> dict[str, str | None]:
    """The cone search of a request's parameters."""
    return {name: text(request, name) for name in ("ra", "dec", "radius")}


def texts(request: Request, name: str) -> list[str]:
    """All values of a parameter that may stand several times, each once, in their order; blank ones are none."""
    return list(dict.fromkeys(value for value in map(str.strip, request.query_params.getlist(name)) if value))
