"""The transforms of W4 and W5 as this stage takes them: from named tensors to named tensors."""

from __future__ import annotations

import transforms
from torch import Tensor


def unit(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Rows of length 1."""
    return {"x": transforms.unit(tensors["x"])}


def shrink(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Images of half the size."""
    return {"data": transforms.shrink(tensors["data"])}


for _each in (unit, shrink):  # a row depends on itself alone, and nothing is kept between two calls
    _each.rowwise = _each.concurrent = True  # type: ignore[attr-defined]
