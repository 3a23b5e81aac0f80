"""`hydra/launcher=device`: the jobs of a sweep as child processes, one at a time on each device."""

from __future__ import annotations

import logging
import sys
from collections.abc import Sequence
from typing import Any

from hydra.core.utils import JobReturn, JobStatus
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf

log = logging.getLogger("pipeline")

_OURS = ("hydra/launcher", "hydra.launcher", "hydra/sweeper", "hydra.sweeper", "hydra.mode")


class DeviceLauncher(Launcher):
    """Starts a process like `python -m pipeline` for each job, with one GPU to see or on a slot of the CPU.

    Args:
        devices: GPUs, and ``cpu`` once for each slot; None for all GPUs there are.
        locks: folder of the lock files that sweeps share.
        fail_fast: end the sweep when a job has failed.
    """

    def __init__(self, devices: Any = None, locks: str | None = None, *, fail_fast: bool = False) -> None:
        self.devices = devices
        self.locks = locks
        self.fail_fast = fail_fast

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Keep the configuration; a child composes its own, and has its own task function."""
        del task_function
        self.config = config
        self.loader = hydra_context.config_loader

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Run the jobs, and return what their results say. None is started if one of them does not compose."""
        from hydra.core.utils import configure_log

        from pipeline.sweep import slots

        jobs = [self.loader.load_sweep_config(self.config, list(told)) for told in job_overrides]
        configure_log(self.config.hydra.hydra_logging, self.config.hydra.verbose)
        places = slots.slots(self.devices, _cuda_devices)
        log.info("%d jobs on %s", len(job_overrides), ", ".join(slot.name for slot in places))
        crew = slots.Crew(places, slots.lock_folder(self.locks), self.fail_fast)
        numbered = list(enumerate(job_overrides, initial_job_idx))
        codes = crew.run([slots.Job(f"#{number}", self._command(number, told)) for number, told in numbered])
        actions = [job.action.name for job in jobs]
        return [
            self._returned(told, action, codes.get(place))
            for place, (told, action) in enumerate(zip(job_overrides, actions, strict=True))
        ]

    def _command(self, number: int, overrides: Sequence[str]) -> list[str]:
        hydra = self.config.hydra
        kept = [each for each in hydra.overrides.hydra if not each.lstrip("+~").startswith(_OURS)]
        flags = [
            flag
            for source in hydra.runtime.config_sources
            if source.provider == "command-line"
            for flag in ("--config-dir", source.path)
        ]
        name = ["--config-name", hydra.job.config_name]
        start = [sys.executable, "-m", "pipeline.sweep.tether", *flags, *name]
        return [*start, *kept, "hydra.mode=RUN", f"hydra.job.num={number}", *overrides]

    def _returned(self, overrides: Sequence[str], action: str, code: int | None) -> JobReturn:
        """What a sweeper is told: the facts of the job, its objective if it has one, or how it failed."""
        from pipeline import config
        from pipeline.errors import PipelineError
        from pipeline.sweep import result

        back = JobReturn(overrides=overrides, status=JobStatus.COMPLETED)
        file = result.path(self.config.hydra.sweep.dir, config.job_folder(overrides), action)
        try:
            if code not in (0, 99):
                raise PipelineError("it was not started" if code is None else f"its exit code is {code}")
            one = result.read(file)
        except PipelineError as e:
            back.status, back.return_value = JobStatus.FAILED, e
            return back
        wanted = OmegaConf.select(self.config, "sweep.objective") is not None
        back.return_value = one.facts.get("objective") if wanted else dict(one.facts)
        return back


def _cuda_devices() -> int:
    from pipeline.device import available

    return sum(name.startswith("cuda") for name in available())
