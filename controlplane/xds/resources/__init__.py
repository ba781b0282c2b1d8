"""Envoy's resources, one module per type, built with envoy-data-plane.

Importing its modules costs time: `xds.snapshot` does it only when a resource must really be built, and by way of `message_class`.
`BUILDER_VERSION` goes into the key under which built bytes are kept: raise it when any builder changes what it makes.
"""

from __future__ import annotations

BUILDER_VERSION = 13
