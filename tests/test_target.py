"""What a `_target_` names and whether its arguments fit."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import pytest
from hydra.utils import instantiate

from pipeline.errors import ConfigError
from pipeline.target import Bound, describe, fits, locate, prepare, source_hash, targets

CODE = """
from __future__ import annotations
from dataclasses import dataclass
from typing import Literal

def log1p(tensors, base: float = 2.0): return tensors
def make(): return log1p
def scale(tensors, by: float): return tensors

@dataclass(frozen=True)
class Scale:
    by: float
    rows: int | None = None
    kind: Literal["a", "b"] = "a"
    names: tuple[str, ...] = ()
    flag: bool = False
"""


@pytest.fixture(autouse=True)
def user_modules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Modules of a user, on the import path."""
    (tmp_path / "mine_here.py").write_text(CODE)
    (tmp_path / "mine_broken.py").write_text("import not_installed_anywhere")
    (tmp_path / "mine_raises.py").write_text("\nx = 1 / 0")
    monkeypatch.syspath_prepend(str(tmp_path))
    yield tmp_path
    for name in ("mine_here", "mine_broken", "mine_raises"):
        sys.modules.pop(name, None)


def problems(spec: Any, key: str = "transform") -> list[str]:
    found: list[str] = []
    prepare(spec, key, found)
    return found


def spec(name: str, **arguments: Any) -> dict[str, Any]:
    return {"_target_": f"mine_here.{name}", **arguments}


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("mytransforms.log1p", "no module named 'mytransforms' (searched the current directory"),
        ("mine_here.log1", "module 'mine_here' has no attribute 'log1' - did you mean 'log1p'?"),
        ("mine_here.Scale.row", "'mine_here.Scale' has no attribute 'row' - did you mean 'rows'?"),
        ("mine_broken.f", "importing 'mine_broken' failed: No module named 'not_installed_anywhere'"),
        ("mine_raises.f", "importing 'mine_raises' failed: ZeroDivisionError: division by zero"),
        ("pipeline.errrors.X", "module 'pipeline' has no attribute 'errrors' - did you mean 'errors'?"),
        ("pipeline.core", "is a module; expected a function or a class"),
        ("log1p", "expected a dotted name"),
        (None, "expected a dotted name"),
    ],
)
def test_each_way_to_name_nothing_is_told_apart(path: Any, words: str) -> None:
    """A missing module, a missing attribute and a module that fails have different remedies."""
    with pytest.raises(ConfigError) as error:
        locate(path)
    assert words in str(error.value)


def test_a_function_is_bound_not_called() -> None:
    """The first parameter is left for the run, whether or not others are given; nested ones too."""
    inner = prepare({"_target_": "mine_here.Scale", "by": spec("log1p", base=3.0)}, "transform", [])
    assert inner["_target_"] == "mine_here.Scale"
    bound = instantiate(inner["by"])
    assert isinstance(bound, Bound)
    assert (bound.func.__name__, dict(bound.given)) == ("log1p", {"base": 3.0})
    assert isinstance(instantiate(prepare([spec("log1p")], "transform", []), _convert_="all")[0], Bound)


def test_a_factory_is_called() -> None:
    """A function that has all it needs makes the transform."""
    for called in (spec("make"), spec("log1p", tensors={})):
        assert prepare(called, "transform", []) == called


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (spec("Scale", by=1, bye=2), "unknown key 'transform.bye' - did you mean 'transform.by'?"),
        (spec("Scale"), "no value given for 'transform.by'"),
        (spec("scale"), "no value given for 'transform.by'"),
        (spec("Scale", by="x"), "transform.by: expected a number; got 'x'"),
        (spec("Scale", by=1, rows="big"), "transform.rows: expected an integer or null; got 'big'"),
        (spec("Scale", by=1, rows=True), "transform.rows: expected an integer or null; got True"),
        (spec("Scale", by=1, kind="c"), "transform.kind: expected one of a, b; got 'c'"),
        (spec("Scale", by=1, names="x"), "transform.names: expected a list; got 'x'"),
        (spec("Scale", by=1, names=[1]), "transform.names: expected a list; got [1]"),
        (spec("Scale", by=1, flag=1), "transform.flag: expected true or false; got 1"),
        (
            {"steps": [spec("log1p", bas=1)]},
            "unknown key 'transform.steps.0.bas' - did you mean 'transform.steps.0.base'?",
        ),
    ],
)
def test_arguments_are_held_against_the_signature(given: Any, words: str) -> None:
    """Unknown, missing and ill-typed arguments are named by their YAML key."""
    (line,) = problems(given)
    assert line.startswith(words)


def test_all_problems_are_found_at_once() -> None:
    """One run of the command shows everything that is wrong."""
    assert len(problems(spec("Scale", rows="a", kind="c", x=1))) == 4


@pytest.mark.parametrize(
    ("value", "hint"),
    [
        (None, int | None),
        (1, float),
        ([1, 2], tuple[int, ...]),
        ([1, "a"], tuple[int, str]),
        ({"a": [1]}, dict[str, list[int]]),
        ({"_target_": "x.y"}, int),
        ("${oc.env:X}", int),
        ("???", int),
        ("anything", object),
    ],
)
def test_what_may_be_right_is_let_through(value: Any, hint: Any) -> None:
    """Plain data of the type, and whatever is only known later."""
    assert fits(value, hint)


def test_types_read_as_words() -> None:
    """Messages speak of YAML, not of Python."""
    assert describe(int | None) == "an integer or null"
    assert describe(Literal["auto"] | bool | list[str]) == "one of auto or true or false or a list"


def test_the_hash_follows_the_code(user_modules: Path) -> None:
    """An edited module is another transform."""
    before = source_hash("mine_here.Scale")
    (user_modules / "mine_here.py").write_text(CODE + "# edited\n")
    assert source_hash("mine_here.Scale") != before
    assert source_hash("math.sqrt") is not None


def test_nested_targets_are_found() -> None:
    """The identity covers every step of a compose."""
    assert list(targets({"_target_": "a.b", "steps": [{"_target_": "c.d"}, {"x": {"_target_": "e.f"}}]})) == [
        "a.b",
        "c.d",
        "e.f",
    ]
