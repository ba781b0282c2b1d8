"""How every process reads its settings: once, from `LEGATION_*` variables, into small frozen dataclasses.

A field says its variable and its meaning in `metadata`; docs/settings.md is checked against them. A variable that nobody
knows, or a value that does not fit, stops the process and names itself: a misspelt security setting must not pass silently.
"""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from extauthz.errors import ConfigurationError

PREFIX = "LEGATION_"
T = TypeVar("T")


def setting(env: str, help_text: str, **options: Any) -> Any:  # noqa: ANN401 - the type of dataclasses.field itself
    """A dataclass field that is read from `env`. `options` are those of `dataclasses.field` (usually `default`)."""
    return dataclasses.field(metadata={"env": env, "help": help_text}, **options)


def read_settings(cls: type[T], environ: Mapping[str, str]) -> T:
    """Build `cls` from the environment; raises `ConfigurationError` naming the variable that is missing or malformed."""
    hints = typing.get_type_hints(cls)
    values: dict[str, Any] = {}
    for field in dataclasses.fields(cls):  # type: ignore[arg-type]
        env = field.metadata["env"]
        text = environ.get(env)
        if text is None or text == "":
            if field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
                raise ConfigurationError(f"{env} is not set: {field.metadata['help']}")
            continue
        values[field.name] = _parse(env, text, hints[field.name])
    return cls(**values)


def refuse_unknown(environ: Mapping[str, str], known: frozenset[str]) -> None:
    """Raise `ConfigurationError` for the first `LEGATION_*` variable that no setting of this product reads."""
    for name in sorted(environ):
        if name.startswith(PREFIX) and name not in known:
            raise ConfigurationError(f"{name} is not a setting of Legation; docs/settings.md lists them. Unset it or correct its name")


def variables_of(*classes: type[Any]) -> frozenset[str]:
    """The variables that these settings dataclasses read."""
    return frozenset(field.metadata["env"] for cls in classes for field in dataclasses.fields(cls))


def _parse(env: str, text: str, hint: Any) -> Any:  # noqa: ANN401 - a type at run time
    if isinstance(hint, types.UnionType):
        hint = next(part for part in typing.get_args(hint) if part is not type(None))
    try:
        if hint is bool:
            return {"true": True, "1": True, "false": False, "0": False}[text.lower()]
        if hint in (int, float):
            return hint(text)
        if hint is Path:
            return Path(text)
        if typing.get_origin(hint) is tuple:
            return tuple(part.strip() for part in text.split(",") if part.strip())
    except (KeyError, ValueError) as error:
        wanted = "true or false" if hint is bool else f"a {hint.__name__}"
        raise ConfigurationError(f"{env} must be {wanted}, got {text!r}") from error
    return text
