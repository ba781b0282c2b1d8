"""`python -m controlplane.installation_process DATA_DIR`: keys, credentials and first entries of a deployment over several machines.

Run it once, before the first control plane starts; what exists is kept. On one machine the supervisor does this.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from extauthz.errors import LegationError
from extauthz.runtime import deployment_of
from extauthz.settings import read_settings, setting


@dataclass(frozen=True, slots=True, kw_only=True)
class InstallationSettings:
    """Where the registry is and what the gateway is called."""

    database_url: str = setting("LEGATION_DATABASE_URL", "the registry: sqlite:///PATH or postgresql+psycopg://USER@HOST/NAME")
    gateway_url: str = setting("LEGATION_GATEWAY_URL", "public base URL of the gateway, no trailing slash", default="http://127.0.0.1:8080")


def main(arguments: Sequence[str], environ: Mapping[str, str]) -> int:
    """Prepare, or say in one line what failed."""
    from controlplane.registry.installation import prepare  # noqa: PLC0415 - SQL is for a run only

    if len(arguments) != 2:
        print(f"usage: python -m {__spec__.name} DATA_DIR", file=sys.stderr)
        return 2
    deployment = deployment_of(arguments[1])
    try:
        settings = read_settings(InstallationSettings, environ)
        prepare(deployment, settings.gateway_url, settings.database_url)
    except LegationError as error:
        print(error, file=sys.stderr)
        return 1
    print(f"{deployment.data_dir} is ready; keep {deployment.admin_credential_file.name} and {deployment.encryption_key_file.name} safe")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv, os.environ))
