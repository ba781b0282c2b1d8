"""`python -m bench.altered_up none|null|unshipped up ...`: `legation up` with the authorizer of `bench.altered_authorizer`."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import replace

from controlplane.cli.main import main
from controlplane.supervisor import plan

_usual = plan.authorizer


def _altered(how: str, environ: Mapping[str, str]) -> plan.Process:
    return replace(_usual(environ), command=(sys.executable, "-m", "bench.altered_authorizer", how))


if __name__ == "__main__":
    way = sys.argv.pop(1)
    plan.authorizer = lambda environ: _altered(way, environ)
    main()
