"""What `-f` names: files, folders or standard input, as text for the server and as documents that remember where they stand.

The server reads the very text of the files and judges it. Reading it here as well, by the same rules, is for people: it turns
the number of a document into a file and a line, and finds a fault of syntax before anything is sent.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from controlplane.cli.outcome import CommandError
from controlplane.registry.yaml_text import YamlTextError, read_yaml_documents

SUFFIXES = (".yaml", ".yml", ".json")
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
    return Manifests(body=_joined(texts).encode(), documents=tuple(documents))


def _joined(texts: Sequence[str]) -> str:
    """One YAML stream. Only a file with directives may follow `...`; an empty document more is counted by nobody."""
    stream = ""
    for text in texts:
        first = next((line for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")), "")
        stream += ("\n...\n" if first.startswith("%") else "\n---\n") + text
    return stream


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
        contents = list(read_yaml_documents(text))
    except YamlTextError as error:
        place, _, fault = str(error).partition(": ") if str(error).startswith("line ") else ("", "", str(error))
        raise CommandError(f"not acceptable as YAML or JSON: {fault}", where=f"{file} {place}".rstrip()) from error
    for content, line in zip(contents, _lines_of_documents(text), strict=True):
        parts = content if isinstance(content, list) else [] if content is None else [content]
        documents += [
            ManifestDocument(file=file, index=len(documents) + offset, line=line, content=part) for offset, part in enumerate(parts)
        ]
    return documents


def _lines_of_documents(text: str) -> list[int]:
    lines: list[int] = []
    starting = False
    for event in yaml.parse(text, Loader=_Loader):
        if starting:
            lines.append(event.start_mark.line + 1 if event.start_mark else 0)
        starting = isinstance(event, yaml.DocumentStartEvent)
    return lines
