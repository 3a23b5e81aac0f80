"""What every engine must do."""

from __future__ import annotations

import pickle
from collections.abc import Iterable, Iterator

import pytest

from pipeline.core import Engine, Part, Split, Task


def tasks(count: int) -> list[Task]:
    """Work that can be told apart."""
    return [Task(i, f"key-{i}", f"part-{i}", (Split(f"split-{i}", "1", rows=i),)) for i in range(count)]


def worker(given: Iterable[Task]) -> Iterator[Part]:
    """One part for each task; task 3 of more than five fails."""
    for task in given:
        if task.index == 3 and task.name.endswith("fails"):
            raise ValueError("planned fault")
        rows = task.splits[0].rows or 0
        yield Part(task.key, task.index, (task.splits[0].id,), rows, rows, ())


class EngineContract:
    """Subclass it and give `make`."""

    def make(self) -> Engine:
        """A fresh engine."""
        raise AssertionError("give make()")

    @pytest.mark.parametrize("count", [0, 1, 17])
    def test_every_task_becomes_one_part(self, count: int) -> None:
        """In any order, each exactly once."""
        parts = list(self.make().map(worker, tasks(count)))
        assert sorted(part.index for part in parts) == list(range(count))
        assert {part.key: part.rows_in for part in parts} == {f"key-{i}": i for i in range(count)}

    def test_parts_arrive_one_by_one(self) -> None:
        """The driver commits each as it comes, so that a kill loses little."""
        parts = iter(self.make().map(worker, tasks(5)))
        assert next(parts).key.startswith("key-")
        assert len(list(parts)) == 4

    def test_a_failed_task_raises_after_the_parts_before_it(self) -> None:
        """The error is the worker's own."""
        given = tasks(5)
        given[3] = Task(3, "key-3", "fails", given[3].splits)
        parts = []
        with pytest.raises(ValueError, match="planned fault"):
            for part in self.make().map(worker, given):
                parts.append(part.index)  # noqa: PERF401  (a comprehension would lose what came before the error)
        assert 3 not in parts

    def test_it_pickles(self) -> None:
        """Configuration travels to where it runs."""
        engine = self.make()
        assert pickle.loads(pickle.dumps(engine)) == engine  # noqa: S301  (our own bytes)
