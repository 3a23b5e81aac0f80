"""What may happen to values on their way into tensors and back, in fixed words; for all columns or some by name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from fnmatch import fnmatchcase
from typing import Any

import numpy as np

from pipeline.core import Array
from pipeline.errors import ConfigError

WORDS: dict[str, tuple[str, ...]] = {
    "nulls": ("auto", "error", "mask", "fill"),
    "unsupported": ("error", "passthrough", "drop"),
    "cast": ("no", "equiv", "safe", "same_kind", "unsafe"),
    "cast_check": ("exact", "range", "off"),
    "unsigned": ("native", "widen"),
    "byteorder": ("preserve", "native"),
    "dictionary": ("error", "codes"),
    "ragged": ("error", "jagged"),
    "memory": ("auto", "share", "copy"),
    "layout": ("columnar", "rows"),
    "mixed_dtypes": ("error", "group"),
    "narrow_floats": ("error", "bits", "float32"),
}
"""Every key that takes a word, with its words; the first is the default."""

LOGICAL: dict[str, str] = {
    "bfloat16": "u2",
    "float8_e4m3fn": "u1",
    "float8_e5m2": "u1",
    "float8_e4m3fnuz": "u1",
    "float8_e5m2fnuz": "u1",
    "float8_e8m0fnu": "u1",
}
"""Floats that torch has and NumPy and Arrow lack, with the unsigned integers that hold their bits."""

COMPLEX: dict[str, str] = {"complex64": "f4", "complex128": "f8"}
"""Numbers that Arrow lacks, with the floats that hold their real and imaginary part."""

_WIDER = {"u2": "i4", "u4": "i8", "u8": "i8"}


@dataclass(frozen=True)
class Policy:
    """What may happen to one column.

    Attributes:
        nulls: ``error``, ``mask`` (values and validity travel apart) or ``fill``; ``auto`` is decided by the driver.
        fill_value: what ``fill`` puts in the place of nulls.
        unsupported: a column chosen by name that tensors cannot hold: ``error``, ``passthrough`` (carry) or ``drop``.
        dtype: dtype of the tensor, if not the column's own; `cast` must allow the way in and back.
        cast: casts allowed, in NumPy's words (`numpy.can_cast`).
        cast_check: what each batch is checked for: ``exact`` round trip, ``range``, or nothing (``off``).
        unsigned: ``widen`` gives uint16, 32 and 64 to the transform as int32, int64 and (checked) int64.
        byteorder: of NumPy files written: ``preserve`` that of the input, or ``native``.
        dictionary: ``codes`` gives the indices of a dictionary column to the transform.
        ragged: ``jagged`` gives lists of different lengths to the transform as nested tensors of that layout.
        logical_dtype: what the unsigned integers (or void bytes) of the column stand for, such as bfloat16.
    """

    nulls: str = "auto"
    fill_value: float = 0
    unsupported: str = "error"
    dtype: str | None = None
    cast: str = "no"
    cast_check: str = "exact"
    unsigned: str = "native"
    byteorder: str = "preserve"
    dictionary: str = "error"
    ragged: str = "error"
    logical_dtype: str | None = None

    def __post_init__(self) -> None:
        check_words(self)
        if self.logical_dtype is not None and self.logical_dtype not in LOGICAL:
            raise ConfigError(
                f"conversion.logical_dtype must be one of {', '.join(LOGICAL)}; got {self.logical_dtype!r}"
            )
        if self.dtype is not None:
            _check_dtype(self.dtype)

    def tensor_dtype(self, stored: np.dtype[Any], name: str) -> np.dtype[Any]:
        """Dtype of the tensor for a column stored as `stored`.

        Raises:
            ConfigError: it is declared, and `cast` does not allow it in and back.
        """
        if self.dtype is not None:
            wanted = np.dtype(self.dtype)
            if wanted != stored and not np.can_cast(stored, wanted, self.cast):  # type: ignore[arg-type]
                raise ConfigError(
                    f"conversion.dtype={self.dtype} for column {name!r} needs a cast from {stored}, which "
                    f"conversion.cast={self.cast} does not allow; {_least(stored, wanted)} would"
                )
            return wanted
        if self.unsigned == "widen" and stored.str[1:] in _WIDER:
            return np.dtype(_WIDER[stored.str[1:]])
        return stored


@dataclass(frozen=True)
class Conversion:
    """The policy of a table: one for all columns, and exceptions by name or glob.

    Attributes:
        policy: for every column that `columns` does not name.
        columns: keys of `Policy` for names and globs; later entries win over earlier ones.
        memory: ``auto`` (share with the source unless the transform writes in place), ``share`` or ``copy``.
        layout: memory of stacked columns: ``columnar`` (F, N) given as a transposed view, or ``rows`` (N, F).
        mixed_dtypes: stacking columns of several dtypes: ``error``, or ``group`` by dtype as ``name.int64``, ...
        unstack: take stacked columns apart again; None = if the sink keeps a table.
        narrow_floats: output of bfloat16 or float8: ``error``, ``bits`` (as unsigned integers) or ``float32``.
    """

    policy: Policy = field(default_factory=Policy)
    columns: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    memory: str = "auto"
    layout: str = "columnar"
    mixed_dtypes: str = "error"
    unstack: bool | None = None
    narrow_floats: str = "error"

    def __post_init__(self) -> None:
        check_words(self)
        known = [f.name for f in fields(Policy)]
        if not isinstance(self.columns, Mapping) or not all(
            isinstance(keys, Mapping) for keys in self.columns.values()
        ):
            raise ConfigError(f"conversion.columns must be {{name: {{key: value}}}}; got {self.columns!r}")
        for name, keys in self.columns.items():
            for key in keys:
                if key not in known:
                    raise ConfigError(f"conversion.columns.{name}: unknown key {key!r}; keys are {', '.join(known)}")
            replace(self.policy, **keys)

    def of(self, name: str) -> Policy:
        """The policy of a column."""
        policy = self.policy
        for pattern, keys in self.columns.items():
            if name == pattern or fnmatchcase(name, pattern):
                policy = replace(policy, **keys)
        return policy

    def with_nulls(self, word: str) -> Conversion:
        """The same with another word for nulls where it is ``auto``."""
        policy = replace(self.policy, nulls=word) if self.policy.nulls == "auto" else self.policy
        columns = {
            name: {**keys, **({"nulls": word} if keys.get("nulls") == "auto" else {})}
            for name, keys in self.columns.items()
        }
        return replace(self, policy=policy, columns=columns)


def conversion(keys: Mapping[str, Any]) -> Conversion:
    """The policy of a table from the flat keys of the configuration."""
    own = {f.name for f in fields(Conversion)} - {"policy"}
    keys = _said(keys)
    if isinstance(keys["columns"], Mapping):
        keys["columns"] = {n: _said(k) if isinstance(k, Mapping) else k for n, k in keys["columns"].items()}
    policy = Policy(**{key: value for key, value in keys.items() if key not in own})
    return Conversion(policy, **{key: value for key, value in keys.items() if key in own})


def _said(keys: Mapping[str, Any]) -> dict[str, Any]:
    """The words that were written: YAML reads a bare `no` and `off` as false."""
    meant = {"cast": "no", "cast_check": "off"}
    return {k: meant[k] if k in meant and str(value) == "False" else value for k, value in keys.items()}


def check_words(holder: Policy | Conversion) -> None:
    """Refuse a word that a key does not know."""
    for key, words in WORDS.items():
        value = getattr(holder, key, words[0])
        if value not in words:
            raise ConfigError(f"conversion.{key} must be one of {', '.join(words)}; got {value!r}")


def _check_dtype(name: str) -> None:
    try:
        kind = np.dtype(name).kind
    except TypeError as e:
        raise ConfigError(f"conversion.dtype: there is no dtype {name!r}") from e
    if kind not in "biufc":
        raise ConfigError(f"conversion.dtype must be numbers or booleans; got {name!r}")


def _least(stored: np.dtype[Any], wanted: np.dtype[Any]) -> str:
    return next(word for word in WORDS["cast"] if np.can_cast(stored, wanted, word))  # type: ignore[arg-type]


# ---- casts -----------------------------------------------------------------------------------------------------------


def cast(array: Array, dtype: np.dtype[Any], check: str, valid: Array | None) -> tuple[Array, str]:
    """Values in another dtype, and what is wrong with them: "" if nothing is.

    Args:
        array: ``(rows, ...)``.
        dtype: the dtype wanted.
        check: ``exact``: casting back gives the same values (any NaN counts as NaN); ``range``: values lie within the
            limits of an integer dtype; ``off``.
        valid: bool ``(rows,)``; other rows are not checked.
    """
    with np.errstate(all="ignore"):
        made = array.astype(dtype)
        if check == "off" or not array.size:
            return made, ""
        good = _in_range(array, dtype) if check == "range" else _round_trips(array, made)
    if valid is not None:
        good = good | ~valid.reshape(-1, *[1] * (array.ndim - 1))
    if good.all():
        return made, ""
    first = tuple(int(i) for i in np.argwhere(~good)[0])
    return made, f"value {array[first]} in row {first[0]} of this batch is no {dtype}"


def _round_trips(array: Array, made: Array) -> Array:
    same: Array = made.astype(array.dtype) == array
    if array.dtype.kind in "iu" and made.dtype.kind in "fc":
        # Infinity, and the float next above the largest integer, may cast back to a limit.
        limit = np.iinfo(array.dtype)
        same &= np.isfinite(made) & (made.real < float(limit.max) + (1 if limit.max < 2**53 else 0))
    if array.dtype.kind in "fc" and made.dtype.kind in "iu":
        same &= _in_range(array, made.dtype)  # what lies outside casts to another number on each processor
    if array.dtype.kind == "u" and made.dtype.kind == "i":
        same &= made >= 0
    if array.dtype.kind == "i" and made.dtype.kind == "u":
        same &= array >= 0
    if array.dtype.kind in "fc" and made.dtype.kind in "fc":
        same |= np.isnan(array) & np.isnan(made)
    return same


def _in_range(array: Array, dtype: np.dtype[Any]) -> Array:
    if dtype.kind not in "iu":
        finite = np.isfinite(array.astype(dtype)) if array.dtype.kind in "fc" else np.ones(array.shape, bool)
        return finite | ~np.isfinite(array)
    limit = np.iinfo(dtype)
    if array.dtype.kind in "iu":
        low = array >= max(limit.min, int(np.iinfo(array.dtype).min))
        return low & (array <= min(limit.max, int(np.iinfo(array.dtype).max)))
    real = array.real
    inside: Array = np.isfinite(real) & (real >= float(limit.min)) & (real < float(limit.max) + 1)
    return inside
