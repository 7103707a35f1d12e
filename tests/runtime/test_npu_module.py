"""Modules of kind "hetero_npu": descriptions, sessions, tensors, saving, and refusals."""

import json
import struct

import numpy as np
import pytest
import tvm
from runtime_harness import Region, Spec, fresh, onnx_region

from hetero_tvm import errors, runtime

runtime.load()
LOAD = tvm.get_global_func("ffi.Module.load_from_bytes.hetero_npu")
SAVE = tvm.get_global_func("hetero_tvm.module_bytes")
CREATE = tvm.get_global_func("hetero_tvm.npu_module_create")


def cpu(array):
    return tvm.runtime.tensor(array, tvm.cpu())


@pytest.fixture
def module():
    """y = x + 1 over [2, 3] float32."""
    region = onnx_region("npu_region_0", "Add", (2, 3), constant=[1.0])
    return runtime.npu_module([region], "cpu", {"threads": "1"})


@pytest.fixture
def x():
    return np.arange(6, dtype="float32").reshape(2, 3)


def test_runs_and_is_the_same_after_saving(module, x):
    for candidate in (module, LOAD(SAVE(module))):
        y = cpu(np.zeros((2, 3), "float32"))
        candidate["npu_region_0"](cpu(x), y)
        np.testing.assert_array_equal(y.numpy(), x + 1)
    assert SAVE(LOAD(SAVE(module))) == SAVE(module)


def test_exported_with_a_relax_module(module, x, tmp_path):
    from tvm import relax

    builder = relax.BlockBuilder()
    a = relax.Var("a", relax.TensorType((2, 3), "float32"))
    with builder.function("main", [a]):
        with builder.dataflow():
            out_ty = relax.TensorType((2, 3), "float32")
            call = relax.call_dps_packed("npu_region_0", relax.Tuple([a]), out_ty=out_ty)
            out = builder.emit_output(call)
        builder.emit_func_output(out)
    built = tvm.compile(builder.get(), target="llvm")
    built.mod.import_module(module)
    built.export_library(str(tmp_path / "model.so"))
    loaded = tvm.runtime.load_module(str(tmp_path / "model.so"))
    machine = relax.VirtualMachine(loaded, tvm.cpu())
    np.testing.assert_array_equal(machine["main"](cpu(x)).numpy(), x + 1)


def test_sessions_are_built_once_and_lazily(module, x):
    runtime.reset_counters()
    tensors = cpu(x), cpu(x)
    assert runtime.counters()["npu_sessions"] == 0
    for _ in range(3):
        module["npu_region_0"](*tensors)
    counted = runtime.counters()
    assert (counted["npu_sessions"], counted["npu_runs"], counted["copies"]) == (1, 3, 0)


def test_prepare_builds_every_session_of_imports(module):
    other = runtime.npu_module([onnx_region("npu_region_1", "Neg", (4,))], "cpu", {})
    other.import_module(module)
    runtime.reset_counters()
    runtime.prepare(other)
    runtime.prepare(other)
    assert runtime.counters()["npu_sessions"] == 2


def test_follows_tensors_that_move(module, x):
    """Bound memory is kept from call to call; other tensors must not meet the old binding."""
    for shift in range(4):
        y = cpu(np.zeros((2, 3), "float32"))
        module["npu_region_0"](cpu(x + shift), y)
        np.testing.assert_array_equal(y.numpy(), x + shift + 1)


def test_several_inputs_and_outputs(x):
    import onnx
    from onnx import helper

    def value(name):
        return helper.make_tensor_value_info(name, 1, (2, 3))

    nodes = [helper.make_node("Sub", ["a", "b"], ["d"]), helper.make_node("Add", ["a", "b"], ["s"])]
    graph = helper.make_graph(nodes, "g", [value("a"), value("b")], [value("s"), value("d")])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10)
    onnx.checker.check_model(model)
    # The description's order counts, not the model's.
    inputs = Spec("b", "float32", (2, 3)), Spec("a", "float32", (2, 3))
    outputs = Spec("d", "float32", (2, 3)), Spec("s", "float32", (2, 3))
    region = Region("two", model.SerializeToString(), inputs, outputs)
    d, s = cpu(np.zeros((2, 3), "float32")), cpu(np.zeros((2, 3), "float32"))
    runtime.npu_module([region], "cpu", {})["two"](cpu(x), cpu(10 * x), d, s)
    np.testing.assert_array_equal(d.numpy(), 9 * x)
    np.testing.assert_array_equal(s.numpy(), 11 * x)


