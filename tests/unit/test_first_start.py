"""What a newcomer meets before anything is installed: the check of Python, the installation, `make help`."""

from __future__ import annotations

import importlib.util
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

NO_VENV = f"""#!/bin/sh
case "$2" in *ensurepip*) exit 1 ;; esac
exec {sys.executable} "$@"
"""
TOO_OLD = """#!/bin/sh
case "$2" in *version_info\\ \\<*) exit 1 ;; *python_version*) echo 3.9.2 ;; esac
"""


def check(python: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["sh", str(ROOT / "deploy" / "check_python.sh"), python], capture_output=True, text=True, check=False)


def fake(tmp_path: Path, text: str) -> str:
    script = tmp_path / "python3"
    script.write_text(text)
    script.chmod(0o755)
    return str(script)


def test_a_good_python_is_accepted_in_silence() -> None:
    finished = check(sys.executable)

    assert (finished.returncode, finished.stdout, finished.stderr) == (0, "", "")


def test_a_python_without_venv_is_told_which_package_to_install(tmp_path: Path) -> None:
    finished = check(fake(tmp_path, NO_VENV))

    assert finished.returncode == 1
    assert f"python{sys.version_info.major}.{sys.version_info.minor}-venv" in finished.stderr
    assert "sudo apt install" in finished.stderr


def test_an_old_python_is_told_so_and_how_to_name_another(tmp_path: Path) -> None:
    finished = check(fake(tmp_path, TOO_OLD))

    assert finished.returncode == 1
    assert "3.9.2" in finished.stderr
    assert "make PYTHON=" in finished.stderr


def test_no_python_at_all_is_told_what_to_install() -> None:
    finished = check("python-that-is-not-there")

    assert finished.returncode == 1
    assert "apt install python3" in finished.stderr


def test_a_failed_installation_shows_what_pip_said_and_fails(tmp_path: Path) -> None:
    broken = fake(tmp_path, "#!/bin/sh\necho 'Collecting aiohttp'\necho 'ERROR: no network'\nexit 1\n")

    finished = subprocess.run(["sh", str(ROOT / "deploy" / "install.sh"), broken, "."], capture_output=True, text=True, check=False)

    assert finished.returncode == 1
    assert "aiohttp" in finished.stdout
    assert "ERROR: no network" in finished.stderr


def test_the_installation_leaves_nothing_to_compile_for_the_first_start(tmp_path: Path) -> None:
    (tmp_path / "deploy").mkdir()
    script = Path(shutil.copy(ROOT / "deploy" / "install.sh", tmp_path / "deploy"))
    for package in ("controlplane", "extauthz"):
        (tmp_path / package / "part").mkdir(parents=True)
        (tmp_path / package / "part" / "module.py").write_text("VALUE = 1\n")
    python = fake(tmp_path, f'#!/bin/sh\ncase "$*" in *pip*) exit 0 ;; esac\nexec {sys.executable} "$@"\n')

    subprocess.run(["sh", str(script), python, "."], capture_output=True, check=True)

    for package in ("controlplane", "extauthz"):
        assert Path(importlib.util.cache_from_source(str(tmp_path / package / "part" / "module.py"))).exists()


def test_make_help_lists_every_target() -> None:
    listed = subprocess.run(["make", "-C", str(ROOT), "--no-print-directory", "help"], capture_output=True, text=True, check=True).stdout
    phony = re.search(r"^\.PHONY: (.*)$", (ROOT / "Makefile").read_text(), re.MULTILINE)

    assert phony is not None
    assert set(re.findall(r"^  ([a-z0-9-]+) ", listed, re.MULTILINE)) == set(phony[1].split())


def test_make_run_installs_nothing_that_only_development_needs() -> None:
    makefile = (ROOT / "Makefile").read_text()

    for target in ("run", "demo"):
        assert re.search(rf"^{target}: \$\(STAMP\) ##", makefile, re.MULTILINE)


@pytest.mark.parametrize("script", ["check_python.sh", "install.sh", "generate_messages.sh", "check_messages.sh"])
def test_the_shell_scripts_are_plain_sh(script: str) -> None:
    finished = subprocess.run(["sh", "-n", str(ROOT / "deploy" / script)], capture_output=True, text=True, check=False)

    assert finished.returncode == 0, finished.stderr
