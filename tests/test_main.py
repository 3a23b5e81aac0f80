"""The front door: what a command line does, prints and returns."""

from __future__ import annotations

import gc
import json
import logging
import os
import platform
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import pipeline
from pipeline.__main__ import _Door, _tune_libraries, main, split
from pipeline.config import force
from pipeline.day import date_add, today

ROOT = Path(__file__).parents[1]

CODE = """
from dataclasses import dataclass
import torch

def twice(tensors, by: float = 2.0):
    return {name: t * by for name, t in tensors.items()}

def explode(tensors):
    raise KeyError("boom")

@dataclass(frozen=True)
class Scale:
    by: float = 2.0
    def __call__(self, tensors):
        return twice(tensors, self.by)

class Net(torch.nn.Module):
    def forward(self, tensors):
        return twice(tensors)
"""


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    """Hydra configures the root logger; put it back."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:], root.level = handlers, level


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A user's project: an array, my_conf/transform/mine.yaml, and the module it names."""
    monkeypatch.chdir(tmp_path)
    np.save("x.npy", np.arange(12, dtype=np.float32).reshape(6, 2))
    Path("my_conf/transform").mkdir(parents=True)
    Path("usercode.py").write_text(CODE)
    monkeypatch.delitem(sys.modules, "usercode", raising=False)
    mine("twice")
    return tmp_path


def mine(target: str, folder: Path = Path()) -> None:
    (folder / "my_conf/transform/mine.yaml").write_text(f"_target_: usercode.{target}\n")


NPY = ("source=npy", "source.path=x.npy", "sink=npy", "sink.path=y.npy", "log.progress=none", "device=cpu")
MINE = ("--config-dir", "my_conf", "transform=mine", *NPY)

Front = Callable[..., tuple[int, list[str], str]]


@pytest.fixture
def front(capfd: pytest.CaptureFixture[str]) -> Front:
    """Call the front door: exit code, lines of stdout, text of stderr."""

    def call(*args: str) -> tuple[int, list[str], str]:
        capfd.readouterr()
        code = main(args)
        out, err = capfd.readouterr()
        return code, out.splitlines(), err

    return call


# ---- runs ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("target", ["twice", "Scale", "Net"])
def test_a_users_own_transform_runs(here: Path, front: Front, target: str) -> None:
    """A function, a dataclass and a module need a YAML with a `_target_`, and no registration."""
    mine(target)
    code, out, err = front(*MINE)
    assert code == 0, err
    assert json.loads(out[-1])["state"] == "done"
    np.testing.assert_array_equal(np.load("y.npy"), np.load("x.npy") * 2)


def test_a_users_folder_works_from_elsewhere(here: Path, front: Front, monkeypatch: pytest.MonkeyPatch) -> None:
    """Code beside the folder of --config-dir is found from any directory, as cron needs it."""
    (here / "elsewhere").mkdir()
    monkeypatch.chdir(here / "elsewhere")
    code, _, err = front("--config-dir", str(here / "my_conf"), *MINE[2:], f"source.path={here}/x.npy")
    assert code == 0, err
    assert str(here) not in sys.path


def test_stdout_holds_one_line_of_json(here: Path, front: Front) -> None:
    """Everything for people goes to stderr."""
    _, out, err = front(*MINE)
    assert len(out) == 1
    assert {"state", "rows", "parts", "bytes", "seconds", "output"} <= json.loads(out[0]).keys()
    assert "done" in err


def test_a_run_writes_nothing_but_its_output(here: Path, front: Front) -> None:
    """No dated folders and no log files."""
    before = set(here.iterdir())
    front(*MINE)
    assert {p.name for p in set(here.iterdir()) - before} <= {"y.npy", "y.npy.run", "__pycache__"}


def test_nothing_to_do_may_be_told_to_a_scheduler(here: Path, front: Front) -> None:
    """The second run is 0, or 99 if asked for."""
    assert front(*MINE)[0] == 0
    code, out, _ = front(*MINE)
    assert (code, json.loads(out[-1])["state"]) == (0, "nothing to do")
    assert front(*MINE, "run.nothing_to_do=skip")[0] == 99


@pytest.mark.parametrize(("given", "shift"), [((), 0), (("date=${yesterday:}",), 1)])
def test_a_run_by_date_is_repeated_with_its_date(here: Path, front: Front, given: tuple[str, ...], shift: int) -> None:
    """What was read from the clock stands in the report, and its command gives it instead of reading it again."""
    day = date_add(today(), -shift)
    Path("x.npy").rename(f"{day}.npy")
    code, _, err = front(*MINE, "source.path=${date}.npy", *given)
    assert code == 0, err
    report = json.loads(Path("y.npy.run/report.json").read_text())
    assert report["config"]["date"] == day
    assert report["command"][-2:] == ["'source.path=${date}.npy'", f"date={day}"]
    assert "yesterday" not in " ".join(report["command"])
    front(*MINE, "source.path=${date}.npy", f"date={day}", "run.restart=true")
    assert json.loads(Path("y.npy.run/report.json").read_text())["command"][-2] == f"date={day}"


