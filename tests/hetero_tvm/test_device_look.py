"""What shell shows of a device: this machine, and devices that are not at hand."""

import dataclasses
import re

import pytest

from hetero_tvm import device_look
from hetero_tvm.device_facts import read_facts
from hetero_tvm.device_look import Seen
from hetero_tvm.transports.local import Local


@pytest.fixture(scope="module")
def here(tmp_path_factory):
    return Local(tmp_path_factory.mktemp("device"))


@pytest.fixture(scope="module")
def phone(here):
    """A Snapdragon 8 Gen 3 that has all it needs."""
    return dataclasses.replace(
        read_facts(here),
        system="android",
        machine="aarch64",
        soc="SM8650",
        soc_id=557,
        htp_arch=75,
        gpu="Adreno750v2",
        opencl="/vendor/lib64/libOpenCL.so",
        fastrpc="/vendor/lib64/libcdsprpc.so",
        lacks=(),
        memory_free_bytes=4 << 30,
        storage_free_bytes=4 << 30,
    )


FINE = Seen(
    gpu_nodes=("/dev/kgsl-3d0",),
    dsp_nodes=("/dev/fastrpc-cdsp",),
    public=("libOpenCL.so", "libcdsprpc.so"),
    loader="/system/bin/linker64",
)


def lines(facts, seen, brought=()):
    return list(device_look.results(facts, seen, dict(brought)))


def test_a_phone_that_has_everything(phone):
    found = lines(phone, FINE)
    assert {each.status for each in found} == {"ok"}
    names = [each.name for each in found]
    assert names[:4] == ["device", "shell", "memory", "storage"]
    assert {"OpenCL library", "NPU driver", "namespaces", "GPU device file"} <= set(names)


@pytest.mark.parametrize(
    ("facts", "seen", "status", "name", "words", "fix"),
    [
        ({"lacks": ("df",)}, {}, "FAIL", "shell", "lacks df", "busybox"),
        ({"memory_free_bytes": 1 << 20}, {}, "warn", "memory", "0.0 GB", "other programs"),
        ({"storage_free_bytes": 1 << 20}, {}, "warn", "storage", "0.0 GB", "--root"),
        ({"opencl": ""}, {}, "FAIL", "OpenCL library", "none found", "driver"),
        ({}, {"icd_broken": ("a.icd names /b.so",)}, "warn", "OpenCL driver", "b.so: gone", "inst"),
        (
            {},
            {"gpu_nodes": (), "gpu_closed": ("/dev/kgsl-3d0",)},
            "warn",
            "GPU device file",
            "may not open it",
            "groups",
        ),
        ({"fastrpc": ""}, {}, "FAIL", "NPU driver", "no libcdsprpc.so", "libcdsprpc1"),
        ({}, {"dsp_nodes": ()}, "FAIL", "NPU driver", "no device file", "fastrpc driver"),
        (
            {},
            {"dsp_nodes": (), "dsp_closed": ("/dev/fastrpc-cdsp",)},
            "FAIL",
            "NPU driver",
            "/dev/fastrpc-cdsp: this user may not open it",
            "udev",
        ),
        ({"htp_arch": None}, {}, "FAIL", "NPU driver", "SoC 557 is of no target", "TOML"),
        ({}, {"public": ("libOpenCL.so",)}, "warn", "namespaces", "libcdsprpc.so: not", "vendor"),
    ],
)
def test_what_is_wrong_is_one_line_with_its_fix(phone, facts, seen, status, name, words, fix):
    found = lines(dataclasses.replace(phone, **facts), dataclasses.replace(FINE, **seen))
    (bad,) = [each for each in found if each.status != "ok"]
    assert (bad.status, bad.name) == (status, name)
    assert words in bad.words and fix in bad.fix
    assert status == "warn" or bad.exit_code == 4


def test_skeletons(phone):
    there = {"libQnnHtpV75Skel.so": "/root/store/ab/libQnnHtpV75Skel.so"}
    assert device_look.skeleton(there, 75, FINE).status == "ok"
    old = dataclasses.replace(FINE, skels=("/dsp/cdsp/libQnnHtpV73Skel.so",))
    wrong = device_look.skeleton(there, 73, old)
    assert wrong.status == "FAIL" and "no libQnnHtpV73Skel.so; the system" in wrong.words
    assert device_look.skeleton({}, None, FINE).status == "ok"


def test_what_our_program_is_told_of_counts(here):
    facts = dataclasses.replace(read_facts(here), opencl="")
    bad = [r.name for r in lines(facts, Seen()) if r.status == "FAIL"]
    assert bad == ["OpenCL library"]
    found = lines(facts, Seen(), {"HETERO_OPENCL_FALLBACK_LIB": "/x.so"}.items())
    assert not [each for each in found if each.status == "FAIL"]


def test_this_machine_is_looked_at(here):
    seen = device_look.look(here)
    assert re.search(r"ld-(linux|musl)", seen.loader)
    assert not {*seen.gpu_nodes} & {*seen.gpu_closed}
