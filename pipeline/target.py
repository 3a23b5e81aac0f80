"""Targets: what a `_target_` names, whether its arguments fit, and which source code stands behind it.

Works on plain dicts and lists. Importing a target runs its module, so this is done only when a run or a plan starts.
"""

from __future__ import annotations

import hashlib
import importlib
import inspect
import pkgutil
import sys
import typing
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from types import ModuleType, NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin

from pipeline.errors import ConfigError

SPECIAL = frozenset({"_target_", "_partial_", "_args_", "_recursive_", "_convert_"})
"""Keys that speak to Hydra's instantiate, not to the target."""

_SEARCHED = "the current directory, the folder of --config-dir and its parent, and the installed packages"


def suggest(name: str, known: Iterable[str], path: str = "") -> str:
    """The end of a sentence that asks "did you mean ...?", or nothing if nothing near is known."""
    near = get_close_matches(name, list(known), n=1)
    return f" - did you mean '{path}{near[0]}'?" if near else ""


# ---- names -----------------------------------------------------------------------------------------------------------


def locate(path: Any) -> Callable[..., Any]:
    """The function or class behind a dotted name.

    Raises:
        ConfigError: a module is missing, cannot be imported or has no such attribute; each is told apart.
    """
    parts = path.split(".") if isinstance(path, str) else []
    if len(parts) < 2 or not all(part.isidentifier() for part in parts):
        raise ConfigError(f"expected a dotted name such as mytransforms.log1p; got {path!r}")
    found: Any = _import(parts[0])
    for i, name in enumerate(parts[1:], 1):
        found = _attribute(found, name, ".".join(parts[:i]))
    if not callable(found):
        raise ConfigError(f"{path} is a {type(found).__name__}; expected a function or a class")
    return typing.cast("Callable[..., Any]", found)


def _attribute(owner: Any, name: str, path: str) -> Any:
    if hasattr(owner, name):
        return getattr(owner, name)
    if not isinstance(owner, ModuleType):
        raise ConfigError(f"{path!r} has no attribute {name!r}{suggest(name, dir(owner))}")
    try:
        return _import(f"{path}.{name}")
    except _MissingModuleError:
        inside = [m.name for m in pkgutil.iter_modules(getattr(owner, "__path__", ()))]
        near = suggest(name, [*dir(owner), *inside])
        raise ConfigError(f"module {path!r} has no attribute {name!r}{near}") from None


class _MissingModuleError(ConfigError):
    """There is no such module, as opposed to one that fails when it is imported."""


