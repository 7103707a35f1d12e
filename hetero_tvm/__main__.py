"""`python -m hetero_tvm VERB …`, the same as the console script `hetero-tvm`."""

from __future__ import annotations

import sys

from hetero_tvm.cli import entry

if __name__ == "__main__":
    sys.exit(entry())
