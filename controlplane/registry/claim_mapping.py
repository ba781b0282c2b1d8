"""How tokens of an issuer are read: its product, its algorithms, which claims make the principal. Shared by the kinds that trust one."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, StringConstraints

from controlplane.registry.document import Document

Scope = Annotated[str, StringConstraints(pattern=r"^[\x21\x23-\x5b\x5d-\x7e]+$", max_length=200)]
Scopes = Annotated[tuple[Scope, ...], Field(max_length=50)]
"""OAuth scopes (RFC 6749 section 3.3)."""

ClaimPath = Annotated[str, StringConstraints(pattern=r"^(/[^=]+|[^/=][^=]*)?$", max_length=500)]
"""A claim by its name, or by a JSON pointer (RFC 6901) into nested objects: `/realm_access/roles`."""

LabelName = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_]{0,29}$")]
"""Of a caller's labels, such as team and project."""
MAX_LABELS = 8

Preset = Literal["okta", "entra", "google", "ping", "keycloak", "auth0"]
Algorithm = Literal["RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA"]
DEFAULT_ALGORITHMS: tuple[Algorithm, ...] = ("RS256", "ES256", "EdDSA")


class KindMapping(Document):
    """A claim whose value tells agents from users."""

    claim: ClaimPath = Field(min_length=1)
    agents: tuple[str, ...] = Field(min_length=1, max_length=20)


class ClaimMapping(Document):
    """Which claims make the principal; empty: what the preset says, else the standard one.

    `labels`: claims that reports group callers by, by the label's name. Nothing is decided by them.
    """

    subject: ClaimPath = ""
    groups: ClaimPath | Annotated[tuple[ClaimPath, ...], Field(max_length=20)] = ""
    tenant: ClaimPath = ""
    client: ClaimPath = ""
    agent: ClaimPath = ""
    kind: KindMapping | None = None
    claims: tuple[ClaimPath, ...] = Field(default=(), max_length=20)
    labels: dict[LabelName, Annotated[ClaimPath, Field(min_length=1)]] = Field(default_factory=dict, max_length=MAX_LABELS)