def test_a_plan_is_printed_and_writes_nothing(here: Path, front: Front) -> None:
    """action=plan shows the output schema on stdout."""
    code, out, _ = front(*MINE, "action=plan")
    assert code == 0
    assert len(out) > 5
    assert json.loads(out[-1])["state"] == "planned"
    assert not Path("y.npy").exists()


def test_a_preset_may_set_the_device_and_plus_still_wins(here: Path, front: Front) -> None:
    """`+device=` works as spelled whatever a preset says."""
    Path("my_conf/experiment").mkdir()
    Path("my_conf/experiment/gpu.yaml").write_text("# @package _global_\ndevice: cuda:7\n")
    args = tuple(arg for arg in MINE if arg != "device=cpu")
    assert front(*args, "experiment=gpu")[0] == 2
    code, _, err = front(*args, "experiment=gpu", "+device=cpu")
    assert code == 0, err


def test_a_run_can_be_repeated_by_its_command(here: Path, front: Front) -> None:
    """The report keeps the command as a shell takes it."""
    front(*MINE, "batch.rows=3")
    command = json.loads(Path("y.npy.run/report.json").read_text())["command"]
    assert command[:3] == ["python", "-m", "pipeline"]
    assert command[3:] == [*MINE, "batch.rows=3"]


# ---- sweeps ----------------------------------------------------------------------------------------------------------


def test_a_sweep_has_a_folder_for_each_job(here: Path, front: Front) -> None:
    """Jobs differ in nothing but the overrides that name their folders; a second sweep finds all done."""
    args = ("-m", *[a for a in MINE if not a.startswith("sink.path")], "transform.by=1,2")
    mine("twice\nby: 3.0")
    code, out, err = front(*args)
    assert code == 0, err
    outputs = {json.loads(line)["output"] for line in out}
    assert len(outputs) == 2
    assert all(path.startswith("multirun/") for path in outputs)
    assert front(*args, "run.nothing_to_do=skip,skip")[0] in (0, 99)
    code, out, _ = front(*args)
    assert [json.loads(line)["state"] for line in out] == ["nothing to do"] * 2


def test_a_sweep_over_devices_names_every_failed_job(here: Path, front: Front) -> None:
    """A device that is not there fails its job, not the others."""
    args = [a for a in MINE if not a.startswith(("sink.path", "device"))]
    code, out, err = front("-m", *args, "+device=cuda:7,cpu,cuda:8")
    assert code == 2
    assert [json.loads(line)["state"] for line in out[:-1]] == ["failed", "done", "failed"]
    assert json.loads(out[-1]) == {"state": "failed", "error": "2 of 3 jobs failed", "code": 2}
    assert "2 of 3 jobs failed" in err
    assert err.count("(exit code 2): device=cuda") == 2
    assert "Traceback" not in err


@pytest.mark.parametrize("swept", [("run.seed=1,2", "batch.rows=2,4"), ("run.seed=1,2,3,4",)])
def test_two_jobs_with_one_output_are_refused_before_any_work(here: Path, front: Front, swept: tuple[str, ...]) -> None:
    """Exit code 2 for the sweep, with both jobs and the ways out; not even the first job has started."""
    code, out, err = front("-m", *MINE, *swept)
    assert (code, len(out), json.loads(out[-1])["code"]) == (2, 1, 2)
    assert "two jobs of this sweep have the same output" in err
    assert str(here / "y.npy") in err
    assert (err.count("run.seed=1"), err.count("run.seed=2")) in ((1, 1), (2, 0))
    assert "sink.path=out/${hydra:job.override_dirname}" in err
    assert not Path("y.npy").exists()
    assert not Path("y.npy.run").exists()


@pytest.mark.parametrize(
    "place",
    ["sink.path=out/${hydra:job.override_dirname}.npy", "sink.path=a.npy,b.npy"],
)
def test_jobs_with_outputs_of_their_own_run(here: Path, front: Front, place: str) -> None:
    """The advice works, and so do other ways to tell jobs apart."""
    args = [a for a in MINE if not a.startswith("sink.path")]
    seeds = [] if "," in place else ["run.seed=1,2"]
    code, out, err = front("-m", *args, *seeds, place)
    assert code == 0, err
    assert len({json.loads(line)["output"] for line in out}) == 2


def test_a_job_that_does_not_compose_is_named_as_ever(here: Path, front: Front) -> None:
    """By Hydra's sweeper, before any job runs."""
    code, _, err = front("-m", *NPY, "transform=identity,nothing")
    assert code == 2
    assert err.startswith("Config error: transform=nothing: there is no such option")


