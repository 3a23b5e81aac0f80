"""Which columns become tensors, and what comes out, decided from schemas alone."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from pipeline.core import ArrayField, Columns, Schema
from pipeline.errors import ConfigError, DTypeError, TransformError
from pipeline.layout import VALID, Kind, Layout, Selection, layout
from pipeline.policy import Conversion, Policy

TABLE = pa.schema(
    [
        pa.field("id", pa.int64(), nullable=False, metadata={"unit": "none"}),
        pa.field("name", pa.string()),
        pa.field("x", pa.float32()),
        pa.field("y", pa.float32()),
        pa.field("when", pa.timestamp("us", "UTC")),
        pa.field("v", pa.list_(pa.float32(), 3)),
    ],
    metadata={"made": "here"},
)
SCHEMA = Schema(tuple(TABLE), TABLE.metadata)


def nulls(word: str, fill: float = 0) -> Conversion:
    """A policy for nulls alone."""
    return Conversion(Policy(nulls=word, fill_value=fill))


def _names(made: Layout) -> tuple[list[str], list[str]]:
    return [r.name for r in made.routes], list(made.carried)


@pytest.mark.parametrize(
    ("select", "carry", "expected"),
    [
        (None, "all", (["id", "x", "y", "v"], ["name", "when"])),
        (None, "none", (["id", "x", "y", "v"], [])),
        (["x"], ["n*"], (["x"], ["name"])),
        (["*"], "all", (["id", "x", "y", "v"], ["name", "when"])),
        (["when", "x"], "none", (["x", "when"], [])),
        ({"f": ["y", "x"]}, ["id", "v"], (["f"], ["id", "v"])),
    ],
)
def test_selection(select: Selection, carry: str | list[str], expected: tuple[list[str], list[str]]) -> None:
    """Numbers by default; dates only by name; the rest as `carry` says; in the order of the table."""
    assert _names(layout(SCHEMA, select, carry)) == expected


@pytest.mark.parametrize(
    ("select", "carry", "message"),
    [
        (["xx"], "all", "columns: 'xx' matches no column; did you mean 'x'"),
        (["zebra"], "all", "columns are: id, name"),
        (None, ["nmae"], "carry: 'nmae' matches no column; did you mean 'name'"),
        ({"f": []}, "all", "columns.f is empty"),
        ({"f": ["x"], "g": ["x", "y"]}, "all", "'x' is stacked twice"),
        ({"name": ["x", "y"]}, "all", "'name' is the name of a carried column"),
    ],
)
def test_names_that_cannot_be_meant(select: Selection, carry: str | list[str], message: str) -> None:
    """The message holds the key and the way out."""
    with pytest.raises(ConfigError, match=message):
        layout(SCHEMA, select, carry)


@pytest.mark.parametrize(
    ("select", "message"),
    [
        (["name"], "column 'name' is string"),
        ({"f": ["id", "x"]}, "columns.f: 'x' is float32, 'id' is int64"),
        ({"f": ["v", "x"]}, r"columns.f: 'v' is float32\[3\]; only plain columns are stacked"),
    ],
)
def test_types_that_do_not_fit(select: Selection, message: str) -> None:
    """Named columns must fit; types are never promoted."""
    with pytest.raises(DTypeError, match=message):
        layout(SCHEMA, select, "all")


def _chunk(**columns: pa.Array) -> Columns:
    return dict(columns)


def test_stacked_columns_are_one_matrix_in_the_order_of_the_list() -> None:
    """(rows, F), whatever the order of the table."""
    made = layout(SCHEMA, {"f": ["y", "x"]}, "none")
    arrays = made.enter(_chunk(x=pa.array([1, 2], pa.float32()), y=pa.array([3, 4], pa.float32())))
    assert arrays["f"].tolist() == [[3, 1], [4, 2]]


def test_nulls_travel_beside_the_values() -> None:
    """One entry per column that holds nulls, none for the others."""
    made = layout(SCHEMA, ["x", "y"], "none", nulls("mask"))
    arrays = made.enter(_chunk(x=pa.array([1, None], pa.float32()), y=pa.array([3, 4], pa.float32())))
    assert arrays[VALID + "x"].tolist() == [True, False]
    assert VALID + "y" not in arrays


@pytest.mark.parametrize(("columns", "expected"), [({}, 7.0), ({"x": -1.5}, -1.5), ({"y": 1}, 7.0)])
def test_nulls_are_filled_on_request(columns: dict[str, float], expected: float) -> None:
    """In a copy: the column of the source stays as it is."""
    column = pa.array([1, None], pa.float32())
    made = Conversion(Policy(nulls="fill", fill_value=7), {name: {"fill_value": v} for name, v in columns.items()})
    arrays = layout(SCHEMA, ["x"], "none", made).enter(_chunk(x=column))
    assert arrays["x"].tolist() == [1.0, expected]
    assert column.to_pylist() == [1.0, None]


def test_a_fill_that_is_no_value_of_the_column_is_refused() -> None:
    """NaN is no integer."""
    made = layout(SCHEMA, ["id"], "none", nulls("fill", float("nan")))
    with pytest.raises(DTypeError, match="fill_value nan is no int64 and column 'id'"):
        made.enter(_chunk(id=pa.array([1, None])))


@pytest.mark.parametrize(
    ("select", "message"), [(["x"], "column 'x' has 1 nulls .first in row 1"), ({"f": ["x", "y"]}, "stacked into 'f'")]
)
def test_nulls_are_errors_where_they_have_no_place(select: Selection, message: str) -> None:
    """Under nulls=error, and in a matrix."""
    made = layout(SCHEMA, select, "none", nulls("error"))
    with pytest.raises(DTypeError, match=message):
        made.enter(_chunk(x=pa.array([1, None], pa.float32()), y=pa.array([3, 4], pa.float32())))


def _kinds(**kinds: tuple[str, tuple[int, ...]]) -> dict[str, Kind]:
    return {name: Kind(np.dtype(dtype), shape) for name, (dtype, shape) in kinds.items()}


def test_unchanged_columns_keep_their_field_whole() -> None:
    """Type, nullability, metadata and place; the table's metadata too."""
    made = layout(SCHEMA, None, "all")
    same = {r.name: r.kind for r in made.routes}
    schema, _ = made.exits(same, {}, unstack=True)
    assert pa.schema(schema.fields, schema.metadata).equals(TABLE, check_metadata=True)


