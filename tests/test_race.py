"""What is measured: whole process trees, in turn, and only what is right has figures."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from argparse import Namespace
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from measure import data, durability, gpu, plot, race, scale, startup, supervise
from measure.contender import CONTENDERS, LIMIT, ROOT, Contender, parse, present
from measure.lap import Lap, build, empty, libraries, warm
from measure.process import Usage, noise, run
from measure.scale import Size
from measure.verdict import Judge, Verdict
from measure.workload import WORKLOADS

from tests.device.fake import FakeRuntime

USAGE = Usage(code=0, wall=2.0, cpu=3.0, others=1.0, load=0.5, pss=300 << 20, anonymous=200 << 20)
RIGHT = Verdict(True, "")

SCRIPT = """
import sys
import numpy as np

x = np.load(sys.argv[2] + "/in/data.npy").reshape(-1, 3, 32, 2, 32, 2).astype("f8") / 255
mean, std = (np.array(c).reshape(3, 1, 1) for c in ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]))
y = ((x.mean((3, 5)) - mean) / std).astype("f2")
CHANGE
np.save(sys.argv[3] + "/out.npy", y)
print('{"decode": 0.5, "transform": 0.25, "encode": 0.25}')
"""
CHANGES = {
    "honest": "",
    "swaps": "y[:2] = y[1::-1].copy()",
    "peer": "y[:2] = y[1::-1].copy()",
    "rounds": "y = np.round(y, 2)",
    "dies": "sys.exit('no more')",
}


@pytest.fixture
def entrants(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Contenders that are quick since they import NumPy alone; one of them stands for the limit."""
    for name, change in CHANGES.items():
        path = tmp_path / f"{name}.py"
        path.write_text(SCRIPT.replace("CHANGE", change))
        package = "numpy" if name == "peer" else ""
        monkeypatch.setitem(CONTENDERS, name, Contender(name, str(path), package))
    monkeypatch.setattr(race, "LIMIT", replace(LIMIT, script=str(tmp_path / "honest.py")))
    monkeypatch.setitem(CONTENDERS, "absent", Contender("absent", "absent.py", "a_package_that_nobody_has"))
    return [*CHANGES, "absent"]


def arguments(tmp_path: Path, **more: object) -> Namespace:
    given = {"workload": ["W5"], "scale": 5e-4, "to": tmp_path / "to", "n": 1, "timeout": 60, "plot": None}
    return Namespace(**{**given, "peers_python": sys.executable, "write": None, "json": None, **more})


