"""Lanes: steps of the flow that overlap, each in a thread of its own. The only concurrency of the package.

A lane is a generator over the lane before it. `prefetch` moves it to a thread behind a bounded buffer; with depth 0 the
same generator runs in the caller's thread. `fan` gives each group of items a thread of its own, some at once, and
`pool` has several threads for single items, and in a `crew` the consumer's is one of them; all keep the order. Short
items take all lanes in one of the threads of a pool (`Flow.along`). An exception travels down, an early close travels
up, and neither leaves a thread behind. What is to be done beside a lane, hashing or recording, goes to `Beside` and
`Together`.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from itertools import chain
from typing import Any, Generic, TypeVar

from pipeline.timeline import Timeline, Track

K = TypeVar("K")
S = TypeVar("S")
T = TypeVar("T")


@dataclass
class Lane:
    """What one lane has done, in seconds of wall time, summed over its threads.

    Attributes:
        width: threads that may work in it at once.
        total: inside the lane, the waiting for the lane before it included.
        starved: waiting for the lane before it.
        blocked: waiting for room in the lane after it.
        track: where the same is kept over time, if it is.
    """

    name: str
    width: int = 1
    items: int = 0
    total: float = 0.0
    starved: float = 0.0
    blocked: float = 0.0
    track: Track | None = field(default=None, repr=False, compare=False)
    _lock: threading.Lock = field(default_factory=threading.Lock, init=False, repr=False, compare=False)

    @property
    def busy(self) -> float:
        """Seconds of work of its own."""
        return max(0.0, self.total - self.starved)

    def work(self, seconds: float, items: int) -> None:
        """Count time inside the lane, and what came of it."""
        with self._lock:
            self.total += seconds
            self.items += items
            if self.track is not None:
                self.track.add(self.track.inside, seconds)

    def starve(self, seconds: float, _: int = 0) -> None:
        """Count waiting for the lane before."""
        with self._lock:
            self.starved += seconds
            if self.track is not None:
                self.track.add(self.track.starved, seconds)

    def wait(self, seconds: float, _: int = 0) -> None:
        """Count waiting for the lane before, where the time inside the lane does not hold it yet."""
        self.work(seconds, 0)
        self.starve(seconds)

    def block(self, seconds: float) -> None:
        """Count waiting for the lane after."""
        with self._lock:
            self.blocked += seconds
            if self.track is not None:
                self.track.add(self.track.blocked, seconds)


@dataclass
class Flow:
    """Joins steps into lanes with the same bounds.

    Attributes:
        depth: items that may wait between two lanes; 0 runs everything in the caller's thread.
        bytes: bytes that may wait between two lanes (one item always may).
        timeline: takes down what lanes do when, if that is to be shown.
        one: held while somebody outside is told what a lane is at.
    """

    depth: int
    bytes: int
    lanes: list[Lane] = field(default_factory=list)
    timeline: Timeline | None = None
    one: threading.Lock = field(default_factory=threading.Lock, init=False, repr=False, compare=False)

    def through(
        self,
        name: str,
        step: Callable[[Iterator[S]], Iterator[T]],
        before: Iterator[S],
        size: Callable[[T], int] = lambda _: 0,
        *,
        apart: bool = True,
    ) -> Generator[T, None, None]:
        """Run `step` over the items of the lane `before`; in the thread of the lane after it if not `apart`."""
        lane, stopped = self._lane(name, 1), threading.Event()
        steps = _counted(lane, step, _unless(stopped, before))
        depth = self.depth if apart else 0
        return prefetch(steps, depth, size=size, budget=self.bytes, blocked=lane.block, ended=stopped.set)

    def spread(
        self,
        name: str,
        step: Callable[[Iterator[S]], Iterator[T]],
        before: Iterator[S],
        width: int,
        key: Callable[[S], object],
        size: Callable[[T], int] = lambda _: 0,
        taken: Callable[[S], int] = lambda _: 0,
    ) -> Generator[T, None, None]:
        """As `through`, with a run of `step` for each group of items; `width` groups are at work at once. See `fan`.

        With a width of 1, or without threads, `step` is given all items in one run.
        """
        if width == 1 or self.depth == 0:
            return self.through(name, step, before, size)
        lane = self._lane(name, width)
        steps = partial(_counted, lane, step)
        return fan(before, steps, width, key, self.depth, size=size, taken=taken, budget=self.bytes, blocked=lane.block)

    def each(
        self,
        name: str,
        call: Callable[[S], Sequence[T]],
        before: Iterator[S],
        width: int,
        size: Callable[[T], int] = lambda _: 0,
        *,
        apart: bool = True,
    ) -> Generator[T, None, None]:
        """As `through`, where what becomes of an item depends on it alone: `width` of them are at work at once.

        Without threads they come one after the other. If not `apart`, the lane after this one is one of the threads.
        """
        if width == 1 or self.depth == 0:
            return self.through(name, lambda items: (made for item in items for made in call(item)), before, size)
        lane = self._lane(name, width)
        items, worked = _timed(before, lane.wait), partial(_worked, lane, call)
        if not apart:
            return crew(items, worked, width)
        return prefetch(pool(items, worked, width), self.depth, size=size, budget=self.bytes, blocked=lane.block)

    def along(
        self, steps: Sequence[tuple[str, Callable[[Iterator[Any]], Iterator[Any]]]], before: Iterator[S], width: int
    ) -> Generator[Any, None, None]:
        """Each item through all steps, the lanes, in one thread; `width` items are on their way at once.

        For items so short that handing them from thread to thread takes longer than they do.
        """
        (first, begin), *rest = [(self._lane(name, width), step) for name, step in steps]
        stopped = threading.Event()

        def call(item: S) -> list[Any]:
            flow: Iterator[Any] = _unless(stopped, _counted(first, begin, iter([item])))
            for lane, step in rest:
                flow = _counted(lane, step, flow)
            return list(flow)

        return pool(before, call, width, stopped.set)

    def _lane(self, name: str, width: int) -> Lane:
        track = None if self.timeline is None else self.timeline.track(name, width)
        self.lanes.append(lane := Lane(name, width, track=track))
        return lane


def _counted(lane: Lane, step: Callable[[Iterator[S]], Iterator[T]], before: Iterator[S]) -> Iterator[T]:
    return _timed(_closing(step, _timed(before, lane.starve)), lane.work)


def _worked(lane: Lane, call: Callable[[S], Sequence[T]], item: S) -> Sequence[T]:
    start = time.perf_counter()
    made = call(item)
    lane.work(time.perf_counter() - start, len(made))
    return made


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


def _unless(stopped: threading.Event, items: Iterator[T]) -> Generator[T, None, None]:
    """The items, until nobody wants more."""
    try:
        for item in items:
            if stopped.is_set():
                raise _Abandoned
            yield item
            del item
    finally:
        _close(items)


def _close(items: object) -> None:
    if isinstance(items, Generator):
        items.close()


# ---- one thread ------------------------------------------------------------------------------------------------------


def prefetch(
    items: Iterator[T],
    depth: int,
    *,
    size: Callable[[T], int] = lambda _: 0,
    budget: int = 0,
    blocked: Callable[[float], None] = lambda _: None,
    ended: Callable[[], None] = lambda: None,
) -> Generator[T, None, None]:
    """The same items in the same order, produced ahead in a thread.

    Args:
        items: what to produce; a generator is closed in the end, in the thread that ran it.
        depth: items that may wait; 0 means no thread.
        size: bytes of an item.
        budget: bytes that may wait, 0 for no limit; one item always may.
        blocked: told the seconds that production waited for room.
        ended: told that nobody wants more, before the thread is waited for.
    """
    if depth == 0:
        try:
            yield from items
        finally:
            _close(items)
        return
    ahead = _Ahead(items, _Buffer[T](depth, _Room(budget)), size, blocked)
    try:
        ahead.begin(_thread)
        yield from ahead.buffer
    finally:
        ended()
        ahead.stop()


class _Ahead(Generic[T]):
    """Items produced in a thread, behind a buffer.

    A signal may interrupt who begins it when the thread is at work already. So it can be stopped whether it was begun
    or not: either the thread takes the right to produce, or who stops it does.
    """

    def __init__(
        self,
        items: Iterator[T],
        buffer: _Buffer[T],
        size: Callable[[T], int],
        blocked: Callable[[float], None],
        done: Callable[[], None] = lambda: None,
    ) -> None:
        self.buffer = buffer
        self._items = items
        self._size = size
        self._blocked = blocked
        self._done = done
        self._right, self._ended = threading.Lock(), threading.Event()
        self._join: Callable[[], object] = _nothing

    def begin(self, begin: Callable[[Callable[[], None]], Callable[[], object]]) -> None:
        """Let `begin` call what produces in a thread; what that returns waits for its end."""
        self._join = begin(self._produce)

    def _produce(self) -> None:
        if not self._right.acquire(blocking=False):
            return
        try:
            for item in self._items:
                start = time.perf_counter()
                room = self.buffer.put(item, self._size(item))
                self._blocked(time.perf_counter() - start)
                del item
                if not room:
                    break
            _close(self._items)
            self.buffer.end(None)
        except BaseException as e:  # noqa: BLE001  (raised again in the thread that consumes)
            self.buffer.end(e)
        finally:
            self._ended.set()
            self._done()

    def stop(self) -> None:
        """Nobody wants more; return when production has ended, or never will begin."""
        self.buffer.stop()
        if self._right.acquire(blocking=False):
            _close(self._items)
            self._ended.set()
        self._ended.wait()
        self._join()


def _thread(call: Callable[[], None], name: str = "pipeline-lane") -> Callable[[], object]:
    """Begin `call` in a thread of its own; what is returned waits for its end."""
    thread = threading.Thread(target=call, name=name, daemon=True)
    thread.start()
    return thread.join


# ---- several threads -------------------------------------------------------------------------------------------------


def fan(
    items: Iterator[S],
    step: Callable[[Iterator[S]], Iterator[T]],
    width: int,
    key: Callable[[S], object],
    depth: int,
    *,
    size: Callable[[T], int] = lambda _: 0,
    taken: Callable[[S], int] = lambda _: 0,
    budget: int = 0,
    blocked: Callable[[float], None] = lambda _: None,
) -> Generator[T, None, None]:
    """What `step` makes of each group of items, in the order of the groups; several are at work at once.

    Items are bounded by bytes alone, if there is a budget: as they come group by group, few of them would keep only one
    thread at work. An error arrives after all that the groups before it made.

    Args:
        items: neighbours with equal keys are a group.
        step: takes all items of a group.
        width: groups at work at once, each in a thread.
        key: of an item.
        depth: results of a group that may wait; at least 1.
        size: bytes of a result.
        taken: bytes of an item.
        budget: bytes that may wait on either side, of all groups together, 0 for no limit; one of each always may.
        blocked: told the seconds that a group waited for room.
    """
    deal, waiting, made = _Deal(width), _Room(budget), _Room(budget)

    def start(inbox: _Buffer[S]) -> _Group[S, T]:
        return _Group(step, inbox, _Buffer(depth, made), size, blocked, deal)

    groups = prefetch(deal.groups(items, key, taken, lambda: _Buffer(0 if budget else depth, waiting), start), width)
    try:
        for group in groups:
            yield from group.ahead.buffer
            deal.forget(group)
    finally:
        deal.stop()
        groups.close()
        deal.join()


class _Abandoned(BaseException):
    """Raised in a step whose results nobody wants any more, where it waits for items."""


class _Group(Generic[S, T]):
    """The items of one group on their way through a step, in one of the threads of a deal."""

    def __init__(
        self,
        step: Callable[[Iterator[S]], Iterator[T]],
        inbox: _Buffer[S],
        outbox: _Buffer[T],
        size: Callable[[T], int],
        blocked: Callable[[float], None],
        deal: _Deal,
    ) -> None:
        self.inbox = inbox
        self._deal = deal
        self.ahead = _Ahead(step(iter(inbox)), outbox, size, blocked, self._end)

    def begin(self) -> None:
        """Let a thread of the deal take the items as they come."""
        self.ahead.begin(self._deal.begin)

    def _end(self) -> None:
        self.inbox.stop()
        self._deal.finished()

    def abandon(self) -> None:
        """Let both sides go."""
        self.inbox.stop()
        self.inbox.end(_Abandoned())
        self.ahead.buffer.stop()


class _Deal:
    """Deals items out to groups, and knows which groups and threads there are."""

    def __init__(self, width: int) -> None:
        self._threads = ThreadPoolExecutor(width, "pipeline-lane")
        self._free = threading.Semaphore(width)
        self._lock = threading.Lock()
        self._stopped = False
        self._running: list[_Group[Any, Any]] = []

    def groups(
        self,
        items: Iterator[S],
        key: Callable[[S], object],
        taken: Callable[[S], int],
        inbox: Callable[[], _Buffer[S]],
        start: Callable[[_Buffer[S]], _Group[S, T]],
    ) -> Iterator[_Group[S, T]]:
        """Every group, as soon as its first item is there and a thread is free; meanwhile it is given its items."""
        filling: _Buffer[S] | None = None
        last: object = None
        try:
            for item in items:
                if filling is None or key(item) != last:
                    if filling is not None:
                        filling.end(None)
                    last, filling, fresh = key(item), None, inbox()
                    if (group := self._open(start, fresh)) is None:
                        return
                    filling = fresh
                    yield group
                room = filling.put(item, taken(item))
                del item
                if not room:
                    return
            if filling is not None:
                filling.end(None)
        except GeneratorExit:
            raise
        except BaseException as e:
            if filling is None:
                raise
            filling.end(e)  # the step that waits for more cleans up, and the error comes in its place
        finally:
            _close(items)

    def _open(self, start: Callable[[_Buffer[S]], _Group[S, T]], inbox: _Buffer[S]) -> _Group[S, T] | None:
        self._free.acquire()
        with self._lock:
            if self._stopped:
                return None
            self._running.append(group := start(inbox))
            group.begin()
            return group

    def begin(self, call: Callable[[], None]) -> Callable[[], object]:
        """Begin `call` in one of the threads; what is returned waits for its end."""
        return self._threads.submit(call).result

    def finished(self) -> None:
        """A thread is free again."""
        self._free.release()

    def forget(self, group: _Group[S, T]) -> None:
        """All that a group made was taken."""
        with self._lock:
            self._running.remove(group)
        group.ahead.stop()

    def stop(self) -> None:
        """Begin no more groups, and abandon those that are at work."""
        with self._lock:
            self._stopped = True
            for group in self._running:
                group.abandon()
        self._free.release()

    def join(self) -> None:
        """Return when the threads are gone."""
        for group in self._running:
            group.ahead.stop()
        self._threads.shutdown()


# ---- several threads, one item each ----------------------------------------------------------------------------------


def pool(
    items: Iterator[S], call: Callable[[S], Sequence[T]], width: int, ended: Callable[[], None] = lambda: None
) -> Generator[T, None, None]:
    """What `call` makes of each item, in the order of the items; `width` of them are at work at once.

    An error arrives after what became of the items before it. However it ends, `ended` is told before what is still at
    work is waited for.
    """
    threads, shift = ThreadPoolExecutor(width, "pipeline-lane"), _Shift()
    waiting: deque[Future[Sequence[T]]] = deque()
    try:
        for begun in _begun(items, lambda item: threads.submit(shift.work, call, item)):
            waiting.append(begun)
            del begun
            if len(waiting) > width:  # one is ready for the thread that is done first
                yield from waiting.popleft().result()
        while waiting:
            yield from waiting.popleft().result()
    finally:
        ended()
        threads.shutdown(cancel_futures=True)
        shift.end()
        _close(items)


class _Shift:
    """Calls at work: a pool does not know the thread that had just begun when a signal came."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._over = False
        self._at_work = 0

    def work(self, call: Callable[[S], Sequence[T]], item: S) -> Sequence[T]:
        """Call it, unless nobody wants that any more."""
        with self._changed:
            if self._over:
                return ()
            self._at_work += 1
        try:
            return call(item)
        finally:
            with self._changed:
                self._at_work -= 1
                self._changed.notify_all()

    def end(self) -> None:
        """Begin no more, and return when none is at work."""
        with self._changed:
            self._over = True
            self._changed.wait_for(lambda: not self._at_work)


