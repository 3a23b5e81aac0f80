"""Imports go one way, third parties stay behind their fences, and torch waits until a run starts."""

from __future__ import annotations

import ast
import importlib
import subprocess
import sys
from collections.abc import Iterator
from fnmatch import fnmatchcase
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "pipeline"

# The table of ARCHITECTURE.md: who may import what of our own, by name within the package. The first pattern that fits
# counts. Siblings never import each other: the __init__ of sources and transforms is what they share; device.__init__
# chooses among the devices, none of which knows it.
WAIST = ["core", "errors"]
EDGES = ["columns", "batching", "files", "npy"]
TABLE = {
    "errors": [],
    "core": ["errors"],
    "policy": WAIST,
    "columns": [*WAIST, "policy"],
    "tensors": WAIST,
    "files": [*WAIST, "stream"],
    "npy": WAIST,
    "compiling": WAIST,
    "lean": [],
    "timeline": [],
    "stream": [*WAIST, "timeline"],
    "filter": [*WAIST, "columns"],
    "watchdog": WAIST,
    "memory": WAIST,
    "secret": [],
    "batching": [*WAIST, "columns"],
    "buffers": WAIST,
    "progress": [*WAIST, "plan", "stream"],
    "fit": [*WAIST, "files"],
    "metrics": [*WAIST, "files"],
    "override": [],
    "day": [],
    "manifest": [*WAIST, "files"],
    "layout": [*WAIST, "columns", "policy"],
    "plan": [*WAIST, "columns", "layout", "manifest"],
    "audit": [*WAIST, "files", "plan"],
    "check.__init__": [],
    "check.checks": WAIST,
    "check.condition": [*WAIST, "columns", "check.checks", "filter"],
    "check.seen": [*WAIST, "columns"],
    "check.rules": [*WAIST, "columns", "check.checks", "check.condition", "check.seen"],
    "log": WAIST,
    "report": [*WAIST, "files", "memory", "plan", "check.rules"],
    "check.aside": [*WAIST, "columns", "files", "npy", "sink.parquet"],
    "check.finding": [*WAIST, "columns", "check.aside", "check.rules", "check.seen"],
    "check.inspection": [*WAIST, "columns", "batching", "check.aside", "check.finding", "check.rules"],
    "sweep.__init__": [],
    "sweep.result": [*WAIST, "files"],
    "page.__init__": [],
    "page.glimpse": [*WAIST, "columns", "layout"],
    "page.recorder": ["page.glimpse", "memory", "timeline"],
    "page.chart": [*WAIST, "timeline"],
    "sweep.slots": WAIST,
    "difference": [*WAIST, "columns", "batching"],
    "sample": [*WAIST, "columns", "batching"],
    "verdict": [*WAIST, "columns", "difference", "plan", "sample"],
    "source.*": [*WAIST, *EDGES, "buffers", "filter", "source.__init__"],
    "sink.*": [*WAIST, *EDGES],
    "transform.*": [*WAIST, "compiling", "transform.__init__"],
    "device.__init__": [*WAIST, "device.*"],
    "device.*": [*WAIST, "tensors"],
    "engine.*": WAIST,
    "worker": [*WAIST, "columns", "tensors", "batching", "check.inspection", "layout", "policy", "stream", "watchdog"],
    "calibration": [*WAIST, "batching", "worker"],
    "run": [
        *WAIST, "calibration", "check.aside", "check.checks", "check.inspection", "check.rules", "columns", "files",
        "fit", "layout", "log", "manifest", "memory", "page.document", "page.recorder", "plan", "policy", "progress",
        "report", "stream", "watchdog", "worker",
    ],
    "verify": [
        *WAIST, "columns", "batching", "check.checks", "difference", "layout", "plan", "policy", "run", "sample",
        "source.*", "tensors", "transform.identity", "verdict",
    ],
    "__init__": [*WAIST, "manifest"],
    "sweep.measure": [*WAIST, "plan", "sweep.result"],
    "page.document": [*WAIST, "page.*", "plan", "sweep.measure", "sweep.result", "timeline"],
    "compare": [*WAIST, "files", "log", "sweep.measure", "page.document", "plan", "sweep.result"],
    "schema": [*WAIST, "columns", "files", "layout", "log", "plan", "policy", "source.*"],
    "sweep.objective": [*WAIST, "layout", "manifest", "policy", "schema"],
    "config": ["*"],
    "target": ["*"],
    "fence": ["*"],
    "sweep.rehearsal": ["*"],
    "sweep.tether": ["__main__"],
    "sweep.watch": ["*"],
    "airflow": ["*"],
    "testing.*": ["*"],
    "__main__": ["*"],
}  # fmt: skip
TOP = [
    "config",
    "target",
    "fence",
    "sweep.rehearsal",
    "sweep.tether",
    "sweep.watch",
    "airflow",
    "testing.*",
    "__main__",
]  # what nobody below imports

