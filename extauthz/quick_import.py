"""How a process imports much at once: without looking for garbage that cannot be there, then or later.

Imports make some hundred thousand objects that live as long as the process. Looking through them again and again costs a quarter
of the start, and later a pause in the middle of somebody's call.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def quick_imports() -> Iterator[None]:
    """Around the imports of an entry module: no collection meanwhile, and what was imported is left out of all that follow."""
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()
