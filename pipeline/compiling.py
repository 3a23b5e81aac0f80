"""torch.compile for what is called batch by batch: compiled once, whatever the rows of a batch.

The kernels stay in a folder of the user, so that only the first run waits for the compiler, 15 seconds or more.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.errors import ConfigError, TransformError

if TYPE_CHECKING:
    from torch import Tensor

Backend = bool | str
"""False for none, True for torch's own (inductor), or the name of another that torch knows."""


def check(backend: Backend, key: str) -> None:
    """Raise ConfigError unless torch knows the backend and, for inductor on a CPU, has a compiler to call."""
    if backend is False:
        return
    _settle()
    import torch

    known = torch.compiler.list_backends(exclude_tags=None)
    if backend is not True and backend not in known:
        raise ConfigError(f"{key} must be true, false or one of {', '.join(known)}; got {backend!r}")


def check_compiler(backend: Backend, device: str, key: str) -> None:
    """Raise ConfigError if kernels for the CPU are asked for and nothing here can make them."""
    if backend not in (True, "inductor") or device != "cpu":
        return
    from torch._inductor.cpp_builder import get_cpp_compiler
    from torch._inductor.exc import InvalidCxxCompiler

    try:
        get_cpp_compiler()
    except InvalidCxxCompiler as e:
        raise ConfigError(
            f"{key}={str(backend).lower()} needs a C++ compiler, and there is none: install g++ (or another, named by "
            f"CXX), or set {key}=false"
        ) from e


def compiled(function: Callable[..., Any], backend: Backend | Callable[..., Any], key: str) -> Callable[..., Any]:
    """The function, compiled at its first call with two rows or more; its arguments are tensors, or dicts of them.

    Batches of no row or one go to the function as it is: torch would compile once more for each of the two.
    """
    if backend is False:
        return function
    import torch
    from torch._dynamo import maybe_mark_dynamic
    from torch._dynamo.exc import TorchDynamoException

    made = torch.compile(function, backend="inductor" if backend is True else backend)

    def call(*arguments: Any) -> Any:
        tensors = list(_tensors(arguments))
        if any(len(tensor) < 2 for tensor in tensors):
            return function(*arguments)
        for tensor in tensors:
            if not tensor.is_nested:
                maybe_mark_dynamic(tensor, 0)
        try:
            return made(*arguments)
        except TorchDynamoException as e:
            cause = getattr(e, "inner_exception", e)
            why = next(iter(str(cause).splitlines()), "")
            raise TransformError(f"it cannot be compiled: {type(cause).__name__}: {why}. Set {key}=false") from e

    return call


def _tensors(arguments: tuple[Any, ...]) -> Iterator[Tensor]:
    for argument in arguments:
        yield from argument.values() if isinstance(argument, dict) else [argument]


def _settle() -> None:
    """Compile in this process, and keep what was made where caches of the user are.

    A pool of processes, which is torch's default, outlives a run that is killed.
    """
    with suppress(RuntimeError):  # without a home, torch takes a folder among the temporary files
        cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(cache / "tensor-etl-stage" / "torchinductor"))
    from torch._inductor import config  # reads the variable

    config.compile_threads = 1
