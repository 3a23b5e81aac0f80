"""One worker in this process."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

from pipeline.core import Part, Task


@dataclass(frozen=True)
class Local:
    """Runs all tasks in this process, in order; the lanes of the worker overlap across tasks."""

    def map(self, worker: Callable[[Iterable[Task]], Iterator[Part]], tasks: Sequence[Task]) -> Iterator[Part]:
        """Parts in the order of the tasks."""
        return worker(tasks)
