"""The source of .npz archives."""

from __future__ import annotations

import os
import zipfile
from pathlib import Path

import numpy as np
import pytest

from pipeline.core import ArrayField, Source
from pipeline.errors import ConfigError, DataError, InputError
from pipeline.source import CHUNK_BYTES
from pipeline.source.npz import Npz
from pipeline.testing.source import SourceContract, assert_same_rows, read_all, read_split

X, Y = np.arange(24.0).reshape(8, 3), np.arange(8, dtype=np.int16)


class TestContract(SourceContract):
    """Keeps the contract: two archives, the members of the second in another order, one column in Fortran order."""

    def make(self, tmp_path: Path) -> Source:
        np.savez(tmp_path / "a.npz", x=np.asfortranarray(X), y=Y, z=Y.astype(">i4"))
        np.savez_compressed(tmp_path / "b.npz", z=Y.astype(">i4")[:2], y=Y[:2], x=X[:2])
        for name in ("a.npz", "b.npz"):
            os.utime(tmp_path / name, (1, 1))
        return Npz(str(tmp_path))

    def absent(self, tmp_path: Path) -> Source:
        return Npz(str(tmp_path / "absent.npz"))


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_members_are_columns(save: object, tmp_path: Path) -> None:
    """Each has its name, dtype and row shape, stored or compressed; a chosen few come in the order asked for."""
    assert callable(save)
    save(tmp_path / "a.npz", x=X, y=Y, empty=np.zeros((8, 0)))
    assert Npz(str(tmp_path)).schema().fields == (
        ArrayField("x", X.dtype, (3,)),
        ArrayField("y", Y.dtype),
        ArrayField("empty", X.dtype, (0,)),
    )
    assert_same_rows(read_all(Npz(str(tmp_path), members=["y", "x"])), {"y": Y, "x": X})


def test_an_archive_is_read_as_a_stream(tmp_path: Path) -> None:
    """All members advance together, in chunks that are bounded whatever the size of the archive."""
    rows = CHUNK_BYTES // 8 + 1
    np.savez(tmp_path / "a.npz", a=np.zeros(rows, np.int32), b=np.arange(rows, dtype=np.int32))
    source = Npz(str(tmp_path))
    chunks = [{name: len(column) for name, column in chunk.items()} for chunk in source.read(source.splits()[0])]
    assert chunks == [{"a": rows - 1, "b": rows - 1}, {"a": 1, "b": 1}]


def test_an_archive_of_no_rows_has_a_schema(tmp_path: Path) -> None:
    """Columns of 0 rows come through as one empty chunk."""
    np.savez(tmp_path / "a.npz", x=X[:0], y=Y[:0])
    source = Npz(str(tmp_path))
    assert_same_rows(read_split(source, source.splits()[0]), {"x": X[:0], "y": Y[:0]})


def archive(path: Path, **members: bytes) -> str:
    with zipfile.ZipFile(path, "w") as file:
        for name, data in members.items():
            file.writestr(name, data)
    return str(path)


def npy(array: object, folder: Path) -> bytes:
    np.save(folder / "member.npy", array, allow_pickle=True)  # type: ignore[arg-type]
    return (folder / "member.npy").read_bytes()


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ({"x": X, "y": Y[:3]}, r"member 'x' has 8 rows and member 'y' has 3"),
        ({"x": X, "n": np.int64(5)}, r"member 'x' has 8 rows and member 'n' has 1"),
        ({"x": X, "n": np.array([{}])}, r"member 'n': .*pickles"),
    ],
    ids=["unequal", "scalar", "object"],
)
def test_what_is_no_table_is_refused(members: dict[str, object], message: str, tmp_path: Path) -> None:
    """The message names the file and the member; naming the others in `members` is the way out."""
    np.savez(tmp_path / "a.npz", allow_pickle=True, **members)  # type: ignore[arg-type]
    with pytest.raises(DataError, match=rf"a\.npz.*{message}"):
        Npz(str(tmp_path)).schema()
    assert Npz(str(tmp_path), members=["x"]).schema().names == ("x",)


def test_members_that_are_no_arrays_are_refused_unless_left_out(tmp_path: Path) -> None:
    """A name is never a path: a hostile one is a column like any other."""
    path = archive(tmp_path / "a.npz", **{"../../x.npy": npy(Y, tmp_path), "readme.txt": b"hello"})
    with pytest.raises(DataError, match=r"a\.npz.*'readme\.txt' is no \.npy array"):
        Npz(path).schema()
    assert_same_rows(read_all(Npz(path, members=["../../x"])), {"../../x": Y})


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_two_members_of_one_name_are_refused(tmp_path: Path) -> None:
    """NumPy would take the last of them without a word."""
    path = archive(tmp_path / "a.npz", **{"x.npy": npy(Y, tmp_path)})
    with zipfile.ZipFile(path, "a") as file:
        file.writestr("x.npy", npy(Y + 1, tmp_path))
    with pytest.raises(DataError, match=r"a\.npz.*2 members are called 'x'"):
        Npz(path).schema()


