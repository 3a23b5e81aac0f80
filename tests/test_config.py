"""The YAML composes, its mistakes are named, and what leaves is objects and plain data."""

from __future__ import annotations

import dataclasses
import datetime as dt
import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from hydra import compose, initialize_config_dir
from hydra.core.hydra_config import HydraConfig
from hydra.errors import ConfigCompositionException, OverrideParseException
from omegaconf import DictConfig, OmegaConf

from pipeline import config
from pipeline.day import today
from pipeline.errors import ConfigError

CONF = Path(config.conf_dir())
OPTIONS = [(group, p.stem) for group in config.GROUPS for p in sorted((CONF / group).glob("*.yaml"))]
NEEDS = {
    ("transform", "module"): ["+transform.module={_target_: torch.nn.Identity}"],
    ("transform", "cast"): ["transform.dtype=float32"],
    ("transform", "compiled"): ["+transform.step={_target_: torch.nn.Identity}"],
    ("transform", "clip"): ["transform.min=0"],
}
"""Values for keys that an option leaves to its user."""


@pytest.fixture(autouse=True)
def front() -> Iterator[None]:
    """Hydra, initialised on our folder."""
    with initialize_config_dir(str(CONF), version_base="1.3"):
        yield


def composed(*overrides: str) -> DictConfig:
    return compose("config", list(overrides))


def complaint(*overrides: str) -> str:
    """What `build` says about a configuration in which only these overrides are wrong."""
    with pytest.raises(ConfigError) as error:
        config.build(composed("source.path=x", *overrides))
    return str(error.value)


# ---- the files -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("group", "option"), OPTIONS)
def test_every_option_becomes_an_object(group: str, option: str) -> None:
    """Each YAML of a group composes, and its object survives a pickle before anything is opened."""
    overrides = [f"{group}={option}", *NEEDS.get((group, option), [])]
    objects, plain = config.build(composed(*overrides, "source.path=x"))
    assert plain[group]["_target_"].split(".")[-1] in repr(objects[group]) or group == "transform"
    pickle.loads(pickle.dumps(objects[group]))


def test_a_layer_without_weights_is_the_same_in_each_run() -> None:
    """A run that goes on after a kill must not draw others. Whoever calls keeps the random numbers of his own."""
    layer = (
        "source.path=x",
        "transform=module",
        "+transform.module={_target_: torch.nn.Linear, in_features: 4, out_features: 4}",
    )
    before = torch.get_rng_state()

    def weight(*overrides: str) -> Any:
        torch.rand(3)
        return config.build(composed(*layer, *overrides))[0]["transform"].module.weight

    made = [weight(), weight(), weight("run.seed=1"), weight(f"run.seed={2**63 + 1}")]
    assert torch.equal(made[0], made[1])
    assert not torch.equal(made[0], made[2])
    assert torch.equal(made[2], made[3])
    torch.set_rng_state(before)
    expected = torch.rand(3)
    torch.set_rng_state(before)
    config.build(composed(*layer))
    assert torch.equal(torch.rand(3), expected)


def test_what_is_compiled_has_a_key_of_its_own() -> None:
    """Its digits may differ; the threads that call it and the size of batches are in no key."""
    module = ("source.path=x", "transform=module", "+transform.module={_target_: torch.nn.Identity}")

    def key(*overrides: str) -> dict[str, Any]:
        return config.fingerprint(config.build(composed(*module, *overrides))[1])

    assert key() == key("stream.computers=2", "batch=auto")
    assert key().items() ^ key("transform.compile=true").items() == {
        ("transform.compile", False),
        ("transform.compile", True),
    }


def test_the_size_of_batches_is_a_number_or_auto() -> None:
    """By its key or by its preset; anything else is refused with both ways."""
    for override in ("batch=auto", "batch.bytes=auto"):
        assert config.build(composed("source.path=x", override))[1]["batch"] == {"rows": None, "bytes": "auto"}
    assert config.build(composed("source.path=x", "batch.bytes=7"))[1]["batch"]["bytes"] == 7
    for value in ("some", "1.5", "true", "null"):
        assert "batch.bytes: expected a number of bytes, or auto; got " in complaint(f"batch.bytes={value}")
    assert complaint("batch.bytes=0") == "batch.bytes must be at least 1; got 0"


