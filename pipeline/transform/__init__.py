"""What happens to the tensors. Here: how the built-in transforms are told about columns and dtypes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from difflib import get_close_matches
from fnmatch import fnmatchcase

import torch
from torch import Tensor

from pipeline.core import Tensors
from pipeline.errors import ConfigError, DTypeError

DTYPES: dict[str, torch.dtype] = {
    name: getattr(torch, name)
    for name in (
        *("bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"),
        *("float16", "bfloat16", "float32", "float64", "complex64", "complex128"),
    )
}
"""Names that NumPy and torch agree on; "float", "int" or "long" mean different things to them."""


def choose(
    tensors: Tensors,
    patterns: Sequence[str] | None,
    key: str = "transform.columns",
    fits: Callable[[Tensor], bool] | None = None,
    kind: str = "",
) -> list[str]:
    """Names of the columns that are meant, in the order of `patterns`, each once.

    Args:
        tensors: the columns there are.
        patterns: names and globs; None means every column that fits.
        key: where in the YAML the patterns stand.
        fits: what a column must be. A glob matches only columns that fit; one that is named must.
        kind: `fits` in words.

    Raises:
        ConfigError: a name or glob that matches nothing.
        DTypeError: a column is named that does not fit.
    """
    fitting = [name for name, tensor in tensors.items() if fits is None or fits(tensor)]
    if patterns is None:
        return fitting
    chosen: dict[str, None] = {}
    for pattern in [patterns] if isinstance(patterns, str) else patterns:
        if pattern in tensors and pattern not in fitting:
            raise DTypeError(f"{key}: column {pattern!r} is {dtype_name(tensors[pattern].dtype)}; expected {kind}")
        hits = [pattern] if pattern in tensors else [name for name in fitting if fnmatchcase(name, pattern)]
        if not hits:
            raise ConfigError(f"{key}: {pattern!r} matches no tensor column{suggest(pattern, tensors)}")
        chosen.update(dict.fromkeys(hits))
    return list(chosen)


def suggest(name: str, known: Iterable[str]) -> str:
    """The end of a message about an unknown name: what may have been meant, and what there is."""
    known = list(known)
    near = get_close_matches(name, known, n=1)
    meant = f" - did you mean {near[0]!r}?" if near else "."
    return f"{meant} There are: {', '.join(known) or 'none'}"


def is_number(tensor: Tensor) -> bool:
    """Whether a column holds integers or floating-point numbers, neither truth values nor complex ones."""
    return tensor.dtype != torch.bool and not tensor.dtype.is_complex


def dtype_of(name: str, key: str) -> torch.dtype:
    """The dtype of this name.

    Raises:
        ConfigError: there is none; `key` says where in the YAML.
    """
    if name not in DTYPES:
        raise ConfigError(f"{key}: no dtype is called {name!r}{suggest(str(name), DTYPES)}")
    return DTYPES[name]


def dtype_name(dtype: torch.dtype) -> str:
    """The name without ``torch.``."""
    return str(dtype).removeprefix("torch.")
