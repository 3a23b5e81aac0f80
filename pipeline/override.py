"""Python values in the grammar of Hydra's command line, for those who write overrides and need not load Hydra."""

from __future__ import annotations

import datetime as dt
import os
import re
from collections.abc import Mapping

_KEY = re.compile(r"(?!(?:null|true|false|nan|inf)$|[\d\s.-])[\w*?./@|%$\-()\[\]{}:=, \t\\]+", re.ASCII | re.IGNORECASE)
_SPECIAL = re.compile(r"[()\[\]{}:=, \t\\]")


def override(key: str, value: object) -> str:
    """``key=value``, which Hydra reads back as that very value.

    Text may hold anything: spaces, quotes, ``=``, commas, braces. ``${...}`` in it stays an interpolation.

    Raises:
        TypeError: the value is no number, text, date, path, or list or mapping of those.
        ValueError: the key of a mapping cannot be written on Hydra's command line.
    """
    return f"{key}={literal(value)}"


def literal(value: object) -> str:
    """A value as Hydra reads it back; dates in ISO form, as text."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, (int, float)):
        return repr(value)
    if isinstance(value, dt.date | dt.time):  # a datetime is a date
        return quoted(value.isoformat())
    if isinstance(value, (str, os.PathLike)):
        return quoted(os.fspath(value))
    if isinstance(value, Mapping):
        return "{" + ",".join(f"{_key(name)}:{literal(inner)}" for name, inner in value.items()) + "}"
    if isinstance(value, (list, tuple)):
        return "[" + ",".join(map(literal, value)) + "]"
    raise TypeError(
        f"an override holds numbers, text, dates, paths, lists and mappings; got {type(value).__name__}: {value!r}"
    )


def quoted(text: str) -> str:
    """Text in double quotes; a backslash counts only where it stands before a quote, so only there it is doubled."""
    escaped = re.sub(r'(\\*)"', lambda m: m[1] * 2 + '\\"', text)
    tail = escaped[len(escaped.rstrip("\\")) :]
    return f'"{escaped}{tail}"'


def _key(name: object) -> str:
    """A key of a mapping, for which Hydra has no quotes."""
    if not isinstance(name, str) or not _KEY.fullmatch(name) or name[-1].isspace():
        raise ValueError(f"Hydra's command line has no way to write the key {name!r}; give that mapping in a YAML file")
    return _SPECIAL.sub(lambda m: "\\" + m[0], name)
