"""The id of a decision: 22 characters (base64url) of 48 bits of time and 80 of chance.

Ids of a moment stand beside each other in an index, which costs a database a fraction of what scattered ones cost. Until the year 2109
they begin with "A", and never with a "-" that a command line would take for an option.
"""

from __future__ import annotations

import os

from extauthz import base64url


def new_decision_id(at_unix_us: int) -> str:
    """An id that nobody can guess, for a decision of that time."""
    return base64url.encode((at_unix_us // 1000 & 0xFFFF_FFFF_FFFF).to_bytes(6, "big") + os.urandom(10))
