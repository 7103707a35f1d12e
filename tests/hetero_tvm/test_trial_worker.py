import subprocess
import sys

import pytest

from hetero_tvm import runtime, trial_worker
from hetero_tvm.errors import EnvironmentProblem


def test_an_unreachable_device_is_one_line():
    command = [sys.executable, "-m", "hetero_tvm.trial_worker", "--target", '{"kind": "opencl"}']
    done = subprocess.run(
        [*command, "--device", "rpc://127.0.0.1:1"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 3
    assert done.stdout.startswith('{"error": ') and done.stdout.count("\n") == 1


def test_local_is_this_machines_device():
    try:
        name = runtime.device_name()
    except EnvironmentProblem as problem:
        pytest.skip(str(problem))
    device = trial_worker.connect("local")
    assert device.session is None and device.device.device_name == name
