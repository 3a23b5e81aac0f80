"""The check of the stage on a user's own input: what it lets pass, and what it catches."""

from __future__ import annotations

import itertools
import json
import logging
import math
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
import torch

from pipeline.__main__ import main
from pipeline.core import Columns, Device, Output, Schema, Task, Tensors, Transform
from pipeline.device.cpu import Cpu
from pipeline.engine.local import Local
from pipeline.errors import DataError, DTypeError, TransformError
from pipeline.run import Options
from pipeline.sink.npy import Npy
from pipeline.sink.npz import Npz
from pipeline.sink.parquet import Parquet, ParquetWriter
from pipeline.transform.identity import Identity
from pipeline.transform.standardize import Standardize
from pipeline.verdict import Limits, Verdict
from pipeline.verify import verify
from tests.fakes import Rows, conversion, run_rows, same, table

NUMBERS = ["id", "x"]


def verified(
    source: Any,
    transform: Transform,
    out: Path,
    *,
    sink: Any = None,
    device: Device | None = None,
    limits: Limits | None = None,
    other: Device | None = None,
    **options: Any,
) -> Verdict:
    """The verdict on a stage with a fake source."""
    return verify(
        source=source,
        transform=transform,
        sink=sink or Parquet(str(out / "out")),
        engine=Local(),
        device=device or Cpu(),
        options=replace(Options(batch_rows=16, progress="none"), conversion=conversion(options), **options),
        limits=limits,
        other=other,
    )


def checks(verdict: Verdict) -> list[str]:
    """Names of the comparisons that were made."""
    return [check.name for check in verdict.checks if not check.skipped]


# ---- what is well ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["out", "out.parquet"])
def test_a_good_stage_is_verified_and_nothing_is_written(tmp_path: Path, name: str) -> None:
    """Every column, carried ones too, with nulls; the output's path stays empty, and nothing temporary is left."""
    before = set(Path(tempfile.gettempdir()).glob("pipeline-verify-*"))
    verdict = verified(Rows(table()), Identity(), tmp_path, sink=Parquet(str(tmp_path / name)))
    assert verdict.settle()["state"] == "verified"
    assert list(verdict.identity.columns) == table().column_names
    assert checks(verdict) == ["again", "5 rows a batch"]
    assert "read again as Parquet" in verdict.head["identity"]
    assert list(tmp_path.iterdir()) == []
    assert set(Path(tempfile.gettempdir()).glob("pipeline-verify-*")) == before


def test_folders_named_after_values_come_back(tmp_path: Path) -> None:
    """Rows of the input are matched with those of the folders."""
    keys = pa.array([None if i % 11 == 0 else f"a/b {i % 3}" for i in range(250)])
    key = pa.field("key", pa.string(), metadata={"text": "of which folders know nothing"})
    rows = Rows(table().append_column(key, keys).append_column("k", pa.array([i % 2 == 0 for i in range(250)])))
    verdict = verified(
        rows, same, tmp_path, sink=Parquet(str(tmp_path / "out"), partition_by=["key", "k"]), columns=["x"]
    )
    assert "read again" in verdict.head["identity"]
    assert verdict.settle()["state"] == "verified"


