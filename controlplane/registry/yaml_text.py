"""YAML text → plain JSON types, strictly: what an operator writes must mean one thing, cheaply.

Built from parser events without recursion: a few kilobytes of brackets crash the C composer of PyYAML, and a few lines of
aliases mean gigabytes. Anchors, tags, merge keys, duplicate keys and non-finite numbers are refused; scalars are those of the
YAML 1.2 core schema (`no` and `on` are strings, dates too) that are numbers to YAML 1.1 as well.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from typing import Protocol

import yaml

from controlplane.registry.plain_value import SURROGATE_SENTENCE, has_lone_surrogate

MAX_DEPTH = 60
MAX_STREAM_VALUES = 200_000
"""Of all documents together: reading one costs five microseconds, and four megabytes of `1,1,1,` would be two million."""

_Loader: type[yaml.SafeLoader] = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_NULL = frozenset({"", "~", "null", "Null", "NULL"})
_BOOL = {"true": True, "True": True, "TRUE": True, "false": False, "False": False, "FALSE": False}
_INT = re.compile(r"[-+]?(0|[1-9][0-9]{0,39})\Z")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+\.[0-9]*)([eE][-+][0-9]+)?\Z")
"""Numbers to every reader of YAML. What is one to some only (`08`, `1e5`) is text, as the commonest writer means it."""
_STRING_TAGS = frozenset({None, "!", "tag:yaml.org,2002:str"})

Container = dict[str, object] | list[object]


class YamlTextError(ValueError):
    """The text is not acceptable; says where and why. `document` counts from 0."""

    def __init__(self, document: int, message: str) -> None:
        super().__init__(message)
        self.document = document


def read_yaml_documents(text: str) -> Iterator[object]:
    """Each document of the stream as plain JSON types; raises `YamlTextError` at the first that is not acceptable."""
    index = values = 0
    try:
        builder = _Builder()
        for event in yaml.parse(text, Loader=_Loader):
            if isinstance(event, yaml.DocumentStartEvent):
                builder = _Builder()
            elif isinstance(event, yaml.DocumentEndEvent):
                yield builder.value
                index += 1
            elif not isinstance(event, yaml.StreamStartEvent | yaml.StreamEndEvent):
                values += 1
                _refuse_too_many(values, event)
                builder.take(event)
    except _RefusedError as error:
        raise YamlTextError(index, f"{_where(error.mark)}{error}") from error
    except yaml.MarkedYAMLError as error:
        raise YamlTextError(index, f"{_where(error.problem_mark)}{error.problem or 'not YAML'}") from error
    except (yaml.YAMLError, UnicodeError) as error:
        raise YamlTextError(index, "not YAML: it holds characters that YAML does not allow") from error


class _Mark(Protocol):
    line: int
    column: int


class _RefusedError(ValueError):
    def __init__(self, message: str, mark: _Mark | None) -> None:
        super().__init__(message)
        self.mark = mark


class _Builder:
    """One document under construction: the open containers, innermost last, and the keys that wait for their value."""

    def __init__(self) -> None:
        self.value: object = None
        self._open: list[Container] = []
        self._keys: list[str | None] = []

    def take(self, event: yaml.Event) -> None:
        """Add what this parser event says."""
        if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None) is not None:
            raise _RefusedError("anchors and aliases are not accepted; write the value twice", event.start_mark)
        if isinstance(event, yaml.CollectionEndEvent):
            self._open.pop()
            self._keys.pop()
        elif isinstance(event, yaml.ScalarEvent):
            self._take_scalar(event)
        elif isinstance(event, yaml.CollectionStartEvent):
            if event.tag not in (None, "!"):
                raise _RefusedError(f"the tag {str(event.tag)[:100]} is not accepted", event.start_mark)
            if len(self._open) >= MAX_DEPTH:
                raise _RefusedError(f"nested deeper than {MAX_DEPTH} levels", event.start_mark)
            container: Container = {} if isinstance(event, yaml.MappingStartEvent) else []
            self._place(container, event)
            self._open.append(container)
            self._keys.append(None)

    def _take_scalar(self, event: yaml.ScalarEvent) -> None:
        if event.tag not in _STRING_TAGS:
            raise _RefusedError(f"the tag {str(event.tag)[:100]} is not accepted", event.start_mark)
        if has_lone_surrogate(event.value):  # PyYAML without its C library lets "\\ud800" pass
            raise _RefusedError(f"a string {SURROGATE_SENTENCE}", event.start_mark)
        plain = event.implicit[0] and event.tag is None
        if self._open and isinstance(self._open[-1], dict) and self._keys[-1] is None:
            self._take_key(event, plain=plain)
            return
        self._place(_plain_scalar(event) if plain else event.value, event)

    def _take_key(self, event: yaml.ScalarEvent, *, plain: bool) -> None:
        key: str = event.value
        if plain and (key == "<<" or not isinstance(_plain_scalar(event), str)):
            raise _RefusedError(f"the key {key[:100]!r} is not a string; quote it", event.start_mark)
        if key in self._open[-1]:
            raise _RefusedError(f"the key {key[:100]!r} is given twice", event.start_mark)
        self._keys[-1] = key

    def _place(self, value: object, event: yaml.Event) -> None:
        if not self._open:
            self.value = value
            return
        container = self._open[-1]
        if isinstance(container, list):
            container.append(value)
            return
        key = self._keys[-1]
        if key is None:
            raise _RefusedError("a key must be a string", event.start_mark)
        container[key] = value
        self._keys[-1] = None


def _plain_scalar(event: yaml.ScalarEvent) -> object:
    text: str = event.value
    if text in _NULL:
        return None
    if text in _BOOL:
        return _BOOL[text]
    if _INT.match(text):
        return int(text)
    if _FLOAT.match(text):
        number = float(text)
        if not math.isfinite(number):
            raise _RefusedError("a number is out of range", event.start_mark)
        return number
    return text


def _refuse_too_many(values: int, event: yaml.Event) -> None:
    if values > MAX_STREAM_VALUES:
        raise _RefusedError(f"more than {MAX_STREAM_VALUES} values; apply the documents in parts", event.start_mark)


def _where(mark: _Mark | None) -> str:
    return "" if mark is None else f"line {mark.line + 1}, column {mark.column + 1}: "