def test_changed_columns_keep_what_still_fits() -> None:
    """A new dtype keeps metadata and list width; a new shape becomes a plain array; new columns come last."""
    made = layout(SCHEMA, ["id", "x", "v"], "none")
    kinds = _kinds(id=("f8", ()), new=("i2", ()), v=("f2", (3,)), x=("f4", (2,)))
    schema, _ = made.exits(kinds, {}, unstack=True)
    assert schema.names == ("id", "x", "v", "new")
    assert schema["id"].equals(pa.field("id", pa.float64(), False, {"unit": "none"}), check_metadata=True)
    assert schema["v"].type == pa.list_(pa.float16(), 3)
    assert schema["x"] == ArrayField("x", np.dtype("f4"), (2,))
    assert schema["new"] == ArrayField("new", np.dtype("i2"))


def test_a_renamed_column_keeps_its_type_and_place() -> None:
    """`like` says that the values are those of another column."""
    made = layout(SCHEMA, ["when", "x"], "none")
    schema, _ = made.exits(_kinds(t=("i8", ()), x=("f4", ())), {"t": "when"}, unstack=True)
    assert schema.names == ("x", "t")
    assert schema["t"].type == pa.timestamp("us", "UTC")


def test_a_matrix_is_taken_apart_where_its_width_allows() -> None:
    """Back to the columns it was stacked from, with a changed dtype if need be; or kept whole on request."""
    made = layout(SCHEMA, {"f": ["y", "x"]}, "none")
    apart, exits = made.exits(_kinds(f=("f8", (2,))), {}, unstack=True)
    assert [(f.name, str(f.type)) for f in apart.fields] == [("y", "double"), ("x", "double")]
    assert [e.position for e in exits] == [0, 1]
    whole, _ = made.exits(_kinds(f=("f8", (2,))), {}, unstack=False)
    assert whole.fields == (ArrayField("f", np.dtype("f8"), (2,)),)


def test_two_columns_of_one_name_are_refused() -> None:
    """A transform may not add what is carried."""
    with pytest.raises(TransformError, match="two columns 'name'"):
        layout(SCHEMA, ["x"], "all").exits(_kinds(name=("f4", ())), {}, unstack=True)


def test_a_policy_for_a_column_that_is_not_there_is_a_mistake() -> None:
    """Passed over in silence, a misspelt name would leave its column without the policy."""
    schema = Schema((ArrayField("dep_delay", np.dtype("f8")), ArrayField("x[0]", np.dtype("f8"))))
    with pytest.raises(
        ConfigError, match=r"conversion.columns: 'dep_dely' matches no column; did you mean 'dep_delay'"
    ):
        layout(schema, None, "all", Conversion(columns={"dep_dely": {"nulls": "fill"}}))
    chosen = layout(schema, None, "all", Conversion(columns={"x[0]": {"dtype": "float32", "cast": "same_kind"}}))
    assert [str(route.dtype) for route in chosen.routes] == ["float64", "float32"]
