"""`python -m aggregator`: the aggregator, configured by `LEGATION_*` variables (docs/settings.md)."""

from __future__ import annotations

import os
import sys

from extauthz.quick_import import quick_imports

with quick_imports():
    import uvloop

    from aggregator.server import run
    from aggregator.settings import KNOWN_VARIABLES, AggregatorSettings
    from extauthz.errors import LegationError
    from extauthz.log import configure_logging
    from extauthz.settings import read_settings, refuse_unknown


def main() -> int:
    """Run until stopped; 0 after a clean stop, 1 with one sentence on standard error when it cannot start."""
    try:
        refuse_unknown(os.environ, KNOWN_VARIABLES)
        settings = read_settings(AggregatorSettings, os.environ)
        configure_logging(settings.log_level, settings.log_format)
        uvloop.run(run(settings))
    except LegationError as error:
        sys.stderr.write(f"aggregator: {error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
