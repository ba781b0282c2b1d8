"""`python -m controlplane`: the control plane, configured by `LEGATION_*` variables (docs/settings.md)."""

from __future__ import annotations

import os
import sys

import uvloop

from controlplane.app import run
from controlplane.settings import KNOWN_VARIABLES, ControlPlaneSettings
from extauthz.errors import LegationError
from extauthz.log import configure_logging
from extauthz.settings import read_settings, refuse_unknown


def main() -> int:
    """Run until stopped; 0 after a clean stop, 1 with one sentence on standard error when it cannot start."""
    try:
        refuse_unknown(os.environ, KNOWN_VARIABLES)
        settings = read_settings(ControlPlaneSettings, os.environ)
        configure_logging(settings.log_level, settings.log_format)
        uvloop.run(run(settings))
    except LegationError as error:
        sys.stderr.write(f"control plane: {error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