@pytest.mark.parametrize("preset", sorted(p.stem for p in (CONF / "experiment").glob("*.yaml")))
def test_every_preset_builds(preset: str) -> None:
    """Each preset is a working configuration by itself."""
    if preset == "tune":
        pytest.importorskip("hydra_plugins.hydra_optuna_sweeper", reason="needs the extra optuna")
    objects, _ = config.build(composed("source.path=x", f"experiment={preset}"))
    assert set(objects) == set(config.GROUPS)


def test_the_table_of_contents_is_complete() -> None:
    """config.yaml shows every key of the schema with the schema's default, but for the groups and `device`."""
    shown = yaml.safe_load((CONF / "config.yaml").read_text())
    typed: Any = OmegaConf.to_container(OmegaConf.structured(config.Conf), enum_to_str=True)
    hidden = {"device", *config.GROUPS}
    assert {key: shown[key] for key in shown if key not in ("defaults", "hydra")} == {
        key: value for key, value in typed.items() if key not in hidden
    }


@pytest.mark.parametrize(("group", "option"), OPTIONS)
def test_every_argument_is_listed(group: str, option: str) -> None:
    """A YAML of ours names every argument of its class, so that reading it is enough."""
    from pipeline.target import locate

    shown = yaml.safe_load((CONF / group / f"{option}.yaml").read_text())
    target = locate(shown["_target_"])
    if dataclasses.is_dataclass(target):
        assert {f.name for f in dataclasses.fields(target) if f.init} <= set(shown)


# ---- device ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("override", "device"),
    [
        (None, None),
        ("+device=cuda", "cuda"),
        ("device=cuda", "cuda"),
        ("++device=cuda", "cuda"),
        ("+device=cuda:1", "cuda:1"),
    ],
)
def test_device_is_given_in_any_spelling(override: str | None, device: str | None) -> None:
    """Hydra lets + append over the null of the typed schema; this pins that behaviour."""
    assert composed(*([override] if override else [])).device == device


def test_plus_does_not_append_over_a_value() -> None:
    """Why `device` must be null, and why `__main__` spells + as ++ when a preset has set it."""
    with pytest.raises(ConfigCompositionException, match="already at"):
        composed("device=cpu", "+device=cuda")
    assert composed("device=cpu", "++device=cuda").device == "cuda"


# ---- date ------------------------------------------------------------------------------------------------------------


def resolved(*overrides: str) -> str:
    """`source.path` after resolution."""
    _, plain = config.build(composed(*overrides, "transform=identity"))
    return str(plain["source"]["path"])


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("/data/dt=${date}", "/data/dt=2026-03-01"),
        ("/data/dt=${date_add:${date},-1}", "/data/dt=2026-02-28"),
        ("/data/year=${date_format:${date},%Y}/month=${date_format:${date},%m}", "/data/year=2026/month=03"),
        ("/data/${date_format:${date},%Y/%m/%d}", "/data/2026/03/01"),
        ("/data/${date_format:${date_add:${date},31},%Y%m}", "/data/202604"),
    ],
)
def test_paths_hang_on_the_date(path: str, expected: str) -> None:
    """A partition of that day, of another, or in other letters."""
    assert resolved("date=2026-03-01", f'source.path="{path}"') == expected


def test_the_clock_says_today() -> None:
    """Today, yesterday and days ago by the local clock, which is at most a day from that of UTC."""
    now = dt.date.fromisoformat(today())
    assert abs(dt.datetime.now(dt.UTC).date() - now) <= dt.timedelta(days=1)
    for given, days in (("${today:}", 0), ("${yesterday:}", 1), ("${days_ago:40}", 40)):
        assert resolved(f"date={given}", "source.path=${date}") == str(now - dt.timedelta(days=days))


