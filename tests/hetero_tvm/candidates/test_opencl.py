import emitted
import pytest

from hetero_tvm.candidates.opencl import OpenCl, OpenClError

SOURCE = "__kernel void twice(__global float* x) { x[get_global_id(0)] *= 2.0f; }"
LAUNCH = {"kernel": "twice", "arguments": [0], "groups": [2, 1, 1], "items": [2, 1, 1]}


@pytest.fixture(scope="module")
def cl():
    return OpenCl(emitted.library(), None)


def test_runs_and_times(cl):
    buffer = cl.upload(b"\0\0\x80\x3f" * 4)  # four ones
    run = cl.run_of(SOURCE, [LAUNCH, LAUNCH], [buffer])
    assert 0 < cl.time(run, 3) < 1
    assert cl.read(buffer, 16) == b"\0\0\x80\x42" * 4  # 2 ** 6
    cl.drop(run)
    cl.release(buffer)


def test_scratch_is_its_own(cl):
    source = (
        "__kernel void twice(__global float* x, __global float* y) { y[0] = x[0]; x[0] += y[0]; }"
    )
    buffer = cl.upload(b"\0\0\x80\x3f")
    launch = {**LAUNCH, "arguments": [0, 1], "groups": [1, 1, 1], "items": [1, 1, 1]}
    run = cl.run_of(source, [launch], [buffer], scratch=[4])
    cl.time(run, 1)
    assert cl.read(buffer, 4) == b"\0\0\x00\x40"
    cl.drop(run)


def test_what_does_not_compile_says_why(cl):
    with pytest.raises(OpenClError, match="does not compile"):
        cl.run_of("__kernel void twice(__global floot* x) { }", [LAUNCH], [])


def test_devices_by_name_and_number(cl):
    lines = OpenCl.devices(emitted.library())
    assert lines[0].startswith("0: ") and cl.name in lines[0]
    assert OpenCl(emitted.library(), "0").name == OpenCl(emitted.library(), cl.name[:4]).name
    with pytest.raises(OpenClError, match="no OpenCL device called nobody; there are: 0: "):
        OpenCl(emitted.library(), "nobody")


def test_no_library():
    with pytest.raises(OpenClError, match=r"no OpenCL library: .*name one with --library PATH"):
        OpenCl("/nowhere/libOpenCL.so", None)
