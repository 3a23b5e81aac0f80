"""An Airflow operator that runs the stage as a child process. Optional: ``pip install 'tensor-etl-stage[airflow]'``.

What a DAG file imports from here is light: neither torch nor Hydra is loaded in a scheduler, and the interpreter that
runs the stage may be another one than Airflow's.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from subprocess import PIPE, Popen, TimeoutExpired
from typing import IO, Any

from pipeline.override import override

try:
    from airflow.sdk import BaseOperator
    from airflow.sdk.exceptions import AirflowException, AirflowFailException, AirflowSkipException
except ImportError as e:
    raise ImportError("pipeline.airflow needs Airflow 3: pip install 'tensor-etl-stage[airflow]'") from e


class PipelineOperator(BaseOperator):  # type: ignore[misc]
    """Run ``python -m pipeline`` with these overrides; its last line of JSON is the XCom of the task.

    Exit code 0 is success, `skip_on_exit_code` skips the task, one of `fail_on_exit_code` fails it at once: the same
    command would fail again. Any other fails it for Airflow to retry; the retry goes on where the last try stopped.

    When Airflow ends the task, the processes of the stage get SIGTERM and, after `grace` seconds, SIGKILL. Parts that
    are finished stay either way.

    Args:
        overrides: Hydra key to value. Text is quoted for Hydra whatever it holds, except that ``${...}`` is resolved.
        flags: what stands before the overrides, such as ``["--config-dir", "/srv/etl/conf"]``.
        python: interpreter of the environment in which the stage is installed.
        cwd: folder to run in, for relative paths; None is where Airflow's worker happens to stand.
        env: environment variables to add to those of the worker.
        skip_on_exit_code: 99 is what ``run.nothing_to_do=skip`` asks for.
        fail_on_exit_code: configuration (2), data (65), transform (70) and an output of another configuration (73). Not
            in it, so retried: a missing input (66) may yet come.
        grace: seconds; Airflow gives a task 5 before it kills it, and nobody would end the stage then.
        kwargs: what every operator takes.
    """

    template_fields = ("overrides", "flags", "python", "cwd", "env")
    template_fields_renderers = {"overrides": "json", "env": "json"}  # noqa: RUF012  (as Airflow declares it)

    def __init__(
        self,
        *,
        overrides: Mapping[str, Any],
        flags: Sequence[str] = (),
        python: str = sys.executable,
        cwd: str | None = None,
        env: Mapping[str, str] | None = None,
        skip_on_exit_code: int | None = 99,
        fail_on_exit_code: Collection[int] = (2, 65, 70, 73),
        grace: float = 4,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.overrides = overrides
        self.flags = flags
        self.python = python
        self.cwd = cwd
        self.env = env
        self.skip_on_exit_code = skip_on_exit_code
        self.fail_on_exit_code = fail_on_exit_code
        self.grace = grace
        self._process: Popen[str] | None = None

    def command(self) -> list[str]:
        """The command line, quoted for Hydra; no shell reads it."""
        values = (override(key, value) for key, value in self.overrides.items())
        return [self.python, "-m", "pipeline", *self.flags, *values]

    def execute(self, context: Any) -> dict[str, Any]:  # noqa: ARG002  (Airflow's signature)
        """Run to the end and return what the stage said of itself."""
        self.log.info("Running %s", self.command())
        with self._start() as process, ThreadPoolExecutor(2) as pool:
            try:
                errors = pool.submit(self._follow, process.stderr)
                summary = pool.submit(self._follow, process.stdout).result()
                errors.result()
                code = process.wait()
            except BaseException:  # Airflow's timeout too, which calls on_kill only when this has returned
                self.on_kill()
                raise
        return self._settle(code, summary)

    def on_kill(self) -> None:
        """End the stage: ask, wait, insist. Called from a signal handler too, when Airflow ends the task."""
        process = self._process
        if process is None or process.returncode is not None:
            return
        self._signal(signal.SIGTERM)
        try:
            process.wait(self.grace)
        except TimeoutExpired:
            self._signal(signal.SIGKILL)

    def _start(self) -> Popen[str]:
        """A process group of its own: what Airflow sends to the group of the task would reach the stage twice."""
        self._process = Popen(  # noqa: S603  (the command is what the DAG says)
            self.command(),
            cwd=self.cwd,
            env={**os.environ, **(self.env or {})},
            stdout=PIPE,
            stderr=PIPE,
            text=True,
            encoding="utf-8",
            errors="backslashreplace",
            start_new_session=True,
        )
        return self._process

    def _follow(self, pipe: IO[str] | None) -> dict[str, Any]:
        """Copy lines to the log of the task; the last one that is a JSON object, or nothing."""
        last: dict[str, Any] = {}
        for line in pipe or ():
            self.log.info("%s", line.rstrip())
            last = _json(line) or last
        return last

    def _signal(self, number: signal.Signals) -> None:
        if self._process is not None:
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, number)

    def _settle(self, code: int, summary: dict[str, Any]) -> dict[str, Any]:
        if code == 0:
            return summary
        said = summary.get("error") or summary.get("state") or "it left no line of JSON"
        message = f"exit code {code}: {said}"
        if code == self.skip_on_exit_code:
            raise AirflowSkipException(message)
        raise (AirflowFailException if code in self.fail_on_exit_code else AirflowException)(message)


def _json(line: str) -> dict[str, Any]:
    if not line.startswith("{"):
        return {}
    with suppress(ValueError):
        return dict(json.loads(line))
    return {}
