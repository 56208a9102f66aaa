"""Command options made from the fields of option dataclasses, which define default, range and help text in one place."""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, TypeVar, get_args, get_origin

import typer
from pydantic import TypeAdapter, ValidationError
from pydantic.fields import FieldInfo

from dsa110_assets.errors import ConfigurationError

T = TypeVar("T")
SET_HELP = "Any further option, NAME=VALUE as in clean_gain=0.05 (dsa110 settings lists and explains them); repeatable."


def described(annotation: Any) -> tuple[Any, FieldInfo, dict[str, Any]]:
    """Return the type of an annotated field, its description, and its range in typer's form."""
    kind, *notes = get_args(annotation) if get_origin(annotation) is Annotated else (annotation,)
    info = next((note for note in notes if isinstance(note, FieldInfo)), FieldInfo())
    limits = {
        typer_name: getattr(note, name)
        for note in info.metadata
        for name, typer_name in (("ge", "min"), ("le", "max"))
        if hasattr(note, name)
    }
    return kind, info, limits


def of_field(options: type[Any], name: str, flag: str) -> Any:
    """Return a typer option for a field of an options dataclass."""
    _, info, limits = described(typing.get_type_hints(options, include_extras=True)[name])
    default = next(field.default for field in dataclasses.fields(options) if field.name == name)
    return typer.Option(default, flag, help=info.description, **limits)


def validated(options: type[T], values: Mapping[str, Any], flags: Mapping[str, str]) -> T:
    """Return the options with these values. Raises ConfigurationError naming the flag (`flags` has those that are not --field-name)."""
    try:
        return TypeAdapter(options).validate_python(dict(values))
    except ValidationError as error:
        first = error.errors()[0]
        field = str(first["loc"][0]) if first["loc"] else ""
        flag = flags.get(field, f"--{field.replace('_', '-')}")
        raise ConfigurationError(f"{flag} {first.get('input')!r}: {first['msg']}") from error


def assigned(options: type[Any], texts: Sequence[str] | None) -> dict[str, str]:
    """Return field values from NAME=VALUE texts. Raises typer.BadParameter, listing the fields, for a name that is not one."""
    known = [field.name for field in dataclasses.fields(options)]
    values = {}
    for text in texts or ():
        name, equals, value = text.partition("=")
        if not equals or name not in known:
            raise typer.BadParameter(f"{text!r}: write NAME=VALUE, NAME one of {', '.join(known)}")
        values[name] = value
    return values
