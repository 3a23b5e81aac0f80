"""The front door: `python -m pipeline` and the console script. Exit codes, signals, one line of JSON at the end.

Hydra composes the configuration and calls `_Door.job` once, or once for each job of a sweep.
"""

from __future__ import annotations

import atexit
import ctypes
import gc
import io
import json
import logging
import os
import shlex
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, redirect_stdout, suppress
from dataclasses import dataclass, field, replace
from importlib.util import find_spec
from pathlib import Path
from select import select
from types import FrameType
from typing import TYPE_CHECKING, Any, ClassVar, NoReturn

import hydra
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from pipeline import __version__, config, lean
from pipeline.config import force
from pipeline.day import today
from pipeline.errors import ConfigError, PipelineError, RetryError
from pipeline.log import emit, say
from pipeline.metrics import measured
from pipeline.secret import Mask, Masked
from pipeline.sweep import objective, result
from pipeline.sweep.watch import Record, Watch, recorded, watching

if TYPE_CHECKING:
    from pipeline.run import Head, Options

log = logging.getLogger("pipeline")

_SKIP = 99
_TAKES_VALUE = ("--config-dir", "-cd", "--config-name", "-cn", "--config-path", "-cp", "--package", "-p", "--cfg", "-c")
_SHOW = ("--help", "-h", "--hydra-help", "--cfg", "-c", "--info", "-i", "--shell-completion", "-sc")
_RUN = ("--run", "-r", "--multirun", "-m")
_PLAIN = ("--config-dir", "-cd", "--config-name", "-cn", "--config-path", "-cp", "--run", "-r")
_LATER = ("action=audit", "hydra.mode=", "hydra.job.env_set")  # torch is not wanted here, or not as things are
_KEPT = "finished parts are kept: run the same command again"


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code. Nothing is raised but what ends the process at once."""
    _open_standard_streams()
    args = list(sys.argv[1:] if argv is None else argv)
    door = _Door(args, verbose=os.environ.get("HYDRA_FULL_ERROR") == "1")
    today.cache_clear()
    if args == ["--version"]:
        emit(f"tensor-etl-stage {__version__}")
        return 0
    with _signals(door), _masked(door.mask), _patience(door), _hydra_process(args), watching():
        try:
            _check_fence(args)
            if door.starting and _runs_at_once(args):
                _open_torch()
            _hydra_main(door.job)
        except SystemExit as e:
            return door.stopped(e.code)
        except KeyboardInterrupt:
            return door.stopped(128 + signal.SIGINT)
        except BrokenPipeError:
            return 0  # Hydra was printing its help or a configuration, and the reader has seen enough
        except Exception as e:  # noqa: BLE001  (every exception becomes one line and an exit code)
            if door.signal:
                return door.stopped(128 + door.signal)
            return door.code() if door.any_failed() else door.failed(e)
        finally:
            door.tell()
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

    starting: ClassVar[bool] = False
    """Whether this process is all ours and has not loaded much yet; garbage is not collected meanwhile."""

    args: list[str]
    verbose: bool
    signal: int = 0
    outcomes: list[_Outcome] = field(default_factory=list)
    mask: Mask = field(default_factory=Mask)
    record: Record = field(default_factory=Record)

    def __post_init__(self) -> None:
        for arg in self.args:
            self.mask.learn_override(arg)

    def job(self, cfg: DictConfig) -> Any:
        """One job, from the composed configuration to its line of JSON; its objective if a sweeper wants one.

        A failure is recorded for the end. In a sweep it is raised too: the sweeper decides whether the jobs after it
        run, and the process that has the record of all jobs may be another.
        """
        self.mask.learn(config.unresolved(cfg), os.environ)
        with recorded(cfg, self.mask) as self.record:
            facts = self.record.facts
            facts.update(self._attempt(cfg))
            facts["code"] = self.outcomes[-1].code
        if failed := self.outcomes[-1].error:
            if config.in_sweep():
                raise PipelineError(failed)
            return facts
        return facts["objective"] if cfg.sweep.objective is not None and cfg.action is config.Action.run else facts

    def _attempt(self, cfg: DictConfig) -> dict[str, Any]:
        overrides = " ".join(self.mask.override(each.lstrip("+")) for each in config.overrides())
        try:
            with measured(*config.measured(cfg), self._code_of) as facts:
                summary = _work(cfg, self)
                skip = summary["state"] == "nothing to do" and cfg.run.nothing_to_do is config.NothingToDo.skip
                facts |= {**summary, "code": _SKIP if skip else 0}
            if cfg.sweep.objective is not None and "report" in summary:
                summary["objective"] = objective.value(cfg.sweep.objective, {**summary, **result.reported(summary)})
        except (Exception, SystemExit) as e:
            if self.signal:
                raise SystemExit(128 + self.signal) from e
            return self._record(overrides, e)
        self.outcomes.append(_Outcome(overrides, _SKIP if skip else 0))
        emit(json.dumps(summary, default=str))
        return summary

    def _code_of(self, e: BaseException) -> int:
        return 128 + self.signal if self.signal else describe(e)[0]

    def _record(self, overrides: str, e: BaseException) -> dict[str, Any]:
        code, message = describe(e)
        self._trace(e)
        if config.in_sweep():
            log.error("job %s: %s", overrides, message)
        self.outcomes.append(_Outcome(overrides, code, message))
        return _failure(message, code, getattr(e, "facts", {}))

    def last_words(self, message: str) -> None:
        """What is said and kept when the process ends in the middle, without a way back to `main`."""
        self.record.leave("timed out", RetryError.code, self.mask.text(message))
        more = "; the jobs of the sweep that follow do not start" if config.in_sweep() else ""
        _failure(message + more, RetryError.code)
        self.tell(drawn=False)
        complain(message + more, RetryError.code)

    def tell(self, *, drawn: bool = True) -> None:
        """After a sweep, take the outcomes of jobs in other processes from their results, and show all in a table."""
        watch, Watch.latest = Watch.latest, None
        if watch is None:
            return
        self._gather(watch)
        try:
            say(watch.tell(drawn=drawn and not self.signal))
        except Exception as e:  # noqa: BLE001  (the outputs are what counts)
            self._trace(e)
            log.warning("the sweep cannot be summed up: %s: %s", type(e).__name__, e)

    def any_failed(self) -> bool:
        """Whether a job has failed, here or in another process."""
        if Watch.latest is not None:
            self._gather(Watch.latest)
        return any(o.error for o in self.outcomes)

    def _gather(self, watch: Watch) -> None:
        try:
            found = [_Outcome(_spelled(one.overrides), one.code, one.error) for one in watch.results()]
        except PipelineError as e:
            log.warning("the results of the jobs are not all known: %s", e)
        else:
            self.outcomes = max(found, self.outcomes, key=len)

    def code(self) -> int:
        """The exit code of all jobs together, after a table of them and the name of every one that failed."""
        self.tell()
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
        if isinstance(code, PipelineError):
            return self.failed(code)
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


def _spelled(overrides: Mapping[str, str]) -> str:
    return " ".join(f"{key}={value}" if value else key for key, value in overrides.items())


def _work(cfg: DictConfig, door: _Door) -> dict[str, Any]:
    """Build the components and run or plan them. From here on torch is imported, but for an audit."""
    _search_config_folders()
    _tune_libraries()
    if cfg.action is config.Action.audit:
        return _audit(config.output(cfg))
    head: Head | None = None
    with ExitStack() as stack:

        def begin(parts: dict[str, Any], plain: dict[str, Any]) -> None:
            from pipeline.run import head_start

            nonlocal head
            if plain["action"] == "run":
                head = head_start(parts["source"], parts["sink"], _options(cfg, plain, door))
            if head is not None:
                stack.callback(head.stop)
            if _Door.starting:
                lean.load()

        with _loading():
            parts, plain = config.build(cfg, begin)

            from pipeline.device import resolve
            from pipeline.run import prepare, run

        # The code of the user's functions is part of the identity; to find it imports torch, so it comes last.
        options = replace(_options(cfg, plain, door), identity=config.fingerprint(plain, door.mask))
        given = {**parts, "device": resolve(plain["device"]), "options": options}
        if plain["action"] == "plan":
            planned = prepare(**given).plan
            emit(planned.text())
            return {"state": "planned", "output": plain["sink"].get("path"), **planned.facts()}
        if plain["action"] == "verify":
            return _verify(given, plain["verify"])
        return run(**given, head=head)


def _options(cfg: DictConfig, plain: dict[str, Any], door: _Door) -> Options:
    """What the configuration says beside its components, but for the identity of the output."""
    from pipeline.check.checks import parse
    from pipeline.policy import conversion
    from pipeline.run import Options

    door.mask.learn(plain, os.environ)
    clock = plain["date"] if config.reads_clock(cfg) else ""
    batch, stream = plain["batch"], plain["stream"]
    return Options(
        columns=plain["columns"],
        carry=plain["carry"],
        batch_rows=batch["rows"],
        batch_bytes=None if batch["bytes"] == "auto" else batch["bytes"],
        readers=stream["readers"],
        computers=stream["computers"],
        writers=stream["writers"],
        stream_depth=stream["depth"],
        stream_bytes=stream["bytes"],
        conversion=conversion(plain["conversion"]),
        checks=parse(plain["checks"]),
        restart=plain["run"]["restart"],
        fit=plain["run"]["fit"],
        seed=plain["run"]["seed"],
        threads=plain["run"]["threads"],
        lock=plain["run"]["lock"],
        lock_timeout=plain["run"]["lock_timeout"],
        batch_timeout=plain["run"]["batch_timeout"],
        last_words=door.last_words,
        html=plain["run"]["html"],
        every=plain["log"]["every"],
        progress=plain["log"]["progress"],
        verbose=plain["log"]["verbose"],
        hide=door.mask.text,
        config=door.mask.data(plain),
        command=[door.mask.override(each) for each in _command(door.args, plain, clock)],
    )


@contextmanager
def _loading() -> Iterator[None]:
    """What libraries make when they load stays: to search it for garbage again and again is a seventh of the start."""
    fresh = _Door.starting or ("torch" not in sys.modules and gc.isenabled())
    if fresh:
        gc.disable()
    try:
        yield
    finally:
        if fresh:
            _Door.starting = False
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


def _audit(path: str) -> dict[str, Any]:
    """Read the output again and compare it with its manifest."""
    with _loading():
        from pipeline.audit import audit

    found = audit(path)
    emit(found.text())
    return found.settle()


def _search_config_folders() -> None:
    """Let a `_target_` be found beside the user's own YAML: in the folder of --config-dir, or the one above it."""
    for place in HydraConfig.get().runtime.config_sources:
        if place.schema == "file" and place.path != config.conf_dir():
            folder = Path(place.path).resolve()
            sys.path.extend(each for each in (str(folder), str(folder.parent)) if each not in sys.path)


