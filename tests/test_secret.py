"""What is named like a secret is neither shown nor kept."""

from __future__ import annotations

import io
import json
from typing import Any

import pytest

from pipeline.secret import HIDDEN, Mask, Masked, is_secret, seal


@pytest.mark.parametrize(
    "key",
    [
        *("password", "source.password", "DB_PASSWORD", "dbPassword", "passwd", "client_secret", "HF_TOKEN"),
        *("api_key", "apiKey", "apikey", "API-KEY", "aws_secret_access_key", "AWSAccessKey", "private_key"),
        *("storage_options.credentials.user", "AZURE_STORAGE_CONNECTION_STRING", "token"),
    ],
)
def test_a_secret_is_known_by_its_key(key: str) -> None:
    """However it is spelled, and whatever is beneath it."""
    assert is_secret(key)


@pytest.mark.parametrize(
    "key", ["", "key", "sort_key", "max_tokens", "tokenizer", "secretary", "path", "sink.partition_by", "password_file"]
)
def test_what_only_looks_like_one_is_not(key: str) -> None:
    """A word at the end decides, so that settings of models stay readable."""
    assert not is_secret(key)


def learned(config: Any, **environment: str) -> Mask:
    mask = Mask()
    mask.learn(config, environment)
    return mask


def test_values_of_secret_keys_are_masked_wherever_they_appear() -> None:
    """In text, in overrides and in data; other settings stay."""
    mask = learned({"source": {"api_token": "hunter22", "path": "in"}, "steps": [{"pwd": 12345}]})
    assert mask.text("cannot read in with hunter22 or 12345") == f"cannot read in with {HIDDEN} or {HIDDEN}"
    assert mask.override("+source.api_token=hunter22") == f"+source.api_token={HIDDEN}"
    data = {"source": {"api_token": "hunter22", "path": "in"}, "note": "uses hunter22", "rows": 3, "none": None}
    assert mask.data(data) == {
        "source": {"api_token": HIDDEN, "path": "in"},
        "note": f"uses {HIDDEN}",
        "rows": 3,
        "none": None,
    }


def test_a_short_secret_is_masked_under_its_key_only() -> None:
    """Else every other word would be masked."""
    mask = learned({"pwd": "a", "deep": {"credentials": {"user": "b", "parts": ["c", None]}}})
    assert mask.text("a b c") == "a b c"
    assert mask.data({"pwd": "a", "credentials": {"user": "b", "parts": ["c", None]}, "x": "a"}) == {
        "pwd": HIDDEN,
        "credentials": {"user": HIDDEN, "parts": [HIDDEN, None]},
        "x": "a",
    }


def test_the_environment_is_asked_for_secret_names_alone() -> None:
    """A value that interpolates one is masked in the middle, whatever the key is."""
    config = {"path": "db://me@${oc.env:DB_PASSWORD}/${oc.env:HOME}", "other": "${oc.env:MISSING_TOKEN,none}"}
    mask = learned(config, DB_PASSWORD="hunter22", HOME="/home/me")
    assert mask.values == {"hunter22"}
    assert mask.text("db://me@hunter22//home/me") == f"db://me@{HIDDEN}//home/me"


def test_passwords_in_addresses_need_no_key() -> None:
    """The user and the host stay."""
    assert Mask().text("cannot open s3://me:hunter22@host/a:b@c") == f"cannot open s3://me:{HIDDEN}@host/a:b@c"
    assert Mask().text("see https://example.org/a and me@host:22") == "see https://example.org/a and me@host:22"


def test_a_secret_is_found_as_json_and_as_python_show_it() -> None:
    """With its quotes, line ends and letters escaped."""
    secret = "pä\"s's\nword"
    mask = learned({"token": secret})
    for shown in (secret, json.dumps(secret), json.dumps(secret, ensure_ascii=False), repr(secret)):
        masked = mask.text(f"it is {shown}")
        assert HIDDEN in masked
        assert "word" not in masked


def test_a_longer_secret_is_masked_before_one_inside_it() -> None:
    """Or its rest would be shown."""
    assert learned({"a_token": "hunt", "b_token": "hunter22"}).text("hunter22 hunt") == f"{HIDDEN} {HIDDEN}"


def test_a_seal_tells_a_change_and_nothing_else() -> None:
    """The same secret has the same seal under its key alone."""
    assert seal("a.token", "x") == seal("a.token", "x")
    assert len({seal("a.token", "x"), seal("a.token", "y"), seal("b.token", "x"), seal("a.token", 1)}) == 4
    assert "hunter22" not in seal("a.token", "hunter22")


def test_a_masked_stream_is_the_stream_otherwise() -> None:
    """Who asks for its encoding or a terminal is answered by it."""
    under = io.StringIO()
    stream: Any = Masked(under, learned({"token": "hunter22"}))
    print("it is hunter22", file=stream, flush=True)
    stream.writelines(["hunter22", "!"])
    assert under.getvalue() == f"it is {HIDDEN}\n{HIDDEN}!"
    assert not stream.isatty()