@pytest.mark.parametrize("sink", [Npy("x.npy"), Npy("x"), Npz("x.npz"), Npz("x")])
def test_other_formats_are_read_again_too(tmp_path: Path, sink: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Columns that were stacked are compared one by one."""
    monkeypatch.chdir(tmp_path)
    rows = table().append_column("y", pa.array(np.arange(250, dtype=np.float32) * -0.0))
    verdict = verified(Rows(rows), same, tmp_path, sink=sink, columns={"f": ["x", "y"]}, carry="none")
    assert "read again as Np" in verdict.head["identity"]
    assert list(verdict.identity.columns) == ["x", "y"]
    assert verdict.settle()["state"] == "verified"


def test_a_transform_that_learns_uses_the_sample_or_what_is_kept(tmp_path: Path) -> None:
    """And says which."""
    learner = Standardize(columns=["x"])
    assert "learned from the sample" in verified(Rows(table()), learner, tmp_path, columns=NUMBERS).head["transform"]
    run_rows(Rows(table()), learner, tmp_path / "out", columns=NUMBERS)
    verdict = verified(Rows(table()), learner, tmp_path, columns=NUMBERS)
    assert "kept beside the output" in verdict.head["transform"]
    assert verdict.settle()["state"] == "verified"
    changed = Rows(table(), versions={0: "2"})
    assert "learned from the sample" in verified(changed, learner, tmp_path, columns=NUMBERS).head["transform"]


def test_declared_fills_are_no_loss(tmp_path: Path) -> None:
    """Nulls that the user asked to be filled are compared with what fills them."""
    verdict = verified(Rows(table()), same, tmp_path, columns=["n"], nulls="fill", fill_value=-1)
    assert verdict.settle()["state"] == "verified"


def test_a_sink_that_the_input_does_not_suit_is_left_out(tmp_path: Path) -> None:
    """The transform may leave what it can take; the check says that nothing was read again."""

    def total(tensors: Tensors) -> Tensors:
        return {"sum": tensors["id"] + tensors["x"]}

    verdict = verified(Rows(table()), total, tmp_path, sink=Npy(str(tmp_path / "x.npy")), columns=NUMBERS, carry="none")
    assert "not written" in verdict.head["identity"]
    assert "a .npy file holds one column" in verdict.head["identity"]
    assert verdict.settle()["state"] == "verified"


def test_rows_that_move_and_no_rows_at_all(tmp_path: Path) -> None:
    """A selection is compared like all else."""

    def odd(tensors: Tensors) -> Output:
        keep = tensors["id"] % 2 == 1
        return Output({name: t[keep] for name, t in tensors.items()}, keep)

    for rows in (250, 1, 0):
        assert verified(Rows(table(rows)), odd, tmp_path, columns=NUMBERS).settle()["state"] == "verified"


def test_rounding_within_the_tolerance_is_reported(tmp_path: Path) -> None:
    """A sum over the batch may round in another way; how far apart is in the table and in the facts."""

    def nearly(tensors: Tensors) -> Tensors:
        return {"x": tensors["x"] * 0 + 1 + 5e-7 * len(tensors["x"])}

    verdict = verified(Rows(table()), nearly, tmp_path, columns=["x"])
    (found,) = [check.columns["x"] for check in verdict.checks if check.name == "5 rows a batch"]
    assert 4e-6 < (found.absolute or 0) < 7e-6
    assert f"abs {found.absolute:.3g}, rel {found.relative:.3g}" in verdict.text()
    assert verdict.settle()["transform"][1]["differing"]["x"]["within"] is True
    with pytest.raises(TransformError, match="verify.rtol=1e-09"):
        verified(Rows(table()), nearly, tmp_path, columns=["x"], limits=Limits(rtol=1e-9)).settle()


# ---- what is caught: identity ----------------------------------------------------------------------------------------


def test_a_cast_without_a_check_is_caught(tmp_path: Path) -> None:
    """The configuration allows it and nothing complains while it runs."""
    rows = Rows(pa.table({"n": [0.5, 0.1]}))
    verdict = verified(rows, same, tmp_path, dtype="float32", cast="same_kind", cast_check="off")
    with pytest.raises(DataError, match=r"'n' \(row 1: 0.1 became 0.10000000149") as e:
        verdict.settle()
    assert e.value.code == 65
    assert e.value.facts["identity"]["differing"]["n"]["absolute"] == pytest.approx(1.5e-9, rel=0.1)
    assert "DIFFERS" in verdict.text()


class Holes(ParquetWriter):
    """Writes 0 for null."""

    def write(self, columns: Columns) -> None:
        super().write({name: c.fill_null(0) if name == "n" else c for name, c in columns.items()})


@dataclass(frozen=True)
class LosesNulls(Parquet):
    """A sink with a fault."""

    def open(self, task: Task, schema: Schema) -> ParquetWriter:
        writer = super().open(task, schema)
        writer.__class__ = Holes
        return writer


def test_a_sink_that_loses_nulls_is_caught(tmp_path: Path) -> None:
    """What is compared was read from the file."""
    with pytest.raises(DataError, match=r"'n' \(row 3: None became 0.0\)"):
        verified(Rows(table()), same, tmp_path, sink=LosesNulls(str(tmp_path / "out")), columns=NUMBERS).settle()


@dataclass(frozen=True)
class Forgets(Parquet):
    """A sink that keeps neither metadata nor nullability."""

    def accept(self, schema: Schema) -> Schema:
        return Schema(tuple(pa.field(f.name, f.type) for f in super().accept(schema).fields))


def test_lost_metadata_is_caught(tmp_path: Path) -> None:
    """Of the table and of columns, with what is not nullable."""
    fields = [pa.field("a", pa.int64(), metadata={"unit": "m"}), pa.field("b", pa.int64(), nullable=False)]
    rows = Rows(pa.table([[1], [2]], pa.schema(fields, metadata={"made": "here"})))
    verdict = verified(rows, same, tmp_path, sink=Forgets(str(tmp_path / "out")))
    assert [found.what for found in verdict.identity.bad.values()] == [
        "metadata of the column: unit became nothing",
        "pyarrow.Field<b: int64 not null> became pyarrow.Field<b: int64>",
        "metadata of the table: made became nothing",
    ]
    assert verified(rows, same, tmp_path).identity.bad == {}


def test_nulls_that_the_run_would_refuse_are_refused(tmp_path: Path) -> None:
    """With the error of the run."""
    with pytest.raises(DTypeError, match="conversion.nulls=mask"):
        verified(Rows(table()), same, tmp_path, columns=["n"])


# ---- what is caught: the transform -----------------------------------------------------------------------------------


def centred(tensors: Tensors) -> Tensors:
    """Depends on the batch."""
    return {"x": tensors["x"] - tensors["x"].mean()}


class Apart(torch.nn.Module):
    """The same, and says so."""

    rowwise = False

    def forward(self, tensors: Tensors) -> Tensors:
        return centred(tensors)


def test_a_transform_that_depends_on_its_batch_is_caught(tmp_path: Path) -> None:
    """With the way out; one that says that it is not row-wise is not asked."""
    verdict = verified(Rows(table()), centred, tmp_path, columns=["x"])
    with pytest.raises(TransformError, match=r"5 rows a batch: 'x' .*rowwise=False if that is meant") as e:
        verdict.settle()
    assert e.value.code == 70
    apart = verified(Rows(table()), Apart(), tmp_path, columns=["x"])
    assert checks(apart) == ["again"]
    assert "not row-wise" in apart.text()
    assert apart.settle()["state"] == "verified"


def test_a_function_says_that_it_is_not_row_wise(tmp_path: Path) -> None:
    """By an attribute."""

    def whole(tensors: Tensors) -> Tensors:
        return centred(tensors)

    whole.rowwise = False  # type: ignore[attr-defined]
    assert verified(Rows(table()), whole, tmp_path, columns=["x"]).settle()["state"] == "verified"


def test_chance_is_caught(tmp_path: Path) -> None:
    """Torch's random numbers are fixed by the seed; others are not."""
    counter = itertools.count()

    def noisy(tensors: Tensors) -> Tensors:
        return {"x": tensors["x"] + next(counter)}

    def seeded(tensors: Tensors) -> Tensors:
        return {"x": tensors["x"] + torch.rand(())}

    seeded.rowwise = False  # type: ignore[attr-defined]
    with pytest.raises(TransformError, match=r"again: 'x' .*run\.seed"):
        verified(Rows(table()), noisy, tmp_path, columns=["x"]).settle()
    assert verified(Rows(table()), seeded, tmp_path, columns=["x"]).settle()["state"] == "verified"


@dataclass(frozen=True)
class Elsewhere(Cpu):
    """Another device, on which a transform can tell that it is there."""

    name = "meta"


@dataclass
class Biased:
    """Rounds in another way on another device."""

    by: float
    bias: float = 0.0

    def setup(self, device: str) -> None:
        self.bias = self.by if device == "meta" else 0.0

    def __call__(self, tensors: Tensors) -> Tensors:
        if self.bias == math.inf:
            raise ValueError("no such operation here")
        return {"x": tensors["x"] * (1 + self.bias)}


def test_another_device_is_compared(tmp_path: Path) -> None:
    """On a copy of its own; one that cannot run the transform is reported, not held against it."""
    good = verified(Rows(table()), Biased(1e-6), tmp_path, columns=["x"], other=Elsewhere())
    assert checks(good)[-1] == "on meta"
    assert good.checks[-1].columns["x"].absolute not in (0.0, None)
    assert good.settle()["state"] == "verified"
    with pytest.raises(TransformError, match=r"on meta: 'x' .*raise the tolerance"):
        verified(Rows(table()), Biased(1e-3), tmp_path, columns=["x"], other=Elsewhere()).settle()
    without = verified(Rows(table()), Biased(math.inf), tmp_path, columns=["x"], other=Elsewhere())
    assert "no such operation here" in without.text()
    assert without.settle()["state"] == "verified"


@pytest.mark.parametrize("width", [0, 2])
def test_bfloat16_is_compared_as_numbers(tmp_path: Path, width: int) -> None:
    """It is stored as integers, which would not say how far apart two of them are. Nulls are no numbers."""
    bits = pa.array(torch.arange(1, 51).to(torch.bfloat16).view(torch.uint16).numpy())
    mask = pa.array([i == 7 for i in range(len(bits) // max(1, width))])
    column = pa.FixedSizeListArray.from_arrays(bits, width, mask=mask) if width else pc.if_else(mask, None, bits)
    rows = Rows(pa.table({"x": column}))

    def nearly(tensors: Tensors) -> Tensors:
        return {"x": tensors["x"] * (1 + len(tensors["x"]) / 1000)}

    loose = verified(rows, nearly, tmp_path, logical_dtype="bfloat16", nulls="mask", limits=Limits(rtol=0.03))
    assert loose.settle()["state"] == "verified"
    assert 0 < (loose.checks[1].columns["x"].relative or 0) < 0.03
    with pytest.raises(TransformError):
        verified(rows, nearly, tmp_path, logical_dtype="bfloat16", nulls="mask").settle()


# ---- the front door --------------------------------------------------------------------------------------------------


CODE = """
def twice(tensors):
    return {name: t * 2 for name, t in tensors.items()}

def centred(tensors):
    return {name: t - t.mean() for name, t in tensors.items()}
"""

Front = Callable[..., tuple[int, list[str], str]]


@pytest.fixture
def front(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Iterator[Front]:
    """Call the front door in a user's folder: exit code, lines of stdout, text of stderr."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(sys.modules, "usercode", raising=False)
    np.save("x.npy", np.linspace(0, 1, 100))
    Path("my_conf/transform").mkdir(parents=True)
    Path("my_conf/transform/mine.yaml").write_text("_target_: usercode.twice\n")
    Path("usercode.py").write_text(CODE)
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    given = ("--config-dir=my_conf", "transform=mine", "source=npy", "source.path=x.npy", "device=cpu")

    def call(*args: str) -> tuple[int, list[str], str]:
        capfd.readouterr()
        code = main([*given, "action=verify", *args])
        out, err = capfd.readouterr()
        return code, out.splitlines(), err

    yield call
    root.handlers[:], root.level = handlers, level


def test_the_command_prints_a_table_and_one_line_of_json(front: Front) -> None:
    """And writes nothing."""
    code, out, err = front("sink=npy", "sink.path=y.npy", "verify.rows=60", "verify.splits=3")
    assert (code, err) == (0, "")
    assert any(line.split() == ["input", "column", "stored", "as", "identity"] for line in out)
    summary = json.loads(out[-1])
    assert (summary["state"], summary["rows"], summary["splits"]) == ("verified", 60, 3)
    assert {path.name for path in Path().iterdir()} <= {"x.npy", "my_conf", "usercode.py", "__pycache__"}


@pytest.mark.parametrize(
    ("override", "code", "words"),
    [
        ("transform._target_=usercode.centred", 70, "the transform differs"),
        ("conversion={dtype: float16, cast: same_kind, cast_check: 'off'}", 65, "identity does not give back"),
        ("verify.rowz=3", 2, "did you mean 'verify.rows'"),
        ("verify.splits=0", 2, "verify.splits must be at least 1; got 0"),
        ("verify.rtol=-1", 2, "verify.rtol must be at least 0"),
    ],
)
def test_what_is_wrong_has_its_exit_code(front: Front, override: str, code: int, words: str) -> None:
    """The table and the facts are there all the same if there was something to compare."""
    found, out, err = front(override)
    assert found == code
    assert words in err
    summary = json.loads(out[-1])
    assert (summary["state"], summary["code"]) == ("failed", code)
    if code != 2:
        assert any("DIFFERS" in line for line in out[:-1])
        assert summary["rows"] == 100
