"""What `-f` names: files, folders or standard input, as text for the server and as documents that remember where they stand.

The server reads the very text of the files and judges it. Parsing here as well, with the same rules (no key twice, no anchors,
`registry.manifest`), is for people: it turns the number of a document into a file and a line, and a syntax error into a place.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from controlplane.cli.outcome import CommandError

SUFFIXES = (".yaml", ".yml", ".json")
_END_OF_FILE = "\n...\n"  # the end of a document in YAML: directives may follow it, and it adds no document of its own
_Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


@dataclass(frozen=True, slots=True, kw_only=True)
class ManifestDocument:
    """One document and its place: the file it stands in and its number there, from 0."""

    file: str
    index: int
    line: int
    content: Any

    @property
    def place(self) -> str:
        """As error messages say it."""
        return f"{self.file} document {self.index} (line {self.line})"


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifests:
    """What was named: `body` for the server, `documents` in the server's order of counting."""

    body: bytes
    documents: tuple[ManifestDocument, ...]

    def place(self, index: object) -> str | None:
        """Where the document is that the server calls `index`."""
        return self.documents[index].place if isinstance(index, int) and 0 <= index < len(self.documents) else None


class _StrictLoader(_Loader):  # type: ignore[misc]
    """YAML without keys that are written twice, without anchors and aliases."""

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        event = self.peek_event()
        if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None) is not None:
            raise yaml.composer.ComposerError(None, None, "anchors and aliases are not accepted; write the value twice", event.start_mark)
        node: yaml.Node | None = super().compose_node(parent, index)
        return node

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            written = str(key.value)
            if written in seen:
                raise yaml.constructor.ConstructorError(None, None, f"the key {written!r} is written twice", key.start_mark)
            seen.add(written)
        mapping: dict[Any, Any] = super().construct_mapping(node, deep=deep)
        return mapping


def read_manifests(sources: Sequence[str]) -> Manifests:
    """Everything that `sources` name, in order: files, the manifests of a folder sorted by name, `-` for standard input."""
    if list(sources).count("-") > 1:
        raise CommandError("standard input can be read once only")
    texts: list[str] = []
    documents: list[ManifestDocument] = []
    for source in sources:
        for file, text in (
            [("stdin", sys.stdin.read())] if source == "-" else [(str(file), _read(file)) for file in _files_of(Path(source))]
        ):
            texts.append(text)
            documents += _parse(file, text)
    if not documents:
        raise CommandError(f"{', '.join(sources)} holds no document")
    return Manifests(body=_END_OF_FILE.join(texts).encode(), documents=tuple(documents))


def _files_of(source: Path) -> list[Path]:
    if not source.is_dir():
        return [source]
    files = sorted(file for file in source.iterdir() if file.suffix in SUFFIXES and file.is_file())
    if not files:
        raise CommandError(f"the folder {source} holds no {', '.join(SUFFIXES)} file")
    return files


def _read(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8-sig")
    except FileNotFoundError as error:
        raise CommandError(f"there is no file {file}") from error
    except UnicodeDecodeError as error:
        raise CommandError(f"{file} is not UTF-8 text") from error
    except OSError as error:
        raise CommandError(f"{file} cannot be read: {error.strerror}") from error


def _parse(file: str, text: str) -> list[ManifestDocument]:
    documents: list[ManifestDocument] = []
    try:
        loader = _StrictLoader(text)
        try:
            while loader.check_node():
                node = loader.get_node()
                line = node.start_mark.line + 1
                content = loader.construct_document(node)
                parts = content if isinstance(content, list) else [] if content is None else [content]
                documents += [
                    ManifestDocument(file=file, index=len(documents) + offset, line=line, content=part) for offset, part in enumerate(parts)
                ]
        finally:
            loader.dispose()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f"{file} line {mark.line + 1}, column {mark.column + 1}" if mark else file
        raise CommandError(f"not valid YAML or JSON: {error.problem}", where=where) from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise CommandError(f"not valid YAML or JSON: {error}", where=file) from error
    return documents