def test_an_archive_must_hold_what_it_is_asked_for(tmp_path: Path) -> None:
    """The message lists what there is; an archive without arrays is no table."""
    np.savez(tmp_path / "a.npz", x=X)
    with pytest.raises(DataError, match=r"no member 'z' \(source\.members\); there are 'x'"):
        Npz(str(tmp_path), members=["z"]).schema()
    with pytest.raises(DataError, match=r"b\.npz.*no \.npy arrays"):
        Npz(archive(tmp_path / "b.npz")).schema()


def test_archives_that_differ_are_refused_before_any_work(tmp_path: Path) -> None:
    """The message names both files, the column and both types."""
    np.savez(tmp_path / "a.npz", x=X)
    np.savez(tmp_path / "b.npz", x=X.astype("f4"))
    with pytest.raises(DataError, match=r"'x': float64 .*a\.npz', float32 .*b\.npz"):
        Npz(str(tmp_path)).splits()


def test_what_unpacks_to_too_much_is_refused(tmp_path: Path) -> None:
    """A small archive of a lot of zeros is stopped by its directory; only members that are read count."""
    np.savez_compressed(tmp_path / "a.npz", x=np.zeros(1 << 20), y=np.zeros(1 << 20))
    with pytest.raises(DataError, match=r"a\.npz.*source\.max_bytes"):
        Npz(str(tmp_path), max_bytes=10 << 20).schema()
    assert Npz(str(tmp_path), members=["x"], max_bytes=10 << 20).schema().names == ("x",)


def test_a_member_must_be_as_long_as_its_header_says(tmp_path: Path) -> None:
    """Neither cut short, nor with more behind it; an encrypted one is refused by name."""
    for data in (npy(Y, tmp_path)[:-1], npy(Y, tmp_path) + b"more"):
        with pytest.raises(DataError, match=r"a\.npz.*member 'x'.*bytes"):
            Npz(archive(tmp_path / "a.npz", **{"x.npy": data})).schema()
    whole = bytearray(Path(archive(tmp_path / "a.npz", **{"x.npy": npy(Y, tmp_path)})).read_bytes())
    whole[whole.index(b"PK\x01\x02") + 8] |= 1
    (tmp_path / "a.npz").write_bytes(whole)
    with pytest.raises(DataError, match=r"a\.npz.*member 'x' is encrypted"):
        Npz(str(tmp_path / "a.npz")).schema()


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_damage_is_found(save: object, tmp_path: Path) -> None:
    """Of 150 mutations of an archive none gives other values: the same, or an error that names the file."""
    assert callable(save)
    rng, path = np.random.default_rng(0), tmp_path / "a.npz"
    save(path, x=X, y=Y)
    whole, refused = path.read_bytes(), []
    for _ in range(150):
        data = bytearray(whole)
        for at in rng.integers(0, len(data), rng.integers(1, 4)):
            data[at] = rng.integers(0, 256)
        path.write_bytes(data[: rng.integers(0, len(data))] if rng.random() < 0.2 else data)
        try:
            assert_same_rows(read_all(Npz(str(path), members=["x", "y"])), {"x": X, "y": Y})
        except DataError as e:
            refused.append(str(e))
    assert len(refused) > 50
    assert all("a.npz" in message for message in refused)


def test_a_file_that_is_gone_is_named(tmp_path: Path) -> None:
    """Before the run and during it."""
    with pytest.raises(InputError, match=r"absent\.npz"):
        Npz(str(tmp_path / "absent.npz")).schema()
    np.savez(tmp_path / "a.npz", x=X)
    source = Npz(str(tmp_path))
    split = source.splits()[0]
    np.savez(tmp_path / "a.npz", x=X[:4])
    with pytest.raises(DataError, match=r"a\.npz.* changed"):
        read_split(source, split)


@pytest.mark.parametrize("arguments", [{"members": "x"}, {"members": []}, {"members": ["x", "x"]}, {"max_bytes": 0}])
def test_arguments_are_checked_where_they_enter(arguments: dict[str, object]) -> None:
    """The message names the key as YAML has it."""
    with pytest.raises(ConfigError, match=f"source.{next(iter(arguments))}"):
        Npz("x.npz", **arguments)  # type: ignore[arg-type]
