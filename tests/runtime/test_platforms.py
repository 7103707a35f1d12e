"""Finding OpenCL: absent, empty, several, chosen by name; each in a process of its own."""

import subprocess

import pytest
from runtime_harness import fresh

from hetero_tvm import runtime

DEVICES = """
import json
from hetero_tvm import runtime
print(json.dumps([{**d} for d in runtime.opencl_devices()]))
"""
OPEN = """
import json
from hetero_tvm import errors, runtime
try:
    runtime.open_opencl()
    (about,) = [d for d in runtime.opencl_devices() if d["selected"]]
    print(json.dumps(about))
except errors.HeteroError as error:
    print(json.dumps([type(error).__name__, str(error)]))
"""

# An OpenCL library with PLATFORMS platforms of two devices each, good for looking at only.
STUB = r"""
#include <stdint.h>
#include <string.h>
typedef int32_t cl_int;
typedef uint32_t cl_uint;
static cl_int text(const char* value, size_t size, void* out, size_t* needed) {
  if (needed) *needed = strlen(value) + 1;
  if (out && size >= strlen(value) + 1) strcpy(out, value);
  return 0;
}
cl_int clGetPlatformIDs(cl_uint n, void** ids, cl_uint* count) {
  if (count) *count = PLATFORMS;
  for (cl_uint i = 0; ids && i < n && i < PLATFORMS; ++i) ids[i] = (void*)(intptr_t)(i + 1);
  return PLATFORMS ? 0 : -1001;
}
cl_int clGetPlatformInfo(void* p, cl_uint key, size_t size, void* out, size_t* needed) {
  return text("Stub platform", size, out, needed);
}
cl_int clGetDeviceIDs(void* p, uint64_t type, cl_uint n, void** ids, cl_uint* count) {
  if (count) *count = 2;
  for (cl_uint i = 0; ids && i < n && i < 2; ++i) ids[i] = (void*)(intptr_t)(i + 1);
  return 0;
}
cl_int clGetDeviceInfo(void* d, cl_uint key, size_t size, void* out, size_t* needed) {
  if (key == 0x102B) return text(d == (void*)1 ? "Stub one" : "Stub two", size, out, needed);
  if (key >= 0x102B && key <= 0x1030)
    return text("1.2 cl_khr_fp16_like " EXTENSIONS, size, out, needed);
  if (key == 0x1000 && out) {
    *(uint64_t*)out = d == (void*)2 ? 4 : 2;  // the second device is a GPU
    return 0;
  }
  if (key == 0x1053 && out && SVM) {
    *(uint64_t*)out = SVM;
    return 0;
  }
  return -30;
}
#if SVM
#define HERE(name) void* name(void) { return 0; }
HERE(clSVMAlloc) HERE(clSVMFree) HERE(clSetKernelArgSVMPointer) HERE(clEnqueueSVMMap)
HERE(clEnqueueSVMUnmap)
#endif
void* clCreateContext(void* a, cl_uint b, void* c, void* d, void* e, cl_int* status) {
  *status = -2;
  return 0;
}
#define NOT_HERE(name) cl_int name(void) { return -59; }
NOT_HERE(clReleaseContext) NOT_HERE(clCreateCommandQueue) NOT_HERE(clReleaseCommandQueue)
NOT_HERE(clCreateBuffer) NOT_HERE(clCreateSubBuffer) NOT_HERE(clReleaseMemObject)
NOT_HERE(clSetMemObjectDestructorCallback) NOT_HERE(clEnqueueMapBuffer)
NOT_HERE(clEnqueueUnmapMemObject) NOT_HERE(clCreateProgramWithSource)
NOT_HERE(clCreateProgramWithBinary) NOT_HERE(clBuildProgram) NOT_HERE(clGetProgramInfo)
NOT_HERE(clGetProgramBuildInfo) NOT_HERE(clReleaseProgram) NOT_HERE(clCreateKernel)
NOT_HERE(clReleaseKernel) NOT_HERE(clSetKernelArg) NOT_HERE(clEnqueueNDRangeKernel)
NOT_HERE(clEnqueueMarkerWithWaitList) NOT_HERE(clGetEventInfo) NOT_HERE(clWaitForEvents)
NOT_HERE(clGetEventProfilingInfo)
NOT_HERE(clReleaseEvent) NOT_HERE(clFlush) NOT_HERE(clFinish)
"""


@pytest.fixture(scope="module")
def stub(tmp_path_factory):
    """`stub(platforms)` -> folder with a libOpenCL.so.1 of so many platforms."""

    def build(platforms, svm=0, extensions=""):
        folder = tmp_path_factory.mktemp(f"stub{platforms}")
        (folder / "stub.c").write_text(STUB)
        library = folder / "libOpenCL.so.1"
        named = f'-DEXTENSIONS="{extensions}"'
        command = [
            "cc",
            "-w",
            named,
            f"-DPLATFORMS={platforms}",
            f"-DSVM={svm}",
            "-shared",
            "-fPIC",
        ]
        subprocess.run([*command, "-o", library, folder / "stub.c"], check=True)
        return folder

    return build


def test_no_driver_says_what_to_install():
    kind, message = fresh(OPEN, HETERO_OPENCL_LIB="/nowhere/libOpenCL.so").json
    assert kind == "EnvironmentProblem"
    assert message.startswith("no OpenCL device: install a driver for your GPU, or a CPU driver")
    assert "pip install intel-opencl-rt intel-cmplr-lib-rt" in message
    assert "apt-get install pocl-opencl-icd" in message
    assert "/nowhere/libOpenCL.so" in message  # what was tried
    assert "\n" not in message


