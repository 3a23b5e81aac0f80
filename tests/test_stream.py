"""Lanes keep order, stay bounded, and leave no thread behind."""

from __future__ import annotations

import itertools
import signal
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterator
from functools import partial
from types import FrameType
from typing import Any

import pytest

from pipeline.stream import Beside, Flow, Headstart, Together, crew, fan, pool, prefetch


def _lanes() -> int:
    return sum(thread.name in ("pipeline-lane", "pipeline-headstart") for thread in threading.enumerate())


def _beside() -> int:
    return sum(thread.name.startswith("pipeline-beside") for thread in threading.enumerate())


@pytest.mark.parametrize("depth", [0, 1, 3])
def test_order_is_kept(depth: int) -> None:
    """The items are the same at any depth."""
    assert list(prefetch(iter(range(100)), depth)) == list(range(100))
    assert _lanes() == 0


@pytest.mark.parametrize("depth", [0, 2])
def test_an_error_arrives_after_the_items_before_it(depth: int) -> None:
    """The consumer sees what was produced, then the producer's own exception."""

    def items() -> Iterator[int]:
        yield 1
        yield 2
        raise ValueError("third")

    got = []
    with pytest.raises(ValueError, match="third"):
        for item in prefetch(items(), depth):
            got.append(item)  # noqa: PERF402  (list() would lose what came before the error)
    assert got == [1, 2]
    assert _lanes() == 0


@pytest.mark.parametrize("depth", [0, 2])
def test_an_early_close_closes_every_lane(depth: int) -> None:
    """The innermost generator runs its clean-up, and no thread stays."""
    closed = threading.Event()

    def endless() -> Iterator[int]:
        try:
            n = 0
            while True:
                yield (n := n + 1)
        finally:
            closed.set()

    flow = Flow(depth, 0)
    items = flow.through("two", lambda up: (x * 2 for x in up), flow.through("one", lambda up: up, endless()))
    assert next(items) == 2
    items.close()
    assert closed.is_set()
    assert _lanes() == 0


def test_an_early_close_reaches_a_step_that_makes_one_thing_of_much() -> None:
    """It ends at the next item that it asks for, not when it has made something, and cleans up."""
    left = threading.Event()

    def gathered(items: Iterator[int]) -> Iterator[int]:
        try:
            yield next(items)
            yield sum(items)  # never comes
        finally:
            left.set()

    items = Flow(2, 0).through("write", gathered, itertools.repeat(1))
    assert next(items) == 1
    items.close()
    assert left.is_set()
    assert _lanes() == 0


def test_no_more_items_wait_than_the_depth() -> None:
    """Production stops until somebody takes an item: one in hand, `depth` waiting."""
    made: list[int] = []
    enough = threading.Semaphore(0)

    def items() -> Iterator[int]:
        for n in range(20):
            made.append(n)
            enough.release()
            yield n

    stream = prefetch(items(), 3)
    assert next(stream) == 0
    for _ in range(5):  # taken 1 + waiting 3 + in hand 1
        assert enough.acquire(timeout=10)
    assert not enough.acquire(timeout=0.05)
    stream.close()
    assert len(made) == 5


def test_no_more_bytes_wait_than_the_budget() -> None:
    """One item always may wait, however large; a second only within the budget."""
    enough = threading.Semaphore(0)

    def items() -> Iterator[int]:
        for n in range(20):
            enough.release()
            yield n

    stream = prefetch(items(), 10, size=lambda _: 60, budget=100)
    next(stream)
    for _ in range(3):  # taken 1 + waiting 1 + in hand 1
        assert enough.acquire(timeout=10)
    assert not enough.acquire(timeout=0.05)
    stream.close()


@pytest.mark.parametrize("depth", [0, 2])
def test_lanes_count_their_items_and_never_negative_time(depth: int) -> None:
    """Busy time leaves out the waiting for the lane before."""
    flow = Flow(depth, 0)
    one = flow.through("one", lambda up: up, iter(range(7)))
    assert list(flow.through("two", lambda up: up, one)) == list(range(7))
    assert [(lane.name, lane.items) for lane in flow.lanes] == [("one", 7), ("two", 7)]
    assert all(lane.busy >= 0 for lane in flow.lanes)


