"""Fewer columns, or the same under other names."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

from pipeline.core import Output, Tensors, Validity
from pipeline.errors import ConfigError
from pipeline.transform import choose, suggest


@dataclass(frozen=True)
class Select:
    """Keeps, drops and renames tensor columns, in this order; carried columns are none of its business.

    A renamed column takes its nulls, its stored type and its metadata along.

    Attributes:
        columns: names and globs of what stays, in this order; None means all.
        drop: names and globs of what goes, of those.
        rename: ``{name: new name}`` of columns that stayed.
    """

    columns: Sequence[str] | None = None
    drop: Sequence[str] | None = None
    rename: Mapping[str, str] | None = None
    rowwise: ClassVar[bool] = True
    concurrent: ClassVar[bool] = True

    def __post_init__(self) -> None:
        new = list((self.rename or {}).values())
        for name in new:
            if new.count(name) > 1:
                raise ConfigError(f"transform.rename gives the name {name!r} to two columns")

    def __call__(self, tensors: Tensors) -> Output:
        """The columns that stay, under their new names."""
        return self.with_validity(tensors, {})

    def with_validity(self, tensors: Tensors, validity: Validity) -> Output:  # noqa: ARG002  (nulls follow `like`)
        """As the plain call; nulls follow the columns."""
        kept = choose(tensors, self.columns)
        gone = choose({name: tensors[name] for name in kept}, self.drop, "transform.drop") if self.drop else []
        stay = [name for name in kept if name not in gone]
        rename = self.rename or {}
        for name in rename:
            if name not in stay:
                raise ConfigError(f"transform.rename: {name!r} is no tensor column that stays{suggest(name, stay)}")
        new = {name: rename.get(name, name) for name in stay}
        for name in rename:
            if list(new.values()).count(new[name]) > 1:
                raise ConfigError(f"transform.rename gives {name!r} the name {new[name]!r}, which another column has")
        return Output({new[name]: tensors[name] for name in stay}, like={new[name]: name for name in rename})