# ---- mistakes --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("+devcie=cuda", "unknown key 'devcie' - did you mean 'device'?"),
        ("+batch.rowz=3", "unknown key 'batch.rowz' - did you mean 'batch.rows'?"),
        ("+source.pth=3", "unknown key 'source.pth' - did you mean 'source.path'?"),
        ("++sorce.path=3", "unknown key 'sorce' - did you mean 'source'?"),
        ("source.path=${oc.env:NOT_SET_HERE}", "source.path: environment variable 'NOT_SET_HERE' is not set"),
        ("source.path=${nowhere}", "source.path: its interpolation cannot be resolved"),
        ("source.path=???", "no value given for 'source.path'"),
        ("source.path=3", "source.path: expected"),
        ("transform._target_=mytransforms.f", "transform._target_: no module named 'mytransforms'"),
        ("transform._target_=pipeline.errors.f", "transform._target_: module 'pipeline.errors' has no attribute 'f'"),
        ("~transform._target_", "no value given for 'transform._target_'"),
        ("columns=a", "columns: expected null, a list as in columns=[a,b]"),
        ("columns={x: a}", "columns: expected null"),
        ("carry=al", "carry: expected all, none or a list"),
        ("conversion.cast=never", "conversion.cast must be one of no, equiv, safe, same_kind, unsafe; got 'never'"),
        ("+conversion.nulz=x", "unknown key 'conversion.nulz' - did you mean 'conversion.nulls'?"),
        ("batch.rows=0", "batch.rows must be at least 1; got 0"),
        ("sink.path=out.npy", "sink.path='out.npy' ends in .npy, and this sink writes .parquet files; give sink=npy"),
        ("stream.depth=-1", "stream.depth must be at least 0; got -1"),
        ("date=20260131", "date: expected a day as in date=2026-01-31; got '20260131'"),
        ("date=2026-02-30", "date: expected a day"),
        ("date=${days_ago:few}", "date: its interpolation cannot be resolved"),
        (
            "sink.path=${days_ago:2}",
            "sink.path: only date reads the clock; give 'date=${days_ago:2}' and write ${date}",
        ),
        ("columns=[a,'${today:}']", "columns: only date reads the clock"),
        ("+checks.inputs=[]", "unknown key 'checks.inputs' - did you mean 'checks.input'?"),
        ("checks.input=[{colum: x, nan: 0}]", "checks.input[0]: unknown key 'colum' - did you mean 'column'?"),
        ("checks.output=[{column: x, nan: 0, action: quarantin}]", "checks.output[0].action must be one of fail, warn"),
        ("checks.input=x", "checks.input: expected a list"),
        ("engine._target_=pipeline.errors.PipelineError", "engine._target_: pipeline.errors.PipelineError makes a "),
        ("checks.unique_rows=0", "checks.unique_rows must be at least 1; got 0"),
    ],
)
def test_a_mistake_is_named(override: str, words: str) -> None:
    """Each mistake gives one line that starts with the key or names it."""
    assert complaint(override).startswith(words)


def test_all_mistakes_are_listed() -> None:
    """Typos of the root, of a section, of an option, and a missing value come in one message."""
    text = complaint("+devcie=cuda", "+batch.rowz=3", "+sink.pth=3", "source.path=???")
    assert text.startswith("4 problems\n  - ")


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("batch.rows=big", "batch.rows: Value 'big' of type 'str' could not be converted to Integer"),
        ("action=pln", "action: Invalid value 'pln', expected one of [run, plan, verify, audit]"),
        ("colums=[a]", "unknown key 'colums' - did you mean 'columns'?"),
        ("batch.rowz=3", "unknown key 'batch.rowz' - did you mean 'batch.rows'?"),
        (
            "source=parqet",
            "source=parqet: there is no such option - did you mean 'parquet'? (source has npy, npz, parquet",
        ),
        (
            "experiment=x",
            "experiment=x: there is no such option (experiment has batches, debug, devices, low_memory, tune",
        ),
        ("checks.input={column: x}", "checks.input: expected a list, as in checks.input=[{...}, ...]"),
        ("foo=1", "unknown key 'foo' (the root has source, transform, sink"),
    ],
)
def test_what_does_not_compose_is_explained(override: str, words: str) -> None:
    """Hydra's refusals lead to the key that was meant, never to appending a misspelt one."""
    with pytest.raises(ConfigCompositionException) as error:
        composed(override)
    text = config.explain(error.value)
    assert words in text
    assert "use +" not in text
    assert "\n" not in text


