"""`python -m bench.unrecorded_up up ...`: `legation up` with the authorizer of `bench.unrecorded_authorizer`."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import replace

from controlplane.cli.main import main
from controlplane.supervisor import plan

_recorded = plan.authorizer


def _unrecorded(environ: Mapping[str, str]) -> plan.Process:
    return replace(_recorded(environ), command=(sys.executable, "-m", "bench.unrecorded_authorizer"))


if __name__ == "__main__":
    plan.authorizer = _unrecorded
    main()
