"""The transform that changes nothing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from pipeline.core import Tensors, Validity


@dataclass(frozen=True)
class Identity:
    """Returns its input: every bit, every null."""

    rowwise: ClassVar[bool] = True
    concurrent: ClassVar[bool] = True

    def __call__(self, tensors: Tensors) -> Tensors:
        """The same tensors."""
        return tensors

    def with_validity(self, tensors: Tensors, validity: Validity) -> Tensors:  # noqa: ARG002  (nulls follow by name)
        """The same tensors."""
        return tensors
