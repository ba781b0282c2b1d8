"""Bytes → typed registry documents, or every error at once with its document and path. First step of path (c), an apply.

How YAML is read stands in `registry.yaml_text`; JSON is read as JSON. Next: `registry.service`.
"""

from __future__ import annotations

import difflib
import functools
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from controlplane.registry.plain_value import SURROGATE_SENTENCE, Location, faults_of, has_lone_surrogate
from controlplane.registry.spec import API_VERSION, SPEC_OF_KIND, Document, Kind, Metadata
from controlplane.registry.yaml_text import MAX_DEPTH, YamlTextError, read_yaml_documents

MAX_BYTES = 4 * 1024 * 1024
MAX_DOCUMENTS = 5000
MAX_ERRORS = 1000
"""In one answer: nobody reads more, and a manifest of nothing but faults must not keep the registry busy."""
MAX_ERRORS_OF_DOCUMENT = 100

_MAX_SUGGESTED_CHARACTERS = 100
_MAX_SHOWN_CHARACTERS = 200
_MEMBERS = ("apiVersion", "kind", "metadata", "spec")
_IGNORED_MEMBERS = frozenset({"status"})
_KEY = "[key]"
_IGNORED_METADATA = frozenset({"uid", "resourceRevision", "createdAt", "updatedAt"})


@dataclass(frozen=True, slots=True, kw_only=True)
class DocumentError:
    """One fault: in which document (from 0), where in it (`spec.endpoints[0].url`), and what is wrong."""

    document: int
    path: str
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ParsedDocument:
    """One document of the right shape."""

    index: int
    kind: Kind
    metadata: Metadata
    spec: Document


def parse_documents(text: bytes) -> tuple[list[ParsedDocument], list[DocumentError]]:
    """Every document that has the right shape, and every fault of the others. No document at all is a fault."""
    documents: list[ParsedDocument] = []
    errors: list[DocumentError] = []
    try:
        for index, raw in enumerate(_read(text)):
            parsed, found = parse_document(raw, index)
            errors += found
            if parsed is not None:
                documents.append(parsed)
            if len(errors) >= MAX_ERRORS:
                errors.append(
                    DocumentError(document=index, path="", message="too many errors: the documents behind this one were not read")
                )
                break
    except YamlTextError as error:
        return [], [*errors, DocumentError(document=error.document, path="", message=str(error))]
    if not documents and not errors:
        errors.append(DocumentError(document=0, path="", message="there is no document in here"))
    return documents, errors + _repeated(documents)


def parse_document(raw: object, index: int = 0) -> tuple[ParsedDocument | None, list[DocumentError]]:
    """One document of plain JSON types. `status` and what the registry itself put into metadata are ignored."""
    if not isinstance(raw, dict):
        return None, [
            DocumentError(document=index, path="", message="a document must be a mapping with apiVersion, kind, metadata and spec")
        ]
    errors = [DocumentError(document=index, path=_path("", location), message=fault) for location, fault in faults_of(raw)]
    if errors:
        return None, errors
    errors = _unknown_members(raw, index)
    if raw.get("apiVersion") != API_VERSION:
        errors.append(DocumentError(document=index, path="apiVersion", message=f"must be {API_VERSION}"))
    kind = _parse_kind(raw.get("kind"), index, errors)
    metadata = _parse_metadata(raw.get("metadata"), kind, index, errors)
    spec: Document | None = None
    if kind is not None:
        given = raw.get("spec", {} if kind is Kind.NAMESPACE else None)
        spec = _validated(SPEC_OF_KIND[kind], {} if given is None and kind is Kind.NAMESPACE else given, "spec", index, errors)
    if errors or kind is None or metadata is None or spec is None:
        return None, errors
    return ParsedDocument(index=index, kind=kind, metadata=metadata, spec=spec), []


