"""`python -m controlplane`: the control plane, configured by `LEGATION_*` variables (docs/settings.md).

`--prepare DATA_DIR` (the supervisor's way) first makes what an embedded deployment lacks: keys, credentials, first entries.
"""

from __future__ import annotations

import argparse
import os
import sys
import traceback

from extauthz.quick_import import quick_imports

with quick_imports():
    import uvloop

    from controlplane.app import run
    from controlplane.exit import EXIT_SECONDS, end_process_within
    from controlplane.settings import KNOWN_VARIABLES, ControlPlaneSettings
    from extauthz.errors import LegationError
    from extauthz.log import configure_logging
    from extauthz.runtime import deployment_of
    from extauthz.settings import read_settings, refuse_unknown

SWITCH_INTERVAL_SECONDS = 0.0005
"""How long a thread may keep the interpreter from the event loop: imports of seconds run beside edits of milliseconds."""


def main() -> int:
    """Run until stopped; 0 after a clean stop, 1 with one sentence on standard error when it cannot start."""
    parser = argparse.ArgumentParser(prog="python -m controlplane", description="The control plane of Legation.")
    parser.add_argument("--prepare", metavar="DATA_DIR", default="", help="make an embedded deployment's directory usable first")
    prepared_dir = parser.parse_args().prepare
    try:
        refuse_unknown(os.environ, KNOWN_VARIABLES)
        settings = read_settings(ControlPlaneSettings, os.environ)
        configure_logging(settings.log_level, settings.log_format)
        if prepared_dir:
            from controlplane.registry.installation import prepare  # noqa: PLC0415 - embedded deployments only

            prepare(deployment_of(prepared_dir), settings.gateway_url)
        sys.setswitchinterval(SWITCH_INTERVAL_SECONDS)
    except LegationError as error:
        return _told(error)
    return uvloop.run(_run(settings))


async def _run(settings: ControlPlaneSettings) -> int:
    """The exit code; from its return on the process has `EXIT_SECONDS` left."""
    code = 1
    try:
        await run(settings)
        code = 0
    except LegationError as error:
        code = _told(error)
    except Exception:  # noqa: BLE001 - told here, because the process may end before the interpreter could
        traceback.print_exc()
    finally:
        end_process_within(EXIT_SECONDS, code)
    return code


def _told(error: LegationError) -> int:
    sys.stderr.write(f"control plane: {error}\n")
    return 1


if __name__ == "__main__":
    sys.exit(main())
