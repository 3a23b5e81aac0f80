"""Any ``nn.Module`` on a column."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import cached_property, reduce
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from pipeline import compiling
from pipeline.core import Output, Tensors, Validity
from pipeline.errors import ConfigError, DTypeError, InputError, TransformError
from pipeline.transform import dtype_name, dtype_of, suggest


@dataclass(frozen=True)
class Module:
    """Calls a module in evaluation mode with one column, or with several as positional arguments.

    A row of the output is null if the row is null in any of the inputs. A module that takes and returns a dict of
    columns needs none of this: it is a transform already.

    Attributes:
        module: what is called. It moves to the device.
        inputs: its arguments; None means the only tensor column there is.
        outputs: names of the tensor, or of each of the tensors, that it returns; None means the name of the only input.
        weights: path of a .safetensors file with just the parameters and buffers of the module; None leaves them.
        dtype: of the arguments, such as float32 for pixels in uint8; None passes them as they are.
        autocast: ``bfloat16`` or ``float16``: what is quicker in it and safe is computed in it (torch.autocast). What
            comes out as such is float32 again, with the digits that are left.
        compile: true calls the module through torch.compile; false does not; or the name of another backend of torch.
        keep: whether all columns of the input stay, unless replaced; else only `outputs` leave.
        rowwise: whether a row of the output depends on the same row of the input alone.
    """

    module: nn.Module
    inputs: Sequence[str] | None = None
    outputs: Sequence[str] | None = None
    weights: str | None = None
    dtype: str | None = None
    autocast: str | None = None
    compile: compiling.Backend = False
    keep: bool = True
    rowwise: bool = True

    @property
    def concurrent(self) -> bool:
        """Whether all of the module is torch's own and keeps nothing, or says by ``concurrent = True`` that it does."""
        return not self.compile and all(_keeps_nothing(part) for part in self.module.modules())

    def __post_init__(self) -> None:
        if not isinstance(self.module, nn.Module):
            raise ConfigError(f"transform.module must be an nn.Module; got {type(self.module).__name__}")
        if self.inputs is not None and not self.inputs:
            raise ConfigError("transform.inputs is empty; name the columns that the module takes")
        if self.outputs is None and self.inputs is not None and len(self.inputs) > 1:
            raise ConfigError("transform.outputs: name what the module makes of its inputs")
        if self.outputs is not None and len(set(self.outputs)) != max(1, len(self.outputs)):
            raise ConfigError(f"transform.outputs must be different names, at least one; got {list(self.outputs)}")
        if self.dtype is not None:
            dtype_of(self.dtype, "transform.dtype")
        if self.autocast not in (None, "bfloat16", "float16"):
            raise ConfigError(f"transform.autocast must be bfloat16, float16 or null; got {self.autocast!r}")
        compiling.check(self.compile, "transform.compile")

    def __str__(self) -> str:
        ways = [f"autocast {self.autocast}"] if self.autocast else []
        ways += ["compiled"] if self.compile else []
        return f"Module ({', '.join(ways)})" if ways else "Module"

    def __getstate__(self) -> dict[str, Any]:
        return {key: value for key, value in vars(self).items() if key != "_function"}  # kernels stay in this process

    def setup(self, device: str) -> None:
        """Read the weights and move to the device; if it is to be compiled, see that there is a compiler."""
        compiling.check_compiler(self.compile, device, "transform.compile")
        if self.weights is not None:
            _load(self.module, self.weights)
        self.module.to(device).eval()

    def __call__(self, tensors: Tensors) -> Output:
        """The columns, with what the module returned."""
        return self.with_validity(tensors, {})

    def with_validity(self, tensors: Tensors, validity: Validity) -> Output:
        """As the plain call; nulls of the inputs are nulls of the outputs."""
        inputs = self._inputs(tensors)
        holed = [name for name in inputs if name in validity]
        if holed and not self.rowwise:
            raise DTypeError(
                f"column {holed[0]!r} holds nulls, and all rows of a module that is not row-wise may depend on them. "
                "Set conversion.nulls=fill, or transform.rowwise=true if it is"
            )
        arguments = [self._argument(tensors[name], validity.get(name)) for name in inputs]
        outputs = inputs if self.outputs is None else list(self.outputs)
        made = dict(zip(outputs, self._call(inputs, arguments, outputs), strict=True))
        return Output({**(tensors if self.keep else {}), **made}, validity=_nulls(outputs, holed, validity))

    def _inputs(self, tensors: Tensors) -> list[str]:
        if self.inputs is None:
            if len(tensors) != 1:
                raise ConfigError(
                    f"transform.inputs: name what the module takes, of {', '.join(tensors) or 'no columns'}"
                )
            return list(tensors)
        for name in self.inputs:
            if name not in tensors:
                raise ConfigError(f"transform.inputs: {name!r} is no tensor column{suggest(name, tensors)}")
        return list(self.inputs)

    def _argument(self, tensor: Tensor, valid: Tensor | None) -> Tensor:
        given = tensor if self.dtype is None else tensor.to(dtype_of(self.dtype, "transform.dtype"))
        if valid is None:
            return given
        # Zeros under nulls: an arbitrary number may be no index of an embedding.
        rows = valid.view(-1, *[1] * (given.dim() - 1))
        return torch.where(rows, given, torch.zeros((), dtype=given.dtype, device=given.device))

    def _call(self, inputs: Sequence[str], arguments: Sequence[Tensor], outputs: Sequence[str]) -> Sequence[Tensor]:
        kind = type(self.module).__name__
        try:
            with torch.no_grad(), self._precision(arguments[0].device.type):
                made = self._function(*arguments)
        except torch.OutOfMemoryError:
            raise
        except TransformError as e:
            raise TransformError(f"{kind}: {e}") from e.__cause__
        except Exception as e:
            kinds = [f"{dtype_name(argument.dtype)}{list(argument.shape)}" for argument in arguments]
            given = ", ".join(f"{name!r}: {argument}" for name, argument in zip(inputs, kinds, strict=True))
            raise TransformError(
                f"{kind} raised {type(e).__name__}: {e}; it was given {given}. transform.dtype=float32 converts them"
            ) from e
        many = [made] if isinstance(made, Tensor) else made
        if not isinstance(many, Sequence) or not all(isinstance(t, Tensor) for t in many):
            raise TransformError(f"{kind} returned {type(made).__name__}; expected a tensor, or a tuple of tensors")
        if len(many) != len(outputs):
            raise TransformError(f"{kind} returned {len(many)} tensors; transform.outputs names {', '.join(outputs)}")
        return [self._widened(t, arguments) for t in many]

    @cached_property
    def _function(self) -> Callable[..., Any]:
        return compiling.compiled(self.module, self.compile, "transform.compile")

    def _precision(self, device: str) -> AbstractContextManager[Any]:
        if self.autocast is None:
            return nullcontext()
        return torch.autocast(device, dtype_of(self.autocast, "transform.autocast"))

    def _widened(self, made: Tensor, arguments: Sequence[Tensor]) -> Tensor:
        narrow = None if self.autocast is None else dtype_of(self.autocast, "transform.autocast")
        return made.float() if made.dtype == narrow and all(a.dtype != narrow for a in arguments) else made


