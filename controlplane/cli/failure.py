"""Errors as an operator reads them: what was wrong, where, and what to do."""

from __future__ import annotations

from typing import Any

from controlplane.cli.invocation import START_HINT
from controlplane.cli.outcome import CommandError, Outcome
from controlplane.client import ApiError, UnreachableError
from extauthz.errors import LegationError

_REMEDIES = {
    401: "the gateway does not know this credential: log in again, use the data directory of this deployment, or renew the token file",
    403: "ask an administrator for a RoleBinding with a legation: role",
    412: "somebody changed it meanwhile: look at it again and repeat",
    428: "this is a fault of the command line; please report it",
}


def described(error: Exception) -> CommandError:
    """`error` with its place, its remedy and its exit code."""
    if isinstance(error, CommandError):
        return error
    if isinstance(error, UnreachableError):
        return CommandError(str(error), remedy=f"is it running? {START_HINT}", outcome=Outcome.UNREACHABLE)
    if isinstance(error, ApiError):
        return _refused(error)
    if isinstance(error, LegationError):
        return CommandError(str(error))
    return CommandError(
        f"{type(error).__name__}: {error}",
        remedy="this is a fault of the command line; LEGATION_DEBUG=1 shows where",
        outcome=Outcome.INTERNAL,
    )


def _refused(error: ApiError) -> CommandError:
    if not error.code and error.status in {502, 503, 504}:
        return CommandError(
            f"the gateway answers, but its control plane does not (HTTP {error.status})",
            remedy="it may still be starting; otherwise look into the data directory's logs/ and at `legation up`",
            outcome=Outcome.UNREACHABLE,
        )
    what = error.detail or error.title or "refused"
    code = f" ({error.code})" if error.code else f" (HTTP {error.status})"
    where = [line_of(item) for item in error.errors]
    return CommandError(what + code, where=where, remedy=_REMEDIES.get(error.status, ""), outcome=Outcome.REFUSED)


def line_of(item: dict[str, Any], place: str | None = None) -> str:
    """One item of a problem's `errors`; `place` says where its document is, when more is known than its index."""
    if place is None:
        place = f"document {item['document']}" if item.get("document") is not None else ""
    return ": ".join(part for part in (place, path_text(item.get("path")), str(item.get("message", "")).strip()) if part)


def path_text(path: object) -> str:
    """A path into a document as text, however it came."""
    if isinstance(path, list | tuple):
        return ".".join(str(part) for part in path)
    return "" if path is None else str(path)
