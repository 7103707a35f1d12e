"""From scheduled Relax to a shared library, and what is missing when there is no compiler."""

import subprocess
import sys
import time

import pytest

from hetero_tvm import vm_lowering
from hetero_tvm.errors import EnvironmentProblem


def test_waits_are_inserted_after_dataflow_is_gone():
    """Order is program order only then; and the NPU starts early before waits are counted."""
    names = [step.info.name for step in vm_lowering.lower_to_vm()]
    order = ["ToNonDataflow", "StartNpuEarly", "CallTIRRewrite", "PlanMemory", "KillAfterLastUse"]
    assert [name for name in names if name in order] == order
    assert names[names.index("PlanMemory") + 1] == "CheckOrder"  # of every build


@pytest.mark.parametrize("compiler", ["no-such-compiler", None])
def test_no_compiler_says_what_to_install(tmp_path, monkeypatch, compiler):
    monkeypatch.setattr(vm_lowering.cc, "get_cc", lambda: compiler)
    with pytest.raises(EnvironmentProblem, match=r"no C\+\+ compiler .* install one"):
        vm_lowering.export(None, tmp_path / "m.so")
    assert list(tmp_path.iterdir()) == []


def test_an_interrupted_link_leaves_no_linker_behind(tmp_path):
    """A compiler driver whose child would write the output a second later."""
    driver = tmp_path / "cxx"
    driver.write_text(
        f"#!/bin/sh\n(sleep 1; echo late > {tmp_path}/late) &\ntouch {tmp_path}/started\nwait\n"
    )
    driver.chmod(0o755)
    code = (
        "import signal, sys; from hetero_tvm import vm_lowering; "
        "signal.signal(signal.SIGTERM, lambda *_: sys.exit(143)); "
        f"vm_lowering._link({str(driver)!r}, 'm.so', [])"
    )
    process = subprocess.Popen([sys.executable, "-c", code])
    while not (tmp_path / "started").exists():
        time.sleep(0.01)
    process.terminate()
    assert process.wait(timeout=60) == 143
    time.sleep(1.5)
    assert not (tmp_path / "late").exists()
