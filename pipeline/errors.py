"""One small tree of errors. Each says what was expected, what was found, where, and what to do.

    PipelineError            1   failed in a way that has no number of its own
    ├── ConfigError          2   the configuration cannot work; nothing was read
    ├── DataError           65   the input holds something that cannot be processed
    │   └── DTypeError      65   a column's type, or its nulls, do not fit where it should go
    ├── InputError          66   the input is missing, unreadable or not a regular file
    ├── TransformError      70   the transform raised, or broke its contract
    ├── OutputError         73   the output cannot be created, or belongs to another configuration
    ├── StorageError        74   reading or writing failed while the run was under way
    └── RetryError          75   try again later: locked, disk full, device out of memory

The numbers are process exit codes, those of 64 and above from BSD's ``sysexits.h``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


class PipelineError(Exception):
    """Base of everything this package raises on purpose; the message is meant for the user."""

    code = 1
    facts: Mapping[str, Any] = {}
    """More for a program than the message says; it joins the last line of stdout."""


class ConfigError(PipelineError):
    """The configuration cannot work, whatever the data."""

    code = 2


class DataError(PipelineError):
    """The input holds something that cannot be processed."""

    code = 65


class DTypeError(DataError):
    """A column's type, or its nulls, do not fit where it should go."""


class InputError(PipelineError):
    """The input is missing, unreadable or not a regular file."""

    code = 66


class TransformError(PipelineError):
    """The transform raised, or returned something that breaks its contract."""

    code = 70


class OutputError(PipelineError):
    """The output cannot be created, or belongs to another configuration."""

    code = 73


class StorageError(PipelineError):
    """Reading or writing failed while the run was under way."""

    code = 74


class RetryError(PipelineError):
    """The same command may succeed later: locked, disk full, device out of memory."""

    code = 75
