"""First step of a start, in a process of its own so that the supervisor stays small: keys, credentials, database, first entries.

`python -P -m controlplane.supervisor.prepare DATA_DIR GATEWAY_URL`. It costs a second of imports, so a deployment that was
prepared for the same gateway by the same release is left alone (`is_prepared`).
"""

from __future__ import annotations

import sys
from importlib.metadata import version
from pathlib import Path

from extauthz.errors import LegationError
from extauthz.runtime import Deployment, deployment_of


def is_prepared(deployment: Deployment, gateway_url: str) -> bool:
    """Whether nothing is left to prepare."""
    needed = (
        deployment.database_file,
        deployment.encryption_key_file,
        deployment.admin_credential_file,
        deployment.development_issuer_file,
    )
    try:
        return all(file.exists() for file in needed) and _marker(deployment).read_text() == _marking(gateway_url)
    except OSError:
        return False


def _marker(deployment: Deployment) -> Path:
    return deployment.data_dir / "prepared"


def _marking(gateway_url: str) -> str:
    return f"{version('legation')} {gateway_url}\n"


def main(arguments: list[str]) -> int:
    """Prepare and say in one line what failed."""
    from controlplane.registry.installation import prepare  # noqa: PLC0415 - half a second of imports, only for a run as a program

    deployment, gateway_url = deployment_of(arguments[1]), arguments[2]
    try:
        prepare(deployment, gateway_url)
    except LegationError as error:
        print(error, file=sys.stderr)
        return 1
    _marker(deployment).write_text(_marking(gateway_url))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv))
