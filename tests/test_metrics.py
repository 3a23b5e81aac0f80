"""What monitoring reads about the last run, whether it ended well or not."""

from __future__ import annotations

import signal
import sys
from pathlib import Path

import numpy as np
import pytest
from prometheus_client.parser import text_string_to_metric_families

from pipeline import metrics
from pipeline.__main__ import main
from pipeline.errors import ConfigError, OutputError

NPY = ("source=npy", "source.path=x.npy", "sink=npy", "sink.path=y.npy", "log.progress=none", "device=cpu")
RUN = (*NPY, "transform=identity", "metrics.textfile=etl.prom")


def series(output: str = "y.npy", path: Path = Path("etl.prom")) -> dict[str, float]:
    """Names without prefix, and values, of one output; the state by its name."""
    found = {}
    for family in text_string_to_metric_families(path.read_text()):
        assert family.type == "gauge"
        assert family.documentation
        for sample in family.samples:
            if sample.labels["output"] == output:
                found[sample.labels.get("state", sample.name.removeprefix("tensor_etl_"))] = sample.value
    return found


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder with an array of six rows."""
    monkeypatch.chdir(tmp_path)
    np.save("x.npy", np.arange(12, dtype=np.float32).reshape(6, 2))


def test_a_run_is_measured() -> None:
    """State, code, times and numbers of the run, each with its type and help."""
    assert main(RUN) == 0
    found = series()
    assert (found["done"], found["nothing to do"], found["failed"], found["exit_code"]) == (1, 0, 0, 0)
    assert (found["rows"], found["rows_in"], found["parts_made"]) == (6, 6, 1)
    assert found["start_timestamp_seconds"] <= found["end_timestamp_seconds"] == found["success_timestamp_seconds"]
    assert not list(Path().glob(".etl*"))


def test_a_failure_is_measured_and_keeps_the_last_success() -> None:
    """The exit code stands there; numbers of the run that went well do not."""
    main(RUN)
    before = series()
    Path("x.npy").unlink()
    assert main(RUN) == 66
    found = series()
    assert (found["failed"], found["done"], found["exit_code"]) == (1, 0, 66)
    assert "rows" not in found
    assert found["success_timestamp_seconds"] == before["success_timestamp_seconds"]
    assert found["end_timestamp_seconds"] > before["end_timestamp_seconds"]


@pytest.mark.parametrize(("override", "code"), [("+devcie=x", 2), ("batch.rows=0", 2), ("source.path=${nope}", 2)])
def test_a_wrong_configuration_is_measured(override: str, code: int) -> None:
    """What our checks refuse is a failure to monitoring too."""
    assert main((*RUN, override)) == code
    assert series()["exit_code"] == code


def test_nothing_to_do_is_a_success_of_its_own() -> None:
    """With the code that was asked for."""
    main(RUN)
    assert main((*RUN, "run.nothing_to_do=skip")) == 99
    found = series()
    assert (found["nothing to do"], found["exit_code"]) == (1, 99)
    assert found["success_timestamp_seconds"] == found["end_timestamp_seconds"]


def test_outputs_share_a_file() -> None:
    """The jobs of a sweep, or of several lines in a crontab: each replaces its own series."""
    main(("-m", *RUN[:3], *RUN[4:], "sink.path=a.npy,b.npy"))
    main((*RUN, "sink.path=b.npy", "source.path=gone.npy"))
    assert (series("a.npy")["done"], series("b.npy")["exit_code"]) == (1, 66)


def test_a_plan_is_no_run() -> None:
    """It says nothing about the output."""
    main((*RUN, "action=plan"))
    assert not Path("etl.prom").exists()


def test_a_signal_is_measured() -> None:
    """A run that is told to stop leaves the code of the signal."""
    Path("stop.py").write_text(
        "import os, signal\ndef stop(tensors):\n    os.kill(os.getpid(), signal.SIGTERM)\n    return tensors\n"
    )
    Path("my_conf/transform").mkdir(parents=True)
    Path("my_conf/transform/stop.yaml").write_text("_target_: stop.stop\n")
    assert main(("--config-dir", "my_conf", *RUN, "transform=stop")) == 128 + signal.SIGTERM
    assert series()["exit_code"] == 143


def test_a_damaged_file_is_replaced() -> None:
    """Somebody else's text does not stop the run from being measured."""
    Path("etl.prom").write_text("not { prometheus\n")
    assert main(RUN) == 0
    assert series()["done"] == 1


def test_a_folder_that_is_not_there_is_told_before_the_run() -> None:
    """Not after hours."""
    assert main((*RUN, "metrics.textfile=nowhere/etl.prom")) == 2
    assert not Path("y.npy").exists()


def test_metrics_that_cannot_be_written_do_not_fail_a_run(capfd: pytest.CaptureFixture[str]) -> None:
    """The output counts; a warning says what went wrong."""
    Path("etl.prom").mkdir()
    assert main(RUN) == 0
    assert Path("y.npy").exists()
    assert "metrics.textfile=etl.prom cannot be written" in capfd.readouterr().err
    with pytest.raises(OutputError, match=r"etl\.prom"):
        metrics.record("etl.prom", "y.npy", {"code": 0, "state": "done", "end_timestamp_seconds": 1.0})


def test_the_missing_library_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """With the extra that brings it."""
    monkeypatch.setitem(sys.modules, "prometheus_client", None)
    with pytest.raises(ConfigError, match=r"pip install 'tensor-etl-stage\[metrics\]'"):
        metrics.measured("etl.prom", "y.npy", lambda _: 1).__enter__()
