"""Whether an output is what the float64 reference says, row by row and in order."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from measure.workload import Array, Columns, Workload, read

DIRECTIONS = 8  # into which rows are projected when sums are compared
ABSOLUTE = 2.0**-17  # what float32 may be off by near 0, where terms cancel out


@dataclass(frozen=True)
class Verdict:
    """What was found.

    Attributes:
        right: whether rows, order, types of numbers and values are those of the reference.
        moved: whether it is wrong only in the order of rows.
        words: the difference, or a remark on types.
    """

    right: bool
    words: str
    moved: bool = False


@dataclass
class Judge:
    """Looks at outputs of one workload. What has the very bytes of an output that was right is right."""

    workload: Workload
    place: Path
    seen: dict[str, Verdict] = field(default_factory=dict)

    def look(self, out: Path) -> Verdict:
        """The verdict on the files below a folder, in the order of their names."""
        files = outputs(out, self.workload.suffix)
        key = _digest(files)
        if key not in self.seen:
            self.seen[key] = self._compare(files)
        return self.seen[key]

    def _compare(self, files: list[Path]) -> Verdict:
        if not files:
            return Verdict(False, f"no {self.workload.suffix} file")
        problem = _difference(self._expected(), files, self.workload)
        if problem is None:
            return Verdict(True, _types(files))
        moved = problem.values and self._moved(files)
        return Verdict(False, "order of rows not kept" if moved else problem.words, moved)

    def _moved(self, files: list[Path]) -> bool:
        found = _sums(read(files, self.workload.piece_rows))
        return _alike(_sums(self._expected()), found, self.workload.digits)

    def _expected(self) -> Iterator[Columns]:
        for piece in read(self.workload.input(self.place), self.workload.piece_rows):
            yield self.workload.expect(piece, self.place)


def outputs(out: Path, suffix: str) -> list[Path]:
    """Data files, by name; names that start with ``_`` or ``.`` are no data."""
    found = [p for p in out.rglob(f"*{suffix}") if not any(n.startswith(("_", ".")) for n in p.relative_to(out).parts)]
    return sorted(p for p in found if p.is_file())


def _digest(files: list[Path]) -> str:
    total = hashlib.sha256()
    for file in files:
        with file.open("rb") as stream:
            total.update(hashlib.file_digest(stream, "sha256").digest())
    return total.hexdigest()


# ---- row by row ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Problem:
    """A difference; `values` if only values differ, so that the rows may be there in another order."""

    words: str
    values: bool = False


def _difference(expected: Iterator[Columns], files: list[Path], workload: Workload) -> _Problem | None:
    """The first difference."""
    made = _Rows(files, workload.piece_rows)
    first = 0
    for want in expected:
        rows = len(next(iter(want.values())))
        got = made.take(rows)
        if len(next(iter(got.values()), ())) < rows:
            return _Problem(f"ends after {first + len(next(iter(got.values()), ())):,} rows")
        if set(got) != set(want):
            return _Problem(f"columns {', '.join(got)}; expected {', '.join(want)}")
        kinds = {name: (_kind(got[name]), _kind(x, workload.dtype)) for name, x in want.items()}
        for name, (found, right) in kinds.items():
            if found != right:
                return _Problem(f"{name}: {found}; expected {right}")
        for name in want:
            if words := _values(want[name], got[name], first, workload):
                return _Problem(f"{name}: {words}", values=True)
        first += rows
    return _Problem(f"more than {first:,} rows") if made.take(1) else None


def _kind(array: Array, computed: str = "") -> str:
    dtype = computed if computed and array.dtype == np.float64 else array.dtype
    return f"{dtype}{list(array.shape[1:])}"


def _values(want: Array, got: Array, first: int, workload: Workload) -> str:
    if want.dtype == np.float64:
        wide = got.astype("f8")
        near = np.abs(wide - want) <= ABSOLUTE + 1.02 * 2.0**-workload.digits * np.abs(want)
    else:
        near = got == want
    if near.all():
        return ""
    at = tuple(np.argwhere(~near)[0])
    return f"row {first + at[0]:,} holds {got[at]}; expected {want[at]} ({(~near).sum():,} differ in this piece)"


class _Rows:
    """Rows of files, taken in pieces of any length."""

    def __init__(self, files: list[Path], rows: int) -> None:
        self._pieces = read(files, rows)
        self._held: Columns = {}

    def take(self, rows: int) -> Columns:
        """The next rows; fewer at the end, and no columns after it."""
        got: list[Columns] = []
        while rows > 0 and (piece := self._held or next(self._pieces, {})):
            length = len(next(iter(piece.values())))
            got.append({name: array[:rows] for name, array in piece.items()})
            self._held = {name: array[rows:] for name, array in piece.items()} if length > rows else {}
            rows -= length
        if len(got) < 2:
            return got[0] if got else {}
        return {name: np.concatenate([piece[name] for piece in got]) for name in got[0]}


def _types(files: list[Path]) -> str:
    """Types of a table that are not those of the input, where values are the same."""
    if files[0].suffix != ".parquet":
        return ""
    usual = {"id": pa.int64(), "kind": pa.string(), "x": pa.list_(pa.float32(), 128)}
    schema = pq.read_schema(files[0])
    other = [f for f in schema if f.name in usual and f.type not in (usual[f.name], _compliant(usual[f.name]))]
    return ", ".join(f"{f.name} is {f.type}" for f in other)


def _compliant(type_: pa.DataType) -> pa.DataType:
    """The type as it is read when the inner field of lists is named as Parquet wants it."""
    if not pa.types.is_fixed_size_list(type_):
        return type_
    return pa.list_(pa.field("element", type_.value_type), type_.list_size)


# ---- whatever the order ----------------------------------------------------------------------------------------------


def _sums(pieces: Iterator[Columns]) -> Columns:
    """Sums over all rows that do not depend on their order, but on which values stand together in a row."""
    rng = np.random.default_rng(0)
    weights: Columns = {}
    total: dict[str, Array] = {"rows": np.zeros(1)}
    for piece in pieces:
        rows = len(next(iter(piece.values())))
        angle = np.zeros((rows, DIRECTIONS))
        for name in sorted(piece):
            x = piece[name].astype("f8").reshape(rows, -1)
            width = x.shape[1]
            along = x @ weights.setdefault(name, rng.standard_normal((width, DIRECTIONS)) / np.sqrt(width))
            total[name] = total.get(name, np.zeros(DIRECTIONS)) + along.sum(0)
            angle += along
        total["rows"] += rows
        total["together"] = total.get("together", np.zeros(DIRECTIONS)) + np.sin(angle).sum(0)
    return total


def _alike(one: Columns, other: Columns, digits: int) -> bool:
    if one.keys() != other.keys() or one["rows"] != other["rows"]:
        return False
    tolerance = 2.5 * 2.0**-digits * np.sqrt(one["rows"])
    return all(bool(np.allclose(one[name], other[name], rtol=1e-9, atol=tolerance)) for name in one)
