"""Everything that a change of the registry is held against: the rules of the documents, and what their files hold.

Called by `registry.service` before it commits. `registry.validation` is pure; here the secrets folders are read as well.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from controlplane.registry.audit_rules import AuditChecks, check_audit
from controlplane.registry.authority import AuthorityReader, check_authorities, check_bundle_files
from controlplane.registry.gateway_rules import GatewayChecks, addresses_of, check_gateways
from controlplane.registry.key_pair_reader import KeyPairReader
from controlplane.registry.own_address import OwnAddresses, PublicAddress
from controlplane.registry.policy_check import check_policies_of
from controlplane.registry.state import RegistryState
from controlplane.registry.validation import Findings, WrittenEntry, check_change
from controlplane.registry.virtual_server_rules import check_virtual_servers
from extauthz.address import AddressRules


@dataclass(frozen=True, slots=True, kw_only=True)
class ChangeRules:
    """What the rules need beside the registry."""

    address_rules: AddressRules
    own_addresses: OwnAddresses
    public: PublicAddress
    authorities: AuthorityReader
    pairs: KeyPairReader
    has_workload_api: bool
    clock: Callable[[], datetime] = lambda: datetime.now(UTC)

    def check(self, before: RegistryState, after: RegistryState, written: Sequence[WrittenEntry]) -> Findings:
        """Every fault of `after` that `written` brought, and what its author should know."""
        findings = check_change(
            before,
            after,
            written,
            address_rules=self.address_rules,
            check_policies=check_policies_of,
            own_addresses=self.own_addresses.joined(addresses_of(after)),
            has_workload_api=self.has_workload_api,
        )
        check_virtual_servers(written, before, after, findings)
        check_authorities(written, self.authorities.read, findings)
        check_bundle_files(written, self.authorities, findings)
        checks = GatewayChecks(public=self.public, pairs=self.pairs, read_authority=self.authorities.read, now=self.clock())
        check_gateways(written, after, checks, findings)
        audit_checks = AuditChecks(address_rules=self.address_rules, files=self.authorities, now=checks.now)
        check_audit(written, before, audit_checks, findings)
        return findings
