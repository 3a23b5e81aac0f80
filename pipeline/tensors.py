"""NumPy <-> torch: the only place that makes one of the other.

Fourteen dtypes exist on both sides with the same bits. Nothing here casts between them: every bit comes through, NaN
payloads and signs of zero included, or the call raises with the name of the column. DLPack is never used: it drops the
negative bit, ignores write protection, and aborts the process on negative strides.
"""

from __future__ import annotations

import mmap
from collections import Counter
from sys import getrefcount
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pipeline.core import Array, Arrays, Tensors
from pipeline.errors import DTypeError, TransformError

_NAMES = (
    *("bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"),
    *("float16", "float32", "float64", "complex64", "complex128"),
)
_TORCH: dict[np.dtype[Any], torch.dtype] = {np.dtype(name): getattr(torch, name) for name in _NAMES}
_NUMPY: dict[torch.dtype, np.dtype[Any]] = {ours: theirs for theirs, ours in _TORCH.items()}


def dtype_of(dtype: np.dtype[Any]) -> torch.dtype | None:
    """The torch dtype with the same values, whatever the byte order; None if there is none."""
    return _TORCH.get(dtype if dtype.isnative else dtype.newbyteorder("="))


def numpy_dtype(dtype: torch.dtype) -> np.dtype[Any] | None:
    """The NumPy dtype with the same bits, in native byte order; None if there is none (bfloat16, float8, ...)."""
    return _NUMPY.get(dtype)


def shareable(array: Array) -> bool:
    """Whether a tensor can use the memory of this array, so that `to_tensor` need not copy it.

    Not a map of a file that is read-only: who writes to such a tensor kills the process.
    """
    return (
        array.dtype.isnative
        and array.flags.aligned
        and (array.flags.writeable or not _mapped(array))
        and all(stride >= 0 and stride % array.itemsize == 0 for stride in array.strides)
    )


def _mapped(array: Array) -> bool:
    """Whether the memory is a map of a file, which the array or one that it is a view of keeps open."""
    base: object = array
    while isinstance(base, np.ndarray | memoryview):
        base = base.obj if isinstance(base, memoryview) else base.base
    return isinstance(base, mmap.mmap)


# A tensor made under inference mode could not be written to outside of it, nor used by autograd inside: the same
# column must not depend on whether the caller's thread happens to compute as well.
@torch.inference_mode(False)
def to_tensors(arrays: Arrays, *, share: bool) -> Tensors:
    """Each column by `to_tensor`."""
    return {name: _tensor(array, name, share=share) for name, array in arrays.items()}


@torch.inference_mode(False)
def to_tensor(array: Array, name: str, *, share: bool) -> Tensor:
    """The column as a CPU tensor with the same bits, shape and dtype.

    With `share` it uses the memory of the array where torch can (see `shareable`), read-only memory too: who writes to
    the tensor then writes to the array. Otherwise it is one copy in C order.

    Raises:
        DTypeError: no tensor holds this dtype, or the array is masked.
    """
    return _tensor(array, name, share=share)


def _tensor(array: Array, name: str, *, share: bool) -> Tensor:
    if type(array) is not np.ndarray and isinstance(array, np.ma.MaskedArray):  # to name it imports numpy.ma
        raise DTypeError(
            f"column {name!r} is a masked array, whose mask a tensor would lose; give it as an Arrow column"
        )
    plain = np.asarray(array)
    twin = dtype_of(plain.dtype)
    if twin is None:
        raise DTypeError(
            f"column {name!r} is {plain.dtype}; tensors hold booleans, integers of 8 to 64 bits, float16/32/64 and "
            "complex64/128. Carry it untouched, select other columns, or store it as one of these"
        )
    if not (share and shareable(plain)):
        # Never ascontiguousarray: it returns arrays of one row with a negative stride as they are.
        plain = np.array(plain, dtype=_NUMPY[twin], order="C", copy=True)
    elif not plain.flags.writeable:
        plain = np.asarray(_Writable(plain))
    return torch.from_numpy(plain.view(_NUMPY[twin]))  # np.ulonglong equals uint64, yet torch refuses it


def to_array(tensor: Tensor, name: str) -> Array:
    """The column as a NumPy array with the same bits and strides; shares the memory of the tensor where it can.

    Rows that repeat one place in memory (an expanded tensor) are copied. What needs C order makes it: taken apart into
    columns, a matrix that is kept by columns is copied once and not twice.

    Raises:
        DTypeError: NumPy has no such dtype.
        TransformError: the tensor is not on the CPU, or not a plain dense one.
    """
    if tensor.dtype not in _NUMPY:
        raise DTypeError(
            f"column {name!r} is {str(tensor.dtype).removeprefix('torch.')}, which NumPy does not have; "
            "cast it to float32 as the last step of the transform, e.g. with transform=cast"
        )
    check_device({name: tensor}, torch.device("cpu"), "cpu")
    try:
        array: Array = tensor.numpy()
    except (TypeError, RuntimeError):
        array = _resolved(tensor, name)
    return array if all(stride > 0 for stride in array.strides) else np.array(array, order="C", copy=True)


