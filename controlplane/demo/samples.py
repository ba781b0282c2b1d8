"""Both sample MCP servers in one process, as the supervisor starts them: the SDK is imported once, which takes a second.

Run: `python -m controlplane.demo.samples 9101 9102` (the ports of crm and engineering-db). The supervisor adds an errand for the
tour, which is forked from here for the same reason (`guide`).
"""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Sequence

from extauthz.quick_import import quick_imports

with quick_imports():
    from controlplane.demo.crm import build_crm
    from controlplane.demo.engineering_db import build_engineering_db
    from controlplane.demo.guide import Errand, fork_guide
    from controlplane.demo.serving import serve_all


def main(arguments: Sequence[str] | None = None) -> int:
    """Serve until SIGTERM."""
    parser = argparse.ArgumentParser(prog="python -m controlplane.demo.samples", description="The sample MCP servers of the Legation demo.")
    parser.add_argument("crm", type=int, help="port of demo/crm")
    parser.add_argument("engineering_db", type=int, help="port of demo/engineering-db")
    parser.add_argument("--guide", nargs=3, type=int, metavar="DESCRIPTOR", help="link, output and error of the supervisor, for the tour")
    parser.add_argument(
        "--tour", nargs=3, default=("", "", ""), metavar=("DATA_DIR", "GATEWAY_URL", "FORMAT"), help="what the tour is told"
    )
    options = parser.parse_args(arguments)
    if options.guide:
        with quick_imports():
            importlib.import_module("mcp.client")
        (link, output, error), (data_dir, gateway_url, shown) = options.guide, options.tour
        ports = {"crm": options.crm, "engineering-db": options.engineering_db}
        fork_guide(Errand(link=link, output=output, error=error, data_dir=data_dir, gateway_url=gateway_url, ports=ports, format=shown))
    return serve_all({options.crm: build_crm, options.engineering_db: build_engineering_db})


if __name__ == "__main__":
    sys.exit(main())
