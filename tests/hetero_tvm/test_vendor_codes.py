"""Codes of drivers and libraries: found by name and number, and in what they say."""

import re
from pathlib import Path

import pytest

from hetero_tvm.vendor_codes import every, look_up, mentioned

ROOT = Path(__file__).parent.parent.parent


@pytest.mark.parametrize(
    ("words", "names"),
    [
        ("CL_OUT_OF_RESOURCES", ["CL_OUT_OF_RESOURCES"]),
        ("cl_out_of_resources", ["CL_OUT_OF_RESOURCES"]),
        ("-5", ["CL_OUT_OF_RESOURCES"]),
        ("OpenCL -5", ["CL_OUT_OF_RESOURCES"]),
        ("QNN 1002", ["QNN_COMMON_ERROR_MEM_ALLOC"]),
        ("1002", ["QNN_COMMON_ERROR_MEM_ALLOC"]),
        ("qnn 0x3ea", ["QNN_COMMON_ERROR_MEM_ALLOC"]),
        ("QNN 30002", ["QNN 30002"]),  # only its range is known
        ("0x80000406", ["AEE_EUNABLETOLOAD"]),
        ("0x8000040d", ["AEE_EBADSTATE"]),
        ("0x80000414", ["AEE_EUNSUPPORTED"]),
        ("0x14", ["AEE_EUNSUPPORTED"]),
        ("0x72", ["AEE_ECONNREFUSED"]),
        ("0x2e", ["AEE_EINTERRUPTED"]),
        ("FastRPC 0x80000472", ["AEE_ECONNREFUSED"]),
        ("ORT 11", ["ORT_EP_FAIL"]),
        ("2", ["AEE_ENOMEMORY", "ORT_INVALID_ARGUMENT"]),
        ("QNN 99", []),
        ("NPU 1002", []),
        ("CL_NO_SUCH", []),
    ],
)
def test_looks_up(words, names):
    assert [code.name for code in look_up(words.split())] == names


@pytest.mark.parametrize(
    ("message", "names"),
    [
        ("OpenCL: clFinish failed: CL_OUT_OF_RESOURCES", ["CL_OUT_OF_RESOURCES"]),
        ("QNN: no context. Error code: 5005", ["QNN_CONTEXT_ERROR_CREATE_FROM_BINARY"]),
        ("remote_handle_open failed: 0x80000406", ["AEE_EUNABLETOLOAD"]),
        ("[ONNXRuntimeError] : 2 : INVALID_ARGUMENT : no x", ["ORT_INVALID_ARGUMENT"]),
        ("QNN graph: finalize failed, Code:1002", ["QNN_COMMON_ERROR_MEM_ALLOC"]),
        ("OpenCL: clX failed: OpenCL error -59", ["CL_INVALID_OPERATION"]),
        ("the file has 1002 bytes, error code 1002", []),  # says nothing of QNN
        ("CL_OUT_OF_RESOURCES, then again CL_OUT_OF_RESOURCES", ["CL_OUT_OF_RESOURCES"]),
        ("model.onnx: no such file", []),
    ],
)  # fmt: skip
def test_finds_codes_in_messages(message, names):
    assert [code.name for code in mentioned(message)] == names


def test_the_number_stays_as_it_was_said():
    (remote,), (own,) = look_up(["0x80000406"]), look_up(["0x6"])
    assert (remote.words, own.words) == ("FastRPC 0x80000406", "FastRPC 0x6")


def test_names_and_numbers_are_unique_in_a_family():
    codes = every()
    assert len({code.name for code in codes}) == len(codes)
    assert len({(code.family, code.value) for code in codes}) == len(codes)


def test_whatever_the_runtime_names_is_explained():
    source = (ROOT / "runtime" / "src" / "opencl" / "cl_api.cc").read_text()
    named = re.findall(r'ErrorName\{(-\d+), "(CL_\w+)"\}', source)
    assert len(named) > 20
    known = {(str(code.value), code.name) for code in every()}
    assert set(named) <= known
