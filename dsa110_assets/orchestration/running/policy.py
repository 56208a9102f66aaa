"""The only mapping from an error's class to what Dagster does: retry with back-off, or fail at once."""

import errno
import logging
import random
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import dagster as dg

from dsa110_assets import errors
from dsa110_assets.orchestration.watching.history import ERROR_CLASS

if TYPE_CHECKING:
    from dsa110_assets.orchestration.running.internals import StepFailureData


FIRST_PAUSE_S, LONGEST_PAUSE_S, DAY_S = 60.0, 1800.0, 86400.0


@dataclass(frozen=True)
class Treatment:
    """The treatment of an error: the number of retries in its run, the first wait [s] (doubled each time), and the time [s] after which
    the live platform requests another run (doubled each time, up to half an hour or the first value, whichever is longer)."""

    max_retries: int
    wait_s: float
    again_s: float = FIRST_PAUSE_S


TREATMENTS: dict[type[errors.DsaError], Treatment] = {
    errors.TransientError: Treatment(max_retries=4, wait_s=6.0),
    errors.SupersededError: Treatment(max_retries=4, wait_s=6.0),
    errors.OverrunError: Treatment(max_retries=1, wait_s=2.0, again_s=DAY_S),
    errors.ResourceError: Treatment(max_retries=3, wait_s=30.0),
    errors.WaitingError: Treatment(max_retries=0, wait_s=0.0),
    errors.BadDataError: Treatment(max_retries=0, wait_s=0.0, again_s=DAY_S),
    errors.ConfigurationError: Treatment(max_retries=0, wait_s=0.0),
    errors.SilentWrongnessError: Treatment(max_retries=0, wait_s=0.0, again_s=DAY_S),
    errors.NotFoundError: Treatment(max_retries=0, wait_s=0.0, again_s=DAY_S),
}
"""An outage of a minute is over before the last retry: 6 + 12 + 24 + 48 s, at least 72 s with the jitter. After a longer outage the
product is requested again in other runs. An error that waiting cannot cure is for a person to solve, and is tried once a day; with other
inputs, settings or code it is another request, which does not rest. Waiting is not retried inside a run, which would hold a slot for
hours."""
OTHERWISE = Treatment(max_retries=0, wait_s=0.0, again_s=DAY_S)
"""The treatment of any other error: a fault of the program."""

_SHORT_OF = {errno.ENOSPC, errno.EDQUOT, errno.ENOMEM}
_JITTER = random.Random()
_log = logging.getLogger(__name__)


def as_dsa_error(error: OSError | MemoryError | errors.DsaError) -> errors.DsaError:
    """Return the error of our tree that an operating-system error belongs to; our own errors are returned unchanged."""
    if isinstance(error, errors.DsaError):
        return error
    if isinstance(error, MemoryError) or error.errno in _SHORT_OF:
        return errors.ResourceError(f"{error}; free some space or memory, and work resumes by itself")
    return errors.TransientError(f"{type(error).__name__}: {error}")


def treatment(error: errors.DsaError) -> Treatment:
    """The treatment of an error, from the nearest class of the tree that has one."""
    return next((TREATMENTS[cls] for cls in type(error).__mro__ if cls in TREATMENTS), OTHERWISE)


def wait_s(rule: Treatment, retry_number: int) -> float:
    """Seconds until retry `retry_number` (0-based): doubling from the first wait, with +-20 % of jitter."""
    return float(rule.wait_s * 2**retry_number * _JITTER.uniform(0.8, 1.2))


def pause_s(error_class: str | None, ended: int) -> float:
    """Seconds until a product that `ended` runs failed to make is requested again. `error_class` is the error that ended the last run,
    None if that was killed, cancelled or made nothing. The pause keeps runs that end quickly from becoming a storm of runs."""
    known = {cls.__name__: rule for cls, rule in TREATMENTS.items()}
    first_s = FIRST_PAUSE_S if error_class is None else known.get(error_class, OTHERWISE).again_s
    return min(first_s * 2.0 ** (ended - 1), max(first_s, LONGEST_PAUSE_S))


def failure(data: "StepFailureData") -> tuple[str, str]:
    """The class of the error that failed a step, and its reason in the words of whoever raised it."""
    failure_data = data.user_failure_data
    if failure_data is not None:
        error_class = str(failure_data.metadata[ERROR_CLASS].value) if ERROR_CLASS in failure_data.metadata else "Failure"
        return error_class, (failure_data.description or "").removeprefix(f"{error_class}: ")
    error = data.error
    while error is not None and error.cause is not None:
        error = error.cause
    error_class = (error.cls_name if error else None) or "Error"
    return error_class, " ".join((error.message if error else "").split()).removeprefix(f"{error_class}: ")


@contextmanager
def as_dagster_errors(retry_number: int = 0) -> Iterator[None]:
    """Turn the errors of our tree, and operating-system errors, into Dagster's RetryRequested, or into Failure at the last attempt.

    The failure's metadata carry the class of the error, its reason and the number of attempts.
    """
    try:
        yield
    except (errors.DsaError, OSError, MemoryError) as raised:
        error = as_dsa_error(raised)
        rule = treatment(error)
        if retry_number < rule.max_retries:
            seconds = wait_s(rule, retry_number)
            _log.warning("%s: %s; tried again in %.0f s", type(error).__name__, error, seconds)
            raise dg.RetryRequested(rule.max_retries, seconds) from error
        raise dg.Failure(
            description=f"{type(error).__name__}: {error}",
            metadata={ERROR_CLASS: type(error).__name__, "reason": str(error), "attempts": retry_number + 1},
            allow_retries=False,
        ) from error


def last_attempt(error: errors.DsaError, retry_number: int) -> bool:
    """Whether an error in this attempt ends the step."""
    return retry_number >= treatment(error).max_retries
