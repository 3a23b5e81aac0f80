"""torch without meta functions: what starts without them, what brings them in, and that then nothing is missing."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parent.parent

FOUND = """
import json, sys, torch
told = {"keys": {"": sorted(torch._C._dispatch_get_registrations_for_dispatch_key(""))}}
for key in torch._C.DispatchKey.__members__:
    try:
        told["keys"][key] = sorted(torch._C._dispatch_get_registrations_for_dispatch_key(key))
    except RuntimeError:  # the name of no key of operators
        pass
told["modules"] = sorted(name for name in sys.modules if name.split(".")[0] == "torch")
told["names"] = sorted(vars(torch))
told["spaces"] = sorted(torch.ops)
asked = torch._ops.OpOverload
told["where"] = [each.__code__.co_filename for each in vars(asked).values() if hasattr(each, "__code__")]
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
    assert len(lean["keys"]["Meta"]) < 0.6 * len(plain["keys"]["Meta"])
    assert len(plain["keys"]) > 50
    missing = {(key, name) for key in plain["keys"] for name in set(plain["keys"][key]) - set(lean["keys"][key])}
    computing = {(key, name) for key, name in missing if key != "Meta" and "prims::" not in name}
    assert computing == {("MPS", "aten::linalg_lu_solve.out")}  # where there is MPS, torch comes whole


def test_what_comes_with_them_is_known(tmp_path: Path) -> None:
    """Nothing else is imported, whose lock somebody might hold who waits."""
    code = """
import sys
from pipeline import lean
lean.load()
before = dict(sys.modules)
for name in lean._WITH:
    own = {word for word in vars(before[name]) if not word.startswith("__")}
    assert own <= {other.rpartition(".")[2] for other in lean._WITH}
lean.complete()
assert {name: module for name, module in sys.modules.items() if before.get(name) is not module} == {}
print({type(before[name]) for name in lean._WITH} == {type(sys)})
"""
    assert python(["-c", code], tmp_path) == "True"


def test_layers_make_the_same_of_the_same(tmp_path: Path) -> None:
    """All that torch has, which is what a configuration may name beside our own code, bit for bit."""
    lean, plain = (json.loads(python(["-m", "tests.layers", *words], tmp_path)) for words in (["lean"], []))
    assert (lean["whole"], plain["whole"]) == (False, True)
    assert lean["layers"] == plain["layers"]
    assert len({bits for bits, _ in plain["layers"].values()}) > 80


NEEDS_NONE = """
drawn = [torch.rand(3, generator=torch.Generator().manual_seed(1)) for _ in range(2)]
assert torch.equal(*drawn) and isinstance(torch.Generator(), torch.Generator)
assert torch.equal(torch.eye(3).to_sparse() @ torch.ones(3, 3), torch.ones(3, 3))
assert lean.lacking() is not {completed}
loss = torch.nn.BCELoss(torch.tensor([2.0]))(torch.tensor([0.5]), torch.tensor([1.0]))  # looks for torch._refs
assert torch.equal(loss, torch.tensor(2.0).log() * 2)


@torch.library.custom_op("tests::noise", mutates_args=())
def noise(x: torch.Tensor, source: torch.Generator) -> torch.Tensor:
    return x + torch.rand(3, generator=source)


assert torch.equal(noise(torch.zeros(3), torch.Generator().manual_seed(1)), drawn[0])
"""


@pytest.mark.parametrize("completed", [False, True])
def test_what_computes_needs_none_of_them(completed: bool, tmp_path: Path) -> None:
    """Losses, generators, sparse tensors, operators of one's own: before and after."""
    code = f"""
from pipeline import lean
lean.load()
import torch
if {completed}:
    torch.Generator()
    lean.complete()
{NEEDS_NONE.format(completed=completed)}
print("done")
"""
    assert python(["-c", code], tmp_path) == "done"


FAR = "print(torch.cdist(*[torch.empty(2, 3, device='meta')] * 2).shape)"