def test_without_driver_tvm_sees_no_device_and_nothing_else_breaks():
    done = fresh(
        "import json, tvm; from hetero_tvm import runtime; runtime.load()\n"
        "device = tvm.device('opencl', 0)\n"
        "runtime.gpu_wait()\n"
        "print(json.dumps([device.exist, device.device_name, device.max_threads_per_block,\n"
        "                  runtime.opencl_devices(), tvm.device('ext_dev', 0).exist]))",
        HETERO_OPENCL_LIB="/nowhere/libOpenCL.so",
    )
    assert done.json == [False, None, None, [], True], done.stderr


def test_library_that_is_no_opencl_is_refused():
    _, message = fresh(OPEN, HETERO_OPENCL_LIB="libm.so.6").json
    assert "libm.so.6: no clGetPlatformIDs (OpenCL 1.2) in it" in message


def test_loader_without_platforms_falls_through(stub):
    if runtime.package_version("intel-opencl-rt") is None:
        pytest.skip("intel-opencl-rt is not installed, so there is nothing to fall through to")
    devices = fresh(DEVICES, LD_LIBRARY_PATH=str(stub(0))).json
    assert [device["library"].rsplit("/")[-1] for device in devices] == ["libintelocl.so"]


def test_lists_every_device_of_every_platform(stub):
    devices = fresh(DEVICES, HETERO_OPENCL_LIB=str(stub(2) / "libOpenCL.so.1")).json
    assert [device["name"] for device in devices] == ["Stub one", "Stub two"] * 2
    assert [device["index"] for device in devices] == [0, 1, 2, 3]
    assert [device["type"] for device in devices] == ["cpu", "gpu"] * 2
    # No SVM functions in the library; an extension that only begins like half precision is not it.
    assert {(device["memory"], device["half"]) for device in devices} == {("buffer", False)}


NO_IMPORT = "no dma_buf: the driver lacks cl_qcom_dmabuf_host_ptr"
NO_FINE = "no svm: the driver has no fine-grain buffers"


@pytest.mark.parametrize(
    ("driver", "memory", "why"),
    [
        pytest.param(
            {},
            "buffer",
            [NO_FINE, NO_IMPORT, "no coarse_svm: the library is of OpenCL 1.2, without clSVMAlloc"],
            id="nothing",
        ),
        pytest.param({"svm": 1}, "coarse_svm", [NO_FINE, NO_IMPORT], id="coarse_grain"),
        pytest.param({"svm": 3}, "svm", ["nothing is better"], id="fine_grain"),
        pytest.param(
            {"svm": 1, "extensions": "cl_khr_external_memory_dma_buf"},
            "coarse_svm",
            [
                NO_FINE,
                "no dma_buf: the driver has cl_khr_external_memory_dma_buf only, "
                "which promises no address",
            ],
            id="import_without_address",
        ),
    ],
)
def test_the_best_memory_that_a_driver_has_and_why_no_better(stub, driver, memory, why):
    library = str(stub(1, **driver) / "libOpenCL.so.1")
    devices = fresh(DEVICES, HETERO_OPENCL_LIB=library).json
    assert {device["memory"] for device in devices} == {memory}
    assert devices[0]["memory_why"].split("; ") == why


@pytest.mark.parametrize(
    ("wanted", "opened"),
    [
        pytest.param("0", "Stub one", id="index"),
        pytest.param("stub TWO", "Stub two", id="part_of_name_any_case"),
        pytest.param("platform", "Stub one", id="platform_name"),
        pytest.param(None, "Stub two", id="a_gpu_when_nothing_is_said"),
    ],
)
def test_selects(stub, wanted, opened):
    """The stub refuses to open, and the error says which device that was."""
    variables = {"HETERO_OPENCL_LIB": str(stub(1) / "libOpenCL.so.1")}
    if wanted is not None:
        variables["HETERO_OPENCL_DEVICE"] = wanted
    kind, message = fresh(OPEN, **variables).json
    assert kind == "DeviceFailure"
    assert message.startswith(
        f"OpenCL: {opened}: clCreateContext failed: CL_DEVICE_NOT_AVAILABLE (-2); try again"
    )


@pytest.mark.parametrize("wanted", ["radeon", "7"])
def test_unknown_device_lists_what_there_is(stub, wanted):
    library = str(stub(1) / "libOpenCL.so.1")
    kind, message = fresh(OPEN, HETERO_OPENCL_LIB=library, HETERO_OPENCL_DEVICE=wanted).json
    assert kind == "EnvironmentProblem"
    assert message == (
        f"no OpenCL device '{wanted}'; by number there are 0: Stub one (Stub platform), "
        "1: Stub two (Stub platform)"
    )


def test_unknown_kind_of_memory_is_refused(opencl):
    done = fresh("from hetero_tvm import runtime; runtime.open_opencl()", HETERO_OPENCL_MEMORY="x")
    assert "HETERO_OPENCL_MEMORY='x': give svm, dma_buf, coarse_svm or buffer" in done.stderr


def test_python_argument_wins_over_environment(opencl):
    done = fresh(
        "from hetero_tvm import runtime; runtime.configure(opencl_device='radeon')\n" + OPEN,
        HETERO_OPENCL_DEVICE="0",
    )
    assert "no OpenCL device 'radeon'" in done.json[1]


def test_device_cannot_change_once_open(opencl):
    done = fresh("from hetero_tvm import runtime; runtime.open_opencl(); runtime.select_device(0)")
    assert "opencl.device cannot change any more: the OpenCL device is in use" in done.stderr
