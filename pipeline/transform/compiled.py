"""Your own function, compiled."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from torch import nn

from pipeline import compiling
from pipeline.core import Fittable, Output, Setup, Tensors, Transform, rowwise, takes_validity
from pipeline.errors import ConfigError

_KEY = "transform.backend"


@dataclass(frozen=True)
class Compiled:
    """Calls a transform through torch.compile: many small steps become a few kernels.

    Results may differ in the last digits, since sums are taken in another order. For transforms of one plain call:
    none that learns, or takes validity masks.

    Attributes:
        step: a function, an object or an ``nn.Module`` from named tensors to named tensors.
        backend: true for torch's own, or the name of another that torch knows; false compiles nothing.
    """

    step: Transform
    backend: compiling.Backend = True

    def __post_init__(self) -> None:
        if not callable(self.step):
            raise ConfigError(f"transform.step is a {type(self.step).__name__}; expected a transform")
        if isinstance(self.step, Fittable) or takes_validity(self.step):
            raise ConfigError(
                f"transform.step: {type(self.step).__name__} learns or takes validity masks; compiled are plain "
                "functions and modules. transform=module has a key compile of its own"
            )
        compiling.check(self.backend, _KEY)

    def __str__(self) -> str:
        name = getattr(self.step, "__qualname__", None) or type(self.step).__name__
        return f"{name} (compiled)" if self.backend else str(name)

    def __getstate__(self) -> dict[str, Any]:
        return {"step": self.step, "backend": self.backend}  # kernels are made where they are used

    @property
    def rowwise(self) -> bool | None:
        """As the step says."""
        return rowwise(self.step)

    def setup(self, device: str) -> None:
        """Prepare the step, and see that there is a compiler."""
        compiling.check_compiler(self.backend, device, _KEY)
        if isinstance(self.step, nn.Module):
            self.step.to(device).eval()
        elif isinstance(self.step, Setup):
            self.step.setup(device)

    def __call__(self, tensors: Tensors) -> Tensors | Output:
        """What the step returns."""
        made: Tensors | Output = self._function(tensors)
        return made

    @cached_property
    def _function(self) -> Callable[..., Any]:
        return compiling.compiled(self.step, self.backend, _KEY)
