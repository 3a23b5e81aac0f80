"""torch without meta functions: what starts without them, what brings them in, and that then nothing is missing."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.config import known

ROOT = Path(__file__).parent.parent

KEYS = ["Meta", "CPU", "CompositeImplicitAutograd", "CompositeExplicitAutograd", "Python", "Autograd", ""]
FOUND = f"""
import json, sys, torch
told = {{key: sorted(torch._C._dispatch_get_registrations_for_dispatch_key(key)) for key in {KEYS}}}
told["modules"] = sorted(name for name in sys.modules if name.split(".")[0] == "torch")
told["names"] = sorted(vars(torch))
print(json.dumps(told))
"""


def python(words: list[str], folder: Path, lines: int = 1) -> str:
    """The last lines that a new process prints."""
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, *words], cwd=folder, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return "\n".join(done.stdout.splitlines()[-lines:])


def test_what_is_completed_lacks_nothing(tmp_path: Path) -> None:
    """Operators, modules and names are those of a plain import; before, many are missing."""
    plain = json.loads(python(["-c", FOUND], tmp_path))
    lean = json.loads(python(["-c", f"from pipeline import lean; lean.load(){FOUND}"], tmp_path))
    for before in ("", "import torch; torch._refs; torch._decomp; torch._prims; "):
        code = f"from pipeline import lean; lean.load(); {before}lean.complete(){FOUND}"
        assert json.loads(python(["-c", code], tmp_path)) == plain
    assert len(lean["Meta"]) < 0.6 * len(plain["Meta"])
    missing = {name for key in KEYS if key != "Meta" for name in set(plain[key]) - set(lean[key])}
    assert {name.split("::")[0] for name in missing} <= {"prims", "debugprims", "rngprims"}  # the words of traces


def test_layers_make_the_same_of_the_same(tmp_path: Path) -> None:
    """All that torch has, which is what a configuration may name beside our own code, bit for bit."""
    lean, plain = (json.loads(python(["-m", "tests.layers", *words], tmp_path)) for words in (["lean"], []))
    assert (lean["whole"], plain["whole"]) == (False, True)
    assert lean["layers"] == plain["layers"]
    assert len({bits for bits, _ in plain["layers"].values()}) > 80


def test_what_operations_look_for_by_name_is_there(tmp_path: Path) -> None:
    """Some find modules of torch that come with the meta functions as attributes of it, and need no more."""
    code = """
import sys
from pipeline import lean
lean.load()
import torch
loss = torch.nn.BCELoss(torch.tensor([2.0]))(torch.tensor([0.5]), torch.tensor([1.0]))
assert torch.equal(loss, torch.tensor(2.0).log() * 2)
print(torch._refs.__name__, torch._decomp.__name__, torch._prims.__name__)
assert lean._finder in sys.meta_path
"""
    assert python(["-c", code], tmp_path) == "torch._refs torch._decomp torch._prims"


@pytest.mark.parametrize(
    "tracing",
    [
        "torch.compile(torch.cdist, backend='eager')(torch.ones(2, 3), torch.ones(2, 3))",
        "torch._subclasses.FakeTensorMode().from_tensor(torch.ones(2)).device",
        "from torch._meta_registrations import meta_index_Tensor",
    ],
)
def test_tracing_brings_them_in(tracing: str, tmp_path: Path) -> None:
    """Whatever of torch begins it; then operations on the device "meta" work that need them."""
    code = f"""
from pipeline import lean
lean.load()
import torch
meta = torch.empty(2, 3, device="meta")
assert not hasattr(torch._meta_registrations, "__file__")
try:
    torch.cdist(meta, meta)
except NotImplementedError:
    {tracing}
    assert torch.Generator().manual_seed(1).initial_seed() == 1
    print(torch.cdist(meta, meta).shape)
"""
    assert python(["-c", code], tmp_path) == "torch.Size([2, 2])"


@pytest.mark.parametrize(
    ("change", "found"),
    [
        ("import torch", True),
        ("lean._TRIED = '1.'; lean.load(); lean.complete()", True),
    ],
)
def test_any_other_torch_stays_as_it_is(change: str, found: bool, tmp_path: Path) -> None:
    """One that is there already, and one with which this was not tried."""
    code = f"""