@pytest.mark.parametrize(
    ("wanting", "printed"),
    [
        (FAR, "torch.Size([2, 2])"),
        ("print(torch.ones(3).to('meta').angle().shape)", "torch.Size([3])"),
        ("with torch.device('meta'):\n    print(torch.nn.LSTM(2, 3)(torch.ones(4, 2))[0].shape)", "torch.Size([4, 3])"),
        ("print(torch.nn.utils.skip_init(torch.nn.Linear, 2, 3).weight.device)", "cpu"),
        ("print(torch.nested.nested_tensor([torch.ones(2), torch.ones(1)], layout=torch.jagged).sum())", "tensor(3.)"),
        ("print(torch.compile(torch.cdist, backend='eager')(torch.ones(1, 3), torch.ones(1, 3)))", "tensor([[0.]])"),
        ("print(torch._subclasses.FakeTensorMode().from_tensor(torch.ones(2)).angle().shape)", "torch.Size([2])"),
        ("print(len(torch.export.export(torch.nn.GELU(), (torch.ones(2),)).graph.nodes))", "3"),
        ("print(torch.func.vmap(torch.dot)(torch.ones(2, 3), torch.ones(2, 3)))", "tensor([3., 3.])"),
        ("print(torch.func.jvp(torch.sin, (torch.zeros(1),), (torch.ones(1),))[1])", "tensor([1.])"),
        ("print(torch.ops.prims.sin(torch.zeros(1)))", "tensor([0.])"),
        ("print(len(list(torch.ops.prims)) > 100)", "True"),
        ("print(torch._refs.sinc.__name__, 'sin' in dir(torch._prims))", "sinc True"),
        ("print(torch._prims_common.wrappers.out_wrapper.__name__)", "out_wrapper"),
        ("import torch._refs.linalg as found\nprint(found.vector_norm.__name__)", "vector_norm"),
        ("from torch._refs.nn.functional import gelu\nprint(gelu.__name__)", "gelu"),
        ("from torch._decomp import *\nprint(callable(get_decompositions))", "True"),
        ("import torch.utils._content_store as found\nprint(found.hash_storage.__name__)", "hash_storage"),
        ("print(torch.ops.aten._make_dep_token(device='meta').device)", "meta"),
        (
            "from torch._meta_registrations import meta_index_Tensor\nprint(meta_index_Tensor.__name__)",
            "meta_index_Tensor",
        ),
        (
            """own = torch.library.Library('aten', 'IMPL')
own.impl('sinc', lambda x: x.new_empty(7), 'Meta')
print(torch.sinc(torch.ones(2, device='meta')).shape)""",
            "torch.Size([7])",
        ),
        (
            """ones = torch.ones(2)
print(torch.func.functionalize(lambda x, y: x.clone().logical_and_(y))(ones, ones))""",
            "tensor([1., 1.])",
        ),
        (
            """given = torch._to_functional_tensor(torch.ones(2))
torch._enable_functionalization()
made = given.logical_not_()
torch._disable_functionalization()
print(torch._from_functional_tensor(made))""",
            "tensor([0., 0.])",
        ),
        (
            "print(torch.ops.aten.upsample_nearest1d.default.decompose(torch.ones(1, 1, 2), [4]).shape)",
            "torch.Size([1, 1, 4])",
        ),
        (
            """from torch.utils.flop_counter import FlopCounterMode
with FlopCounterMode(display=False) as counted:
    torch.nn.Linear(3, 4)(torch.ones(2, 3))
print(counted.get_total_flops())""",
            "48",
        ),
        (
            """own = torch.library.Library('quantized', 'IMPL')
own.impl('relu6', lambda x, inplace=False: x.new_empty(7), 'Meta')
print(torch.ops.quantized.relu6(torch.ones(2, device='meta')).shape)""",
            "torch.Size([7])",
        ),
        ("try:\n    torch.ops.load_library('none.so')\nexcept OSError:\n    print('none')", "none"),
        ("from torch._dynamo import is_compiling\nprint(is_compiling())", "False"),
    ],
)
def test_whatever_wants_them_brings_them_in(wanting: str, printed: str, tmp_path: Path) -> None:
    """And then nothing is missing, nor is anything there twice."""
    before, after = "assert lean.lacking()", "assert not lean.lacking()"
    code = f"from pipeline import lean\nlean.load()\nimport torch\n{before}\n{wanting}\n{after}\n{FAR}"
    assert python(["-c", code], tmp_path, lines=2) == f"{printed}\ntorch.Size([2, 2])"


