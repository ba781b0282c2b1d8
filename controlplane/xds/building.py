"""Bytes of Envoy's resources: taken from the cache by what decides them, or built now.

Building imports envoy-data-plane, which costs a second: a start without changes does without.
"""

from __future__ import annotations

import hashlib
import json
import sys
import warnings
from collections.abc import Callable
from functools import cache
from typing import Any

from controlplane.registry.spec import McpServerSpec
from controlplane.xds.cache import XdsResource
from controlplane.xds.resource_cache import ResourceCache
from controlplane.xds.resources import BUILDER_VERSION
from controlplane.xds.resources.message_class import plain_message_classes
from extauthz.discovery import version_of
from extauthz.quick_import import quick_imports


@cache  # not a look at sys.modules: another thread may be in the middle of this import
def load_builder() -> Any:  # noqa: ANN401 - a module
    """The builders of Envoy's resources. The first call imports envoy-data-plane, so only missing bytes make it."""
    with warnings.catch_warnings(), quick_imports(), plain_message_classes():
        warnings.simplefilter("ignore")  # pydantic's remarks about generated code
        from controlplane.xds.resources import builder  # noqa: PLC0415
    return builder


def is_builder_loaded() -> bool:
    """Whether building costs no import any more."""
    return "controlplane.xds.resources.builder" in sys.modules


def warm_up_builder() -> None:
    """Load the builders and use once what an edit uses: classes are completed on first use."""
    spec = McpServerSpec.model_validate({"endpoints": [{"url": "http://192.0.2.1/mcp"}]})
    builder = load_builder()
    builder.build_cluster("warm-up", spec, "")
    builder.build_endpoints("warm-up", spec, {"192.0.2.1": ("192.0.2.1",)})


def remembered(
    name: str, built: ResourceCache, decisive: list[object], build: Callable[[], bytes], *, secrets: tuple[str, ...] = ()
) -> XdsResource:
    """The resource whose bytes are decided by `decisive`: from the cache, or built now."""
    text = json.dumps([BUILDER_VERSION, *decisive], sort_keys=True, separators=(",", ":"))
    key = hashlib.sha256(text.encode()).hexdigest()
    value = built.get(key)
    if value is None:
        value = build()
        built.put(key, value)
    return XdsResource(name=name, version_info=version_of(value), value=value, secrets=secrets)
