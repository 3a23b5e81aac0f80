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


def python(words: list[str], folder: Path) -> str:
    """What a new process prints last."""
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, *words], cwd=folder, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()[-1]


def test_what_is_completed_lacks_nothing(tmp_path: Path) -> None:
    """Operators, modules and names are those of a plain import; before, many are missing."""
    plain = json.loads(python(["-c", FOUND], tmp_path))
    lean = json.loads(python(["-c", f"from pipeline import lean; lean.load(){FOUND}"], tmp_path))
    completed = json.loads(python(["-c", f"from pipeline import lean; lean.load(); lean.complete(){FOUND}"], tmp_path))
    assert completed == plain
    assert len(lean["Meta"]) < 0.6 * len(plain["Meta"])
    missing = {name for key in KEYS if key != "Meta" for name in set(plain[key]) - set(lean[key])}
    assert {name.split("::")[0] for name in missing} <= {"prims", "debugprims", "rngprims"}  # the words of traces


def test_layers_make_the_same_of_the_same(tmp_path: Path) -> None:
    """All that torch has, which is what a configuration may name beside our own code, bit for bit."""
    lean, plain = (json.loads(python(["-m", "tests.layers", *words], tmp_path)) for words in (["lean"], []))
    assert (lean["whole"], plain["whole"]) == (False, True)
    assert lean["layers"] == plain["layers"]
    assert len({bits for bits, _ in plain["layers"].values()}) > 80


@pytest.mark.parametrize(
    "tracing",
    [
        "torch.compile(torch.cdist, backend='eager')(torch.ones(2, 3), torch.ones(2, 3))",
        "torch._subclasses.FakeTensorMode().from_tensor(torch.ones(2)).device",
        "torch.export.export(torch.nn.Linear(2, 3), (torch.ones(2, 2),))",
        "from torch._meta_registrations import meta_index_Tensor",
        "import torch._decomp, torch._refs, torch._prims; lean.complete()",
        "lean.complete()",
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
        ("lean.complete()", False),
        ("import torch", True),
        ("lean._TRIED = '1.'", True),
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


@pytest.mark.parametrize("after", ["lean.complete()", "lean.load()"])
def test_a_broken_torch_is_for_its_import_to_tell_of(after: str, tmp_path: Path) -> None:
    """And one that is not installed at all."""
    (tmp_path / "torch.py").write_text("raise RuntimeError('broken')")
    code = f"""
import sys
from pipeline import lean
before = list(sys.meta_path)
lean.load()
{after}
assert sys.meta_path == before and not any(name.startswith("torch.") for name in sys.modules)
try:
    import torch
except RuntimeError as e:
    print(e)
"""
    assert python(["-c", code], tmp_path) == "broken"


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
        (["transform=clip transform.min=1", "transform=mine"], [False, True]),
        (["transform=mine", "transform=clip transform.min=1"], [True, True]),
        (["transform=clip transform.min=2", "transform=clip transform.min=1"], [False, False]),
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


@pytest.mark.parametrize(
    ("transform", "expected"),
    [
        ({"_target_": "pipeline.transform.clip.Clip"}, True),
        ({"_target_": "pipeline.transform.module.Module", "module": {"_target_": "torch.nn.GELU"}}, True),
        ({"_target_": "pipeline.transform.module.Module", "module": {"_target_": "mine.Net"}}, False),
        ({"_target_": "pipeline.transform.compose.Compose", "steps": {"a": {"_target_": "torch.nn.GELU"}}}, True),
        ({"_target_": "pipeline.transform.compose.Compose", "steps": [{"_target_": "torch.nnx.GELU"}]}, False),
        ({"_target_": "torch.cdist"}, False),
        ({"_target_": "mine.far"}, False),
    ],
)
@pytest.mark.parametrize("group", ["source", "transform", "sink", "engine"])
def test_what_is_known_is_ours_or_a_layer(group: str, transform: dict[str, Any], expected: bool) -> None:
    """All that the configuration names, however deep."""
    ours = {"_target_": "pipeline.x.Y"}
    raw = {**dict.fromkeys(("source", "transform", "sink", "engine"), ours), group: transform}
    assert known({**raw, "conversion": {"ragged": "error", "columns": {}}}) == expected
    assert not known({**raw, "conversion": {"ragged": "jagged", "columns": {}}})
    assert not known({**raw, "conversion": {"ragged": "error", "columns": {"x": {"ragged": "jagged"}}}})
