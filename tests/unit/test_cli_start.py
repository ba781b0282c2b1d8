"""How the command line starts and how it fails: fast, in one line, with a code, never with a traceback."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from controlplane.cli.main import COMMANDS, legation
from controlplane.cli.outcome import Outcome

HEAVY = (
    "envoy_data_plane",
    "betterproto2",
    "sqlmodel",
    "sqlalchemy",
    "grpc",
    "aiohttp",
    "mcp",
    "pydantic",
    "rich",
    "cryptography",
    "cedarpy",
)


def run(*args: str, **options: object) -> Result:
    return CliRunner().invoke(legation, list(args), **options)  # type: ignore[arg-type]


def legation_process(*args: str, **environ: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [Path(sys.executable).parent / "legation", *args],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
        env={**{k: v for k, v in os.environ.items() if not k.startswith("LEGATION_")}, **environ},
    )


def test_help_is_fast_and_imports_nothing_heavy():
    code = (
        "import sys\nfrom controlplane.cli.main import main\nsys.argv = ['legation', '--help']\n"
        f"try:\n    main()\nexcept SystemExit:\n    print([name for name in {HEAVY!r} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"

    seconds = []
    for _ in range(3):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        assert legation_process("--help").returncode == 0
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        seconds.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    assert min(seconds) < 0.4, "CPU time, because other tests may share the machine"


def test_commands_of_the_registry_start_without_pydantic():
    code = (
        "import sys\nfrom controlplane.cli import apply, registry, delete, status, explain, audit, accept, call, token\n"
        "from controlplane.cli import login, context, operator_session, browser_login, device_login\n"
        "print([name for name in ('pydantic', 'rich', 'cryptography', 'mcp', 'grpc', 'aiohttp', 'sqlmodel') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert done.stdout.strip() == "[]"


def test_every_command_explains_itself():
    listing = run("--help").output
    for name in COMMANDS:
        answer = run(name, "--help")
        assert answer.exit_code == 0, answer.output
        assert f"Usage: legation {name}" in answer.output
        assert name in listing


def test_no_command_shows_the_help():
    assert "Usage: legation" in run().output


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (("gett",), "did you mean `legation get`?"),
        (("get",), "Missing argument 'KIND'"),
        (("get", "pods"), "there is no kind 'pods'"),
        (("apply",), "Missing option '-f'"),
        (("apply", "-f", "/nowhere.yaml"), "there is no file /nowhere.yaml"),
        (("get", "servers", "-o", "xml"), "'xml' is not one of"),
        (("up", "--exit-after-tour"), "--exit-after-tour needs --demo"),
        (("token",), "Missing option '--as'"),
        (("call", "a/b", "t"), "say who calls"),
        (("delete",), "name KIND and NAME, or files with -f"),
        (("delete", "servers"), "name KIND and NAME, or files with -f"),
        (("apply", "-f", "x", "--dry-run", "--accept"), "exclude each other"),
        (("login", "--device", "--port", "x"), "'x' is not a valid integer"),
        (("context", "use"), "Missing argument 'NAME'"),
    ],
)
def test_a_wrong_command_is_one_line_and_code_2(args: tuple[str, ...], said: str):
    answer = run(*args)

    assert answer.exit_code == Outcome.USAGE
    assert answer.stderr.startswith("error: ")
    assert said in answer.stderr.splitlines()[0]
    assert answer.stdout == ""


def test_without_a_deployment_it_says_how_to_start_one(tmp_path: Path):
    answer = run("--data-dir", str(tmp_path), "status")

    assert answer.exit_code == Outcome.UNREACHABLE
    assert f"no deployment is running in {tmp_path}" in answer.stderr
    assert "legation up" in answer.stderr


def test_nothing_listening_is_code_4(tmp_path: Path):
    (tmp_path / "token").write_text("abc")
    (tmp_path / "token").chmod(0o600)

    answer = run("--gateway-url", "http://127.0.0.1:9", "--token-file", str(tmp_path / "token"), "status")

    assert answer.exit_code == Outcome.UNREACHABLE
    assert answer.stderr.splitlines()[0] == "error: nothing listens at http://127.0.0.1:9"


def test_options_may_stand_after_the_command_and_the_nearer_one_wins(tmp_path: Path):
    answer = run("--data-dir", "/elsewhere", "status", "--data-dir", str(tmp_path), env={"LEGATION_DATA_DIR": "/from-environment"})

    assert f"no deployment is running in {tmp_path}" in answer.stderr


def test_the_environment_names_the_deployment(tmp_path: Path):
    assert f"running in {tmp_path}" in run("status", env={"LEGATION_DATA_DIR": str(tmp_path)}).stderr


def test_a_token_never_crosses_the_network_in_clear_unless_asked(tmp_path: Path):
    answer = run("--gateway-url", "http://gateway.example.com", "status")

    assert answer.exit_code == Outcome.USAGE
    assert "in clear" in answer.stderr


def test_a_fault_of_ours_is_a_sentence_and_a_traceback_only_on_request(tmp_path: Path):
    (tmp_path / "deployment.json").write_text('{"gateway_url": "http://127.0.0.1:9"}')
    (tmp_path / "admin-credential.json").write_text('{"private_jwk": 5}')
    (tmp_path / "admin-credential.json").chmod(0o600)

    plain = legation_process("--data-dir", str(tmp_path), "status")
    debugged = legation_process("--data-dir", str(tmp_path), "status", LEGATION_DEBUG="1")

    assert plain.returncode not in (0, 1)
    assert "Traceback" not in plain.stderr
    assert plain.stderr.startswith("error: ")
    assert "Traceback" in debugged.stderr


def test_version_and_completion():
    assert run("version").output.startswith("legation 0.1.0")
    for shell, word in (("bash", "complete -o"), ("zsh", "#compdef legation"), ("fish", "complete --no-files --command legation")):
        answer = run("completion", shell)
        assert answer.exit_code == 0
        assert word in answer.output
        assert f"_LEGATION_COMPLETE={shell}_complete" in answer.output


def test_completion_completes_commands_and_kinds_without_a_deployment():
    commands = legation_process(_LEGATION_COMPLETE="bash_complete", COMP_WORDS="legation ex", COMP_CWORD="1")
    kinds = legation_process(_LEGATION_COMPLETE="bash_complete", COMP_WORDS="legation get mcp", COMP_CWORD="2")

    assert commands.stdout.split() == ["plain,explain"]
    assert kinds.stdout.split() == ["plain,mcp-servers"]
