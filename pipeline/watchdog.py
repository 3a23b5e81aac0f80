"""A watch over calls that may never return.

What hangs in another thread, or on a device, cannot be stopped from within: the process is ended, after every thread
has shown where it stands.
"""

from __future__ import annotations

import faulthandler
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass

from pipeline.errors import RetryError


@dataclass(frozen=True)
class Watchdog:
    """Ends the process when a watched call takes longer than `seconds`; None watches nothing.

    Attributes:
        seconds: time for one call.
        last: called before the end with the message: removes what must not stay, and says the last words.
        grace: seconds after which the system ends a process whose interpreter is blocked too: exit code 1, and what is
            half done stays for the next run to remove.
    """

    seconds: float | None = None
    last: Callable[[str], None] = lambda _: None
    grace: float = 5.0

    @contextmanager
    def over(self, what: str, *, code: bool = True) -> Iterator[None]:
        """Watch the block; `what` says in the message what did not return.

        Args:
            what: file and rows.
            code: whether code of the user runs in the block. It may block the interpreter, and with it the thread that
                watches; then the system ends the process after `grace`.
        """
        if self.seconds is None:
            yield
            return
        timer = threading.Timer(self.seconds, self._end, [what])
        timer.daemon = True
        timer.start()
        try:
            with _blocked(self.seconds + self.grace) if code else nullcontext():
                yield
        finally:
            timer.cancel()

    def _end(self, what: str) -> None:
        try:
            with suppress(OSError, ValueError, AttributeError):
                faulthandler.dump_traceback(file=sys.stderr, all_threads=True)
            self.last(
                f"{what}: no result after run.batch_timeout={self.seconds:g} seconds; the stacks of all threads "
                "are above. Finished parts are kept: correct the transform, or raise run.batch_timeout"
            )
        finally:
            os._exit(RetryError.code)


@contextmanager
def _blocked(seconds: float) -> Iterator[None]:
    """Let the system end the process if the block takes that long; works without the interpreter."""
    deadline = time.monotonic() + seconds
    try:
        _arm(lambda: _deadlines.append(deadline))
        yield
    finally:
        _arm(lambda: _deadlines.remove(deadline))


_deadlines: list[float] = []
"""Of the blocks that are under way; the system has one timer for all of them."""

_lock = threading.Lock()


def _arm(change: Callable[[], None]) -> None:
    """Set the timer for the block that ends first."""
    with _lock, suppress(OSError, ValueError, AttributeError):  # there is no stderr to show the stacks on
        change()
        if _deadlines:
            faulthandler.dump_traceback_later(max(1e-3, min(_deadlines) - time.monotonic()), exit=True)
        else:
            faulthandler.cancel_dump_traceback_later()
