"""Files become one request, and every document remembers where it stands."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
import yaml

from controlplane.cli.manifest_file import read_manifests
from controlplane.cli.outcome import CommandError, Outcome
from controlplane.registry.manifest import parse_documents


def write(directory: Path, name: str, text: str) -> Path:
    file = directory / name
    file.write_text(text)
    return file


def test_documents_are_counted_as_the_server_counts_them(tmp_path: Path):
    write(tmp_path, "a.yaml", "# only a comment\n---\n---\nkind: One\n---\nkind: Two\n")
    write(tmp_path, "b.json", '{"kind": "Three"}')
    write(tmp_path, "c.yml", "%YAML 1.1\n---\n- kind: Four\n- kind: Five\n...\n")
    write(tmp_path, "d.yaml", "")
    write(tmp_path, "ignored.txt", "nonsense: [")

    manifests = read_manifests([str(tmp_path)])

    sent = [document for part in yaml.safe_load_all(manifests.body) if part for document in (part if isinstance(part, list) else [part])]
    assert [document["kind"] for document in sent] == ["One", "Two", "Three", "Four", "Five"]
    assert [document.content for document in manifests.documents] == sent
    assert manifests.place(2) == f"{tmp_path / 'b.json'} document 0 (line 1)"
    assert manifests.place(4) == f"{tmp_path / 'c.yml'} document 1 (line 3)"
    assert manifests.place(5) is None
    _, errors = parse_documents(manifests.body)
    assert {error.document for error in errors} == {0, 1, 2, 3, 4}


def test_an_error_of_the_server_finds_its_file_and_line(tmp_path: Path):
    write(tmp_path, "1.yaml", "kind: A\n---\nkind: B\n")
    second = write(tmp_path, "2.yaml", "\nkind: C\n---\n\nkind: D\n")

    assert read_manifests([str(tmp_path)]).place(3) == f"{second} document 1 (line 5)"


def test_standard_input_is_a_source(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("sys.stdin", io.StringIO("kind: A"))

    assert read_manifests(["-"]).place(0) == "stdin document 0 (line 1)"


@pytest.mark.parametrize(
    ("text", "said", "where"),
    [
        ("kind: A\nspec: [1,\n", "expected", "line 3"),
        ("kind: A\nkind: B\n", "the key 'kind' is given twice", "line 2, column 1"),
        ("spec: {a: 1, a: 2}", "the key 'a' is given twice", "line 1, column 14"),
        ("a: &x 1\nb: *x\n", "anchors and aliases are not accepted", "line 1"),
        ("a: !!python/object:os.system 1", "the tag", "line 1"),
        ('{"kind": "A", "kind": "B"}', "the key 'kind' is given twice", "line 1"),
        ("[" * 50_000, "nested deeper", "line 1"),
        ("a: \x07", "characters that YAML does not allow", ""),
    ],
)
def test_a_fault_of_syntax_names_file_and_line(tmp_path: Path, text: str, said: str, where: str):
    file = write(tmp_path, "bad.yaml", text)

    with pytest.raises(CommandError) as caught:
        read_manifests([str(file)])

    assert said in caught.value.what
    assert caught.value.where[0].startswith(f"{file} {where}".rstrip())
    assert caught.value.outcome is Outcome.USAGE


def test_what_is_not_there_or_empty_is_said_plainly(tmp_path: Path):
    with pytest.raises(CommandError, match="there is no file"):
        read_manifests([str(tmp_path / "none.yaml")])
    with pytest.raises(CommandError, match="holds no"):
        read_manifests([str(tmp_path)])
    with pytest.raises(CommandError, match="holds no document"):
        read_manifests([str(write(tmp_path, "empty.yaml", "# nothing\n"))])
    (tmp_path / "latin.yaml").write_bytes(b"a: \xff\xfe")
    with pytest.raises(CommandError, match="not UTF-8"):
        read_manifests([str(tmp_path / "latin.yaml")])
    with pytest.raises(CommandError, match="once only"):
        read_manifests(["-", "-"])
