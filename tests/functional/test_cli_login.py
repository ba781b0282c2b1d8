"""Operators log in at a real OpenID provider (npm `oidc-provider`), by the recipe of docs/identity.md, and use the real API.

A browser, a terminal without one, and CI; what renews, what ends, and what is refused. Skipped, with the reason, without Node.
"""

from __future__ import annotations

import json
import os
import re
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from controlplane.cli.issuer import exchange_json
from controlplane.cli.outcome import Outcome
from tests import toolchain
from tests.functional.running_api import RunningApi, running_api
from tests.functional.scripted_browser import visit
from tests.ports import free_port

pytestmark = [pytest.mark.external, pytest.mark.timeout(600)]  # the first run installs the provider

OIDC_PROVIDER = "oidc-provider@9.13.3"
LEGATION = Path(sys.executable).parent / "legation"
HERE = Path(__file__).parent
SECRET = "a secret: +%/"
PAGE = (HERE.parents[1] / "docs" / "identity.md").read_text()
RECIPE = re.findall(r"```yaml\n(.*?)```", PAGE.split("## Operators")[1].split("\n## ")[0], re.DOTALL)[0]


@dataclass(frozen=True, kw_only=True)
class World:
    """A deployment whose operators log in at `issuer`."""

    api: RunningApi
    issuer: str


