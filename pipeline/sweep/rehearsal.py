"""A sweep is composed as a whole before its first job starts: what is wrong between jobs is found before any work."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import product
from pathlib import Path
from typing import Any

from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

from pipeline import config
from pipeline.errors import ConfigError
from pipeline.secret import Mask


class Rehearsal(Callback):
    """Hydra calls it when it begins a sweep. Sweepers that choose jobs as they go are not rehearsed."""

    def on_multirun_start(self, config: DictConfig, **_: Any) -> None:
        """Check all jobs.

        Raises:
            SystemExit: two jobs have one output, or a job is outside the fence; its code is the error. Hydra takes
                any other exception of a callback for a warning.
        """
        try:
            check_secrets(config)
            if config.hydra.sweeper._target_.endswith(".BasicSweeper"):
                rehearse(config)
        except ConfigError as e:
            raise SystemExit(e) from e
        except (HydraException, OmegaConfBaseException):
            return  # a job that does not compose: the sweeper meets it next, and says so


def check_secrets(master: DictConfig) -> None:
    """Refuse to be told a secret: Hydra writes what a sweep is told into multirun.yaml.

    Raises:
        ConfigError: an override has a secret in it, not the name of a variable that has.
    """
    given: Any = OmegaConf.to_container(master.hydra.overrides.task, resolve=False)
    for each in given:
        key, _, value = str(each).lstrip("+~").partition("=")
        if "${" not in value and Mask().override(f"{key}={value}") != f"{key}={value}":
            name = re.sub(r"\W", "_", key.rpartition(".")[2]).upper()
            record = Path(master.hydra.sweep.dir, "multirun.yaml")
            raise ConfigError(
                f"{key}: a sweep keeps its overrides in {record}, so it is not told secrets. Put it into an "
                f"environment variable: '{key}=${{oc.env:{name}}}'; to sweep several, name one "
                "variable for each"
            )


def rehearse(master: DictConfig) -> None:
    """Compose every job and check it.

    Raises:
        ConfigError: two jobs have one output, or a job is outside the fence.
    """
    fence, loader = config.fenced(), GlobalHydra.instance().config_loader()
    choices = _choices(master)
    if fence is None and apart(master, [key.lstrip("+") for key, values in choices.items() if len(values) > 1]):
        return
    outputs: dict[str, list[str]] = {}
    for number, overrides in enumerate(map(list, product(*choices.values()))):
        cfg = loader.load_sweep_config(master, overrides)
        with open_dict(cfg):
            cfg.hydra.job.id = cfg.hydra.job.num = number
        problems = list(fence.refuse_hydra(cfg)) if fence else []
        if problems:
            raise ConfigError(config.listed("problems", problems))
        path = _output(cfg)
        other = outputs.setdefault(path, overrides) if path else overrides
        if other != overrides:
            raise ConfigError(_collision(path, other, overrides))


def apart(master: DictConfig, swept: Sequence[str]) -> bool:
    """Whether each job surely writes to a folder named after it: composing a thousand jobs takes more than a minute.

    So it is if the sink leaves its path open and only values are swept, not groups, which may bring another path.
    """
    sink: Any = OmegaConf.to_container(master, resolve=False).get("sink")  # type: ignore[union-attr]
    values = all(key == "device" or ("." in key and not set("@/") & set(key)) for key in swept)
    kept = not any(key.startswith("sink.") for key in swept)
    return values and kept and isinstance(sink, dict) and sink.get("path") == "${out:}"


def _choices(master: DictConfig) -> dict[str, Sequence[str]]:
    """The overrides of all jobs by key, in the order in which Hydra's own sweeper combines them."""
    given: Any = OmegaConf.to_container(master.hydra.overrides.task, resolve=False)
    fixed = [f"{key}={value}" for key, value in (master.hydra.sweeper.params or {}).items()]
    parser = OverridesParser.create(config_loader=GlobalHydra.instance().config_loader())
    choices: dict[str, Sequence[str]] = {}
    for each in parser.parse_overrides([*fixed, *given]):
        key = each.get_key_element()
        swept = each.is_sweep_override()
        values = list(each.sweep_string_iterator()) if swept else [each.get_value_element_as_str()]
        choices[key] = [f"{key}={value}" for value in values]
    return choices


def _output(cfg: DictConfig) -> str:
    """Where a job will write; "" if that is nowhere, or is known only when it runs."""
    if cfg.get("action") is not config.Action.run or cfg.hydra.job.chdir:
        return ""
    with _current(cfg):
        try:
            path = OmegaConf.select(cfg, "sink.path")
        except OmegaConfBaseException:
            return ""  # the job says what is wrong with it
    return os.path.abspath(path) if isinstance(path, str) and path else ""  # noqa: PTH100


@contextmanager
def _current(cfg: DictConfig) -> Iterator[None]:
    """Let `${hydra:...}` and `${out:}` mean this job."""
    before = HydraConfig.instance().cfg
    HydraConfig.instance().set_config(cfg)
    try:
        yield
    finally:
        HydraConfig.instance().cfg = before


def _collision(path: str, first: Sequence[str], second: Sequence[str]) -> str:
    told = [" ".join(each for each in job if not each.lstrip("+").startswith("hydra.")) for job in (first, second)]
    return (
        f"two jobs of this sweep have the same output {path!r}: '{told[0]}' and '{told[1]}'. Leave sink.path alone, "
        "and each job has a folder of its own below multirun/, or put what tells them apart into it: "
        "'sink.path=out/${hydra:job.override_dirname}'"
    )