def _command(args: Sequence[str], plain: dict[str, Any], day: str) -> list[str]:
    """The command that repeats this job alone, quoted for a shell; `day` stands for what was read from the clock."""
    start = ["python", "-m", "pipeline"]
    dated = [f"date={day}"] if day else []
    if not config.in_sweep():
        return [*start, *map(shlex.quote, [arg for arg in args if not (day and _sets_date(arg))]), *dated]
    flags = [flag for flag in split(args)[0] if flag not in ("-m", "--multirun")]
    preset = [] if len(flags) < len(split(args)[0]) else ["hydra.mode=RUN"]  # it was no flag that made this a sweep
    task = [*(each for each in config.overrides() if not (day and _sets_date(each))), *dated, *preset]
    path = plain["sink"].get("path")
    place = (
        []
        if path is None or any(o.lstrip("+").startswith("sink.path=") for o in task)
        else [config.quote("sink.path", path)]
    )
    return [*start, *map(shlex.quote, [*flags, *task]), *place]


def _sets_date(arg: str) -> bool:
    return arg.lstrip("+").startswith("date=")


# ---- the process -----------------------------------------------------------------------------------------------------


def _tune_libraries() -> None:
    """What libraries read when they are loaded, unless somebody has set it."""
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # torch: idle lanes must not spin
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # NumPy: nor those that it would start when it is loaded
    os.environ.setdefault("MIMALLOC_PURGE_DELAY", "-1")  # pyarrow: fresh pages are dear, so keep them