Word = tuple[str, int]


def _words(n: int, letters: str = "abcdef") -> Iterator[Word]:
    return ((letter, i) for letter in letters for i in range(n))


def _letter(word: Word) -> str:
    return word[0]


def _joined(words: Iterator[Word]) -> Iterator[str]:
    yield "".join(f"{letter}{i}" for letter, i in words)


@pytest.mark.parametrize("width", [1, 2, 3, 9])
def test_groups_at_work_at_once_keep_their_order(width: int) -> None:
    """Each group is taken by one run of the step, whole, and the results come in the order of the groups."""
    assert list(fan(_words(3), _joined, width, _letter, 2)) == [f"{x}0{x}1{x}2" for x in "abcdef"]
    assert _lanes() == 0


def test_as_many_groups_are_at_work_as_the_width() -> None:
    """Two steps meet, a third one does not come while they are there."""
    met, at_work, most = threading.Barrier(2), [], []

    def step(words: Iterator[Word]) -> Iterator[str]:
        at_work.append(1)
        most.append(len(at_work))
        met.wait(timeout=10)
        yield from (letter for letter, _ in words)
        at_work.pop()

    groups = fan(_words(1, "abcd"), step, 2, _letter, 1)
    assert list(groups) == list("abcd")
    assert max(most) == 2
    assert _lanes() == 0


def test_no_more_items_of_a_group_wait_than_the_bounds() -> None:
    """One in hand, and what depth and budget allow; a large item always may wait."""
    dealt: list[int] = []
    enough, go_on = threading.Semaphore(0), threading.Event()

    def items() -> Iterator[Word]:
        for n in range(20):
            dealt.append(n)
            enough.release()
            yield ("a", n)

    def step(words: Iterator[Word]) -> Iterator[int]:
        go_on.wait(timeout=10)
        yield sum(n for _, n in words)

    results = fan(items(), step, 2, _letter, 5, taken=lambda _: 60, budget=100)
    summed = prefetch(results, 1)
    thread = threading.Thread(target=lambda: next(summed))
    thread.start()
    for _ in range(2):  # waiting 1 + in hand 1
        assert enough.acquire(timeout=10)
    assert not enough.acquire(timeout=0.05)
    go_on.set()
    thread.join()
    summed.close()
    assert len(dealt) == 20
    assert _lanes() == 0


@pytest.mark.parametrize("width", [1, 2, 4])
def test_an_error_of_a_step_arrives_after_the_groups_before_it(width: int) -> None:
    """Those that are behind it clean up; the lane before them ends."""
    ended = threading.Event()

    def items() -> Iterator[Word]:
        try:
            yield from _words(2)
        finally:
            ended.set()

    def step(words: Iterator[Word]) -> Iterator[str]:
        for letter, i in words:
            if letter == "c" and i == 1:
                raise ValueError("third")
        yield letter

    got = []
    with pytest.raises(ValueError, match="third"):
        for letter in fan(items(), step, width, _letter, 1):
            got.append(letter)  # noqa: PERF402
    assert got == ["a", "b"]
    assert ended.is_set()
    assert _lanes() == 0


@pytest.mark.parametrize("error", [ValueError, SystemExit])
@pytest.mark.parametrize("width", [1, 3])
def test_an_error_before_the_groups_reaches_the_one_under_way(width: int, error: type[BaseException]) -> None:
    """It cleans up, and the error comes in the place of its results."""
    cleaned: list[str] = []

    def items() -> Iterator[Word]:
        yield from _words(1, "ab")
        raise error("planned")

    def step(words: Iterator[Word]) -> Iterator[str]:
        letter = ""
        try:
            for letter, _ in words:  # noqa: B007
                pass
            yield letter
        except BaseException:
            cleaned.append(letter)
            raise

    got = []
    with pytest.raises(error, match="planned"):
        for letter in fan(items(), step, width, _letter, 1):
            got.append(letter)  # noqa: PERF402
    assert (got, cleaned) == (["a"], ["b"])
    assert _lanes() == 0


