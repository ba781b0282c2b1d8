"""How to type `legation` where this process runs: after `make run` it is not on the PATH, and hints must work when pasted.

Used by whatever prints commands for people to try: the supervisor's welcome and the tour.
"""

from __future__ import annotations

import shlex
import shutil
import sys
from pathlib import Path

DEFAULT_DATA_DIR = Path(".legation")


def typed_command() -> str:
    """`legation` when the PATH leads to this installation, else the script beside this interpreter, as short as it goes."""
    script = Path(sys.executable).with_name("legation")
    found = shutil.which("legation")
    if not script.exists() or (found is not None and Path(found).samefile(script)):
        return "legation"
    here = Path.cwd()
    return shlex.quote(str(script.relative_to(here) if script.is_relative_to(here) else script))


def data_dir_flag(data_dir: Path) -> str:
    """` --data-dir DIR` for a command that is typed here; empty when the default leads to the same directory."""
    resolved, here = data_dir.resolve(), Path.cwd()
    if resolved == DEFAULT_DATA_DIR.resolve():
        return ""
    return f" --data-dir {shlex.quote(str(resolved.relative_to(here) if resolved.is_relative_to(here) else resolved))}"
