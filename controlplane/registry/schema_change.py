"""Whether a JSON Schema takes more or less than it did, decided keyword by keyword and never in favour of the change. Pure.

What is not understood here, or could mean both, is wider. Called by `definition_change` for arguments and for results.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from controlplane.registry.difference import ChangeClass, Difference, joined, same_json
from controlplane.registry.wording import text_difference

_ABSENT: Any = object()
_ALL_TYPES = frozenset({"array", "boolean", "integer", "null", "number", "object", "string"})
_TEXT = frozenset({"$comment", "$schema", "deprecated", "description", "examples", "title"})
_LOWER_BOUNDS = frozenset({"exclusiveMinimum", "minContains", "minItems", "minLength", "minProperties", "minimum"})
_UPPER_BOUNDS = frozenset({"exclusiveMaximum", "maxContains", "maxItems", "maxLength", "maxProperties", "maximum"})
_CONSTRAINTS = frozenset({"contentEncoding", "contentMediaType", "format", "multipleOf", "pattern"})
_ELEMENTS = frozenset({"additionalItems", "additionalProperties", "items", "unevaluatedItems", "unevaluatedProperties"})
_DEFINITIONS = frozenset({"$defs", "definitions"})


def schema_differences(before: object, after: object, path: str) -> list[Difference]:
    """Everything in which `after` differs; narrowing and widening are about the values that are taken."""
    found: list[Difference] = []
    _compare(before, after, path, found)
    return found


def _compare(before: object, after: object, path: str, found: list[Difference]) -> None:
    if same_json(before, after):
        return
    old, new = _as_schema(before), _as_schema(after)
    if after is False:
        found.append(_narrower(path, "takes nothing any more", before, after))
        return
    if old is None or new is None:
        found.append(_wider(path, "is not a schema that can be compared", before, after))
        return
    _compare_values(old, new, path, found)
    for keyword in sorted((old.keys() | new.keys()) - {"enum", "const"}):
        then, now = old.get(keyword, _ABSENT), new.get(keyword, _ABSENT)
        if then is not _ABSENT and now is not _ABSENT and same_json(then, now):
            continue
        _compare_keyword(keyword, then, now, path, found)


def _as_schema(schema: object) -> Mapping[str, Any] | None:
    if isinstance(schema, bool):
        return {} if schema else {"not": {}}
    return schema if isinstance(schema, Mapping) else None


def _compare_keyword(keyword: str, then: Any, now: Any, path: str, found: list[Difference]) -> None:  # noqa: ANN401 - JSON
    if keyword in _TEXT:
        found.append(text_difference(joined(path, keyword), _known(then), _known(now)))
    elif keyword in _LOWER_BOUNDS or keyword in _UPPER_BOUNDS:
        found.append(_bound(keyword, then, now, path))
    elif keyword in _CONSTRAINTS:
        found.append(_constraint(keyword, then, now, path))
    elif keyword in _ELEMENTS:
        _compare(True if then is _ABSENT else then, True if now is _ABSENT else now, joined(path, keyword), found)
    elif keyword in _DEFINITIONS:
        _compare_definitions(then, now, joined(path, keyword), found)
    elif (compare := _SPECIAL.get(keyword)) is not None:
        compare(then, now, path, found)
    else:
        found.append(_wider(joined(path, keyword), "changed", _known(then), _known(now)))


def _compare_values(old: Mapping[str, Any], new: Mapping[str, Any], path: str, found: list[Difference]) -> None:
    """`enum` and `const`: the values that are taken, when they are listed."""
    then, now = _values(old), _values(new)
    if then == now:
        return
    where = joined(path, "enum" if "enum" in old or "enum" in new else "const")
    listed = [sorted(values) if values is not None else None for values in (then, now)]
    if now is not None and (then is None or now < then):
        found.append(_narrower(where, "fewer values are taken", *listed))
    else:
        found.append(_wider(where, "other values are taken", *listed))


def _values(schema: Mapping[str, Any]) -> frozenset[str] | None:
    listed = schema.get("enum")
    values = None if not isinstance(listed, Sequence) or isinstance(listed, str) else frozenset(map(_canonical, listed))
    if "const" in schema:
        only = frozenset({_canonical(schema["const"])})
        return only if values is None else values & only
    return values


def _canonical(value: object) -> str:
    return json.dumps(value, sort_keys=True)


def _type(then: Any, now: Any, path: str, found: list[Difference]) -> None:  # noqa: ANN401
    old, new = _types(then), _types(now)
    if old is None or new is None:
        found.append(_wider(joined(path, "type"), "is of a type that is not known", _known(then), _known(now)))
    elif old != new:
        narrower = new <= old
        make, sentence = (_narrower, "takes fewer types") if narrower else (_wider, "takes other types")
        found.append(make(joined(path, "type"), sentence, _known(then), _known(now)))


def _types(declared: object) -> frozenset[str] | None:
    if declared is _ABSENT:
        return _ALL_TYPES
    names = [declared] if isinstance(declared, str) else declared
    if not isinstance(names, Sequence) or not all(isinstance(name, str) and name in _ALL_TYPES for name in names):
        return None
    return frozenset(names) | ({"integer"} if "number" in names else frozenset())


def _required(then: Any, now: Any, path: str, found: list[Difference]) -> None:  # noqa: ANN401
    old, new = _names(then), _names(now)
    where = joined(path, "required")
    if old is None or new is None:
        found.append(_wider(where, "is no list of names", _known(then), _known(now)))
        return
    found.extend(_wider(joined(where, name), "need not be given any more", name, None) for name in sorted(old - new))
    found.extend(_narrower(joined(where, name), "must be given now", None, name) for name in sorted(new - old))


def _names(listed: object) -> frozenset[str] | None:
    if listed is _ABSENT:
        return frozenset()
    if not isinstance(listed, Sequence) or isinstance(listed, str) or not all(isinstance(name, str) for name in listed):
        return None
    return frozenset(listed)


def _properties(then: Any, now: Any, path: str, found: list[Difference]) -> None:  # noqa: ANN401
    old, new = ({} if part is _ABSENT else part for part in (then, now))
    where = joined(path, "properties")
    if not isinstance(old, Mapping) or not isinstance(new, Mapping):
        found.append(_wider(where, "are no properties", _known(then), _known(now)))
        return
    for name in sorted(old.keys() | new.keys()):
        if name not in old:
            found.append(_wider(joined(where, name), "is new", None, new[name]))
        elif name not in new:
            found.append(_narrower(joined(where, name), "is gone", old[name], None))
        else:
            _compare(old[name], new[name], joined(where, name), found)


def _compare_definitions(then: Any, now: Any, where: str, found: list[Difference]) -> None:  # noqa: ANN401
    """Parts that others refer to. A new one takes nothing by itself: what refers to it is another difference."""
    old, new = ({} if part is _ABSENT else part for part in (then, now))
    if not isinstance(old, Mapping) or not isinstance(new, Mapping):
        found.append(_wider(where, "are no definitions", _known(then), _known(now)))
        return
    for name in sorted(old.keys() | new.keys()):
        if name in old and name in new:
            _compare(old[name], new[name], joined(where, name), found)
        elif name in old:
            found.append(_wider(joined(where, name), "is gone", old[name], None))  # what refers to it may take anything now
        else:
            found.append(Difference(path=joined(where, name), change_class=ChangeClass.REWORDED, sentence="is new", after=new[name]))


def _alternatives(keyword: str) -> Callable[[Any, Any, str, list[Difference]], None]:
    def compare(then: Any, now: Any, path: str, found: list[Difference]) -> None:  # noqa: ANN401
        where = joined(path, keyword)
        if not isinstance(then, Sequence) or not isinstance(now, Sequence) or isinstance(then, str) or isinstance(now, str):
            make = _narrower if then is _ABSENT else _wider
            found.append(make(where, "changed", _known(then), _known(now)))
            return
        if len(then) == len(now):
            for number, (old, new) in enumerate(zip(then, now, strict=True)):
                _compare(old, new, f"{where}[{number}]", found)
            return
        old_options, new_options = ([_canonical(option) for option in options] for options in (then, now))
        if set(new_options) < set(old_options) and keyword == "anyOf":
            found.append(_narrower(where, "has fewer alternatives", list(then), list(now)))
        else:
            found.append(_wider(where, "has other alternatives", list(then), list(now)))

    return compare


def _all_of(then: Any, now: Any, path: str, found: list[Difference]) -> None:  # noqa: ANN401
    where = joined(path, "allOf")
    if isinstance(then, list) and isinstance(now, list) and len(then) == len(now):
        for number, (old, new) in enumerate(zip(then, now, strict=True)):
            _compare(old, new, f"{where}[{number}]", found)
    else:
        found.append(_wider(where, "changed", _known(then), _known(now)))


def _default(then: Any, now: Any, path: str, found: list[Difference]) -> None:  # noqa: ANN401
    found.append(_wider(joined(path, "default"), "something else happens when nothing is given", _known(then), _known(now)))


def _unique(then: Any, now: Any, path: str, found: list[Difference]) -> None:  # noqa: ANN401
    make, sentence = (_narrower, "takes no value twice") if now is True else (_wider, "takes values twice")
    found.append(make(joined(path, "uniqueItems"), sentence, _known(then), _known(now)))


_SPECIAL: Mapping[str, Callable[[Any, Any, str, list[Difference]], None]] = {
    "allOf": _all_of,
    "anyOf": _alternatives("anyOf"),
    "default": _default,
    "oneOf": _alternatives("oneOf"),
    "properties": _properties,
    "required": _required,
    "type": _type,
    "uniqueItems": _unique,
}


def _bound(keyword: str, then: Any, now: Any, path: str) -> Difference:  # noqa: ANN401
    where = joined(path, keyword)
    if now is _ABSENT or not _is_number(now) or (then is not _ABSENT and not _is_number(then)):
        return _wider(where, "is no bound any more", _known(then), _known(now))
    tighter = then is _ABSENT or (now > then if keyword in _LOWER_BOUNDS else now < then)
    make, sentence = (_narrower, "is tighter") if tighter else (_wider, "is looser")
    return make(where, sentence, _known(then), now)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _constraint(keyword: str, then: Any, now: Any, path: str) -> Difference:  # noqa: ANN401
    make, sentence = (_narrower, "is asked for now") if then is _ABSENT else (_wider, "is another one, or none any more")
    return make(joined(path, keyword), sentence, _known(then), _known(now))


def _known(value: Any) -> Any:  # noqa: ANN401
    return None if value is _ABSENT else value


def _wider(path: str, sentence: str, before: object, after: object) -> Difference:
    return Difference(path=path, change_class=ChangeClass.WIDENING, sentence=sentence, before=before, after=after)


def _narrower(path: str, sentence: str, before: object, after: object) -> Difference:
    return Difference(path=path, change_class=ChangeClass.NARROWING, sentence=sentence, before=before, after=after)
