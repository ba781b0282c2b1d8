"""Hints name a command that works where they are read."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from controlplane.command_line import data_dir_flag, typed_command


@pytest.fixture
def installation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory with an installation in .venv, where we are; the PATH leads nowhere."""
    scripts = tmp_path / "project" / ".venv" / "bin"
    scripts.mkdir(parents=True)
    script = scripts / "legation"
    script.touch(mode=0o755)
    monkeypatch.setattr(sys, "executable", str(scripts / "python"))
    monkeypatch.setenv("PATH", str(tmp_path / "nowhere"))
    monkeypatch.chdir(tmp_path / "project")
    return script


def test_an_installation_below_the_current_directory_is_typed_relative_to_it(installation):
    assert typed_command() == ".venv/bin/legation"


def test_an_installation_elsewhere_is_typed_whole(installation, monkeypatch, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")

    assert typed_command() == str(installation)


def test_the_path_saves_typing_when_it_leads_to_this_installation(installation, monkeypatch, tmp_path):
    found = tmp_path / "bin"
    found.mkdir()
    (found / "legation").symlink_to(installation)
    monkeypatch.setenv("PATH", str(found))

    assert typed_command() == "legation"


def test_another_installation_on_the_path_is_not_this_one(installation, monkeypatch, tmp_path):
    found = tmp_path / "bin"
    found.mkdir()
    (found / "legation").touch(mode=0o755)
    monkeypatch.setenv("PATH", str(found))

    assert typed_command() == ".venv/bin/legation"


def test_the_default_data_directory_needs_no_flag(installation):
    assert data_dir_flag(Path(".legation")) == ""
    assert data_dir_flag(Path.cwd() / ".legation") == ""


def test_another_data_directory_is_named_so_that_a_shell_reads_it(installation, tmp_path):
    assert data_dir_flag(Path.cwd() / "my trial") == " --data-dir 'my trial'"
    assert data_dir_flag(tmp_path / "d") == f" --data-dir {tmp_path / 'd'}"
