"""Configuration: the typed root schema, the checks after composition, and the step from YAML to objects.

Hydra and OmegaConf end here and in `__main__`: what leaves is plain data and the components themselves.
"""

from __future__ import annotations

import hashlib
import os
import re
import shlex
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, fields, is_dataclass
from enum import Enum
from pathlib import Path
from typing import Any, Optional

from hydra.core.config_store import ConfigStore
from hydra.core.hydra_config import HydraConfig
from hydra.errors import InstantiationException, OverrideParseException
from hydra.types import RunMode
from hydra.utils import instantiate
from omegaconf import MISSING, DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from pipeline import __version__, day
from pipeline.check.checks import parse
from pipeline.errors import ConfigError, PipelineError
from pipeline.fence import VARIABLE, Fence, fence
from pipeline.override import override
from pipeline.secret import Mask, is_secret, seal
from pipeline.sweep import objective
from pipeline.target import prepare, source_hash, suggest, targets

GROUPS = ("source", "transform", "sink", "engine")


# ---- schema ----------------------------------------------------------------------------------------------------------
# conf/config.yaml says what each key does. `Optional[X]` and classes of Enum are the spellings that OmegaConf reads.

Action = Enum("Action", ["run", "plan", "verify", "audit"])
Fit = Enum("Fit", ["check", "keep"])
Lock = Enum("Lock", ["fail", "wait"])
NothingToDo = Enum("NothingToDo", ["ok", "skip"])
Progress = Enum("Progress", ["auto", "bar", "lines", "none"])


@dataclass
class Batch:
    rows: Optional[int] = None  # noqa: UP045
    bytes: Any = 4194304


@dataclass
class Stream:
    depth: int = 2
    bytes: int = 268435456
    readers: Optional[int] = None  # noqa: UP045
    computers: Optional[int] = None  # noqa: UP045
    writers: Optional[int] = None  # noqa: UP045


@dataclass
class Conversion:
    nulls: str = "auto"
    fill_value: float = 0
    unsupported: str = "error"
    dtype: Optional[str] = None  # noqa: UP045
    cast: str = "no"
    cast_check: str = "exact"
    unsigned: str = "native"
    byteorder: str = "preserve"
    dictionary: str = "error"
    ragged: str = "error"
    logical_dtype: Optional[str] = None  # noqa: UP045
    columns: Any = field(default_factory=dict)
    memory: str = "auto"
    layout: str = "columnar"
    mixed_dtypes: str = "error"
    narrow_floats: str = "error"
    unstack: Optional[bool] = None  # noqa: UP045


@dataclass
class Checks:
    input: Any = field(default_factory=list)
    output: Any = field(default_factory=list)
    unique_rows: int = 100000000


@dataclass
class Run:
    restart: bool = False
    fit: Fit = Fit.check
    seed: int = 0
    nothing_to_do: NothingToDo = NothingToDo.ok
    threads: Optional[int] = None  # noqa: UP045
    lock: Lock = Lock.fail
    lock_timeout: Optional[float] = None  # noqa: UP045
    batch_timeout: Optional[float] = None  # noqa: UP045
    html: bool = False


@dataclass
class Verify:
    rows: int = 100000
    bytes: int = 268435456
    splits: int = 16
    atol: float = 0.0
    rtol: float = 1e-5


@dataclass
class Log:
    every: float = 5.0
    progress: Progress = Progress.auto
    verbose: bool = False


@dataclass
class Metrics:
    textfile: Optional[str] = None  # noqa: UP045


@dataclass
class Sweep:
    objective: Optional[str] = None  # noqa: UP045


@dataclass
class Conf:
    """The root. `device` is null here and absent from the YAML: Hydra lets `+device=x` append over a null."""

    source: Any = MISSING
    transform: Any = MISSING
    sink: Any = MISSING
    engine: Any = MISSING
    action: Action = Action.run
    date: str = "${today:}"
    columns: Any = None
    carry: Any = "all"
    device: Optional[str] = None  # noqa: UP045
    batch: Batch = field(default_factory=Batch)
    stream: Stream = field(default_factory=Stream)
    conversion: Conversion = field(default_factory=Conversion)
    checks: Checks = field(default_factory=Checks)
    run: Run = field(default_factory=Run)
    verify: Verify = field(default_factory=Verify)
    sweep: Sweep = field(default_factory=Sweep)
    log: Log = field(default_factory=Log)
    metrics: Metrics = field(default_factory=Metrics)


