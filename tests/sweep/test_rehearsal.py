"""Which sweeps need no rehearsal; what a rehearsal finds is tested at the front door."""

from __future__ import annotations

import pytest
from omegaconf import DictConfig, OmegaConf

from pipeline.sweep.rehearsal import apart


def master(path: str) -> DictConfig:
    return OmegaConf.create({"sink": {"path": path}})


@pytest.mark.parametrize("swept", [[], ["run.seed", "transform.by"], ["device"]])
def test_values_of_other_keys_leave_each_job_its_folder(swept: list[str]) -> None:
    """If the sink leaves its path open; any other path may be the same for two jobs."""
    assert apart(master("${out:}"), swept)
    assert not apart(master("out"), swept)
    assert not apart(master("out/${run.seed}"), swept)


@pytest.mark.parametrize(
    "swept", ["sink.path", "sink", "transform", "experiment", "hydra/launcher", "db@a.b", "columns"]
)
def test_groups_and_the_sink_itself_may_bring_another_path(swept: str) -> None:
    """So those sweeps are composed."""
    assert not apart(master("${out:}"), ["run.seed", swept])


def test_a_sink_that_is_swept_is_not_there_yet() -> None:
    """Nothing is known of its path."""
    assert not apart(OmegaConf.create({"run": {}}), [])