def _begun(items: Iterator[S], submit: Callable[[S], Future[Sequence[T]]]) -> Iterator[Future[Sequence[T]]]:
    """Each item at work; an error of the lane before comes as the last of them."""
    try:
        for item in items:
            yield submit(item)
    except GeneratorExit:
        raise
    except BaseException as e:  # noqa: BLE001  (raised again when its turn comes)
        failed: Future[Sequence[T]] = Future()
        failed.set_exception(e)
        yield failed


# ---- several threads, one of them the consumer's -------------------------------------------------------------------


def crew(items: Iterator[S], call: Callable[[S], Sequence[T]], width: int) -> Generator[T, None, None]:
    """What `call` makes of each item, in the order of the items; `width` threads are at work, one of them the caller's.

    Each thread takes the next item itself, and the caller's works while what it waits for is with another. So nothing
    is handed over but what others have made. An error arrives after what became of the items before it.
    """
    try:
        made = _Crew(items, call, width)
        try:
            yield from made.results()
        finally:
            made.stop()
    finally:
        _close(items)


class _Crew(Generic[S, T]):
    """Items at work and not yet taken, in their order."""

    def __init__(self, items: Iterator[S], call: Callable[[S], Sequence[T]], width: int) -> None:
        self._items = items
        self._call = call
        self._begun: deque[Future[Sequence[T]]] = deque()
        self._lock = threading.Lock()
        self._ended = False
        self._room = threading.Semaphore(3 * width)  # with less the others wait while the consumer is at one and writes
        self._joins: list[Callable[[], object]] = []
        try:
            for _ in range(width - 1):
                self._joins.append(_thread(self._help))
        except BaseException:  # the system gives no more threads
            self.stop()
            raise

    def _begin(self) -> tuple[S, Future[Sequence[T]]] | None:
        """Take the next item; None if there is no more. An error on the way takes its place among the results."""
        with self._lock:
            if self._ended:
                return None
            try:
                item = next(self._items)
            except BaseException as e:  # noqa: BLE001  (raised again when its turn comes)
                self._ended = True
                if not isinstance(e, StopIteration):
                    failed: Future[Sequence[T]] = Future()
                    failed.set_exception(e)
                    self._begun.append(failed)
                return None
            future: Future[Sequence[T]] = Future()
            self._begun.append(future)
            return item, future

    def _work(self, begun: tuple[S, Future[Sequence[T]]], caught: type[BaseException]) -> None:
        item, future = begun
        try:
            future.set_result(self._call(item))
        except caught as e:  # raised again when its turn comes
            future.set_exception(e)

    def _help(self) -> None:
        while self._room.acquire() and (begun := self._begin()) is not None:
            self._work(begun, BaseException)
            del begun

    def results(self) -> Iterator[T]:
        """All that is made, in order; to take one makes room for another."""
        while True:
            if not (self._begun and self._begun[0].done()) and self._room.acquire(blocking=False):
                if (begun := self._begin()) is not None:
                    self._work(begun, Exception)  # a signal does not wait for its turn
                    del begun
                    continue
                self._room.release()
                if not self._begun:
                    return
            yield from self._begun.popleft().result()
            self._room.release()

    def stop(self) -> None:
        """Nobody wants more; return when the threads are gone."""
        with self._lock:
            self._ended = True
        self._room.release(len(self._joins) or 1)
        for join in self._joins:
            join()


