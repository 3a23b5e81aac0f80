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


def python(code: str, folder: Path) -> str:
    """What a new process prints that runs this code."""
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=folder, env=env, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()[-1]


def test_what_is_completed_lacks_nothing(tmp_path: Path) -> None:
    """Operators, modules and names are those of a plain import; before, many are missing."""
    plain = json.loads(python(FOUND, tmp_path))
    lean = json.loads(python(f"from pipeline import lean; lean.load(){FOUND}", tmp_path))
    completed = json.loads(python(f"from pipeline import lean; lean.load(); lean.complete(){FOUND}", tmp_path))
    assert completed == plain
    assert len(lean["Meta"]) < 0.6 * len(plain["Meta"])
    assert "torch._meta_registrations" not in lean["modules"]
    assert "_meta_registrations" not in lean["names"]
    missing = {name for key in KEYS if key != "Meta" for name in set(plain[key]) - set(lean[key])}
    assert {name.split("::")[0] for name in missing} <= {"prims", "debugprims", "rngprims"}  # the words of traces


@pytest.mark.parametrize(
    "tracing",
    [
        "torch.compile(torch.cdist, backend='eager')(torch.ones(2, 3), torch.ones(2, 3))",
        "torch._subclasses.FakeTensorMode().from_tensor(torch.ones(2)).device",
        "torch.export.export(torch.nn.Linear(2, 3), (torch.ones(2, 2),))",
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
try:
    torch.cdist(meta, meta)
except NotImplementedError:
    {tracing}
    print(torch.cdist(meta, meta).shape)
"""
    assert python(code, tmp_path) == "torch.Size([2, 2])"


def test_whoever_looks_for_one_while_torch_is_imported_finds_it(tmp_path: Path) -> None:
    """As an extension might that torch loads at the end of its import."""
    code = """
from pipeline import lean
made = lean._StandIn("torch._meta_registrations")
import sys
sys.modules[made.__name__] = made
import torch
assert not hasattr(made, "__file__") and sys.modules[made.__name__] is made
from torch._meta_registrations import meta_index_Tensor
print(meta_index_Tensor.__module__, sys.modules[made.__name__] is made)
"""
    assert python(code, tmp_path) == "torch._meta_registrations False"


def test_a_torch_that_is_there_stays_as_it_is(tmp_path: Path) -> None:
    """And one that is broken is for its next import to tell of."""
    there = "import sys, torch; from pipeline import lean; lean.load(); print('torch._prims' in sys.modules)"
    assert python(there, tmp_path) == "True"
    (tmp_path / "torch.py").write_text("raise RuntimeError('broken')")
    broken = """
from pipeline import lean
lean.load()
lean.complete()
try:
    import torch
except RuntimeError as e:
    print(e)
"""
    assert python(broken, tmp_path) == "broken"


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
    assert python(JOBS.format(jobs=words), tmp_path) == str(found)
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
    raw = dict.fromkeys(("source", "transform", "sink", "engine"), ours)
    assert known({**raw, group: transform}) == expected