@pytest.mark.parametrize("value", ["/d/dt=2026-01-01/x.npy", "/d/my file (1).npy", "/d/a,b=c\"d'e.npy", "/d/x=y\\"])
def test_quoting_gets_any_path_through(value: str) -> None:
    """The override that a message proposes reaches the configuration as that very string."""
    import shlex

    (override,) = shlex.split(config.quote("source.path", value))
    assert composed(override).source.path == value


def test_a_path_with_an_equals_sign_is_shown_quoted() -> None:
    """Hive paths are common, and Hydra's own message does not say how to give them."""
    with pytest.raises(OverrideParseException) as error:
        composed("source.path=/d/dt=2026-01-01/x.npy")
    assert "'source.path=\"/d/dt=2026-01-01/x.npy\"'" in config.explain(error.value)


# ---- places ----------------------------------------------------------------------------------------------------------


def test_data_names_a_file_of_the_package() -> None:
    """`${data:...}` works from any directory."""
    assert Path(config.data_file("digits.npy")).is_file()


def test_out_is_a_folder_for_each_job_of_a_sweep() -> None:
    """A single run writes to `out`; a job of a sweep beside it, in a folder that only its overrides decide."""
    assert config.out_folder() == "out"
    cfg = compose("config", ["transform=identity", "hydra.mode=MULTIRUN"], return_hydra_config=True)
    before = HydraConfig.instance().cfg
    HydraConfig.instance().set_config(cfg)
    try:
        assert config.out_folder() == "multirun/transform-identity"
    finally:
        HydraConfig.instance().cfg = before


def test_a_folder_of_a_job_does_not_name_its_secret() -> None:
    """But tells it from another."""
    names = [config.job_folder([f"transform.password={word}", "a=1"]) for word in ("hunter22", "hunter23", "hunter22")]
    assert names[0] == names[2] != names[1]
    assert not any("hunter" in name for name in names)


def test_job_folders_are_stable_and_distinct() -> None:
    """Order and `+` do not matter; names stay short, flat, free of `=`, and differ where overrides do."""
    assert config.job_folder(["++device=cpu", "a=1"]) == config.job_folder(["a=1", "+device=cpu"]) == "a-1,device-cpu"
    long = [config.job_folder([f"source.path=/data/{'x' * 200}/{i}"]) for i in range(2)]
    assert len({*long, config.job_folder(["a=b/c"]), config.job_folder(["a=b c"])}) == 4
    assert all(len(name) < 100 and "/" not in name and "=" not in name for name in long)
    assert config.job_folder(["a=../.."]).startswith("a-")


# ---- identity --------------------------------------------------------------------------------------------------------


def identity(*overrides: str) -> dict[str, Any]:
    return config.fingerprint(config.build(composed("source.path=x", *overrides))[1])


@pytest.mark.parametrize(
    "override",
    ["device=cpu", "batch.rows=7", "stream.depth=0", "run.restart=true", "log.every=1", "source.path=y", "sink.path=y"],
)
def test_what_does_not_touch_the_bytes_is_no_identity(override: str) -> None:
    """A resumed run may use another device, batch, or place."""
    assert identity(override) == identity()


@pytest.mark.parametrize(
    "override", ["columns=[a]", "carry=none", "conversion.nulls=fill", "run.seed=1", "transform=identity", "sink=npy"]
)
def test_what_touches_the_bytes_is_identity(override: str) -> None:
    """Parts of two configurations are never mixed."""
    assert identity(override) != identity()


def test_the_weights_count_by_content(tmp_path: Path) -> None:
    """A file that the transform names is part of its identity, wherever it lies."""
    plain = config.build(composed("source.path=x"))[1]
    prints = []
    for name, value in (("a", 1), ("b", 1), ("c", 2)):
        np.save(tmp_path / f"{name}.npy", np.array([value]))
        transform = {"_target_": "torch.nn.Identity", "weights": str(tmp_path / f"{name}.npy")}
        prints.append(config.fingerprint({**plain, "transform": transform}))
    assert prints[0] == prints[1] != prints[2]
    assert "code.torch.nn.Identity" in prints[0]
