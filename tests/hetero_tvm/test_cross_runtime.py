"""What can be built for which system. That it works there: tests/device/."""

import pytest

from hetero_tvm import cross_runtime
from hetero_tvm.device_os import device_os
from hetero_tvm.errors import EnvironmentProblem


@pytest.mark.parametrize("name", ["windows-arm64", "android-arm64"])
def test_without_tvm_there_is_no_runtime_and_that_is_said(name, tmp_path):
    with pytest.raises(
        EnvironmentProblem, match=rf"no wheel for {name}.* artefact can \(`build --os {name}`\)"
    ):
        cross_runtime.runtime_library(device_os(name), tmp_path)


def test_the_sources_are_found():
    assert (cross_runtime.sources() / "include/hetero_tvm/runtime.h").is_file()