@pytest.mark.parametrize("width", [1, 2, 5])
def test_an_early_close_ends_all_groups(width: int) -> None:
    """Steps that wait for items, or for room, run their clean-up; no thread stays."""
    begun, ended = [], []

    def endless() -> Iterator[Word]:
        n = 0
        while True:
            n += 1
            yield ("abcdefgh"[n // 50 % 8], n)

    def step(words: Iterator[Word]) -> Iterator[int]:
        begun.append(1)
        try:
            for _, n in words:
                yield n
        finally:
            ended.append(1)

    results = fan(endless(), step, width, _letter, 1)
    assert [next(results) for _ in range(3)] == [1, 2, 3]
    results.close()
    assert len(ended) == len(begun) > 0
    assert _lanes() == 0


def test_a_lane_of_several_threads_counts_them_together() -> None:
    """Items are counted once; its width says by how many threads the seconds were spent."""
    flow = Flow(2, 0)
    results = flow.spread("write", _joined, _words(2), 3, _letter)
    assert len(list(results)) == 6
    assert [(lane.name, lane.width, lane.items) for lane in flow.lanes] == [("write", 3, 6)]


@pytest.mark.parametrize("most", [0, 1])
def test_a_thread_that_cannot_start_is_an_error(most: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """And never the end of the items; what came before it arrives."""
    start, refused = threading.Thread.start, threading.Event()
    threads: list[threading.Thread] = []

    def limited(thread: threading.Thread) -> None:
        if thread.name.startswith("pipeline-lane_"):
            threads.append(thread)
            if len(threads) > most:
                refused.set()
                raise RuntimeError("can't start new thread")
        start(thread)

    def step(words: Iterator[Word]) -> Iterator[str]:
        for letter, _ in words:
            refused.wait(10)  # the only thread is busy when the next group begins
            yield letter

    monkeypatch.setattr(threading.Thread, "start", limited)
    seen: list[str] = []
    with pytest.raises(RuntimeError, match="can't start new thread"):
        seen.extend(fan(_words(2, "ab"), step, 3, _letter, 1))
    assert seen == ["a"] * 2 * most


# ---- before anybody asks ---------------------------------------------------------------------------------------------


def _group(letter: str, n: int) -> tuple[str, Iterator[Word]]:
    return letter, ((letter, i) for i in range(n))


def test_a_head_start_is_made_until_the_bytes_are_there() -> None:
    """The item that exceeds them is the last until somebody comes; then the group goes on, and no other begins."""
    made: list[str] = []
    enough = threading.Semaphore(0)

    def group(letter: str) -> tuple[str, Iterator[Word]]:
        made.append(letter)
        return letter, (enough.release() or (letter, i) for i in range(3))  # type: ignore[func-returns-value]

    head = Headstart(map(group, "abcdef"), lambda _: 10, 40)
    for _ in range(5):  # a, and two of b; the fifth is in hand
        assert enough.acquire(timeout=10)
    assert not enough.acquire(timeout=0.05)
    assert list(head.take("a") or ()) == [("a", i) for i in range(3)]
    assert list(head.take("b") or ()) == [("b", i) for i in range(3)]
    assert head.take("b") is head.take("c") is None
    head.stop()
    assert made == ["a", "b", *"c"]
    assert _lanes() == 0


def test_groups_of_a_head_start_are_begun_within_the_bytes() -> None:
    """Many groups of one item each do not slip past the bounds, one after the other."""
    begun: list[str] = []
    enough = threading.Semaphore(0)

    def groups() -> Iterator[tuple[str, Iterator[Word]]]:
        for letter in "abcdef":
            begun.append(letter)
            enough.release()
            yield _group(letter, 1)

    head = Headstart(groups(), lambda _: 10, 25)
    for _ in range(4):
        assert enough.acquire(timeout=10)
    assert not enough.acquire(timeout=0.05)
    head.stop()
    assert begun == [*"abcd"]
    assert head.take("d") is None
    assert _lanes() == 0


def test_an_error_of_a_head_start_is_raised_where_its_group_is_taken() -> None:
    """After the items before it; the groups after it are produced all the same."""

    def broken() -> Iterator[Word]:
        yield "a", 0
        raise ValueError("second")

    head = Headstart([("a", broken()), _group("b", 1)], lambda _: 1, 100)
    assert list(head.take("b") or ()) in ([("b", 0)], [])
    items = head.take("a")
    assert items is not None
    assert next(items) == ("a", 0)
    with pytest.raises(ValueError, match="second"):
        next(items)
    head.stop()
    assert _lanes() == 0


def test_a_head_start_that_nobody_wants_ends() -> None:
    """Also in the middle of a group, whose clean-up runs; also where a group was taken and left."""
    closed = threading.Event()

    def endless() -> Iterator[Word]:
        try:
            while True:
                yield "a", 0
        finally:
            closed.set()

    for taken in (False, True):
        closed.clear()
        head = Headstart([("a", endless())], lambda _: 1, 3)
        if taken and (items := head.take("a")) is not None:
            next(items)
        head.stop()
        head.stop()
        assert taken or closed.is_set()
        assert _lanes() == 0


def test_a_brief_head_start_leaves_the_rest_to_who_takes_it() -> None:
    """The thread ends with the item that it is at; the group goes on in the taker's, and its clean-up runs."""
    made: list[threading.Thread] = []
    full, closed = threading.Semaphore(0), threading.Event()

    def numbers() -> Iterator[Word]:
        try:
            for i in itertools.count():
                made.append(threading.current_thread())
                full.release()
                yield "a", i
        finally:
            closed.set()

    head = Headstart([("a", numbers()), _group("b", 1)], lambda _: 10, 20, brief=True)
    for _ in range(3):  # two, and one in hand
        assert full.acquire(timeout=10)
    items = head.take("a")
    assert items is not None
    assert list(itertools.islice(items, 9)) == [("a", i) for i in range(9)]
    assert {thread.name for thread in made[:3]} == {"pipeline-headstart"}
    assert {*made[3:]} == {threading.current_thread()}
    assert head.take("b") is None
    head.stop()
    assert closed.is_set()
    assert _lanes() == 0


def test_one_group_is_filled_while_another_is_at_work() -> None:
    """All items of a group may wait, within the bytes: the thread of the next one is not kept waiting for them."""
    both = threading.Barrier(2, timeout=10)

    def step(words: Iterator[Word]) -> Iterator[str]:
        both.wait()  # the second group has begun before the first took an item
        yield "".join(letter for letter, _ in words)

    assert list(fan(_words(9, "ab"), step, 2, _letter, 1, taken=lambda _: 1, budget=100)) == ["a" * 9, "b" * 9]
    assert _lanes() == 0


@pytest.mark.parametrize("several", [pool, crew])
@pytest.mark.parametrize("width", [1, 2, 5])
def test_items_at_work_at_once_keep_their_order(width: int, several: Callable[..., Iterator[int]]) -> None:
    """Also where one takes long, or gives several results or none."""
    gate = threading.Event()

    def call(n: int) -> list[int]:
        if n == 0 and width > 1:
            gate.wait(timeout=10)  # until a later one is done
        gate.set()
        return [n] * (n % 3)

    assert list(several(iter(range(20)), call, width)) == [n for n in range(20) for _ in range(n % 3)]
    assert _pools() == 0


@pytest.mark.parametrize("apart", [True, False])
def test_as_many_items_are_at_work_as_the_width(apart: bool) -> None:
    """The first three meet, and none is ever there with three others."""
    met, inside, most = threading.Barrier(3), threading.Semaphore(3), []

    def call(n: int) -> list[tuple[int, int]]:
        most.append(inside.acquire(blocking=False))
        if n < 3:
            met.wait(timeout=10)
        inside.release()
        return [(n, n)]

    flow = Flow(2, 0)
    results = flow.each("compute", call, iter(range(6)), 3, apart=apart)
    assert [n for n, _ in results] == list(range(6))
    assert [(lane.name, lane.width, lane.items) for lane in flow.lanes] == [("compute", 3, 6)]
    assert flow.lanes[0].busy >= 0
    assert all(most)


@pytest.mark.parametrize("several", [pool, crew])
@pytest.mark.parametrize("place", ["call", "items"])
@pytest.mark.parametrize("error", [ValueError, SystemExit])
def test_an_error_of_one_item_arrives_after_those_before_it(
    place: str, several: Callable[..., Iterator[int]], error: type[BaseException]
) -> None:
    """Of the call, or of the lane before; no thread stays."""

    def items() -> Iterator[int]:
        yield from range(3)
        if place == "items":
            raise error("third")
        yield from range(3, 9)

    def call(n: int) -> list[int]:
        if n == 3:
            raise error("third")
        return [n]

    got: list[int] = []
    with pytest.raises(error, match="third"):
        got.extend(several(items(), call, 2))
    assert got == [0, 1, 2] or (several is crew and error is SystemExit)  # the consumer may have met it early
    assert _pools() == 0


@pytest.mark.parametrize("apart", [True, False])
def test_an_early_close_ends_a_pool(apart: bool) -> None:
    """The lane before it ends too."""
    closed = threading.Event()

    def endless() -> Iterator[int]:
        try:
            while True:
                yield 1
        finally:
            closed.set()

    results = Flow(2, 0).each("compute", lambda n: [n + 1], endless(), 3, apart=apart)
    assert next(results) == 2
    results.close()
    assert closed.is_set()
    assert _pools() == 0


def test_a_crew_runs_ahead_of_its_consumer_by_less_than_three_times_its_width() -> None:
    """What is made waits, and no more is begun until the one that was taken is done with."""
    full = threading.Semaphore(0)
    begun: list[int] = []

    def call(n: int) -> list[int]:
        begun.append(n)
        full.release()
        return [n]

    results = crew(iter(range(50)), call, 3)
    assert next(results) == 0
    for _ in range(9):
        assert full.acquire(timeout=10)
    assert not full.acquire(timeout=0.05)
    assert sorted(begun) == list(range(9))
    assert list(results) == list(range(1, 50))
    assert _pools() == 0


_FOUR = partial(crew, call=lambda n: [n], width=4)


@pytest.mark.parametrize(("several", "most"), [(_FOUR, 0), (_FOUR, 1), (partial(prefetch, depth=2), 0)])
def test_threads_that_cannot_be_had_are_an_error(several: Any, most: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who has come already leaves again, and what they would have worked on ends."""
    start, threads = threading.Thread.start, []
    ended: list[int] = []

    def items() -> Iterator[int]:
        try:
            yield from range(9)
        finally:
            ended.append(1)

    def limited(thread: threading.Thread) -> None:
        threads.append(thread)
        if len(threads) > most:
            raise RuntimeError("can't start new thread")
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", limited)
    given = items()
    with pytest.raises(RuntimeError, match="can't start new thread"):
        next(given)
        list(several(given))
    assert (_pools(), ended) == (0, [1])


@pytest.mark.parametrize(("fans", "which"), [(False, 1), (True, 1), (True, 2)])
def test_a_signal_may_come_when_a_thread_has_just_begun(
    fans: bool, which: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is at work already, and `Thread.start` has not returned: what it works on ends before the error is seen."""
    start, threads = threading.Thread.start, []
    at_work = [threading.Event(), threading.Event()]
    ended: list[str] = []

    def items() -> Iterator[int]:
        try:
            at_work[0].set()
            yield from range(100)
        finally:
            ended.append("items")

    def step(given: Iterator[int]) -> Iterator[int]:
        try:
            at_work[1].set()
            yield from given
        finally:
            ended.append("step")

    def interrupted(thread: threading.Thread) -> None:
        threads.append(thread)
        number = len(threads)
        start(thread)
        if number == which:
            assert at_work[which - 1].wait(10)
            raise SystemExit(143)

    monkeypatch.setattr(threading.Thread, "start", interrupted)
    with pytest.raises(SystemExit):
        list(fan(items(), step, 2, lambda n: n // 3, 2) if fans else prefetch(items(), 2))
    assert "items" in ended
    assert not at_work[1].is_set() or "step" in ended
    for thread in threads:
        thread.join(10)
    assert _pools() == 0


def test_a_signal_may_come_when_a_thread_of_a_pool_has_just_begun(monkeypatch: pytest.MonkeyPatch) -> None:
    """The pool does not know it yet, and waits for it all the same."""
    start, at_work, go = threading.Thread.start, threading.Event(), threading.Event()
    done: list[int] = []

    def interrupted(thread: threading.Thread) -> None:
        start(thread)
        assert at_work.wait(10)
        raise SystemExit(143)

    def call(n: int) -> list[int]:
        at_work.set()
        assert go.wait(10)
        done.append(n)
        return [n]

    monkeypatch.setattr(threading.Thread, "start", interrupted)
    with pytest.raises(SystemExit):
        list(pool(iter(range(9)), call, 2, go.set))
    assert done == [0]


def test_a_signal_may_come_when_work_beside_has_just_begun(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is waited for, as if nothing had come."""
    start, go = threading.Thread.start, threading.Event()
    seen: list[int] = []

    def interrupted(thread: threading.Thread) -> None:
        start(thread)
        raise SystemExit(143)

    def call() -> None:
        go.wait(10)
        seen.append(1)

    monkeypatch.setattr(threading.Thread, "start", interrupted)
    beside = Beside()
    with pytest.raises(SystemExit):
        beside.begin(call)
    monkeypatch.undo()
    assert not beside.idle()
    go.set()
    beside.end()
    assert (seen, beside.idle()) == ([1], True)


@pytest.mark.parametrize("width", [2, 3])
def test_a_short_item_takes_all_steps_in_one_thread(width: int) -> None:
    """As many items as the width meet on their way, and their order is kept; lanes count all threads together."""
    met = threading.Barrier(width)
    flow = Flow(2, 0)

    def halves(items: Iterator[int]) -> Iterator[tuple[int, int]]:
        for n in items:
            met.wait(timeout=10)
            yield n, threading.get_ident()
            yield n, threading.get_ident()

    def joined(pairs: Iterator[tuple[int, int]]) -> Iterator[tuple[int, set[int]]]:
        got = list(pairs)
        yield got[0][0], {thread for _, thread in got} | {threading.get_ident()}

    results = list(flow.along([("halve", halves), ("join", joined)], iter(range(6)), width))
    assert [n for n, _ in results] == list(range(6))
    assert all(len(threads) == 1 for _, threads in results)
    assert 1 < len(set.union(*(threads for _, threads in results))) <= width
    assert [(lane.name, lane.width, lane.items) for lane in flow.lanes] == [("halve", width, 12), ("join", width, 6)]
    assert all(lane.busy >= 0 for lane in flow.lanes)
    assert _pools() == 0


def test_an_error_of_a_short_item_arrives_after_those_before_it() -> None:
    """The steps of the item are closed."""
    closed: list[int] = []

    def begin(items: Iterator[int]) -> Iterator[int]:
        for n in items:
            try:
                yield n
            finally:
                closed.append(n)

    def fail(items: Iterator[int]) -> Iterator[int]:
        for n in items:
            if n == 3:
                raise ValueError("third")
            yield n

    got: list[int] = []
    with pytest.raises(ValueError, match="third"):
        got.extend(Flow(2, 0).along([("begin", begin), ("fail", fail)], iter(range(20)), 2))
    assert got == [0, 1, 2]
    assert {0, 1, 2, 3} <= set(closed)
    assert _pools() == 0


@pytest.mark.parametrize("fails", [False, True])
def test_whatever_ends_it_ends_items_under_way(fails: bool) -> None:
    """An early close, or an error of an item before; one that would never end does, and its steps are closed."""
    begun, closed = threading.Event(), threading.Event()

    def count(items: Iterator[int]) -> Iterator[int]:
        for n in items:
            try:
                yield n
                while n:
                    begun.set()
                    yield n
            finally:
                if n:
                    closed.set()

    def last(items: Iterator[int]) -> Iterator[int]:
        n = deque(items, maxlen=1)[0]
        assert begun.wait(timeout=10)
        if fails:
            raise ValueError("zeroth")
        yield n

    results = Flow(2, 0).along([("count", count), ("last", last)], iter(range(2)), 2)
    if fails:
        with pytest.raises(ValueError, match="zeroth"):
            next(results)
    else:
        assert next(results) == 0
        results.close()
    assert closed.is_set()
    assert _pools() == 0


def _pools() -> int:
    return sum(thread.name.startswith("pipeline-lane") for thread in threading.enumerate())


def test_one_call_at_a_time_is_at_work_beside_its_owner() -> None:
    """In another thread, which is gone when it is done."""
    beside, go = Beside(), threading.Event()
    seen: list[tuple[str, int]] = []
    beside.end()  # nothing was begun

    def first() -> None:
        go.wait()
        seen.append(("first", threading.get_ident()))

    assert beside.idle()
    beside.begin(first)
    assert not seen
    assert not beside.idle()
    go.set()
    beside.begin(lambda: seen.append(("second", threading.get_ident())))
    assert [name for name, _ in seen][:1] == ["first"]
    beside.wait()
    assert [name for name, _ in seen] == ["first", "second"]
    assert threading.get_ident() not in {thread for _, thread in seen}
    assert beside.idle()
    assert _beside() == 0
    beside.end()


@pytest.mark.parametrize("next_", ["wait", "begin"])
def test_an_error_beside_is_raised_once_where_it_is_waited_for(next_: str) -> None:
    """It is lost if nobody asks: then something else went wrong already."""

    def broken() -> None:
        raise ValueError("beside")

    beside = Beside()
    beside.begin(broken)
    while not beside.idle():  # an error ends the call too
        pass
    with pytest.raises(ValueError, match="beside"):
        beside.wait() if next_ == "wait" else beside.begin(broken)
    beside.wait()
    beside.begin(broken)
    beside.end()
    beside.wait()


def test_a_wait_that_was_interrupted_is_waited_for_again() -> None:
    """Python 3.11 takes a thread for ended whose `join` a signal has interrupted."""
    beside, go = Beside(), threading.Event()

    class Signal(BaseException):
        pass

    def stop(*_: object) -> None:
        raise Signal

    def call() -> None:
        go.wait()

    beside.begin(call)
    before = signal.signal(signal.SIGALRM, stop)
    try:
        with pytest.raises(Signal):
            signal.setitimer(signal.ITIMER_REAL, 0.05)
            beside.end()
    finally:
        signal.signal(signal.SIGALRM, before)
    assert not beside.idle()
    go.set()
    beside.end()
    assert beside.idle()
    assert _beside() == 0


def test_what_comes_soon_after_a_call_goes_together() -> None:
    """The first has nothing to wait for. In order, none twice, none left."""
    calls: list[list[int]] = []
    with Together(calls.append, 60) as together:
        for i in range(100):
            together.add(i)
    assert [i for call in calls for i in call] == list(range(100))
    assert len(calls) <= 2
    assert _beside() == 0


def test_what_comes_late_goes_with_the_next() -> None:
    """Nothing waits for long, and while a call is at work others gather."""
    calls: list[list[str]] = []
    begun, go = threading.Semaphore(0), threading.Event()

    def call(items: list[str]) -> None:
        calls.append(items)
        begun.release()
        go.wait()

    with Together(call, 0) as together:
        together.add("a")
        begun.acquire()
        together.add("b")
        together.add("c")
        assert calls == [["a"]]
        go.set()
        begun.acquire()  # neither another item nor the end of the block is needed
        assert calls == [["a"], ["b", "c"]]
    assert calls == [["a"], ["b", "c"]]


def test_without_a_thread_each_item_is_dealt_with_at_once() -> None:
    """As lanes are in turn then; an error ends it."""
    calls: list[tuple[list[int], int]] = []

    def call(items: list[int]) -> None:
        calls.append((items, threading.get_ident()))
        if items == [2]:
            raise ValueError("two")

    def block() -> None:
        with Together(call, None) as together:
            for i in range(5):
                together.add(i)
                assert len(calls) == i + 1

    with pytest.raises(ValueError, match="two"):
        block()
    assert calls == [([i], threading.get_ident()) for i in range(3)]


def test_nothing_came() -> None:
    """Then nothing is called."""
    with Together(lambda _: pytest.fail("called"), 0):
        pass
    assert _beside() == 0


@pytest.mark.parametrize("seconds", [0, 60])
def test_what_came_is_dealt_with_whatever_ends_the_block(seconds: float) -> None:
    """A part that is done is done, though the next one fails."""
    calls: list[list[int]] = []

    def block() -> None:
        with Together(calls.append, seconds) as together:
            together.add(1)
            together.add(2)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        block()
    assert [i for call in calls for i in call] == [1, 2]
    assert _beside() == 0


@pytest.mark.parametrize("where", ["add", "end"])
def test_nothing_is_called_after_a_call_that_failed(where: str) -> None:
    """What it was about may be half done. The error comes at the next item, or at the end."""
    calls: list[list[int]] = []
    failed = threading.Event()

    def call(items: list[int]) -> None:
        calls.append(items)
        failed.set()
        raise OSError("full")

    def more(together: Together[int]) -> None:
        for i in range(2, 1_000_000):  # until the thread has ended
            together.add(i)

    def block() -> None:
        with Together(call, 0) as together:
            together.add(1)
            failed.wait()
            if where == "add":
                with pytest.raises(OSError, match="full"):
                    more(together)
        if where == "add":
            raise OSError("full")  # not once more

    with pytest.raises(OSError, match="full"):
        block()
    assert calls == [[1]]
    assert _beside() == 0


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError])
def test_a_signal_is_not_replaced_by_an_error_of_a_call(error: type[BaseException]) -> None:
    """Who interrupts a program gets his way; an error that comes later is the result of the first."""
    called = threading.Event()

    def call(_: list[int]) -> None:
        called.set()
        raise OSError("full")

    def block() -> None:
        with Together(call, 0) as together:
            together.add(1)
            called.wait()
            raise error("block")

    with pytest.raises(OSError if error is ValueError else error):
        block()
    assert _beside() == 0


def test_a_signal_that_comes_at_the_end_waits_for_what_is_at_work() -> None:
    """Else it would go on after its owner has given everything back, or die with the process."""
    calls: list[list[int]] = []
    begun, go = threading.Event(), threading.Event()
    main = threading.get_ident()

    def call(items: list[int]) -> None:
        begun.set()
        go.wait()
        calls.append(items)

    def signals() -> None:
        begun.wait()
        while not waits():
            pass
        while not go.is_set():  # one that comes just before the wait begins does not end it
            signal.pthread_kill(main, signal.SIGUSR1)
            go.wait(0.1)

    def waits() -> bool:
        frames: list[str] = []
        frame: FrameType | None = sys._current_frames()[main]
        while frame is not None:
            frames.append(frame.f_code.co_name)
            frame = frame.f_back
        return "_end" in frames and "wait" in frames

    def interrupted(*_: object) -> None:
        first = not go.is_set()
        go.set()
        if first:
            raise KeyboardInterrupt

    before = signal.signal(signal.SIGUSR1, interrupted)
    thread = threading.Thread(target=signals)
    thread.start()

    def block() -> None:
        with Together(call, 0) as together:
            together.add(1)
            begun.wait()
            together.add(2)

    try:
        with pytest.raises(KeyboardInterrupt):
            block()
    finally:
        signal.signal(signal.SIGUSR1, before)
        thread.join()
    assert calls == [[1], [2]]
    assert _beside() == 0
