"""What a transform learned, kept beside the output as safetensors and JSON; one state per pass over the data."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pipeline.core import Tensors
from pipeline.errors import OutputError
from pipeline.files import Home, read_bytes, storage, write_bytes, write_json

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path


def save(where: Home, key: str, states: Sequence[Tensors], inputs: Mapping[str, str], facts: Mapping[str, Any]) -> None:
    """Keep the states of all passes, with the key and the input versions of what they were learned from."""
    from safetensors.torch import save as to_bytes

    flat = {f"{i}/{name}": tensor.contiguous() for i, state in enumerate(states) for name, tensor in state.items()}
    data = to_bytes(flat)
    with storage(_facts(where)):
        _facts(where).unlink(missing_ok=True)  # a run that is killed here has learned nothing
    write_bytes(_tensors(where), data)
    known = {"key": key, "passes": len(states), "sha256": hashlib.sha256(data).hexdigest(), "inputs": dict(inputs)}
    write_json(_facts(where), {**facts, **known})


@dataclass(frozen=True)
class Learned:
    """States of all passes, and what they were learned from: its key, and the version of each input file."""

    key: str
    states: list[Tensors]
    inputs: Mapping[str, str]


def load(where: Home) -> Learned | None:
    """What is kept beside the output, or None."""
    from safetensors import SafetensorError
    from safetensors.torch import load as from_bytes

    said, kept = read_bytes(_facts(where)), read_bytes(_tensors(where))
    if said is None or kept is None:
        return None
    try:
        facts = json.loads(said)
        if hashlib.sha256(kept).hexdigest() != facts["sha256"]:
            raise SafetensorError("it is not the state that was kept here")
        flat = from_bytes(kept)
    except (KeyError, ValueError, SafetensorError) as e:
        damaged = _tensors(where) if isinstance(e, SafetensorError) else _facts(where)
        raise OutputError(f"{str(damaged)!r} is damaged: {e}. run.restart=true learns it anew") from e
    states: list[Tensors] = [{} for _ in range(facts["passes"])]
    for name, tensor in flat.items():
        number, _, rest = name.partition("/")
        states[int(number)][rest] = tensor
    return Learned(facts["key"], states, facts["inputs"])


def _tensors(where: Home) -> Path:
    return where.state / "fit.safetensors"


def _facts(where: Home) -> Path:
    return where.state / "fit.json"
