import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pipeline.core import Array
from pipeline.errors import DTypeError, TransformError
from pipeline.tensors import check_device, dtype_of, numpy_dtype, released, shareable, to_array, to_tensor
from pipeline.testing.device import DTYPES, SHAPES, random_bits


def address(array: Array) -> int:
    start: int = array.__array_interface__["data"][0]
    return start


def packed_field() -> Array:
    """A column of a packed record: six bytes from value to value."""
    return np.array([(1, 2.5), (3, 4.5)], np.dtype([("a", "<i2"), ("b", "<f4")]))["b"]


def unaligned() -> Array:
    """Values that start at an odd address."""
    return np.frombuffer(bytearray(1 + 4 * 5), np.int32, offset=1)


def read_only(array: Array) -> Array:
    array.setflags(write=False)
    return array


grid = np.arange(24, dtype=np.float32).reshape(4, 6)

SHARED: dict[str, Array] = {
    "c_order": grid,
    "fortran": np.asfortranarray(grid),
    "transposed": grid.T,
    "slice": grid[1:3, 2:5],
    "step": grid[::2, ::3],
    "windows": np.lib.stride_tricks.sliding_window_view(grid[0].copy(), 3),
    "broadcast": np.broadcast_to(np.float32(3), (4, 2)),
    "aligned_field": np.zeros(3, np.dtype([("a", "<i4"), ("b", "<f4")]))["b"],
    "read_only": read_only(grid.copy()),
    "read_only_step": read_only(grid.copy())[::2, 1::2],
    "bytes": np.frombuffer(bytes(range(8)), np.uint16),
    "zero_d": np.array(3.0),
    "ulonglong": np.frombuffer(bytearray(range(16)), "Q"),
    "read_only_ulonglong": np.frombuffer(bytes(range(16)), "Q"),
    "longlong": np.zeros(3, "q"),
    "matrix": np.ones((2, 2)).view(np.matrix),
    "odd_bools": np.array([0, 1, 2, 255], np.uint8).view(bool),
}
COPIED: dict[str, Array] = {
    "big_endian_ulonglong": np.arange(3, dtype=np.dtype("Q").newbyteorder(">")),
    "reversed_ulonglong": np.arange(3, dtype="Q")[::-1],
    "reversed": grid[::-1],
    "one_reversed_row": grid[0:1][::-1],
    "reversed_column": grid[:, ::-1],
    "packed_field": packed_field(),
    "unaligned": unaligned(),
    "big_endian": grid.astype(">f4"),
    "big_endian_complex": np.array([1 + 2j, 3 - 4j], ">c16"),
    "big_endian_nan": np.array([0x7FA00001, 0xFFC12345], ">u4").view(">f4"),
    "one_big_endian": np.array([1], ">i8"),
}
REFUSED: dict[str, Array] = {
    "longdouble": np.zeros(2, np.longdouble),
    "clongdouble": np.zeros(2, np.clongdouble),
    "datetime": np.zeros(2, "M8[ns]"),
    "timedelta": np.zeros(2, "m8[s]"),
    "str": np.array(["a"]),
    "bytes": np.array([b"a"]),
    "void": np.zeros(2, "V2"),
    "record": np.zeros(2, [("a", ">i4")]),
    "object": np.array([1, 2], object),
    "string": np.array(["a"], np.dtypes.StringDType()),
    "no_rows": np.zeros(0, "M8[D]"),
}


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [*SHAPES, ()])
@pytest.mark.parametrize("share", [True, False])
def test_every_bit_goes_there_and_back(dtype: str, shape: tuple[int, ...], share: bool) -> None:
    """All dtypes and shapes, no rows too, keep dtype, shape and bits, NaN payloads among them."""
    array = random_bits(dtype, shape)
    tensor = to_tensor(array, "x", share=share)
    back = to_array(tensor, "x")
    assert (str(tensor.dtype), tuple(tensor.shape)) == (f"torch.{dtype}", shape)
    assert (back.dtype, back.shape) == (array.dtype, shape)
    assert back.tobytes() == array.tobytes()


@pytest.mark.parametrize("layout", SHARED)
def test_what_torch_can_read_is_shared(layout: str) -> None:
    """The tensor has the address and the strides of the array, and the way back is free unless places repeat."""
    array = SHARED[layout]
    tensor = to_tensor(array, "x", share=True)
    assert shareable(array)
    assert tensor.data_ptr() == address(array)
    assert tuple(s * array.itemsize for s in tensor.stride()) == array.strides
    back = to_array(tensor, "x")
    assert (address(back) == address(array)) == all(stride > 0 for stride in array.strides)
    assert back.tobytes() == array.tobytes()