# ---- before anybody asks ---------------------------------------------------------------------------------------------


class Headstart(Generic[K, T]):
    """Groups of items that a thread produces from now on, one group after the other, for whoever comes for them.

    It ends with the group that it is at when the first one is taken, or before: see `brief`.

    Args:
        groups: the key of each, and its items.
        size: bytes of an item.
        budget: bytes that may wait; the item that exceeds them is the last for now.
        brief: who takes the group that the thread is at goes on with it where the thread is.
    """

    def __init__(
        self, groups: Iterable[tuple[K, Iterator[T]]], size: Callable[[T], int], budget: int, *, brief: bool = False
    ) -> None:
        self._size = size
        self._room = _Room(budget)
        self._brief = brief
        self._open = True
        self._begun: dict[K, tuple[_Buffer[T], Iterator[T]]] = {}
        self._taken: list[tuple[_Buffer[T], Iterator[T]]] = []
        self._thread = threading.Thread(target=self._produce, args=(groups,), name="pipeline-headstart", daemon=True)
        self._thread.start()

    def _produce(self, groups: Iterable[tuple[K, Iterator[T]]]) -> None:
        for key, items in groups:
            if (buffer := self._begin(key, items)) is None:
                return
            try:
                for item in items:
                    if not buffer.put(item, self._size(item)) or (self._brief and not self._open):
                        break
                    del item
                buffer.end(None)
            except BaseException as e:  # noqa: BLE001  (raised again where the group is taken)
                buffer.end(e)

    def _begin(self, key: K, items: Iterator[T]) -> _Buffer[T] | None:
        room = self._room
        with room.lock:
            room.freed.wait_for(lambda: not self._open or room.held < room.budget)
            return self._begun.setdefault(key, (_Buffer(0, room), items))[0] if self._open else None

    def take(self, key: K) -> Iterator[T] | None:
        """The items of a group, once; None if it was not begun, and it will not be."""
        self._end()
        if (group := self._begun.pop(key, None)) is None:
            return None
        self._taken.append(group)
        return chain(*group)

    def _end(self) -> None:
        with self._room.lock:
            self._open = False
            self._room.freed.notify_all()

    def stop(self) -> None:
        """Nobody wants more; return when the thread is gone."""
        self._end()
        groups = [*self._begun.values(), *self._taken]
        for buffer, _ in groups:
            buffer.stop()
        self._thread.join()
        for _, items in groups:
            _close(items)


