"""Lanes: steps of the flow that overlap, each in a thread of its own. The only concurrency of the package.

A lane is a generator over the lane before it. `prefetch` moves it to a thread behind a bounded buffer; with depth 0 the
same generator runs in the caller's thread. An exception travels down, an early close travels up, and neither leaves a
thread behind.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass, field
from typing import Generic, TypeVar

S = TypeVar("S")
T = TypeVar("T")


@dataclass
class Lane:
    """What one lane has done, in seconds of wall time.

    Attributes:
        total: inside the lane, the waiting for the lane before it included.
        starved: waiting for the lane before it.
        blocked: waiting for room in the lane after it.
    """

    name: str
    items: int = 0
    total: float = 0.0
    starved: float = 0.0
    blocked: float = 0.0

    @property
    def busy(self) -> float:
        """Seconds of work of its own."""
        return max(0.0, self.total - self.starved)


@dataclass
class Flow:
    """Joins steps into lanes with the same bounds.

    Attributes:
        depth: items that may wait between two lanes; 0 runs everything in the caller's thread.
        bytes: bytes that may wait between two lanes (one item always may).
    """

    depth: int
    bytes: int
    lanes: list[Lane] = field(default_factory=list)

    def through(
        self,
        name: str,
        step: Callable[[Iterator[S]], Iterator[T]],
        before: Iterator[S],
        size: Callable[[T], int] = lambda _: 0,
    ) -> Iterator[T]:
        """Run `step` over the items of the lane `before`, in a lane of its own."""
        lane = Lane(name)
        self.lanes.append(lane)

        def starve(seconds: float, _: int) -> None:
            lane.starved += seconds

        def work(seconds: float, items: int) -> None:
            lane.total += seconds
            lane.items += items

        def block(seconds: float) -> None:
            lane.blocked += seconds

        steps = _timed(_closing(step, _timed(before, starve)), work)
        return prefetch(steps, self.depth, size=size, budget=self.bytes, blocked=block)


def _timed(items: Iterator[T], add: Callable[[float, int], None]) -> Generator[T, None, None]:
    """The items; `add` is told the seconds that each took to arrive, and those that the end took."""
    try:
        while True:
            start = time.perf_counter()
            try:
                item = next(items)
            except StopIteration:
                add(time.perf_counter() - start, 0)
                return
            add(time.perf_counter() - start, 1)
            yield item
            del item  # the consumer decides how long a batch lives
    finally:
        _close(items)


def _closing(step: Callable[[Iterator[S]], Iterator[T]], before: Iterator[S]) -> Generator[T, None, None]:
    """The step; however it ends, the lane before it ends too, even while a traceback still refers to it."""
    try:
        yield from step(before)
    finally:
        _close(before)


def _close(items: object) -> None:
    if isinstance(items, Generator):
        items.close()


def prefetch(
    items: Iterator[T],
    depth: int,
    *,
    size: Callable[[T], int] = lambda _: 0,
    budget: int = 0,
    blocked: Callable[[float], None] = lambda _: None,
) -> Generator[T, None, None]:
    """The same items in the same order, produced ahead in a thread.

    Args:
        items: what to produce; a generator is closed in the end, in the thread that ran it.
        depth: items that may wait; 0 means no thread.
        size: bytes of an item.
        budget: bytes that may wait, 0 for no limit; one item always may.
        blocked: told the seconds that production waited for room.
    """
    if depth == 0:
        try:
            yield from items
        finally:
            _close(items)
        return
    buffer: _Buffer[T] = _Buffer(depth, budget)

    def produce() -> None:
        try:
            for item in items:
                start = time.perf_counter()
                room = buffer.put(item, size(item))
                blocked(time.perf_counter() - start)
                del item
                if not room:
                    break
            _close(items)
            buffer.end(None)
        except BaseException as e:  # noqa: BLE001  (raised again in the thread that consumes)
            buffer.end(e)

    thread = threading.Thread(target=produce, name="pipeline-lane", daemon=True)
    thread.start()
    try:
        yield from buffer
    finally:
        buffer.stop()
        thread.join()


class _Buffer(Generic[T]):
    """A queue bounded by items and bytes, that either side can end."""

    def __init__(self, depth: int, budget: int) -> None:
        self._depth = depth
        self._budget = budget
        self._changed = threading.Condition()
        self._items: deque[tuple[T, int]] = deque()
        self._held = 0
        self._ended = False
        self._stopped = False
        self._error: BaseException | None = None

    def put(self, item: T, size: int) -> bool:
        """Wait for room, then append; False if nobody wants it any more."""
        with self._changed:
            self._changed.wait_for(lambda: self._stopped or self._room(size))
            if not self._stopped:
                self._items.append((item, size))
                self._held += size
                self._changed.notify_all()
            return not self._stopped

    def _room(self, size: int) -> bool:
        if not self._items:
            return True
        return len(self._items) < self._depth and (not self._budget or self._held + size <= self._budget)

    def end(self, error: BaseException | None) -> None:
        """No more items follow; `error` is raised after the last one."""
        with self._changed:
            self._ended = True
            self._error = error
            self._changed.notify_all()

    def stop(self) -> None:
        """The consumer is gone: `put` returns False from now on."""
        with self._changed:
            self._stopped = True
            self._items.clear()
            self._changed.notify_all()

    def __iter__(self) -> Iterator[T]:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._items or self._ended)
                if not self._items:
                    break
                item, size = self._items.popleft()
                self._held -= size
                self._changed.notify_all()
            yield item
            del item
        if self._error is not None:
            raise self._error