@dataclass(frozen=True, kw_only=True)
class Operator:
    """Somebody with a home directory of their own."""

    world: World
    home: Path

    @property
    def file(self) -> Path:
        return self.home / "config" / "legation" / "contexts.json"

    def contexts(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.file.read_text())["contexts"]
        return found

    def session(self, name: str = "prod") -> dict[str, Any]:
        found: dict[str, Any] = self.contexts()[name]["session"]
        return found

    def start(self, *args: str, browser: str = "", **environ: str) -> subprocess.Popen[str]:
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("LEGATION_")}
        script = f"{sys.executable} {HERE / 'scripted_browser.py'} {browser} %s"
        further = {"HOME": str(self.home), "XDG_CONFIG_HOME": str(self.home / "config"), "BROWSER": script}
        return subprocess.Popen(
            [LEGATION, *args],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=self.home,
            env={**inherited, **further, **environ},
        )

    def run(self, *args: str, browser: str = "", **environ: str) -> subprocess.CompletedProcess[str]:
        process = self.start(*args, browser=browser, **environ)
        try:
            output, errors = process.communicate(timeout=120)
        finally:
            process.kill()
        return subprocess.CompletedProcess(args, process.returncode, output, errors)

    def log_in(self, *args: str, browser: str = "", **environ: str) -> subprocess.CompletedProcess[str]:
        where = ("--gateway-url", self.world.api.gateway_url, "--context", "prod")
        client = () if "--client-id" in args else ("--client-id", "legation-cli")
        return self.run("login", *where, *client, *args, browser=browser, **environ)

    def expire(self) -> None:
        """The access token's time passes."""
        document = json.loads(self.file.read_text())
        document["contexts"]["prod"]["session"]["expires_at"] = time.time() - 1
        self.file.write_text(json.dumps(document))


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    try:
        directory = toolchain.npm_packages(OIDC_PROVIDER)
    except toolchain.UnavailableError as error:
        pytest.skip(f"the real OpenID provider needs npm: {error}")
    port = free_port()
    command = [toolchain.node(directory), HERE / "oidc_provider" / "operators.mjs", directory, f"http://127.0.0.1:{port}/v1"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        assert process.stdout is not None
        try:
            line = next((line for line in process.stdout if line.startswith("{")), "")
            assert line, f"the OpenID provider ended with {process.wait(10)}"
            issuer = json.loads(line)["issuer"]
            with running_api(tmp_path_factory.mktemp("deployment"), port) as api:
                applied = subprocess.run(
                    [LEGATION, "--data-dir", api.data_dir, "apply", "-f", "-"],
                    input=RECIPE.replace("https://sso.example.com", f"{issuer}\n  allowInsecureHttp: true"),
                    capture_output=True,
                    text=True,
                    check=False,
                    timeout=180,
                )
                assert applied.returncode == Outcome.DONE, applied.stderr
                yield World(api=api, issuer=issuer)
        finally:
            process.kill()


@pytest.fixture
def ann(world: World, tmp_path: Path) -> Operator:
    return Operator(world=world, home=tmp_path)


def refresh_at(world: World, refresh_token: str) -> tuple[int, Any]:
    """What the provider says to this refresh token."""
    form = {"grant_type": "refresh_token", "client_id": "legation-cli", "refresh_token": refresh_token}
    answer = exchange_json(f"{world.issuer}/token", form=form)
    return answer.status, answer.body.get("error")


def test_a_login_in_the_browser_opens_the_registry(ann: Operator):
    done = ann.log_in()
    listed = ann.run("get", "namespaces", "-o", "json")

    assert done.returncode == Outcome.DONE, done.stderr
    assert done.stdout == f"logged in to {ann.world.api.gateway_url} as ann; the current context is prod\n"
    assert listed.returncode == Outcome.DONE, listed.stderr
    assert {"system"} <= {item["metadata"]["name"] for item in json.loads(listed.stdout)["items"]}
    assert ann.contexts()["prod"]["scopes"] == ["openid", "offline_access", "registry"]


def test_an_operator_that_logged_in_is_on_the_record_by_name(ann: Operator):
    ann.log_in()
    document = ann.home / "namespace.yaml"
    document.write_text("apiVersion: legation/v1\nkind: Namespace\nmetadata: {name: by-ann}\nspec: {}\n")

    applied = ann.run("apply", "-f", str(document))
    history = ann.run("history", "namespace", "by-ann", "-o", "json")

    assert applied.returncode == Outcome.DONE, applied.stderr
    assert "staff/ann" in history.stdout


def test_the_file_is_its_owners_alone(ann: Operator):
    ann.log_in()

    assert stat.S_IMODE(ann.file.stat().st_mode) == 0o600
    assert stat.S_IMODE(ann.file.parent.stat().st_mode) == 0o700
    assert {stat.S_IMODE(file.stat().st_mode) for file in ann.file.parent.iterdir()} == {0o600}
    ann.file.chmod(0o640)
    refused = ann.run("get", "namespaces")
    assert refused.returncode == Outcome.USAGE
    assert f"run: chmod 600 {ann.file}" in refused.stderr


def test_a_foreign_answer_is_refused_and_the_login_goes_on(ann: Operator):
    done = ann.log_in(browser="--before")

    assert done.returncode == Outcome.DONE, done.stderr
    assert "warning: something else than the answer of the login came to its port, and was refused" in done.stderr
    assert ann.session()["subject"] == "ann"


@pytest.mark.parametrize(
    ("tampering", "said"),
    [("--iss evil.example", "was answered by evil.example; it is refused"), ("--iss=", "does not say that it is from")],
)
def test_an_answer_of_another_issuer_is_refused(ann: Operator, tampering: str, said: str):
    done = ann.log_in(browser=tampering)

    assert done.returncode == Outcome.REFUSED
    assert said in done.stderr
    assert not ann.file.exists()


def test_an_expired_access_token_is_renewed_and_its_refresh_token_rotates(ann: Operator):
    ann.log_in()
    before = ann.session()
    ann.expire()

    listed = ann.run("get", "namespaces")

    after = ann.session()
    assert listed.returncode == Outcome.DONE, listed.stderr
    assert after["access_token"] != before["access_token"]
    assert after["refresh_token"] != before["refresh_token"]
    assert after["expires_at"] > time.time()
    assert refresh_at(ann.world, before["refresh_token"]) == (400, "invalid_grant")


def test_processes_that_renew_at_once_do_not_end_the_login(ann: Operator):
    ann.log_in()
    for _ in range(2):
        ann.expire()
        processes = [ann.start("get", "namespaces") for _ in range(4)]
        ends = [(process.communicate(timeout=120)[1], process.returncode) for process in processes]
        assert [code for _, code in ends] == [Outcome.DONE] * 4, ends

    assert refresh_at(ann.world, ann.session()["refresh_token"])[0] == 200


def test_a_login_that_the_provider_ended_says_how_to_log_in_again(ann: Operator):
    ann.log_in()
    form = {"token": ann.session()["refresh_token"], "client_id": "legation-cli"}
    assert exchange_json(f"{ann.world.issuer}/token/revocation", form=form).status == 200
    ann.expire()

    listed = ann.run("get", "namespaces")

    assert listed.returncode == Outcome.REFUSED
    assert "error: the login of the context prod is over" in listed.stderr
    assert "log in again: legation login --context prod" in listed.stderr
    assert ann.session() is None
    assert ann.run("login").returncode == Outcome.DONE, "everything else is remembered"
    assert ann.run("get", "namespaces").returncode == Outcome.DONE


def test_logout_revokes_at_the_provider_and_forgets(ann: Operator):
    ann.log_in()
    refresh_token = ann.session()["refresh_token"]

    done = ann.run("logout")

    assert (done.returncode, done.stdout) == (Outcome.DONE, "logged out of the context prod\n"), done.stderr
    assert ann.session() is None
    assert refresh_at(ann.world, refresh_token) == (400, "invalid_grant")
    assert "nobody is logged in with the context prod" in ann.run("get", "namespaces").stderr


def test_a_terminal_without_a_browser_logs_in_by_a_code(ann: Operator):
    process = ann.start("login", "--gateway-url", ann.world.api.gateway_url, "--client-id", "legation-cli", "--device")
    assert process.stderr is not None
    told = re.fullmatch(r"go to (\S+) and enter the code (\S+)\n", process.stderr.readline())
    assert told is not None

    page = visit(told[1], fields={"user_code": told[2]})
    output, errors = process.communicate(timeout=120)

    assert "Sign-in Success" in page
    assert process.returncode == Outcome.DONE, errors
    host = ann.world.api.gateway_url.removeprefix("http://").replace(":", "-")
    assert output.endswith(f"as ann; the current context is {host}\n")
    assert ann.session(host)["refresh_token"]
    assert ann.run("get", "namespaces").returncode == Outcome.DONE


def test_a_code_that_somebody_declines_is_no_login(ann: Operator):
    process = ann.start("login", "--gateway-url", ann.world.api.gateway_url, "--client-id", "legation-cli", "--device")
    assert process.stderr is not None
    told = re.fullmatch(r"go to (\S+) and enter the code (\S+)\n", process.stderr.readline())
    assert told is not None

    visit(told[1], fields={"user_code": told[2], "abort": "yes"})
    _, errors = process.communicate(timeout=120)

    assert process.returncode == Outcome.REFUSED
    assert "refused (access_denied)" in errors


def ci(ann: Operator, *args: str, **environ: str) -> subprocess.CompletedProcess[str]:
    return ann.log_in("--client-credentials", "--client-id", "ci", *args, **environ)


def test_ci_logs_in_with_a_secret_that_no_file_keeps(ann: Operator):
    done = ci(ann, "--issuer", ann.world.issuer, LEGATION_CLIENT_SECRET=SECRET)
    first = ann.session()["access_token"]

    assert done.returncode == Outcome.DONE, done.stderr
    assert SECRET not in ann.file.read_text()
    assert not ann.session()["refresh_token"]
    assert ann.run("get", "namespaces").returncode == Outcome.DONE
    ann.expire()
    without = ann.run("get", "namespaces")
    assert without.returncode == Outcome.REFUSED
    assert "LEGATION_CLIENT_SECRET is not set" in without.stderr
    assert ann.run("get", "namespaces", LEGATION_CLIENT_SECRET=SECRET).returncode == Outcome.DONE
    assert ann.session()["access_token"] != first


def test_ci_logs_in_with_a_secret_from_a_file(ann: Operator):
    file = ann.home / "secret"
    file.write_text(SECRET + "\n")
    file.chmod(0o600)

    done = ci(ann, "--issuer", ann.world.issuer, "--client-secret-file", str(file))
    ann.expire()

    assert done.returncode == Outcome.DONE, done.stderr
    assert ann.run("get", "namespaces").returncode == Outcome.DONE
    assert SECRET not in ann.file.read_text()


def test_a_secret_is_sent_to_no_issuer_that_only_the_gateway_names(ann: Operator):
    unnamed = ci(ann, LEGATION_CLIENT_SECRET=SECRET)
    untrusted = ci(ann, "--issuer", "http://127.0.0.1:9", LEGATION_CLIENT_SECRET=SECRET)

    assert unnamed.returncode == Outcome.USAGE
    assert "name the provider with --issuer" in unnamed.stderr
    assert untrusted.returncode == Outcome.REFUSED
    assert f"does not trust the issuer http://127.0.0.1:9\n  it trusts {ann.world.issuer}\n" in untrusted.stderr


def test_what_the_provider_refuses_is_told_with_what_to_do_and_without_the_secret(ann: Operator):
    wrong_secret = ci(ann, "--issuer", ann.world.issuer, LEGATION_CLIENT_SECRET="not-the-secret")
    unknown_client = ann.log_in("--device", "--client-id", "nobody")

    assert wrong_secret.returncode == unknown_client.returncode == Outcome.REFUSED
    assert "refused (invalid_client)" in wrong_secret.stderr
    assert "check --client-id, and the secret where the client has one" in wrong_secret.stderr
    assert "refused (invalid_client)" in unknown_client.stderr
    assert "not-the-secret" not in wrong_secret.stderr + wrong_secret.stdout


def test_a_token_that_the_gateway_refuses_is_not_kept(ann: Operator):
    done = ci(ann, "--issuer", ann.world.issuer, "--no-resource", LEGATION_CLIENT_SECRET=SECRET)

    assert done.returncode == Outcome.REFUSED
    assert "issued a token, but the gateway refuses it" in done.stderr
    assert not ann.file.exists()


def test_somebody_without_a_role_is_logged_in_and_told_so(ann: Operator):
    process = ann.start("login", "--gateway-url", ann.world.api.gateway_url, "--client-id", "legation-cli", "--no-browser")
    assert process.stderr is not None
    assert process.stderr.readline().startswith("log in at ")
    page = visit(process.stderr.readline().strip(), person="bob")
    _, errors = process.communicate(timeout=120)

    assert "Done." in page
    assert process.returncode == Outcome.DONE, errors
    assert "warning: the gateway knows you, but no RoleBinding gives you a legation: role yet" in errors
    assert "ask an administrator for a RoleBinding" in ann.run("status").stderr


def test_several_deployments_have_a_context_each_and_no_output_shows_a_token(ann: Operator):
    ann.log_in()
    ann.log_in("--context", "staging")
    held = [held for session in (ann.session(), ann.session("staging")) for held in (session["access_token"], session["refresh_token"])]

    said = [ann.run("context", *args) for args in (("list",), ("list", "-o", "json"), ("use", "prod"), ("show",), ("show", "staging"))]
    listed = json.loads(said[1].stdout)

    assert [done.returncode for done in said] == [Outcome.DONE] * 5
    assert (listed["current"], [item["name"] for item in listed["items"]]) == ("staging", ["prod", "staging"])
    assert "name: prod" in said[3].stdout
    assert not [token for token in held for done in said if token in done.stdout + done.stderr]
    assert "name: staging" in ann.run("context", "show", LEGATION_CONTEXT="staging").stdout
    assert ann.run("context", "delete", "prod").returncode == Outcome.DONE
    assert refresh_at(ann.world, held[1]) == (400, "invalid_grant")
    assert "no context is in use here" in ann.run("context", "show").stderr
    assert ann.run("--context", "staging", "get", "namespaces").returncode == Outcome.DONE
