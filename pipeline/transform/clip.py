"""Values pressed between two bounds."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import ClassVar

import torch
from torch import Tensor

from pipeline.core import Tensors, Validity
from pipeline.errors import ConfigError
from pipeline.transform import choose, dtype_name, is_number

_SIGNED = {torch.uint16: torch.int16, torch.uint32: torch.int32, torch.uint64: torch.int64}


@dataclass(frozen=True)
class Clip:
    """Replaces values below `min` by it, and values above `max`; dtypes stay, NaN and nulls too.

    An integer column takes the nearest integers within the bounds: ``min=0.5`` is 1 there. In a floating column a
    bound is rounded to the dtype, as every number is.

    Attributes:
        min: smallest value that is left, or None.
        max: largest value that is left, or None.
        columns: names and globs; None means every integer and floating column.
    """

    min: float | None = None
    max: float | None = None
    columns: Sequence[str] | None = None
    rowwise: ClassVar[bool] = True
    concurrent: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if self.min is None and self.max is None:
            raise ConfigError("transform.min and transform.max are both null, which clips nothing; give one of them")
        if any(bound is not None and math.isnan(bound) for bound in (self.min, self.max)):
            raise ConfigError(f"transform.min and transform.max must be numbers; got {self.min} and {self.max}")
        if self.min is not None and self.max is not None and self.min > self.max:
            raise ConfigError(f"transform.min must not be above transform.max; got {self.min} and {self.max}")

    def __call__(self, tensors: Tensors) -> Tensors:
        """The columns, those chosen clipped."""
        chosen = choose(tensors, self.columns, fits=is_number, kind="integers or floating-point numbers")
        return {**tensors, **{name: self._clip(name, tensors[name]) for name in chosen}}

    def with_validity(self, tensors: Tensors, validity: Validity) -> Tensors:  # noqa: ARG002  (nulls follow by name)
        """As the plain call; what lies under nulls does not matter."""
        return self(tensors)

    def _clip(self, name: str, tensor: Tensor) -> Tensor:
        if tensor.dtype.is_floating_point:
            # float8 can be stored and converted, no more; float32 holds all its values.
            wide = tensor.float() if tensor.element_size() == 1 else tensor
            clipped = wide.clamp(*(bound and _rounded(bound, wide.dtype) for bound in (self.min, self.max)))
            return clipped if wide is tensor else clipped.to(tensor.dtype)
        first, last = self._whole(name, tensor.dtype)
        if first is None and last is None:
            return tensor
        if tensor.dtype not in _SIGNED:
            return tensor.clamp(first, last)
        # torch does not compare these dtypes. With the top bit flipped, the signed integers have the same order.
        signed = _SIGNED[tensor.dtype]
        flip = torch.iinfo(signed).min
        first, last = (None if bound is None else bound + flip for bound in (first, last))
        return (tensor.view(signed) ^ flip).clamp_(first, last).bitwise_xor_(flip).view(tensor.dtype)

    def _whole(self, name: str, dtype: torch.dtype) -> tuple[int | None, int | None]:
        """The bounds as integers of the dtype; None where they bind nothing."""
        first, last = torch.iinfo(dtype).min, torch.iinfo(dtype).max
        low = first if self.min is None or self.min <= first else self.min
        high = last if self.max is None or self.max >= last else self.max
        if low > last or high < first or math.ceil(low) > math.floor(high):
            raise ConfigError(
                f"transform.min={self.min} and transform.max={self.max} leave nothing of column {name!r}, which is "
                f"{dtype_name(dtype)}; leave it out of transform.columns, or cast it first"
            )
        return (math.ceil(low) if low > first else None), (math.floor(high) if high < last else None)


@lru_cache(maxsize=64)
def _rounded(bound: float, dtype: torch.dtype) -> float:
    """The bound as a value of the dtype, infinite if it is beyond (torch refuses such a bound).

    Not for zero, which is one in every dtype: a cache takes 0.0 and -0.0 for the same.
    """
    return float(torch.tensor(float(bound), dtype=torch.float64).to(dtype))
