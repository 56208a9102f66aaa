"""Checked query parameters: a wrong one raises a ConfigurationError that names it, which is answered with 400."""

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
        raise ConfigurationError(f"{name}={given!r} is not a number from {low:g} to {high:g}")
    return value


def integer(request: Request, name: str, default: int, low: int, high: int) -> int:
    """A whole number in [low, high]. Raises ConfigurationError otherwise."""
    value = number(request, name, default, low, high)
    if value != int(value):
        raise ConfigurationError(f"{name}={value:g} is not a whole number")
    return int(value)


def cone(request: Request) -> dict[str, str | None]:
    """The cone search of a request's parameters."""
    return {name: text(request, name) for name in ("ra", "dec", "radius")}


def texts(request: Request, name: str) -> list[str]:
    """The distinct values of a parameter that may be repeated, stripped and in their order; blank ones are dropped."""
    return list(dict.fromkeys(value for value in map(str.strip, request.query_params.getlist(name)) if value))
