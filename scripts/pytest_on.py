"""Tests on another build of the runtime than the installed one.

python scripts/pytest_on.py LIBRARY [PYTEST ARGUMENTS]

Processes that tests start load the installed one.
"""

import sys
from pathlib import Path

import pytest

from hetero_tvm import runtime

runtime.LIBRARY = Path(sys.argv[1]).resolve()
sys.exit(pytest.main(sys.argv[2:]))