def test_only_what_is_right_has_figures(entrants: list[str], tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Another library may have rows in its own order; nobody may round. The exit code says that something is wrong."""
    kept = tmp_path / "raw.json"
    with pytest.raises(SystemExit) as end:
        race.race(arguments(tmp_path, contenders=",".join(entrants), json=kept))
    rows = {line.split(" | ")[0][2:]: line for line in capfd.readouterr().out.splitlines() if line.startswith("| ")}
    assert rows["honest"].endswith("| right |")
    assert rows["peer"].endswith("| order not kept |")
    assert rows["swaps"].endswith("| WRONG: order of rows not kept |")
    assert "| - | - | - | - | - | - | WRONG: data: row 0 holds" in rows["rounds"]
    assert rows["dies"].endswith("| WRONG: exit code 1 |")
    assert rows["absent"].endswith("| not installed |")
    assert "W5: rounds: data: row 0 holds" in str(end.value)
    assert "W5: dies: exit code 1\n    no more" in str(end.value)
    found = {each["contender"]: each for each in json.loads(kept.read_text())["workloads"][0]["contenders"]}
    assert found["honest"]["laps"][0]["right"]
    assert found["peer"]["laps"][0]["moved"]
    assert found["rounds"]["laps"] == []
    assert not list((tmp_path / "to").glob("lap-*")), "outputs are gone afterwards"


def heat(*walls: float) -> race.Heat:
    entries = []
    for name, wall in zip(("ours", "naive_stream"), walls, strict=True):
        lap = Lap(replace(USAGE, wall=wall, cpu=2 * wall), RIGHT, "")
        entries.append(race.Entry(CONTENDERS[name], memory=lap, laps=[lap, lap]))
    return race.Heat(WORKLOADS["W1"], 1.0, entries, [{"decode": 1.0, "transform": 0.5, "encode": 0.5}])


def test_ratios_are_to_ours_and_to_the_limit() -> None:
    """Of medians: the wall to that of this stage, the CPU to that of the work alone."""
    given = Namespace(n=2, scale=1.0, plot=Path("docs/race.svg"), write=Path("docs/performance.md"))
    text = race.text([heat(2.0, 5.0)], given)
    assert "![Seconds of each contender](race.svg)" in text
    assert "| ours | 2.00 / 2.00 | 4.00 / 4.00 | 1.00x | 2.00x | 300 | 200 | right |" in text
    assert "| naive_stream | 5.00 / 5.00 | 10.00 / 10.00 | 2.50x | 5.00x | 300 | 200 | right |" in text
    assert "Limit: 2.00 s CPU (decode 1.00, transform 0.50, encode 0.50)" in text


@pytest.mark.skipif(find_spec("matplotlib") is not None, reason="matplotlib is there")
def test_a_picture_without_matplotlib_is_refused_before_anything_runs(tmp_path: Path) -> None:
    """With the name of the extra that brings it."""
    with pytest.raises(SystemExit, match=r"pip install 'tensor-etl-stage\[bench\]'"):
        race.race(arguments(tmp_path, plot=tmp_path / "race.svg", contenders="ours"))
    assert not list(tmp_path.iterdir())


def test_a_picture_names_every_contender(tmp_path: Path) -> None:
    """And says where the machine can go no faster."""
    pytest.importorskip("matplotlib")
    plot.draw([heat(2.0, 5.0)], tmp_path / "race.svg")
    text = (tmp_path / "race.svg").read_text()
    assert [word for word in ("ours", "naive_stream", "limit on", "5.00") if f"<!-- {word}" not in text] == []


def test_what_else_ran_is_told() -> None:
    """As a share of the machine, and as its load before."""
    cores = os.cpu_count() or 1
    words = noise([replace(USAGE, others=cores * 1.0), replace(USAGE, others=0.0, load=2.25)])
    assert words.startswith("Others used 25% of the machine meanwhile (median; 50% at most); load average")
    assert words.endswith("before a run 0.5 to 2.2.")


def test_variants_of_ours_are_named_on_the_command_line(tmp_path: Path) -> None:
    """Another checkout, other overrides; nobody else has variants."""
    found = parse(f"ours@{tmp_path}:stream.depth=0;batch.bytes=4096")
    command = found.command("python", WORKLOADS["W2"], tmp_path / "in", tmp_path / "out")
    assert command[-2:] == ["stream.depth=0", "batch.bytes=4096"]
    assert found.env(tmp_path, tmp_path)["PYTHONPATH"].split(os.pathsep)[0] == str(tmp_path)
    for wrong in ("theirs", "polars:a=b"):
        with pytest.raises(SystemExit, match="is no contender; there are ours, hand_tuned, naive_memory"):
            parse(wrong)


def test_a_package_is_looked_for_where_it_would_run() -> None:
    """In the interpreter of the peers."""
    assert present(CONTENDERS["ours"], "/no/such/python")
    assert present(CONTENDERS["duckdb"], sys.executable)
    assert not present(Contender("x", "x.py", "a_package_that_nobody_has"), sys.executable)


def test_an_interpreter_is_found_from_elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Contenders run in folders of their own; one that is to be looked for is looked for there, too."""
    (tmp_path / "env").symlink_to(Path(sys.executable).parent)
    monkeypatch.chdir(tmp_path)
    assert race.interpreter("env/python") == str(tmp_path / "env/python")
    assert race.interpreter("python3") == "python3"


def test_what_an_interpreter_loads_is_found() -> None:
    """Else the first contender of a round would wait for the disk."""
    names = {file.name for file in libraries(sys.executable)}
    assert {"libtorch_cpu.so", f"_tensor.{sys.implementation.cache_tag}.pyc"} <= names


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux counts the bytes that a process reads")
def test_to_warm_is_to_read_all(tmp_path: Path) -> None:
    """Every byte of every file."""
    files = [tmp_path / name for name in "ab"]
    for file in files:
        file.write_bytes(bytes(3 << 20))

    def read() -> int:
        return int(Path("/proc/self/io").read_text().split()[1])

    before = read()
    warm(files)
    assert read() - before >= 6 << 20


def test_modules_of_a_checkout_are_compiled_before(tmp_path: Path) -> None:
    """As those that pip installs, also where Python is told to write no bytecode."""
    (tmp_path / "pipeline").mkdir()
    (tmp_path / "pipeline/__init__.py").write_text("x = 1\n")
    build(tmp_path / "pipeline")
    assert [file.name for file in (tmp_path / "pipeline/__pycache__").iterdir()] == [
        f"__init__.{sys.implementation.cache_tag}.pyc"
    ]


def test_a_lap_leaves_its_files_without_their_bytes(tmp_path: Path) -> None:
    """At any depth; links stay what they are, and lead to what they led to."""
    (tmp_path / "kept").write_text("kept")
    (tmp_path / "lap/out").mkdir(parents=True)
    (tmp_path / "lap/out/a").write_text("much")
    (tmp_path / "lap/link").symlink_to(tmp_path / "kept")
    empty(tmp_path / "lap")
    assert (tmp_path / "lap/out/a").stat().st_size == 0
    assert (tmp_path / "lap/link").read_text() == "kept"


# ---- process trees ---------------------------------------------------------------------------------------------------

BURN = "import time\nwhile time.process_time() < 0.3: pass"
LEAVE = f"import subprocess, sys\nsubprocess.Popen([sys.executable, '-c', {BURN!r}], start_new_session=True)"


def test_daemons_that_a_command_leaves_behind_are_counted(tmp_path: Path) -> None:
    """The command itself does next to nothing, and ends first."""
    usage, _ = run([sys.executable, "-c", LEAVE], tmp_path, env={}, limit=60)
    assert usage.code == 0
    assert usage.cpu > 0.3


def test_a_command_that_does_not_end_is_ended_with_all_it_started(tmp_path: Path) -> None:
    """A pipe that nobody writes to holds both for ever; what was printed is kept."""
    held = "import os, sys\nprint('here', flush=True)\nr, w = os.pipe()\nos.fork()\nos.read(r, 1)"
    usage, printed = run([sys.executable, "-c", held], tmp_path, env={}, limit=1)
    assert usage.code == -9
    assert printed == "here\n" * printed.count("here\n") != ""


def test_nothing_is_left_when_the_measuring_process_dies(tmp_path: Path) -> None:
    """The pipe ends when the last of those that hold it is gone."""
    held = "import os, sys\nprint('here', file=sys.stderr, flush=True)\nr, w = os.pipe()\nos.read(r, 1)"
    asks = f"""
import sys
from pathlib import Path
from subprocess import Popen
from measure.process import SUPERVISE
Popen([sys.executable, SUPERVISE, "usage.json", "0", "60", sys.executable, "-c", {held!r}], stdout=2).wait()
"""
    env = {**os.environ, "PYTHONPATH": str(ROOT / "scripts")}
    with subprocess.Popen([sys.executable, "-c", asks], cwd=tmp_path, env=env, stderr=subprocess.PIPE) as asking:
        assert asking.stderr is not None
        assert asking.stderr.readline() == b"here\n"
        asking.kill()
        assert asking.stderr.read() == b""


def test_memory_is_that_of_all_descendants() -> None:
    """Pages of a child count; those of a process that has ended are none."""
    held = "x = b'1' * (64 << 20)\nprint('ready', flush=True)\ninput()"
    child = subprocess.Popen([sys.executable, "-c", held], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert child.stdout is not None
    assert child.stdin is not None
    with child.stdout, child.stdin:
        assert child.stdout.readline() == b"ready\n"
        assert child.pid in supervise._tree()
        pss, anonymous = supervise._memory(child.pid)
        child.stdin.write(b"\n")
        child.stdin.flush()
    child.wait()
    assert 64 << 20 <= anonymous <= pss < 128 << 20
    assert supervise._memory(child.pid) == (0, 0)


# ---- the other commands ----------------------------------------------------------------------------------------------


def size(times: int, seconds: float, memory: int, tmp_path: Path) -> Size:
    usage = replace(USAGE, wall=1 + seconds, cpu=1 + seconds, anonymous=memory)
    lap = Lap(usage, RIGHT, "")
    return Size(Judge(WORKLOADS["W1"], tmp_path), times * 10**6, times * 10**8, lap, [lap])


@pytest.mark.parametrize(
    ("seconds", "memory", "words"),
    [
        ((1, 3, 10), (10**8, 10**8, 10**8), ("time is linear", "memory is flat", "1.00, then 1.00 s of CPU")),
        ((1, 3, 13), (10**8, 10**8, 10**8), ("time is NOT linear", "1.00, then 1.43 s of CPU")),
        ((1, 3, 10), (10**8, 3 * 10**8, 10**9), ("memory is NOT flat", "takes 1.000 bytes more")),
    ],
)
def test_growth_is_judged(
    seconds: tuple[int, ...], memory: tuple[int, ...], words: tuple[str, ...], tmp_path: Path
) -> None:
    """By what a row and a byte more cost, so that start-up does not count."""
    sizes = [size(*given, tmp_path) for given in zip((1, 3, 10), seconds, memory, strict=True)]
    verdict = scale.verdict(sizes)
    assert [each for each in words if each not in verdict] == []


def test_imports_are_summed_by_package() -> None:
    """What a module took itself, not what it imported."""
    printed = """
import time: self [us] | cumulative | imported package
import time:      1000 |       1000 |     torch._C
import time:      2000 |       3000 |   torch
import time:       500 |       3500 |     json.decoder
something else
"""
    assert startup.packages(printed) == {"torch": (0.003, 2), "standard library": (0.0005, 1)}


def test_each_step_of_durability_costs_the_difference_to_the_next() -> None:
    """The last one has nothing to be compared with."""
    laps = {
        name: [Lap(replace(USAGE, wall=wall, cpu=1.0), RIGHT, "")]
        for name, wall in zip(("ours", "without fsync", "nor SHA-256"), (3.0, 2.5, 2.25), strict=True)
    }
    assert [row[4] for row in durability._rows("W1", laps)] == ["+0.50", "+0.25", "-"]


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_without_a_gpu_that_is_said_and_nothing_is_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """It is no error: the same command serves all machines."""
    gpu.gpu(Namespace(write=tmp_path / "page.md"))
    assert "nothing is measured and no page is written" in capsys.readouterr().out
    assert not list(tmp_path.iterdir())


def test_gpu_measures_the_ceilings_and_every_job(tmp_path: Path) -> None:
    """On a device that puts everything off; what it shows are no figures, but they are all there."""
    jobs = ["identity", "W4", "W5"]  # a fake cannot hold the weights of W2
    given = Namespace(jobs=jobs, scale=5e-4, to=tmp_path, n=1, batch_bytes=1 << 18, copy_bytes=1 << 16)
    text = gpu.measure(FakeRuntime, "a fake", given)
    for name, rows, out in (("identity", "500", "0"), ("W4", "1,000", "0"), ("W5", "30", "0")):
        (line,) = [line for line in text.splitlines() if line.startswith(f"| {name} |")]
        assert line.startswith(f"| {name} | {rows} | 0 | {out} |")
    assert text.count("GB/s") == 1
    assert len([line for line in text.splitlines() if line.startswith("- ")]) == len(jobs)


@pytest.mark.parametrize("command", [race.race, scale.scale, startup.startup, durability.durability])
def test_a_page_without_the_section_is_refused_before_anything_runs(command: object, tmp_path: Path) -> None:
    """Nobody waits for figures that have no place."""
    place = tmp_path / "page.md"
    place.write_text("# Mine\n")
    with pytest.raises(SystemExit, match="has no lines <!-- bench "):
        command(arguments(tmp_path, write=place, contenders="ours"))  # type: ignore[operator]
    assert list(tmp_path.iterdir()) == [place]


def test_all_names_every_workload_once() -> None:
    """In their order."""
    assert data.chosen(["W3", "all"]) == list(WORKLOADS)
    assert data.chosen(["W3", "W1", "W3"]) == ["W3", "W1"]


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    ("command", "shown"),
    [
        (
            "run W1 W5 --scale 1e-3 --n 1 --contenders ours,naive_memory,dataloader,duckdb",
            "| right |",
        ),
        ("startup --n 1", "| a bare torch script |"),
        ("scale W4 --scale 1e-3 --n 1", "- W4: time is"),
        ("durability W3 --scale 1e-3 --n 1", "| W3 | nor manifest and report |"),
    ],
)
def test_every_command_runs_from_the_shell(command: str, shown: str, tmp_path: Path) -> None:
    """On little input, with all that is needed made on the way."""
    place = tmp_path / "page.md"
    section = command.split(maxsplit=1)[0]
    place.write_text(f"<!-- bench {section} -->\n<!-- /bench {section} -->\n")
    given = [sys.executable, "scripts/bench", *command.split(), "--to", str(tmp_path / "to"), "--write", str(place)]
    done = subprocess.run(given, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert shown in place.read_text()
    assert "WRONG" not in place.read_text()
