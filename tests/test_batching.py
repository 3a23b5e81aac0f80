"""Batches have exactly the rows asked for, and all of them, in order."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.batching import rebatch
from pipeline.core import Columns
from pipeline.errors import DTypeError


def _chunk(start: int, rows: int) -> Columns:
    return {
        "a": np.arange(start, start + rows),
        "b": pa.array([str(i) for i in range(start, start + rows)], pa.string()),
    }


@given(st.lists(st.integers(0, 9), min_size=1, max_size=12), st.integers(1, 15))
def test_any_chunks_give_exact_batches(sizes: list[int], rows: int) -> None:
    """Every batch but the last is full, none is empty unless all is, and no row moves."""
    starts = np.cumsum([0, *sizes])
    batches = list(rebatch((_chunk(int(s), n) for s, n in zip(starts, sizes, strict=False)), rows))
    total = sum(sizes)
    lengths = [len(b["a"]) for b in batches]
    assert lengths == ([rows] * (total // rows) + ([total % rows] if total % rows else []) or [0])
    assert [x for b in batches for x in b["a"]] == list(range(total))
    assert [x for b in batches for x in b["b"].to_pylist()] == [str(i) for i in range(total)]


def test_byte_order_survives_a_join() -> None:
    """numpy.concatenate alone would make it native."""
    halves = ({"a": np.arange(3, dtype=">i4")}, {"a": np.arange(3, 5, dtype=">i4")})
    (batch,) = rebatch(halves, 10)
    assert isinstance(batch["a"], np.ndarray)
    assert batch["a"].dtype.str == ">i4"


def test_batches_within_a_chunk_share_its_memory() -> None:
    """Slicing copies nothing."""
    chunk = _chunk(0, 10)
    first, second = rebatch([chunk], 5)
    assert np.shares_memory(first["a"], chunk["a"])
    assert second["b"].buffers()[2].address == chunk["b"].buffers()[2].address


def test_words_for_which_a_dictionary_has_no_room_are_refused_by_name() -> None:
    """Row groups bring words of their own, and int8 counts 128 of them in a batch that spans two."""
    codes = pa.array(range(100), pa.int8())
    chunks = [{"w": pa.DictionaryArray.from_arrays(codes, [f"{x}{i}" for i in range(100)])} for x in "ab"]
    assert [len(batch["w"]) for batch in rebatch(chunks, 100)] == [100, 100]
    with pytest.raises(DTypeError, match=r"column 'w' is dictionary.*Lower batch\.rows"):
        list(rebatch(chunks, 150))
