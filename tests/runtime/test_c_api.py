"""The C API: numbers as from Python, errors as codes and one line, threads apart."""

import ctypes
import hashlib
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path

import forced_plans
import numpy as np
import onnx
import pytest
import tiny_models as tiny
import tvm
from onnx import helper
from split_models import CASES

import hetero_tvm
from hetero_tvm import bundle, compiler, runtime
from hetero_tvm.config import BuildConfig

ROOT = Path(__file__).parents[2]
OK, BAD_INPUT = 0, 2


class Tensor(ctypes.Structure):
    _fields_ = (
        ("name", ctypes.c_char_p),
        ("dtype", ctypes.c_char_p),
        ("shape", ctypes.POINTER(ctypes.c_int64)),
        ("rank", ctypes.c_size_t),
        ("bytes", ctypes.c_size_t),
    )


@pytest.fixture(scope="module")
def api():
    runtime.load()
    library = ctypes.CDLL(str(runtime.LIBRARY))
    library.hetero_last_error.restype = ctypes.c_char_p
    for name in ("input_count", "output_count"):
        getattr(library, f"hetero_model_{name}").restype = ctypes.c_size_t
    return library


@pytest.fixture(scope="module")
def mlp(tmp_path_factory):
    """(ONNX model, artefact): `x` [4, 32] -> `y` [4, 16]."""
    folder = tmp_path_factory.mktemp("c_api")
    model = tiny.mlp(folder / "mlp.onnx")
    output = folder / "mlp.so"
    compiler.build(BuildConfig(model=model, target="host", output=output, with_fallback=True))
    return model, output


def load(api, path):
    model = ctypes.c_void_p()
    status = api.hetero_model_load(str(path).encode(), ctypes.byref(model))
    assert status == OK, api.hetero_last_error()
    return model


def set_input(api, model, index, array):
    at = array.ctypes.data_as(ctypes.c_void_p)
    return api.hetero_model_set_input(model, ctypes.c_size_t(index), at, array.nbytes)


def get_output(api, model, array, index=0):
    at = array.ctypes.data_as(ctypes.c_void_p)
    return api.hetero_model_get_output(model, ctypes.c_size_t(index), at, array.nbytes)


def run(api, model, x, shape):
    y = np.empty(shape, np.float32)
    assert set_input(api, model, 0, x) == OK, api.hetero_last_error()
    assert api.hetero_model_run(model) == OK, api.hetero_last_error()
    assert get_output(api, model, y) == OK, api.hetero_last_error()
    return y


def test_numbers_and_descriptions(api, mlp):
    onnx, artefact = mlp
    model = load(api, artefact)
    described = Tensor()
    assert api.hetero_model_output(model, ctypes.c_size_t(0), ctypes.byref(described)) == OK
    assert (described.name, described.dtype) == (b"y", b"float32")
    assert (described.shape[: described.rank], described.bytes) == ([4, 16], 4 * 16 * 4)
    assert (api.hetero_model_input_count(model), api.hetero_model_output_count(model)) == (1, 1)
    for _ in range(2):  # the second run replaces what the first one gave
        x = np.random.default_rng().standard_normal((4, 32), np.float32)
        # float32 sums of 64 terms in another order
        expected = tiny.run_with_onnxruntime(onnx, x=x)["y"]
        np.testing.assert_allclose(run(api, model, x, (4, 16)), expected, rtol=1e-5, atol=1e-5)
    api.hetero_model_free(model)


def deep(path):
    """`x` [256, 512] through eight products: enough kernels to be looked at, and some time."""
    rng = np.random.default_rng(0)
    weights = [rng.standard_normal((512, 512), np.float32) / 22.6 for _ in range(8)]
    names = ["x", *(f"h{i}" for i in range(7)), "y"]
    nodes = [helper.make_node("MatMul", [names[i], f"w{i}"], [names[i + 1]]) for i in range(8)]
    ends = [helper.make_tensor_value_info(n, onnx.TensorProto.FLOAT, (256, 512)) for n in "xy"]
    held = [onnx.numpy_helper.from_array(w, f"w{i}") for i, w in enumerate(weights)]
    graph = helper.make_graph(nodes, "deep", ends[:1], ends[1:], held)
    opsets = [helper.make_opsetid("", 18)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=9), path)
    return path


