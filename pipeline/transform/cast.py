"""Columns under another dtype, with a look at whether the values survive."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal, get_args

import torch
from torch import Tensor

from pipeline.core import Tensors, Validity
from pipeline.errors import ConfigError, TransformError
from pipeline.transform import choose, dtype_name, dtype_of

Check = Literal["exact", "range", "off"]


@dataclass(frozen=True)
class Cast:
    """Changes dtypes; a value that the new dtype would change is an error that names it.

    Attributes:
        dtype: one dtype for all chosen columns, or one for each: ``{column or glob: dtype}``, of which the last counts.
        columns: names and globs that one `dtype` is for; None means every tensor column.
        check: what is an error. ``exact``: any change of a value. ``range``: overflow, NaN as an integer, a lost
            imaginary part; fractions are cut and digits rounded. ``off``: nothing; torch wraps, cuts and rounds.
            Null rows are never looked at, nor are casts that cannot fail.
    """

    dtype: str | Mapping[str, str]
    columns: Sequence[str] | None = None
    check: Check = "exact"
    rowwise: ClassVar[bool] = True
    concurrent: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if self.check not in get_args(Check):
            raise ConfigError(f"transform.check must be one of {', '.join(get_args(Check))}; got {self.check!r}")
        if not isinstance(self.dtype, str) and self.columns is not None:
            raise ConfigError("transform.dtype names its columns already; leave transform.columns null")
        for name in [self.dtype] if isinstance(self.dtype, str) else self.dtype.values():
            dtype_of(name, "transform.dtype")

    def __call__(self, tensors: Tensors) -> Tensors:
        """The columns, those chosen under their new dtype."""
        return self.with_validity(tensors, {})

    def with_validity(self, tensors: Tensors, validity: Validity) -> Tensors:
        """As the plain call; what lies under nulls does not matter."""
        chosen = self._dtypes(tensors)
        return {**tensors, **{name: self._cast(name, tensors[name], to, validity) for name, to in chosen.items()}}

    def _dtypes(self, tensors: Tensors) -> dict[str, torch.dtype]:
        if isinstance(self.dtype, str):
            return dict.fromkeys(choose(tensors, self.columns), dtype_of(self.dtype, "transform.dtype"))
        return {
            name: dtype_of(dtype, "transform.dtype")
            for pattern, dtype in self.dtype.items()
            for name in choose(tensors, [pattern], "transform.dtype")
        }

    def _cast(self, name: str, old: Tensor, dtype: torch.dtype, validity: Validity) -> Tensor:
        if old.dtype == dtype:
            return old
        # Said outright, since torch drops the imaginary part with a warning.
        new = (old.real if old.is_complex() and not dtype.is_complex else old).to(dtype)
        if self.check == "off" or _holds(dtype, old.dtype):
            return new
        wrong = ~(_exact(old, new) if self.check == "exact" or dtype == torch.bool else _in_range(old, new))
        if name in validity:
            wrong &= _per_row(validity[name], wrong)
        if wrong.any():
            first = wrong.nonzero()[0]
            raise TransformError(
                f"column {name!r}: {old[tuple(first)].item()} in row {int(first[0])} of this batch is no "
                f"{dtype_name(dtype)}. Cast to a dtype that holds it, or set transform.check="
                + ("range or off" if self.check == "exact" else "off")
            )
        return new


def _per_row(valid: Tensor, like: Tensor) -> Tensor:
    return valid.view(-1, *[1] * (like.dim() - 1))


def _holds(new: torch.dtype, old: torch.dtype) -> bool:
    """Whether each value of `old` is one of `new`, so that no value need be looked at."""
    if old.is_complex and not new.is_complex:
        return False
    old, new = (dtype.to_real() if dtype.is_complex else dtype for dtype in (old, new))
    if old.is_floating_point:
        return new.is_floating_point and _digits(new) >= _digits(old) and torch.finfo(new).max >= torch.finfo(old).max
    first, last = _span(old)
    low, high = (-_digits(new), _digits(new)) if new.is_floating_point else _span(new)
    return low <= first and last <= high


def _digits(dtype: torch.dtype) -> int:
    """All integers up to this one are values of the floating dtype: 2**24 for float32."""
    return int(2 / torch.finfo(dtype).eps)


def _span(dtype: torch.dtype) -> tuple[int, int]:
    return (0, 1) if dtype == torch.bool else (torch.iinfo(dtype).min, torch.iinfo(dtype).max)


def _exact(old: Tensor, new: Tensor) -> Tensor:
    """Which values are the same under both dtypes. Coming back is not enough: uint64 wraps to int64 and comes back."""
    if old.is_complex() or new.is_complex():
        return _by_parts(old, new, _exact)
    same = new.to(old.dtype) == old
    if old.is_floating_point():
        return same | old.isnan() if new.is_floating_point() else same & _within(old, new.dtype)
    if new.is_floating_point():  # the largest integer may round up to a float beyond it, which may come back as it
        return same & _within(new, old.dtype)
    return same & (_negative(old) == _negative(new))


def _in_range(old: Tensor, new: Tensor) -> Tensor:
    """Which values the new dtype can hold if they may be rounded."""
    if old.is_complex() or new.is_complex():
        return _by_parts(old, new, _in_range)
    if new.is_floating_point():
        return new.isfinite() | ~old.isfinite()
    return _within(_wide(old).trunc(), new.dtype) if old.is_floating_point() else _exact(old, new)


def _by_parts(old: Tensor, new: Tensor, check: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    """`check` on real and imaginary parts; a real value has an imaginary part of zero."""
    if not old.is_complex():
        return check(old, new.real)
    if not new.is_complex():
        return check(old.real, new) & (old.imag == 0)
    return check(old.real, new.real) & check(old.imag, new.imag)


def _within(values: Tensor, dtype: torch.dtype) -> Tensor:
    """Which floats lie between the smallest and the largest value of an integer dtype."""
    low, high = _span(dtype)
    wide = _wide(values)
    return (wide >= float(low)) & (wide < float(high + 1))


def _wide(values: Tensor) -> Tensor:
    """The same floats in a dtype that has 2**63, to compare with."""
    return values.float() if values.element_size() < 4 else values


def _negative(values: Tensor) -> Tensor:
    return values < 0 if _span(values.dtype)[0] < 0 else torch.zeros_like(values, dtype=torch.bool)
