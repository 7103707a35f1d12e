"""Makes the helpers beside the tests importable; what several of them build once."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture(scope="session")
def artefact(tmp_path_factory, opencl):
    """A model split over GPU and NPU: what faults and load are tried on."""
    import fault_runs

    return fault_runs.build(tmp_path_factory.mktemp("split"))