def test_actions_that_write_nothing_may_share_an_output(here: Path, front: Front) -> None:
    """Two plans for one place harm nobody."""
    assert front("-m", *MINE, "action=plan", "run.seed=1,2")[0] == 0


PICKY = """
def picky(tensors, by):
    if by in (2, 3):
        raise ValueError(f"no {by}")
    return tensors
"""


def test_a_failed_job_stops_no_other(here: Path, front: Front) -> None:
    """Two of four fail: the others are done, both are listed, the code is that of the first."""
    mine("picky\nby: 1")
    Path("usercode.py").write_text(PICKY)
    args = [a for a in MINE if not a.startswith("sink.path")]
    code, out, err = front("-m", *args, "transform.by=1,2,3,4")
    assert code == 70
    assert [json.loads(line)["state"] for line in out[:4]] == ["done", "failed", "failed", "done"]
    assert "2 of 4 jobs failed" in err
    for by in (2, 3):
        assert f"transform.by={by} (exit code 70): " in err


def test_a_failed_job_stops_the_others_if_asked(here: Path, front: Front) -> None:
    """Jobs in batches of one: what was done before stays, the rest does not start."""
    Path("usercode.py").write_text(PICKY)
    mine("picky\nby: 1")
    args = [a for a in MINE if not a.startswith("sink.path")]
    code, out, err = front("-m", *args, "transform.by=1,2,3,4", "hydra.sweeper.max_batch_size=1")
    assert (code, [json.loads(line)["state"] for line in out[:2]]) == (70, ["done", "failed"])
    assert "1 of 2 jobs failed" in err
    assert "no 3" not in err


def test_nothing_to_do_in_a_sweep_needs_all_jobs_to_have_nothing(here: Path, front: Front) -> None:
    """99 if every job was done before, 0 if one had work, and a failure counts more than both."""
    args = ("-m", *[a for a in MINE if not a.startswith("sink.path")], "run.nothing_to_do=skip")
    place = "sink.path=out/${batch.rows}.npy"
    assert front(*args, place, "batch.rows=1,2")[0] == 0
    assert front(*args, place, "batch.rows=1,2")[0] == 99
    assert front(*args, place, "batch.rows=2,3")[0] == 0
    assert front(*args, "sink.path=out/${batch.rows}-${device}.npy", "batch.rows=1", "device=cpu,cuda:9")[0] == 2


# ---- changes between runs --------------------------------------------------------------------------------------------


def saved(rows: int, name: str) -> None:
    Path("in").mkdir(exist_ok=True)
    np.save(f"in/{name}.npy", np.arange(rows, dtype=np.float32))


FOLDERS = ("source=npy", "source.path=in", "sink=npy", "sink.path=out", "log.progress=none", "device=cpu")


def outcome(front: Front, *args: str) -> tuple[int, int, list[float], str]:
    """Parts made, parts in all, the values of the output, and what was said."""
    code, out, err = front("--config-dir", "my_conf", "transform=mine", *FOLDERS, *args)
    assert code == 0, err
    parts = pipeline.read_manifest("out")["parts"]
    values = np.concatenate([np.load(f"out/{f['path']}") for part in parts for f in part["files"]])
    assert len(list(Path("out").glob("*.npy"))) == len(parts)
    return json.loads(out[-1])["parts_made"], len(parts), values.tolist(), err


def test_files_that_come_change_and_go_are_each_told_and_cost_their_own_part(here: Path, front: Front) -> None:
    """New ones alone; a changed one again, even if it has other rows; a part that has lost its file stays."""
    saved(2, "a")
    saved(3, "b")
    assert outcome(front)[:3] == (2, 2, [0, 2, 0, 2, 4])
    saved(1, "c")
    assert outcome(front)[:3] == (1, 3, [0, 2, 0, 2, 4, 0])
    saved(4, "b")
    made, parts, values, err = outcome(front)
    assert (made, parts, values) == (1, 3, [0, 2, 0, 2, 4, 6, 0])
    assert "the input changed since its part was made: b.npy changed (was 140 bytes of 20" in err
    assert ", now 144 bytes of 20" in err
    Path("in/a.npy").unlink()
    saved(2, "d")
    made, parts, values, err = outcome(front)
    assert (made, parts, values) == (1, 4, [0, 2, 0, 2, 4, 6, 0, 0, 2])
    assert "a.npy:0-2 is no longer in the input; its part stays (run.restart=true drops it)" in err
    assert outcome(front, "run.restart=true")[1:3] == (3, [0, 2, 4, 6, 0, 0, 2])


