"""From one format to another and back: the same arrays, by declared representations where a format lacks a type."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from pipeline.core import Array, ArrayField, Columns, Output, Schema, Split
from pipeline.errors import DataError, DTypeError
from pipeline.policy import LOGICAL
from pipeline.sink.npy import Npy as NpySink
from pipeline.sink.npz import Npz as NpzSink
from pipeline.sink.parquet import Parquet as ParquetSink
from pipeline.source.npy import Npy
from pipeline.source.npz import Npz
from pipeline.source.parquet import Parquet
from pipeline.testing.compare import assert_identical
from tests.fakes import run_rows

SIDES = arrays.array_shapes(min_dims=1, max_dims=4, min_side=1, max_side=3)
BOTH = st.one_of(
    arrays.boolean_dtypes(),
    arrays.integer_dtypes(endianness="="),
    arrays.unsigned_integer_dtypes(endianness="="),
    arrays.floating_dtypes(endianness="=", sizes=(16, 32, 64)),
    arrays.complex_number_dtypes(endianness="=", sizes=(64, 128)),
    st.sampled_from(["M8[us]", "m8[ns]", "m8[s]"]).map(np.dtype),
)


def random(dtype: Any, shape: tuple[int, ...], seed: int = 0) -> Array:
    """Any bits."""
    dtype = np.dtype(dtype)
    raw = np.frombuffer(np.random.default_rng(seed).bytes(int(np.prod(shape)) * dtype.itemsize), np.uint8)
    made: Array = (raw % 2 if dtype.kind == "b" else raw).view(dtype).reshape(shape)
    return made


def through(source: Any, sink: Any, transform: Any = None, **options: Any) -> None:
    """Run the stage."""
    from pipeline.transform.identity import Identity

    run_rows(source, transform or Identity(), Path(sink.path), sink=sink, nulls="mask", **options)


@settings(max_examples=40, deadline=None)
@given(BOTH, SIDES, st.sampled_from(["fixed_shape_tensor", "fixed_size_list"]), st.booleans(), st.booleans())
def test_an_array_goes_to_parquet_and_back(
    tmp_path_factory: Any, dtype: Any, shape: tuple[int, ...], tensor: Any, selected: bool, fortran: bool
) -> None:
    """N-d, complex, in Fortran order; as a tensor, or carried on both ways."""
    folder, array = tmp_path_factory.mktemp("there"), random(dtype, shape)
    options: dict[str, Any] = {"columns": None if selected else []}
    np.save(folder / "a.npy", np.asfortranarray(array) if fortran else array)
    sink = ParquetSink(str(folder / "b.parquet"), tensor=tensor, complex="pairs", durability="rename")
    through(Npy(str(folder / "a.npy")), sink, **options)
    through(Parquet(str(folder / "b.parquet")), NpySink(str(folder / "c.npy"), durability="rename"), **options)
    assert_identical(np.load(folder / "c.npy"), array)


def test_complex_numbers_are_refused_unless_pairs_are_asked_for(tmp_path: Path) -> None:
    """The message holds the key."""
    np.save(tmp_path / "a.npy", np.ones(3, np.complex64))
    with pytest.raises(DTypeError, match="column 'data' is complex64.*sink.complex=pairs"):
        through(Npy(str(tmp_path / "a.npy")), ParquetSink(str(tmp_path / "b.parquet")))


@pytest.mark.parametrize("tensor", ["fixed_shape_tensor", "fixed_size_list"])
@pytest.mark.parametrize(("dtype", "shape"), [("c8", (20,)), ("c16", (20, 3))])
def test_pairs_are_complex_numbers_to_the_transform(
    dtype: str, shape: tuple[int, ...], tensor: Any, tmp_path: Path
) -> None:
    """And pairs again in Parquet: type, metadata, nulls and all."""
    seen: list[tuple[torch.dtype, tuple[int, ...]]] = []

    def look(tensors: Any) -> Any:
        seen.append((tensors["data"].dtype, tuple(tensors["data"].shape[1:])))
        return tensors

    np.save(tmp_path / "a.npy", random(dtype, shape))
    sink = ParquetSink(str(tmp_path / "b.parquet"), tensor=tensor, complex="pairs")
    through(Npy(str(tmp_path / "a.npy")), sink)
    before = pq.ParquetFile(tmp_path / "b.parquet").read()
    holed = pa.array([i % 3 == 0 for i in range(20)])
    column = before.column("data").combine_chunks()
    storage = pa.compute.if_else(holed, None, getattr(column, "storage", column))
    column = storage if storage.type == column.type else pa.ExtensionArray.from_storage(column.type, storage)
    pq.write_table(before.set_column(0, before.schema.field(0), column), tmp_path / "b.parquet")
    through(Parquet(str(tmp_path / "b.parquet")), ParquetSink(str(tmp_path / "c.parquet")), look)
    assert_identical(pq.ParquetFile(tmp_path / "c.parquet").read(), pq.ParquetFile(tmp_path / "b.parquet").read())
    assert set(seen) == {(torch.complex64 if dtype == "c8" else torch.complex128, shape[1:])}
    assert before.schema.field(0).metadata == {b"logical_dtype": str(np.dtype(dtype)).encode()}


def test_complex_columns_that_change_are_declared_anew(tmp_path: Path) -> None:
    """Their modulus is no pair; a wider one says so."""
    np.save(tmp_path / "a.npy", np.array([3 + 4j, 0], np.complex64))
    pairs = {"complex": "pairs", "durability": "rename"}
    through(Npy(str(tmp_path / "a.npy")), ParquetSink(str(tmp_path / "b.parquet"), **pairs))  # type: ignore[arg-type]
    source = Parquet(str(tmp_path / "b.parquet"))
    through(source, ParquetSink(str(tmp_path / "c.parquet")), lambda t: {"data": t["data"].abs()})
    assert pq.read_table(tmp_path / "c.parquet").column("data").to_pylist() == [5, 0]
    wide = ParquetSink(str(tmp_path / "d.parquet"), **pairs)  # type: ignore[arg-type]
    through(source, wide, lambda t: {"data": t["data"].to(torch.complex128)})
    field = pq.read_schema(tmp_path / "d.parquet").field("data")
    assert (field.type, field.metadata) == (pa.list_(pa.float64(), 2), {b"logical_dtype": b"complex128"})


def test_a_field_that_only_says_that_it_is_complex_is_carried(tmp_path: Path) -> None:
    """Metadata of another origin breaks nothing."""
    field = pa.field("x", pa.int64(), metadata={"logical_dtype": "complex64"})
    pq.write_table(pa.Table.from_arrays([pa.array([1, 2])], schema=pa.schema([field])), tmp_path / "a.parquet")
    through(Parquet(str(tmp_path / "a.parquet")), ParquetSink(str(tmp_path / "b.parquet")))
    assert_identical(pq.read_table(tmp_path / "b.parquet"), pq.read_table(tmp_path / "a.parquet"))


def test_columns_become_one_array_and_come_apart_again(tmp_path: Path) -> None:
    """Stacked in the order that was asked for."""
    table = pa.table({name: random("f4", (50,), i) for i, name in enumerate("abc")})
    pq.write_table(table, tmp_path / "a.parquet")
    stacked = {"columns": {"x": ["c", "a"]}, "carry": "none"}
    through(Parquet(str(tmp_path / "a.parquet")), NpySink(str(tmp_path / "b.npy")), **stacked)
    expected = np.stack([random("f4", (50,), 2), random("f4", (50,), 0)], axis=1)
    assert_identical(np.load(tmp_path / "b.npy"), expected)
    through(Parquet(str(tmp_path / "a.parquet")), ParquetSink(str(tmp_path / "c.parquet")), **stacked)
    assert_identical(pq.read_table(tmp_path / "c.parquet"), table.select(["c", "a"]))


def test_columns_become_members_and_columns_again(tmp_path: Path) -> None:
    """Several types and shapes in one archive, complex numbers carried too."""
    members = {name: random(d, (30, *s), 1) for name, d, s in [("i", "u8", ()), ("f", "f2", (2, 3)), ("z", "c8", (2,))]}
    np.savez(tmp_path / "a.npz", **members)  # type: ignore[arg-type]
    through(Npz(str(tmp_path / "a.npz")), ParquetSink(str(tmp_path / "b.parquet"), complex="pairs"))
    for columns in (None, ["i"]):
        sink = NpzSink(str(tmp_path / f"c{columns is None}.npz"))
        through(Parquet(str(tmp_path / "b.parquet")), sink, columns=columns)
        with np.load(sink.path) as back:
            for name, array in members.items():
                assert_identical(back[name], array)


# ---- bfloat16, float8 ------------------------------------------------------------------------------------------------

EVERY = {name: np.arange(2**bits, dtype=f"u{bits // 8}") for name, bits in [("bfloat16", 16), ("float8_e4m3fn", 8)]}


@pytest.mark.parametrize("logical", EVERY)
@pytest.mark.parametrize("kind", ["unsigned", "void"])
def test_bfloat16_and_float8_keep_every_bit_in_every_format(logical: str, kind: str, tmp_path: Path) -> None:
    """From unsigned integers, or from what numpy.save makes of ml_dtypes; Parquet remembers what they stand for."""
    bits = EVERY[logical]
    given_ = bits if kind == "unsigned" else bits.view(f"V{bits.itemsize}")
    np.save(tmp_path / "a.npy", given_)
    source, declared = Npy(str(tmp_path / "a.npy")), {"logical_dtype": logical, "batch_rows": 1000}
    through(source, NpySink(str(tmp_path / "b.npy")), **declared)
    assert (tmp_path / "b.npy").read_bytes() == (tmp_path / "a.npy").read_bytes()
    through(source, ParquetSink(str(tmp_path / "c.parquet")), **declared)
    seen: list[torch.dtype] = []

    def look(tensors: Any) -> Any:
        seen.append(tensors["data"].dtype)
        return tensors

    through(Parquet(str(tmp_path / "c.parquet")), NpySink(str(tmp_path / "d.npy")), look, batch_rows=1000)
    assert_identical(np.load(tmp_path / "d.npy"), bits)
    assert set(seen) == {getattr(torch, logical)}


def test_ml_dtypes_save_is_read_by_declaration(tmp_path: Path) -> None:
    """The values are those of ml_dtypes."""
    array = np.array([1.5, -2.0, float("nan"), 3e38], ml_dtypes.bfloat16)
    np.save(tmp_path / "a.npy", array)
    sink = NpySink(str(tmp_path / "b.npy"))
    through(Npy(str(tmp_path / "a.npy")), sink, lambda t: {"x": t["data"].float()}, logical_dtype="bfloat16")
    assert_identical(np.load(tmp_path / "b.npy").view("u4"), array.astype("f4").view("u4"))


@dataclass(frozen=True)
class Held:
    """A source of one array in memory."""

    array: Array

    def schema(self) -> Schema:
        return Schema((ArrayField("x", self.array.dtype, self.array.shape[1:]),))

    def splits(self) -> list[Split]:
        return [Split("all", "1", len(self.array))]

    def read(self, split: Split) -> Iterator[Columns]:
        yield {"x": self.array}


@pytest.mark.parametrize("logical", LOGICAL)
@pytest.mark.parametrize("carried", [False, True])
def test_arrays_of_ml_dtypes_are_known_by_their_name(logical: str, carried: bool, tmp_path: Path) -> None:
    """Their kind says void for some and float for others; every bit comes through, as a tensor and carried."""
    bits = np.arange(256, dtype=LOGICAL[logical]).reshape(128, 2)
    source: Any = Held(bits.view(getattr(ml_dtypes, logical)))
    seen: list[torch.dtype] = []

    def look(tensors: Any) -> Any:
        seen.extend(t.dtype for t in tensors.values())
        return tensors

    chosen: dict[str, Any] = {"columns": []} if carried else {}
    for sink in (NpySink(str(tmp_path / "a.npy")), NpzSink(str(tmp_path / "a.npz"))):
        through(source, sink, look, **chosen)
    through(source, ParquetSink(str(tmp_path / "a.parquet")), look, **chosen)
    assert set(seen) == (set() if carried else {getattr(torch, logical)})
    assert_identical(np.load(tmp_path / "a.npy"), bits)
    with np.load(tmp_path / "a.npz") as members:
        assert_identical(members["x"], bits)
    field = pq.read_schema(tmp_path / "a.parquet").field("x")
    assert field.metadata[b"logical_dtype"] == logical.encode()
    through(Parquet(str(tmp_path / "a.parquet")), NpySink(str(tmp_path / "b.npy")))
    assert_identical(np.load(tmp_path / "b.npy"), bits)


def test_floats_of_ml_dtypes_that_torch_lacks_are_carried_or_refused_by_name(tmp_path: Path) -> None:
    """A tensor cannot hold them; nor can a .npy file say what they are."""
    source: Any = Held(np.arange(4, dtype="u1").view(ml_dtypes.float8_e4m3))
    with pytest.raises(DTypeError, match="column 'x' is float8_e4m3: torch has no such type"):
        through(source, NpySink(str(tmp_path / "a.npy")), columns=["x"])
    with pytest.raises(DTypeError, match="column 'x' is float8_e4m3, which"):
        through(source, NpySink(str(tmp_path / "a.npy")))


@pytest.mark.parametrize(("word", "dtype"), [("bits", "u2"), ("float32", "f4")])
@pytest.mark.parametrize("suffix", [".npy", ".parquet"])
def test_a_transform_that_narrows_says_how_it_leaves(word: str, dtype: str, suffix: str, tmp_path: Path) -> None:
    """As its bits, or widened; else an error that names both words."""
    np.save(tmp_path / "a.npy", np.array([1.5, -2.25], np.float32))
    source, path = Npy(str(tmp_path / "a.npy")), str(tmp_path / f"b{suffix}")
    sink: Any = NpySink(path) if suffix == ".npy" else ParquetSink(path)
    narrow: Any = lambda t: {"x": t["data"].to(torch.bfloat16)}  # noqa: E731
    with pytest.raises(DTypeError, match="narrow_floats=float32.*narrow_floats=bits"):
        through(source, sink, narrow)
    through(source, sink, narrow, narrow_floats=word)
    found = np.load(path) if suffix == ".npy" else pq.read_table(path).column("x").to_numpy()
    expected = np.array([1.5, -2.25], ml_dtypes.bfloat16)
    assert_identical(found, expected.view("u2") if word == "bits" else expected.astype("f4"))


# ---- structured arrays -----------------------------------------------------------------------------------------------

RECORD = np.dtype([("n", "<i2"), ("x", ">f8", (2,)), ("in", [("a", "u1"), ("s", "S3"), ("deep", [("t", "M8[us]")])])])


def records() -> Array:
    """Packed: its numbers lie at odd addresses."""
    made = np.zeros(40, RECORD)
    made["n"], made["x"] = np.arange(40), random(">f8", (40, 2))
    made["in"]["a"], made["in"]["s"] = np.arange(40), [b"%d" % i for i in range(40)]
    made["in"]["deep"]["t"] = np.arange(40)
    return made


NAMES = ["n", "x", "in.a", "in.s", "in.deep.t"]


def test_fields_of_a_structured_array_are_columns_on_request(tmp_path: Path) -> None:
    """Nested ones with dots, packed or not; what no tensor holds is carried."""
    np.save(tmp_path / "a.npy", made := records())
    through(Npy(str(tmp_path / "a.npy"), fields=True), NpzSink(str(tmp_path / "b.npz")), batch_rows=7)
    with np.load(tmp_path / "b.npz") as found:
        assert list(found) == NAMES
        for name, array in zip(
            NAMES, [made["n"], made["x"], made["in"]["a"], made["in"]["s"], made["in"]["deep"]["t"]], strict=True
        ):
            assert_identical(found[name], array)


def test_fields_of_structured_members_are_columns_on_request(tmp_path: Path) -> None:
    """Under the name of their member, beside plain ones; in Parquet as in any table."""
    made = records()
    np.savez(tmp_path / "a.npz", r=made, y=np.arange(40))
    source = Npz(str(tmp_path / "a.npz"), fields=True)
    assert source.schema().names == (*(f"r.{name}" for name in NAMES), "y")
    sink = ParquetSink(str(tmp_path / "b.parquet"))
    through(source, sink, columns=["r.n", "r.x", "y"], carry=["r.in.a", "r.in.deep.t"])
    table = pq.ParquetFile(tmp_path / "b.parquet").read()
    assert table.column("r.n").to_pylist() == made["n"].tolist()
    assert_identical(table.column("r.x").combine_chunks().to_numpy_ndarray(), made["x"].astype("<f8"))


def test_a_structured_array_is_carried_whole_or_says_how_it_can_be_read(tmp_path: Path) -> None:
    """As a tensor, and in Parquet, it has no place."""
    np.save(tmp_path / "a.npy", records())
    source = Npy(str(tmp_path / "a.npy"))
    through(source, NpySink(str(tmp_path / "b.npy")))
    assert (tmp_path / "b.npy").read_bytes() == (tmp_path / "a.npy").read_bytes()
    with pytest.raises(DTypeError, match="column 'data'.*source.fields=true"):
        through(source, NpySink(str(tmp_path / "c.npy")), columns=["data"])
    with pytest.raises(DTypeError, match="column 'data'.*source.fields=true"):
        through(source, ParquetSink(str(tmp_path / "c.parquet")))


def test_fields_of_one_name_are_refused(tmp_path: Path) -> None:
    """Dots make two of them the same."""
    np.save(tmp_path / "a.npy", np.zeros(3, [("a.b", "i4"), ("a", [("b", "i4")])]))
    with pytest.raises(DataError, match=r"a\.npy.*columns of one name"):
        Npy(str(tmp_path / "a.npy"), fields=True).schema()
    np.savez(tmp_path / "a.npz", **{"a.b": np.zeros(3), "a": np.zeros(3, [("b", "i4")])})  # type: ignore[arg-type]
    with pytest.raises(DataError, match=r"both called 'a\.b'"):
        Npz(str(tmp_path / "a.npz"), fields=True).schema()


@pytest.mark.parametrize("dtype", [">f4", "?", "c8", "M8[D]", "S3", [("a", "i4"), ("b", "f8")]])
@pytest.mark.parametrize("chosen", [None, []])
def test_a_single_value_is_a_row_and_comes_back_without_an_axis(dtype: Any, chosen: Any, tmp_path: Path) -> None:
    """A 0-d array travels as a batch of one, as a tensor where it can or carried."""
    one = random(dtype, (1,)).reshape(())
    np.save(tmp_path / "a.npy", one)
    np.savez(tmp_path / "a.npz", x=one, y=np.ones(1))
    through(Npy(str(tmp_path / "a.npy")), NpySink(str(tmp_path / "b.npy")), columns=chosen)
    assert (tmp_path / "b.npy").read_bytes() == (tmp_path / "a.npy").read_bytes()
    through(Npz(str(tmp_path / "a.npz")), NpzSink(str(tmp_path / "b.npz")), columns=chosen)
    with np.load(tmp_path / "b.npz") as members:
        assert_identical(members["x"], one)
        assert members["y"].shape == (1,)


def test_a_single_value_that_gets_rows_gets_an_axis(tmp_path: Path) -> None:
    """In Parquet, where the transform repeats it, and where it gives it a shape."""
    np.save(tmp_path / "a.npy", np.float32(3))
    source = Npy(str(tmp_path / "a.npy"))
    through(source, ParquetSink(str(tmp_path / "b.parquet")))
    assert pq.read_table(tmp_path / "b.parquet").column("data").to_pylist() == [3]
    twice: Any = lambda t: Output({"data": t["data"].repeat(2)}, rows=torch.zeros(2 * len(t["data"])).long())  # noqa: E731
    for name, make, shape in (("c", twice, (2,)), ("d", lambda t: {"data": t["data"][:, None]}, (1, 1))):
        through(source, NpySink(str(tmp_path / f"{name}.npy")), make)
        assert_identical(np.load(tmp_path / f"{name}.npy"), np.full(shape, 3, np.float32))
