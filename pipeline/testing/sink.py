"""Laws of a sink. Subclass `SinkContract`, give it what it asks for, and let pytest collect it."""

from __future__ import annotations

import hashlib
import pickle
import re
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest

from pipeline.batching import cut, rows_of
from pipeline.core import Column, Columns, File, Schema, Sink, Split, Task
from pipeline.errors import PipelineError
from pipeline.files import home


def task(name: str = "part-00000-0a1b2c3d", rows: int | None = None) -> Task:
    """Work whose result gets this name."""
    return Task(0, "0a1b2c3d", name, (Split("all", "1", rows),), rows)


def batches(columns: Columns, rows: int) -> list[Columns]:
    """Columns cut into batches of `rows` rows; one batch if there are none."""
    total = rows_of(columns)
    return [cut(columns, start, min(start + rows, total)) for start in range(0, max(total, 1), rows)]


def write(sink: Sink, schema: Schema, given: list[Columns], work: Task | None = None) -> tuple[File, ...]:
    """Write a part as the worker does."""
    writer = sink.open(work or task(), schema)
    try:
        for columns in given:
            writer.write(columns)
        return writer.close()
    except BaseException:
        writer.abort()
        raise


def names(folder: Path) -> set[str]:
    """Every file below a folder, hidden ones too."""
    return {p.relative_to(folder).as_posix() for p in folder.rglob("*") if not p.is_dir()}


def assert_same(found: Columns, expected: Columns) -> None:
    """The same columns in the same order, bit for bit."""
    assert list(found) == list(expected)
    for name, column in expected.items():
        assert _same(found[name], column), name


def _same(found: Column, expected: Column) -> bool:
    if not isinstance(expected, np.ndarray):
        return not isinstance(found, np.ndarray) and found.type == expected.type and bool(found.equals(expected))
    alike = isinstance(found, np.ndarray) and found.dtype == expected.dtype and found.shape == expected.shape
    return alike and found.tobytes() == expected.tobytes()


