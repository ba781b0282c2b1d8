"""Sealing: what opens, what does not, and that every secret of a document is known."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any, get_args, get_origin

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controlplane.registry.encryption import CLIENT_SECRET, STATIC_HEADER_SECRET, RegistryKey, open_secret, read_registry_key, secret_aad
from controlplane.registry.entry import SECRET_PATHS
from controlplane.registry.spec import SPEC_OF_KIND, Document, Kind, SecretReference
from extauthz.errors import ConfigurationError, CredentialError

KEY = RegistryKey(b"k" * 32)


@given(st.text(st.characters(codec="utf-8")))
def test_what_is_sealed_opens_again_and_never_looks_the_same(secret: str):
    aad = secret_aad("u1", STATIC_HEADER_SECRET)

    sealed = KEY.seal(secret, aad)

    assert KEY.open(sealed, aad) == secret.encode()
    assert sealed != KEY.seal(secret, aad)


def test_a_sealed_value_opens_only_where_it_was_sealed_and_with_its_key():
    sealed = KEY.seal("hunter2", secret_aad("u1", STATIC_HEADER_SECRET))

    assert open_secret(KEY, uid="u1", path=STATIC_HEADER_SECRET, sealed=sealed) == b"hunter2"
    for key, uid, path in (
        (KEY, "u2", STATIC_HEADER_SECRET),
        (KEY, "u1", CLIENT_SECRET),
        (RegistryKey(b"o" * 32), "u1", STATIC_HEADER_SECRET),
    ):
        with pytest.raises(CredentialError) as refusal:
            open_secret(key, uid=uid, path=path, sealed=sealed)
        assert "hunter2" not in str(refusal.value)


@pytest.mark.parametrize("text", ["", "hunter2", "sealed:v1:", "sealed:v1:!!!", "sealed:v1:AAAA", "sealed:v2:AAAA"])
def test_what_was_never_sealed_does_not_open(text: str):
    with pytest.raises(CredentialError):
        KEY.open(text, "a")


def test_derived_keys_differ_by_purpose_and_are_the_same_on_every_replica():
    assert KEY.derive(b"a") == RegistryKey(b"k" * 32).derive(b"a")
    assert KEY.derive(b"a") != KEY.derive(b"b")
    assert "k" * 32 not in repr(KEY)


@pytest.mark.parametrize(
    ("content", "mode", "message"),
    [
        (base64.b64encode(b"k" * 32), 0o644, "chmod 600"),
        (base64.b64encode(b"k" * 31), 0o600, "32 bytes"),
        (b"not base64!", 0o600, "32 bytes in base64"),
        (b"", 0o600, "32 bytes"),
    ],
)
def test_a_key_file_that_is_unsafe_or_malformed_stops_the_process(tmp_path: Path, content: bytes, mode: int, message: str):
    file = tmp_path / "key"
    file.write_bytes(content)
    file.chmod(mode)

    with pytest.raises(ConfigurationError, match=message):
        read_registry_key(file)


def test_a_key_file_that_is_missing_is_named(tmp_path: Path):
    with pytest.raises(ConfigurationError, match="LEGATION_ENCRYPTION_KEY_FILE"):
        read_registry_key(tmp_path / "none")


def test_every_secret_of_every_kind_is_known_to_be_one():
    found = {kind: tuple(sorted(_secret_paths(SPEC_OF_KIND[kind], "spec"))) for kind in Kind}

    assert {kind: paths for kind, paths in found.items() if paths} == {kind: tuple(sorted(paths)) for kind, paths in SECRET_PATHS.items()}


def _secret_paths(model: type[Document], path: str) -> list[str]:
    paths: list[str] = []
    for name, field in model.model_fields.items():
        here = f"{path}.{field.alias or name}{'.*' if get_origin(field.annotation) is dict else ''}"
        for part in _models(field.annotation):
            paths += [here] if part is SecretReference else _secret_paths(part, here)
    return paths


def _models(annotation: Any) -> list[type[Document]]:
    if isinstance(annotation, type) and issubclass(annotation, Document):
        return [annotation]
    return [model for part in get_args(annotation) for model in _models(part)]