# ---- beside its owner ------------------------------------------------------------------------------------------------


class Beside:
    """One call at a time in a thread of its own, which is there as long as the call, beside what its owner does."""

    def __init__(self) -> None:
        self._error: BaseException | None = None
        self._join: Callable[[], object] = _nothing
        self._done = threading.Event()
        self._done.set()

    def begin(self, call: Callable[[], None]) -> None:
        """Begin a call, once the one before has ended."""
        self.wait()
        right = threading.Lock()
        try:
            self._done.clear()
            self._join = _thread(partial(self._run, call, right), "pipeline-beside")
        except BaseException:  # the system gives no more threads, or a signal came; it may be at work all the same
            if right.acquire(blocking=False):
                self._done.set()
            raise

    def idle(self) -> bool:
        """Whether nothing is at work: what is begun now begins at once."""
        return self._done.is_set()

    def _run(self, call: Callable[[], None], right: threading.Lock) -> None:
        if not right.acquire(blocking=False):
            return
        try:
            call()
        except BaseException as e:  # noqa: BLE001  (raised again where somebody waits)
            self._error = e
        finally:
            self._done.set()

    def wait(self) -> None:
        """Return when no call is at work; what the last one raised is raised here, once."""
        self._ended()
        error = self._error
        self.end()
        if error is not None:
            raise error

    def end(self) -> None:
        """As `wait`, but nothing is raised."""
        self._ended()
        self._join, self._error = _nothing, None

    def _ended(self) -> None:
        self._done.wait()  # a thread whose `join` was interrupted counts as ended in Python 3.11, although it is not
        self._join()


