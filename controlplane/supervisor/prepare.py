"""First step of a start, in a process of its own so that the supervisor stays small: keys, credentials, database, bootstrap.

`python -P -m controlplane.supervisor.prepare DATA_DIR GATEWAY_URL BOOTSTRAP_FILE`
"""

from __future__ import annotations

import sys

from extauthz.errors import LegationError
from extauthz.runtime import deployment_of


def main(arguments: list[str]) -> int:
    """Prepare and say in one line what failed."""
    from controlplane.registry.installation import prepare  # noqa: PLC0415 - half a second of imports, only for a run as a program

    data_dir, gateway_url = arguments[1:3]
    try:
        prepare(deployment_of(data_dir), gateway_url)
    except LegationError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv))
