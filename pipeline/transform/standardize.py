"""Columns with mean 0 and standard deviation 1."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import reduce
from itertools import repeat
from typing import Any, ClassVar, Literal, get_args

import torch
from torch import Tensor

from pipeline.core import Tensors, Validity
from pipeline.errors import ConfigError, DataError, TransformError
from pipeline.transform import choose, dtype_of, is_number

log = logging.getLogger(__name__)

Over = Literal["rows", "all"]
_Key = tuple[str, torch.device, torch.dtype, torch.Size]

_BLOCK = 65536

_NOISE = 2.0**-46
"""A standard deviation below this part of the mean is rounding: 64 ulp of float64. scikit-learn's bound grows with the
number of rows, so that it takes a long column of timestamps for a constant."""


@dataclass(frozen=True)
class Standardize:
    """Computes ``(x - mean) / std``, with constants given or learned in a pass over the data; NaN stays NaN.

    Floating columns keep their dtype. Arithmetic is in float64 for float64 columns and for integers of 32 and 64 bits,
    else in float32, which holds the values exactly; the part of a mean that float32 cuts off is not lost. MPS has no
    float64: float32 there.

    What is learned: mean and population standard deviation (``ddof=0``) in float64, batches merged by the formula of
    Chan, Golub and LeVeque (1979). Nulls and NaN are not counted, as in scikit-learn; a constant column is only
    centred; one without any value is left as it is, with a warning.

    Attributes:
        columns: names and globs; None means every integer and floating column.
        mean: per column a number, or nested lists in the shape of a row. None to learn it.
        std: the same, above zero. Given or learned together with `mean`.
        over: what one mean is learned over: ``rows`` gives one for each element of a row, ``all`` one for the column.
        dtype: of integer columns in the output.
    """

    columns: Sequence[str] | None = None
    mean: Mapping[str, Any] | None = None
    std: Mapping[str, Any] | None = None
    over: Over = "rows"
    dtype: str = "float32"
    rowwise: ClassVar[bool] = True
    concurrent: ClassVar[bool] = True
    _ready: dict[_Key, tuple[Tensor, Tensor | None, Tensor]] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )

    def __post_init__(self) -> None:
        if self.over not in get_args(Over):
            raise ConfigError(f"transform.over must be rows or all; got {self.over!r}")
        if not dtype_of(self.dtype, "transform.dtype").is_floating_point:
            raise ConfigError(f"transform.dtype must be a floating dtype; got {self.dtype}")
        if (self.mean is None) != (self.std is None):
            raise ConfigError("transform.mean and transform.std are given together, or neither, to learn both")
        if self.mean is None or self.std is None:
            return
        if self.mean.keys() != self.std.keys():
            odd = ", ".join(sorted(self.mean.keys() ^ self.std.keys()))
            raise ConfigError(f"transform.mean and transform.std must name the same columns; only one has {odd}")
        for name in self.mean:
            mean = _numbers(self.mean[name], f"transform.mean.{name}")
            std = _numbers(self.std[name], f"transform.std.{name}")
            if not (mean.isfinite().all() and std.isfinite().all() and (std > 0).all()):
                raise ConfigError(f"transform.mean.{name} must be finite and transform.std.{name} finite and above 0")

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_ready": {}}  # tensors of this process's device stay here

    # ---- apply

    def __call__(self, tensors: Tensors) -> Tensors:
        """The columns, those chosen standardized."""
        if not self.fitted:
            raise TransformError("Standardize is not fitted; fit it first, or give transform.mean and transform.std")
        return {**tensors, **{name: self._scale(name, tensors[name]) for name in self._chosen(tensors)}}

    def with_validity(self, tensors: Tensors, validity: Validity) -> Tensors:  # noqa: ARG002  (nulls follow by name)
        """As the plain call; what lies under nulls does not matter."""
        return self(tensors)

    def _chosen(self, tensors: Tensors) -> list[str]:
        dense = "integers or floating-point numbers, in rows of one shape"
        return choose(tensors, self.columns, fits=lambda x: is_number(x) and not x.is_nested, kind=dense)

    def _scale(self, name: str, x: Tensor) -> Tensor:
        out = x.dtype if x.dtype.is_floating_point else dtype_of(self.dtype, "transform.dtype")
        work = _arithmetic(x, out)
        key = (name, x.device, work, x.shape[1:])
        if key not in self._ready:
            self._ready[key] = self._constants(*key)
        mean, rest, std = self._ready[key]
        scaled = x - mean if x.dtype == work else x.to(work).sub_(mean)
        if rest is not None:
            scaled.sub_(rest)
        scaled.div_(std)
        return scaled if work == out else scaled.to(out)

    def _constants(
        self, name: str, device: torch.device, dtype: torch.dtype, shape: torch.Size
    ) -> tuple[Tensor, Tensor | None, Tensor]:
        """Mean, what the dtype cuts off of it (None where that cannot be seen in the result), standard deviation."""
        assert self.mean is not None
        assert self.std is not None
        if name not in self.mean:
            raise ConfigError(
                f"column {name!r} has no mean and std; there are for: {', '.join(self.mean) or 'none'}. Name the "
                "columns to standardize in transform.columns"
            )
        mean, std = _numbers(self.mean[name], "transform.mean"), _numbers(self.std[name], "transform.std")
        for key, value in (("mean", mean), ("std", std)):
            if value.shape not in (shape, torch.Size()):
                raise ConfigError(
                    f"transform.{key}.{name} has shape {list(value.shape)}; a row of the column has {list(shape)}. "
                    "Give that shape, or one number for the whole column"
                )
        rest = mean - mean.to(dtype).double()
        seen = bool((rest.abs() > torch.finfo(dtype).eps * std).any())
        return mean.to(device, dtype), rest.to(device, dtype) if seen else None, std.to(device, dtype)

    # ---- fit

    @property
    def fitted(self) -> bool:
        """Whether the constants are known."""
        return self.mean is not None

    def start(self) -> Tensors:
        """No column seen."""
        return {}

    def update(self, state: Tensors, tensors: Tensors, validity: Validity) -> Tensors:
        """Count, mean and M2 (sum of squared deviations) of the batch, merged into the state."""
        batch = {}
        for name in self._chosen(tensors):
            x = tensors[name].cpu() if tensors[name].device.type == "mps" else tensors[name]
            valid = validity[name].to(x.device) if name in validity else None
            facts = reduce(_merged, (_moments(*block, self.over) for block in _blocks(x, valid)))
            batch.update({f"{name}/{fact}": value.cpu() for fact, value in facts.items()})
        return self.merge(state, batch)

    def merge(self, first: Tensors, second: Tensors) -> Tensors:
        """Statistics of what both have seen."""
        merged = {**first, **second}
        for name in _names(first.keys() & second.keys()):
            facts = _merged(_facts(first, name), _facts(second, name))
            merged.update({f"{name}/{fact}": value for fact, value in facts.items()})
        return merged

    def finish(self, state: Tensors) -> Standardize:
        """The transform with the constants of what was seen."""
        mean, std = {}, {}
        for name in _names(state):
            facts = _facts(state, name)
            deviation = (facts["m2"] / facts["count"].clamp(min=1)).sqrt()
            if not (facts["mean"].isfinite().all() and deviation.isfinite().all()):
                raise DataError(
                    f"column {name!r} has no finite mean and standard deviation: it holds infinite or very large "
                    "values. Leave it out of transform.columns, or clip it first (transform=compose)"
                )
            if facts["rows"] > 0 and (facts["count"] == 0).any():
                log.warning("column %r has nothing but nulls and NaN, at least in one place of its rows", name)
            constant = deviation <= _NOISE * facts["mean"].abs()
            mean[name] = facts["mean"].tolist()
            std[name] = deviation.masked_fill(constant, 1.0).tolist()
        return replace(self, mean=mean, std=std)


def _arithmetic(x: Tensor, out: torch.dtype) -> torch.dtype:
    long = not x.dtype.is_floating_point and x.element_size() > 2
    wide = long or torch.float64 in (x.dtype, out)
    return torch.float64 if wide and x.device.type != "mps" else torch.float32


def _blocks(x: Tensor, valid: Tensor | None) -> Iterator[tuple[Tensor, Tensor | None]]:
    """Rows that stay in the cache of a CPU: larger temporaries cost five times as much, for the sake of fresh pages."""
    size = max(1, _BLOCK // max(1, x.shape[1:].numel())) if x.device.type == "cpu" else max(1, len(x))
    return zip(torch.split(x, size), repeat(None) if valid is None else torch.split(valid, size), strict=False)


def _moments(x: Tensor, valid: Tensor | None, over: Over) -> Tensors:
    """Facts of some rows: two passes, sixty times faster than torch.var_mean."""
    x = x.double()
    rows = torch.tensor(float(len(x)), dtype=torch.float64, device=x.device)
    counted = None if valid is None else valid.view(-1, *[1] * (x.dim() - 1)).expand_as(x)
    if x.sum().isnan():
        counted = ~x.isnan() if counted is None else counted & ~x.isnan()
    if over == "all":
        x, counted = x.flatten(), None if counted is None else counted.flatten()
    if counted is None:
        count = torch.full_like(x[:1].sum(0), len(x))
        mean = x.sum(0) / count.clamp(min=1)
        off = x - mean
    else:
        count = counted.sum(0, dtype=torch.float64)
        mean = torch.where(counted, x, 0.0).sum(0) / count.clamp(min=1)
        off = torch.where(counted, x, mean).sub_(mean)
    drift = off.sum(0) / count.clamp(min=1)  # what rounding left of the mean
    m2 = (off.square_().sum(0) - count * drift.square()).clamp(min=0)
    return {"rows": rows, "count": count, "mean": mean + drift, "m2": m2}


def _merged(a: Tensors, b: Tensors) -> Tensors:
    """Facts of both: Chan, Golub and LeVeque, "Updating formulae and a pairwise algorithm" (1979)."""
    count = a["count"] + b["count"]
    part = b["count"] / count.clamp(min=1)
    delta = b["mean"] - a["mean"]
    m2 = a["m2"] + b["m2"] + delta.square() * a["count"] * part
    return {"rows": a["rows"] + b["rows"], "count": count, "mean": a["mean"] + delta * part, "m2": m2}


def _names(keys: Iterable[str]) -> list[str]:
    return sorted({key.rpartition("/")[0] for key in keys})


def _facts(state: Tensors, name: str) -> Tensors:
    return {fact: state[f"{name}/{fact}"] for fact in ("rows", "count", "mean", "m2")}


def _numbers(value: Any, key: str) -> Tensor:
    try:
        return torch.as_tensor(value, dtype=torch.float64)
    except (TypeError, ValueError) as e:
        raise ConfigError(f"{key} must be a number or nested lists of numbers; got {value!r}") from e