def _nothing() -> None:
    """Nobody is at work."""


class Together(Generic[T]):
    """Items that come one by one, for a call in a thread beside: those that come soon after a call wait for each other.

    However the block ends, what came is dealt with, but not after a call that failed.

    Args:
        call: is given the items in their order. What it raises is raised by the next `add`, or where the block ends.
        seconds: from the begin of a call to that of the next, at least; None for a call for each item, in the thread
            that adds it.
    """

    def __init__(self, call: Callable[[list[T]], None], seconds: float | None) -> None:
        self._call = call
        self._seconds = seconds
        self._waiting = _Buffer[T](0, _Room(0))
        self._ended, self._done = threading.Event(), threading.Event()
        self._error: BaseException | None = None
        self._join: Callable[[], object] = _nothing

    def __enter__(self) -> Together[T]:
        if self._seconds is not None:
            self._join = _thread(partial(self._work, self._seconds), "pipeline-beside")
        else:
            self._done.set()
        return self

    def add(self, item: T) -> None:
        """Hand over an item."""
        if self._seconds is None:
            self._call([item])
        elif not self._waiting.put(item, 0):
            self._raise()

    def _work(self, seconds: float) -> None:
        next_ = 0.0
        try:
            for first in self._waiting:
                self._ended.wait(next_ - time.monotonic())
                next_ = time.monotonic() + seconds
                self._call([first, *self._waiting.rest()])
        except BaseException as e:  # noqa: BLE001  (raised again where somebody is to hear of it)
            self._error = e
            self._waiting.stop()
        finally:
            self._done.set()

    def __exit__(self, _: object, error: BaseException | None, __: object) -> None:
        try:
            self._end()
        except BaseException:  # a signal comes; what is done is dealt with all the same
            self._end()
            raise
        if error is None or isinstance(error, Exception):
            self._raise()

    def _end(self) -> None:
        self._ended.set()
        self._waiting.end(None)
        self._done.wait()  # as in `Beside`
        self._join()

    def _raise(self) -> None:
        error, self._error = self._error, None
        if error is not None:
            raise error


