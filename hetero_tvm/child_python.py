"""What a Python process of ours needs to import us as this one did, wherever we lie."""

from __future__ import annotations

import os
import sys


def environment() -> dict[str, str]:
    """The environment of this process, with its import path as `PYTHONPATH`."""
    return {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