def _import(name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as e:
        if e.name and (name == e.name or name.startswith(e.name + ".")):
            raise _MissingModuleError(f"no module named {name!r} (searched {_SEARCHED})") from None
        raise ConfigError(f"importing {name!r} failed: {e}") from e
    except Exception as e:
        raise ConfigError(f"importing {name!r} failed: {type(e).__name__}: {e}{_place(e)}") from e


def _place(e: BaseException) -> str:
    trace = e.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return f" ({trace.tb_frame.f_code.co_filename}:{trace.tb_lineno})" if trace is not None else ""


# ---- arguments -------------------------------------------------------------------------------------------------------


def prepare(spec: Any, key: str, problems: list[str]) -> Any:
    """The specification as Hydra should instantiate it, nested ones included.

    A function whose first required parameter is not given is itself the transform: it is bound, not called. What is
    wrong goes to `problems`, one line each with the YAML key.
    """
    if isinstance(spec, list):
        return [prepare(item, f"{key}.{i}", problems) for i, item in enumerate(spec)]
    if not isinstance(spec, dict):
        return spec
    ready = {name: v if name in SPECIAL else prepare(v, f"{key}.{name}", problems) for name, v in spec.items()}
    if "_target_" not in spec or _open(spec["_target_"]):
        return ready
    try:
        target = locate(spec["_target_"])
    except ConfigError as e:
        problems.append(f"{key}._target_: {e}")
        return ready
    problems.extend(_misfits(target, spec, key))
    if not isinstance(target, type) and not {"_args_", "_partial_"} & spec.keys() and _takes_more(target, spec):
        return _binding(ready)
    return ready


@dataclass(frozen=True)
class Bound:
    """A function with some of its arguments, called as it is. Hydra's own partials check every single call anew."""

    func: Callable[..., Any]
    given: Mapping[str, Any]

    def __call__(self, tensors: Any) -> Any:
        """What the function makes of the tensors."""
        return self.func(tensors, **self.given)


def bind(function: str, given: Mapping[str, Any]) -> Bound:
    """The function of that dotted name, with these arguments."""
    return Bound(locate(function), given)


def _binding(spec: Mapping[str, Any]) -> dict[str, Any]:
    given = {name: value for name, value in spec.items() if name not in SPECIAL}
    rest = {name: value for name, value in spec.items() if name in SPECIAL}
    return {**rest, "_target_": f"{__name__}.bind", "function": spec["_target_"], "given": given}


def _parameters(target: Callable[..., Any]) -> list[inspect.Parameter] | None:
    try:
        return list(inspect.signature(target).parameters.values())
    except ValueError:
        return None  # some functions written in C do not tell


def _required(parameters: Sequence[inspect.Parameter]) -> list[str]:
    return [p.name for p in parameters if p.default is p.empty and p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]


def _takes_more(target: Callable[..., Any], spec: Mapping[str, Any]) -> bool:
    parameters = _parameters(target)
    if parameters is None:
        return True
    return any(name not in spec for name in _required(parameters)[:1])


def _misfits(target: Callable[..., Any], spec: Mapping[str, Any], key: str) -> Iterator[str]:
    """Unknown, missing and ill-typed arguments, one line each."""
    parameters = _parameters(target)
    if parameters is None:
        return
    given = [str(name) for name in spec if name not in SPECIAL]
    names = [p.name for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
    title = f"{spec['_target_']} takes {', '.join(names) or 'no arguments'}"
    if not any(p.kind is p.VAR_KEYWORD for p in parameters):
        for name in given:
            if name not in names:
                yield f"unknown key '{key}.{name}'{suggest(name, names, key + '.')} ({title})"
    if "_args_" not in spec and not spec.get("_partial_"):
        # The first parameter of a function is what the run will call it with.
        needed = _required(parameters)[0 if isinstance(target, type) else 1 :]
        yield from (f"no value given for '{key}.{name}' ({title})" for name in needed if name not in spec)
    hints = _hints(target)
    for p in parameters:
        if p.name in spec and p.name in hints and spec[p.name] != p.default and not fits(spec[p.name], hints[p.name]):
            yield f"{key}.{p.name}: expected {describe(hints[p.name])}; got {spec[p.name]!r}"


def _hints(target: Callable[..., Any]) -> dict[str, Any]:
    try:
        return typing.get_type_hints(target.__init__ if isinstance(target, type) else target)  # type: ignore[misc]
    except Exception:  # noqa: BLE001
        return {}  # annotations that only a type checker can read are no fault of the configuration


# ---- types -----------------------------------------------------------------------------------------------------------

_WORDS = {
    int: "an integer",
    float: "a number",
    bool: "true or false",
    str: "a string",
    Path: "a path",
    NoneType: "null",
}
_LISTS = (list, tuple, set, frozenset, Sequence, Collection, Iterable)
_MAPPINGS = (dict, Mapping)


def _open(value: Any) -> bool:
    """Whether a value is only known later: built from a `_target_`, missing, or an interpolation that failed."""
    if isinstance(value, dict):
        return "_target_" in value
    return isinstance(value, str) and (value == "???" or "${" in value)


def fits(value: Any, hint: Any) -> bool:
    """Whether a plain value is of the annotated type. Annotations that YAML has no word for admit everything."""
    origin, args = get_origin(hint) or hint, get_args(hint)
    if _open(value):
        return True
    if origin in (Union, UnionType):
        return any(fits(value, each) for each in args)
    if origin is Literal:
        return value in args
    if origin in (int, float):
        return isinstance(value, int if origin is int else (int, float)) and not isinstance(value, bool)
    if origin in (bool, NoneType, None):
        return isinstance(value, origin or NoneType)
    if origin in (str, Path):
        return isinstance(value, str)
    if origin in _LISTS:
        return isinstance(value, list) and all(
            fits(v, h) for v, h in zip(value, _items(args, len(value)), strict=False)
        )
    if origin in _MAPPINGS:
        return isinstance(value, dict) and (len(args) < 2 or all(fits(v, args[1]) for v in value.values()))
    return True


def _items(args: tuple[Any, ...], length: int) -> tuple[Any, ...]:
    """The annotation of each item: ``list[int]`` and ``tuple[int, ...]`` repeat theirs, ``tuple[int, str]`` has two."""
    repeated = len(args) == 1 or (len(args) == 2 and args[1] is Ellipsis)
    return args[:1] * length if repeated else args


def describe(hint: Any) -> str:
    """An annotation in the words of a message: ``int | None`` is "an integer or null"."""
    origin, args = get_origin(hint) or hint, get_args(hint)
    if origin in (Union, UnionType):
        return " or ".join(dict.fromkeys(describe(each) for each in args))
    if origin is Literal:
        return "one of " + ", ".join(map(str, args))
    if origin in _LISTS:
        return "a list"
    if origin in _MAPPINGS:
        return "a mapping"
    return _WORDS.get(NoneType if origin is None else origin, getattr(origin, "__name__", str(origin)))


# ---- source code -----------------------------------------------------------------------------------------------------


def targets(spec: Any) -> Iterator[str]:
    """Every `_target_` in a specification, outermost first."""
    if isinstance(spec, list):
        for item in spec:
            yield from targets(item)
    elif isinstance(spec, dict):
        if isinstance(spec.get("_target_"), str):
            yield spec["_target_"]
        for value in spec.values():
            yield from targets(value)


def source_hash(path: str) -> str:
    """SHA-256 of the file that defines a target; "builtin" where there is none. Its own imports are not followed."""
    found = locate(path)
    module = sys.modules.get(getattr(found, "__module__", None) or "")
    file = getattr(module, "__file__", None)
    return hashlib.sha256(Path(file).read_bytes()).hexdigest() if file else "builtin"