import sys
from pipeline import lean
{change}
lean.load()
import torch
print("torch._prims" in sys.modules)
"""
    assert python(["-c", code], tmp_path) == str(found)


def test_a_broken_torch_says_what_is_broken(tmp_path: Path) -> None:
    """As its first import told it: after one that failed late, the next may tell something else."""
    (tmp_path / "torch.py").write_text("import os\n\nraise RuntimeError(os.environ.pop('SAY', 'something else'))\n")
    code = """
import os, sys
from pipeline import lean
from pipeline.__main__ import _Door, main
os.environ["SAY"] = "what is broken"
before = list(sys.meta_path)
_Door.starting = True
sys.stderr = sys.stdout
code = main(["sink.path=out"])
assert code and sys.meta_path == before
lean.complete()
"""
    told = python(["-c", code], tmp_path, lines=9)
    assert "RuntimeError: what is broken" in told
    assert "something else" not in told


JOBS = """
import sys
from pipeline.__main__ import _Door, main
_Door.starting = True
found = []
for words in {jobs}:
    assert main(["-cd", ".", "source=npy", "source.path=x.npy", "sink=npy", *words]) == 0
    found.append("torch._prims" in sys.modules)
print(found)
"""


@pytest.mark.parametrize(
    ("jobs", "found"),
    [
        (["transform=clip transform.min=1", "transform=clip transform.min=2", "transform=mine"], [False, False, True]),
        (["transform=mine", "transform=clip transform.min=1"], [True, True]),
    ],
)
def test_code_of_others_has_all_of_torch(jobs: list[str], found: list[bool], tmp_path: Path) -> None:
    """Also after a job in the same process that was content with less."""
    np.save(tmp_path / "x.npy", np.arange(6.0).reshape(3, 2))
    (tmp_path / "transform").mkdir()
    (tmp_path / "transform" / "mine.yaml").write_text("_target_: mine.far\n")
    (tmp_path / "mine.py").write_text(
        "import torch\n\n\ndef far(tensors):\n    meta = torch.empty(2, 3, device='meta')\n"
        "    assert torch.cdist(meta, meta).shape == (2, 2)\n    return tensors\n"
    )
    words = [[*job.split(), f"sink.path=out{i}.npy"] for i, job in enumerate(jobs)]
    assert python(["-c", JOBS.format(jobs=words)], tmp_path) == str(found)
    for i, job in enumerate(jobs):
        least = 0 if "mine" in job else int(job[-1])
        assert np.array_equal(np.load(tmp_path / f"out{i}.npy"), np.arange(6.0).reshape(3, 2).clip(least))


OURS = {"_target_": "pipeline.transform.clip.Clip"}
PLAIN = {"conversion": {"ragged": "error", "columns": {}}} | dict.fromkeys(
    ("source", "transform", "sink", "engine"), OURS
)


@pytest.mark.parametrize("group", ["source", "transform", "sink", "engine"])
@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        (OURS, True),
        ({"_target_": "pipeline.transform.module.Module", "module": {"_target_": "torch.nn.GELU"}}, True),
        ({"_target_": "pipeline.transform.module.Module", "module": {"_target_": "mine.Net"}}, False),
        ({"_target_": "pipeline.transform.compose.Compose", "steps": {"a": {"_target_": "torch.nn.GELU"}}}, True),
        ({"_target_": "pipeline.transform.compose.Compose", "steps": [{"_target_": "torch.nnx.GELU"}]}, False),
        ({"_target_": "torch.nn.Linear", "device": "meta"}, False),
        ({"_target_": "torch.nn.modules.module.torch.jit.trace"}, False),
        ({"_target_": "pipeline.target.bind", "function": "mine.far"}, False),
        ({"_target_": "torch.cdist"}, False),
        ({"_target_": "mine.far"}, False),
    ],
)
def test_what_is_known_is_ours_or_a_layer(group: str, spec: dict[str, Any], expected: bool) -> None:
    """All that the configuration names, however deep."""
    assert known({**PLAIN, group: spec}, {}) == expected
    assert known({**PLAIN, group: spec}, {"watch": {"_target_": "pipeline.sweep.watch.Watch"}}) == expected
    assert not known({**PLAIN, group: spec}, {"mine": {"_target_": "mine.Callback"}})


@pytest.mark.parametrize("conversion", [{"ragged": "jagged", "columns": {}}, {"columns": {"x": {"ragged": "jagged"}}}])
def test_nested_tensors_want_all_of_torch(conversion: dict[str, Any]) -> None:
    """Whichever column they are of."""
    assert not known({**PLAIN, "conversion": conversion}, {})
