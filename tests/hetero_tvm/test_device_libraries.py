"""Which files a device gets."""

import dataclasses

import pytest

from hetero_tvm import bundle
from hetero_tvm.config import default_cache_dir
from hetero_tvm.device_libraries import PROGRAM, libraries_for
from hetero_tvm.errors import BadInput

CACHE = default_cache_dir()


@pytest.fixture(scope="module")
def manifest(deployed_here):
    return bundle.read_manifest(deployed_here.artefact)


def test_the_program_first_and_nothing_for_building(manifest):
    found = libraries_for(manifest, CACHE)
    assert found[0].name == PROGRAM
    assert all(library.path.is_file() for library in found)
    assert "libtvm_compiler.so" not in [library.name for library in found]
    assert [library.setting for library in found if library.setting] == ["ort.library"]


def test_without_npu_no_onnx_runtime(manifest):
    found = libraries_for(dataclasses.replace(manifest, npu_regions=0), CACHE)
    assert not [library for library in found if library.setting]


def test_qualcomms_libraries_where_the_npu_is_theirs(manifest):
    pytest.importorskip("onnxruntime_qnn")
    found = libraries_for(dataclasses.replace(manifest, npu_provider="qnn"), CACHE)
    assert {library.setting for library in found if library.setting} == {
        "ort.library",
        "qnn.library",
        "qnn.backend",
    }
    assert "libQnnSystem.so" in [library.name for library in found]


def test_another_processor(manifest):
    with pytest.raises(BadInput, match="its host code is for linux on riscv64"):
        libraries_for(dataclasses.replace(manifest, host="riscv64"), CACHE)