def test_what_torch_asks_inspect_is_answered_without_a_search(tmp_path: Path) -> None:
    """It would resolve the path of each module there is. The answers are right."""
    code = """
import inspect, os, sys
from pipeline import lean
asked, resolve = [], os.path.realpath
os.path.realpath = lambda *given, **options: (asked.append(given), resolve(*given, **options))[1]
lean.load()
os.path.realpath = resolve
assert len(asked) < 100, len(asked)
for name in lean._ASKS:
    module = sys.modules[name]
    assert inspect.getmodule(compile("1", module.__file__, "eval"), module.__file__) is module
print(len(lean._ASKS))
"""
    assert python(["-c", code], tmp_path) == "2"


@pytest.mark.parametrize(
    "others",
    [
        "torch.empty(2, device='meta').angle()",
        "torch.ops.prims.sin(torch.ones(2))",
        "torch._refs.sinc(torch.ones(2))",
        "torch.func.vmap(torch.sum)(torch.ones(2, 2))",
        "__import__('torch._refs.nn.functional')._refs.nn.functional.gelu(torch.ones(2))",
    ],
)
def test_threads_that_want_them_at_once_wait(others: str, tmp_path: Path) -> None:
    """None goes on with half of them."""
    code = f"""
import sys
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier
from pipeline import lean
lean.load()
import torch
sys.setswitchinterval(1e-5)
ready = Barrier(4)
def want(n):
    ready.wait()
    return tuple(({others} if n % 2 else torch.cdist(*[torch.empty(2, 2, device="meta")] * 2)).shape)
with ThreadPoolExecutor(4) as threads:
    print({{*threads.map(want, range(4))}})
"""
    assert python(["-c", code], tmp_path) in ("{(2, 2), (2,)}", "{(2,), (2, 2)}")


MIDWAY = """
import os, signal, sys, threading, traceback, _thread
from pipeline import lean
lean.load()
import torch
seen = []
def midway(event, args):
    if event == "open" and "_refs" in str(args[0]) and "fft" in str(args[0]) and not seen:
        seen.append(args[0])
        {happens}
sys.addaudithook(midway)
def tried():
    try:
        return tuple(torch.cdist(*[torch.empty(2, 3, device="meta")] * 2).shape)
    except BaseException as e:
        return f"{{type(e).__name__}}: {{e}}"
"""


def test_what_failed_is_not_tried_again(tmp_path: Path) -> None:
    """Half of it is there, over which the rest would go without a word."""
    code = f"{MIDWAY.format(happens='raise MemoryError(1)')}\nprint(tried(), len(seen), tried())"
    told = "RuntimeError: torch could not import the rest of itself: 1"
    assert python(["-c", code], tmp_path) == f"{told} 1 {told}"


def test_an_interrupt_does_not_break_it(tmp_path: Path) -> None:
    """It goes on where it is, and who asks again has all of it."""
    code = f"{MIDWAY.format(happens='_thread.interrupt_main()')}\nprint(tried(), tried())"
    assert python(["-c", code], tmp_path) == "KeyboardInterrupt:  (2, 2)"


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
def test_a_fork_waits_for_it(tmp_path: Path) -> None:
    """In the child nobody would go on."""
    code = f"""{MIDWAY.format(happens="begun.set()")}
begun = threading.Event()
thread = threading.Thread(target=lambda: torch.empty(2, device="meta"))  # others import more, which no fork waits for
thread.start()
begun.wait()
if not (child := os.fork()):
    signal.alarm(60)
    os._exit(tried() != (2, 2))
thread.join()
print(os.waitpid(child, 0)[1], tried())
"""
    assert python(["-c", code], tmp_path) == "0 (2, 2)"


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
def test_a_fork_waits_for_it_through_signals(tmp_path: Path) -> None:
    """Python forks whatever is raised before. The wait goes on, and what was raised is printed."""
    code = f"""{MIDWAY.format(happens="begun.set(); proceed.wait()")}
begun, proceed = threading.Event(), threading.Event()
thread = threading.Thread(target=lambda: torch.empty(2, device="meta"))
thread.start()
begun.wait()
told = []
sys.unraisablehook = lambda given: told.append(given.exc_type.__name__)
waits, wait = [], lean._completion._ended.wait
def waiting(seconds):
    waits.append(seconds)
    if len(waits) > 1:
        proceed.set()
        return wait(seconds)
    signal.raise_signal(signal.SIGINT)
lean._completion._ended.wait = waiting
if not (child := os.fork()):
    signal.alarm(60)
    os._exit(tried() != (2, 2))
thread.join()
print(os.waitpid(child, 0)[1], tried(), told, len(waits) > 1)
"""
    assert python(["-c", code], tmp_path) == "0 (2, 2) ['KeyboardInterrupt'] True"