def test_the_share_of_the_gpu_that_was_built_for_is_kept(api, tmp_path):
    """No variable, no setting: in C as in Python. What a user sets goes before it."""
    onnx_model, artefact = deep(tmp_path / "deep.onnx"), tmp_path / "deep.so"
    config = BuildConfig(
        model=onnx_model, target="host", output=artefact, devices="gpu", gpu_share=0.05
    )
    compiler.build(config)
    x = np.random.default_rng().standard_normal((256, 512), np.float32)
    expected = tiny.run_with_onnxruntime(onnx_model, x=x)["y"]
    setting = tvm.get_global_func("hetero_tvm.setting_set")
    setting("gpu.share", "")

    def gap(function):
        runtime.reset_counters()
        np.testing.assert_allclose(function(), expected, rtol=1e-3, atol=1e-3)
        return runtime.counters()["gpu_gap_us"]

    in_c, in_python = load(api, artefact), hetero_tvm.load(artefact)
    assert in_python.manifest.gpu_share == 0.05
    assert gap(lambda: run(api, in_c, x, (256, 512))) > 0
    assert gap(lambda: in_python.run({"x": x})["y"]) > 0
    try:
        setting("gpu.share", "100%")
        assert gap(lambda: run(api, in_c, x, (256, 512))) == 0
    finally:
        setting("gpu.share", "")
    api.hetero_model_free(in_c)


def test_other_work_is_no_part_of_our_turn(tmp_path):
    """Else a turn that was open before it ended with a gap of nineteen times as long."""
    small, large = tmp_path / "small.so", tmp_path / "large.so"
    for model, artefact in ((tiny.mlp(tmp_path / "m.onnx"), small), (deep(tmp_path / "d"), large)):
        compiler.build(BuildConfig(model=model, target="host", output=artefact, devices="gpu"))
    small, large = hetero_tvm.load(small), hetero_tvm.load(large)
    x, y = np.zeros((4, 32), np.float32), np.zeros((256, 512), np.float32)
    setting = tvm.get_global_func("hetero_tvm.setting_set")
    try:
        setting("gpu.share", "5%")
        small.run({"x": x})
        setting("gpu.share", "100%")
        end = time.monotonic() + 0.5
        while time.monotonic() < end:
            large.run({"x": y})
        setting("gpu.share", "5%")
        runtime.reset_counters()
        for _ in range(3):
            small.run({"x": x})
        assert runtime.counters()["gpu_gap_us"] < 4e6  # of 0.5 s, 9.5e6
    finally:
        setting("gpu.share", "")


def test_an_output_that_lies_permuted_is_given_in_the_models_order(api, tmp_path):
    case = CASES["weight_of_many_rows"]
    onnx = case.write(tmp_path / "gemm.onnx")
    forced_plans.build(onnx, tmp_path / "gemm.so", forced_plans.by_operator(case.places))
    assert hetero_tvm.load(tmp_path / "gemm.so").manifest.output_axes != (None,)
    model = load(api, tmp_path / "gemm.so")
    x = np.random.default_rng().standard_normal((case.rows, 64), np.float32)
    expected = tiny.run_with_onnxruntime(onnx, x=x)["y"]
    np.testing.assert_allclose(run(api, model, x, (case.rows, 96)), expected, rtol=1e-5, atol=1e-5)
    api.hetero_model_free(model)


