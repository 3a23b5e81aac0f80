"""The day that a run is about: read from the clock once, moved and written in words of a configuration."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import date, datetime, timedelta
from functools import cache


@cache
def today() -> str:
    """The date on the local clock, read once a run: the jobs of a sweep past midnight agree."""
    return datetime.now().astimezone().date().isoformat()


def days_ago(days: int) -> str:
    """A date in the past, by the local clock."""
    return date_add(today(), -days)


def yesterday() -> str:
    """The date before today's."""
    return days_ago(1)


def date_add(day: str, days: int) -> str:
    """A date so many days later; earlier if negative."""
    return (date.fromisoformat(day) + timedelta(days=days)).isoformat()


def date_format(day: str, form: str) -> str:
    """A date in the letters of `strftime`, such as ``%Y/%m/%d``."""
    return date.fromisoformat(day).strftime(form)


def is_day(value: object) -> bool:
    """Whether this is a date of the calendar, written 2026-01-31."""
    try:
        return isinstance(value, str) and date.fromisoformat(value).isoformat() == value
    except ValueError:
        return False


CLOCK: Mapping[str, Callable[..., str]] = {"today": today, "yesterday": yesterday, "days_ago": days_ago}
"""Words that read the clock, by their name in a configuration: `${yesterday:}`, `${days_ago:2}`."""

WORDS: Mapping[str, Callable[..., str]] = {**CLOCK, "date_add": date_add, "date_format": date_format}
"""All words: also `${date_add:${date},-7}`, `${date_format:${date},%Y/%m}`."""
