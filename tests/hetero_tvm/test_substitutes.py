"""Which work of other devices the CPU does, and what is said of it."""

import dataclasses
from pathlib import Path

import pytest
from recorded_model import artefact

from hetero_tvm import bundle, substitutes
from hetero_tvm.device_facts import read_facts
from hetero_tvm.errors import DeviceLacks
from hetero_tvm.part_tests import PARTS, PartTest
from hetero_tvm.substitutes import Unfit
from hetero_tvm.transports.local import Local

PATH = Path("encoder.so")
CHIP = {"npu_provider": "qnn", "soc": "SM8650", "htp_arch": 75, "soc_ids": (557,)}


@pytest.fixture(scope="module")
def manifest():
    """Of an artefact for a chip that carries substitutes; compiled here for another machine."""
    made = bundle.read_manifest(artefact())
    return dataclasses.replace(made, fallback=True, npu_regions=1, os="android", **CHIP)


@pytest.fixture(scope="module")
def facts(tmp_path_factory):
    """Of that chip, with everything."""
    found = read_facts(Local(tmp_path_factory.mktemp("facts")))
    ready = {"soc_id": 557, "soc": "SM8650", "htp_arch": 75, "fastrpc": "/vendor/libcdsprpc.so"}
    return dataclasses.replace(found, opencl="/vendor/libOpenCL.so", **ready)


OTHER = {"soc_id": 519, "soc": "SM8550", "htp_arch": 73}


@pytest.mark.parametrize(
    ("lacks", "field", "words"),
    [
        pytest.param({"opencl": ""}, "opencl", "no OpenCL: install", id="no_opencl"),
        pytest.param({"soc_id": None, "machine": "aarch64"}, "npu", "no NPU of Qu", id="no_npu"),
        pytest.param({"fastrpc": ""}, "npu", "no libcdsprpc.so", id="no_npu_driver"),
        pytest.param(OTHER, "npu", "is SM8550", id="other_chip"),
        pytest.param({**OTHER, "opencl": ""}, "opencl", "no OpenCL", id="both"),
    ],
)
def test_what_is_missing(manifest, facts, lacks, field, words):
    there = dataclasses.replace(facts, **lacks)
    with pytest.raises(DeviceLacks, match=f"{words}.*; or let its CPU .* with --allow-fallback"):
        substitutes.by_facts(PATH, manifest, there, {}, allowed=False)
    none = dataclasses.replace(manifest, fallback=False)
    with pytest.raises(DeviceLacks) as refused:
        substitutes.by_facts(PATH, none, there, {}, allowed=True)
    assert "let its CPU" not in str(refused.value)
    found = substitutes.by_facts(PATH, manifest, there, {}, allowed=True)
    (line,) = found.lines()
    assert words in line and words in getattr(found, field)
    assert [each is not None for each in (found.npu, found.opencl)].count(True) == 1
    environment = found.environment()
    assert environment.pop("HETERO_ALLOW_FALLBACK") == "1"
    assert environment == {f"HETERO_{field.upper()}_UNFIT": getattr(found, field)}


def test_nothing_is_missing(manifest, facts):
    found = substitutes.by_facts(PATH, manifest, facts, {}, allowed=True)
    assert found == Unfit() and found.environment() == {} and found.lines() == []


def test_after_a_part_has_failed(manifest):
    assert Unfit().after({"npu": "it hangs"}, manifest) == Unfit(npu="its NPU failed: it hangs")
    without = Unfit(opencl="its GPU failed: no device")
    both = {"npu": "no device", "gpu": "no device", "cpu": "no device"}
    assert Unfit().after(both, manifest) == without
    assert Unfit(npu="another chip").after({"gpu": "no device"}, manifest) == without
    # Nothing stands in for the CPU, for what stood in already, or where nothing is carried.
    assert Unfit().after({"cpu": "no sort"}, manifest) is None
    assert without.after({"model": "wrong"}, manifest) is None
    assert Unfit(npu="x").after({"npu": "x"}, manifest) is None
    assert Unfit().after(both, dataclasses.replace(manifest, fallback=False)) is None


@pytest.mark.parametrize(
    ("unfit", "tried"),
    [(Unfit(), list(PARTS)), (Unfit(npu="x"), ["cpu", "gpu"]), (Unfit(opencl="x"), [])],
)
def test_parts_that_are_tried(unfit, tried):
    tests = unfit.tests([PartTest(part=part, path=PATH) for part in PARTS])
    assert [test.part for test in tests if test.path is not None] == tried
    assert [test.part for test in tests] == list(PARTS)
