"""The error classes. The class of an error decides what happens next: retry, wait, quarantine or stop.

Every message says what is wrong, with which value or file, and what to do about it. The mapping to
Dagster's retries and failures is made in one place, `orchestration/running/policy.py`.
"""

from __future__ import annotations

from pathlib import Path


class DsaError(Exception):
    """The base of all errors that this package raises on purpose."""


class TransientError(DsaError):
    """Something external failed temporarily (I/O, database, crashed child): retried with back-off and jitter."""


class OverrunError(TransientError):
    """A child hung and was killed at its deadline: tried once more, then its observation is quarantined."""


class SupersededError(TransientError):
    """Another run has published the product that this run was making, for example after this host was presumed dead. When retried,
    the run finds the product made."""


class ResourceError(DsaError):
    """Disk or memory is short: ingest pauses, an alert is sent, and work resumes when it is available again."""


class WaitingError(DsaError):
    """An input does not exist yet (no calibration for this strip): the observation waits, visibly."""


class BadDataError(DsaError):
    """The data cannot be used: quarantined with this reason, never retried. `path`: the one file at fault, if known."""

    def __init__(self, message: str, path: Path | None = None) -> None:
        super().__init__(message)
        self.path = path


class ConfigurationError(DsaError):
    """A setting is wrong: everything that depends on it stops; the message names the setting."""


class SilentWrongnessError(DsaError):
    """A product would be wrong without looking wrong. Always HARD: nothing downstream runs."""


class NotFoundError(DsaError):
    """A user requested something that does not exist; the message says what does."""
