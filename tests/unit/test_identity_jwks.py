"""Keys of issuers: strict parsing, rotation, outage, slow and hostile answers, with a real HTTP issuer on loopback."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from jwt.algorithms import ECAlgorithm, RSAAlgorithm

from extauthz.address import AddressRules
from extauthz.errors import AuthenticationError, ConfigurationError, Reason
from extauthz.identity.jwks import MAX_KEY_SET_BYTES, KeySource, discovery_urls, parse_key_set
from extauthz.identity.provider import IdentityProvider
from tests.issuer import HttpIssuer, SigningKey, key_set

FIRST, SECOND = SigningKey("first"), SigningKey("second")
LOOPBACK = AddressRules(["127.0.0.0/8"])


def provider_of(issuer: HttpIssuer, /, **changes: Any) -> IdentityProvider:
    options = {"id": "acme", "namespace": "system", "name": "acme", "issuer": issuer.issuer, "allow_insecure_http": True, **changes}
    return IdentityProvider(**options)


def soon(seconds: float = 30.0) -> float:
    return asyncio.get_running_loop().time() + seconds


async def unavailable(key_source: KeySource, provider: IdentityProvider, seconds: float = 2.0) -> str:
    with pytest.raises(AuthenticationError) as caught:
        await key_source.keys_for(provider, "first", soon(seconds))
    assert caught.value.reason == Reason.ISSUER_UNAVAILABLE
    return caught.value.sentence


async def until(condition: Any) -> None:
    async with asyncio.timeout(60):
        while not condition():  # noqa: ASYNC110 - what is waited for has no event
            await asyncio.sleep(0.01)


@pytest.mark.parametrize("path", ["", "/realms/demo"])
@pytest.mark.parametrize("oidc", [True, False])
async def test_keys_are_found_by_discovery_in_both_forms(path: str, oidc: bool) -> None:
    async with HttpIssuer(FIRST, path=path) as issuer, KeySource(LOOPBACK) as key_source:
        issuer.oidc = oidc

        keys = await key_source.keys_for(provider_of(issuer), "first", soon())

        assert keys.has("first")


async def test_a_key_set_url_needs_no_discovery() -> None:
    async with HttpIssuer(FIRST) as issuer, KeySource(LOOPBACK) as key_source:
        keys = await key_source.keys_for(provider_of(issuer, issuer="urn:acme", jwks_url=f"{issuer.origin}/keys"), "first", soon())

        assert keys.has("first")
        assert issuer.asked["metadata"] == 0


async def test_inline_keys_need_no_network() -> None:
    provider = IdentityProvider(id="local", namespace="system", name="local", issuer="urn:local", jwks_json=key_set(FIRST))
    async with KeySource(AddressRules()) as key_source:
        assert (await key_source.keys_for(provider, "first", 0.0)).has("first")
        assert key_source.current_keys(provider) is await key_source.keys_for(provider, "other", 0.0)


async def test_unusable_inline_keys_make_the_issuer_unavailable() -> None:
    provider = IdentityProvider(id="local", namespace="system", name="local", issuer="urn:local", jwks_json='{"keys": []}')
    async with KeySource(AddressRules()) as key_source:
        assert "local" in await unavailable(key_source, provider)
        assert key_source.current_keys(provider) is None


async def test_watched_issuers_are_read_ahead_of_need() -> None:
    async with HttpIssuer(FIRST) as issuer, KeySource(LOOPBACK) as key_source:
        provider = provider_of(issuer)
        key_source.watch([provider])
        await until(lambda: key_source.current_keys(provider) is not None)

        key_source.watch([])
        assert key_source.current_keys(provider) is None


async def test_a_rotated_key_is_found_on_its_first_use() -> None:
    async with HttpIssuer(FIRST) as issuer, KeySource(LOOPBACK) as key_source:
        provider = provider_of(issuer)
        before = await key_source.keys_for(provider, "first", soon())
        issuer.keys = [FIRST, SECOND]

        after = await key_source.keys_for(provider, "second", soon())

        assert after.has("second")
        assert not before.has("second")


async def test_a_storm_of_unknown_key_ids_reads_the_keys_once() -> None:
    async with HttpIssuer(FIRST) as issuer, KeySource(LOOPBACK) as key_source:
        provider = provider_of(issuer)
        await key_source.keys_for(provider, "first", soon())
        asked = issuer.asked["keys"]

        for _ in range(5):
            await asyncio.gather(*(key_source.keys_for(provider, f"unknown-{number}", soon()) for number in range(200)))

        assert issuer.asked["keys"] == asked + 1


async def test_many_first_requests_share_one_read() -> None:
    async with HttpIssuer(FIRST) as issuer, KeySource(LOOPBACK) as key_source:
        issuer.delay_seconds = 0.1
        await asyncio.gather(*(key_source.keys_for(provider_of(issuer), "first", soon()) for _ in range(50)))

        assert issuer.asked["keys"] == 1


async def test_the_same_keys_read_again_are_the_same_object() -> None:
    async with HttpIssuer(FIRST) as issuer, KeySource(LOOPBACK, refresh_seconds=0.05) as key_source:
        provider = provider_of(issuer)
        before = await key_source.keys_for(provider, "first", soon())
        await until(lambda: issuer.asked["keys"] >= 3)
        assert key_source.current_keys(provider) is before

        issuer.keys = [SECOND]
        await until(lambda: key_source.current_keys(provider) is not before)
        assert not (await key_source.keys_for(provider, "second", soon())).has("first")


async def test_the_last_good_keys_serve_while_the_issuer_is_down() -> None:
    async with HttpIssuer(FIRST) as issuer, KeySource(LOOPBACK, refresh_seconds=0.05, retry_seconds=0.02) as key_source:
        provider = provider_of(issuer)
        before = await key_source.keys_for(provider, "first", soon())
        issuer.down = True
        metadata = issuer.asked["metadata"]
        await until(lambda: issuer.asked["metadata"] > metadata + 3)

        assert await key_source.keys_for(provider, "first", soon()) is before
        issuer.down, issuer.keys = False, [SECOND]
        await until(lambda: (key_source.current_keys(provider) or before).has("second"))


async def test_last_good_keys_end_with_their_bound() -> None:
    async with HttpIssuer(FIRST) as issuer, KeySource(LOOPBACK, refresh_seconds=0.05, max_staleness_seconds=0.2) as key_source:
        provider = provider_of(issuer)
        await key_source.keys_for(provider, "first", soon())
        issuer.down = True
        await until(lambda: key_source.current_keys(provider) is None)

        await unavailable(key_source, provider)


async def test_a_slow_issuer_costs_no_more_than_the_deadline() -> None:
    async with HttpIssuer(FIRST) as issuer, KeySource(LOOPBACK) as key_source:
        issuer.gate = asyncio.Event()

        await unavailable(key_source, provider_of(issuer), seconds=0.1)

        issuer.gate.set()
        assert (await key_source.keys_for(provider_of(issuer), "first", soon())).has("first")
        assert issuer.asked["keys"] == 1, "the read went on meanwhile"


async def test_a_slow_rotation_does_not_delay_known_keys() -> None:
    async with HttpIssuer(FIRST) as issuer, KeySource(LOOPBACK) as key_source:
        provider = provider_of(issuer)
        await key_source.keys_for(provider, "first", soon())
        issuer.gate = asyncio.Event()
        waiting = asyncio.create_task(key_source.keys_for(provider, "second", soon(0.3)))
        await asyncio.sleep(0.05)

        assert (await asyncio.wait_for(key_source.keys_for(provider, "first", soon(3600)), 60)).has("first")

        assert not (await waiting).has("second")


async def test_a_cancelled_request_leaves_the_read_to_the_others() -> None:
    async with HttpIssuer(FIRST) as issuer, KeySource(LOOPBACK) as key_source:
        issuer.gate = asyncio.Event()
        abandoned = asyncio.create_task(key_source.keys_for(provider_of(issuer), "first", soon()))
        other = asyncio.create_task(key_source.keys_for(provider_of(issuer), "first", soon()))
        await until(lambda: issuer.asked["keys"] == 1)
        abandoned.cancel()
        with pytest.raises(asyncio.CancelledError):
            await abandoned

        issuer.gate.set()
        assert (await other).has("first")


async def test_leaving_ends_every_task_even_in_the_middle_of_a_read() -> None:
    async with HttpIssuer(FIRST) as issuer:
        issuer.delay_seconds = 30
        async with KeySource(LOOPBACK) as key_source:
            key_source.watch([provider_of(issuer)])
            await until(lambda: issuer.asked["keys"] == 1)
        assert not [task for task in asyncio.all_tasks() if "keys of" in task.get_name()]
        issuer.delay_seconds = 0


@pytest.mark.parametrize(
    "misbehave",
    [
        {"claimed_issuer": "http://127.0.0.1:1"},
        {"claimed_issuer": "slash"},
        {"redirect_to": "/keys2"},
        {"redirect_to": "http://169.254.169.254/latest/meta-data"},
        {"jwks_uri": "file:///etc/passwd"},
        {"jwks_uri": "http://169.254.169.254/latest/meta-data"},
        {"jwks_uri": "http://10.0.0.1/keys"},
        {"jwks_uri": "http://[::ffff:169.254.169.254]/keys"},
        {"jwks_uri": "http://2852039166/keys"},
        {"jwks_uri": "http://example.com/keys"},
        {"key_set_text": "x" * (MAX_KEY_SET_BYTES + 1)},
        {"key_set_text": "not JSON"},
        {"key_set_text": "[" * 100_000},
        {"key_set_text": "[]"},
        {"key_set_text": "{}"},
        {"key_set_text": '{"keys": []}'},
        {"key_set_text": '{"keys": {"a": 1}}'},
        {"down": True},
    ],
    ids=lambda change: " ".join(f"{name}={str(value)[:50]}" for name, value in change.items()),
)
async def test_a_hostile_or_broken_issuer_gives_no_keys(misbehave: dict[str, Any]) -> None:
    async with HttpIssuer(FIRST) as issuer, KeySource(LOOPBACK) as key_source:
        for name, value in misbehave.items():
            setattr(issuer, name, f"{issuer.issuer}/" if value == "slash" else value)

        await unavailable(key_source, provider_of(issuer))

        assert issuer.asked["keys"] <= 2


async def test_plain_http_needs_the_entrys_word_and_a_loopback_host() -> None:
    async with HttpIssuer(FIRST) as issuer, KeySource(AddressRules(["127.0.0.0/8", "10.0.0.0/8"])) as key_source:
        await unavailable(key_source, provider_of(issuer, allow_insecure_http=False))
        await unavailable(key_source, provider_of(issuer, issuer="http://10.1.1.1"), seconds=0.2)
        assert issuer.asked == {"metadata": 0, "keys": 0}


async def test_a_loopback_issuer_is_refused_where_loopback_is_not_allowed() -> None:
    async with HttpIssuer(FIRST) as issuer, KeySource(AddressRules()) as key_source:
        await unavailable(key_source, provider_of(issuer))
        assert issuer.asked == {"metadata": 0, "keys": 0}


def test_discovery_knows_where_metadata_stands() -> None:
    assert discovery_urls("https://issuer.example/realms/a/") == (
        "https://issuer.example/realms/a/.well-known/openid-configuration",
        "https://issuer.example/.well-known/oauth-authorization-server/realms/a",
    )
    assert discovery_urls("urn:local") == ()
    assert discovery_urls("https://issuer.example/?x=1") == ()


@pytest.mark.parametrize("member", ["d", "k", "p"])
def test_a_key_set_with_a_secret_is_refused_whole(member: str) -> None:
    with pytest.raises(ConfigurationError, match="public keys only"):
        parse_key_set(json.dumps({"keys": [FIRST.public_jwk(), SECOND.public_jwk(**{member: "AAAA"})]}))


def test_a_symmetric_key_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="public keys only"):
        parse_key_set('{"keys": [{"kty": "oct", "kid": "x", "alg": "HS256"}]}')


def test_keys_that_are_not_for_signatures_are_left_out() -> None:
    weak = RSAAlgorithm.to_jwk(rsa.generate_private_key(public_exponent=65537, key_size=1024).public_key(), as_dict=True)
    other_curve = ECAlgorithm.to_jwk(ec.generate_private_key(ec.SECP256K1()).public_key(), as_dict=True)
    left_out = [
        FIRST.public_jwk(use="enc"),
        FIRST.public_jwk(key_ops=["encrypt"]),
        FIRST.public_jwk(alg="RS256"),
        FIRST.public_jwk(alg=["ES256"]),
        {"kty": "RSA", "kid": "weak", **{k: v for k, v in weak.items() if k in "ne"}},
        {**other_curve, "kid": "k1"},
        {"kty": "AKP", "kid": "future", "alg": "ML-DSA-65", "pub": "AAAA"},
    ]
    for jwk in left_out:
        jwk.pop("key_ops", None) if jwk.get("key_ops") == ["verify"] else None

    keys = parse_key_set(json.dumps({"keys": [*left_out, SECOND.public_jwk()]}))

    assert [key.kid for key in keys.keys] == ["second"]
    for jwk in left_out:
        with pytest.raises(ConfigurationError, match="signature key"):
            parse_key_set(json.dumps({"keys": [jwk]}))


@pytest.mark.parametrize(
    "jwk",
    ["x", None, {"kty": "EC", "crv": "P-256", "x": "AA", "y": "AA"}, {"kty": "EC", "crv": "P-256", "x": 1}, {"kty": "RSA", "n": "AA"}],
    ids=str,
)
def test_a_malformed_key_refuses_the_set(jwk: object) -> None:
    with pytest.raises(ConfigurationError):
        parse_key_set(json.dumps({"keys": [FIRST.public_jwk(), jwk]}))


def test_a_key_set_of_thousands_of_keys_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="at most"):
        parse_key_set(json.dumps({"keys": [{}] * 101}))