@pytest.mark.parametrize("layout", COPIED)
def test_what_torch_cannot_read_is_copied_once(layout: str) -> None:
    """Reversed, packed, unaligned and byte-swapped columns become native, in C order, with the same bits."""
    array = COPIED[layout]
    native = np.array(array, order="C").astype(array.dtype.newbyteorder("="), copy=False)
    tensor = to_tensor(array, "x", share=True)
    assert not shareable(array)
    assert tensor.is_contiguous()
    assert to_array(tensor, "x").tobytes() == native.tobytes()
    tensor.fill_(True)
    assert array.tobytes() != to_array(tensor, "x").tobytes()


def test_swapping_bytes_keeps_signalling_nans() -> None:
    """No bit of a float goes through arithmetic on its way."""
    bits = np.array([0x7FA00001, 0xFFC12345, 0x80000000, 1], np.uint32)
    swapped = to_tensor(bits.astype(">u4").view(">f4"), "x", share=True)
    assert to_array(swapped, "x").view(np.uint32).tolist() == bits.tolist()


@pytest.mark.parametrize("layout", [*SHARED, *COPIED])
def test_without_share_the_memory_is_new(layout: str) -> None:
    """Writing to the tensor leaves the array as it was."""
    array = {**SHARED, **COPIED}[layout]
    before = array.tobytes()
    tensor = to_tensor(array, "x", share=False)
    tensor.fill_(1)
    assert tensor.is_contiguous()
    assert array.tobytes() == before


@pytest.mark.parametrize("kind", REFUSED)
def test_other_dtypes_are_refused_by_name(kind: str) -> None:
    """The message says column, dtype and the way out; also when there are no rows."""
    array = REFUSED[kind]
    assert dtype_of(array.dtype) is None
    with pytest.raises(DTypeError, match="column 'price' is .*Carry it untouched, select other columns") as caught:
        to_tensor(array, "price", share=True)
    assert str(array.dtype) in str(caught.value)


def test_a_masked_array_is_refused() -> None:
    """Torch would take the values and drop the mask without a word."""
    with pytest.raises(DTypeError, match="column 'price' is a masked array"):
        to_tensor(np.ma.array([1, 2], mask=[False, True]), "price", share=True)