def test_a_single_file_is_made_again_and_says_why(here: Path, front: Front) -> None:
    """Its one part is made of all files."""
    args = ("--config-dir", "my_conf", "transform=mine", *FOLDERS, "sink.path=one.npy")
    saved(2, "a")
    saved(2, "b")
    assert front(*args)[0] == 0
    saved(1, "b")
    saved(1, "c")
    Path("in/a.npy").unlink()
    code, _, err = front(*args)
    assert code == 0
    for words in ("b.npy changed (was 136 bytes", "c.npy is new", "a.npy is gone"):
        assert f"the input changed since its part was made: {words}" in err
    assert np.load("one.npy").tolist() == [0, 0]


@pytest.mark.parametrize(
    ("change", "args", "words"),
    [
        ("", ("transform.by=5.0",), "transform.by was 2.0, now 5.0. Choose another sink.path, or run.restart=true"),
        ("# other\n", (), "the code of usercode.twice changed. Choose another sink.path, or run.restart=true"),
    ],
    ids=["transform", "code"],
)
def test_what_changed_is_named_with_the_ways_out(
    here: Path, front: Front, change: str, args: tuple[str, ...], words: str
) -> None:
    """Old and new value of a key; both ways work."""
    mine("twice\nby: 2.0")
    assert front(*MINE)[0] == 0
    with Path("usercode.py").open("a") as code_file:
        code_file.write(change)
    code, _, err = front(*MINE, *args)
    assert code == 73
    assert words in err
    assert front(*MINE, *args, *(["run.restart=true"] if change else ["sink.path=other.npy"]))[0] == 0


def test_what_decides_no_bytes_invalidates_nothing(here: Path, front: Front) -> None:
    """Where and how fast it runs."""
    assert front(*MINE)[0] == 0
    keys = ("batch.rows=3", "stream.depth=0", "log.every=1", "run.threads=2", "run.batch_timeout=60", "run.lock=wait")
    code, out, err = front(*MINE, "device=null", *keys)
    assert (code, json.loads(out[-1])["state"]) == (0, "nothing to do"), err


# ---- manners ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("wait", [(), ("run.lock=wait", "run.lock_timeout=0")])
def test_an_output_that_another_run_writes_is_left_alone(here: Path, front: Front, wait: tuple[str, ...]) -> None:
    """Exit code 75 with who, where and since when; the keys are the way out."""
    from pipeline.files import lock

    with lock(Path("y.npy.run")):
        code, out, err = front(*MINE, *wait)
    assert (code, json.loads(out[-1])["code"]) == (75, 75)
    assert f"pid {os.getpid()} on {os.uname().nodename} since 20" in err
    assert ("run.lock_timeout=0 seconds" if wait else "run.lock=wait") in err
    assert not Path("y.npy").exists()


def test_an_audit_needs_neither_input_nor_torch(here: Path, front: Front) -> None:
    """0 and a line of JSON if all is well, else 65 and a line for each problem."""
    assert front(*MINE)[0] == 0
    Path("x.npy").unlink()
    code = """
import sys
from pathlib import Path
from pipeline.__main__ import main
args = ["action=audit", "sink=npy", "sink.path=y.npy", "source.path=${oc.env:NOT_SET}", "transform=standardize"]
print(main(args))
data = bytearray(Path("y.npy").read_bytes())
data[-1] ^= 1
Path("y.npy").write_bytes(data)
print(main(args), main([*args, "sink.path=z.npy"]), main([*args, "sink.pth=z.npy"]), main([*args, "sink.path=null"]))
assert "torch" not in sys.modules
"""
    child = process("-c", code)
    out, err = child.communicate()
    assert child.returncode == 0, err
    lines = out.splitlines()
    assert lines[-1] == "65 66 2 2"
    good, bad = (json.loads(line) for line in lines if line.startswith("{") and '"parts": 1' in line)
    assert (good["state"], good["problems"]) == ("audited", [])
    assert (bad["state"], bad["code"]) == ("failed", 65)
    assert bad["problems"][0].startswith("y.npy: has SHA-256 ")
    assert "WRONG   y.npy: has SHA-256 " in out
    assert "'y.npy' is not what its manifest says" in err


def test_secrets_are_neither_shown_nor_kept(here: Path, front: Front, monkeypatch: pytest.MonkeyPatch) -> None:
    """By key, by the name of an environment variable, in what a transform prints, and in a failure."""
    Path("usercode.py").write_text(
        "def asks(tensors, api_token, address, fails=False):\n"
        "    print('asking', address, 'with', api_token)\n"
        "    if fails:\n"
        "        raise ValueError(f'{api_token} is refused')\n"
        "    return tensors\n"
    )
    monkeypatch.setenv("DB_PASSWORD", "correct-horse")
    mine("asks\napi_token: hunter22\naddress: db:${oc.env:DB_PASSWORD}@there")
    code, out, err = front(*MINE, "sink.path=out-${oc.env:DB_PASSWORD}")
    assert code == 0, err
    assert json.loads(Path("out-correct-horse/_pipeline/report.json").read_text())["output"] == "out-***"
    code, out, err = front(*MINE)
    assert "asking db:***@there with ***" in out
    code, failed_out, failed_err = front(
        *MINE, "sink.path=z.npy", "+transform.fails=true", "transform.api_token=other-one"
    )
    assert code == 70
    assert "ValueError: *** is refused" in failed_err
    kept = "".join(p.read_text() for p in here.rglob("*.run/*") if p.is_file())
    for secret in ("hunter22", "correct-horse", "other-one"):
        assert secret not in "\n".join([*out, err, *failed_out, failed_err, kept])
    report = json.loads(Path("y.npy.run/report.json").read_text())
    assert report["config"]["transform"]["api_token"] == "***"
    assert report["config"]["transform"]["address"] == "db:***@there"
    code, _, err = front(*MINE, "transform.api_token=other-one")
    assert code == 73
    assert "transform.api_token changed (a secret)" in err


