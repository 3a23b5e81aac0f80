"""The front door: `python -m pipeline` and the console script. Exit codes, signals, one line of JSON at the end.

Hydra composes the configuration and calls `_Door.job` once, or once for each job of a sweep.
"""

from __future__ import annotations

import atexit
import gc
import json
import logging
import os
import re
import shlex
import signal
import sys
import threading
import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

import hydra
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from pipeline import __version__, config
from pipeline.errors import ConfigError, PipelineError

log = logging.getLogger("pipeline")

_SKIP = 99
_TAKES_VALUE = ("--config-dir", "-cd", "--config-name", "-cn", "--config-path", "-cp", "--package", "-p", "--cfg", "-c")
_KEPT = "finished parts are kept: run the same command again"


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code. Nothing is raised but what ends the process at once."""
    args = list(sys.argv[1:] if argv is None else argv)
    door = _Door(args, verbose=os.environ.get("HYDRA_FULL_ERROR") == "1")
    if args == ["--version"]:
        emit(f"tensor-etl-stage {__version__}")
        return 0
    with _signals(door), _hydra_process(args):
        try:
            hydra.main(config_path=config.conf_dir(), config_name="config", version_base="1.3")(door.job)()
        except SystemExit as e:
            return door.stopped(e.code)
        except KeyboardInterrupt:
            return door.stopped(128 + signal.SIGINT)
        except BrokenPipeError:
            return 0  # Hydra was printing its help or a configuration, and the reader has seen enough
        except Exception as e:  # noqa: BLE001  (every exception becomes one line and an exit code)
            return door.stopped(128 + door.signal) if door.signal else door.failed(e)
        finally:
            emit()
    return door.code()


# ---- jobs ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Outcome:
    """How one job ended."""

    overrides: str
    code: int
    error: str = ""


@dataclass
class _Door:
    """One call of `main`: its arguments, the outcomes of its jobs, and the signal that ends it, if one came.

    The signal is remembered since the exception that it raises may come back as another one: Python 3.11 wraps what is
    raised within `__set_name__`, and libraries have such places.
    """

    args: list[str]
    verbose: bool
    signal: int = 0
    outcomes: list[_Outcome] = field(default_factory=list)
    home: int = field(default_factory=os.getpid)

    def job(self, cfg: DictConfig) -> dict[str, Any]:
        """One job, from the composed configuration to its line of JSON. A failure is recorded, so that a sweep goes on.

        In a child process of a launcher nobody reads the record, so there the failure is raised for the sweeper.
        """
        overrides = " ".join(each.lstrip("+") for each in config.overrides())
        try:
            summary = _work(cfg, self.args)
        except (Exception, SystemExit) as e:
            if os.getpid() != self.home:
                raise
            if self.signal:
                raise SystemExit(128 + self.signal) from e
            return self._record(overrides, e)
        skip = summary["state"] == "nothing to do" and cfg.run.nothing_to_do is config.NothingToDo.skip
        self.outcomes.append(_Outcome(overrides, _SKIP if skip else 0))
        emit(json.dumps(summary, default=str))
        return summary

    def _record(self, overrides: str, e: BaseException) -> dict[str, Any]:
        code, message = describe(e)
        self._trace(e)
        if config.in_sweep():
            log.error("job %s: %s", overrides, message)
        self.outcomes.append(_Outcome(overrides, code, message))
        return _failure(message, code, getattr(e, "facts", {}))

    def code(self) -> int:
        """The exit code of all jobs together, after naming every one that failed."""
        failed = [o for o in self.outcomes if o.error]
        if len(self.outcomes) == 1 and failed:
            complain(failed[0].error, failed[0].code)
        elif failed:
            lines = [f"{o.overrides or 'no overrides'} (exit code {o.code}): {o.error}" for o in failed]
            title = f"{len(failed)} of {len(self.outcomes)} jobs failed"
            _failure(title, failed[0].code)
            complain("\n  - ".join([title, *lines]), 1)
        if failed:
            return failed[0].code
        return _SKIP if self.outcomes and all(o.code == _SKIP for o in self.outcomes) else 0

    def failed(self, e: Exception) -> int:
        """The exit code for what Hydra raised: a configuration that does not compose, or a job in a child process."""
        code, message = describe(
            ConfigError(config.explain(e)) if type(e) is ValueError else e
        )  # Hydra's word for a wrong use
        self._trace(e)
        _failure(message, code)
        complain(message, code)
        return code

    def stopped(self, code: Any) -> int:
        """The exit code after a signal, or after Hydra has called `sys.exit`."""
        if not code:
            return 0
        if not isinstance(code, int):
            return self.failed(PipelineError(str(code)))
        if code < 128:  # the parser of the command line has said on stderr what is wrong with it
            _failure("the command line is not understood; see --help", code)
            return code
        message = f"stopped by {signal.Signals(code - 128).name}; {_KEPT}"
        _failure(message, code)
        complain(message, code)
        return code

    def _trace(self, e: BaseException) -> None:
        if self.verbose:
            traceback.print_exception(e)


def _work(cfg: DictConfig, args: Sequence[str]) -> dict[str, Any]:
    """Build the components and run or plan them. From here on torch is imported."""
    _search_config_folders()
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # read when torch loads: idle lanes must not spin
    with _loading():
        parts, plain = config.build(cfg)

        from pipeline.device import resolve
        from pipeline.policy import conversion
        from pipeline.run import Options, plan, run

    batch, stream = plain["batch"], plain["stream"]
    options = Options(
        columns=plain["columns"],
        carry=plain["carry"],
        batch_rows=batch["rows"],
        batch_bytes=batch["bytes"],
        readers=stream["readers"],
        writers=stream["writers"],
        stream_depth=stream["depth"],
        stream_bytes=stream["bytes"],
        conversion=conversion(plain["conversion"]),
        restart=plain["run"]["restart"],
        fit=plain["run"]["fit"],
        seed=plain["run"]["seed"],
        threads=plain["run"]["threads"],
        every=plain["log"]["every"],
        progress=plain["log"]["progress"],
        config=plain,
        command=_command(args, plain),
        identity=config.fingerprint(plain),
    )
    given = {**parts, "device": resolve(plain["device"]), "options": options}
    if plain["action"] == "plan":
        emit(plan(**given))
        return {"state": "planned", "output": plain["sink"].get("path")}
    if plain["action"] == "verify":
        return _verify(given, plain["verify"])
    return run(**given)


@contextmanager
def _loading() -> Iterator[None]:
    """What torch makes when it loads stays: searching it for garbage again and again takes a seventh of the start."""
    fresh = "torch" not in sys.modules and gc.isenabled()
    if fresh:
        gc.disable()
    try:
        yield
    finally:
        if fresh:
            gc.freeze()
            gc.enable()


def _verify(given: dict[str, Any], limits: dict[str, Any]) -> dict[str, Any]:
    """Try the stage on a sample; compare with the CPU, or with the accelerator that is there."""
    from pipeline.device import available, resolve
    from pipeline.verdict import Limits
    from pipeline.verify import verify

    others = [name for name in ("cpu", *available()) if name != given["device"].name]
    verdict = verify(**given, limits=Limits(**limits), other=resolve(others[0]) if others else None)
    emit(verdict.text())
    return verdict.settle()


def _search_config_folders() -> None:
    """Let a `_target_` be found beside the user's own YAML: in the folder of --config-dir, or the one above it."""
    for place in HydraConfig.get().runtime.config_sources:
        if place.schema == "file" and place.path != config.conf_dir():
            folder = Path(place.path).resolve()
            sys.path.extend(each for each in (str(folder), str(folder.parent)) if each not in sys.path)


