"""Names of HTTP filters. A misspelt key of `typed_per_filter_config` is accepted silently by Envoy: these are the only ones."""

from __future__ import annotations

LOCAL_RATELIMIT = "envoy.filters.http.local_ratelimit"
EXT_AUTHZ = "envoy.filters.http.ext_authz"
CUSTOM_RESPONSE = "envoy.filters.http.custom_response"
HEADER_MUTATION = "envoy.filters.http.header_mutation"
EXT_PROC = "envoy.filters.http.ext_proc"
STATEFUL_SESSION = "envoy.filters.http.stateful_session"
HEADER_TO_METADATA = "envoy.filters.http.header_to_metadata"
ROUTER = "envoy.filters.http.router"

HTTP_FILTERS = (LOCAL_RATELIMIT, CUSTOM_RESPONSE, EXT_AUTHZ, HEADER_MUTATION, EXT_PROC, STATEFUL_SESSION, HEADER_TO_METADATA, ROUTER)
"""In the order of the filter chain; answers pass it backwards."""