def test_a_secret_of_the_command_line_is_masked_before_anything_is_composed(here: Path, front: Front) -> None:
    """In the refusal of an override, too."""
    code, out, err = front(*MINE, "+transform.api_token=hunter22=")
    assert code == 2
    assert "hunter22" not in "".join([*out, err])


# ---- the fence -------------------------------------------------------------------------------------------------------


def test_a_fence_admits_our_own_and_what_it_names(here: Path, front: Front, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sweeps too. Without the variable there is no fence."""
    monkeypatch.setenv("PIPELINE_ALLOW_TARGETS", "torch.nn:usercode,other.")
    assert front(*MINE)[0] == 0
    monkeypatch.setenv("PIPELINE_ALLOW_TARGETS", "")
    args = [a for a in NPY if not a.startswith("sink.path")]
    code, _, err = front("-m", *args, "transform=identity", "batch.rows=1,2")
    assert code == 0, err


@pytest.mark.parametrize("sweep", [(), ("-m", "run.seed=1,2")])
def test_what_is_outside_the_fence_is_not_even_imported(
    here: Path, front: Front, monkeypatch: pytest.MonkeyPatch, sweep: tuple[str, ...]
) -> None:
    """Exit code 2 with the key, the target and the fence; also for what Hydra would call by itself."""
    Path("usercode.py").write_text("open('called', 'w')\n")
    monkeypatch.setenv("PIPELINE_ALLOW_TARGETS", "torch.nn,mylib")
    code, _, err = front(*sweep, *MINE, "sink.path=${hydra:job.override_dirname}.npy")
    assert code == 2, err
    assert "transform._target_: 'usercode.twice' is refused. PIPELINE_ALLOW_TARGETS allows targets of this" in err
    code, _, err = front(
        *(*sweep, *NPY, "transform=identity", "+hydra.callbacks.bad={_target_: usercode.Callback}"),
        *("hydra.launcher._target_=usercode.Launcher", "hydra.hydra_logging.handlers.console.class=usercode.Handler"),
        "hydra.job_logging.handlers.console.stream=ext://usercode.Stream",
    )
    assert code == 2
    assert "4 problems" in err
    for name in ("Callback", "Launcher", "Handler", "Stream"):
        assert f"'usercode.{name}' is refused" in err
    assert not Path("called").exists()


def test_a_preset_of_a_sweep_is_fenced_too(here: Path, front: Front, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its section `hydra` counts for its own job alone, so each job is looked at."""
    Path("usercode.py").write_text("open('called', 'w')\n")
    Path("my_conf/experiment").mkdir()
    for name, text in (
        ("good", "run: {seed: 1}"),
        ("bad", "hydra: {job_logging: {formatters: {bad: {(): usercode.Bad}}}}"),
    ):
        Path(f"my_conf/experiment/{name}.yaml").write_text(f"# @package _global_\n{text}\n")
    monkeypatch.setenv("PIPELINE_ALLOW_TARGETS", "")
    args = ("--config-dir", "my_conf", *NPY[:-3], "sink=npy", "transform=identity")
    for flags in ((), ("-m",)):
        code, _, err = front(*flags, *args, "experiment=good,bad" if flags else "experiment=bad")
        assert code == 2
        assert "hydra.job_logging.formatters.bad.(): 'usercode.Bad' is refused" in err
    assert not Path("called").exists()


def test_a_pickled_configuration_is_never_read(here: Path, front: Front) -> None:
    """Hydra has a flag for it."""
    code, _, err = front("--experimental-rerun", "config.pickle")
    assert code == 2
    assert "reads a pickle, which this program never does" in err


# ---- mistakes --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("+devcie=cuda", "unknown key 'devcie' - did you mean 'device'?"),
        ("transfrom=identity", "unknown key 'transfrom' - did you mean 'transform'?"),
        ("batch.rowz=3", "unknown key 'batch.rowz' - did you mean 'batch.rows'?"),
        ("source.split_rowz=3", "unknown key 'source.split_rowz' - did you mean 'source.split_rows'?"),
        ("source.split_rows=big", "source.split_rows: expected an integer or null; got 'big'"),
        ("batch.rows=big", "batch.rows: Value 'big'"),
        ("source.path=???", "no value given for 'source.path'"),
        ("source.path=${oc.env:NOT_SET_HERE}", "'NOT_SET_HERE' is not set"),
        ("source.path=/d/dt=2026-01-01/x.npy", "'source.path=\"/d/dt=2026-01-01/x.npy\"'"),
        ("transform=standardise", "transform=standardise: there is no such option - did you mean 'standardize'?"),
        ("transform._target_=nowhere.f", "transform._target_: no module named 'nowhere'"),
        ("transform._target_=usercode.f", "transform._target_: module 'usercode' has no attribute 'f'"),
        ("+transform.bye=3", "unknown key 'transform.bye' - did you mean 'transform.by'?"),
        ("device=cuda:99", "device=cuda:99"),
        ("transform=a,b", "add --multirun"),
        ("transform=null", "take the name of an option, as in transform=identity"),
        ("nonsense", "'nonsense' is no override"),
        ("~batch", "~batch: 'batch' cannot be taken out"),
        ("~sweep", "~sweep: 'sweep' cannot be taken out"),
        ("sink.path=~/out", 'write sink.path="$HOME/out"'),
        ("sink.path='~/out'", "sink.path: no shell has replaced the ~ of '~/out'; write \"$HOME/out\""),
        ("source.path='~/in'", "source.path: no shell has replaced the ~"),
        ("sink.path=s3://bucket/out", "sink.path: 's3://bucket/out' is a URL; give a path of this machine"),
        ("source.path=s3://bucket/x.npy", "source.path: 's3://bucket/x.npy' is a URL"),
        ("sweep.objective=speed", "sweep.objective=speed: expected one of"),
    ],
)
def test_a_mistake_gives_one_message_and_exit_code_2(here: Path, front: Front, override: str, words: str) -> None:
    """No traceback, no advice to append; the last stdout line says the same to a program."""
    code, out, err = front(*MINE, override)
    assert code == 2
    assert words in err
    assert err.startswith("Config error: ")
    assert "Traceback" not in err
    last = json.loads(out[-1])
    assert (last["state"], last["code"]) == ("failed", 2)
    assert last["error"] in err
    assert not Path("y.npy").exists()


