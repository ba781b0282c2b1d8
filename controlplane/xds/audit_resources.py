"""What authorizers and aggregators are told about the record: what is kept of calls in each namespace, and for whom it is sealed."""

from __future__ import annotations

from collections.abc import Sequence

from controlplane.registry.audit_key import audit_key_id, audit_public_key
from controlplane.registry.audit_policy_spec import ContentRuleSpec
from controlplane.registry.audit_rules import qualified_globs
from controlplane.registry.encryption import RegistryKey
from controlplane.registry.json_path import parse_json_path
from controlplane.registry.spec import AuditPolicySpec
from controlplane.registry.state import Entry
from extauthz.catalog.audit_policy import PathStep
from extauthz.v1 import registry_pb2 as pb

AUDIT_SEALING_KEY_NAME = "current"

_MODES = {"strict": pb.AUDIT_MODE_STRICT, "available": pb.AUDIT_MODE_AVAILABLE}
_KEEPS = {"full": pb.AUDIT_KEEP_FULL, "redacted": pb.AUDIT_KEEP_REDACTED, "hashed": pb.AUDIT_KEEP_HASHED, "off": pb.AUDIT_KEEP_OFF}


def make_audit_policy(entry: Entry[AuditPolicySpec]) -> pb.AuditPolicy:
    """One AuditPolicy: classes replaced by what they mean, paths in steps, globs of servers as globs of `namespace/name`."""
    spec = entry.spec

    def content(keep: str, rules: Sequence[ContentRuleSpec]) -> pb.AuditContent:
        return pb.AuditContent(keep=_KEEPS[keep], rules=[_make_rule(rule, spec, entry.namespace) for rule in rules])

    return pb.AuditPolicy(
        namespace=entry.namespace,
        name=entry.name,
        mode=_MODES[spec.mode],
        arguments=content(spec.arguments.keep, spec.arguments.rules),
        results=content(spec.results.keep, spec.results.rules),
    )


def make_audit_sealing_key(key: RegistryKey) -> pb.AuditSealingKey:
    """The public key for which personal values are sealed."""
    return pb.AuditSealingKey(key_id=audit_key_id(key), public_key=audit_public_key(key))


def _make_rule(rule: ContentRuleSpec, spec: AuditPolicySpec, namespace: str) -> pb.AuditContentRule:
    keep = rule.keep if rule.keep is not None else spec.data_classes[rule.data_class or ""]
    return pb.AuditContentRule(
        servers=qualified_globs(rule.servers, namespace),
        tools=rule.tools,
        path=[_make_step(step) for step in parse_json_path(rule.path)],
        keep=_KEEPS[keep],
    )


def _make_step(step: PathStep) -> pb.PathStep:
    if step.name is not None:
        return pb.PathStep(name=step.name, deep=step.deep)
    return pb.PathStep(index=step.index, deep=step.deep) if step.index is not None else pb.PathStep(deep=step.deep)