def _read(text: bytes) -> Iterator[object]:
    if len(text) > MAX_BYTES:
        raise YamlTextError(0, f"larger than {MAX_BYTES // 1024 // 1024} MiB; apply it in parts")
    try:
        decoded = text.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise YamlTextError(0, "must be UTF-8") from error
    index = 0
    for document in _read_values(decoded):
        if document is None:  # "---" alone, or a comment
            continue
        for part in document if isinstance(document, list) else [document]:
            if index >= MAX_DOCUMENTS:
                raise YamlTextError(index, f"more than {MAX_DOCUMENTS} documents; apply them in parts")
            yield part
            index += 1


def _read_values(text: str) -> Iterator[object]:
    if text.lstrip()[:1] in ("{", "["):
        try:
            return iter([read_json(text)])
        except json.JSONDecodeError:
            pass  # flow style YAML, or faulty: YAML says where
        except ValueError as error:
            raise YamlTextError(0, str(error)) from error
    return read_yaml_documents(text)


def _unknown_members(raw: dict[str, object], index: int) -> list[DocumentError]:
    unknown = [name for name in raw if name not in _MEMBERS and name not in _IGNORED_MEMBERS]
    errors = [
        DocumentError(document=index, path=_shown(name), message=f"is not known{_suggestion(name, _MEMBERS)}")
        for name in unknown[:MAX_ERRORS_OF_DOCUMENT]
    ]
    return errors + _more(len(unknown), "", index)


def _parse_kind(value: object, index: int, errors: list[DocumentError]) -> Kind | None:
    try:
        return Kind(str(value))
    except ValueError:
        names = [kind.value for kind in Kind]
        given = "is missing" if value is None else f"{_shown(str(value))!r} is not a kind"
        hint = _suggestion(str(value), names) or f"; kinds are {', '.join(names)}"
        errors.append(DocumentError(document=index, path="kind", message=f"{given}{hint}"))
        return None


def _parse_metadata(value: object, kind: Kind | None, index: int, errors: list[DocumentError]) -> Metadata | None:
    if isinstance(value, dict):
        value = {name: part for name, part in value.items() if name not in _IGNORED_METADATA}
    metadata = _validated(Metadata, value, "metadata", index, errors)
    if not isinstance(metadata, Metadata) or kind is None:
        return None
    if kind is Kind.NAMESPACE and metadata.namespace:
        errors.append(DocumentError(document=index, path="metadata.namespace", message="a Namespace is not in a namespace; remove it"))
    if kind is not Kind.NAMESPACE and not metadata.namespace:
        errors.append(DocumentError(document=index, path="metadata.namespace", message="is missing"))
    return metadata


def _validated(model: type[Document], value: object, path: str, index: int, errors: list[DocumentError]) -> Document | None:
    if value is None:
        errors.append(DocumentError(document=index, path=path, message="is missing"))
        return None
    try:
        return model.model_validate(value)
    except ValidationError as error:
        # The input stays out of every message: it may be a secret.
        faults = error.errors(include_url=False, include_input=False, include_context=False)
        for fault in faults[:MAX_ERRORS_OF_DOCUMENT]:
            message = _message(fault["type"], fault["msg"], fault["loc"], model)
            errors.append(DocumentError(document=index, path=_path(path, fault["loc"]), message=message))
        errors += _more(len(faults), path, index)
        return None


def _more(count: int, path: str, index: int) -> list[DocumentError]:
    left = count - MAX_ERRORS_OF_DOCUMENT
    return [DocumentError(document=index, path=path, message=f"and {left} more errors")] if left > 0 else []


def _message(fault_type: str, text: str, location: tuple[int | str, ...], model: type[Document]) -> str:
    if fault_type == "extra_forbidden":
        place = tuple(0 if isinstance(step, int) else step for step in location[:-1])
        return f"is not known{_suggestion(str(location[-1]), _names_at(model, place))}"
    if fault_type == "missing":
        return "is missing"
    if fault_type == "string_pattern_mismatch":
        return _form(text, location)
    return text.removeprefix("Value error, ")