def _runs_at_once(args: Sequence[str]) -> bool:
    """Whether torch will be wanted in this process, and nothing is to be set before it is loaded."""
    flags = [arg.split("=")[0] for arg in args if arg.startswith("-")]
    return all(flag in _PLAIN for flag in flags) and not any(arg.lstrip("+").startswith(_LATER) for arg in args)


def _open_torch() -> None:
    """Let the system open the largest library of torch while Hydra composes, on a processor that would have no work.

    To import it takes the interpreter's lock for as long; a foreign function gives it up. Whoever loads another library
    meanwhile waits for the system's own lock, as behind the import. What goes wrong here, the import finds again.
    """
    with suppress(ImportError, OSError, RuntimeError, ValueError):  # none, unreadable, no thread, broken
        place = find_spec("torch")
        library = Path((place and place.origin) or "").with_name("lib") / "libtorch_cpu.so"
        if library.exists():
            _tune_libraries()
            dlopen = ctypes.CDLL(None).dlopen
            dlopen.argtypes, dlopen.restype = (ctypes.c_char_p, ctypes.c_int), ctypes.c_void_p
            given = (os.fsencode(library), os.RTLD_NOW)
            threading.Thread(target=dlopen, args=given, name="pipeline-torch", daemon=True).start()


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


def _hydra_main(job: Callable[[DictConfig], Any]) -> None:
    hydra.main(config_path=config.conf_dir(), config_name="config", version_base="1.3")(job)()


