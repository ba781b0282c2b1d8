"""The public listeners by name: what each of them is called."""

from __future__ import annotations

from dataclasses import dataclass

DEFAULT_GATEWAY = "default"
"""The Gateway that stands for the listener of the settings."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GatewayNames:
    """One public listener. `url`: its base URL, no trailing slash; empty: that of the settings. `hostnames`: further Host names.

    A hostname `*.example.com` stands for one label.
    """

    name: str
    url: str
    hostnames: tuple[str, ...] = ()