@pytest.mark.parametrize(
    "without",
    [
        "threading.settrace(lambda *_: 1 / 0)",
        "threading.Thread.start = lambda _: (_ for _ in ()).throw(RuntimeError('no thread'))",
    ],
)
def test_without_a_thread_of_its_own_it_comes_all_the_same(without: str, tmp_path: Path) -> None:
    """In that of the caller."""
    code = f"import threading\nfrom pipeline import lean\nlean.load()\nimport torch\n{without}\n{FAR}"
    assert python(["-c", code], tmp_path) == "torch.Size([2, 2])"


def test_nobody_waits_for_it_at_the_end_of_the_interpreter(tmp_path: Path) -> None:
    """Which starts no thread any more, and has taken modules apart."""
    code = """
from pipeline import lean
lean.load()
import torch
def last():
    try:
        yield
    finally:
        try:
            print(torch._refs.sinc.__name__)
        except RuntimeError as e:
            print(e)
kept = last()
next(kept)
"""
    assert "torch could not import the rest of itself" in python(["-c", code], tmp_path)


def test_what_is_put_into_a_module_stays(tmp_path: Path) -> None:
    """It would be lost when the module is filled."""
    code = """
import sys
from pipeline import lean
lean.load()
sys.modules["torch._refs"].sinc = "mine"
print(sys.modules["torch._refs"].sinc, lean.lacking())
"""
    assert python(["-c", code], tmp_path) == "mine False"


def test_a_torch_with_plug_ins_comes_whole(tmp_path: Path) -> None:
    """They are imported with it, and may want anything."""
    told = tmp_path / "plug-1.dist-info"
    told.mkdir()
    (told / "METADATA").write_text("Metadata-Version: 2.1\nName: plug\nVersion: 1\n")
    (told / "entry_points.txt").write_text("[torch.backends]\nplug = plug:load\n")
    (tmp_path / "plug.py").write_text("def load():\n    import torch._refs\n    print(torch._refs.sinc.__name__)\n")
    code = "from pipeline import lean\nlean.load()\nimport torch\nassert not lean.lacking()"
    assert python(["-c", code], tmp_path) == "sinc"


def test_to_look_for_a_module_does_not_import_it(tmp_path: Path) -> None:
    """The specification is that of a plain torch."""
    code = """
from importlib.util import find_spec
from pipeline import lean
lean.load()
names = lean._WITH
found = [find_spec(name) for name in names]
assert lean.lacking()
assert all(spec.name == name and spec.origin.endswith(".py") for spec, name in zip(found, names))
lean.complete()
assert [find_spec(name).origin for name in names] == [spec.origin for spec in found]
print(len(found) == len(names))
"""
    assert python(["-c", code], tmp_path) == "True"


