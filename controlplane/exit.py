"""How the process ends: soon, also when a thread of it hangs.

What the control plane had open is closed when `app.run` returns. Then the interpreter waits for threads, without limit: for
jobs of the event loop's executor and for name lookups that were given up but cannot be interrupted (an unanswered DNS query
takes ten seconds). None of them holds anything that must be finished: a commit that they do is durable or rolled back.
"""

from __future__ import annotations

import os
import sys
import threading
import time

EXIT_SECONDS = 1.0


def end_process_within(seconds: float, code: int) -> None:
    """Start the clock: if the process still lives after that many seconds, it ends with this code."""
    threading.Thread(target=_end, args=(seconds, code), name="exit", daemon=True).start()


def _end(seconds: float, code: int) -> None:
    time.sleep(seconds)
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    os._exit(code)
