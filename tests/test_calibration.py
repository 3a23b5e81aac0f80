"""The size of batches is tried where the result does not depend on it, and shows in nothing but words and speed."""

from __future__ import annotations

import json
import logging
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch

from pipeline.calibration import Trial, best
from pipeline.check.checks import parse
from pipeline.core import Tensors, Transform
from pipeline.device.cpu import Cpu
from pipeline.engine.local import Local
from pipeline.errors import ConfigError
from pipeline.manifest import read_manifest
from pipeline.run import Options, plan
from pipeline.sink.parquet import Parquet
from pipeline.transform.compose import Compose
from pipeline.transform.standardize import Standardize
from tests.fakes import Rows, run_rows, same, table
from tests.test_run import digests

AUTO: dict[str, Any] = {"batch_rows": None, "batch_bytes": None, "columns": ["x"]}


def wide(rows: int = 3000) -> pa.Table:
    """Rows of 4 kB, of which some sizes of batches have several in a split."""
    values = pa.array(np.arange(rows * 1024, dtype=np.float32))
    return pa.table({"x": pa.FixedSizeListArray.from_arrays(values, 1024), "id": pa.array(np.arange(rows))})


@dataclass(frozen=True)
class Doubled:
    """Sees the size of each batch."""

    rowwise: bool | None = True
    sizes: list[int] = field(default_factory=list)

    def __call__(self, tensors: Tensors) -> Tensors:
        self.sizes.append(len(tensors["x"]))
        return {"x": tensors["x"] * 2}


def test_sizes_are_tried_and_the_output_is_the_same(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The log says what was found, the report too; the parts are those of a run with a fixed size."""
    caplog.set_level(logging.INFO, "pipeline")
    source, doubled = Rows(wide(), splits_of=1500, chunk=1000), Doubled()
    run_rows(source, doubled, tmp_path / "a", **AUTO)
    run_rows(source, Doubled(), tmp_path / "b", columns=["x"])
    assert digests(tmp_path / "a") == digests(tmp_path / "b")
    assert read_manifest(tmp_path / "a")["rows"] == 3000
    report = json.loads((tmp_path / "a/_pipeline/report.json").read_text())
    tried = [trial["rows"] for trial in report["batch_trials"]]
    assert tried == [256, 512, 1024, 2048][: len(tried)]  # the last one takes a split whole; a slow machine tries fewer
    assert report["batch_rows"] in tried
    assert report["rows_in"] == 3000
    assert set(tried) & set(doubled.sizes)
    assert f"batch.bytes=auto: batches of {report['batch_rows']:,} rows" in caplog.text
    assert run_rows(source, Doubled(), tmp_path / "a", columns=["x"])["state"] == "nothing to do"


def test_nothing_is_tried_when_there_is_nothing_to_do(tmp_path: Path) -> None:
    """Nor when the rows of a batch are given."""
    run_rows(Rows(table()), Doubled(), tmp_path / "a", **AUTO)
    again = Doubled()
    assert run_rows(Rows(table()), again, tmp_path / "a", **AUTO)["state"] == "nothing to do"
    assert sum(again.sizes) == 0
    given = Doubled()
    run_rows(Rows(table()), given, tmp_path / "b", **{**AUTO, "batch_rows": 16})
    assert max(given.sizes) == 16


def test_short_splits_are_tried_as_they_are(tmp_path: Path) -> None:
    """One batch each, also after what learns from the data, with checks that remember rows, and one of no rows."""
    fitted = Compose([Standardize(["x"])])
    asked = parse({"input": [{"column": "id", "unique": True}, {"column": "id", "min": 5, "action": "quarantine"}]})
    summary = run_rows(Rows(table()), fitted, tmp_path / "a", **AUTO, checks=asked)
    assert (summary["rows"], summary["quarantined"]) == (245, 5)
    assert run_rows(Rows(table(0)), Doubled(), tmp_path / "b", **AUTO)["rows"] == 0


@pytest.mark.parametrize(
    "transform", [same, Doubled(None), Doubled(rowwise=False), Compose([Standardize(["x"]), same])]
)
def test_what_does_not_say_that_it_is_rowwise_is_refused(tmp_path: Path, transform: Transform) -> None:
    """Its output might depend on the size; nothing is written."""
    with pytest.raises(
        ConfigError, match=r"batch.bytes=auto tries .* does not say .*batch.bytes or batch.rows a number"
    ):
        run_rows(Rows(table()), transform, tmp_path / "a", **AUTO)
    assert not (tmp_path / "a").exists()


def test_random_numbers_are_refused_whatever_a_transform_says(tmp_path: Path) -> None:
    """Which rows get which would hang on the clock."""

    def noisy(tensors: Tensors) -> Tensors:
        return {"x": tensors["x"] + torch.rand(len(tensors["x"]))}

    noisy.rowwise = True  # type: ignore[attr-defined]
    with pytest.raises(ConfigError, match=r"batch.bytes=auto: the transform draws random numbers"):
        run_rows(Rows(table()), noisy, tmp_path / "a", **AUTO)
    assert digests(tmp_path / "a") == {}


def test_a_device_that_is_full_ends_the_trials(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The largest size for which there was room is the largest that counts."""

    def small(tensors: Tensors) -> Tensors:
        if len(tensors["x"]) > 600:
            raise torch.OutOfMemoryError("planned: no room")
        return {"x": tensors["x"] * 2}

    small.rowwise = True  # type: ignore[attr-defined]
    caplog.set_level(logging.INFO, "pipeline")
    run_rows(Rows(wide(), splits_of=3000, chunk=1000), small, tmp_path / "a", **AUTO)
    tried = re.findall(r"(?:: |, )(\d+): ", next(m for m in caplog.messages if "batch.bytes=auto" in m))
    assert set(tried) <= {"256", "512"}


def test_the_plan_says_auto(tmp_path: Path) -> None:
    """And what a run without the trial would take; no row is read for it."""
    options = Options(columns=["x"], batch_bytes=None)
    sink = Parquet(str(tmp_path / "out"))
    source: Any = Rows(table())
    text = plan(source=source, transform=Doubled(), sink=sink, engine=Local(), device=Cpu(), options=options)
    assert re.search(
        r"^batches +auto, found by a trial at the start of a run; without it at most 1,048,576 rows", text, re.MULTILINE
    )


def test_of_two_sizes_that_are_about_as_quick_the_smaller_is_taken() -> None:
    """It needs less memory."""
    trials = [Trial(1, 50.0), Trial(2, 98.0), Trial(4, 100.0), Trial(8, 90.0)]
    assert best(trials).rows == 2