def test_lengths(api, tmp_path):
    onnx = tiny.mlp(tmp_path / "mlp.onnx", free_rows=True)
    hetero_tvm.build(
        onnx, target="host", output=tmp_path / "m.so", inputs={"x": ("L", 32)}, length=[2, 5]
    )
    model = load(api, tmp_path / "m.so")
    for rows in (5, 2):
        assert api.hetero_model_set_length(model, ctypes.c_int64(rows)) == OK
        x = np.random.default_rng().standard_normal((rows, 32), np.float32)
        expected = tiny.run_with_onnxruntime(onnx, x=x)["y"]
        np.testing.assert_allclose(run(api, model, x, (rows, 16)), expected, rtol=1e-5, atol=1e-5)
    assert api.hetero_model_set_length(model, ctypes.c_int64(3)) == BAD_INPUT
    assert api.hetero_last_error() == b"length 3: built are 2, 5"
    api.hetero_model_free(model)


def test_wrong_calls_are_codes_with_a_line(api, mlp):
    model = load(api, mlp[1])
    wrong = [
        (lambda: api.hetero_model_run(model), "input x was not set"),
        (lambda: get_output(api, model, np.empty((4, 16), "f")), "output y: not run yet"),
        (lambda: set_input(api, model, 0, np.zeros(3, "f")), "input x: 12 bytes, .* takes 512"),
        (lambda: set_input(api, model, 7, np.zeros(3, "f")), "input 7: the model has 1"),
        (lambda: api.hetero_model_set_length(model, ctypes.c_int64(4)), "built without --length"),
        (lambda: api.hetero_model_run(None), "model is NULL"),
        (lambda: api.hetero_set(b"no.such", b"1"), "unknown setting 'no.such'; known settings:"),
        (lambda: api.hetero_model_load(None, ctypes.byref(ctypes.c_void_p())), "path is NULL"),
    ]
    for call, message in wrong:
        assert call() == BAD_INPUT
        said = api.hetero_last_error().decode()
        assert re.search(message, said) and "\n" not in said, said
    api.hetero_model_free(model)
    api.hetero_model_free(None)


def test_what_is_no_artefact_for_this_machine_is_refused(api, mlp, tmp_path):
    whole = mlp[1].read_bytes()
    broken = {
        "cut short": whole[:-1],
        "its description does not match its checksum": whole[:-100] + b"\0" + whole[-99:],
        "the code does not match its checksum": whole[:500] + b"\1\2\3" + whole[503:],
    }
    for number, (message, content) in enumerate(broken.items()):
        path = tmp_path / f"{number}.so"
        path.write_bytes(content)
        model = ctypes.c_void_p(1)
        assert api.hetero_model_load(str(path).encode(), ctypes.byref(model)) == BAD_INPUT
        assert message in api.hetero_last_error().decode()
        assert model.value is None


