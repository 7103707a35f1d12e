"""From scheduled Relax to a shared library, and what is missing when there is no compiler."""

import contextlib
import subprocess
import sys
import time

import psutil
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
    """A compiler driver whose child works on for long."""
    driver, child = tmp_path / "cxx", tmp_path / "child"
    driver.write_text(
        f"#!/bin/sh\nsleep 300 &\necho $! > {child}.new\nmv {child}.new {child}\nwait\n"
    )
    driver.chmod(0o755)
    code = (
        "import signal, sys; from hetero_tvm import vm_lowering; "
        "signal.signal(signal.SIGTERM, lambda *_: sys.exit(143)); "
        f"vm_lowering._link({str(driver)!r}, 'm.so', [])"
    )
    process = subprocess.Popen([sys.executable, "-c", code])
    while not child.exists():
        time.sleep(0.01)
    process.terminate()
    assert process.wait(timeout=60) == 143
    _, alive = psutil.wait_procs(_processes(int(child.read_text())), timeout=60)
    assert not alive


def _processes(pid):
    """[the process], or [] where it is gone or only its exit code is left."""
    with contextlib.suppress(psutil.NoSuchProcess):
        process = psutil.Process(pid)
        return [process] if process.status() != psutil.STATUS_ZOMBIE else []
    return []