MAKERS = """
import contextlib, io
from pipeline import lean
lean.load()
import torch
noticed = 0
def notice():
    global noticed
    noticed += 1
whole, lean.complete = lean.complete, notice
like, kept = torch.ones(2), io.BytesIO()
torch.save(like, kept)
for make in [
    lambda: torch.empty(2, device="meta"), lambda: torch.zeros(2, device="meta"), lambda: torch.ones(2, device="meta"),
    lambda: torch.full((2,), 1, device="meta"), lambda: torch.tensor([1, 2], device="meta"),
    lambda: torch.arange(3, device="meta"), lambda: torch.linspace(0, 1, 3, device="meta"),
    lambda: torch.eye(2, device="meta"), lambda: torch.rand(2, device="meta"), lambda: torch.randn(2, device="meta"),
    lambda: torch.randint(2, (2,), device="meta"), lambda: torch.randperm(2, device="meta"),
    lambda: torch.empty_like(like, device="meta"), lambda: torch.zeros_like(like, device="meta"),
    lambda: torch.rand_like(like, device="meta"), lambda: like.new_ones(2, device="meta"),
    lambda: torch.empty_strided((2,), (1,), device="meta"), lambda: torch.empty_permuted((2,), (0,), device="meta"),
    lambda: torch.as_tensor(like, device="meta"), lambda: torch.scalar_tensor(1, device="meta"),
    lambda: torch.tril_indices(2, 2, device="meta"), lambda: torch.triu_indices(2, 2, device="meta"),
    lambda: torch.load(io.BytesIO(kept.getvalue()), map_location="meta"),
    lambda: torch.normal(0, 1, (2,), device="meta"),
    lambda: torch.hann_window(3, device="meta"),
    lambda: like.to("meta"), lambda: torch.nn.Linear(2, 2).to("meta"), lambda: torch.nn.Linear(2, 2, device="meta"),
    lambda: torch.nn.Linear(2, 2).to_empty(device="meta"), lambda: torch.asarray([1.0], device="meta"),
    lambda: torch.complex(like, like).to("meta"), lambda: torch.ones(2, dtype=torch.bfloat16).to("meta"),
]:
    list(lean._notice(torch))
    before = noticed
    with contextlib.suppress(NotImplementedError):  # it is not there, since nothing is brought in here
        make()
    assert noticed > before, make.__code__.co_firstlineno
print(noticed > 25)
"""


def test_the_first_of_their_tensors_is_noticed(tmp_path: Path) -> None:
    """However it is made."""
    assert python(["-c", MAKERS], tmp_path) == "True"


@pytest.mark.parametrize(
    ("change", "found"),
    [
        ("import torch", True),
        ("import re; lean._TRIED = re.compile('1.*'); lean.load(); lean.complete()", True),
        ("lean.version = lambda _: '2.13.0a0+git1'; lean.load()", True),
        ("lean.version = lambda _: None; lean.load()", True),
        ("real, sys.platform = sys.platform, 'darwin'; lean.load(); sys.platform = real; import torch", True),
        ("lean._FIRST = ('not_there',); lean.load(); assert not lean.lacking()", True),
        ("lean._BESIDE = 'torch._not_there'; lean.load(); assert not lean.lacking()", True),
        ("lean._WITH += ('torch._not_there',); lean.load(); assert not lean.lacking()", True),
    ],
)
def test_any_other_torch_stays_as_it_is(change: str, found: bool, tmp_path: Path) -> None:
    """One that is there already, one with which this was not tried, and one that is not like others of its release."""
    code = f"""
import sys
from pipeline import lean
{change}
lean.load()
import torch
print("torch._prims" in sys.modules and not lean.lacking())
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
from pipeline import lean
from pipeline.__main__ import _Door, main
_Door.starting = True
found = []
for words in {jobs}:
    assert main(["-cd", ".", "source=npy", "source.path=x.npy", "sink=npy", *words]) == 0
    found.append(not lean.lacking())
print(found)
"""


@pytest.mark.parametrize(
    ("jobs", "found"),
    [
        (["transform=clip transform.min=1", "transform=mine", "transform=far"], [False, False, True]),
        (["transform=far", "transform=clip transform.min=1"], [True, True]),
    ],
)
def test_jobs_bring_them_in_when_they_want_them(jobs: list[str], found: list[bool], tmp_path: Path) -> None:
    """Also after a job in the same process that was content with less."""
    np.save(tmp_path / "x.npy", np.arange(6.0).reshape(3, 2))
    (tmp_path / "transform").mkdir()
    for name in ("mine", "far"):
        (tmp_path / "transform" / f"{name}.yaml").write_text(f"_target_: mine.{name}\n")
    (tmp_path / "mine.py").write_text(
        "import torch\n\n\ndef mine(tensors):\n    assert torch.Generator()\n    return tensors\n"
        "\n\ndef far(tensors):\n    meta = torch.empty(2, 3, device='meta')\n"
        "    assert torch.cdist(meta, meta).shape == (2, 2)\n    return tensors\n"
    )
    words = [[*job.split(), f"sink.path=out{i}.npy"] for i, job in enumerate(jobs)]
    assert python(["-c", JOBS.format(jobs=words)], tmp_path) == str(found)
    for i, job in enumerate(jobs):
        least = int(job[-1]) if "clip" in job else 0
        assert np.array_equal(np.load(tmp_path / f"out{i}.npy"), np.arange(6.0).reshape(3, 2).clip(least))
