"""Makes the helpers beside the tests importable; skips where there is no OpenCL device."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture(scope="session")
def opencl():
    """This process's OpenCL device."""
    from hetero_tvm import errors, runtime

    try:
        return runtime.open_opencl()
    except errors.EnvironmentProblem as problem:
        pytest.skip(str(problem))
