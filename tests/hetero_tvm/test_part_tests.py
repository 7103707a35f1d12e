"""The tiny models: built for the target, on the part that they are for."""

import dataclasses

import pytest

from hetero_tvm import bundle
from hetero_tvm.part_tests import part_tests


@pytest.fixture(scope="module")
def manifest(deployed_here):
    return bundle.read_manifest(deployed_here.artefact)


def test_each_part_has_its_own(manifest, deployed_here):
    tests = part_tests(manifest, deployed_here.artefact.parent / "cache")
    assert [test.part for test in tests] == ["cpu", "gpu", "npu"]
    for test in tests:
        assert test.manifest.reference is not None
        assert {op["device"] for op in test.manifest.plan["ops"]} == {test.part}
        assert (test.manifest.npu_regions > 0) == (test.part == "npu")


def test_a_model_without_npu_needs_no_test_of_it(manifest, deployed_here):
    gpu_only = dataclasses.replace(manifest, npu_regions=0)
    tests = part_tests(gpu_only, deployed_here.artefact.parent / "cache")
    assert [test.part for test in tests] == ["cpu", "gpu"]


def test_a_target_that_is_not_known_here_is_a_reason(manifest, tmp_path):
    for test in part_tests(dataclasses.replace(manifest, target="mine"), tmp_path):
        assert test.path is None and "target mine is not among those" in test.why_not
