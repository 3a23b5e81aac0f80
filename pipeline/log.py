"""Words for people on stderr; as lines of JSON where machines read them (hydra/job_logging=json)."""

from __future__ import annotations

import json
import logging
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
    """Writes to what is stderr at that moment: while a bar is shown, lines go above it and stay."""

    @property
    def stream(self) -> Any:
        """The standard error stream of now."""
        return sys.stderr

    @stream.setter
    def stream(self, _: Any) -> None:
        """Handlers are given one when they are made."""


def say(text: str, level: int = logging.INFO) -> None:
    """Tell what was done, or went wrong; a closed stderr loses nothing."""
    if any(isinstance(handler.formatter, JsonLines) for handler in logging.getLogger().handlers):
        logging.getLogger("pipeline").log(level, "%s", text)
        return
    with suppress(OSError, ValueError, AttributeError):
        print(text, file=sys.stderr, flush=True)
