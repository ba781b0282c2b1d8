"""`python -m extauthz`: the authorizer, configured by `LEGATION_*` variables (docs/settings.md)."""

from __future__ import annotations

import os
import sys

from extauthz.quick_import import quick_imports

with quick_imports():
    import uvloop

    from extauthz.authorizer_settings import OF_OTHER_PROCESSES, AuthorizerSettings
    from extauthz.errors import LegationError
    from extauthz.log import configure_logging
    from extauthz.server import run
    from extauthz.settings import read_settings, refuse_unknown, variables_of

SWITCH_SECONDS = 0.0005
"""How long a thread may wait for the interpreter. The one that writes the log needs it for microseconds, and all calls wait for it."""


def main() -> int:
    """Run until stopped; 0 after a clean stop, 1 with one sentence on standard error when it cannot start."""
    try:
        refuse_unknown(os.environ, variables_of(AuthorizerSettings) | OF_OTHER_PROCESSES)
        settings = read_settings(AuthorizerSettings, os.environ)
        configure_logging(settings.log_level, settings.log_format)
        sys.setswitchinterval(SWITCH_SECONDS)
        uvloop.run(run(settings))
    except LegationError as error:
        sys.stderr.write(f"authorizer: {error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