def _command(args: Sequence[str], plain: dict[str, Any]) -> list[str]:
    """The command that repeats this job alone, quoted for a shell."""
    start = ["python", "-m", "pipeline"]
    if not config.in_sweep():
        return [*start, *map(shlex.quote, args)]
    flags = [flag for flag in split(args)[0] if flag not in ("-m", "--multirun")]
    task = config.overrides()
    path = plain["sink"].get("path")
    place = (
        []
        if path is None or any(o.lstrip("+").startswith("sink.path=") for o in task)
        else [config.quote("sink.path", path)]
    )
    return [*start, *map(shlex.quote, [*flags, *task]), *place]


# ---- the process -----------------------------------------------------------------------------------------------------


@contextmanager
def _hydra_process(args: Sequence[str]) -> Iterator[None]:
    """The arguments, environment and import path in which Hydra runs; put back afterwards."""
    argv, path, full_error = sys.argv, sys.path[:], os.environ.get("HYDRA_FULL_ERROR")
    flags, overrides = split(args)
    sys.argv = ["pipeline", *flags, *map(force, overrides)]
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra raises instead of printing, and `describe` finds the words
    if "" not in sys.path and str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))  # as `python -m` does; the console script does not
    try:
        yield
    finally:
        GlobalHydra.instance().clear()
        sys.argv, sys.path[:] = argv, path
        os.environ.pop("HYDRA_FULL_ERROR")
        if full_error is not None:
            os.environ["HYDRA_FULL_ERROR"] = full_error


