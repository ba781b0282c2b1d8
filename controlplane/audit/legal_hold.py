"""Which records a legal hold keeps: those that fit everything that it names, in its namespace; of `system`, in every one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from controlplane.audit.stored_record import StoredRecord
from controlplane.registry.audit_policy_spec import LegalHoldSpec
from controlplane.registry.spec import SYSTEM_NAMESPACE
from controlplane.registry.state import RegistryState


@dataclass(frozen=True, slots=True, kw_only=True)
class _Hold:
    name: str
    server: str  # "namespace/name", or "name" where it is about one of any namespace; empty: all
    principal_ref: str  # empty: all
    from_unix_us: int | None
    until_unix_us: int | None

    def fits(self, row: StoredRecord) -> bool:
        """Whether the record is one that it names."""
        return (
            (not self.server or self._is_of_server(row))
            and (not self.principal_ref or self.principal_ref in (row.principal_ref, row.subject_ref))
            and (self.from_unix_us is None or row.at_unix_us >= self.from_unix_us)
            and (self.until_unix_us is None or row.at_unix_us < self.until_unix_us)
        )

    def _is_of_server(self, row: StoredRecord) -> bool:
        return any(named and self.server in (named, named.partition("/")[2]) for named in (row.mcp_server, row.virtual_server))


class LegalHolds:
    """Those of a state. `principal_ref` is `AuditStore.principal_ref`."""

    def __init__(self, state: RegistryState, principal_ref: Callable[[str], str]) -> None:
        self._of_namespace: dict[str, list[_Hold]] = {}
        for entry in state.audit_policies.values():
            holds = [_hold(entry.namespace, spec, principal_ref) for spec in entry.spec.legal_holds]
            if holds:
                self._of_namespace[entry.namespace] = holds

    def holding(self, row: StoredRecord) -> str:
        """The name of a hold that keeps this record, in the namespace of its server or of its virtual server; empty: none does."""
        for namespace in dict.fromkeys((row.namespace, row.virtual_server.partition("/")[0], SYSTEM_NAMESPACE)):
            for hold in self._of_namespace.get(namespace, ()):
                if hold.fits(row):
                    return hold.name
        return ""


def _hold(namespace: str, spec: LegalHoldSpec, principal_ref: Callable[[str], str]) -> _Hold:
    server = spec.server or ""
    if server and "/" not in server and namespace != SYSTEM_NAMESPACE:
        server = f"{namespace}/{server}"
    return _Hold(
        name=spec.name,
        server=server,
        principal_ref=principal_ref(spec.principal) if spec.principal else "",
        from_unix_us=None if spec.from_ is None else round(spec.from_.timestamp() * 1_000_000),
        until_unix_us=None if spec.until is None else round(spec.until.timestamp() * 1_000_000),
    )
