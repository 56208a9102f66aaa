"""Options of commands from the fields of option dataclasses: their default, range and line of help, each said once."""

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
SET_HELP = "Any further option, NAME=VALUE as in clean_gain=0.05 (dsa110 settings lists them with their meaning); repeatable."


def described(annotation: Any) -> tuple[Any, FieldInfo, dict[str, Any]]:
    """The type of an annotated field, what is said of it, and its range as typer takes it."""
    kind, *notes = get_args(annotation) if get_origin(annotation) is Annotated else (annotation,)
    info = next((note for note in notes if isinstance(note, FieldInfo)), FieldInfo())
    limits = {how: getattr(note, name) for note in info.metadata for name, how in (("ge", "min"), ("le", "max")) if hasattr(note, name)}
    return kind, info, limits


def of_field(options: type[Any], name: str, flag: str) -> Any:
    """A typer option for a field of an options dataclass."""
    _, info, limits = described(typing.get_type_hints(options, include_extras=True)[name])
    default = next(field.default for field in dataclasses.fields(options) if field.name == name)
    return typer.Option(default, flag, help=info.description, **limits)


def validated(options: type[T], values: Mapping[str, Any], flags: Mapping[str, str]) -> T:
    """The options with these values. Raises ConfigurationError naming the flag (`flags`: of those that are not --field-name)."""
    try:
        return TypeAdapter(options).validate_python(dict(values))
    except ValidationError as error:
        first = error.errors()[0]
        field = str(first["loc"][0]) if first["loc"] else ""
        flag = flags.get(field, f"--{field.replace('_', '-')}")
        raise ConfigurationError(f"{flag} {first.get('input')!r}: {first['msg']}") from error


def assigned(options: type[Any], texts: Sequence[str] | None) -> dict[str, str]:
    """Values of fields from NAME=VALUE texts. Raises typer.BadParameter for what is no field, saying which there are."""
    known = [field.name for field in dataclasses.fields(options)]
    values = {}
    for text in texts or ():
        name, equals, value = text.partition("=")
        if not equals or name not in known:
            raise typer.BadParameter(f"{text!r}: write NAME=VALUE, NAME one of {', '.join(known)}")
        values[name] = value
    return values