def split(args: Sequence[str]) -> tuple[list[str], list[str]]:
    """Flags with their values, and overrides: Hydra refuses a flag between two overrides, so flags go first."""
    flags: list[str] = []
    overrides: list[str] = []
    for before, arg in zip(["", *args], args, strict=False):
        is_value = before in _TAKES_VALUE or (before in ("--info", "-i") and "=" not in arg)
        (flags if is_value or arg.startswith("-") else overrides).append(arg)
    return flags, overrides


def force(arg: str) -> str:
    """An override as Hydra should take it: `device` and dotted keys are set whether or not they are there.

    So `+device=x` works over a preset, and a misspelt key reaches our checks, which know what was meant, instead of
    Hydra's advice to append it.
    """
    return re.sub(
        r"^\+{0,2}(?=(?!hydra\.)\w+(\.[\w-]+)+=)|^\+device(?==)",
        lambda m: "++device" if m[0] == "+device" else "++",
        arg,
    )


@contextmanager
def _signals(door: _Door) -> Iterator[None]:
    """Turn the first SIGTERM or SIGINT into an exception in the main thread; a second one ends the process at once."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    names = (signal.SIGTERM, signal.SIGINT)

    def stop(number: int, _: FrameType | None) -> None:
        for name in names:
            signal.signal(name, signal.SIG_DFL)
        door.signal = number
        if number == signal.SIGINT:
            raise KeyboardInterrupt
        raise SystemExit(128 + number)

    before = [signal.signal(name, stop) for name in names]
    try:
        yield
    finally:
        for name, handler in zip(names, before, strict=True):
            signal.signal(name, handler)


# ---- words -----------------------------------------------------------------------------------------------------------


def describe(e: BaseException) -> tuple[int, str]:
    """Exit code and message of an exception."""
    if isinstance(e, SystemExit):
        return 1, f"the source, transform or sink called sys.exit({e.code!r}); raise an exception instead"
    if isinstance(e, PipelineError):
        return e.code, str(e)
    if isinstance(e, (HydraException, OmegaConfBaseException)):
        return ConfigError.code, config.explain(e)
    if isinstance(e, YAMLError):
        return ConfigError.code, f"a configuration file is no YAML: {e}"
    return 1, f"{type(e).__name__}: {e} (HYDRA_FULL_ERROR=1 shows where)"


def complain(message: str, code: int) -> None:
    """Say on stderr what went wrong."""
    title = "Config error" if code == ConfigError.code else "error"
    with suppress(OSError, ValueError, AttributeError):  # if nobody listens, the exit code still says it
        print(f"{title}: {message}", file=sys.stderr, flush=True)


def _failure(message: str, code: int, facts: Mapping[str, object] | None = None) -> dict[str, Any]:
    summary = {"state": "failed", "error": message, "code": code, **(facts or {})}
    emit(json.dumps(summary))
    return summary


def emit(text: str = "") -> None:
    """Print to stdout, or only flush it. That nobody reads it any more never breaks a run."""
    if sys.stdout is None:
        return
    try:
        print(text, end="\n" if text else "", flush=True)
    except ValueError:
        return  # closed
    except OSError:
        with suppress(OSError, ValueError):  # or Python fails again when it flushes at exit
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def end(code: int) -> NoReturn:
    """End the process without taking its modules apart, which of torch takes an eighth of a second.

    Everything that is registered for the end runs; with threads that others started the usual end waits for them.
    """
    if any(thread is not threading.main_thread() and not thread.daemon for thread in threading.enumerate()):
        sys.exit(code)
    atexit._run_exitfuncs()  # noqa: SLF001  (what the interpreter calls at this point)
    emit()
    with suppress(OSError, ValueError, AttributeError):
        sys.stderr.flush()
    os._exit(code)


def script() -> NoReturn:
    """The console script, and `python -m pipeline`."""
    end(main())


if __name__ == "__main__":
    script()
