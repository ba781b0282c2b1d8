"""What `spec.preset` of an IdentityProvider means: defaults of the mapping, and what would not work or not be safe with that product.

    IdentityProviderSpec ──▶ `claim_rules_of`, `algorithms_of`, `token_types_of` ──▶ authorizer; `problems_of` ──▶ apply

What a document says itself wins over its preset. Sources and what was emulated in tests: docs/identity.md.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any

from controlplane.registry.spec import DEFAULT_ALGORITHMS, IdentityProviderSpec
from extauthz.identity.provider import ClaimRules

_GUID = r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}"
_ENTRA_ISSUER = re.compile(
    rf"https://(login\.microsoftonline\.(com|us)/({_GUID})/v2\.0|login\.partner\.microsoftonline\.cn/({_GUID})/v2\.0"
    rf"|sts\.windows\.net/({_GUID})/|sts\.chinacloudapi\.cn/({_GUID})/)"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class ProviderProblem:
    """What is wrong with an IdentityProvider, and where in its document."""

    path: str
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class _Preset:
    """One product. `issuer` must match as a whole; `audience_reason` says why `spec.audiences` cannot be left out."""

    rules: ClaimRules
    issuer: re.Pattern[str]
    issuer_hint: str
    algorithms: tuple[str, ...] = DEFAULT_ALGORITHMS
    token_types: tuple[str, ...] = ()
    audience_reason: str = ""


_PRESETS: Mapping[str, _Preset] = MappingProxyType(
    {
        # https://developer.okta.com/docs/api/openapi/okta-oauth/guides/overview/ : `cid`, `scp`; `sub` of client credentials is the
        # client id. The organisation's own authorization server issues tokens for Okta itself; only Okta may verify them.
        "okta": _Preset(
            rules=ClaimRules(oauth_client=("cid",), client_required=True, agent_subjects=("{client}",)),
            issuer=re.compile(r"https://[^/]+/oauth2/[A-Za-z0-9_-]+"),
            issuer_hint=(
                "must be that of a custom authorization server, https://<domain>/oauth2/<id>: access tokens of the organisation's own"
                " server are for Okta itself"
            ),
            algorithms=("RS256",),
            audience_reason="Okta puts the one audience of the authorization server into its tokens (such as api://default)",
        ),
        # https://learn.microsoft.com/entra/identity-platform/access-token-claims-reference : `typ` is always JWT, `oid` is the same
        # in every application while `sub` is not, `azp` (2.0) or `appid` (1.0) is the client, `uti` the token's id, more than 200
        # groups become `_claim_names`; `idtyp` is "app" for an application's own token, where that optional claim is switched on.
        "entra": _Preset(
            rules=ClaimRules(
                subject="oid",
                groups=("groups", "roles"),
                tenant="tid",
                oauth_client=("azp", "appid"),
                client_required=True,
                token_id=("uti",),
                kind="idtyp",
                agent_kinds=("app",),
                agent_without=("scp",),
            ),
            issuer=_ENTRA_ISSUER,
            issuer_hint=(
                "must name one tenant: https://login.microsoftonline.com/<tenant id>/v2.0 (or https://sts.windows.net/<tenant id>/ for"
                " tokens of version 1.0); `common`, `organizations` and `consumers` are everybody's"
            ),
            algorithms=("RS256",),
            token_types=("JWT",),
            audience_reason="Entra puts the application id (or its api:// URI) of the registered API into its tokens",
        ),
        # https://developers.google.com/identity/openid-connect/openid-connect : access tokens are opaque; ID tokens have `aud` = OAuth
        # client, `azp`, `hd` = Workspace domain. An ID token of a service account has `azp` = `sub`.
        "google": _Preset(
            rules=ClaimRules(groups=(), tenant="hd", oauth_client=("azp",), agent_subjects=("{client}",), id_tokens=True),
            issuer=re.compile(r"https://accounts\.google\.com"),
            issuer_hint="must be https://accounts.google.com",
            algorithms=("RS256",),
            token_types=("JWT",),
            audience_reason="an ID token of Google is meant for the OAuth client that it was issued to: name its client id",
        ),
        # https://developer.pingidentity.com/pingone-api/foundations/authentication-concepts/access-tokens-and-id-tokens/token-claims.html :
        # `client_id` is in access tokens only, `sub` is absent from client credentials; ID tokens are signed with the same key.
        "ping": _Preset(
            rules=ClaimRules(oauth_client=("client_id",), client_required=True, subject_from_client=True),
            issuer=re.compile(rf"https://auth\.pingone\.[a-z.]{{2,6}}/{_GUID}/as|https://(?!auth\.pingone\.)[^/]+(/[^?#]*)?"),
            issuer_hint="must be https://auth.pingone.<region>/<environment id>/as, or the issuer of your PingFederate",
            algorithms=("RS256",),
        ),
        # https://www.keycloak.org/docs/latest/server_admin/ : the payload says `typ` Bearer (ID, Refresh, Offline for others), `azp` is
        # the client, `client_id` is there for service accounts only.
        "keycloak": _Preset(
            rules=ClaimRules(
                groups=("groups", "/realm_access/roles"),
                oauth_client=("azp",),
                client_required=True,
                agent="client_id",
                required=(("typ", ("Bearer", "DPoP")),),
            ),
            issuer=re.compile(r"https?://[^/]+(/[^?#]*)?/realms/[^/?#]+"),
            issuer_hint="must be that of a realm: https://<host>/realms/<realm>, without a slash at its end",
        ),
        # https://auth0.com/docs/secure/tokens/access-tokens/access-token-profiles : the Auth0 profile has `azp` and `gty`, the RFC 9068
        # profile `client_id` and `typ: at+jwt`; `sub` of client credentials is <client>@clients. ID tokens have neither client claim.
        "auth0": _Preset(
            rules=ClaimRules(
                groups=(),
                tenant="org_id",
                oauth_client=("azp", "client_id"),
                client_required=True,
                kind="gty",
                agent_kinds=("client-credentials",),
                agent_subjects=("{client}@clients",),
            ),
            issuer=re.compile(r"https://[^/]+/"),
            issuer_hint="must end with a slash: https://<tenant>.auth0.com/",
            algorithms=("RS256", "PS256"),
        ),
    }
)
_STANDARD = _Preset(rules=ClaimRules(), issuer=re.compile(r".*", re.DOTALL), issuer_hint="")


def claim_rules_of(spec: IdentityProviderSpec) -> ClaimRules:
    """The rules of this provider: its preset, changed by what the document says itself."""
    rules, mapping = _preset_of(spec).rules, spec.mapping
    changes: dict[str, Any] = {
        "id_tokens": spec.accept_id_tokens,
        "tenants": spec.tenants,
        "oauth_clients": spec.oauth_clients,
        "attributes": mapping.claims,
        "labels": tuple(sorted(mapping.labels.items())),
        "required": (*rules.required, *_further_requirements(spec)),
    }
    if mapping.subject:
        changes |= {"subject": mapping.subject}
    if mapping.groups != "":
        changes |= {"groups": (mapping.groups,) if isinstance(mapping.groups, str) else mapping.groups}
    if mapping.tenant:
        changes |= {"tenant": mapping.tenant}
    if mapping.client:
        changes |= {"oauth_client": (mapping.client,)}
    if mapping.agent:
        changes |= {"agent": mapping.agent}
    if mapping.kind is not None:
        changes |= {"kind": mapping.kind.claim, "agent_kinds": mapping.kind.agents}
    return replace(rules, **changes)


def algorithms_of(spec: IdentityProviderSpec) -> tuple[str, ...]:
    """Signature algorithms that are accepted."""
    return _preset_of(spec).algorithms if spec.algorithms == DEFAULT_ALGORITHMS else spec.algorithms


def token_types_of(spec: IdentityProviderSpec) -> tuple[str, ...]:
    """Values of the header `typ` that are accepted; empty: those of access tokens in general."""
    return spec.token_types or _preset_of(spec).token_types


def problems_of(spec: IdentityProviderSpec) -> Iterator[ProviderProblem]:
    """What cannot work with this product, or would let in whom nobody meant."""
    preset = _preset_of(spec)
    if not preset.issuer.fullmatch(spec.issuer) and not _is_emulated(spec):
        yield ProviderProblem(path="spec.issuer", message=preset.issuer_hint)
    if preset.audience_reason and not spec.audiences:
        yield ProviderProblem(path="spec.audiences", message=f"is missing: {preset.audience_reason}")
    if spec.preset == "google" and not spec.accept_id_tokens:
        message = (
            "must be true for Google, whose access tokens only Google can read: its ID tokens are taken instead. They say who somebody"
            " is and were issued for a login, so whoever is given one can call as that person; prefer a provider with access tokens"
        )
        yield ProviderProblem(path="spec.acceptIdTokens", message=message)
    elif spec.accept_id_tokens and not spec.audiences and not preset.audience_reason:
        yield ProviderProblem(path="spec.audiences", message="is missing: an ID token is meant for an OAuth client; name its client id")
    if spec.dpop_nonce and spec.token_binding in ("none", "mtls"):
        yield ProviderProblem(path="spec.dpopNonce", message="needs spec.tokenBinding dpop, any or optional")
    if spec.operators_only and spec.token_binding == "mtls":  # noqa: S105 - a word
        message = "mtls cannot be used for operators: the client's certificate does not reach the API"
        yield ProviderProblem(path="spec.tokenBinding", message=message)
    if spec.tenants and not claim_rules_of(spec).tenant:
        yield ProviderProblem(path="spec.tenants", message="needs spec.mapping.tenant, the claim that says the tenant")


def _further_requirements(spec: IdentityProviderSpec) -> tuple[tuple[str, tuple[str, ...]], ...]:
    further: list[tuple[str, tuple[str, ...]]] = []
    if spec.preset == "entra":
        found = _ENTRA_ISSUER.fullmatch(spec.issuer)
        further.append(("tid", tuple(part for part in (found.groups()[2:] if found else ()) if part)))
    if spec.accept_id_tokens and spec.mapping.subject == "email":
        further.append(("email_verified", ("true",)))  # an address that nobody verified is whatever its owner typed
    return tuple(further)


def _preset_of(spec: IdentityProviderSpec) -> _Preset:
    return _PRESETS[spec.preset] if spec.preset is not None else _STANDARD


def _is_emulated(spec: IdentityProviderSpec) -> bool:
    """A stand-in on the loopback, for development and tests."""
    return spec.allow_insecure_http and spec.issuer.startswith(("http://127.0.0.1", "http://localhost", "http://[::1]"))