def _keeps_nothing(part: nn.Module) -> bool:
    """Whether a call in evaluation mode depends on its arguments alone. Hooks may do anything."""
    hooks = (part._forward_hooks, part._forward_pre_hooks)  # noqa: SLF001  (torch tells in no other way)
    if part.training or any(hooks) or "forward" in vars(part):
        return False
    if getattr(part, "max_norm", None) is not None:  # an embedding that writes to its weights when it is called
        return False
    own = type(part).__module__.startswith("torch.nn.modules.") and not type(part).__name__.startswith("Fractional")
    return own or getattr(part, "concurrent", False) is True


def _nulls(outputs: Sequence[str], holed: Sequence[str], validity: Validity) -> Validity:
    """Outputs without nulls say so where an input column with nulls has their name."""
    named = [name for name in outputs if holed or name in validity]
    if not named:
        return {}
    full = torch.ones_like(next(iter(validity.values())))
    return dict.fromkeys(named, reduce(torch.logical_and, [validity[name] for name in holed], full))


def _load(module: nn.Module, path: str) -> None:
    """Put the tensors of a file in the place of the module's own, all of them or it is an error."""
    if not Path(path).is_file():
        raise InputError(f"transform.weights: there is no file {path!r}")
    try:
        found = load_file(path)
    except (SafetensorError, OSError) as e:
        raise InputError(
            f"transform.weights: {path!r} is no safetensors file ({e}); pickled weights are not read"
        ) from e
    own = module.state_dict()
    _check_fit(own, found, f"transform.weights: {path!r} does not fit {type(module).__name__}")
    module.load_state_dict(found, strict=False)


def _check_fit(own: Tensors, found: Tensors, complaint: str) -> None:
    # Of tensors that share memory (tied weights) a file holds one.
    held = {own[name].data_ptr() for name in own.keys() & found.keys()}
    missing = [name for name, tensor in own.items() if name not in found and tensor.data_ptr() not in held]
    surplus = sorted(found.keys() - own.keys())
    if missing or surplus:
        raise ConfigError(
            f"{complaint}; missing: {', '.join(missing) or 'none'}; unknown: {', '.join(surplus) or 'none'}"
        )
    for name, tensor in found.items():
        if tensor.shape != own[name].shape:
            raise ConfigError(f"{complaint}; {name} is {list(tensor.shape)}, expected {list(own[name].shape)}")
        given, wanted = tensor.dtype, own[name].dtype
        widens = given.is_floating_point and torch.promote_types(given, wanted) == wanted
        if given != wanted and not widens:
            there, here = dtype_name(tensor.dtype), dtype_name(own[name].dtype)
            raise ConfigError(f"{complaint}; {name} is {there}, which does not go into {here} without loss")
