"""`python -m extauthz`: the authorizer, configured by `LEGATION_*` variables (docs/settings.md)."""

from __future__ import annotations

import os
import sys

import uvloop

from extauthz.authorizer_settings import AuthorizerSettings
from extauthz.errors import LegationError
from extauthz.log import configure_logging
from extauthz.server import run
from extauthz.settings import read_settings


def main() -> int:
    """Run until stopped; 0 after a clean stop, 1 with one sentence on standard error when it cannot start."""
    try:
        settings = read_settings(AuthorizerSettings, os.environ)
        configure_logging(settings.log_level, settings.log_format)
        uvloop.run(run(settings))
    except LegationError as error:
        sys.stderr.write(f"authorizer: {error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
