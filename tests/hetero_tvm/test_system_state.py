"""What a machine shows, read from a file system made by hand."""

import pytest

from hetero_tvm.system_state import machine, read_state


def write(root, files):
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


PHONE = {
    "sys/devices/system/cpu/cpu0/cpufreq/scaling_cur_freq": "1200000\n",
    "sys/devices/system/cpu/cpu7/cpufreq/scaling_cur_freq": "3000000\n",
    "sys/devices/system/cpu/cpu7/cpufreq/scaling_max_freq": "3300000\n",
    "sys/class/thermal/thermal_zone0/type": "cpu-0-0-usr\n",
    "sys/class/thermal/thermal_zone0/temp": "54300\n",
    "sys/class/thermal/thermal_zone1/type": "nsphvx-0\n",
    "sys/class/thermal/thermal_zone1/temp": "47\n",
    "sys/class/thermal/thermal_zone2/type": "off\n",
    "sys/class/thermal/thermal_zone2/temp": "-273000\n",
    "sys/class/thermal/thermal_zone3/type": "zero\n",
    "sys/class/thermal/thermal_zone3/temp": "0\n",
    "sys/class/hwmon/hwmon0/name": "k10temp\n",
    "sys/class/hwmon/hwmon0/temp1_input": "41000\n",
    "sys/class/hwmon/hwmon0/temp1_label": "Tctl\n",
    "sys/class/kgsl/kgsl-3d0/gpuclk": "680000000\n",
    "sys/class/power_supply/battery/type": "Battery\n",
    "sys/class/power_supply/battery/status": "Discharging\n",
    "sys/class/power_supply/battery/current_now": "-1000000\n",
    "sys/class/power_supply/battery/voltage_now": "4100000\n",
    "sys/devices/soc0/machine": "SM8650\n",
    "proc/cpuinfo": "processor : 0\nmodel name : Some CPU @ 3 GHz\n",
}


def test_a_phone(tmp_path):
    state = read_state(write(tmp_path, PHONE))
    assert state.temperatures_c == {"cpu-0-0-usr": 54.3, "nsphvx-0": 47, "k10temp Tctl": 41}
    assert (state.hottest_c, state.cpu_mhz, state.cpu_max_mhz) == (54.3, 2100, 3300)
    assert (state.gpu_mhz, state.power_w) == (680, pytest.approx(4.1))
    assert machine(tmp_path)["soc"] == "SM8650"
    assert machine(tmp_path)["cpu"] == "Some CPU @ 3 GHz"


def test_a_machine_that_shows_nothing(tmp_path):
    state = read_state(tmp_path)
    assert state.to_dict() == {
        "temperatures_c": {},
        "cpu_mhz": None,
        "cpu_max_mhz": None,
        "gpu_mhz": None,
        "power_w": None,
        "hottest_c": None,
    }
    assert "soc" not in machine(tmp_path)


def test_power_is_that_of_discharging(tmp_path):
    root = write(tmp_path, {**PHONE, "sys/class/power_supply/battery/status": "Charging\n"})
    assert read_state(root).power_w is None
    files = {"status": "Discharging\n", "power_now": "2500000\n"}
    write(root, {f"sys/class/power_supply/battery/{name}": text for name, text in files.items()})
    assert read_state(root).power_w == 2.5


def test_the_gpus_clock_by_devfreq(tmp_path):
    root = write(tmp_path, {"sys/class/kgsl/kgsl-3d0/devfreq/cur_freq": "305000000\n"})
    assert read_state(root).gpu_mhz == 305


def test_nonsense_is_nothing(tmp_path):
    root = write(tmp_path, {"sys/class/thermal/thermal_zone0/temp": "warm\n"})
    assert read_state(root).temperatures_c == {}


def test_this_machine_can_be_read():
    assert machine()["cpu"]
    read_state()
