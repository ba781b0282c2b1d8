"""`legation up`: one process that starts, watches and stops all others of a deployment on one machine."""

from __future__ import annotations

from controlplane.supervisor.supervisor import up

__all__ = ["up"]
