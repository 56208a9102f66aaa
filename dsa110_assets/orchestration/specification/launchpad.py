"""Run config for making an asset by hand in Dagster's launchpad, built from the options that shape the asset.

A step without config makes the asset with the platform's settings. With `trial` it makes the same partition for that trial,
with the options given beside it (see `archive.trials`); options without a trial are refused.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal, get_args, get_origin

import dagster as dg

from dsa110_assets import settings
from dsa110_assets.errors import ConfigurationError
from dsa110_assets.orchestration.resources import Platform

if TYPE_CHECKING:
    from dsa110_assets.orchestration.specification.spec import Asset

TRIAL = "trial"
_TRIAL_HELP = (
    "name of a trial (lower-case letters, digits and _): the product is made for it, with the options below, and is no input of science"
)
_PLAIN: dict[Any, Any] = {bool: dg.Bool, int: dg.Int, float: dg.Float, str: dg.String}


def schema(asset: "Asset") -> dict[str, dg.Field]:
    """The fields of an asset's run config: a trial's name, every option that shapes the asset, with its help, and what it `asks`."""
    fields: dict[str, Any] = {TRIAL: dg.Field(dg.Noneable(dg.String), is_required=False, description=_TRIAL_HELP)}
    for name in asset.shaping:
        fields[name] = _group(settings.options(name))
    return fields | dict(asset.asks)


def platform_for(platform: Platform, config: Mapping[str, Any]) -> Platform:
    """The platform for a step with this run config. Raises ConfigurationError for options without a trial."""
    options = settings.dotted({name: value for name, value in config.items() if name != TRIAL})
    if config.get(TRIAL):
        return platform.for_trial(config[TRIAL], options)
    if options:
        raise ConfigurationError(
            f"{', '.join(options)}: made with other than the platform's settings, a product is a trial; give it a name (trial: NAME), "
            "or change the platform's settings"
        )
    return platform


def _group(options: settings.Option | dict[str, settings.Option]) -> dg.Field:
    if isinstance(options, settings.Option):
        return _field(options)
    return dg.Field({name: _field(option) for name, option in options.items()}, is_required=False)


def _field(option: settings.Option) -> dg.Field:
    description = ". ".join(part for part in (option.help, option.limits, f"default {option.default!r}") if part)
    return dg.Field(_type(option.kind), is_required=False, description=description)


def _type(kind: Any) -> Any:
    if get_origin(kind) is Literal:
        return dg.Enum("_".join(map(str, get_args(kind))), [dg.EnumValue(str(value)) for value in get_args(kind)])
    if get_origin(kind) is dict:
        return dict
    if get_origin(kind) is tuple:
        return dg.Array(_type(get_args(kind)[0]))
    return _PLAIN[kind]
