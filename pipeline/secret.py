"""Secrets: which settings are, and text without them.

Masked are values under a key of the list below, what `${oc.env:NAME}` takes from a variable of such a name, and
passwords in addresses (``scheme://user:password@host``). A value that is masked without need is missing from a message,
and from nothing else.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

HIDDEN = "***"

LAST = frozenset({
    *("password", "passwd", "passphrase", "pwd", "secret", "secrets", "token", "credential", "credentials"),
    *("authorization", "apikey"),
})  # fmt: skip
"""Last words of keys that hold secrets: ``api_token``, ``DB_PASSWORD``, ``clientSecret``; not ``max_tokens``."""

LAST_TWO = frozenset({
    *("access key", "account key", "api key", "encryption key", "private key", "secret key", "shared key"),
    *("signing key", "storage key", "connection string", "sas url"),
})  # fmt: skip
"""Last two words: ``aws_secret_access_key``, ``apiKey``; not ``key``, ``sort_key``."""

_LEAST = 4
"""Shorter values are masked under their key and not in running text, where they would be found in every other word."""

_WORD = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+")
_USERINFO = re.compile(r"(?<=://)([^\s/:@'\"]*):([^\s/@'\"]+)(?=@)")
_FROM_ENVIRONMENT = re.compile(r"\$\{\s*oc\.env\s*:\s*['\"]?(\w+)")


def is_secret(key: str) -> bool:
    """Whether a dotted key, or any part of it, is named like a secret."""
    return any(_named(part) for part in key.split("."))


def _named(part: str) -> bool:
    words = [word.lower() for word in _WORD.findall(part)]
    return words[-1:] != [] and (words[-1] in LAST or " ".join(words[-2:]) in LAST_TWO)


def seal(key: str, value: object) -> str:
    """A digest that tells whether a secret changed. Slow on purpose, so that short ones are not guessed from it."""
    made = hashlib.scrypt(repr(value).encode(), salt=key.encode(), n=1 << 14, r=8, p=1, dklen=16)
    return f"scrypt:{made.hex()}"


@dataclass(frozen=True)
class Mask:
    """Takes the secrets that it has been told of out of text and data; it only ever learns."""

    values: set[str] = field(default_factory=set)

    def learn(self, config: Any, environment: Mapping[str, str]) -> None:
        """The secrets of a plain configuration, interpolations resolved or not."""
        for found in _secrets(config, environment):
            self._add(found)

    def learn_override(self, text: str) -> None:
        """The secret of a ``key=value``, if it is one."""
        key, equals, value = text.lstrip("+").partition("=")
        if equals and is_secret(key):
            self._add(value.strip("'\""))

    def _add(self, value: str) -> None:
        """Learn a value, also as it stands in JSON or in Python's quotes."""
        if len(value) >= _LEAST:
            quoted = json.dumps(value), json.dumps(value, ensure_ascii=False), repr(value)
            self.values.update([value, *(each[1:-1] for each in quoted)])

    def text(self, text: str) -> str:
        """The text without secrets."""
        for value in sorted(self.values, key=len, reverse=True):
            text = text.replace(value, HIDDEN)
        return _USERINFO.sub(rf"\1:{HIDDEN}", text)

    def override(self, text: str) -> str:
        """A ``key=value`` without a secret."""
        key, equals, _ = text.partition("=")
        return f"{key}={HIDDEN}" if equals and is_secret(key.lstrip("'\"+")) else self.text(text)

    def data(self, value: Any) -> Any:
        """Plain data without secrets."""
        if isinstance(value, Mapping):
            return {k: _hidden(v) if is_secret(str(k)) else self.data(v) for k, v in value.items()}
        if isinstance(value, (list, tuple)):
            return [self.data(item) for item in value]
        return self.text(value) if isinstance(value, str) else value


def _hidden(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {k: _hidden(v) for k, v in value.items()}
    if isinstance(value, list):
        return [_hidden(item) for item in value]
    return None if value is None else HIDDEN


def _secrets(value: Any, environment: Mapping[str, str], *, inside: bool = False) -> Iterator[str]:
    """Every value beneath a key that is named so, and of every variable that is."""
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _secrets(inner, environment, inside=inside or is_secret(str(key)))
    elif isinstance(value, list):
        for item in value:
            yield from _secrets(item, environment, inside=inside)
    elif isinstance(value, str):
        yield from (environment[name] for name in _FROM_ENVIRONMENT.findall(value) if _taken(name, environment))
        if inside and "${" not in value:
            yield value
    elif inside and value is not None:
        yield str(value)


def _taken(name: str, environment: Mapping[str, str]) -> bool:
    return is_secret(name) and name in environment


class Masked:
    """A stream of text that lets no secret through. All else is the stream's."""

    def __init__(self, stream: Any, mask: Mask) -> None:
        self._stream = stream
        self._mask = mask

    def write(self, text: str) -> int:
        """Write the text without secrets."""
        self._stream.write(self._mask.text(text))
        return len(text)

    def writelines(self, lines: Any) -> None:
        """Write each."""
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)