@pytest.mark.parametrize(
    "dtype", ["float16", "float32", "float64", "int8", "int32", "int64", "uint8", "uint32", "bool"]
)
def test_types(dtype):
    array = (np.arange(6).reshape(2, 3) % 2).astype(dtype)
    region = onnx_region("same", "Identity", (2, 3), dtype)
    y = cpu(np.zeros((2, 3), dtype))
    runtime.npu_module([region], "cpu", {})["same"](cpu(array), y)
    np.testing.assert_array_equal(y.numpy(), array)


def test_scalar():
    region = onnx_region("same", "Identity", ())
    y = cpu(np.zeros((), "float32"))
    runtime.npu_module([region], "cpu", {})["same"](cpu(np.float32(3)), y)
    assert y.numpy() == 3


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros((3, 2), "float32"), "tensor 'x' is float32[3, 2], not float32[2, 3]"),
        (np.zeros((2, 3), "float64"), "tensor 'x' is float64[2, 3], not float32[2, 3]"),
        (np.zeros((6,), "float32"), "tensor 'x' is float32[6], not float32[2, 3]"),
    ],
)
def test_wrong_tensor_is_refused(module, array, message):
    with pytest.raises(ValueError) as caught:
        module["npu_region_0"](cpu(array), cpu(np.zeros((2, 3), "float32")))
    assert str(caught.value) == f"NPU region npu_region_0: {message}"


def test_tensor_with_gaps_is_refused(module):
    import tvm_ffi

    gaps = tvm_ffi.from_dlpack(np.zeros((2, 6), "float32")[:, ::2])
    with pytest.raises(ValueError, match="region npu_region_0: tensor 'x' has gaps between"):
        module["npu_region_0"](gaps, cpu(np.zeros((2, 3), "float32")))


def test_wrong_number_of_tensors_is_refused(module, x):
    with pytest.raises(TypeError, match="takes 1 inputs and 1 outputs, got 1 tensors"):
        module["npu_region_0"](cpu(x))


def test_model_that_is_none_names_its_region(x):
    region = onnx_region("broken", "Neg", (2, 3))
    region.onnx = b"not a model"
    with pytest.raises(errors.DeviceFailure, match=r"^NPU region broken: "):
        runtime.prepare(runtime.npu_module([region], "cpu", {}))


def test_description_that_does_not_fit_the_model_names_its_region():
    region = onnx_region("unfit", "Neg", (2, 3))
    region.inputs = (Spec("no_such_input", "float32", (2, 3)),)
    module = runtime.npu_module([region], "cpu", {})
    with pytest.raises(errors.DeviceFailure, match=r"^NPU region unfit: .*no_such_input"):
        module["unfit"](cpu(np.zeros((2, 3), "float32")), cpu(np.zeros((2, 3), "float32")))


@pytest.mark.parametrize(
    ("provider", "options", "message"),
    [
        ("tpu", {}, "NPU region r: unknown provider 'tpu'; known: cpu, qnn"),
        ("cpu", {"threads": "two"}, "NPU region r: option threads is 'two', not a number"),
        ("qnn", {}, "NPU region r: provider qnn needs the option soc_model"),
    ],
)
def test_wrong_provider_or_option_is_refused(provider, options, message):
    module = runtime.npu_module([onnx_region("r", "Neg", (2,))], provider, options)
    with pytest.raises(ValueError) as caught:
        runtime.prepare(module)
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"latency_us": "soon"}, "option latency_us is 'soon', not a number"),
        ({"stamp": "1"}, "option stamp needs an output of 16 bytes"),
    ],
)
def test_wrong_option_of_the_null_provider_is_refused(options, message):
    with pytest.raises(ValueError, match=f"NPU region r: {message}"):
        runtime.npu_module([onnx_region("r", "Neg", (2,))], "null", options)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda region: region.pop("symbol"), "region 0: no 'symbol'"),
        (lambda region: region.update(options=[]), "region r: 'options' has the wrong type"),
        (lambda region: region.update(options={"a": 1}), "region r: an option is not a string"),
        (lambda region: region["inputs"].append(3), "region r: a tensor is not an object"),
        (lambda region: region["inputs"][0].pop("dtype"), "region r, tensor 'x': no 'dtype'"),
        (
            lambda region: region["inputs"][0].update(shape=[-1]),
            "region r, tensor 'x': a negative dimension",
        ),
        (
            lambda region: region["inputs"][0].update(shape=[2**40, 2**40]),
            "region r, tensor 'x': the shape is too large",
        ),
        (
            lambda region: region["inputs"][0].update(dtype="int4"),
            "region r, tensor 'x': ONNX has no int4",
        ),
    ],
)
def test_wrong_description_is_refused(change, message):
    module = runtime.npu_module([onnx_region("r", "Neg", (2,))], "cpu", {})
    header = json.loads(module.inspect_source())
    change(header["regions"][0])
    with pytest.raises(ValueError) as caught:
        CREATE(json.dumps(header), [b""])
    assert message in str(caught.value)


