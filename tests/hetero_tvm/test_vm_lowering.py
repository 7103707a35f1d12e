"""From scheduled Relax to a shared library, and what is missing when there is no compiler."""

import pytest

from hetero_tvm import vm_lowering
from hetero_tvm.errors import EnvironmentProblem


def test_waits_are_inserted_after_dataflow_is_gone():
    """Order is program order only then; see ARCHITECTURE.md on CPU kernels."""
    names = [step.info.name for step in vm_lowering.lower_to_vm()]
    assert names.index("ToNonDataflow") < names.index("InsertGpuWaits")
    assert names.index("InsertGpuWaits") < names.index("StaticPlanBlockMemory")


@pytest.mark.parametrize("compiler", ["no-such-compiler", None])
def test_no_compiler_says_what_to_install(tmp_path, monkeypatch, compiler):
    monkeypatch.setattr(vm_lowering.cc, "get_cc", lambda: compiler)
    with pytest.raises(EnvironmentProblem, match=r"no C\+\+ compiler .* install one"):
        vm_lowering.export(None, tmp_path / "m.so")
    assert list(tmp_path.iterdir()) == []
