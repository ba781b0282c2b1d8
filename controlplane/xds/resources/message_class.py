"""How envoy-data-plane is imported at a start: its classes are plain dataclasses, and each is completed when it is first used.

The package is generated with pydantic's dataclasses. Importing what we use of it then prepares five hundred classes, of which a
deployment makes a tenth, and the first listener compiles the validators of all that could ever stand in one: two seconds of CPU
before Envoy hears anything. Plain dataclasses are what betterproto2 generates by default, and give the same bytes. What pydantic
checked is checked elsewhere: field names by the constructor, types by mypy, that one field of a `oneof` is set by `typed.serialise`,
and all of it together by the tests, which build every resource with pydantic's classes and compare.
"""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any as Untyped

import pydantic.dataclasses

_GENERATED = "envoy_data_plane."
_FIELDS = "__dataclass_fields__"
_importing = threading.Lock()
_completing = threading.RLock()


@contextmanager
def plain_message_classes() -> Iterator[None]:
    """Around the first import of envoy-data-plane. Classes of any other package get what they ask for."""
    module: Untyped = pydantic.dataclasses
    with _importing:
        original = module.dataclass
        module.dataclass = _decorator(original)
        try:
            yield
        finally:
            module.dataclass = original


def _decorator(original: Untyped) -> Untyped:  # noqa: ANN401 - takes the place of an overloaded function
    def dataclass(*positional: Untyped, **options: Untyped) -> Untyped:  # noqa: ANN401 - the same
        if positional:  # without brackets: nothing that was generated is written so
            return original(*positional, **options)

        def decorate(cls: type) -> type:
            if not cls.__module__.startswith(_GENERATED):
                decorated: type = original(**options)(cls)
                return decorated
            return _completed_later(cls, {name: value for name, value in options.items() if name != "config"})

        return decorate

    return dataclass


class _FieldsOnDemand:
    """Stands for a class's fields until somebody asks for them."""

    def __init__(self, complete: Callable[[], None]) -> None:
        self.complete = complete

    def __get__(self, _instance: object, cls: type) -> Untyped:  # noqa: ANN401 - dataclasses' own table
        self.complete()
        return cls.__dict__[_FIELDS]


def _completed_later(cls: Untyped, options: dict[str, Untyped]) -> type:  # noqa: ANN401 - attributes of a class are set
    """The class, made a dataclass by its first instance or by the first look at its fields, in whatever thread that is."""

    whole = False  # the table of fields is there before the constructor is: it says nothing to another thread

    def complete() -> None:
        nonlocal whole
        with _completing:
            if not whole:
                dataclasses.dataclass(**options)(cls)
                whole = True

    def new(kind: Untyped, /, *_: Untyped, **__: Untyped) -> Untyped:  # noqa: ANN401 - `__new__` of any class
        if not whole:
            complete()
        return object.__new__(kind)

    setattr(cls, _FIELDS, _FieldsOnDemand(complete))
    cls.__new__ = new
    return cls  # type: ignore[no-any-return]
