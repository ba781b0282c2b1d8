"""Why a client is refused, as one tree. No text holds a secret or an assertion.

ClientRefusal
├── UnknownClientError          400  no such client, or its metadata document cannot be used: tell the person, redirect nowhere
├── RedirectUriError            400  the redirect URI is not one of the client's: tell the person, redirect nowhere
├── RegistrationError           400  RFC 7591 section 3.2.2 (401 and 403 where a token is lacking)
└── ClientAuthenticationError   401  RFC 6749 section 5.2: invalid_client, or 400 invalid_request
"""

from __future__ import annotations

from extauthz.errors import LegationError


class ClientRefusal(LegationError):  # noqa: N818 - a refusal is an answer, not a failure
    """`error` is the OAuth error code, `description` says it for people, `status` is that of HTTP."""

    def __init__(self, error: str, description: str, *, status: int = 400) -> None:
        super().__init__(f"{error}: {description}")
        self.error = error
        self.description = description
        self.status = status


class UnknownClientError(ClientRefusal):
    """There is no client of this id that could be used here."""

    def __init__(self, description: str, *, status: int = 400) -> None:
        super().__init__("invalid_client", description, status=status)


class RedirectUriError(ClientRefusal):
    """A redirect URI that may not be registered, or that is not one of the client's."""

    def __init__(self, description: str) -> None:
        super().__init__("invalid_redirect_uri", description)


class RegistrationError(ClientRefusal):
    """A registration was refused."""


class ClientAuthenticationError(ClientRefusal):
    """The client did not prove itself. `challenge` goes into WWW-Authenticate where it is not empty (RFC 6749 section 5.2)."""

    def __init__(self, error: str, description: str, *, status: int = 401, challenge: str = "") -> None:
        super().__init__(error, description, status=status)
        self.challenge = challenge
