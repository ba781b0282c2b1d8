"""Both sample MCP servers in one process, as the supervisor starts them: the SDK is imported once, which takes a second.

Run: `python -m controlplane.demo.samples 9101 9102` (the ports of crm and engineering-db).
"""

from __future__ import annotations

import sys

from extauthz.quick_import import quick_imports

with quick_imports():
    from controlplane.demo.crm import build_crm
    from controlplane.demo.engineering_db import build_engineering_db
    from controlplane.demo.serving import serve_all


def main(arguments: list[str]) -> int:
    """Serve until SIGTERM."""
    crm_port, database_port = (int(port) for port in arguments[1:3])
    return serve_all({crm_port: build_crm, database_port: build_engineering_db})


if __name__ == "__main__":
    sys.exit(main(sys.argv))
