"""The file of contexts, which deployment a command is about, and what a login takes for an answer."""

from __future__ import annotations

import json
import os
import stat
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from urllib.parse import urlencode

import pytest

from controlplane.cli.browser_login import Waiting
from controlplane.cli.context_file import Context, ContextFile, Contexts, Session, context_file
from controlplane.cli.invocation import Invocation
from controlplane.cli.issuer import IssuerMetadata, is_usable_url
from controlplane.cli.login import Wishes, wanted_context
from controlplane.cli.operator_session import access_token_of
from controlplane.cli.outcome import CommandError

SESSION = Session(access_token="access-token", expires_at=time.time() + 3600, refresh_token="refresh-token", subject="ann")
PROD = Context(gateway_url="https://prod.example", issuer="https://idp.example", client_id="cli", scopes=("registry",), session=SESSION)
STAGING = replace(PROD, gateway_url="https://staging.example", session=None)
NOTHING = Wishes(client_id=None, issuer=None, grant=None, scopes=(), audience=None, resource=None, client_secret_file=None)
ISSUER = IssuerMetadata(
    issuer="https://idp.example",
    authorization_endpoint="https://idp.example/auth",
    token_endpoint="https://idp.example/token",
    device_authorization_endpoint="",
    revocation_endpoint="",
    names_itself=True,
    challenge_methods=("S256",),
    secret_in_body=False,
    scopes=(),
)


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ContextFile:
    """The user's own, with two contexts; the current one is prod."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.chdir(tmp_path)
    found = context_file()
    found.change(lambda _: Contexts(current="prod", entries={"prod": PROD, "staging": STAGING}))
    return found


def test_what_is_written_is_read_again(file: ContextFile):
    assert file.read() == Contexts(current="prod", entries={"prod": PROD, "staging": STAGING})
    assert stat.S_IMODE(file.path.stat().st_mode) == 0o600
    assert sorted(path.name for path in file.path.parent.iterdir()) == [".contexts.lock", "contexts.json"]


def test_no_file_is_no_context_and_reading_makes_none(tmp_path: Path):
    assert ContextFile(tmp_path / "none").read() == Contexts()
    assert not (tmp_path / "none").exists()


def test_a_change_that_fails_changes_nothing(file: ContextFile):
    before = file.path.read_bytes()

    with pytest.raises(CommandError, match="no context 'elsewhere'"):
        file.change(lambda contexts: contexts.with_entry("x", contexts.get("elsewhere")))

    assert file.path.read_bytes() == before


def test_a_relative_configuration_directory_does_not_count(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_CONFIG_HOME", "relative")

    assert context_file().path == tmp_path / ".config" / "legation" / "contexts.json"


def _link(file: ContextFile) -> None:
    file.path.rename(file.path.with_name("elsewhere"))
    file.path.symlink_to("elsewhere")


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda file: file.path.chmod(0o604), "is open to other users"),
        (lambda file: file.path.chmod(0o620), "is open to other users"),
        (lambda file: file.path.parent.chmod(0o777), "is open to other users"),
        (_link, "it must be a file, not a link"),
        (lambda file: file.path.write_text("{"), "is damaged"),
        (lambda file: file.path.write_text("[]"), "is damaged"),
        (lambda file: file.path.write_text('{"format": 2, "current": "", "contexts": {}}'), "is damaged"),
        (lambda file: file.path.write_text('{"format": 1, "current": "", "contexts": {"a": {}}}'), "is damaged"),
    ],
)
def test_a_file_that_cannot_be_trusted_is_refused(file: ContextFile, spoil: Callable[[ContextFile], None], said: str):
    spoil(file)

    with pytest.raises(CommandError, match=said) as caught:
        file.read()

    assert "refresh-token" not in str(caught.value)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
def test_the_file_of_another_user_is_refused(file: ContextFile):
    os.chown(file.path, 12345, 12345)

    with pytest.raises(CommandError, match="belongs to another user"):
        file.read()


def test_no_representation_shows_a_token():
    assert "refresh-token" not in repr(PROD)
    assert "access-token" not in repr(PROD)


def test_the_current_context_counts_when_nothing_else_was_said(file: ContextFile):
    assert Invocation().context_in_use() == "prod"
    assert Invocation().reachable_gateway_url() == "https://prod.example"
    assert Invocation(context="staging", chosen=frozenset({"context"})).reachable_gateway_url() == "https://staging.example"


@pytest.mark.parametrize("chosen", [{"gateway_url": "https://other.example"}, {"data_dir": Path("elsewhere")}])
def test_what_was_named_comes_before_the_current_context(file: ContextFile, chosen: dict[str, object]):
    assert Invocation(chosen=frozenset(chosen), **chosen).context_in_use() == ""  # type: ignore[arg-type]


def test_a_deployment_that_runs_in_this_folder_comes_before_the_current_context(file: ContextFile):
    Path(".legation").mkdir()
    Path(".legation/deployment.json").write_text(json.dumps({"gateway_url": "http://127.0.0.1:8080"}))

    assert Invocation().reachable_gateway_url() == "http://127.0.0.1:8080"
    assert Invocation(context="prod", chosen=frozenset({"context"})).reachable_gateway_url() == "https://prod.example"


@pytest.mark.parametrize("chosen", [{"gateway_url": "https://other.example"}, {"data_dir": Path("elsewhere")}])
def test_two_deployments_at_once_are_refused(file: ContextFile, chosen: dict[str, object]):
    invocation = Invocation(context="prod", chosen=frozenset({"context", *chosen}), **chosen)  # type: ignore[arg-type]

    with pytest.raises(CommandError, match="name two deployments"):
        invocation.reachable_gateway_url()


def test_a_context_over_plain_http_needs_the_same_word_as_ever(file: ContextFile):
    file.change(lambda contexts: contexts.with_entry("prod", replace(PROD, gateway_url="http://prod.example")))

    with pytest.raises(CommandError, match="in clear"):
        Invocation().reachable_gateway_url()
    assert Invocation(insecure_http=True).reachable_gateway_url() == "http://prod.example"


def test_the_token_of_one_gateway_is_not_shown_to_another(file: ContextFile):
    assert access_token_of(file, "prod", "https://prod.example") == "access-token"
    with pytest.raises(CommandError, match=r"is now for https://prod\.example"):
        access_token_of(file, "prod", "https://staging.example")


def test_a_login_without_a_refresh_token_says_so_when_it_is_over(file: ContextFile):
    over = replace(PROD, session=replace(SESSION, refresh_token="", expires_at=time.time()))
    file.change(lambda contexts: contexts.with_entry("prod", over))

    with pytest.raises(CommandError, match="gave no refresh token") as caught:
        access_token_of(file, "prod", "https://prod.example")

    assert caught.value.remedy == "log in again: legation login --context prod"


def test_a_login_again_knows_what_was_said_before(file: ContextFile):
    name, context = wanted_context(Invocation(), NOTHING, file.read())
    by_url = wanted_context(Invocation(gateway_url="https://staging.example/"), NOTHING, file.read())
    otherwise = wanted_context(Invocation(), replace(NOTHING, grant="device"), file.read())[1]

    assert (name, context) == ("prod", PROD)
    assert by_url == ("staging", STAGING)
    assert (otherwise.grant, otherwise.scopes) == ("device", ()), "another way asks for its own scopes"


@pytest.mark.parametrize(
    ("invocation", "said"),
    [
        (Invocation(context="prod", gateway_url="https://staging.example"), "the context prod is for https://prod.example"),
        (Invocation(context="../x", gateway_url="https://new.example"), "is no name for a context"),
        (Invocation(gateway_url="http://new.example"), "in clear"),
        (Invocation(gateway_url="https://new.example"), "say which OAuth client"),
    ],
)
def test_a_login_that_cannot_be_meant_is_refused(file: ContextFile, invocation: Invocation, said: str):
    with pytest.raises(CommandError, match=said):
        wanted_context(invocation, NOTHING, file.read())


@pytest.mark.parametrize(
    ("answer", "status", "said"),
    [
        ({"code": "c", "iss": ISSUER.issuer}, 200, ""),
        ({"code": "c", "iss": "https://idp.example/"}, 400, "was answered by https://idp.example/"),
        ({"code": "c", "iss": ""}, 400, "was answered by ; it is refused"),
        ({"code": "c"}, 400, "does not say that it is from"),
        ({"error": "access_denied", "error_description": "no", "iss": ISSUER.issuer}, 400, r"refused \(access_denied\): no"),
        ({"error": "access_denied", "iss": "https://evil.example"}, 400, "was answered by https://evil.example"),
        ({"iss": ISSUER.issuer}, 400, "without a code"),
    ],
)
def test_the_answer_to_a_login(answer: dict[str, str], status: int, said: str):
    waiting = Waiting(ISSUER, "the-state")

    answered = waiting.take(urlencode({**answer, "state": "the-state"}))

    assert answered[0] == status
    if said:
        with pytest.raises(CommandError, match=said):
            waiting.code(1)
    else:
        assert waiting.code(1) == "c"
    assert waiting.take(urlencode({"code": "d", "iss": ISSUER.issuer, "state": "the-state"})) == (
        400,
        "This login has been answered already.",
    )


@pytest.mark.parametrize(
    "query",
    [
        "",
        "code=c",
        "code=c&state=",
        "code=c&state=other&iss=https://idp.example",
        "code=c&state=the-state&state=the-state&iss=https://idp.example",
        "code=c&code=d&state=the-state&iss=https://idp.example",
        "code=c&state=%ff&iss=https://idp.example",
        "&".join(["state=the-state", *["x=y"] * 60]),
    ],
)
def test_an_answer_to_something_else_is_refused_and_the_login_waits_on(query: str):
    waiting = Waiting(ISSUER, "the-state")

    assert waiting.take(query)[0] == 400
    assert waiting.take(f"code=c&state=the-state&iss={ISSUER.issuer}")[0] == 200
    assert waiting.code(1) == "c"


def test_an_issuer_that_promises_no_name_may_leave_it_out_but_not_lie():
    silent = replace(ISSUER, names_itself=False)
    without, lying = Waiting(silent, "s"), Waiting(silent, "s")

    assert without.take("code=c&state=s")[0] == 200
    assert lying.take("code=c&state=s&iss=https://evil.example")[0] == 400


def test_a_login_that_nobody_answers_ends():
    with pytest.raises(CommandError, match="nobody logged in") as caught:
        Waiting(ISSUER, "s").code(0.01)

    assert "--device" in caught.value.remedy


@pytest.mark.parametrize(
    ("url", "usable"),
    [
        ("https://idp.example/auth?tenant=a", True),
        ("http://127.0.0.1:8080/auth", True),
        ("http://idp.example/auth", False),
        ("file:///etc/passwd", False),
        ("javascript:alert(1)", False),
        ("https://idp.example/a b", False),
        ("https://idp.example/\x1b[31m", False),
        ("https://user@idp.example/", False),
        ("https://idp.example/#fragment", False),
        ("https://idp.example:x/", False),
        ("https:///auth", False),
        ("-https://idp.example", False),
        ("https://ídp.example", False),
    ],
)
def test_which_addresses_a_login_may_involve(url: str, usable: bool):
    assert is_usable_url(url) is usable
