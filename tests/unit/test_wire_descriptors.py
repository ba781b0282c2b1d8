"""Our wire messages against the descriptors inside the pinned Envoy binary: every number and type that we use.

Adding a field to protos/extauthz/wire needs nothing here; adding a root message does.
"""

from __future__ import annotations

import pytest
from google.protobuf.descriptor import Descriptor, FieldDescriptor

from extauthz.wire import accesslog_pb2, auth_pb2, common_pb2, discovery_pb2, process_pb2
from tests.unit.envoy_descriptors import files, message_descriptor

ROOTS = {
    accesslog_pb2.StreamAccessLogsMessage: "envoy.service.accesslog.v3.StreamAccessLogsMessage",
    accesslog_pb2.StreamAccessLogsResponse: "envoy.service.accesslog.v3.StreamAccessLogsResponse",
    auth_pb2.CheckRequest: "envoy.service.auth.v3.CheckRequest",
    auth_pb2.CheckResponse: "envoy.service.auth.v3.CheckResponse",
    discovery_pb2.DeltaDiscoveryRequest: "envoy.service.discovery.v3.DeltaDiscoveryRequest",
    discovery_pb2.DeltaDiscoveryResponse: "envoy.service.discovery.v3.DeltaDiscoveryResponse",
    common_pb2.Status: "google.rpc.Status",
    process_pb2.ProcessingRequest: "envoy.service.ext_proc.v3.ProcessingRequest",
    process_pb2.ProcessingResponse: "envoy.service.ext_proc.v3.ProcessingResponse",
}


def test_the_binary_carries_its_own_api() -> None:
    assert len(files()) > 400


@pytest.mark.parametrize("root", ROOTS, ids=lambda root: root.DESCRIPTOR.name)
def test_every_field_that_we_use_has_envoys_number_and_type(root: type) -> None:
    problems: list[str] = []

    _compare(root.DESCRIPTOR, message_descriptor(ROOTS[root]), problems, set())  # type: ignore[attr-defined]

    assert problems == []


def test_every_wire_message_is_reached_from_a_root() -> None:
    seen: set[str] = set()
    for root, envoys in ROOTS.items():
        _compare(root.DESCRIPTOR, message_descriptor(envoys), [], seen)  # type: ignore[attr-defined]

    ours = {
        name
        for module in (accesslog_pb2, auth_pb2, common_pb2, discovery_pb2, process_pb2)
        for name in _messages(module.DESCRIPTOR.message_types_by_name.values())
    }
    assert ours - seen == set()


def _messages(descriptors: object) -> list[str]:
    names: list[str] = []
    for descriptor in descriptors:  # type: ignore[attr-defined]
        if not descriptor.GetOptions().map_entry:
            names.append(descriptor.full_name)
        names.extend(_messages(descriptor.nested_types))
    return names


def _compare(ours: Descriptor, envoys: Descriptor, problems: list[str], seen: set[str]) -> None:
    if ours.full_name in seen:
        return
    seen.add(ours.full_name)
    for field in ours.fields:
        theirs = envoys.fields_by_number.get(field.number)
        where = f"{ours.full_name}.{field.name} = {field.number}"
        if theirs is None:
            problems.append(f"{where}: Envoy has no such field in {envoys.full_name}")
            continue
        problems.extend(f"{where}: {fault} ({envoys.full_name}.{theirs.name})" for fault in _faults(field, theirs))
        if field.message_type is not None and theirs.message_type is not None and not field.message_type.full_name.startswith("google."):
            _compare(field.message_type, theirs.message_type, problems, seen)


def _faults(field: FieldDescriptor, theirs: FieldDescriptor) -> list[str]:
    faults: list[str] = []
    if field.name != theirs.name:
        faults.append("another name")
    same_type = field.type == theirs.type or (field.type == FieldDescriptor.TYPE_INT32 and theirs.type == FieldDescriptor.TYPE_ENUM)
    if not same_type:
        faults.append(f"type {field.type} is not {theirs.type}")
    if field.is_repeated != theirs.is_repeated:
        faults.append("one is repeated, the other is not")
    if (field.containing_oneof is None) != (theirs.containing_oneof is None):
        faults.append("one is in a oneof, the other is not")
    if field.message_type is not None and theirs.message_type is not None:
        known = field.message_type.full_name
        if known.startswith("google.") and known != theirs.message_type.full_name:
            faults.append(f"message {known} is not {theirs.message_type.full_name}")
    return faults
