"""The source of .npy files."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Literal

import numpy as np
import pytest

from pipeline.core import Array, ArrayField, Source
from pipeline.errors import ConfigError, DataError, InputError
from pipeline.source import read_header, spans
from pipeline.source.npy import Npy
from pipeline.testing.source import SourceContract, read_all, read_split


def column(source: Source) -> Array:
    array = read_all(source)["data"]
    assert isinstance(array, np.ndarray)
    return array


class TestContract(SourceContract):
    """Keeps the contract, over two files cut into row ranges."""

    def make(self, tmp_path: Path) -> Source:
        np.save(tmp_path / "a.npy", np.arange(24.0).reshape(8, 3))
        np.save(tmp_path / "b.npy", np.zeros((0, 3)))
        for name in ("a.npy", "b.npy"):
            os.utime(tmp_path / name, (1, 1))
        return Npy(str(tmp_path), column="x", split_rows=3)

    def absent(self, tmp_path: Path) -> Source:
        return Npy(str(tmp_path / "absent.npy"))


class TestContractOfMaps(TestContract):
    """Keeps the contract with a memory map."""

    def make(self, tmp_path: Path) -> Source:
        super().make(tmp_path)
        return Npy(str(tmp_path / "*.npy"), split_rows=5, mmap=True)


@pytest.mark.parametrize("mmap", [True, False])
@pytest.mark.parametrize(
    "array",
    [
        np.array([True, False, True]),
        np.arange(6, dtype=">i4").reshape(3, 2),
        np.asfortranarray(np.arange(210.0).reshape(7, 5, 6)),
        np.asfortranarray(np.arange(4.0).reshape(1, 4)),
        np.array([1 + 2j, 3]),
        np.array(["2013-01-01", "NaT"], "M8[s]"),
        np.array([(1, b"ab")], [("é", "<i8"), ("name", "S2")]),
        np.array([(1, 2.0)], [("漢", "<i8"), ("\x9f\\", "<f4")]),
        np.array(["x", "longer"]),
        np.zeros((0, 4), np.float16),
        np.zeros((3, 0), np.int8),
        np.zeros((3, 2), "V0"),
    ],
    ids=lambda a: f"{a.dtype.kind}{a.shape}" if isinstance(a, np.ndarray) else str(a),
)
@pytest.mark.filterwarnings("ignore:Stored array in format")
def test_every_dtype_and_layout_comes_through(array: Array, mmap: bool, tmp_path: Path) -> None:
    """Values, dtype and byte order are those of the file, header versions 1 and 3, C and Fortran order."""
    np.save(tmp_path / "a.npy", array)
    source = Npy(str(tmp_path / "a.npy"), split_rows=2, mmap=mmap)
    chunks = [chunk["data"] for split in source.splits() for chunk in source.read(split)]
    assert source.schema().fields == (ArrayField("data", array.dtype, array.shape[1:]),)
    assert {chunk.dtype for chunk in chunks} == {array.dtype}
    assert b"".join(chunk.tobytes() for chunk in chunks if isinstance(chunk, np.ndarray)) == array.tobytes()


def test_python_2_wrote_long_integers(tmp_path: Path) -> None:
    """A shape written as (3L, 2L) is read, without a warning."""
    header = b"{'descr': '<i4', 'fortran_order': False, 'shape': (3L, 2L), }\n"
    start = b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header
    (tmp_path / "a.npy").write_bytes(start + np.arange(6, dtype="<i4").tobytes())
    assert column(Npy(str(tmp_path))).tolist() == [[0, 1], [2, 3], [4, 5]]


@pytest.mark.parametrize("mmap", [True, False])
def test_writing_to_the_rows_leaves_the_file_alone(mmap: bool, tmp_path: Path) -> None:
    """A transform may write in place: neither a crash nor a changed file."""
    np.save(tmp_path / "a.npy", np.arange(5))
    source = Npy(str(tmp_path), mmap=mmap)
    column(source)[:] = -1
    assert column(source).tolist() == np.load(tmp_path / "a.npy").tolist() == [0, 1, 2, 3, 4]


@pytest.mark.parametrize(("mmap", "seen"), [(True, 9), (False, 0)])
def test_memory_is_mapped_if_asked_for(mmap: bool, seen: int, tmp_path: Path) -> None:
    """What is written to the file later shows up in a map, and not in a copy."""
    np.save(tmp_path / "a.npy", np.arange(5))
    source = Npy(str(tmp_path), mmap=mmap)
    held = next(source.read(source.splits()[0]))["data"]
    with (tmp_path / "a.npy").open("r+b") as file:
        file.seek(128)
        file.write(np.int64(9).tobytes())
    assert held[0] == seen


@pytest.mark.parametrize("order", ["C", "F"])
def test_chunks_are_cut_for_batches(order: Literal["C", "F"], tmp_path: Path) -> None:
    """A multiple of the rows of a batch, some megabytes; all rows of the split where it is smaller."""
    array = np.arange(3 << 20, dtype=np.int32).reshape(-1, 256)
    np.save(tmp_path / "a.npy", np.asarray(array, order=order))
    source = Npy(str(tmp_path))
    for rows, expected in ((1000, [4000, 4000, 4000, 288]), (5000, [5000, 5000, 2288]), (20_000, [12_288])):
        chunks = [chunk["data"] for chunk in source.read_only(source.splits()[0], ["data"], rows)]
        assert [len(chunk) for chunk in chunks] == expected
        np.testing.assert_array_equal(np.concatenate([np.asarray(chunk) for chunk in chunks]), array)


def test_ids_are_relative_to_what_the_user_named(tmp_path: Path) -> None:
    """A folder that is moved keeps the names of its splits, also through a glob."""
    (tmp_path / "in" / "deep").mkdir(parents=True)
    np.save(tmp_path / "in" / "deep" / "a.npy", np.arange(4))
    ids = {Npy(str(tmp_path / path), split_rows=3).splits()[0].id for path in ("in", "in/*/*.npy", "in/**")}
    shutil.move(tmp_path / "in", tmp_path / "moved")
    assert ids | {Npy(str(tmp_path / "moved"), split_rows=3).splits()[0].id} == {"deep/a.npy:0-3"}
    assert Npy(str(tmp_path / "moved" / "deep" / "a.npy")).splits()[0].id == "a.npy:0-4"


def test_files_of_another_kind_are_refused_before_any_work(tmp_path: Path) -> None:
    """The message names both files and both types."""
    np.save(tmp_path / "a.npy", np.zeros((2, 3), "<f4"))
    np.save(tmp_path / "b.npy", np.zeros((2, 3), ">f4"))
    with pytest.raises(DataError, match=r"float32 with rows of shape \(3,\) in .*a\.npy.*, >f4 .* in .*b\.npy"):
        Npy(str(tmp_path)).schema()


@pytest.mark.parametrize("change", ["grow", "shrink", "touch"])
def test_a_file_that_changes_while_it_is_read_is_refused(change: str, tmp_path: Path) -> None:
    """What comes after the change is not passed on as if it were one input."""
    path = tmp_path / "a.npy"
    np.save(path, np.arange(10))
    source = Npy(str(path), mmap=False)
    chunks = source.read(source.splits()[0])
    next(chunks)
    if change == "touch":
        os.utime(path, (1, 1))
    else:
        os.truncate(path, path.stat().st_size + (8 if change == "grow" else -8))
    with pytest.raises(DataError, match=r"a\.npy.* changed while it was read"):
        list(chunks)


def test_a_file_that_is_gone_is_named(tmp_path: Path) -> None:
    """A missing file is another error than a damaged one, before the run and during it."""
    with pytest.raises(InputError, match=r"absent\.npy"):
        Npy(str(tmp_path / "absent.npy")).schema()
    np.save(tmp_path / "a.npy", np.arange(3))
    source = Npy(str(tmp_path))
    split = source.splits()[0]
    (tmp_path / "a.npy").unlink()
    with pytest.raises(InputError, match=r"a\.npy"):
        read_split(source, split)


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.array([{}]), "pickles"),
        (np.array([(1, None)], [("a", "i4"), ("b", "O")]), "pickles"),
    ],
    ids=["object", "object field"],
)
def test_what_cannot_be_rows_is_refused(array: Array, message: str, tmp_path: Path) -> None:
    """Objects are never unpickled."""
    np.save(tmp_path / "a.npy", array, allow_pickle=True)
    with pytest.raises(DataError, match=rf"a\.npy.*{message}"):
        Npy(str(tmp_path)).splits()


@pytest.mark.parametrize(("cut", "message"), [(-1, "cut short"), (1, "longer"), (-100000, "magic")])
def test_the_size_of_the_file_must_fit_its_header(cut: int, message: str, tmp_path: Path) -> None:
    """A torn file is not read up to where it ends, and what follows an array is not ignored."""
    path = tmp_path / "a.npy"
    np.save(path, np.arange(10))
    os.truncate(path, max(0, path.stat().st_size + cut))
    with pytest.raises(DataError, match=rf"a\.npy.*{message}"):
        Npy(str(path)).schema()


@pytest.mark.parametrize("shape", ["(10**9, 10**9)", "(-1, 3)", "(4000000000000, 0)", "(2.5,)", "(1, 2"])
def test_a_lying_header_asks_for_nothing(shape: str, tmp_path: Path) -> None:
    """No memory is allocated for what the file does not hold."""
    header = f"{{'descr': '<i4', 'fortran_order': False, 'shape': {shape}, }}\n".encode().replace(
        b"10**9", b"1" + b"0" * 9
    )
    (tmp_path / "a.npy").write_bytes(b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header + b"\0" * 40)
    with pytest.raises(DataError, match=r"a\.npy"):
        Npy(str(tmp_path)).schema()


def test_damaged_headers_never_pass_for_another_array(tmp_path: Path) -> None:
    """Of 300 mutations each is read as NumPy reads it, or refused by name of the file."""
    rng, path, refused = np.random.default_rng(0), tmp_path / "a.npy", []
    np.save(path, np.arange(60, dtype="<i4").reshape(20, 3))
    whole = path.read_bytes()
    for _ in range(300):
        data = bytearray(whole)
        for at in rng.integers(0, 90, rng.integers(1, 4)):
            data[at] = rng.integers(0, 256)
        path.write_bytes(data[: rng.integers(0, len(data))] if rng.random() < 0.2 else data)
        try:
            found = column(Npy(str(path)))
        except DataError as e:
            refused.append(str(e))
            continue
        expected = np.load(path)
        assert found.dtype == expected.dtype
        assert found.tobytes() == expected.tobytes()
    assert len(refused) > 100
    assert all("a.npy" in message for message in refused)


def test_chunks_are_a_power_of_two_rows() -> None:
    """So batches of a power of two rows hardly ever span two chunks."""
    assert list(spans(0, 10, 3, 15)) == [(0, 4), (4, 8), (8, 10)]
    assert list(spans(5, 5, 3, 15)) == [(5, 5)]
    assert list(spans(0, 2, 100, 15)) == [(0, 1), (1, 2)]


def test_an_unaligned_array_is_copied_into_place(tmp_path: Path) -> None:
    """A header of odd length gives no misaligned array, which tensors could not share."""
    header = b"{'descr': '<f8', 'fortran_order': False, 'shape': (3,)}\n"
    data = b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header + np.arange(3.0).tobytes()
    (tmp_path / "a.npy").write_bytes(data)
    with (tmp_path / "a.npy").open("rb") as file:
        assert read_header(file).offset % 8
    found = column(Npy(str(tmp_path)))
    assert found.flags.aligned
    assert found.tolist() == [0, 1, 2]


@pytest.mark.parametrize("arguments", [{"split_rows": 0}, {"split_rows": 1.5}, {"split_rows": True}, {"column": ""}])
def test_arguments_are_checked_where_they_enter(arguments: dict[str, object]) -> None:
    """The message names the key as YAML has it."""
    with pytest.raises(ConfigError, match=f"source.{next(iter(arguments))}"):
        Npy("x.npy", **arguments)  # type: ignore[arg-type]