def _form(text: str, location: tuple[int | str, ...]) -> str:
    """What a text must look like, in words where a pattern says little."""
    if location and location[-1] in ("name", "namespace"):
        return "must be a DNS label: lower-case letters, digits and '-', at most 63, starting and ending with a letter or digit"
    if location and location[0] in ("labels", "annotations"):
        before = " (a key may have a DNS name and '/' before that)" if location[-1] == _KEY else ""
        return f"must be at most 63 letters, digits, '-', '_' and '.', starting and ending with a letter or digit{before}"
    if location and location[-1] == "prefix":
        return "must hold printable ASCII characters only: it stands in a header"
    return f"does not have the right form ({text.removeprefix('String should match pattern ')})"


@functools.lru_cache(maxsize=256)
def _names_at(model: type[Document], location: Location) -> tuple[str, ...]:
    """The keys that are known at this place of the document; all members of a list are one place. A schema costs 15 ms."""
    schema = model.model_json_schema(by_alias=True)
    definitions = schema.get("$defs", {})
    here: dict[str, Any] = schema
    for step in location:
        here = _resolved(here, definitions)
        here = here.get("items", {}) if isinstance(step, int) else here.get("properties", {}).get(step, {})
    return tuple(_resolved(here, definitions).get("properties", {}))


def _resolved(schema: dict[str, Any], definitions: dict[str, Any]) -> dict[str, Any]:
    for option in [schema, *schema.get("anyOf", [])]:
        reference = option.get("$ref")
        if reference:
            found: dict[str, Any] = definitions[reference.rpartition("/")[2]]
            return found
    return schema


def _suggestion(given: str, known: Sequence[str]) -> str:
    if len(given) > _MAX_SUGGESTED_CHARACTERS:
        return ""
    lowered = {name.lower(): name for name in known}
    close = difflib.get_close_matches(given.lower(), lowered, n=1, cutoff=0.6)
    return f"; did you mean {lowered[close[0]]!r}?" if close else ""


def _path(start: str, location: tuple[int | str, ...]) -> str:
    path = start
    for step in location:
        if step != _KEY:  # pydantic's word for "the key itself"
            path += f"[{step}]" if isinstance(step, int) else f".{_shown(step)}" if path else _shown(step)
    return path


def _shown(text: str) -> str:
    return text if len(text) <= _MAX_SHOWN_CHARACTERS else f"{text[:_MAX_SHOWN_CHARACTERS]}…"


def _repeated(documents: list[ParsedDocument]) -> list[DocumentError]:
    first: dict[tuple[Kind, str, str], int] = {}
    errors: list[DocumentError] = []
    for document in documents:
        key = (document.kind, document.metadata.namespace, document.metadata.name)
        if key in first:
            name = "/".join(part for part in key[1:] if part)
            errors.append(
                DocumentError(document=document.index, path="metadata.name", message=f"{key[0]} {name} is already document {first[key]}")
            )
        first.setdefault(key, document.index)
    return errors


def read_json(text: str | bytes) -> object:
    """One JSON value; raises ValueError with a sentence. Duplicate keys, NaN and absurd depth are refused."""
    try:
        value: object = json.loads(text, object_pairs_hook=_unique, parse_constant=_refuse_constant)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error
    except UnicodeDecodeError as error:
        raise ValueError("must be UTF-8") from error
    layer = [value]
    for _ in range(MAX_DEPTH):
        if any(isinstance(part, str) and has_lone_surrogate(part) for part in layer):
            raise ValueError(f"a string {SURROGATE_SENTENCE}")
        layer = [child for part in layer for child in (part.values() if isinstance(part, dict) else part if isinstance(part, list) else ())]
    if layer:
        raise ValueError(f"nested deeper than {MAX_DEPTH} levels")
    return value


def _unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key is given twice")
    if any(has_lone_surrogate(key) for key in found):
        raise ValueError(f"a key {SURROGATE_SENTENCE}")
    return found


def _refuse_constant(name: str) -> object:
    raise ValueError(f"{name} is not JSON")
