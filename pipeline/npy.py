"""Arrays as a ``.npy`` file holds them: what stands before the values, and their bytes."""

from __future__ import annotations

import io
from typing import Any

import numpy as np

from pipeline.core import Array, ArrayField
from pipeline.errors import DTypeError


def npy_header(field: ArrayField, rows: int) -> bytes:
    """What stands before the values of `rows` rows in a ``.npy`` file, byte for byte as `numpy.save` writes it.

    Its length does not depend on `rows`, so that it can be written again when they have been counted; only the one row
    of a field that is a single value (0-d) has no axis.

    Raises:
        DTypeError: a ``.npy`` file cannot hold the dtype, or would give it back changed.
    """
    out = io.BytesIO()
    try:
        descr = _npy_descr(field.dtype)
        shape = () if field.scalar and rows == 1 else (rows, *field.shape)
        header = {"descr": descr, "fortran_order": False, "shape": shape}
        try:
            np.lib.format.write_array_header_1_0(out, header)
        except UnicodeError:
            raise
        except ValueError:  # longer than the 64 KiB of version 1.0
            np.lib.format.write_array_header_2_0(out, header)
    except ValueError as e:
        raise DTypeError(
            f"column {field.name!r} is {field}, which a .npy file cannot hold: {e}. Cast it in the transform "
            "(transform=cast), or leave it out of the columns that are carried"
        ) from e
    return out.getvalue()


def _npy_descr(dtype: np.dtype[Any]) -> Any:
    if dtype.hasobject or dtype.kind == "T":
        raise ValueError("it would be stored as a pickle, which is never read")
    if dtype.metadata:
        raise ValueError("the metadata of its dtype would be lost")
    descr = np.lib.format.dtype_to_descr(dtype)
    if (back := np.lib.format.descr_to_dtype(descr)) != dtype:
        raise ValueError(f"it would come back as {back}")
    return descr


def raw(array: Array) -> memoryview:
    """The bytes of an array in C order, without a copy if it has that order. Any dtype without objects."""
    if not array.nbytes:
        return memoryview(b"")
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8).data
