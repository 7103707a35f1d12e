"""Built here for 64-bit ARM, run there by a program that needs no Python: numbers and errors."""

import shutil
from pathlib import Path

import forced_plans
import numpy as np
import pytest
from elf_segments import PAGE_16K, alignments
from split_models import CASES
from tiny_models import run_with_onnxruntime

from hetero_tvm import cross_runtime, device_wheels, runtime
from hetero_tvm.config import default_cache_dir
from hetero_tvm.cross_compiler import cross_compiler
from hetero_tvm.device_os import device_os

OS = "linux-aarch64"
# Both devices on one operator, whose output lies permuted; and on chains, whose parts are joined.
SPLITS = ("weight_of_many_rows", "activation_chain_with_residual")


@pytest.fixture(scope="module")
def ready(emulated_device):
    """The device with the runtime, TVM's and ONNX Runtime's libraries in its home."""
    pytest.importorskip("ziglang")
    target, cache = device_os(OS), default_cache_dir()
    files = [cross_runtime.runtime_library(target, cache), cross_runtime.program(target, cache)]
    files += cross_runtime.tvm_libraries(target, cache)
    ort = runtime.package_version("onnxruntime")
    pattern = "onnxruntime/capi/libonnxruntime.so.*"
    files += device_wheels.wheel_files(target, "onnxruntime", ort, [pattern], cache_dir=cache)
    for file in files:
        shutil.copy(file, emulated_device.home)
    emulated_device.run("chmod +x hetero_device")
    return emulated_device


@pytest.fixture(scope="module")
def artefacts(tmp_path_factory):
    """Name -> (ONNX model, artefact), built for the device."""
    pytest.importorskip("ziglang")
    folder = tmp_path_factory.mktemp("cross")
    made = {}
    for name in SPLITS:
        case = CASES[name]
        model, artefact = case.write(folder / f"{name}.onnx"), folder / f"{name}.so"
        state = forced_plans.build(model, artefact, forced_plans.by_operator(case.places), os=OS)
        assert {"gpu+npu"} <= {op.device for op in state.plan.ops}
        made[name] = model, artefact
    return made


def run_there(device, artefact, arrays=(), *, prefix="", more=()):
    """Run an artefact there on `arrays`; the finished process. Outputs go to output_N.npy."""
    shutil.copy(artefact, device.home)
    words = ["--set", "ort.library=$HOME/$(ls libonnxruntime.so.* 2>/dev/null || echo none)"]
    words += ["run", Path(artefact).name, "--save", "."]
    for number, array in enumerate(arrays):
        np.save(device.home / f"{number}.npy", array)
        words += ["--input", f"{number}.npy"]
    return device.run(" ".join([prefix, "./hetero_device", *words, *more]), check=False)


@pytest.mark.parametrize("name", SPLITS)
def test_both_devices_there_compute_what_onnxruntime_does_here(ready, artefacts, name):
    model, artefact = artefacts[name]
    shape = (CASES[name].rows, 64 if CASES[name].model == "gemm" else 32)
    x = np.random.default_rng().standard_normal(shape, np.float32)
    done = run_there(ready, artefact, [x], more=["--repeat", "3"])
    assert done.returncode == 0 and "median of 3" in done.stdout, done.stderr
    expected = run_with_onnxruntime(model, x=x)["y"]
    # float32 sums of 64 products of about 1, in another order
    found = np.load(ready.home / "output_0.npy")
    np.testing.assert_allclose(found, expected, atol=1e-5, rtol=1e-5)


