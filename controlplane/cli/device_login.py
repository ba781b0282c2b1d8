"""Login with a browser on another machine: the device authorization grant (RFC 8628)."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from controlplane.cli.context_file import Session
from controlplane.cli.issuer import is_usable_url
from controlplane.cli.outcome import CommandError, Outcome
from controlplane.cli.terminal import note, printable
from controlplane.cli.token_endpoint import ProviderRefusalError, TokenEndpoint

DEVICE_GRANT = "urn:ietf:params:oauth:grant-type:device_code"
_MAX_SECONDS = 1800.0
_MAX_INTERVAL = 60.0


def log_in_with_device(endpoint: TokenEndpoint, parameters: Mapping[str, str], further: Mapping[str, str]) -> Session:
    """Show a code and wait until somebody has entered it. `parameters` ask for the code, `further` for the tokens."""
    url = endpoint.metadata.device_authorization_endpoint
    issuer = endpoint.metadata.issuer
    if not url:
        raise CommandError(f"{issuer} offers no login for devices", remedy="leave --device out, or use --client-credentials")
    answer = endpoint.ask(url, parameters).body
    device_code, user_code, page = (answer.get(name) for name in ("device_code", "user_code", "verification_uri"))
    if not (isinstance(device_code, str) and isinstance(user_code, str) and isinstance(page, str) and is_usable_url(page)):
        raise CommandError(f"{issuer} answered without a code, or without a page to enter it", outcome=Outcome.REFUSED)
    note(f"go to {printable(page)} and enter the code {printable(user_code)}", "strong")
    complete = answer.get("verification_uri_complete")
    if isinstance(complete, str) and is_usable_url(complete):
        note(f"  or go to {complete}, where the code must be the same")
    return _wait(endpoint, {"device_code": device_code, **further}, answer)


def _wait(endpoint: TokenEndpoint, parameters: Mapping[str, str], answer: Mapping[str, Any]) -> Session:
    ends = time.monotonic() + min(_number(answer.get("expires_in"), 300.0), _MAX_SECONDS)
    interval = min(_number(answer.get("interval"), 5.0), _MAX_INTERVAL)
    while time.monotonic() < ends:
        time.sleep(interval)
        try:
            return endpoint.tokens(DEVICE_GRANT, parameters)
        except ProviderRefusalError as error:
            if error.code == "slow_down":
                interval = min(interval + 5.0, _MAX_INTERVAL)
            elif error.code == "expired_token":
                break
            elif error.code != "authorization_pending":
                raise
    raise CommandError("nobody entered the code in time", remedy="repeat it: legation login --device", outcome=Outcome.NO)


def _number(said: object, otherwise: float) -> float:
    return float(said) if isinstance(said, int | float) and not isinstance(said, bool) and said > 0 else otherwise
