"""The one place where a signature of a JSON Web Token is checked, with every option written out.

Before this: who knows which key and algorithms may be used (`access_token`, `dpop`). Times are theirs too: PyJWT reads the machine's
clock, not ours.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import jwt

from extauthz.identity.jwks import PublicKey


def verified_payload(
    token: str,
    *,
    key: PublicKey,
    algorithms: Iterable[str],
    required: Sequence[str],
    issuer: str | None = None,
    audiences: Sequence[str] | None = None,
) -> dict[str, object]:
    """The claims of a token that `key` signed by one of `algorithms`; issuer and audience are checked where they are given.

    Raises `jwt.PyJWTError`, ValueError, TypeError, RecursionError or OverflowError: whatever is wrong, it is not verified.
    """
    claims: dict[str, object] = jwt.decode(
        token,
        key=key,
        algorithms=sorted(algorithms),
        issuer=issuer,
        audience=list(audiences) if audiences is not None else None,
        leeway=0,
        options={
            "verify_signature": True,
            "require": list(required),
            "verify_iss": issuer is not None,
            "verify_aud": audiences is not None,
            "strict_aud": False,
            "verify_sub": True,
            "verify_jti": True,
            "verify_exp": False,
            "verify_nbf": False,
            "verify_iat": False,
            "enforce_minimum_key_length": True,
        },
    )
    return claims
