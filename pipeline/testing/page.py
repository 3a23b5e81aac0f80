"""The page `docs/conversion.md`: the contract for readers, from the table that the tests are made of."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby
from pathlib import Path

import pyarrow as pa

from pipeline.config import conf_dir
from pipeline.policy import WORDS
from pipeline.testing.contract import ARROW, NO_TENSOR, NUMPY, Row
from pipeline.testing.refusals import REFUSALS, RETURNED

HEAD = """\
# What becomes of a column

Written by `scripts/contract` from the table in `pipeline/testing/contract.py`, of which each line is tested.

- Numbers and truth values become tensors with the same bits; what a tensor cannot hold is carried past the transform,
  untouched and row by row.
- What is decided, is decided from headers and schemas before a row is read: the same for no rows as for a billion.
  `python -m pipeline action=plan` prints it.
- A column that keeps its dtype and row shape comes back in the type, nullability and metadata that it came with, nulls
  in the same rows, every bit of a NaN as it was.
- Memory is shared wherever a type allows it; where not, one copy is made, and the plan says why.
- Nothing is rounded, promoted, cut or reinterpreted unless a policy below says so. All else is an error that names the
  column, and nothing of the part is published.
"""

TYPES = """
## Types

**Sees**: what the transform gets, with the shape of a row (`*`: of any length); *by name* means only if `columns` names
the column, which is carried otherwise. Where nothing but *carried* is said, naming it is an error. **In**, **out**:
whether the tensor uses the memory of the source, and the sink that of the tensor. **Nulls**: the words of
`conversion.nulls` beside `error`; carried columns keep their nulls. **Set**: the policy that asks for the line.
"""


def text() -> str:
    """The whole page."""
    return "\n".join([HEAD, "## Policies", "", *_policies(), TYPES, *_types(), *_refusals(), *_returned(), ""])


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> Iterator[str]:
    """A table in Markdown, and an empty line after it."""
    yield _line(head)
    yield _line(["---"] * len(head))
    yield from map(_line, rows)
    yield ""


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"


def _code(*words: str) -> str:
    return ", ".join(f"`{word}`" for word in words if word)


# ---- policies --------------------------------------------------------------------------------------------------------


def _policies() -> Iterator[str]:
    """Keys of ``conversion`` in the order of the configuration, with what its comments say."""
    yield "The keys of `conversion` in YAML and on the command line (`conversion.nulls=mask`), with their defaults:"
    yield ""
    rows = []
    for key, default, comment in _keys(Path(conf_dir(), "config.yaml").read_text(encoding="utf-8")):
        words = [f"**`{w}`**" if w == default.strip('"') else f"`{w}`" for w in WORDS.get(key, [default])]
        rows.append([f"`{key}`", " ".join(words), comment])
    yield from _table(["key", "words (default in bold)", "what it does"], rows)


def _keys(config: str) -> Iterator[tuple[str, str, str]]:
    """Key, default and comment; the comment stands before the key or behind it."""
    block = re.search(r"^conversion:.*\n((?:  .*\n)+)", config, re.MULTILINE)
    assert block is not None
    before: list[str] = []
    for line in block[1].splitlines():
        if line.startswith("  #"):
            before.append(line.strip("# "))
            continue
        found = re.fullmatch(r"  (\w+): (\S+)(?: +# (.*))?", line)
        assert found is not None, line
        yield found[1], found[2], "<br>".join(before) or found[3]
        before = []


# ---- types -----------------------------------------------------------------------------------------------------------


def _types() -> Iterator[str]:
    for group, rows in groupby(ARROW + NUMPY, lambda row: row.group):
        some = list(rows)
        head = ["type", "sees", "in", "out", "nulls", "in .npy, .npz" if some[0].arrow else "in Parquet", "set"]
        yield from (f"### {group}", "")
        yield from _table(head, [_cells(list(alike)) for _, alike in groupby(some, _kind)])


def _kind(row: Row) -> tuple[object, ...]:
    """What neighbours have in common that stand on one line."""
    policy = [(key, "" if key == "logical_dtype" else value) for key, value in row.policy.items()]
    copies = row.why, _way(row.copy), _out(row), _nulls(row)
    distinct = row.source if policy and policy[0][0] == "logical_dtype" else row.tensor if "[" in row.tensor else ""
    return (row.layout, row.named and _sees(row), distinct, copies, not row.stored, not row.file, policy, row.pairs)


def _cells(rows: Sequence[Row]) -> list[str]:
    first = rows[0]
    types = _listed(_code(_words(_sized(row))) for row in rows) + (f" ({first.layout})" if first.layout else "")
    stored = _all("the same" if _same(row.stored, row) else _code(_words(row.stored)) for row in rows) or "refused"
    if first.file:
        own = "Parquet" if first.arrow else ".npy"
        stored += f"; refused by {own}" if first.stored else f", by {own} too"
    if not first.tensor:
        sees = "carried" + ("" if first.why == NO_TENSOR else f": {first.why}")
        return [types, sees, "", "", "", stored, _keys_of(rows)]
    sees = _all(_sees(row) for row in rows) + (", by name" if first.named else "")
    return [types, sees, _way(first.copy), _out(first), _nulls(first), stored, _keys_of(rows)]


def _sees(row: Row) -> str:
    if row.arrow and pa.types.is_dictionary(row.type):
        return "its codes"
    return "the same" if _same(row.tensor, row) else _code(row.tensor)


def _same(type_: str, row: Row) -> bool:
    """Whether it is the type of the column but for the byte order."""
    return _words(type_) == _words(_sized(row)).removeprefix("big-endian ")


def _listed(cells: Iterable[str]) -> str:
    """Each once, in order."""
    return ", ".join(cell for cell in dict.fromkeys(cells) if cell)


def _all(cells: Iterable[str]) -> str:
    """One for each type, or one for all."""
    some = list(cells)
    return some[0] if len(set(some)) == 1 else ", ".join(some)


def _keys_of(rows: Sequence[Row]) -> str:
    keys = [f"{key}={value}" for row in rows for key, value in row.policy.items()]
    if len(set(keys)) > len(rows[0].policy):  # what differs stands in another column
        keys = list(rows[0].policy)
    return _listed(_code(key) for key in [*keys, *(["sink.complex=pairs"] if rows[0].pairs else [])])


def _way(copy: str) -> str:
    return copy.partition(" from ")[0] or "shared"


def _out(row: Row) -> str:
    return row.copy_out or (f"shared; {row.copy_nulls}" if row.copy_nulls else "shared")


def _nulls(row: Row) -> str:
    if not row.arrow:
        return "has none"
    return "mask" if "*" in row.tensor or pa.types.is_dictionary(row.type) else "mask, fill"


def _sized(row: Row) -> str:
    return row.source + (str(list(row.shape)) if row.shape else "")


def _words(type_: str) -> str:
    """Arrow's types under the names by which they are made."""
    found = re.fullmatch(r"dictionary<values=(\w+), indices=(\w+), ordered=(\d)>", type_)
    if found is not None:
        type_ = f"dictionary<{found[2]}, {found[1]}{', ordered' if found[3] == '1' else ''}>"
    for said, made in (("halffloat", "float16"), ("float", "float32"), ("double", "float64")):
        type_ = re.sub(rf"\b{said}\b", made, type_)
    return type_.replace("value_type=", "")


# ---- what stops ------------------------------------------------------------------------------------------------------


def _refusals() -> Iterator[str]:
    yield "## What stops a run, and what to do"
    yield ""
    yield "These are the messages themselves. In a run each begins with the file and the rows, where there are such."
    yield "Nothing of the part is published then."
    yield ""
    rows = [(refusal.case, f"{refusal.error.code}", _message(refusal.message())) for refusal in REFUSALS]
    yield from _table(["case", "exit", "message"], rows)


def _returned() -> Iterator[str]:
    yield "## What a transform may return"
    yield ""
    rows = []
    for made in RETURNED:
        became = _code(_words(made.stored)) if made.stored else f"{made.error.code}: {_message(made.message())}"
        rows.append((made.case, became))
    yield from _table(["made of a float32 column", "stored in Parquet as, or exit code and message"], rows)


def _message(text: str) -> str:
    """Without the place, which is that of the example."""
    return re.sub(r"^.*? of split \S+: ", "", text)
