"""The class of an error decides whether a step is retried with growing waits, or fails at once with its reason."""

from __future__ import annotations

import errno

import dagster as dg
import pytest

from dsa110_assets import errors
from dsa110_assets.orchestration.running import policy
from dsa110_assets.orchestration.watching import history

RETRIED = {errors.TransientError, errors.SupersededError, errors.OverrunError, errors.ResourceError}


def classes() -> list[type[errors.DsaError]]:
    found = [cls for cls in vars(errors).values() if isinstance(cls, type) and issubclass(cls, errors.DsaError)]
    return [cls for cls in found if cls is not errors.DsaError]


def test_every_class_of_the_tree_has_a_treatment() -> None:
    assert set(policy.TREATMENTS) == set(classes())


@pytest.mark.parametrize("cls", classes())
def test_an_error_is_retried_or_failed_by_its_class(cls: type[errors.DsaError], caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises((dg.RetryRequested, dg.Failure)) as caught, policy.as_dagster_errors():
        raise cls("the reason")
    if cls in RETRIED:
        assert isinstance(caught.value, dg.RetryRequested)
        assert caught.value.max_retries == policy.TREATMENTS[cls].max_retries > 0
        # a person who waits at a terminal sees the reason
        assert f"{cls.__name__}: the reason; tried again in {caught.value.seconds_to_wait:.0f} s" in caplog.messages
    else:
        assert isinstance(caught.value, dg.Failure)
        assert caught.value.allow_retries is False
        assert caught.value.metadata[history.ERROR_CLASS].value == cls.__name__
        assert "the reason" in (caught.value.description or "")


@pytest.mark.parametrize("cls", sorted(RETRIED, key=str))
def test_the_last_attempt_fails_with_its_class_reason_and_number(cls: type[errors.DsaError]) -> None:
    last = policy.TREATMENTS[cls].max_retries
    assert [policy.last_attempt(cls("x"), number) for number in (last - 1, last)] == [False, True]
    with pytest.raises(dg.Failure) as caught, policy.as_dagster_errors(last):
        raise cls("the reason")
    metadata = {key: value.value for key, value in caught.value.metadata.items()}
    assert metadata == {history.ERROR_CLASS: cls.__name__, "reason": "the reason", "attempts": last + 1}


@pytest.mark.parametrize(
    ("raised", "cls"),
    [
        (OSError(errno.ENOSPC, "no space"), errors.ResourceError),
        (MemoryError("out of memory"), errors.ResourceError),
        (OSError(errno.EIO, "i/o error"), errors.TransientError),
        (OSError(errno.ESTALE, "stale handle"), errors.TransientError),
        (errors.BadDataError("bad"), errors.BadDataError),
    ],
)
def test_system_errors_become_our_error_classes(raised: OSError | MemoryError | errors.DsaError, cls: type[errors.DsaError]) -> None:
    assert type(policy.as_dsa_error(raised)) is cls


def test_waits_double_and_jitter_stays_within_a_fifth() -> None:
    rule = policy.TREATMENTS[errors.TransientError]
    for number in range(rule.max_retries):
        waits = [policy.wait_s(rule, number) for _ in range(50)]
        middle = rule.wait_s * 2**number
        assert all(0.8 * middle <= wait <= 1.2 * middle for wait in waits)
        assert len(set(waits)) > 1


def test_retries_outlast_an_outage_of_a_minute() -> None:
    """The waits sum to more than a minute even at their shortest and if every attempt fails at once."""
    rule = policy.TREATMENTS[errors.TransientError]
    assert sum(0.8 * rule.wait_s * 2**number for number in range(rule.max_retries)) > 60


def test_a_program_fault_is_raised_unchanged() -> None:
    with pytest.raises(ZeroDivisionError), policy.as_dagster_errors():
        raise ZeroDivisionError