def _check_fence(args: Sequence[str]) -> None:
    """Compose once without acting on it, so that Hydra does not call what the fence refuses: loggers, callbacks, ...

    Raises:
        ConfigError: the section `hydra` names something outside.
    """
    config.refuse_deletions(args)
    if any(arg.startswith("--e") for arg in args):
        raise ConfigError(
            "--experimental-rerun reads a pickle, which this program never does; give the overrides again"
        )
    around = config.fenced()
    if around is None or any(arg.split("=")[0] in _SHOW for arg in args):
        return
    flags, overrides = split(args)
    parsed = OverridesParser.create().parse_overrides(list(map(force, overrides)))
    plain = [str(each.input_line) for each in parsed if not each.is_sweep_override()]
    argv, shown = sys.argv, io.StringIO()
    sys.argv = ["pipeline", *(flag for flag in flags if flag not in _RUN), "--cfg", "all", *plain]
    try:
        with redirect_stdout(shown):
            _hydra_main(lambda _: None)
    except SystemExit as e:
        if e.code:
            raise
    finally:
        sys.argv = argv
        GlobalHydra.instance().clear()
    composed = OmegaConf.create(shown.getvalue())
    assert isinstance(composed, DictConfig)
    if problems := list(around.refuse_hydra(composed)):
        raise ConfigError(config.listed("problems", problems))


def split(args: Sequence[str]) -> tuple[list[str], list[str]]:
    """Flags with their values, and overrides: Hydra refuses a flag between two overrides, so flags go first."""
    flags: list[str] = []
    overrides: list[str] = []
    for before, arg in zip(["", *args], args, strict=False):
        is_value = before in _TAKES_VALUE or (before in ("--info", "-i") and "=" not in arg)
        (flags if is_value or arg.startswith("-") else overrides).append(arg)
    return flags, overrides


@contextmanager
def _masked(mask: Mask) -> Iterator[None]:
    """Let no secret through to stdout and stderr, whoever writes: logs, tracebacks and components too."""
    streams: Any = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = (each and Masked(each, mask) for each in streams)
    try:
        yield
    finally:
        sys.stdout, sys.stderr = streams