# Which modules may import a third party, or a part of the standard library that we keep in one place.
FENCES = {
    "hydra": ["config", "target", "sweep.rehearsal", "sweep.watch", "__main__"],
    "omegaconf": ["config", "target", "fence", "sweep.rehearsal", "sweep.watch", "__main__"],
    # locks on headers, buffers and what stands in for modules; who gets signals; who waits for the end of a parent
    "threading": [
        "stream",
        "watchdog",
        "source.__init__",
        "device.cuda",
        "testing.*",
        "__main__",
        "lean",
        "sweep.tether",
    ],
    "concurrent": ["stream", "testing.*", "airflow"],  # two pipes of a child process are read at once
    "multiprocessing": [],
    "asyncio": [],
    "pickle": ["testing.*"],  # a contract: components travel cold
    "torch": [
        "core",
        "compiling",
        "lean",
        "tensors",
        "transform.*",
        "device.*",
        "worker",
        "run",
        "verify",
        "config",
        "__main__",
        "testing.*",
    ],
    "rich": ["progress"],
    "matplotlib": ["page.chart"],
    "jinja2": ["page.document"],
    "fcntl": ["sweep.slots"],
    "subprocess": ["sweep.slots", "airflow"],
    "filelock": ["files"],
    "safetensors": ["fit", "transform.module", "testing.*"],
    "ray": ["engine.ray"],
    "airflow": ["airflow"],
    "prometheus_client": ["metrics"],
}

# What loads torch when it is imported; all else stays quick for --help, a typo, or a scheduler that only parses.
LIGHT_ELSEWHERE = ["airflow"]  # cannot be imported without Airflow; tests/test_airflow.py looks there
HEAVY = ["tensors", "transform.*", "device.cpu", "device.cuda", "device.mps", "testing.*"]


def module_name(path: Path) -> str:
    return ".".join(path.relative_to(PACKAGE).with_suffix("").parts)


MODULES = {module_name(path): path for path in sorted(PACKAGE.rglob("*.py"))}


def imports(node: ast.AST) -> Iterator[str]:
    """Every module that is imported anywhere below, except for types only."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
            for other in child.orelse:
                yield from imports(other)
        elif isinstance(child, ast.Import):
            yield from (alias.name for alias in child.names)
        elif isinstance(child, ast.ImportFrom):
            assert child.level == 0, "imports are absolute"
            yield from (f"{child.module}.{alias.name}" for alias in child.names)
        else:
            yield from imports(child)


def parsed(module: str) -> ast.Module:
    return ast.parse(MODULES[module].read_text(encoding="utf-8"))


def own(name: str) -> str | None:
    """The module of ours that `pipeline.a.b.Thing` means; None for third parties."""
    first, _, rest = name.partition(".")
    if first != "pipeline":
        return None
    parts = rest.split(".")
    for end in range(len(parts), 0, -1):
        stem = ".".join(parts[:end])
        for candidate in (stem, f"{stem}.__init__"):
            if candidate in MODULES:
                return candidate
    return "__init__"


def fits(name: str, patterns: list[str]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)


@pytest.mark.parametrize("module", MODULES)
def test_a_module_imports_only_what_the_table_allows(module: str) -> None:
    """Its own imports, those inside functions included, are in the row that it belongs to."""
    allowed = next((row for pattern, row in TABLE.items() if fnmatchcase(module, pattern)), None)
    if allowed is None:
        pytest.fail(f"{module} is in no row of the table; give it one here and in ARCHITECTURE.md")
    found = {target for name in imports(parsed(module)) if (target := own(name))} - {module}
    assert sorted(name for name in found if not fits(name, allowed)) == []


@pytest.mark.parametrize("module", [name for name in MODULES if not fits(name, TOP)])
def test_nothing_below_imports_the_top(module: str) -> None:
    """Configuration, suites and the front door know the rest; the rest does not know them."""
    assert [name for name in imports(parsed(module)) if fits(own(name) or "", TOP)] == []


@pytest.mark.parametrize("party", FENCES)
def test_a_third_party_stays_behind_its_fence(party: str) -> None:
    """Only the modules that are named for it import it."""
    users = {module for module in MODULES if any(name.split(".")[0] == party for name in imports(parsed(module)))}
    assert sorted(user for user in users if not fits(user, FENCES[party])) == []


def test_cuda_stays_in_its_device() -> None:
    """Streams, events and pinned memory are the business of device.cuda; device.__init__ asks if CUDA is there."""
    users = {
        module
        for module in MODULES
        if any(isinstance(n, ast.Attribute) and ast.unparse(n) == "torch.cuda" for n in ast.walk(parsed(module)))
        or any(name.startswith("torch.cuda") for name in imports(parsed(module)))
    }
    assert sorted(user for user in users if not fits(user, ["device.cuda", "device.__init__"])) == []


def test_every_module_is_in_the_architecture() -> None:
    """ARCHITECTURE.md, which a newcomer reads, names each row of the table."""
    page = (ROOT / "ARCHITECTURE.md").read_text(encoding="utf-8")
    rows = {module.split(".")[0] for module in MODULES} - {"__init__"}
    assert sorted(row for row in rows if f"`{row}`" not in page and f"`{row}/*`" not in page) == []


def test_the_operator_names_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where Airflow is missing, importing the operator says what to install."""
    monkeypatch.setitem(sys.modules, "airflow", None)
    monkeypatch.delitem(sys.modules, "pipeline.airflow", raising=False)
    with pytest.raises(ImportError, match=r"pip install 'tensor-etl-stage\[airflow\]'"):
        importlib.import_module("pipeline.airflow")