def test_header_that_is_no_json_is_refused():
    with pytest.raises(ValueError, match=r"^NPU module: header is no JSON object"):
        CREATE("{", [])


def test_two_regions_of_one_name_are_refused():
    region = onnx_region("twice", "Neg", (2,))
    with pytest.raises(ValueError, match="two regions are called twice"):
        runtime.npu_module([region, region], "cpu", {})


def test_as_many_models_as_regions():
    with pytest.raises(ValueError, match="0 models and files are described, 1 are there"):
        CREATE('{"regions": []}', [b""])


def test_every_truncation_is_refused():
    whole = bytes(SAVE(runtime.npu_module([Region("r", b"model", (), ())], "cpu", {})))
    for size in range(len(whole)):
        with pytest.raises(ValueError, match="NPU module is truncated or damaged"):
            LOAD(whole[:size])
    with pytest.raises(ValueError, match="NPU module is truncated or damaged"):
        LOAD(whole + b"x")
    with pytest.raises(ValueError, match="truncated or damaged"):
        LOAD(struct.pack("<Q", 2**63) + whole[8:])


def test_other_version_says_build_again():
    whole = bytes(SAVE(runtime.npu_module([], "cpu", {})))
    with pytest.raises(ValueError, match="another version of hetero_tvm; build the model again"):
        LOAD(whole.replace(b"hetero_npu 1", b"hetero_npu 9"))


@pytest.mark.parametrize(
    ("setting", "provider", "message"),
    [
        ("ort.library", "cpu", "ONNX Runtime not found; pip install onnxruntime"),
        ("qnn.library", "qnn", "need Qualcomm's runtime: pip install onnxruntime-qnn"),
    ],
)
def test_missing_package_says_what_to_install(setting, provider, message):
    done = fresh(
        "import json, sys, tvm; from hetero_tvm import errors, runtime\n"
        "from runtime_harness import onnx_region\n"
        "runtime.load()\n"
        "tvm.get_global_func('hetero_tvm.setting_set')(sys.argv[1], '')\n"
        "region = onnx_region('r', 'Neg', (2,))\n"
        "module = runtime.npu_module([region], sys.argv[2], {'soc_model': '57'})\n"
        "try: runtime.prepare(module)\n"
        "except errors.EnvironmentProblem as error: print(json.dumps(str(error)))",
        setting,
        provider,
    )
    assert message in done.json, done.stderr


def test_nothing_of_the_npu_goes_to_standard_output(tmp_path):
    """Qualcomm's simulator prints there, and so would spoil --json."""
    if runtime.package_version("onnxruntime-qnn") is None:
        pytest.skip("onnxruntime-qnn is not installed")
    code = (
        "import sys, numpy as np, tvm; from hetero_tvm import runtime\n"
        "from runtime_harness import *\n"
        "region = onnx_region('r', 'Add', (64,), constant=[1.0])\n"
    )
    make = code + "import pathlib; pathlib.Path(sys.argv[1]).write_bytes(\n"
    make += "    compile_for_qnn(region, 57, pathlib.Path(sys.argv[1]).parent).onnx)"
    model = tmp_path / "model.onnx"
    assert fresh(make, model).returncode == 0, "the model was not compiled"
    run = code + (
        "region.onnx = open(sys.argv[1], 'rb').read()\n"
        "module = runtime.npu_module([region], 'qnn', {'soc_model': '57'})\n"
        "x = tvm.runtime.tensor(np.arange(64, dtype='float32'), tvm.cpu())\n"
        "module['r'](x, x)\n"
        "assert np.allclose(x.numpy(), np.arange(64) + 1)\n"
        "print('1')"
    )
    done = fresh(run, model)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "1\n"


def test_more_names_than_files_are_refused():
    with pytest.raises(ValueError, match="describes more files than there are"):
        CREATE('{"regions": [], "contexts": ["a.bin", "b.bin"]}', [b""])


@pytest.mark.parametrize("name", ["", ".", "..", "../a.bin", "/a.bin", "a\\b.bin", "c:a.bin"])
def test_binaries_stay_in_their_folder(name):
    header = json.dumps({"regions": [], "contexts": [name]})
    with pytest.raises(ValueError, match="is not the name of a file"):
        CREATE(header, [b"content"])


