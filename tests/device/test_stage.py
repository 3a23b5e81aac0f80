"""The whole stage over the CUDA device, with a runtime that delays every copy as long as it may."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from pipeline.core import Output
from pipeline.device.cuda import Cuda
from pipeline.engine.local import Local
from pipeline.policy import Conversion, Policy
from pipeline.run import Options, run
from pipeline.sink.parquet import Parquet
from tests.device.fake import FakeRuntime
from tests.fakes import Rows, same, table


def _read(out: Path) -> pa.Table:
    return pa.concat_tables([pq.read_table(f) for f in sorted(out.glob("*.parquet"))])


@pytest.mark.parametrize("depth", [0, 1, 4])
@pytest.mark.parametrize("slots", [1, 3])
def test_identity_over_delayed_copies_loses_nothing(tmp_path: Path, depth: int, slots: int) -> None:
    """Values, nulls and order, with many batches in flight and one or three staging slots."""
    options = Options(batch_rows=16, progress="none", stream_depth=depth, conversion=Conversion(Policy(nulls="mask")))
    device = Cuda(slots=slots, runtime=FakeRuntime())
    out = tmp_path / "out"
    run(source=Rows(table(500)), transform=same, sink=Parquet(str(out)), engine=Local(), device=device, options=options)
    assert _read(out).equals(table(500), check_metadata=True)


def test_rows_that_repeat_come_back_in_order(tmp_path: Path) -> None:
    """The index travels down beside the values, and carried columns follow it."""

    def twice(tensors: dict[str, torch.Tensor]) -> Output:
        index = torch.arange(len(tensors["id"])).repeat_interleave(2)
        return Output({name: t[index] for name, t in tensors.items()}, index)

    options = Options(batch_rows=16, progress="none", columns=["id", "x"])
    device = Cuda(runtime=FakeRuntime())
    out = tmp_path / "out"
    run(
        source=Rows(table(100)), transform=twice, sink=Parquet(str(out)), engine=Local(), device=device, options=options
    )
    assert _read(out).equals(table(100).take(pa.array(np.repeat(np.arange(100), 2))))
