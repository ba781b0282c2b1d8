"""Why the registry refuses, as one tree; `api.problems` turns each into a problem document (RFC 9457) in one place.

RegistryRefusal
├── InvalidDocumentsError       422  what was written makes no sense; every fault at once
├── NotPermittedError           403
├── EntryNotFoundError          404
├── ConflictError               409  it would break what others rely on
├── PreconditionFailedError     412  somebody else was faster
└── PreconditionRequiredError   428
"""

from __future__ import annotations

from collections.abc import Sequence

from controlplane.registry.manifest import MAX_ERRORS, DocumentError
from extauthz.errors import LegationError


class RegistryRefusal(LegationError):  # noqa: N818 - a refusal is an answer, not a failure
    """`sentence` is for people; `errors` says where, when it is about documents. Neither holds a secret."""

    code = "refused"
    status = 400
    title = "The registry refused"

    def __init__(self, sentence: str, errors: Sequence[DocumentError] = ()) -> None:
        super().__init__(sentence)
        self.sentence = sentence
        self.errors = tuple(errors[:MAX_ERRORS])
        if len(errors) > MAX_ERRORS:
            self.errors += (DocumentError(document=errors[-1].document, path="", message=f"and {len(errors) - MAX_ERRORS} more errors"),)


class InvalidDocumentsError(RegistryRefusal):
    """Faults of the documents themselves, or of the registry as it would be after them."""

    code = "invalid_documents"
    status = 422
    title = "The documents are not valid"

    def __init__(self, errors: Sequence[DocumentError]) -> None:
        count = len(errors)
        super().__init__(f"{count} {'error' if count == 1 else 'errors'}; nothing was changed", errors)


class NotPermittedError(RegistryRefusal):
    """The operator does not hold the permission."""

    code = "permission_denied"
    status = 403
    title = "Not permitted"


class EntryNotFoundError(RegistryRefusal):
    """There is no such entry."""

    code = "not_found"
    status = 404
    title = "Not found"


class ConflictError(RegistryRefusal):
    """The registry's present content forbids it."""

    code = "conflict"
    status = 409
    title = "Conflict"


class PreconditionFailedError(RegistryRefusal):
    """If-Match or If-None-Match does not hold."""

    code = "precondition_failed"
    status = 412
    title = "The entry has changed"


class PreconditionRequiredError(RegistryRefusal):
    """A write of an existing entry must say which state of it was read."""

    code = "precondition_required"
    status = 428
    title = "If-Match is required"