def test_compiled_regions_find_their_binary_beside_them(tmp_path):
    """Two regions with a binary each, outside of their models, in a process that did not compile.

    With the entries that regions with one binary need; such a binary loads on devices only.
    """
    if runtime.package_version("onnxruntime-qnn") is None:
        pytest.skip("onnxruntime-qnn is not installed")
    make = (
        "import sys; from pathlib import Path; from runtime_harness import *\n"
        "for name, number in (('one', 1.0), ('two', 2.0)):\n"
        "    region = onnx_region(name, 'Add', (64,), constant=[number])\n"
        "    compile_for_qnn(region, 57, sys.argv[1], embedded=False)"
    )
    assert fresh(make, tmp_path).returncode == 0, "the models were not compiled"
    run = (
        "import sys, numpy as np, tvm; from hetero_tvm import runtime\n"
        "from pathlib import Path; from runtime_harness import *\n"
        "folder, regions = Path(sys.argv[1]), []\n"
        "for name in ('one', 'two'):\n"
        "    region = onnx_region(name, 'Neg', (64,))\n"
        "    region.onnx = (folder / f'{name}_ctx.onnx').read_bytes()\n"
        "    regions.append(region)\n"
        "binaries = {path.name: path.read_bytes() for path in folder.glob('*.bin')}\n"
        "module = runtime.npu_module(regions, 'qnn', {'soc_model': '57'}, binaries)\n"
        "load = tvm.get_global_func('ffi.Module.load_from_bytes.hetero_npu')\n"
        "module = load(tvm.get_global_func('hetero_tvm.module_bytes')(module))\n"
        "for name, number in (('one', 1), ('two', 2)):\n"
        "    x = tvm.runtime.tensor(np.arange(64, dtype='float32'), tvm.cpu())\n"
        "    module[name](x, x)\n"
        "    assert np.allclose(x.numpy(), np.arange(64) + number)\n"
        "print(len(binaries))"
    )
    cache = tmp_path / "cache"
    for _ in range(2):  # into an empty cache, and into one whose files are damaged
        done = fresh(run, tmp_path, HETERO_CACHE_DIR=str(cache))
        assert done.returncode == 0, done.stderr
        assert done.json == 2
        (folder,) = (cache / "npu_contexts").iterdir()
        names = sorted(path.name for path in folder.iterdir())
        assert names == ["one.onnx", "one_ctx_qnn.bin", "two.onnx", "two_ctx_qnn.bin"]
        (folder / "one_ctx_qnn.bin").write_bytes(b"damaged")
        (folder / "two.onnx").unlink()


def test_a_cache_that_cannot_hold_the_binary_is_named(tmp_path):
    (tmp_path / "file").write_text("no folder")
    run = (
        "import json, sys; from hetero_tvm import errors, runtime\n"
        "from runtime_harness import *\n"
        "region = onnx_region('r', 'Neg', (64,))\n"
        "module = runtime.npu_module([region], 'cpu', {}, {'a.bin': b'content'})\n"
        "try: runtime.prepare(module)\n"
        "except errors.EnvironmentProblem as error: print(json.dumps(str(error)))"
    )
    done = fresh(run, HETERO_CACHE_DIR=str(tmp_path / "file"))
    assert "binary of 7 bytes cannot be written" in done.json, done.stderr
    assert "HETERO_CACHE_DIR" in done.json


TARGETS = [
    {"name": "a", "soc": "SM1", "htp_arch": 73, "soc_ids": [1, 2], "options": {"soc_model": "43"}},
    {"name": "b", "soc": "SM2", "htp_arch": 75, "soc_ids": [3], "options": {"soc_model": "57"}},
]


