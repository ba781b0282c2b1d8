"""From verified claims to a principal: which claim says what is the provider's rule, and every name is qualified by the provider.

    VerifiedClaims ──▶ `principal_from_claims(claims, provider)` ──▶ Principal

What cannot be read whole is refused, never left out: a group that is missing could lift a `forbid`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from extauthz.errors import AuthenticationError, Reason
from extauthz.identity.access_token import issued_at_of, limits_of
from extauthz.identity.principal import Principal, PrincipalKind, VerifiedClaims
from extauthz.identity.provider import ClaimRules, IdentityProvider

MAX_GROUPS = 500
MAX_NAME_LENGTH = 500
MAX_SCOPES = 500
MAX_LABEL_LENGTH = 100
MAX_ACTORS = 5
"""How long a chain of `act` may be (RFC 8693 section 4.1): who acts for whom must stay a thing that people can read."""


def read_claim(claims: Mapping[str, object], path: str) -> object:
    """The value of a claim by its name, or by a JSON pointer (RFC 6901) into nested objects; None when there is none."""
    if not path.startswith("/"):
        return claims.get(path)
    value: object = claims
    for step in path[1:].split("/"):
        if not isinstance(value, Mapping):
            return None
        value = value.get(step.replace("~1", "/").replace("~0", "~"))
    return value


def principal_from_claims(claims: VerifiedClaims, provider: IdentityProvider) -> Principal:
    """Map verified claims to the caller, every name qualified by the provider. Raises `AuthenticationError`."""
    rules = provider.rules
    # (1) what this provider's tokens must hold
    _check_required(claims, rules)
    oauth_client_id = _first_name(claims, rules.oauth_client)
    _check_client(oauth_client_id, rules)
    tenant = _name(claims, rules.tenant) if rules.tenant else ""
    if rules.tenants and tenant not in rules.tenants:
        raise _invalid(f"the access token is of a tenant that its identity provider does not admit here ({rules.tenant})")
    # (2) who
    subject = _name(claims, rules.subject)
    if not subject and not rules.subject_from_client:
        raise _invalid(f"the access token lacks the claim {rules.subject}")
    kind = _kind(claims, rules, subject, oauth_client_id)
    subject = subject or oauth_client_id
    if not subject:
        raise _invalid(f"the access token lacks the claim {rules.subject}, and names no client either")
    # (3) with what
    _refuse_claims_elsewhere(claims, (*rules.groups, *rules.attributes))
    actors = list(_actors(claims, provider.issuer))
    return Principal(
        kind=kind,
        id=f"{provider.id}/{subject}",
        provider=provider.id,
        subject=subject,
        issuer=provider.issuer,
        tenant=tenant,
        groups=tuple(f"{provider.id}/{group}" for group in _groups(claims, rules.groups)),
        attributes=tuple(f"{provider.id}/{attribute}" for attribute in _attributes(claims, rules.attributes)),
        scopes=tuple(_scopes(claims)),
        oauth_client_id=oauth_client_id,
        access_token_id=_first_name(claims, rules.token_id),
        actor=f"{provider.id}/{actors[0]}" if actors else "",
        earlier_actors=tuple(f"{provider.id}/{actor}" for actor in actors[1:]),
        labels=tuple(_labels(claims, rules)),
        trusted_namespaces=(provider.trusted_namespaces or ("*",)) if provider.namespace == "system" else (provider.namespace,),
        issued_at_unix=issued_at_of(claims),
        expires_at_unix=limits_of(claims).expires_at,
        claims=claims,
    )


def _check_required(claims: VerifiedClaims, rules: ClaimRules) -> None:
    for path, allowed in rules.required:
        value = read_claim(claims, path)
        text = _text(value)
        if not text or (allowed and text not in allowed):
            raise _invalid(f"the access token's claim {path} is not what its identity provider's access tokens say there")


def _check_client(oauth_client_id: str, rules: ClaimRules) -> None:
    if rules.client_required and not oauth_client_id:
        raise _invalid(f"the token does not say which client it was issued to ({' or '.join(rules.oauth_client)}); is it an ID token?")
    if rules.oauth_clients and oauth_client_id not in rules.oauth_clients:
        raise _invalid("the access token was issued to an OAuth client that is not admitted here")


def _kind(claims: VerifiedClaims, rules: ClaimRules, subject: str, oauth_client_id: str) -> PrincipalKind:
    """An agent, when any rule says so; a user otherwise."""
    if rules.agent and read_claim(claims, rules.agent) not in (None, False, ""):
        return PrincipalKind.AGENT
    told = _text(read_claim(claims, rules.kind)) if rules.kind else ""
    if told:
        return PrincipalKind.AGENT if told in rules.agent_kinds else PrincipalKind.USER
    is_client = bool(oauth_client_id) and subject in {form.replace("{client}", oauth_client_id) for form in rules.agent_subjects}
    lacks_all = bool(rules.agent_without) and all(read_claim(claims, path) in (None, "") for path in rules.agent_without)
    from_client = rules.subject_from_client and not subject
    return PrincipalKind.AGENT if is_client or lacks_all or from_client else PrincipalKind.USER


def _refuse_claims_elsewhere(claims: VerifiedClaims, paths: Sequence[str]) -> None:
    """OpenID Connect Core section 5.6.2; Microsoft Entra does so when somebody is in more than 200 groups (`hasgroups` in short)."""
    names = claims.get("_claim_names")
    elsewhere = set(names) if isinstance(names, Mapping) else set()
    if claims.get("hasgroups") not in (None, False, "false"):
        elsewhere.add("groups")
    for path in paths:
        if (path[1:].partition("/")[0] if path.startswith("/") else path) in elsewhere:
            raise AuthenticationError(
                Reason.CLAIMS_ELSEWHERE, f"the access token does not hold its claim {path} but says that it must be fetched elsewhere"
            )


def _groups(claims: VerifiedClaims, paths: Sequence[str]) -> list[str]:
    """Groups in order, once each, of every claim that holds some."""
    found: dict[str, None] = {}
    for path in paths:
        found |= dict.fromkeys(_members(read_claim(claims, path), path))
    if len(found) > MAX_GROUPS:
        raise _invalid(f"the access token names more than {MAX_GROUPS} groups")
    return list(found)


def _members(value: object, path: str) -> Iterator[str]:
    if value is None or value == "":
        return
    members = [value] if isinstance(value, str) else value
    if not isinstance(members, list) or len(members) > MAX_GROUPS:
        raise _invalid(f"the access token's claim {path} is not a list of at most {MAX_GROUPS} names")
    for member in members:
        yield _checked_name(member, path)


def _attributes(claims: VerifiedClaims, paths: Sequence[str]) -> list[str]:
    """`claim=value` of the claims that role bindings may name; a list counts by its members."""
    found: dict[str, None] = {}
    for path in paths:
        value = read_claim(claims, path)
        for member in value if isinstance(value, list) else () if value in (None, "") else (value,):
            text = _text(member)
            found[f"{path}={_checked_name(text or member, path)}"] = None
        if len(found) > MAX_GROUPS:
            raise _invalid(f"the access token's claim {path} holds more than {MAX_GROUPS} values")
    return list(found)


def _labels(claims: VerifiedClaims, rules: ClaimRules) -> Iterator[tuple[str, str]]:
    """Names and values of what reports group by. A value that is no short text is left out: nothing is decided by it, and nobody
    must be refused for it."""
    for label, path in rules.labels:
        value = read_claim(claims, path)
        text = _text(value[0] if isinstance(value, list) and len(value) == 1 else value).strip()
        if 0 < len(text) <= MAX_LABEL_LENGTH and text.isprintable():
            yield label, text


def _scopes(claims: VerifiedClaims) -> dict[str, None]:
    """`scope` (RFC 9068) or `scp` (Okta, Entra ID): names with spaces between, or a list."""
    found: dict[str, None] = {}
    for claim in ("scope", "scp"):
        value = claims.get(claim)
        members = value.split(" ") if isinstance(value, str) else value if isinstance(value, list) else []
        if len(members) > MAX_SCOPES or not all(isinstance(member, str) for member in members):
            raise _invalid(f"the access token's claim {claim} is not a list of at most {MAX_SCOPES} scopes")
        found |= dict.fromkeys(member for member in members if member)
    return found


def _actors(claims: VerifiedClaims, issuer: str) -> Iterator[str]:
    """RFC 8693 section 4.1: the current actor is the outermost `act`, those before it are nested."""
    act, depth = claims.get("act"), 0
    while act is not None:
        depth += 1
        if not isinstance(act, Mapping) or depth > MAX_ACTORS:
            raise _invalid(f"the access token's claim act is not a chain of at most {MAX_ACTORS} actors")
        if act.get("iss", issuer) != issuer:
            raise _invalid("the access token's actor (act) is vouched for by another issuer")
        yield _checked_name(act.get("sub"), "act.sub")
        act = act.get("act")


def _first_name(claims: VerifiedClaims, paths: Sequence[str]) -> str:
    return next((name for path in paths if (name := _name(claims, path))), "")


def _name(claims: VerifiedClaims, path: str) -> str:
    value = read_claim(claims, path)
    return "" if value is None or value == "" else _checked_name(value, path)


def _checked_name(value: object, path: str) -> str:
    if not isinstance(value, str) or not 0 < len(value) <= MAX_NAME_LENGTH or not value.isprintable():
        raise _invalid(f"the access token's claim {path} is not a printable name of at most {MAX_NAME_LENGTH} characters")
    return value


def _text(value: object) -> str:
    """A string, truth value or whole number as text; "" for anything else."""
    if isinstance(value, bool):
        return "true" if value else "false"
    return value if isinstance(value, str) else str(value) if isinstance(value, int) else ""


def _invalid(sentence: str) -> AuthenticationError:
    return AuthenticationError(Reason.ACCESS_TOKEN_INVALID, sentence)