@contextmanager
def _signals(door: _Door) -> Iterator[None]:
    """Turn the first SIGTERM or SIGINT into an exception in the main thread; a second one ends the process at once."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(number: int, _: FrameType | None) -> None:
        for name in _ENDING:
            signal.signal(name, signal.SIG_DFL)
        door.signal = number
        if number == signal.SIGINT:
            raise KeyboardInterrupt
        raise SystemExit(128 + number)

    before = [signal.signal(name, stop) for name in _ENDING]
    try:
        yield
    finally:
        for name, handler in zip(_ENDING, before, strict=True):
            signal.signal(name, handler)


@contextmanager
def _patience(door: _Door) -> Iterator[None]:
    """End the process if the end that a signal began takes too long: a transform may hang, or a disk not answer.

    Signals come as bytes through a pipe even while the main thread is in a call that does not return. If the system
    gave one to another thread, Python would let the main thread wait on for a lock; a second, harmless signal wakes it.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    out, in_ = os.pipe()
    os.set_blocking(in_, False)
    before = signal.set_wakeup_fd(in_, warn_on_full_buffer=False)
    woken = signal.signal(_WAKE, lambda *_: None)
    watch = threading.Thread(target=_watch, args=(door, out), name="pipeline-signals", daemon=True)
    watch.start()
    try:
        yield
    finally:
        signal.set_wakeup_fd(before)
        os.close(in_)
        watch.join()
        signal.signal(_WAKE, woken)


def _watch(door: _Door, pipe: int) -> None:
    """Wait for a signal that ends the run, then for its end, for a second signal, or for too long."""
    with os.fdopen(pipe, "rb", buffering=0) as signals:
        while (first := signals.read(1)) and first[0] not in _ENDING:
            pass
        if first:
            signal.pthread_kill(threading.main_thread().ident or 0, _WAKE)
        while first:
            late = not select([signals], [], [], _GRACE)[0]
            second = b"" if late else signals.read(1)
            if not late and not second:
                return
            if late or second[0] in _ENDING:
                _end(door, first[0])


def _end(door: _Door, number: int) -> None:
    """End the process at once. What is under construction goes; the lock goes with the process."""
    if "pipeline.files" in sys.modules:
        sys.modules["pipeline.files"].sweep_all()
    door.stopped(128 + number)
    os._exit(128 + number)


_ENDING = (signal.SIGTERM, signal.SIGINT)
_WAKE = signal.SIGURG  # ignored by those who have no handler
_GRACE = 8.0
"""Seconds that the end of a run may take after a signal. Schedulers kill after ten or more."""


def _open_standard_streams() -> None:
    """Give closed standard streams to the null device: else a data file gets the number that libraries print to."""
    while (fd := os.open(os.devnull, os.O_RDWR)) <= 2:
        pass
    os.close(fd)


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
    if isinstance(e, RuntimeError) and "can't start new thread" in str(e):
        return RetryError.code, f"the system gives no more threads{_LESS.format('run.threads, stream.readers')}"
    if isinstance(e, MemoryError):
        return RetryError.code, f"out of memory: {e or 'no bytes left'}{_LESS.format('batch.bytes, stream.bytes')}"
    return 1, f"{type(e).__name__}: {e} (HYDRA_FULL_ERROR=1 shows where)"


_LESS = " (limits of the machine, ulimit or the container); lower {} and stream.writers, or try again later"


def complain(message: str, code: int) -> None:
    """Say on stderr what went wrong."""
    title = "Config error" if code == ConfigError.code else "error"
    say(f"{title}: {message}", logging.ERROR)  # if nobody listens, the exit code still says it


def _failure(message: str, code: int, facts: Mapping[str, object] | None = None) -> dict[str, Any]:
    summary = {"state": "failed", "error": message, "code": code, **(facts or {})}
    emit(json.dumps(summary))
    return summary


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
    _Door.starting = True
    gc.disable()  # until `_loading` is done
    end(main())


if __name__ == "__main__":
    script()
