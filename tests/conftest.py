"""Of all tests: what the terminal of whoever runs them is like has no part in them."""

from __future__ import annotations

import os

os.environ.pop("COLUMNS", None)  # commands that tests start write tables as wide as they need