def _resolved(tensor: Tensor, name: str) -> Array:
    """What NumPy does not take at once: a tensor with a gradient, a conjugate, a negative."""
    try:
        return tensor.detach().resolve_conj().resolve_neg().numpy()
    except (TypeError, RuntimeError) as error:
        kind = f"{type(tensor).__name__} ({tensor.layout})"
        raise TransformError(
            f"column {name!r} is a {kind}; return a plain dense tensor. torch says: {error}"
        ) from error


@torch.inference_mode(False)
def jagged(values: Tensor, starts: Tensor) -> Tensor:
    """Rows of different lengths as one nested tensor of the jagged layout, in the same memory.

    Args:
        values: ``(elements, ...)``, the elements of all rows.
        starts: int64 ``(rows + 1,)``, where each row begins among them, and where the last one ends.
    """
    return torch.nested.nested_tensor_from_jagged(values, starts)


def unjagged(tensor: Tensor, name: str) -> tuple[Tensor, Tensor]:
    """The `values` and `starts` of `jagged`; one copy if the rows do not lie one after the other.

    Raises:
        TransformError: the lengths differ along another axis than the one after the rows.
    """
    if isinstance(tensor.shape[1], int):  # the length of rows that differ in it is a symbol
        raise TransformError(f"column {name!r} is a nested tensor that is not ragged along its second axis")
    if not tensor.shape[0]:  # of no rows with gaps between them, torch makes no contiguous tensor
        return tensor.values()[:0], tensor.offsets().new_zeros(1)
    tensor = tensor if tensor.is_contiguous() else tensor.contiguous()
    return tensor.values(), tensor.offsets()


def released(tensors: Tensors, given: Tensors, *, held: int = 1) -> Tensors:
    """The tensors that a transform returned for those `given`, with copies of what it holds on to.

    What is computed into a buffer of its own would else change under the lanes after it, with the next batch.
    `held` counts the caller's references to each, `tensors` among them.
    """
    ours = {_memory(tensor) for tensor in given.values()}
    made = {name: memory for name, tensor in tensors.items() if (memory := _memory(tensor)) and memory not in ours}
    names = Counter(id(tensors[name]) for name in made)
    one = {id(tensors[name]): name for name in made}.values()  # of each tensor, however many names it has
    seen = Counter(made[name] for name in one)
    kept = {
        made[name]
        for name in one
        if _holders(tensors[name]) > seen[made[name]]  # by another tensor
        or getrefcount(tensors[name]) > held * names[id(tensors[name])] + 1  # as it is; one is the argument of the call
    }
    return {name: t.clone() if made.get(name) in kept else t for name, t in tensors.items()} if kept else tensors


def _memory(tensor: Tensor) -> int:
    """What tensors on the same memory have in common; 0 for a nested one, which has it in parts."""
    return 0 if tensor.is_nested else tensor.untyped_storage()._cdata  # noqa: SLF001


def _holders(tensor: Tensor) -> int:
    """How many tensors are on the memory of this one, wherever they are; 0 if torch does not tell."""
    count = getattr(torch._C, "_storage_Use_Count", None)  # noqa: SLF001  (nothing public counts them)
    storage = tensor.untyped_storage()
    return int(count(storage._cdata)) - 1 if count is not None else 0  # noqa: SLF001  (one is `storage`)


def check_device(tensors: Tensors, device: torch.device, name: str) -> None:
    """Raise TransformError unless all tensors are on `device`, which messages call `name`."""
    for column, tensor in tensors.items():
        if tensor.device != device:
            raise TransformError(
                f"column {column!r} is on {tensor.device}; the transform must return tensors on {name}"
            )


class _Writable:
    """An array by another name, without its write protection.

    torch warns about read-only arrays, once in a process and from whichever thread comes first; filters of warnings
    are global, so asking through the array interface is the one quiet way that is safe in threads.
    """

    def __init__(self, array: Array) -> None:
        self.array = array  # keeps the memory alive: NumPy keeps this object as the base of what it makes of it
        self.__array_interface__ = {**array.__array_interface__, "data": (array.__array_interface__["data"][0], False)}
