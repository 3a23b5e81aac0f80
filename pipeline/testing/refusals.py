"""The cases in which a stage stops instead of changing a value, and what a transform may return: as tables."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from pipeline.core import ArrayField, Column, Field, Sink
from pipeline.errors import ConfigError, DTypeError, PipelineError, TransformError
from pipeline.sink.npy import Npy
from pipeline.sink.parquet import Parquet
from pipeline.testing.memory import Memory, through

Function = Callable[[Any], Any]


def _same(tensors: Any) -> Any:
    return tensors


@dataclass(frozen=True)
class Refusal:
    """One case.

    Attributes:
        case: what happens, in words.
        columns: of the input.
        keys: of ``conversion``.
        select: of ``columns``.
        error: class of the error.
        words: what the message must say, in order.
        transform: if it is not identity.
        numpy: the output goes to .npy, not to Parquet.
        nullable: of the fields.
    """

    case: str
    columns: Mapping[str, Column]
    error: type[PipelineError]
    words: Sequence[str]
    keys: Mapping[str, Any] = field(default_factory=dict)
    select: Any = None
    transform: Function = _same
    numpy: bool = False
    nullable: bool = True

    def message(self) -> str:
        """What the stage says.

        Raises:
            AssertionError: it does not stop.
        """
        fields = tuple(self._field(name, column) for name, column in self.columns.items())
        sink: Sink = Npy("out.npy") if self.numpy else Parquet("out.parquet")
        try:
            through(
                Memory(fields, [dict(self.columns)]), self.transform, sink, self.keys, typed=True, columns=self.select
            )
        except self.error as e:
            return str(e)
        raise AssertionError(f"not refused: {self.case}")

    def _field(self, name: str, column: Column) -> Field:
        if isinstance(column, np.ndarray):
            return ArrayField(name, column.dtype, column.shape[1:])
        return pa.field(name, column.type, self.nullable)


# ---- refusals --------------------------------------------------------------------------------------------------------


def _add_one(tensors: Any) -> Any:
    return {name: t + 1 for name, t in tensors.items()}


def _in_place(tensors: Any) -> Any:
    return {name: t.add_(1) for name, t in tensors.items()}


def _write_later(tensors: Any) -> Any:
    """Writes in place, but not on zero rows."""
    return {name: t.add_(1) if len(t) else t for name, t in tensors.items()}


def _narrow(tensors: Any) -> Any:
    return {name: t.to(torch.bfloat16) for name, t in tensors.items()}


_HOLES = {"x": pa.array([1, None, 3])}
_CODES = pa.DictionaryArray.from_arrays(pa.array([0, 1], pa.int8()), pa.array(["a", "b"]))
_HOLED_LISTS = pa.array([[1, 2], None, [3, None]], pa.list_(pa.int64(), 2))

REFUSALS: tuple[Refusal, ...] = (
    Refusal(
        "nulls, and the transform takes no masks", _HOLES, DTypeError, ["'x' has 1 nulls", "nulls=mask", "nulls=fill"]
    ),
    Refusal(
        *(
            "nulls on their way to a NumPy file",
            _HOLES,
            DTypeError,
            ["'x' holds 1 nulls", "nulls=fill", "sink=parquet"],
        ),
        keys={"nulls": "mask"},
        numpy=True,
    ),
    Refusal(
        *("a value to fill with that the type lacks", _HOLES, DTypeError, ["fill_value 0.5 is no int64", "'x'"]),
        keys={"nulls": "fill", "fill_value": 0.5},
    ),
    Refusal(
        *("null elements inside of lists", {"x": _HOLED_LISTS}, DTypeError),
        words=["'x' has null elements inside its lists", "first in row 2", "1 rows", "carried along"],
        keys={"nulls": "mask"},
    ),
    Refusal(
        *("columns with nulls stacked to a matrix", {"x": pa.array([1, None]), "y": pa.array([1, 2])}, DTypeError),
        words=["'x', stacked into 'm', has 1 nulls", "nulls=fill"],
        keys={"nulls": "mask"},
        select={"m": ["x", "y"]},
    ),
    Refusal(
        *("columns of several dtypes stacked", {"x": pa.array([1]), "y": pa.array([1.5])}, DTypeError),
        words=["'y' is float64, 'x' is int64", "never promoted", "mixed_dtypes=group"],
        select={"m": ["x", "y"]},
    ),
    Refusal(
        *("a cast that was not allowed", {"x": pa.array([1.5])}, ConfigError),
        words=["dtype=float32 for column 'x'", "cast=no does not allow", "same_kind would"],
        keys={"dtype": "float32"},
    ),
    Refusal(
        *("a value that a cast would change", {"x": pa.array([1, 2**53 + 1])}, DTypeError),
        words=["column 'x': value 9007199254740993 in row 1", "is no float64", "cast_check"],
        keys={"dtype": "float64", "cast": "unsafe"},
    ),
    Refusal(
        *("uint64 beyond int64 when widened", {"x": pa.array([2**64 - 1], pa.uint64())}, DTypeError),
        words=["column 'x': value 18446744073709551615 in row 0", "is no int64"],
        keys={"unsigned": "widen"},
    ),
    Refusal(
        *("a result that the stored type cannot hold", {"x": pa.array([65535], pa.uint16())}, DTypeError),
        words=["column 'x' is stored as uint16 and the transform returned int32", "value 65536"],
        keys={"unsigned": "widen"},
        transform=_add_one,
    ),
    Refusal(
        *("more digits than a decimal has", {"x": pa.array([99999], pa.int32()).view(pa.decimal32(5, 2))}, DTypeError),
        words=["column 'x' is decimal32(5, 2)", "100000 in row 0", "Return another dtype"],
        select=["x"],
        transform=_add_one,
    ),
    Refusal(
        *("a time beyond the day", {"x": pa.array([86399], pa.int32()).view(pa.time32("s"))}, DTypeError),
        words=["column 'x' is time32[s]", "0..86399", "86400 in row 0"],
        select=["x"],
        transform=_add_one,
    ),
    Refusal(
        *("codes that are not in the dictionary", {"x": _CODES}, DTypeError),
        words=["column 'x': the transform returned codes 1..2; the dictionary has 2 words"],
        keys={"dictionary": "codes"},
        select=["x"],
        transform=_add_one,
    ),
    Refusal(
        *("a column chosen by name that no tensor holds", {"x": pa.array(["a"])}, DTypeError),
        words=["column 'x' is string", "carried along"],
        select=["x"],
    ),
    Refusal(
        *("writing in place into memory that is to be shared", {"x": pa.array([1.5])}, ConfigError),
        words=["writes in place", "memory=share forbids", "auto or copy"],
        keys={"memory": "share"},
        transform=_in_place,
    ),
    Refusal(
        *("sharing memory of a type that needs a copy", {"x": pa.array([True])}, ConfigError),
        words=["column 'x' needs a copy (bits unpacked)", "memory=share forbids", "use auto"],
        keys={"memory": "share"},
    ),
    Refusal(
        *("sharing memory that lies as no tensor can", {"x": np.arange(4)[::-1]}, DTypeError),
        words=["column 'x' needs a copy (strides, alignment", "memory=share forbids", "use auto"],
        keys={"memory": "share"},
    ),
    Refusal(
        *("a value to fill into words, lists, decimals, bfloat16", {"x": pa.array([None], pa.decimal64(5, 2))}),
        *(ConfigError, ["nulls=fill has no value for the unscaled decimals of column 'x'", "mask"]),
        keys={"nulls": "fill"},
        select=["x"],
    ),
    Refusal(
        *("a dtype beside a logical one", {"x": np.array([1], np.uint16)}, ConfigError),
        words=["'x': conversion.logical_dtype=bfloat16", "leave conversion.dtype out"],
        keys={"logical_dtype": "bfloat16", "dtype": "float32"},
    ),
    Refusal(
        *("strings of variable width on their way to Parquet", {"x": np.array(["a"], np.dtypes.StringDType())}),
        *(DTypeError, ["column 'x' is StringDType", "which Arrow and Parquet cannot hold"]),
    ),
    Refusal(
        *("writing in place on some batches only", {"x": pa.array([1.5])}, TransformError),
        words=["wrote into column 'x'", "memory=copy"],
        transform=_write_later,
    ),
    Refusal(
        *("bfloat16 or float8 that a transform makes", {"x": pa.array([1.5], pa.float32())}, DTypeError),
        words=["'x'", "bfloat16", "narrow_floats=float32", "narrow_floats=bits"],
        transform=_narrow,
    ),
    Refusal(
        *("a masked array from a source of your own", {"x": np.ma.masked_array([1, 2], [True, False])}, DTypeError),
        words=["'x' is a masked array", "pyarrow array with nulls"],
    ),
    Refusal(
        *("complex numbers on their way to Parquet", {"x": np.array([1j])}, DTypeError),
        words=["'x' is complex128", "sink.complex=pairs"],
    ),
    Refusal(
        *(
            "a type that Parquet would change",
            {"x": pa.array([1.5]), "t": pa.nulls(0, pa.run_end_encoded(pa.int32(), pa.int8()))},
            DTypeError,
        ),
        words=["column 't' is run_end_encoded", "which Parquet cannot hold", "carry"],
        select=["x"],
    ),
    Refusal(
        *("a type that NumPy lacks on its way to .npy", {"x": pa.array([1], pa.date32())}, DTypeError),
        words=["column 'x' is date32[day], which a NumPy file cannot hold without loss", "carry=none", "sink=parquet"],
        numpy=True,
    ),
    Refusal(
        *("nulls in a column that is declared without them", _HOLES, DTypeError),
        words=["column 'x' is declared without nulls and would hold 1"],
        keys={"nulls": "mask"},
        nullable=False,
    ),
)


# ---- what a transform may return -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Returned:
    """What a transform may make of a float32 column, and what becomes of it.

    Attributes:
        stored: type in Parquet, or "" if it is refused.
        words: what the error must say.
    """

    case: str
    make: Callable[[Tensor], Any]
    stored: str = ""
    error: type[PipelineError] = TransformError
    words: str = ""

    def column(self) -> pa.Array:
        """The column of the output for three rows."""
        source = Memory((pa.field("x", pa.float32()),), [{"x": pa.array([1.5, -0.0, 3.0], pa.float32())}])
        found = through(source, lambda t: {"x": self.make(t["x"])}, Parquet("x.parquet"), {}, typed=True)["x"]
        assert isinstance(found, pa.Array)
        return found

    def message(self) -> str:
        """What the stage says if it is refused.

        Raises:
            AssertionError: it is not.
        """
        try:
            self.column()
        except self.error as e:
            return str(e)
        raise AssertionError(f"not refused: {self.case}")


def _lists(tensor: Tensor) -> Tensor:
    """One element in each row."""
    return torch.nested.nested_tensor_from_jagged(tensor.clone(), torch.arange(len(tensor) + 1))


RETURNED: tuple[Returned, ...] = (
    Returned("its input, or a view of it", lambda t: t[:], "float"),
    Returned("another dtype, the same for all batches", lambda t: t.double(), "double"),
    Returned("rows with a shape", lambda t: torch.stack([t, t], 1), "fixed_shape_tensor[value_type=float, shape=[2]]"),
    Returned("a tensor that is not contiguous", lambda t: torch.stack([t, t], 1)[:, 1], "float"),
    Returned("one value repeated (`expand`)", lambda t: torch.ones(1).expand(len(t)), "float"),
    Returned("a tensor that requires gradients", lambda t: t.clone().requires_grad_(), "float"),
    Returned("the conjugate bit set", lambda t: torch.complex(t, t).conj().abs(), "float"),
    Returned("the negative bit set", lambda t: torch.complex(t, t).conj().imag, "float"),
    Returned("complex numbers", lambda t: torch.complex(t, t), error=DTypeError, words="sink.complex=pairs"),
    Returned("bfloat16, float8", lambda t: t.bfloat16(), error=DTypeError, words="conversion.narrow_floats=float32"),
    Returned("a sparse tensor", lambda t: t.to_sparse(), words="torch.sparse_coo tensor; return a dense one"),
    Returned("lists of any length (`torch.jagged`)", _lists, "list<item: float>"),
    Returned("a tensor on another device", lambda t: t.to("meta"), words="a meta tensor"),
    Returned("a single value", lambda t: t.sum(), words="returned a 0-d tensor"),
    Returned("fewer rows, without `Output(rows=...)`", lambda t: t[1:], words=r"returns Output(tensors, rows=...)"),
    Returned(
        "a dtype that depends on the data", lambda t: t if len(t) else t.double(), words="on zero rows it returned"
    ),
    Returned("no tensor", lambda t: t.numpy(), words="not a tensor"),
)
