"""What a run writes to its console: Dagster's events and what steps log, in the form of all other lines of the platform."""

import logging

import dagster as dg

from dsa110_assets import logs, settings


@dg.logger({"log_level": dg.Field(str, default_value="INFO"), "name": dg.Field(str, default_value="dagster")})
def console(context: dg.InitLoggerContext) -> logging.Logger:
    """A logger of the form that the settings ask for, from the level of the run's configuration on."""
    logger = logging.Logger(context.logger_config["name"], context.logger_config["log_level"])
    handler = logging.StreamHandler()
    handler.setFormatter(logs.formatter(settings.log_form()))
    logger.addHandler(handler)
    return logger


LOGGERS = {"console": console}