_LEAST = {
    "batch.rows": 1,
    "batch.bytes": 1,
    "stream.depth": 0,
    "stream.bytes": 1,
    "checks.unique_rows": 1,
    "stream.readers": 1,
    "stream.computers": 1,
    "stream.writers": 1,
    "run.seed": 0,
    "run.threads": 1,
    "run.lock_timeout": 0,
    "verify.rows": 1,
    "verify.bytes": 1,
    "verify.splits": 1,
    "verify.atol": 0,
    "verify.rtol": 0,
    "log.every": 0,
}


# ---- places ----------------------------------------------------------------------------------------------------------


def conf_dir() -> str:
    """The folder of config.yaml: inside the package in a wheel, beside it in a checkout."""
    here = Path(__file__).resolve().parent
    for folder in (here / "conf", here.parent / "conf"):
        if (folder / "config.yaml").is_file():
            return str(folder)
    raise ConfigError("conf/config.yaml is neither in the package nor beside it; install the package again")


def data_file(name: str) -> str:
    """`${data:name}`: a file of the data that comes with the package."""
    return str(Path(__file__).resolve().parent / "data" / name)


def out_folder() -> str:
    """`${out:}`: `out` for a single run; in a sweep `multirun/` and a folder named after the job's overrides.

    The same job has the same folder whenever it runs, so that running a sweep again resumes it. Not inside `out`, where
    a reader of that folder would take the rows of the sweep for its own.
    """
    return f"multirun/{job_folder(overrides())}" if in_sweep() else "out"


def measured(cfg: DictConfig) -> tuple[str, str]:
    """File of the metrics, and the output that they are about; empty where nothing is to be, or can be, measured."""
    with suppress(OmegaConfBaseException):
        if cfg.action is Action.run and cfg.metrics.textfile:
            return cfg.metrics.textfile, str(OmegaConf.select(cfg, "sink.path", default=""))
    return "", ""


def reads_clock(cfg: DictConfig) -> bool:
    """Whether what the run does hangs on the date of today: to repeat it, the date must be given."""
    raw: Any = OmegaConf.to_container(cfg, resolve=False)
    texts = [value for key, value in _flat(raw, "") if key != "date"]
    return "${" in str(raw["date"]) and any("${date" in str(text) for text in texts)


def in_sweep() -> bool:
    """Whether Hydra runs this as one job of several, here or in a process that a launcher started with a number."""
    if not HydraConfig.initialized():
        return False
    hydra = HydraConfig.get()
    return hydra.mode == RunMode.MULTIRUN or not OmegaConf.is_missing(hydra.job, "num")


def overrides() -> list[str]:
    """The overrides of this job as they were given, interpolations and all."""
    given: Any = OmegaConf.to_container(HydraConfig.get().overrides.task, resolve=False)
    return list(map(str, given))


def settings(overrides: Iterable[str]) -> dict[str, str]:
    """Overrides as key and value, without `+`; a deletion keeps its `~`."""
    pairs = (each.lstrip("+").partition("=") for each in overrides)
    return {key: value for key, _, value in pairs}


def dated(overrides: Iterable[str]) -> list[str]:
    """The overrides, without `+`, with the day that `date` means where they write it, its words or `${date}`."""
    told = [each.lstrip("+") for each in overrides]
    given = [each.removeprefix("date=") for each in told if each.startswith("date=")]
    return [_dated(each, given[-1]) for each in told] if given else told


def _dated(text: str, given: str) -> str:
    plain, given = (re.sub(r"\\(.)", r"\1", each) for each in (text, given))  # sweepers escape what is no letter
    words = {*re.findall(r"\$\{\s*([^\s:}]*)", plain)}
    if not words or not words <= {"date", *day.WORDS}:
        return text  # it does not hang on the day, or on more
    try:
        return str(OmegaConf.create({"date": given, "text": plain}).text)
    except OmegaConfBaseException:
        return text  # the job says what is wrong with it


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