def test_each_thread_has_its_own_message(api):
    said = {}

    def fail(name):
        for _ in range(50):
            api.hetero_model_load(name.encode(), ctypes.byref(ctypes.c_void_p()))
            said.setdefault(name, set()).add(api.hetero_last_error().decode())

    threads = [threading.Thread(target=fail, args=(f"none-{i}",)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert said == {f"none-{i}": {f"none-{i}: cannot be opened"} for i in range(4)}


@pytest.mark.skipif(shutil.which("cc") is None, reason="no C compiler")
def test_the_example_program(mlp, tmp_path):
    """As examples/c_app/README.md says; against the libraries where pip put them."""
    cmake = shutil.which("cmake") or shutil.which("cmake", path=str(Path(sys.executable).parent))
    if cmake is None:
        pytest.skip("no cmake")
    source, folder = ROOT / "examples/c_app", tmp_path / "build"
    words = [f"-Dhetero_tvm_DIR={ROOT / 'runtime/cmake'}", f"-DPython3_EXECUTABLE={sys.executable}"]
    for command in (
        [cmake, "-S", str(source), "-B", str(folder), *words],
        [cmake, "--build", str(folder)],
    ):
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
    paths = runtime.library_paths()
    env = {"HETERO_ORT_LIB": str(paths["ort.library"])}
    if paths["opencl.fallback_library"] is not None:
        env["HETERO_OPENCL_LIB"] = str(paths["opencl.fallback_library"])
    onnx, artefact = mlp
    expected = tiny.run_with_onnxruntime(onnx, x=np.ones((4, 32), np.float32))["y"]

    def app(**more):
        return subprocess.run(
            [str(folder / "c_app"), str(artefact)],
            capture_output=True,
            text=True,
            check=False,
            env={**os.environ, **env, **more},
        )

    without = {"HETERO_OPENCL_LIB": "/no-such.so"}
    allowed = app(**without, HETERO_ALLOW_FALLBACK="1")
    assert "ONNX Runtime computes the model on the CPU: no OpenCL device" in allowed.stderr
    for done in (app(), allowed):
        assert done.returncode == 0, done.stderr
        name, *values = done.stdout.split()
        assert name == "y:"
        np.testing.assert_allclose([float(value) for value in values], expected[0, :4], atol=2e-5)
    refused = app(**without)
    assert refused.returncode == 3, refused.stderr
    assert "no OpenCL device: install a driver" in refused.stderr
    assert refused.stderr.endswith("on the CPU with --allow-fallback (HETERO_ALLOW_FALLBACK=1)\n")
    missing = subprocess.run(
        [str(folder / "c_app"), "none.so"], capture_output=True, text=True, check=False
    )
    assert (missing.returncode, missing.stderr) == (2, "c_app: none.so: cannot be opened\n")


def sealed(path, change):
    """An artefact without code whose description, `change` of a good one, has a right checksum."""
    tensor = {"name": "x", "dtype": "float32", "shape": [2, 3]}
    raw = {
        **{"format_version": bundle.FORMAT_VERSION, "os": "linux", "host": platform.machine()},
        **{"library_sha256": hashlib.sha256(b"").hexdigest(), "soc": "host", "soc_ids": []},
        **{"inputs": [tensor], "outputs": [{**tensor}], "output_axes": [None], "variants": []},
    }
    change(raw)
    text = json.dumps(raw).encode()
    footer = bundle._FOOTER.pack(hashlib.sha256(text).digest(), len(text), bundle._MAGIC)
    path.write_bytes(text + footer)
    return path


def nested(raw):
    for _ in range(100):
        raw["plan"] = [raw.get("plan")]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda raw: raw["inputs"][0].update(shape=[-1, 3]), "tensor 'x': a negative dimension"),
        (lambda raw: raw["inputs"][0].update(shape=[2**62, 4]), "'x': the shape is too large"),
        (lambda raw: raw["inputs"][0].update(shape=[2**21, 2**20]), "'x': the shape is too large"),
        (lambda raw: raw["inputs"][0].update(shape=[1] * 17), "'x': a shape of 17 dimensions"),
        (lambda raw: raw["inputs"][0].update(dtype="float32x4"), "'x': a type that no tensor has"),
        (lambda raw: raw["inputs"][0].update(dtype="void"), "'x': a type that no tensor has"),
        (lambda raw: raw.update(output_axes=[]), "0 orders of axes for 1 outputs"),
        (lambda raw: raw.update(output_axes=[[0, 2]]), "an output's axes are no order of its 2"),
        (lambda raw: raw.update(output_axes=[[0]]), "an output's axes are no order of its 2"),
        (lambda raw: raw.update(output_axes=[[1, -1]]), "an output's axes are no order of its 2"),
        (nested, "its description nests 101 deep, at most 64"),
        (lambda raw: raw.update(variants=[{}]), "in its description"),
    ],
)
def test_what_was_sealed_by_a_stranger_is_checked_field_by_field(api, tmp_path, change, said):
    path = sealed(tmp_path / "m.so", change)
    model = ctypes.c_void_p()
    assert api.hetero_model_load(str(path).encode(), ctypes.byref(model)) == BAD_INPUT
    assert said in api.hetero_last_error().decode()


def test_what_is_no_file_is_not_read(api, tmp_path):
    os.mkfifo(tmp_path / "pipe")
    model = ctypes.c_void_p()
    for path in (tmp_path / "pipe", Path("/dev/zero"), tmp_path):
        assert api.hetero_model_load(str(path).encode(), ctypes.byref(model)) == BAD_INPUT
        assert b"not a file" in api.hetero_last_error()
