"""Several transforms as one."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from pipeline.core import (
    Fittable,
    Output,
    Setup,
    Tensors,
    Transform,
    Validity,
    apply,
    concurrent,
    rowwise,
    takes_validity,
)
from pipeline.errors import ConfigError, DTypeError, PipelineError, TransformError

Nulls = Literal["error", "mask"]


@dataclass(frozen=True)
class Compose:
    """Runs transforms in order; tensors stay on the device, nulls and rows are followed through all of them.

    Steps that learn do so one after the other, each in a pass of its own over what the steps before it return.

    Attributes:
        steps: the transforms, in a list or under names of your choice.
        nulls: what to do when a column with nulls reaches a step that does not take validity masks. ``error`` stops;
            ``mask`` lets it see unspecified values under the nulls, which is sound where it works column by column.
    """

    steps: Sequence[Transform] | Mapping[str, Transform]
    nulls: Nulls = "error"

    def __post_init__(self) -> None:
        if self.nulls not in get_args(Nulls):
            raise ConfigError(f"transform.nulls must be error or mask; got {self.nulls!r}")
        if not self.steps:
            raise ConfigError("transform.steps is empty; list transforms, or use transform=identity")
        for name, step in self._named:
            if not callable(step):
                raise ConfigError(f"transform.steps.{name} is a {type(step).__name__}; expected a transform")

    @property
    def _named(self) -> list[tuple[str, Transform]]:
        if isinstance(self.steps, Mapping):
            return list(self.steps.items())
        return [(str(i), step) for i, step in enumerate(self.steps)]

    @property
    def rowwise(self) -> bool | None:
        """Whether all steps are; None if one of them does not say."""
        said = {rowwise(step) for _, step in self._named}
        return False if False in said else None if None in said else True

    @property
    def concurrent(self) -> bool:
        """Whether all steps say so."""
        return all(concurrent(step) for _, step in self._named)

    def setup(self, device: str) -> None:
        """Prepare each step."""
        for name, step in self._named:
            with _naming(name, step):
                if isinstance(step, nn.Module):
                    step.to(device).eval()
                elif isinstance(step, Setup):
                    step.setup(device)

    def __call__(self, tensors: Tensors) -> Output:
        """What the last step makes of it."""
        return self.with_validity(tensors, {})

    def with_validity(self, tensors: Tensors, validity: Validity) -> Output:
        """As the plain call."""
        return self._run(self._named, tensors, validity)

    def _run(self, steps: list[tuple[str, Transform]], tensors: Tensors, validity: Validity) -> Output:
        out = Output(tensors, validity=validity)
        origin = {name: name for name in tensors}  # the input column that a column is, perhaps under another name
        rows = len(next(iter(tensors.values()), ()))
        for name, step in steps:
            with _naming(name, step):
                self._check_nulls(step, out.validity)
                made = apply(step, out.tensors, out.validity, rows)
            origin = {new: origin[old] for new in made.tensors if (old := made.like.get(new, new)) in origin}
            index = _chained(out.rows, made.rows)
            rows = rows if index is None else len(index)
            out = Output(made.tensors, index, made.validity)
        # A column without nulls says so where its name would give it those of an input column.
        parents = {name: origin.get(name, name) for name in out.tensors}
        full = [name for name, old in parents.items() if old in validity and name not in out.validity]
        complete = {name: torch.ones(rows, dtype=torch.bool, device=out.tensors[name].device) for name in full}
        like = {name: old for name, old in parents.items() if name != old}
        return Output(out.tensors, out.rows, {**out.validity, **complete}, like)

    def _check_nulls(self, step: Transform, validity: Validity) -> None:
        if validity and self.nulls == "error" and not takes_validity(step):
            raise DTypeError(
                f"column {next(iter(validity))!r} holds nulls and this step does not take validity masks. "
                "transform.nulls=mask keeps them null if it works column by column (values under nulls are "
                "unspecified), conversion.nulls=fill puts conversion.fill_value in their place"
            )

    # ---- fit

    @property
    def fitted(self) -> bool:
        """Whether all steps are."""
        return all(not isinstance(step, Fittable) or step.fitted for _, step in self._named)

    def start(self) -> Tensors:
        """The state of the step that learns in this pass, the first that is not fitted."""
        _, name, step = self._learner
        with _naming(name, step):
            return step.start()

    def update(self, state: Tensors, tensors: Tensors, validity: Validity) -> Tensors:
        """State after one more batch, as the steps before return it."""
        place, name, step = self._learner
        out = self._run(self._named[:place], tensors, validity)
        with _naming(name, step):
            return step.update(state, out.tensors, out.validity)

    def merge(self, first: Tensors, second: Tensors) -> Tensors:
        """State of both."""
        _, name, step = self._learner
        with _naming(name, step):
            return step.merge(first, second)

    def finish(self, state: Tensors) -> Compose:
        """The same with that step fitted; another may have to learn from what it returns."""
        place, name, step = self._learner
        with _naming(name, step):
            done = step.finish(state)
        steps = [(n, done if i == place else s) for i, (n, s) in enumerate(self._named)]
        return replace(self, steps=dict(steps) if isinstance(self.steps, Mapping) else [s for _, s in steps])

    @property
    def _learner(self) -> tuple[int, str, Fittable]:
        for place, (name, step) in enumerate(self._named):
            if isinstance(step, Fittable) and not step.fitted:
                return place, name, step
        raise TransformError("every step is fitted; there is nothing to learn")


def _chained(first: Tensor | None, then: Tensor | None) -> Tensor | None:
    """Rows of the input behind the rows of the output, when `then` selects among those that `first` selected."""
    if then is None:
        return first
    index = then.nonzero().flatten() if then.dtype == torch.bool else then
    return index if first is None else first[index.to(first.device)]


@contextmanager
def _naming(name: str, step: object) -> Iterator[None]:
    """Errors say which step they come from. Running out of memory is no fault of a step, and keeps its class."""
    kind = getattr(step, "__qualname__", None) or getattr(getattr(step, "func", None), "__qualname__", None)
    where = f"step {name!r} ({kind or type(step).__name__})"
    try:
        yield
    except torch.OutOfMemoryError:
        raise
    except PipelineError as e:
        raise type(e)(f"{where}: {e}") from e.__cause__
    except Exception as e:
        raise TransformError(f"{where} raised {type(e).__name__}: {e}") from e