def refuse_deletions(args: Iterable[str]) -> None:
    """Raise ConfigError for an argument that takes out a section that all rely on, such as ``~batch``."""
    sections = {f.name for f in fields(Conf)} - {*GROUPS}
    for arg in args:
        if arg.startswith("~") and (key := arg[1:].partition("=")[0]) in sections:
            raise ConfigError(f"{arg}: {key!r} cannot be taken out; leave {arg} away, or set what should be different")


def job_folder(overrides: Iterable[str]) -> str:
    """A folder name for the overrides of a job, the same whatever their order and however they spell `+`.

    No ``=``, which readers take for a partition column. What had to be replaced or cut is told apart by a hash.
    The action is no part of it: a dry run and an audit speak of the output that the run makes. A secret is a digest,
    and a day that is read from the clock is that day: tomorrow's job is another.
    """
    told = map(_sealed, dated(overrides))
    plain = ",".join(sorted(each for each in told if not each.startswith("action="))) or "default"
    name = re.sub(r"[^\w.,-]", "-", plain.replace("=", "-"), flags=re.ASCII)[:80].lstrip(".-_") or "job"
    if name == plain.replace("=", "-"):
        return name
    return f"{name}-{hashlib.sha256(plain.encode()).hexdigest()[:8]}"


def _sealed(text: str) -> str:
    key, equals, value = text.partition("=")
    return f"{key}={seal(key, value)[-8:]}" if equals and is_secret(key) else text


def register() -> None:
    """Tell Hydra about the schema and the resolvers. Harmless when repeated."""
    ConfigStore.instance().store(name="schema", node=Conf)
    OmegaConf.register_new_resolver("data", data_file, replace=True)
    OmegaConf.register_new_resolver("out", out_folder, replace=True)
    for name, word in day.WORDS.items():
        OmegaConf.register_new_resolver(name, word, replace=True)


register()


# ---- checks ----------------------------------------------------------------------------------------------------------


def fenced() -> Fence | None:
    """The fence of this installation, if it has one. Who starts the process says so, never a configuration."""
    return fence(os.environ.get(VARIABLE))