def test_a_c_program_runs_an_artefact_there(ready, artefacts, tmp_path):
    """examples/c_app, built for the device; the runtime finds ONNX Runtime beside itself."""
    target, cache = device_os(OS), default_cache_dir()
    compiler = cross_compiler(target, cache)
    root = Path(__file__).parents[2]
    program = tmp_path / "c_app"
    libraries = [cross_runtime.runtime_library(target, cache)]
    libraries += cross_runtime.tvm_libraries(target, cache)
    words = ["-I", str(root / "runtime/include"), "-Wl,-rpath,$ORIGIN", "-Wl,--no-as-needed"]
    source = root / "examples/c_app/main.c"
    compiler.run(
        [*compiler.c, str(source), "-o", str(program), *words, *map(str, libraries)],
        what="building the example",
    )
    model, artefact = artefacts[SPLITS[0]]
    for file in (program, artefact):
        shutil.copy(file, ready.home)
    done = ready.run(f"./c_app {artefact.name}", check=False)
    name, *values = done.stdout.split()
    shape = (CASES[SPLITS[0]].rows, 64)
    expected = run_with_onnxruntime(model, x=np.ones(shape, np.float32))["y"]
    assert (done.returncode, name) == (0, "y:"), done
    found = [float(value) for value in values]
    np.testing.assert_allclose(found, expected.ravel()[:4], atol=2e-5, rtol=1e-5)
    missing = ready.run("./c_app none.so", check=False)
    assert (missing.returncode, missing.stderr) == (2, "c_app: none.so: cannot be opened\n")


def test_all_of_it_loads_where_memory_pages_are_16_kb(artefacts):
    target, cache = device_os(OS), default_cache_dir()
    built = [cross_runtime.runtime_library(target, cache), cross_runtime.program(target, cache)]
    for path in (*built, *(artefact for _, artefact in artefacts.values())):
        found = alignments(path)
        assert found and all(size % PAGE_16K == 0 for size in found), path


def test_a_damaged_artefact_is_refused_before_it_is_loaded(ready, artefacts, tmp_path):
    whole = artefacts[SPLITS[0]][1].read_bytes()
    for place in (1000, len(whole) - 100):  # the code, the description
        damaged = tmp_path / "damaged.so"
        damaged.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        done = run_there(ready, damaged)
        assert done.returncode == 2
        assert "damaged.so: damaged (" in done.stderr and "does not match" in done.stderr


def test_what_is_missing_there_is_named(ready, artefacts):
    artefact = artefacts[SPLITS[0]][1]
    done = run_there(ready, artefact, prefix="HETERO_OPENCL_LIB=none.so")
    assert done.returncode == 3 and "no OpenCL device: install a driver" in done.stderr
    hide = "mkdir -p away && mv libonnxruntime* away/ &&"
    done = run_there(ready, artefact, prefix=hide, more=["; c=$?; mv away/* .; exit $c"])
    assert done.returncode == 3 and "none: cannot open shared object file" in done.stderr


def test_errors_inside_virtual_functions_are_errors(ready, tmp_path):
    """TVM's wheel there is built with GNU's C++ library, our runtime with LLVM's."""
    target, cache = device_os(OS), default_cache_dir()
    compiler = cross_compiler(target, cache)
    source, program = Path(__file__).with_name("virtual_errors.c"), tmp_path / "virtual_errors"
    includes = runtime.package_folder("tvm_ffi") / "include"
    libraries = [cross_runtime.runtime_library(target, cache)]
    libraries += cross_runtime.tvm_libraries(target, cache)
    words = ["-isystem", str(includes), "-Wl,-rpath,$ORIGIN", "-Wl,--no-as-needed"]
    compiler.run(
        [*compiler.c, str(source), "-o", str(program), *words, *map(str, libraries)],
        what="building the test",
    )
    shutil.copy(program, ready.home)
    done = ready.run("./virtual_errors", check=False)
    lines = done.stdout.splitlines()
    assert done.returncode == 0, done
    assert lines[0].startswith("DeviceFailure: out of memory: 4398046511104 bytes asked of")
    assert lines[1].startswith("ValueError: opencl:7: only opencl:0 is open")
    assert lines[2].startswith("ValueError: ")
    assert lines[3] == "alive"