def test_read_only_memory_is_shared_without_a_warning_from_any_thread() -> None:
    """The warning of torch comes once in a process: a fresh one shows that it never does."""
    code = """
import warnings; warnings.simplefilter("error")
import threading, numpy as np
from pipeline.tensors import to_tensor
def convert(): results.append(to_tensor(np.frombuffer(bytes(8), "i4"), "x", share=True))
results = []
threads = [threading.Thread(target=convert) for _ in range(4)]
for t in threads: t.start()
for t in threads: t.join()
results += [to_tensor(np.frombuffer(b"", "i4"), "x", share=True)]
print(len(results))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("5\n", "")


@pytest.mark.parametrize(("mode", "shared"), [("r", False), ("c", True)])
def test_a_memory_map_is_shared_if_it_may_be_written_to(mode: Any, shared: bool, tmp_path: Path) -> None:
    """Writing to a read-only one would kill the process. The pages stay mapped while the tensor lives."""
    np.save(tmp_path / "x.npy", np.arange(100))
    array = np.asarray(np.load(tmp_path / "x.npy", mmap_mode=mode))[10:]
    tensor = to_tensor(array, "x", share=True)
    assert (tensor.data_ptr() == address(array)) is shared
    del array
    tensor += 1
    assert tensor.sum() == 4950 - 45 + 90
    assert np.load(tmp_path / "x.npy").sum() == 4950


def test_a_shared_tensor_keeps_the_memory_alive() -> None:
    """Dropping the read-only array, which is shared by a detour, does not free it."""
    array = read_only(np.full(1 << 20, 7, np.int64))
    tensor = to_tensor(array, "x", share=True)
    del array
    np.full(1 << 20, 9, np.int64)
    assert tensor.unique().tolist() == [7]  # type: ignore[no-untyped-call]


def test_the_array_stays_write_protected() -> None:
    """Sharing looks past the protection; it does not lift it."""
    array = read_only(np.zeros(3))
    to_tensor(array, "x", share=True)
    with pytest.raises(ValueError, match="read-only"):
        array[0] = 1


def test_a_thread_under_inference_mode_makes_the_same_tensors() -> None:
    """They can be written to outside of it, and have gradients."""
    with torch.inference_mode():
        shared, copied = (to_tensor(np.zeros(3), "x", share=share) for share in (True, False))
    assert not shared.is_inference()
    assert (copied.add_(1).requires_grad_() * 2).requires_grad


@pytest.mark.parametrize(
    ("tensor", "expected"),
    [
        (torch.arange(3.0).requires_grad_(), [0, 1, 2]),
        (torch.nn.Parameter(torch.ones(2)), [1, 1]),
        (torch.tensor([1 + 2j]).conj(), [1 - 2j]),
        (torch.tensor([1 + 2j, 3 - 4j]).conj().imag, [-2, 4]),
        (torch.tensor([[1, 2], [3, 4]]).t(), [[1, 3], [2, 4]]),
        (torch.tensor([7]).expand(3), [7, 7, 7]),
        (torch.arange(6)[::2], [0, 2, 4]),
        (torch.zeros(0, 3).t(), [[], [], []]),
    ],
)
def test_any_dense_tensor_becomes_an_array(tensor: torch.Tensor, expected: list[Any]) -> None:
    """Gradients, conjugates, negatives, transposes and expands are resolved."""
    array = to_array(tensor, "x")
    assert array.tolist() == expected
    assert not array.size or all(stride > 0 for stride in array.strides)


def test_an_inference_tensor_becomes_an_array_in_another_thread() -> None:
    """The download lane is not under inference mode."""
    found: list[Array] = []
    with torch.inference_mode():
        tensor = torch.arange(6).reshape(2, 3).t() * 2
        thread = threading.Thread(target=lambda: found.append(to_array(tensor, "x")))
        thread.start()
        thread.join()
    assert found[0].tolist() == [[0, 6], [2, 8], [4, 10]]


@pytest.mark.parametrize("dtype", ["bfloat16", "float8_e4m3fn", "float8_e5m2", "complex32"])
def test_dtypes_that_numpy_lacks_are_refused_by_name(dtype: str) -> None:
    """The message says column, dtype and the way out."""
    tensor = torch.zeros(8, dtype=torch.uint8).view(getattr(torch, dtype))
    assert numpy_dtype(tensor.dtype) is None
    with pytest.raises(DTypeError, match=f"column 'x' is {dtype}.*cast it to float32.*transform=cast"):
        to_array(tensor, "x")


def test_a_tensor_on_another_device_is_refused() -> None:
    """The column and both devices are named."""
    with pytest.raises(TransformError, match="column 'x' is on meta; the transform must return tensors on cpu"):
        to_array(torch.empty(3, device="meta"), "x")
    check_device({"x": torch.zeros(3)}, torch.device("cpu"), "cpu")


def test_what_is_not_dense_is_refused() -> None:
    """A sparse or a fake tensor gives an error that names the column, not the memory of something else."""
    from torch._subclasses.fake_tensor import FakeTensorMode

    with FakeTensorMode():
        fake = torch.zeros(3)
    for tensor in (torch.eye(3).to_sparse(), fake):
        with pytest.raises(TransformError, match="column 'x' is a .*; return a plain dense tensor"):
            to_array(tensor, "x")


def test_dtypes_have_twins() -> None:
    """The two tables are inverse, whatever the byte order or the C type behind a NumPy dtype."""
    for name in DTYPES:
        twin = dtype_of(np.dtype(name))
        assert str(twin) == f"torch.{name}"
        assert twin is not None
        assert numpy_dtype(twin) == np.dtype(name)
        assert dtype_of(np.dtype(name).newbyteorder(">")) == twin
    assert dtype_of(np.dtype("Q")) == torch.uint64


@given(
    dtype=st.sampled_from(DTYPES),
    swapped=st.booleans(),
    steps=st.lists(st.tuples(st.integers(0, 4), st.sampled_from([-2, -1, 1, 2])), min_size=1, max_size=3),
    order=st.permutations(range(3)),
    share=st.booleans(),
)
def test_any_view_of_any_array_keeps_its_bits(
    dtype: str, swapped: bool, steps: list[tuple[int, int]], order: list[int], share: bool
) -> None:
    """Slices, steps, reversals and transposes in any combination arrive as NumPy sees them."""
    array = random_bits(dtype, [4] * len(steps))
    array = array.byteswap().view(array.dtype.newbyteorder("S")) if swapped else array
    array = array[tuple(slice(start, None, step) for start, step in steps)]
    array = array.transpose([axis for axis in order if axis < array.ndim])
    tensor = to_tensor(array, "x", share=share)
    expected = array.copy(order="C")
    expected = expected.byteswap() if swapped else expected
    assert to_array(tensor, "x").tobytes() == expected.tobytes()


def test_memory_that_a_transform_keeps_is_copied_and_no_other() -> None:
    """Views of a buffer that it still has; neither what is new, nor what came in, nor two views of one new tensor."""
    with torch.inference_mode():  # as transforms run: elsewhere views keep what they are views of
        buffer, came, new = torch.arange(6), torch.arange(3), torch.arange(6)
        returned = {"kept": buffer[:3], "came": came, "left": new[:3], "right": new[3:], "again": new[:0]}
        del new
        out = released(returned, {"came": came})
        buffer.zero_()
    assert [name for name in out if out[name] is not returned[name]] == ["kept"]
    assert out["kept"].tolist() == [0, 1, 2]


def test_a_tensor_that_a_transform_keeps_is_copied() -> None:
    """The very one that it returned, and filled again for each batch; not one that has only two names."""
    with torch.inference_mode():
        buffer = torch.arange(3)
        returned = {"kept": buffer, "new": torch.arange(3)}
        returned["again"] = returned["new"]
        out = released(returned, {})
        buffer.zero_()
    assert [name for name in out if out[name] is not returned[name]] == ["kept"]
    assert out["kept"].tolist() == [0, 1, 2]
