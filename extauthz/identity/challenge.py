"""What a caller without a good access token is told: RFC 6750 challenges and RFC 9728 protected resource metadata."""

from __future__ import annotations

from collections.abc import Sequence
from urllib.parse import urlsplit

from extauthz.errors import Reason
from extauthz.identity.dpop import PROOF_ALGORITHMS
from extauthz.identity.provider import IdentityProvider, TokenBinding

_DESCRIPTIONS = {
    Reason.ACCESS_TOKEN_EXPIRED: "the access token has expired",
    Reason.AUDIENCE_MISMATCH: "the access token is meant for another resource",
    Reason.ISSUER_UNKNOWN: "the access token's issuer is not trusted here",
    Reason.TOKEN_BINDING_FAILED: "the access token is not bound as it must be, or not to this caller",
    Reason.DPOP_PROOF_INVALID: "the DPoP proof is missing or not valid",
    Reason.USE_DPOP_NONCE: "the DPoP proof must hold the nonce of this answer",
    Reason.CLAIMS_ELSEWHERE: "the access token does not hold all groups of its subject",
    Reason.REVOKED: "the caller or its credential has been revoked",
    Reason.ISSUER_UNAVAILABLE: "the keys of the access token's issuer cannot be read at the moment",
}


_NOT_OF_A_TOKEN = frozenset({None, Reason.ACCESS_TOKEN_MISSING, Reason.SVID_INVALID, Reason.SVID_EXPIRED, Reason.TRUST_DOMAIN_UNKNOWN})
_DPOP_ERRORS = {Reason.DPOP_PROOF_INVALID: "invalid_dpop_proof", Reason.USE_DPOP_NONCE: "use_dpop_nonce"}


def www_authenticate(resource_metadata_url: str, reason: Reason | None = None, *, scope: str = "", dpop: bool = False) -> str:
    """The value of `WWW-Authenticate` for a 401, or a 403 that asks for more scopes (RFC 6750).

    Without a token, or where it is not at fault, there is no `error`.
    `dpop`: the challenge is to a client that uses DPoP (RFC 9449 section 7.1).
    """
    parameters = []
    if reason is Reason.INSUFFICIENT_SCOPE:
        parameters += [("error", "insufficient_scope"), ("error_description", "the access token lacks a scope that this call needs")]
    elif reason not in _NOT_OF_A_TOKEN:
        description = _DESCRIPTIONS.get(reason, "the access token is not valid") if reason is not None else ""
        error = _DPOP_ERRORS.get(reason, "invalid_token") if dpop and reason is not None else "invalid_token"
        parameters += [("error", error), ("error_description", description)]
    if dpop:
        parameters.append(("algs", " ".join(PROOF_ALGORITHMS)))
    if scope:
        parameters.append(("scope", scope))
    if resource_metadata_url:
        parameters.append(("resource_metadata", resource_metadata_url))
    scheme = "DPoP" if dpop else "Bearer"
    return f"{scheme} " + ", ".join(f'{name}="{_quotable(value)}"' for name, value in parameters) if parameters else scheme


def protected_resource_metadata_url(resource_url: str) -> str:
    """Where the metadata of a resource is: the well-known part goes between host and path (RFC 9728 section 3.1)."""
    parts = urlsplit(resource_url)
    return f"{parts.scheme}://{parts.netloc}/.well-known/oauth-protected-resource{parts.path}"


def protected_resource_metadata(resource_url: str, identity_providers: Sequence[IdentityProvider]) -> dict[str, object]:
    """The RFC 9728 document of one route. Issuers that are no URLs (inline keys) cannot be discovered and are left out."""
    issuers = sorted({provider.issuer for provider in _discoverable(identity_providers)})
    metadata: dict[str, object] = {"resource": resource_url, "bearer_methods_supported": ["header"]}
    if issuers:
        metadata["authorization_servers"] = issuers
    if scopes := first_scopes(identity_providers):
        metadata["scopes_supported"] = list(scopes)
    metadata |= _binding_metadata([provider.token_binding for provider in identity_providers if not provider.operators_only])
    return metadata


def _binding_metadata(bindings: Sequence[TokenBinding]) -> dict[str, object]:
    """RFC 9728 section 2: what clients should know of DPoP and of tokens that are bound to certificates."""
    told: dict[str, object] = {}
    if any(binding.takes_dpop for binding in bindings):
        told["dpop_signing_alg_values_supported"] = list(PROOF_ALGORITHMS)
    if bindings and all(binding is TokenBinding.DPOP for binding in bindings):
        told["dpop_bound_access_tokens_required"] = True
    if any(binding.takes_mtls for binding in bindings):
        told["tls_client_certificate_bound_access_tokens"] = True
    return told


def first_scopes(identity_providers: Sequence[IdentityProvider]) -> tuple[str, ...]:
    """What a client should ask for at first: what all these providers know, since a client chooses one of them.

    The same for every server of a namespace, whether it exists or not; what one server needs more is told to who may call it.
    """
    found = _discoverable(identity_providers)
    return tuple(scope for scope in found[0].scopes if all(scope in other.scopes for other in found)) if found else ()


def _discoverable(identity_providers: Sequence[IdentityProvider]) -> list[IdentityProvider]:
    return [p for p in identity_providers if not p.operators_only and p.issuer.startswith(("https://", "http://"))]


def _quotable(value: str) -> str:
    """Only what RFC 6750 allows between quotes; anything else (quotes, line breaks, other alphabets) becomes `?`."""
    return "".join(character if " " <= character <= "~" and character not in '"\\' else "?" for character in value)
