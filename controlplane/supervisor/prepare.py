"""First step of a start, in a process of its own so that the supervisor stays small: keys, credentials, database, first entries.

`python -P -m controlplane.supervisor.prepare DATA_DIR GATEWAY_URL`; see `marker` for when it is left out.
"""

from __future__ import annotations

import sys

from controlplane.registry.installation import prepare
from controlplane.supervisor.marker import mark_prepared
from extauthz.errors import LegationError
from extauthz.runtime import deployment_of


def main(arguments: list[str]) -> int:
    """Prepare and say in one line what failed."""
    deployment, gateway_url = deployment_of(arguments[1]), arguments[2]
    try:
        prepare(deployment, gateway_url)
    except LegationError as error:
        print(error, file=sys.stderr)
        return 1
    mark_prepared(deployment, gateway_url)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv))
