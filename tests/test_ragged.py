"""Lists of any length as jagged tensors, and back."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.core import Output
from pipeline.errors import ConfigError, DTypeError, TransformError
from pipeline.sink.npz import Npz
from pipeline.testing import samples
from pipeline.testing.compare import assert_identical
from pipeline.transform.standardize import Standardize
from tests.fakes import Rows, run_rows, same

LISTS = pa.array([[1.5, float("nan")], [], None, [-0.0], [2.0, 3.0, 4.0]] * 5, pa.list_(pa.field("item", pa.float32())))
TABLE = pa.table({"x": LISTS, "id": pa.array(range(25))}, metadata={"made": "here"})


def through(tmp_path: Path, transform: Any, source: Any = TABLE, **options: Any) -> pa.Table:
    """The output of the stage."""
    given_ = {"ragged": "jagged", "nulls": "mask", "columns": ["x"], **options}
    run_rows(Rows(source, splits_of=1000, chunk=7), transform, tmp_path / "out", **given_)
    return pq.read_table(next((tmp_path / "out").glob("*.parquet")))


def pairs(lists: Any) -> Any:
    """Elements of two numbers."""
    return lists.values()[:, None].repeat(1, 2)


def total(tensors: Any) -> Any:
    """One number for each list."""
    return {"sum": tensors["x"].sum(dim=1)}


ELEMENTS = [pa.int8(), pa.uint64(), pa.float16(), pa.float64(), pa.bool_(), pa.timestamp("us"), pa.decimal128(9, 2)]


@settings(max_examples=40, deadline=None)
@given(
    st.sampled_from(ELEMENTS),
    st.booleans(),
    st.booleans(),
    st.sampled_from([0.0, 0.3, 1.0]),
    st.integers(0, 3),
    st.integers(0, 20),
    st.integers(1, 9),
)
def test_identity_keeps_every_bit_of_every_list(
    tmp_path_factory: Any, element: Any, shaped: bool, large: bool, share: float, first: int, rows: int, batch: int
) -> None:
    """Lists and large lists, of elements with a shape too, sliced, chunked, null and empty, in batches of any size."""
    chance = np.random.default_rng([first, rows, batch])
    present = chance.random(rows) >= share
    starts = np.concatenate([[0], np.cumsum(chance.integers(0, 4, rows))])
    elements = samples.column(pa.list_(element, 2) if shaped else element, int(starts[-1]), chance, 0.0)
    lists = pa.LargeListArray if large else pa.ListArray
    codes = pa.array(starts, pa.int64() if large else pa.int32())
    column = lists.from_arrays(codes, elements, mask=pa.array(~present, pa.bool_())).slice(first)
    table = pa.table({"x": pa.chunked_array([column.slice(0, 3), column.slice(3)])})
    assert_identical(through(tmp_path_factory.mktemp("a"), same, table, batch_rows=batch), table)


def test_the_transform_sees_one_nested_tensor(tmp_path: Path) -> None:
    """Of the jagged layout, on zero rows too; nulls are empty or not, and stay null."""
    seen: list[Any] = []

    def look(tensors: Any) -> Any:
        seen.append((tensors["x"].layout, tensors["x"].dtype, len(tensors["x"])))
        return {"x": tensors["x"] * 2}

    out = through(tmp_path, look)
    assert seen == [(torch.jagged, torch.float32, n) for n in (0, 16, 9)]
    assert out["x"].to_pylist()[1:5] == [[], None, [-0.0], [4.0, 6.0, 8.0]]
    assert out.schema.equals(TABLE.schema, check_metadata=True)


def test_a_dense_result_goes_on_as_any_other(tmp_path: Path) -> None:
    """Sums of lists."""
    whole = TABLE.filter(LISTS.is_valid())
    out = through(tmp_path, total, whole)
    assert out["sum"].to_pylist()[1:4] == [0.0, 0.0, 9.0]
    assert out["id"].equals(whole["id"])


def test_a_jagged_column_can_be_new(tmp_path: Path) -> None:
    """It is stored as lists of its elements."""

    def spread(tensors: Any) -> Any:
        ids = tensors["id"]
        with torch.inference_mode(False):
            starts = torch.cat([ids.new_zeros(1), torch.cumsum(ids % 3, 0)])
            values = torch.arange(int(starts[-1]), dtype=torch.float64)[:, None].repeat(1, 2)
            return {"y": torch.nested.nested_tensor_from_jagged(values, starts)}

    out = through(tmp_path, spread, columns=["id"], carry="none")
    assert out.schema.field("y").type == pa.list_(pa.list_(pa.float64(), 2))
    assert [len(row) for row in out["y"].to_pylist()] == [i % 3 for i in range(25)]


def test_a_declared_cast_of_elements_comes_back(tmp_path: Path) -> None:
    """float64 for the transform, float32 in the file; a new dtype of the elements keeps the lists."""
    out = through(tmp_path, same, per_column={"x": {"dtype": "float64", "cast": "safe"}})
    assert_identical(out, TABLE)
    out = through(tmp_path / "b", lambda t: {"x": t["x"].double()}, memory="copy")
    assert out.schema.field("x").type == pa.list_(pa.field("item", pa.float64()))


def test_a_full_device_gets_half_of_the_lists(tmp_path: Path) -> None:
    """Elements and starts are cut together."""

    def greedy(tensors: Any) -> Any:
        if len(tensors["x"]) > 3:
            raise torch.OutOfMemoryError("planned fault")
        return tensors

    greedy.rowwise = True  # type: ignore[attr-defined]
    assert_identical(through(tmp_path, greedy), TABLE)


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"ragged": "error"}, DTypeError, "column 'x' is list<.*conversion.ragged=jagged"),
        ({"nulls": "fill"}, ConfigError, "'x'.*mask"),
        ({"columns": {"m": ["x"]}}, DTypeError, "only plain columns are stacked"),
        ({"source": pa.table({"x": pa.array([[1, None], None])})}, DTypeError, r"'x'.*null elements.*row 0.*1 rows"),
        ({"source": pa.table({"x": pa.array([[[1]], None])})}, DTypeError, "'x' is list<.*of its elements"),
        ({"source": pa.table({"x": pa.array([["a"]])})}, DTypeError, "'x' is list<.*of its elements"),
    ],
    ids=["not asked for", "filled", "stacked", "null elements", "lists of lists", "words"],
)
def test_what_makes_no_jagged_tensor_is_refused_by_name(
    options: dict[str, Any], error: type[Exception], words: str, tmp_path: Path
) -> None:
    """Before a row is read, but for null elements."""
    with pytest.raises(error, match=words):
        through(tmp_path, same, **options)


def test_null_elements_of_null_lists_do_not_count(tmp_path: Path) -> None:
    """Nobody can see them."""
    elements = pa.array([1, None, 2])
    lists = pa.ListArray.from_arrays(pa.array([0, 2, 3], pa.int32()), elements, mask=pa.array([True, False]))
    assert through(tmp_path, same, pa.table({"x": lists}))["x"].to_pylist() == [None, [2]]


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda x: torch.nested.nested_tensor_from_jagged(x.values(), x.offsets().flip(0)), "offsets"),
        (lambda x: torch.nested.nested_tensor_from_jagged(pairs(x), x.offsets()).transpose(1, 2), "second axis"),
    ],
    ids=["offsets", "axis"],
)
def test_a_jagged_tensor_that_is_none_is_refused(make: Any, words: str, tmp_path: Path) -> None:
    """Lists that would point outside of their elements crash every reader."""

    def broken(tensors: Any) -> Any:
        return {"x": make(tensors["x"])}

    with pytest.raises((DTypeError, TransformError), match=f"column 'x'.*{words}"):
        through(tmp_path, broken)


def test_rows_that_are_kept_keep_their_lists(tmp_path: Path) -> None:
    """The transform picks lists, `rows` says which; nulls and carried columns follow."""

    def longer(tensors: Any) -> Any:
        lists = tensors["x"]
        keep = lists.offsets().diff() > 1
        picked = [row for row, kept in zip(lists.unbind(), keep.tolist(), strict=True) if kept]
        starts = torch.tensor([0, *np.cumsum([len(row) for row in picked])])
        values = torch.cat(picked) if picked else lists.values()[:0]
        return Output({"x": torch.nested.nested_tensor_from_jagged(values, starts)}, rows=keep)

    out = through(tmp_path, longer)
    assert_identical(out, TABLE.filter([len(row or []) > 1 for row in LISTS.to_pylist()]))


def test_lists_with_gaps_between_them_are_put_together(tmp_path: Path) -> None:
    """Shorter ones over the same elements, of the run on zero rows too."""
    lists = [list(range(i % 5)) for i in range(25)]

    def shortened(tensors: Any) -> Any:
        values, starts = tensors["x"].values(), tensors["x"].offsets()
        lengths = (starts.diff() - 1).clamp(min=0)
        return {"x": torch.nested.nested_tensor_from_jagged(values, starts, lengths=lengths)}

    table = pa.table({"x": pa.array(lists, pa.list_(pa.int32()))})
    assert through(tmp_path, shortened, table)["x"].to_pylist() == [one[:-1] for one in lists]


def test_standardize_leaves_lists_alone(tmp_path: Path) -> None:
    """They have no columns to be scaled by; one that is named is refused."""
    out = through(tmp_path, Standardize(), columns=["x", "id"])
    assert_identical(out.select(["x"]), TABLE.select(["x"]))
    assert abs(np.mean(out["id"].to_numpy())) < 1e-6
    with pytest.raises(DTypeError, match="column 'x' is float32; expected .* in rows of one shape"):
        through(tmp_path / "b", Standardize(columns=["x"]))


class Unfit(Standardize):
    """Learns from what it does not find."""

    def update(self, state: Any, tensors: Any, validity: Any) -> Any:
        raise AttributeError("planned fault")


def test_a_fit_that_fails_on_zero_rows_is_an_error_of_the_transform(tmp_path: Path) -> None:
    """With the exit code of transforms."""
    with pytest.raises(TransformError, match="on zero rows.*AttributeError: planned fault"):
        through(tmp_path, Unfit())


def test_numpy_files_have_no_place_for_lists(tmp_path: Path) -> None:
    """Refused by name before a row is read."""
    with pytest.raises(DTypeError, match="column 'x' is list<"):
        through(tmp_path, same, sink=Npz(str(tmp_path / "a.npz")))
