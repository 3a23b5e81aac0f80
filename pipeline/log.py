"""Words for people on stderr, as lines of JSON where machines read them (hydra/job_logging=json); results on stdout."""

from __future__ import annotations

import json
import logging
import os
import sys
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any


class JsonLines(logging.Formatter):
    """One object for each record: time (UTC), level, logger, message, and the traceback if there is one."""

    def format(self, record: logging.LogRecord) -> str:
        """The record as one line."""
        when = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        line = {"time": when, "level": record.levelname, "logger": record.name, "message": record.getMessage()}
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps(line)


class Console(logging.StreamHandler[Any]):
    """Writes to stderr, whatever that is at the moment: while a bar is shown, lines go above it and stay."""

    _other: Any = None

    @property
    def stream(self) -> Any:
        """Standard error, or another stream if one was given."""
        return self._other or sys.stderr

    @stream.setter
    def stream(self, given: Any) -> None:
        self._other = None if given is sys.stderr else given


def say(text: str, level: int = logging.INFO) -> None:
    """Tell what was done, or went wrong; a closed stderr loses nothing."""
    if any(isinstance(handler.formatter, JsonLines) for handler in logging.getLogger().handlers):
        logging.getLogger("pipeline").log(level, "%s", text)
        return
    with suppress(OSError, ValueError, AttributeError):
        print(text, file=sys.stderr, flush=True)


def emit(text: str = "") -> None:
    """Print to stdout, or only flush it. That nobody reads it any more never breaks a run."""
    if sys.stdout is None:
        return
    try:
        print(text, end="\n" if text else "", flush=True)
    except ValueError:
        return  # closed
    except OSError:
        with suppress(OSError, ValueError):  # or Python fails again when it flushes at exit
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