@pytest.mark.parametrize("sink", ["link/x.npy", "link/out.npy", "x.npy"])
def test_an_output_within_the_input_is_refused_by_any_name(here: Path, front: Front, sink: str) -> None:
    """Through a link, too, and with the consent to replace what is there."""
    Path("in").mkdir()
    Path("x.npy").rename("in/x.npy")
    Path("link").symlink_to("in")
    Path("x.npy").symlink_to("in/x.npy")
    before = Path("in/x.npy").read_bytes()
    code, _, err = front(*MINE, "source.path=in", f"sink.path={sink}", "run.restart=true")
    assert code == 2
    assert "choose another sink.path" in err
    assert Path("in/x.npy").read_bytes() == before
    assert [p.name for p in Path("in").iterdir()] == ["x.npy"]


@pytest.mark.parametrize(
    ("short", "words"),
    [('RuntimeError("can\'t start new thread")', "gives no more threads"), ("MemoryError()", "out of memory: ")],
)
def test_what_a_machine_cannot_give_now_may_be_there_later(here: Path, front: Front, short: str, words: str) -> None:
    """Exit code 75, with the keys that ask for less."""
    Path("usercode.py").write_text(
        f"class Short:\n    splits = read = None\n    def schema(self):\n        raise {short}\n"
    )
    Path("my_conf/source").mkdir()
    Path("my_conf/source/short.yaml").write_text("_target_: usercode.Short\n")
    code, _, err = front("--config-dir", "my_conf", "source=short", "transform=identity", "sink.path=out")
    assert code == 75, err
    assert words in err
    assert "stream.writers" in err


def test_reading_begins_before_the_code_of_the_user_is_loaded(here: Path, front: Front) -> None:
    """With it torch is: the file that defines the transform is part of what the output is known by."""
    Path("eager.py").write_text(
        "from pipeline.source.npy import Npy\nimport threading\nbegun = threading.Event()\n"
        "class Eager(Npy):\n    def read_only(self, *asked):\n        begun.set()\n"
        "        yield from super().read_only(*asked)\n"
    )
    Path("usercode.py").write_text(f"import eager\nassert eager.begun.wait(10), 'nothing is read yet'\n{CODE}")
    Path("my_conf/source").mkdir()
    Path("my_conf/source/eager.yaml").write_text("_target_: eager.Eager\npath: x.npy\n")
    given = ("source=eager", "sink=npy", "sink.path=y.npy", "batch.bytes=1")  # which the file is longer than
    code, _, err = front("--config-dir", "my_conf", "transform=mine", *given)
    assert code == 0, err