@contextmanager
def no_file_above(size: int) -> Iterator[None]:
    """Writing beyond `size` bytes of any file fails, as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


class SinkContract:
    """Subclass it and give `suffix`, `make`, `sample` and `read`."""

    suffix: ClassVar[str]

    def make(self, path: str) -> Sink:
        """A fresh sink that writes to `path`."""
        raise AssertionError(f"give make(): a sink for {path!r}")

    def sample(self) -> tuple[Schema, Columns]:
        """Some hundred rows of every type that the sink should hold, of the types in which it gives them back."""
        raise AssertionError("give sample()")

    def read(self, path: Path) -> Columns:
        """What a file holds."""
        raise AssertionError(f"give read(): the columns of {str(path)!r}")

    @pytest.fixture(params=["folder", "file"])
    def path(self, request: pytest.FixtureRequest, tmp_path: Path) -> str:
        """Where to write: a folder of parts, and a single file."""
        return str(tmp_path / "home" / ("out" if request.param == "folder" else f"out{self.suffix}"))

    def test_what_is_written_comes_back(self, path: str) -> None:
        """Names, order, types and bits."""
        schema, columns = self.sample()
        sink = self.make(path)
        (file,) = write(sink, sink.accept(schema), batches(columns, 50))
        assert_same(self.read(home(path, single=sink.single).root / file.path), columns)

    def test_the_record_of_a_file_is_true(self, path: str) -> None:
        """Path below the output, size, hash and rows: what resuming and verifying rest on."""
        schema, columns = self.sample()
        sink = self.make(path)
        where = home(path, single=sink.single)
        (file,) = write(sink, sink.accept(schema), [columns])
        data = (where.root / file.path).read_bytes()
        assert file.path == (Path(path).name if sink.single else task().name + self.suffix)
        assert (file.bytes, file.sha256) == (len(data), hashlib.sha256(data).hexdigest())
        assert file.rows == rows_of(columns)

    def test_a_path_with_the_suffix_is_one_file(self, path: str) -> None:
        """A folder takes a part for each task."""
        assert self.make(path).single == path.endswith(self.suffix)

    def test_nothing_is_visible_before_close(self, path: str) -> None:
        """A reader of the folder never sees half a file."""
        schema, columns = self.sample()
        sink = self.make(path)
        where = home(path, single=sink.single)
        writer = sink.open(task(), sink.accept(schema))
        writer.write(columns)
        hidden = where.temp.relative_to(where.root).as_posix()
        assert all(name.startswith(hidden) for name in names(where.root))
        (file,) = writer.close()
        assert names(where.root) == {file.path}

    def test_abort_leaves_nothing(self, path: str, tmp_path: Path) -> None:
        """Before and after rows have come, and when called twice."""
        schema, columns = self.sample()
        sink = self.make(path)
        for given in ([], [columns]):
            writer = sink.open(task(), sink.accept(schema))
            for rows in given:
                writer.write(rows)
            writer.abort()
            writer.abort()
            assert not names(tmp_path)

    def test_abort_leaves_an_earlier_result_alone(self, path: str, tmp_path: Path) -> None:
        """What was published before is not the aborted writer's to remove."""
        schema, columns = self.sample()
        sink = self.make(path)
        write(sink, sink.accept(schema), [columns])
        before = names(tmp_path)
        writer = sink.open(task(), sink.accept(schema))
        writer.write(columns)
        writer.abort()
        assert names(tmp_path) == before

    @pytest.mark.parametrize("rows", [1, 7, 10_000])
    def test_bytes_do_not_depend_on_batches(self, path: str, rows: int) -> None:
        """The same rows give the same file, however many come at a time."""
        schema, columns = self.sample()
        sink = self.make(path)
        stored = sink.accept(schema)
        assert write(sink, stored, batches(columns, rows)) == write(sink, stored, batches(columns, 64))

    def test_bytes_do_not_depend_on_knowing_the_rows(self, path: str) -> None:
        """The number of rows may be known before the run or not."""
        schema, columns = self.sample()
        sink = self.make(path)
        stored = sink.accept(schema)
        known = task(rows=rows_of(columns))
        assert write(sink, stored, [columns], known) == write(sink, stored, [columns])

    @pytest.mark.parametrize("given", [0, 1])
    def test_no_rows_make_a_file_with_the_schema(self, path: str, given: int) -> None:
        """Names and types are those of a file with rows."""
        schema, columns = self.sample()
        sink = self.make(path)
        empty = cut(columns, 0, 0)
        (file,) = write(sink, sink.accept(schema), [empty] * given)
        assert file.rows == 0
        assert_same(self.read(home(path, single=sink.single).root / file.path), empty)

    def test_a_write_that_fails_names_the_file_and_leaves_nothing(self, path: str, tmp_path: Path) -> None:
        """Wherever the disk gives up: at the first byte, on the way, or at the last."""
        schema, columns = self.sample()
        sink = self.make(path)
        stored = sink.accept(schema)
        (file,) = write(sink, stored, [columns])
        final = home(path, single=sink.single).root / file.path
        final.unlink()
        for size in np.linspace(0, file.bytes - 1, 9, dtype=int).tolist():
            with no_file_above(size), pytest.raises(PipelineError, match=re.escape(str(final))):
                write(sink, stored, batches(columns, 50))
            assert not names(tmp_path)

    def test_columns_must_be_those_of_the_schema(self, path: str) -> None:
        """A name too few or another name is an error, not a file that lacks a column."""
        schema, columns = self.sample()
        sink = self.make(path)
        renamed = {f"{name}?": column for name, column in columns.items()}
        for wrong in ({}, renamed, {**columns, **renamed}):
            with pytest.raises(PipelineError, match="expected column"):
                write(sink, sink.accept(schema), [wrong])

    def test_it_opens_nothing_and_pickles(self, path: str, tmp_path: Path) -> None:
        """A sink travels to where it runs."""
        sink = self.make(path)
        sink.accept(self.sample()[0])
        assert pickle.loads(pickle.dumps(sink)) == sink  # noqa: S301  (our own bytes)
        assert not list(tmp_path.iterdir())
