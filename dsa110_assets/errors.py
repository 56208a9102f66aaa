"""The error tree. The class of an error decides what happens next: retry, wait, quarantine or stop.

Every message says what is wrong, with which value or file, and what to do about it. The mapping to
Dagster's retries and failures is made in one place, `orchestration/running/policy.py`.
"""

from __future__ import annotations

from pathlib import Path


class DsaError(Exception):
    """Base of every error this package raises on purpose."""


class TransientError(DsaError):
    """Something outside failed for now (I/O, database, crashed child): retried with back-off and jitter."""


class OverrunError(TransientError):
    """A child hung and was killed at its deadline: tried once more, then its observation is quarantined."""


class SupersededError(TransientError):
    """Another run has published what this one was to make, as after a host was taken for gone: tried again, it finds that done."""


class ResourceError(DsaError):
    """Disk or memory is short: ingest pauses, an alert goes out, work resumes when it is there again."""


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
    """A user asked for something that is not there; the message says what is."""
