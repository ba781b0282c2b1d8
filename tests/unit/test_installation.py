"""What an embedded deployment's data directory is given, once."""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import jwt
import pytest

from controlplane.database import open_database, sqlite_url
from controlplane.development_issuer import create_credential_file, create_private_file, mint_token, public_jwks, read_credential_file
from controlplane.registry.encryption import read_registry_key
from controlplane.registry.installation import prepare
from controlplane.registry.state import RegistryState
from controlplane.registry.store import RegistryStore
from extauthz.errors import ConfigurationError
from extauthz.runtime import Deployment

GATEWAY_URL = "http://127.0.0.1:8080"


@pytest.fixture
def deployment(tmp_path: Path) -> Iterator[Deployment]:
    previous = os.umask(0)  # file modes must not depend on it
    yield Deployment(data_dir=tmp_path / "data", runtime_dir=tmp_path / "run")
    os.umask(previous)


def _state(deployment: Deployment) -> RegistryState:
    store = RegistryStore(open_database(sqlite_url(deployment.database_file)))
    try:
        return store.read_state()
    finally:
        store.close()


def _secrets(deployment: Deployment) -> tuple[Path, ...]:
    return (deployment.encryption_key_file, deployment.admin_credential_file, deployment.development_issuer_file)


def test_a_new_directory_gets_keys_credentials_and_first_entries(deployment: Deployment):
    prepare(deployment, GATEWAY_URL)

    state = _state(deployment)
    assert state.revision == 1
    assert set(state.namespaces) == {"system"}
    assert set(state.identity_providers) == {"system/operators", "system/local"}
    assert state.identity_providers["system/operators"].spec.operators_only
    assert state.identity_providers["system/operators"].spec.audiences == (f"{GATEWAY_URL}/v1",)
    administrators = state.role_bindings["system/administrators"].spec
    assert (administrators.role, administrators.subjects[0].name) == ("legation:administrator", "operators/admin")


def test_secret_files_are_private_whatever_the_umask(deployment: Deployment):
    prepare(deployment, GATEWAY_URL)

    for file in (*_secrets(deployment), deployment.database_file):
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert [path.name for path in deployment.data_dir.iterdir() if path.name.startswith(".")] == []


def test_a_second_call_changes_nothing(deployment: Deployment):
    prepare(deployment, GATEWAY_URL)
    before = [file.read_bytes() for file in _secrets(deployment)]

    prepare(deployment, GATEWAY_URL)

    assert [file.read_bytes() for file in _secrets(deployment)] == before
    assert _state(deployment).revision == 1
    read_registry_key(deployment.encryption_key_file)


@pytest.mark.parametrize("kid", ["1234e56789012345", "12345678e9012345", "0123456789012345"])
def test_a_key_id_that_looks_like_a_number_is_a_key_id(deployment: Deployment, kid: str):
    deployment.create()
    create_credential_file(deployment.admin_credential_file, issuer="urn:legation:operators", subject="admin")
    credential = json.loads(deployment.admin_credential_file.read_text())
    deployment.admin_credential_file.write_text(json.dumps({**credential, "kid": kid}))

    prepare(deployment, GATEWAY_URL)

    jwks = _state(deployment).identity_providers["system/operators"].spec.jwks
    assert jwks is not None
    assert jwks == public_jwks(deployment.admin_credential_file)


def test_a_lost_credential_is_made_anew_and_trusted(deployment: Deployment):
    prepare(deployment, GATEWAY_URL)
    deployment.admin_credential_file.unlink()

    prepare(deployment, GATEWAY_URL)

    assert _state(deployment).identity_providers["system/operators"].spec.jwks == public_jwks(deployment.admin_credential_file)
    assert _state(deployment).revision == 2


def test_private_keys_stay_in_their_files(deployment: Deployment):
    prepare(deployment, GATEWAY_URL)

    for file in (deployment.admin_credential_file, deployment.development_issuer_file):
        private = json.loads(file.read_bytes())["private_jwk"]["d"]
        assert private not in json.dumps(public_jwks(file))
        assert private.encode() not in deployment.database_file.read_bytes()


def test_a_file_is_created_once_even_by_many(tmp_path: Path):
    file = tmp_path / "key"

    with ThreadPoolExecutor(8) as pool:
        made = list(pool.map(lambda number: create_private_file(file, str(number).encode()), range(16)))

    assert made.count(True) == 1
    assert file.read_bytes() == str(made.index(True)).encode()
    assert list(tmp_path.iterdir()) == [file]


def test_a_token_is_short_lived_and_says_what_was_asked(deployment: Deployment):
    prepare(deployment, GATEWAY_URL)
    file = deployment.development_issuer_file

    token = mint_token(file, subject="ann", audience="https://a.example.com", groups=("g",), claims={"team": "x"}, ttl_seconds=60)

    key = jwt.PyJWK(public_jwks(file)["keys"][0])  # type: ignore[index]
    claims = jwt.decode(token, key, algorithms=["EdDSA"], audience="https://a.example.com")
    assert jwt.get_unverified_header(token)["typ"] == "at+jwt"
    assert (claims["iss"], claims["sub"], claims["groups"], claims["team"]) == ("urn:legation:development-issuer", "ann", ["g"], "x")
    assert claims["exp"] - claims["iat"] == 60


def test_the_administrators_credential_signs_for_the_administrator_only(deployment: Deployment):
    prepare(deployment, GATEWAY_URL)
    file = deployment.admin_credential_file

    token = mint_token(file, subject="", audience="x")

    assert jwt.decode(token, options={"verify_signature": False})["sub"] == "admin"
    with pytest.raises(ConfigurationError, match="cannot sign for ann"):
        mint_token(file, subject="ann", audience="x")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"subject": ""}, "needs a subject"),
        ({"claims": {"exp": 1}}, "the claim exp cannot be chosen"),
        ({"claims": {"sub": "other"}}, "the claim sub cannot be chosen"),
        ({"ttl_seconds": 0}, "lives 1 to"),
        ({"ttl_seconds": 10**6}, "lives 1 to"),
    ],
)
def test_a_token_that_should_not_be_is_refused(deployment: Deployment, options: dict[str, object], message: str):
    prepare(deployment, GATEWAY_URL)

    with pytest.raises(ConfigurationError, match=message):
        mint_token(deployment.development_issuer_file, **{"subject": "ann", "audience": "x", **options})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("content", "mode"), [("{}", 0o600), ("[]", 0o600), ("nonsense", 0o600), ('{"issuer": "a"}', 0o600), ("{}", 0o644)]
)
def test_a_credential_that_is_none_or_readable_by_others_is_refused(tmp_path: Path, content: str, mode: int):
    file = tmp_path / "credential.json"
    file.write_text(content)
    file.chmod(mode)

    with pytest.raises(ConfigurationError, match=str(file)):
        read_credential_file(file)


def test_a_missing_credential_says_who_makes_one(tmp_path: Path):
    with pytest.raises(ConfigurationError, match="legation up"):
        read_credential_file(tmp_path / "none.json")
