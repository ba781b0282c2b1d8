"""Puts the API together: every noun's routes, the document that describes them, the application that serves them."""

from __future__ import annotations

import time
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version

from aiohttp import web

from controlplane.api.anomalies import Anomalies, AnomalyRoutes
from controlplane.api.audit import AuditAccess, AuditRoutes
from controlplane.api.audit_proof import AuditProofRoutes
from controlplane.api.audit_sinks import AuditSinkRoutes
from controlplane.api.auth import OperatorAuthentication
from controlplane.api.authorization_servers import AuthorizationServerRoutes
from controlplane.api.base_url import API_PATH
from controlplane.api.catalogs import CatalogRoutes
from controlplane.api.entries import EntryRoutes
from controlplane.api.explain import Explainer, ExplainRoutes, StateBuilder
from controlplane.api.health import HealthRoutes
from controlplane.api.metadata import MetadataRoutes
from controlplane.api.nodes import NodeRoutes, RolloutStatus
from controlplane.api.openapi import OpenApiRoutes
from controlplane.api.reviews import ProbeNow, ReviewRoutes, no_prober
from controlplane.api.routes import Route, make_application
from controlplane.api.usage import CatchUp, UsageRoutes
from controlplane.api.what_if import Replays, WhatIfRoutes
from controlplane.api.write_slots import WriteSlots
from controlplane.audit.store import AuditStore
from controlplane.authorization_server.oversight import Oversight
from controlplane.registry.live import LiveState
from controlplane.registry.public_url import public_url
from controlplane.registry.reader import LiveStatus, RegistryReader, no_live_status
from controlplane.registry.review_reader import ReviewReader
from controlplane.registry.service import RegistryService
from controlplane.registry.state import RegistryState
from controlplane.registry.store import RegistryStore


def make_routes(
    *,
    service: RegistryService,
    store: RegistryStore,
    live: LiveState,
    rollout: RolloutStatus,
    audit: AuditAccess,
    authentication: OperatorAuthentication,
    build_state: StateBuilder,
    live_status: LiveStatus = no_live_status,
    problems: Callable[[], list[str]] = list,
    oversight: Oversight | None = None,
    probe_now: ProbeNow = no_prober,
    replays: Replays | None = None,
    anomalies: Anomalies | None = None,
    usage: AuditStore | None = None,
    catch_up_usage: CatchUp | None = None,
    proof: AuditProofRoutes | None = None,
    sinks: AuditSinkRoutes | None = None,
    clock: Callable[[], float] = time.time,
) -> list[Route]:
    """The whole route table. `problems`: what keeps this process from being ready, beside the database and the nodes."""

    def state() -> RegistryState:
        return live.state

    def gateway_url() -> str:
        return public_url(live.state, authentication.resource_url.removesuffix(API_PATH))

    reader, slots = RegistryReader(store=store, live=live, live_status=live_status), WriteSlots()
    openapi = OpenApiRoutes()
    routes = [
        *HealthRoutes(read_revision=store.read_revision, rollout=rollout, problems=problems, gateway_url=gateway_url).routes(),
        *openapi.routes(),
        *MetadataRoutes(authentication=authentication).routes(),
        *EntryRoutes(service=service, reader=reader, slots=slots).routes(),
        *CatalogRoutes(service=service, reader=reader, slots=slots).routes(),
        *ReviewRoutes(service=service, reader=ReviewReader(store=store, live=live), slots=slots, probe_now=probe_now).routes(),
        *NodeRoutes(reader=reader, rollout=rollout, state=state, problems=problems, warnings=proof.faults if proof else list).routes(),
        *ExplainRoutes(explainer=Explainer(state=state, build=build_state, clock=clock)).routes(),
        *AuditRoutes(audit=audit, authentication=authentication, clock=clock).routes(),
        *(proof.routes() if proof is not None else ()),
        *(sinks.routes() if sinks is not None else ()),
        *(AnomalyRoutes(anomalies=anomalies).routes() if anomalies is not None else ()),
        *(UsageRoutes(store=usage, state=state, catch_up=catch_up_usage).routes() if usage is not None else ()),
        *(WhatIfRoutes(service=service, replays=replays, clock=clock).routes() if replays is not None else ()),
        *(AuthorizationServerRoutes(oversight=oversight).routes() if oversight is not None else ()),
    ]
    openapi.describe(routes, version=_version())
    return routes


def make_api(routes: list[Route], authentication: OperatorAuthentication) -> web.Application:
    """The application of these routes."""
    return make_application(routes, authentication)


def _version() -> str:
    try:
        return version("legation")
    except PackageNotFoundError:  # a checkout that was never installed
        return "0"