@pytest.fixture
def for_targets(monkeypatch):
    """Makes a module for two targets, whose region no NPU takes; the settings are put back."""

    def make(*, substitute=True, **settings):
        runtime.configure_npu(
            target=settings.pop("target", None),
            unfit=settings.pop("unfit", None),
            allow_fallback=settings.pop("allow_fallback", False),
        )
        for name, value in settings.items():
            monkeypatch.setenv(f"HETERO_{name.upper()}", value)
        plain = onnx_region("r", "Add", (2, 3), constant=[1.0])
        return runtime.npu_module(
            [plain],
            "qnn",
            {"soc_model": "0"},
            substitutes=[plain.onnx] if substitute else (),
            targets=TARGETS,
            binaries={"r": (b"no model", b"none either")},
        )

    yield make
    runtime.configure_npu(target=None, unfit=None, allow_fallback=False)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"soc_id": "9"}, "compiled for a (SM1, HTP v73), b (SM2, HTP v75), this device is SoC 9"),
        ({"soc_id": "nine"}, "HETERO_SOC_ID is 'nine', not the number of a SoC"),
        ({"target": "c"}, "HETERO_NPU_TARGET is c; the NPU part is compiled for a (SM1, HTP v73)"),
        ({"unfit": "it is Tuesday"}, "it is Tuesday"),
    ],
)
def test_no_target_for_this_machine(for_targets, settings, message):
    with pytest.raises((ValueError, errors.EnvironmentProblem)) as caught:
        runtime.prepare(for_targets(**settings))
    assert message in str(caught.value) and "; --allow-fallback (HETERO_ALL" in str(caught.value)
    with pytest.raises((ValueError, errors.EnvironmentProblem)) as caught:
        runtime.prepare(for_targets(**settings, substitute=False, allow_fallback=True))
    assert message in str(caught.value) and "build with --with-fallback" in str(caught.value)


def test_substitutes_work_where_they_are_allowed(for_targets, x, capfd):
    module = for_targets(soc_id="9", allow_fallback=True)
    module = LOAD(SAVE(module))
    runtime.reset_counters()
    runtime.prepare(module)
    y = cpu(np.zeros((2, 3), "float32"))
    module["r"](cpu(x), y)
    np.testing.assert_array_equal(y.numpy(), x + 1)
    assert capfd.readouterr().err.count("the NPU is not used") == 1
    assert runtime.counters()["npu_moved"] == 1
    assert "this device is SoC 9" in runtime.fallbacks()[-1]


def test_prepared_or_not_a_call_asks_too(for_targets, x):
    module = for_targets(soc_id="9")
    with pytest.raises(ValueError, match=r"this device is SoC 9.*--allow-fallback"):
        module["r"](cpu(x), cpu(x))


def test_a_region_that_its_npu_refuses(for_targets, x):
    """The binary of the target is none: a failure of the device, which others may stand in for."""
    pytest.importorskip("onnxruntime_qnn")
    for soc, model in (("2", "a"), ("3", "b")):
        with pytest.raises(errors.DeviceFailure, match=r"NPU region r.*; --allow-fallback"):
            runtime.prepare(for_targets(soc_id=soc))
        module = for_targets(soc_id=soc, allow_fallback=True)
        y = cpu(np.zeros((2, 3), "float32"))
        module["r"](cpu(x), y)
        np.testing.assert_array_equal(y.numpy(), x + 1), model


def test_what_stands_by_is_not_prepared(x):
    plain = onnx_region("whole_main", "Add", (2, 3), constant=[1.0])
    module = runtime.npu_module([], "cpu", {}, standby=[plain])
    runtime.reset_counters()
    runtime.prepare(module)
    assert runtime.counters()["npu_sessions"] == 0
    y = cpu(np.zeros((2, 3), "float32"))
    module["whole_main"](cpu(x), y)
    np.testing.assert_array_equal(y.numpy(), x + 1)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda h: h["targets"][0].pop("soc_ids"), "a target has no 'soc_ids'"),
        (lambda h: h["targets"][1].update(htp_arch="v75"), "a target has no 'htp_arch', or of the"),
        (lambda h: h["targets"].append(3), "a target is not an object"),
        (lambda h: h["targets"][0]["soc_ids"].append("x"), "a SoC's number is none"),
        (lambda h: h["targets"][0].update(options={"a": 1}), "an option of target a is not a str"),
        (lambda h: h["targets"].pop(), "region r has 2 binaries for 1 targets"),
        (lambda h: h["regions"][0].update(binaries=[[0], [7]]), "region r has no piece 7"),
        (lambda h: h["regions"][0].update(binaries=[[0], [-1]]), "region r has no piece -1"),
        (lambda h: h["regions"][0].update(binaries=[[0], 1]), "a binary is not a list of pieces"),
        (lambda h: h["regions"][0].update(binaries=[[0], ["x"]]), "a piece is not a number"),
        (lambda h: h["regions"][0].update(standby="no"), "'standby' has the wrong type"),
    ],
)
def test_wrong_description_of_targets_is_refused(for_targets, change, message):
    header = json.loads(for_targets().inspect_source())
    change(header)
    with pytest.raises(ValueError) as caught:
        CREATE(json.dumps(header), [b"substitute", b"one", b"two"])
    assert message in str(caught.value)
