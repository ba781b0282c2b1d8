"""Messages of one type as values, decoded again only where their bytes are others than before: a change costs what changed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Generic, TypeVar

T = TypeVar("T")


class Decoded(Generic[T]):
    """Values of one type by resource name; decodes again only what has other bytes than last time."""

    def __init__(self, decode: Callable[[bytes], T]) -> None:
        self._decode = decode
        self._bytes: Mapping[str, bytes] = {}
        self.values: dict[str, T] = {}
        self.changed: list[str] = []  # names that are new, other, or gone, compared with the value this one was made from

    def updated(self, resources: Mapping[str, bytes]) -> Decoded[T]:
        """A value for `resources`, this one when nothing differs; it is left as it was, in case the revision is refused."""
        if resources == self._bytes:
            return self
        result = Decoded(self._decode)
        result._bytes = resources
        for name, payload in resources.items():
            known = self._bytes.get(name)
            same = known is payload or known == payload
            result.values[name] = self.values[name] if same else self._decode(payload)
            if not same:
                result.changed.append(name)
        result.changed += [name for name in self._bytes if name not in resources]
        return result