# ---- between threads -------------------------------------------------------------------------------------------------


class _Room:
    """Bytes that may wait in some buffers together; who waits for room in one is woken by what leaves any."""

    def __init__(self, budget: int) -> None:
        self.budget = budget
        self.held = 0
        self.lock = threading.Lock()
        self.freed = threading.Condition(self.lock)


class _Buffer(Generic[T]):
    """A queue bounded by items (0 = any number) and by the bytes in its room, that either side can end."""

    def __init__(self, depth: int, room: _Room) -> None:
        self._depth = depth
        self._room = room
        self._arrived = threading.Condition(room.lock)
        self._items: deque[tuple[T, int]] = deque()
        self._ended = False
        self._stopped = False
        self._error: BaseException | None = None

    def put(self, item: T, size: int) -> bool:
        """Wait for room, then append; False if nobody wants it any more."""
        with self._room.lock:
            self._room.freed.wait_for(lambda: self._stopped or self._has_room(size))
            if not self._stopped:
                self._items.append((item, size))
                self._room.held += size
                self._arrived.notify()
            return not self._stopped

    def _has_room(self, size: int) -> bool:
        if not self._items:
            return True
        few = not self._depth or len(self._items) < self._depth
        return few and (not self._room.budget or self._room.held + size <= self._room.budget)

    def end(self, error: BaseException | None) -> None:
        """No more items follow; `error` is raised after the last one. The first end counts."""
        with self._room.lock:
            self._error = self._error if self._ended else error
            self._ended = True
            self._arrived.notify()

    def stop(self) -> None:
        """The consumer is gone: `put` returns False from now on."""
        with self._room.lock:
            self._stopped = True
            self._room.held -= sum(size for _, size in self._items)
            self._items.clear()
            self._room.freed.notify_all()

    def rest(self) -> list[T]:
        """Take all that is there, without waiting."""
        with self._room.lock:
            items = [item for item, _ in self._items]
            self._room.held -= sum(size for _, size in self._items)
            self._items.clear()
            self._room.freed.notify_all()
            return items

    def __iter__(self) -> Iterator[T]:
        while True:
            with self._room.lock:
                self._arrived.wait_for(lambda: self._items or self._ended)
                if not self._items:
                    break
                item, size = self._items.popleft()
                self._room.held -= size
                self._room.freed.notify_all()
            yield item
            del item
        if self._error is not None:
            raise self._error
