"""Parameters of OAuth requests, read strictly before anything else sees them: each once, of the characters its RFC allows, bounded.

What is behind this (`protocol`, the library) need not wonder about repeated, endless or odd values.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

MAX_VALUE = 2000
_PRINTABLE = re.compile(r"[\x20-\x7e]*")
_URI = re.compile(r"[\x21\x23-\x5b\x5d-\x7e]*")
_FORMS: Mapping[str, re.Pattern[str]] = {
    # RFC 6749 appendix A, RFC 7636 section 4, RFC 8707 section 2
    "client_id": re.compile(r"[\x21-\x7e]{1,2000}"),
    "redirect_uri": re.compile(r"[\x21\x23-\x5b\x5d-\x7e]{1,2000}"),
    "response_type": re.compile(r"[a-z_ ]{1,50}"),
    "grant_type": re.compile(r"[A-Za-z0-9:._-]{1,100}"),
    "scope": re.compile(r"([\x21\x23-\x5b\x5d-\x7e]+( [\x21\x23-\x5b\x5d-\x7e]+)*)?"),
    "state": re.compile(r"[\x20-\x7e]{0,1500}"),
    "code_challenge": re.compile(r"[A-Za-z0-9._~-]{43,128}"),
    "code_challenge_method": re.compile(r"[A-Za-z0-9._-]{1,20}"),
    "code_verifier": re.compile(r"[A-Za-z0-9._~-]{43,128}"),
    "code": re.compile(r"[A-Za-z0-9_-]{1,200}"),
    "refresh_token": re.compile(r"[A-Za-z0-9_-]{1,200}"),
    "resource": _URI,
    "response_mode": re.compile(r"[a-z_]{1,20}"),
    "prompt": re.compile(r"[a-z_ ]{1,50}"),
    "nonce": _PRINTABLE,
}


class ParameterError(ValueError):
    """A parameter cannot be read; `name` says which. The text never holds its value."""

    def __init__(self, name: str, message: str) -> None:
        super().__init__(message)
        self.name = name


def read_parameters(pairs: Iterable[tuple[str, str]], *names: str) -> dict[str, str]:
    """The parameters of these names that are there. Others are ignored (RFC 6749 section 3.1). Raises `ParameterError`."""
    found: dict[str, str] = {}
    for name, value in pairs:
        if name not in names:
            continue
        if name in found:
            raise ParameterError(name, f"{name} is given twice")
        if len(value) > MAX_VALUE or not _FORMS.get(name, _PRINTABLE).fullmatch(value):
            raise ParameterError(name, f"{name} is malformed or too long")
        found[name] = value
    return found
