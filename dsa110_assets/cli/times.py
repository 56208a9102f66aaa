"""Parsing of times and spans of nights as observers type them."""

from __future__ import annotations

from datetime import UTC, date, datetime, time, timedelta

import typer

FORMS = "2026-01-25, 2026-01-25T22:25:00 (UTC), an MJD such as 61065.93, or now"


def parse_time(text: str) -> datetime:
    """Return the UTC time of an ISO 8601 date or time (UTC unless it has another zone), an MJD, or `now`.

    Raises typer.BadParameter (exit status 2), which lists the accepted forms.
    """
    word = text.strip()
    if word.lower() == "now":
        return datetime.now(UTC)
    try:
        number = float(word)
    except ValueError:
        pass
    else:
        from dsa110_assets.telescope import timegrid

        try:
            return timegrid.mjd_to_datetime(timegrid.require_mjd(number))
        except ValueError as error:
            raise typer.BadParameter(f"{text!r} is no time; use {FORMS}") from error
    try:
        moment = datetime.fromisoformat(word)
        return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
    except (ValueError, OverflowError) as error:  # overflow: the year 1, in a zone ahead of UTC
        raise typer.BadParameter(f"{text!r} is no time; use {FORMS}") from error


def parse_bound(text: str | None) -> datetime | str | None:
    """Return a bound of a time range; a date alone stays text and means its whole day. Raises typer.BadParameter."""
    if text is None:
        return None
    moment = parse_time(text)
    return text.strip() if len(text.strip()) == len("2026-01-25") and "-" in text else moment


def parse_date(text: str) -> date:
    """Return a UTC night from a date, or today from `now`. Raises typer.BadParameter, which lists the accepted forms.

    A time of day is refused, because it suggests that only part of the night is meant.
    """
    moment = parse_time(text)
    if moment.time() != time(0) and text.strip().lower() != "now":
        raise typer.BadParameter(
            f"{text!r} is a time, but a night is a whole UTC day: write {moment:%Y-%m-%d}; "
            "for part of a night use `dsa110 process --since T1 --until T2`"
        )
    return moment.date()


def parse_nights(text: str) -> list[str]:
    """Return the night keys of `D1..D2` (both included) or of one night. Raises typer.BadParameter."""
    first, separator, last = text.partition("..")
    start = parse_date(first)
    end = parse_date(last) if separator else start
    if end < start:
        raise typer.BadParameter(f"{text!r} ends before it starts; write the earlier night first")
    return [(start + timedelta(days=day)).isoformat() for day in range((end - start).days + 1)]
