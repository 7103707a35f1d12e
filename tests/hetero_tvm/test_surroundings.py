"""Where a model runs: this machine, and one that is known by its files only."""

import json
import platform

import pytest

from hetero_tvm import memory, runtime, system_state
from hetero_tvm.surroundings import DeviceSurroundings, Surroundings

FILES = {
    "/sys/class/thermal/thermal_zone0/type": "cpu-0\n",
    "/sys/class/thermal/thermal_zone0/temp": "51000\n",
    "/sys/devices/soc0/machine": "SM8650\n",
    "/proc/sys/kernel/ostype": "Linux\n",
    "/proc/sys/kernel/osrelease": "6.1.99\n",
    "/proc/cpuinfo": "processor : 0\nHardware : some board\n",
    "/proc/self/status": "Name: x\nVmHWM:     2048 kB\n",
}


def test_this_machine():
    here = Surroundings()
    assert here.machine() == system_state.machine()
    assert here.peak_bytes() == pytest.approx(memory.peak_bytes(), rel=0.1)
    assert here.state().to_dict().keys() == system_state.read_state().to_dict().keys()


def test_a_device_by_its_files():
    there = DeviceSurroundings(lambda _patterns: json.dumps(FILES), "aarch64")
    assert there.state().temperatures_c == {"cpu-0": 51.0}
    wanted = {"system": "Linux 6.1.99", "cpu": "some board", "soc": "SM8650"}
    assert there.machine() == wanted
    assert there.peak_bytes() == 2 << 20
    assert DeviceSurroundings(lambda _patterns: "{}", "aarch64").peak_bytes() is None
    assert DeviceSurroundings(lambda _patterns: "{}", "aarch64").machine()["cpu"] == "aarch64"


def test_the_runtime_reads_what_kernels_show_and_nothing_else():
    runtime.load()
    import tvm_ffi

    read = tvm_ffi.get_global_func("hetero_tvm.files_json")
    assert DeviceSurroundings(read, platform.machine()).machine() == system_state.machine()
    assert DeviceSurroundings(read, platform.machine()).peak_bytes() > 1 << 20
    for pattern in ("/etc/passwd", "/proc/../etc/passwd", "relative"):
        with pytest.raises(ValueError, match="only files below /sys and /proc"):
            read(pattern)