def build(
    cfg: DictConfig, meanwhile: Callable[[dict[str, Any], dict[str, Any]], None] = lambda *_: None
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Check a composed configuration and instantiate its groups: (objects by group, the plain configuration).

    The transform comes last, and only if all else is well: it imports torch. `meanwhile` is told all else before that,
    and may begin something in a thread. What the fence refuses is not imported.

    Raises:
        ConfigError: all problems found, one line each.
    """
    problems = [*_walk(cfg, ""), *_clocks(cfg)]
    raw: Any = OmegaConf.to_container(cfg, resolve=not problems, enum_to_str=True)
    problems += _values(raw)
    if refused := _refused({group: raw[group] for group in GROUPS}):
        raise ConfigError(listed("problems", [*problems, *refused]))
    specs: dict[str, Any] = {}
    parts: dict[str, Any] = {}
    for group in ("source", "sink", "engine", "transform"):
        if group == "transform":
            if problems:
                break
            with suppress(ConfigError):  # said below, after what is wrong with the transform
                parts |= {each: _instantiate(spec, each) for each, spec in specs.items()}
                meanwhile(parts, raw)
        if isinstance(raw[group], dict) and "_target_" in raw[group]:
            specs[group] = prepare(raw[group], group, problems)
        elif raw[group] != "???":
            problems.append(f"no value given for '{group}._target_'; choose an option such as {group}={_option(group)}")
    if problems:
        raise ConfigError(listed("problems", problems))
    with _seeded(raw["run"]["seed"]):
        return {group: parts[group] if group in parts else _instantiate(specs[group], group) for group in GROUPS}, raw


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """What a transform draws while it is made, as a layer without weights does, is the same in each run."""
    import torch

    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed % (1 << 63))
        yield


_NEEDS = {
    "source": ("schema", "splits", "read"),
    "sink": ("path", "columnar", "single", "accept", "open"),
    "engine": ("map",),
    "transform": ("__call__",),
}
"""What the contracts of `pipeline.core` cannot do without."""


def _refused(specs: Mapping[str, Any]) -> list[str]:
    """What the fence says of the targets of these groups."""
    around = fenced()
    return [line for group, spec in specs.items() for line in around.refuse(spec, group)] if around else []


def unresolved(cfg: DictConfig) -> Any:
    """The configuration as plain data, with its interpolations as they were written."""
    return OmegaConf.to_container(cfg, resolve=False)


def output(cfg: DictConfig) -> str:
    """The output that a composed configuration names, whatever its input and transform are.

    Raises:
        ConfigError: all problems found, one line each.
    """
    problems = [each for key in cfg if key not in {*GROUPS} - {"sink"} for each in _walk(cfg, "", only=str(key))]
    sink: Any = None if problems else OmegaConf.to_container(cfg.sink, resolve=True)
    if not problems and not (problems := _refused({"sink": sink})):
        prepare(sink, "sink", problems)
    if problems:
        raise ConfigError(listed("problems", problems))
    return str(sink["path"])


def _option(group: str) -> str:
    names = sorted(p.stem for p in Path(conf_dir(), group).glob("*.yaml"))
    return names[0] if names else "NAME"


def _walk(node: DictConfig | ListConfig, path: str, only: str = "") -> Iterator[str]:
    """Unknown keys of typed nodes, missing values and interpolations that do not resolve, at every level."""
    kind = OmegaConf.get_type(node)
    known = [f.name for f in fields(kind)] if kind is not None and is_dataclass(kind) else None
    names: Iterable[Any] = range(len(node)) if isinstance(node, ListConfig) else [only] if only else list(node)
    for name in names:
        key = f"{path}.{name}" if path else str(name)
        if known is not None and name not in known:
            near = suggest(str(name), known, f"{path}." if path else "")
            yield f"unknown key '{key}'{near} ({path or 'the root'} has {', '.join(known)})"
            continue
        if OmegaConf.is_missing(node, name):
            yield f"no value given for '{key}'; give one, as in {key}={'NAME' if key in GROUPS else 'VALUE'}"
            continue
        try:
            value = node[name]
        except OmegaConfBaseException as e:
            yield _unresolved(key, e)
            continue
        if OmegaConf.is_config(value):
            yield from _walk(value, key)


def _clocks(cfg: DictConfig) -> Iterator[str]:
    """Where else than in `date` the clock is read: no report could say what such a run had done."""
    raw: Any = OmegaConf.to_container(cfg, resolve=False)
    for key, value in _flat(raw, ""):
        found = re.search(rf"\$\{{({'|'.join(day.CLOCK)}):[^}}]*}}", str(value))
        if found and key != "date":
            yield f"{key}: only date reads the clock; give 'date={found[0]}' and write ${{date}} here"


def _unresolved(key: str, e: OmegaConfBaseException) -> str:
    reason = str(e).splitlines()[0]
    env = re.search(r"Environment variable '(.+?)' not found", reason)
    if env:
        return f"{key}: environment variable {env[1]!r} is not set; set it, or give {key}=VALUE"
    if found := re.search(r"Interpolation key '(hydra\.[\w.]+)' not found", reason):
        return f"{key}: what is Hydra's own is read with a colon: write ${{{found[1].replace('.', ':', 1)}}}"
    return f"{key}: its interpolation cannot be resolved ({reason}); correct it, or give {key}=VALUE"


def _values(raw: Mapping[str, Any]) -> Iterator[str]:
    """What the types of the schema cannot say: the forms of `columns` and `carry`, and least values."""
    columns, carry = raw["columns"], raw["carry"]
    if not (day.is_day(raw["date"]) or _later(raw["date"])):
        yield f"date: expected a day as in date=2026-01-31; got {raw['date']!r}"
    stacked = isinstance(columns, dict) and all(_names(v) for v in columns.values())
    if not (columns is None or _names(columns) or stacked or _later(columns)):
        yield f"columns: expected null, a list as in columns=[a,b] or a mapping of new name to list; got {columns!r}"
    if not (carry in ("all", "none") or _names(carry) or _later(carry)):
        yield f"carry: expected all, none or a list as in carry=[id,name]; got {carry!r}"
    if not (type(raw["batch"]["bytes"]) is int or raw["batch"]["bytes"] == "auto" or _later(raw["batch"]["bytes"])):
        yield f"batch.bytes: expected a number of bytes, or auto; got {raw['batch']['bytes']!r}"
    known = {f.name for f in fields(Conversion)}  # any other key has been complained about
    if raw["conversion"].keys() <= known and not any(_later(value) for value in raw["conversion"].values()):
        from pipeline.policy import conversion  # loads NumPy, which waits until libraries are tuned

        yield from _complaint(conversion, raw["conversion"])
    yield from _complaint(parse, raw["checks"])
    if raw["sweep"]["objective"] is not None:
        yield from _complaint(objective.check, raw["sweep"]["objective"])
    for key, least in _LEAST.items():
        section, name = key.split(".")
        value = raw[section][name]
        if isinstance(value, (int, float)) and value < least:
            yield f"{key} must be at least {least}; got {value}"


def _complaint(read: Callable[[Any], object], section: Any) -> Iterator[str]:
    try:
        read(section)
    except ConfigError as e:
        yield str(e)


def _names(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(name, str) for name in value)


def _later(value: Any) -> bool:
    return isinstance(value, str) and "${" in value


def _instantiate(spec: Any, group: str) -> Any:
    """The object of one group; plain dicts and lists reach its constructor."""
    try:
        made = instantiate(spec, _convert_="all")
    except InstantiationException as e:
        if isinstance(e.__cause__, PipelineError):
            raise e.__cause__ from None
        where = re.search(r"full_key: (\S+)", str(e))
        key = f"{group}.{where[1]}" if where else group
        cause = e.__cause__
        reason = f"{type(cause).__name__}: {cause}" if cause else str(e).splitlines()[0]
        raise ConfigError(f"{key}: cannot be created: {reason}") from e
    if absent := [name for name in _NEEDS[group] if not hasattr(made, name)]:
        raise ConfigError(
            f"{group}._target_: {spec['_target_']} makes a {type(made).__name__}, which cannot be a {group}: it has no "
            f"{' and no '.join(absent)} (pipeline/core.py has the contract)"
        )
    return made


# ---- identity --------------------------------------------------------------------------------------------------------

_NEUTRAL = {
    "source": frozenset({"path", "mmap", "max_bytes", "max_row_group_bytes", "page_checksum", "read_rows", "threads"}),
    "sink": frozenset({"path", "durability", "cached", "max_open_partitions"}),
}
"""Options that change where or how fast rows travel, never which bytes come out."""


def fingerprint(config: Mapping[str, Any], mask: Mask = Mask()) -> dict[str, Any]:  # noqa: B008  (knows of nothing)
    """What decides the bytes of the output, as dotted key -> JSON value, from a plain configuration.

    The transform, the options of source and sink that shape rows or files, column selection, conversion and seed;
    SHA-256 of the module behind each `_target_` outside this package and of each file that the transform names (a new
    path to the same weights is the same transform); the version of this package. Checks that take rows out are added
    where they meet the columns (`rules`). Not in it: device, engine, batch, stream, log, restart, and the paths of
    source and sink. Secrets that `mask` knows are in it as slow digests.
    """
    chosen: dict[str, Any] = {
        group: {k: v for k, v in config[group].items() if k not in _NEUTRAL[group]} for group in ("source", "sink")
    }
    chosen |= {key: config[key] for key in ("transform", "columns", "carry")}
    chosen["conversion"] = {k: v for k, v in config["conversion"].items() if k != "memory"}
    chosen["run"] = {"seed": config["run"]["seed"]}
    flat = dict(_flat(chosen, ""))
    flat |= {key: f"sha256:{_file_hash(v)}" for key, v in flat.items() if key.startswith("transform.") and _is_file(v)}
    for name in sorted(set(targets(chosen))):
        if not name.startswith("pipeline."):
            flat[f"code.{name}"] = source_hash(name)
    sealed = {key: seal(key, v) for key, v in flat.items() if v is not None and (is_secret(key) or mask.data(v) != v)}
    return {**flat, **sealed, "version": __version__}


def _flat(value: Any, path: str) -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict) and value:
        for name, inner in value.items():
            yield from _flat(inner, f"{path}.{name}" if path else str(name))
    elif isinstance(value, list) and any(isinstance(item, (dict, list)) for item in value):
        for i, item in enumerate(value):
            yield from _flat(item, f"{path}.{i}")
    else:
        yield path, value


def _is_file(value: Any) -> bool:
    return isinstance(value, str) and "\0" not in value and Path(value).is_file()


def _file_hash(path: str) -> str:
    with Path(path).open("rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest()


# ---- messages --------------------------------------------------------------------------------------------------------


_EXTRAS = {
    "hydra/launcher=joblib": "joblib",
    "hydra/launcher=submitit_local": "submitit",
    "hydra/launcher=submitit_slurm": "submitit",
    "hydra/launcher=ray": "ray-launcher",
    "hydra/sweeper=optuna": "optuna",
}


def listed(what: str, lines: Sequence[str]) -> str:
    """One line as it is; several as a list."""
    return lines[0] if len(lines) == 1 else "\n  - ".join([f"{len(lines)} {what}", *lines])


def quote(key: str, value: str) -> str:
    """An override whose value reaches Hydra as that very string, quoted for the shell too."""
    return shlex.quote(override(key, value))


def explain(e: Exception) -> str:
    """Hydra's and OmegaConf's words for a configuration that does not compose, with the key and the way out."""
    if isinstance(e, OverrideParseException):
        return _explain_override(e)
    text = f"{e}\n{e.__cause__}" if isinstance(e.__cause__, OmegaConfBaseException) else str(e)
    place = re.search(r"^In '(.+?)': \w+ raised while composing", text)
    where = f" (in {place[1]}.yaml)" if place else ""
    option = re.search(r"Could not find '(\S+)/(\S+)'\s+Available options in '.+?':\n((?:\t\S+\n)+)", text)
    if option:
        group, name, known = option[1], option[2], option[3].split()
        if f"{group}={name}" in _EXTRAS:
            extra = _EXTRAS[f"{group}={name}"]
            return f"{group}={name} needs an extra: pip install 'tensor-etl-stage[{extra}]'{where}"
        return (
            f"{group}={name}: there is no such option{suggest(name, known)} ({group} has {', '.join(known)}; your own "
            f"are found by --config-dir){where}"
        )
    if "Config search path:" in text:
        return f"{text.split(chr(10))[0]} Give the folder that holds it with --config-dir"
    if "Config group override must be" in text:
        return f"{text}. {', '.join(GROUPS)} take the name of an option, as in transform=identity"
    unknown = re.search(r"Key '(\w+)' (?:not in '(\w+)'|is not in struct)\s+full_key: (\S+)", text)
    if unknown:
        known, path = _keys(unknown[3]), unknown[3][: -len(unknown[1])]
        hint = suggest(unknown[1], known, path) or (
            f" ({path[:-1] or 'the root'} has {', '.join(known)})" if known else ""
        )
        return f"unknown key '{unknown[3]}'{hint}{where}"
    full_key = re.search(r"full_key: (\S+)", text)
    if full_key and "Cannot merge DictConfig with ListConfig" in text:
        return f"{full_key[1]}: expected a list, as in {full_key[1]}=[{{...}}, ...]{where}"
    if full_key:
        lines = [line for line in text.splitlines() if line and not line.startswith(("Error merging", "In '", "    "))]
        return f"{full_key[1]}: {lines[0] if lines else text}{where}"
    return text


def _keys(full_key: str) -> list[str]:
    """The names that are allowed where `full_key` was given, as far as the schema knows."""
    kind: Any = Conf
    for part in full_key.split(".")[:-1]:
        kind = next((f.default_factory for f in fields(kind) if f.name == part), None) if is_dataclass(kind) else None
    names = [f.name for f in fields(kind)] if is_dataclass(kind) else []
    return [*names, "experiment", "hydra"] if kind is Conf else names


def _explain_override(e: OverrideParseException) -> str:
    key, equals, value = str(e.override).lstrip("+").partition("=")
    reason = str(e).split("\nSee https")[0]
    if not equals:
        return f"{e.override!r} is no override; write key=value, or see --help"
    if value.startswith(("'", '"', "[", "{")):
        return f"cannot read {key}={value}: {reason}. Check its brackets and quotes"
    if value.startswith("~/"):
        return f'cannot read {key}={value}: no shell replaces a ~ there; write {key}="$HOME{value[1:]}"'
    return f"cannot read {key}={value}: {reason}. Quote the value, for Hydra and for the shell: {quote(key, value)}"