def test_torch_waits_until_a_run_starts() -> None:
    """No module outside HEAVY loads torch, or the dataset engine of Arrow, when it is imported."""
    light = [name for name in MODULES if not fits(name, [*HEAVY, *LIGHT_ELSEWHERE])]
    code = """
import importlib, sys
for name in sys.argv[1:]:
    importlib.import_module(name)
    if loaded := sys.modules.keys() & {"torch", "pyarrow.dataset"}:
        sys.exit(f"{name} loads {loaded}")
"""
    names = [f"pipeline.{name}".removesuffix(".__init__") for name in light]
    done = subprocess.run([sys.executable, "-c", code, *names], cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_numpy_waits_for_its_surroundings() -> None:
    """What it reads when it is loaded is set when a job begins."""
    code = "import sys, pipeline.__main__; sys.exit('numpy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0


def test_a_run_does_not_load_what_it_does_not_use(tmp_path: Path) -> None:
    """Masked arrays are one: to ask for the class loads its module, which takes longer than a small batch."""
    code = "import sys; from pipeline.__main__ import main; main(sys.argv[1:]); sys.exit('numpy.ma' in sys.modules)"
    run = [sys.executable, "-c", code, "source=npy", "sink=npy", "transform=identity", f"sink.path={tmp_path}/out"]
    assert subprocess.run(run, cwd=ROOT, check=False, capture_output=True).returncode == 0
    assert list(tmp_path.glob("out/*.npy"))


PANDAS = """
import sys, traceback
from pipeline.__main__ import main

asked = []

class Watch:
    def find_spec(self, name, path=None, target=None):
        if name == "pandas":
            asked.extend(traceback.format_stack())

sys.meta_path.insert(0, Watch())
codes = [main([*job.split("|"), "+device=cpu"]) for job in sys.argv[1:]]
sys.exit("".join(asked) or (str(codes) if any(codes) else None))
"""


def test_jobs_do_without_pandas(tmp_path: Path) -> None:
    """Where it is installed, pyarrow imports it for most ways from and to Python and NumPy: 0.2 s of each job."""
    rows = 1 << 19  # so many that words may go from file to file as codes
    words = pa.array(["a", "b", "c", "d"] * (rows // 4))
    x = pa.array([1.5, None, 2.5, -1.0] * (rows // 4))
    table = pa.table({"id": range(rows), "word": words, "code": words.dictionary_encode(), "x": x, "y": range(rows)})
    (tmp_path / "in").mkdir()
    pq.write_table(table, tmp_path / "in/a.parquet")
    pq.write_table(table.slice(rows - 100), tmp_path / "in/b.parquet")
    source = f"source=parquet|source.path={tmp_path}/in"
    filters = "source.filter=[[id, '>', 2], [word, in, [a, b]], [x, '<', 2.0]]"
    checks = "checks.input=[{column: word, allowed: [a, b], action: quarantine}, {column: y, max: 999, action: warn}]"
    jobs = [
        f"{source}|sink.path={tmp_path}/plain",
        f"{source}|{filters}|sink.path={tmp_path}/filtered",
        f"{source}|{checks}|sink.path={tmp_path}/checked",
        f"{source}|sink.partition_by=[word]|sink.path={tmp_path}/folders",
        f"source.path={tmp_path}/folders|source=parquet|sink.path={tmp_path}/back",
        f"{source}|columns=[id]|carry=none|sink=npz|sink.path={tmp_path}/ids",
        f"source=npz|source.path={tmp_path}/ids|sink=npy|sink.path={tmp_path}/id.npy",
    ]
    given = [f"{job}|transform=identity" for job in jobs]
    done = subprocess.run([sys.executable, "-c", PANDAS, *given], cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr[-4000:] if done.returncode else "") == (0, "")