def test_broken_yaml_names_its_file(here: Path, front: Front) -> None:
    """A configuration file that does not parse is a configuration error."""
    Path("my_conf/transform/mine.yaml").write_text("_target_: [")
    code, _, err = front(*MINE)
    assert code == 2
    assert "mine.yaml" in err


def test_a_missing_input_has_its_own_code(here: Path, front: Front) -> None:
    """Exit codes follow the errors."""
    code, out, _ = front(*MINE, "source.path=nothing.npy")
    assert (code, json.loads(out[-1])["code"]) == (66, 66)


def test_a_failing_transform_shows_a_traceback_only_on_request(
    here: Path, front: Front, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One line says what broke; HYDRA_FULL_ERROR=1 shows where."""
    mine("explode")
    code, _, err = front(*MINE)
    assert code == 70
    assert "boom" in err
    assert "Traceback" not in err
    monkeypatch.setenv("HYDRA_FULL_ERROR", "1")
    assert "usercode.py" in front(*MINE)[2]


def test_what_failed_at_first_can_be_corrected(here: Path, front: Front) -> None:
    """A run that made no part claims nothing: the corrected transform needs no restart."""
    mine("explode")
    assert front(*MINE)[0] == 70
    mine("twice")
    code, _, err = front(*MINE)
    assert code == 0, err


def test_flags_may_stand_anywhere(here: Path, front: Front) -> None:
    """Hydra refuses a flag between overrides; wrapper scripts put them there."""
    assert front(*MINE[2:], "--config-dir", "my_conf", "batch.rows=2")[0] == 0
    assert split(["a=1", "-cd", "x=y", "--cfg", "job", "~b", "-m", "c=2"]) == (
        ["-cd", "x=y", "--cfg", "job", "-m"],
        ["a=1", "~b", "c=2"],
    )


@pytest.mark.parametrize(
    ("given", "forced"),
    [
        ("+device=cuda", "++device=cuda"),
        ("device=cuda", "device=cuda"),
        ("batch.rows=1", "++batch.rows=1"),
        ("+batch.rows=1", "++batch.rows=1"),
        ("++a.b.c=x.y=z", "++a.b.c=x.y=z"),
        ("transform=mine", "transform=mine"),
        ("hydra.run.dir=x", "hydra.run.dir=x"),
        ("hydra/launcher=joblib", "hydra/launcher=joblib"),
        ("~source.filter", "~source.filter"),
        ("+devcie=1", "+devcie=1"),
        ("transform.steps.0.by=1", "++transform.steps.0.by=1"),
    ],
)
def test_only_values_are_forced(given: str, forced: str) -> None:
    """Group choices, flags of Hydra and deletions pass as they are."""
    assert force(given) == forced


# ---- the process -----------------------------------------------------------------------------------------------------


def process(*args: str, **options: Any) -> subprocess.Popen[str]:
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    pipe = subprocess.PIPE
    return subprocess.Popen([sys.executable, *args], env=env, text=True, stdout=pipe, stderr=pipe, **options)


def test_help_configuration_and_typos_do_not_import_torch() -> None:
    """They answer at once; a scheduler parses without it too."""
    code = """
import sys
from pipeline.__main__ import main
import pipeline
codes = [main([a]) for a in ("--help", "--cfg=job", "+devcie=1", "source.pth=x", "sink.path=3")]
assert "torch" not in sys.modules, [m for m in sys.modules if m.startswith("pipeline")]
assert codes == [0, 0, 2, 2, 2], codes
"""
    child = process("-c", code)
    out, err = child.communicate()
    assert child.returncode == 0, err
    for words in ("Common commands", "+device=cuda", "transform: ", "README.md", "source.path"):
        assert words in out


def test_the_first_sigterm_ends_in_order(here: Path) -> None:
    """143, one line, one line of JSON, and nothing half-written."""
    slow = "\ndef slow(t):\n    print('here', file=sys.stderr, flush=True)\n    time.sleep(0.2)\n    return t\n"
    Path("usercode.py").write_text(f"import sys, time\n{CODE}{slow}")
    mine("slow")
    child = process("-m", "pipeline", *MINE, "batch.rows=1", "stream.depth=0")
    assert child.stderr is not None
    assert any("here" in line for line in child.stderr)
    child.send_signal(signal.SIGTERM)
    out, err = child.communicate(timeout=20)
    assert child.returncode == 143
    assert json.loads(out.splitlines()[-1])["code"] == 143
    assert "stopped by SIGTERM" in err
    assert "Traceback" not in err
    assert not Path("y.npy").exists()


def test_a_signal_that_a_library_wraps_is_still_a_signal(here: Path, front: Front) -> None:
    """Also in a sweep, whose other jobs do not start."""
    Path("usercode.py").write_text("""
import os, signal

def wraps(t):
    try:
        os.kill(os.getpid(), signal.SIGTERM)
        signal.sigtimedwait([], 5)
    except BaseException as e:
        raise RuntimeError("wrapped") from e
""")
    mine("wraps")
    place = "sink.path=${hydra:job.override_dirname}"
    code, out, err = front("-m", *MINE, place, "stream.depth=0", "batch.rows=2,3")
    assert (code, json.loads(out[-1])["code"]) == (143, 143)
    assert "stopped by SIGTERM" in err
    assert len(out) == 1


@pytest.mark.parametrize("depth", [0, 2])
def test_a_transform_that_calls_exit_has_failed(here: Path, front: Front, depth: int) -> None:
    """Exit code 0 would say that the output is there."""
    Path("usercode.py").write_text("import sys\n\ndef leaves(t):\n    sys.exit(0)\n")
    mine("leaves")
    code, out, err = front(*MINE, f"stream.depth={depth}")
    assert (code, json.loads(out[-1])["code"]) == (1, 1)
    assert "called sys.exit(0)" in err


def test_a_flag_that_does_not_exist_ends_with_json_too(here: Path, front: Front) -> None:
    """Hydra's parser says the rest."""
    code, out, err = front("--nope")
    assert (code, json.loads(out[-1])["code"]) == (2, 2)
    assert "--nope" in err


def test_the_version_is_ours(front: Front) -> None:
    """Not that of Hydra."""
    code, out, _ = front("--version")
    assert (code, out) == (0, [f"tensor-etl-stage {pipeline.__version__}"])


def test_a_closed_stdout_breaks_nothing(here: Path) -> None:
    """`| head -0` does not fail a run that has committed."""
    read, write = os.pipe()
    os.close(read)
    child = subprocess.Popen(
        [sys.executable, "-m", "pipeline", *MINE],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=write,
        stderr=subprocess.PIPE,
        text=True,
    )
    os.close(write)
    _, err = child.communicate()
    assert child.returncode == 0, err
    assert "BrokenPipe" not in err
    assert Path("y.npy").exists()


def test_garbage_is_collected_again_once_all_is_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where torch was loaded before the process began its work."""
    monkeypatch.setattr(_Door, "starting", True)
    gc.disable()
    try:
        assert main(["action=plan", f"sink.path={tmp_path / 'out'}"]) == 0
        assert gc.isenabled()
        assert not _Door.starting
    finally:
        gc.enable()
        gc.unfreeze()


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc tells what opens a library")
@pytest.mark.parametrize(
    ("words", "code", "opens"),
    [
        (["action=plan"], 0, True),
        (["-cd", ".", "batch.rows=none"], 2, True),
        (["--cfg", "job"], 0, False),
        (["--he"], 0, False),
        (["-m", "action=plan"], 0, False),
        (["hydra.mode=MULTIRUN", "action=plan"], 0, False),
        (["action=audit"], 66, False),
        (["+hydra.job.env_set.OMP_NUM_THREADS=1", "action=plan"], 0, False),
    ],
)
def test_torch_is_opened_while_hydra_composes(words: list[str], code: int, opens: bool, tmp_path: Path) -> None:
    """By a foreign call, which leaves the interpreter to others, and only where it will be needed as it is."""
    env = {**os.environ, "PYTHONPATH": str(ROOT), "LD_DEBUG": "files", "LD_DEBUG_OUTPUT": str(tmp_path / "log")}
    command = [sys.executable, "-m", "pipeline", *words, "sink.path=out"]
    done = subprocess.run(command, env=env, cwd=tmp_path, capture_output=True, text=True, check=False)
    told = "".join(file.read_text() for file in tmp_path.glob("log.*"))
    assert done.returncode == code, done.stderr
    assert "_ctypes" in told, "what was loaded is known"
    assert bool(re.search("libtorch_cpu.so .* dynamically loaded by .*(ffi|_ctypes)", told)) == opens


def test_torch_that_cannot_be_looked_for_hides_no_other_mistake(tmp_path: Path) -> None:
    """What is wrong with it is said by its import, if it comes to that."""
    code = """
import sys, types
from pipeline.__main__ import script

sys.modules["torch"] = types.ModuleType("torch")
sys.argv = ["pipeline", "nokey=1", "sink.path=out"]
script()
"""
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "nokey" in done.stderr


def test_what_somebody_has_set_for_libraries_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    """The rest gets what suits lanes."""
    monkeypatch.setenv("OPENBLAS_NUM_THREADS", "3")
    monkeypatch.setenv("OMP_WAIT_POLICY", "")
    monkeypatch.delenv("OMP_WAIT_POLICY")
    _tune_libraries()
    assert (os.environ["OPENBLAS_NUM_THREADS"], os.environ["OMP_WAIT_POLICY"]) == ("3", "passive")
