"""Names of operating systems, and the one that this runs on."""

import platform
import sys

import pytest

from hetero_tvm import device_os
from hetero_tvm.errors import BadInput


def test_unknown_names_list_the_known_ones():
    with pytest.raises(BadInput, match=r"--os beos: not known; one of .*linux-aarch64, windows"):
        device_os.device_os("beos")


@pytest.mark.parametrize(
    ("system", "machine", "android", "name"),
    [
        ("Linux", "x86_64", False, "linux-x86_64"),
        ("Linux", "aarch64", False, "linux-aarch64"),
        ("Windows", "ARM64", False, "windows-arm64"),
        ("Linux", "aarch64", True, "android-arm64"),
    ],
)
def test_a_machine_is_known_by_what_python_calls_it(monkeypatch, system, machine, android, name):
    monkeypatch.setattr(platform, "system", lambda: system)
    monkeypatch.setattr(platform, "machine", lambda: machine)
    if android:
        monkeypatch.setattr(sys, "getandroidapilevel", lambda: 34, raising=False)
    assert device_os.this_os() == device_os.device_os(name)


def test_a_machine_without_a_name_is_still_a_machine(monkeypatch):
    monkeypatch.setattr(platform, "machine", lambda: "vax")
    here = device_os.this_os()
    assert (here.machine, here.name in device_os.OSES) == ("vax", False)


def test_host_code_asks_for_no_more_than_every_such_processor_has():
    """A feature that one of them lacks would be an illegal instruction there."""
    for known in device_os.OSES.values():
        assert known.host_target["mcpu"] in ("generic", "x86-64")
        assert "mattr" not in known.host_target
