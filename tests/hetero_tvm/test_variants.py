"""One artefact for several lengths: numbers, what is shared, and what is refused."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest
import tiny_models as tiny
from tvm import relax

import hetero_tvm
from hetero_tvm import bundle, lengths, loader, pipeline, variants
from hetero_tvm.build import build
from hetero_tvm.build_state import State
from hetero_tvm.config import BuildConfig
from hetero_tvm.errors import BadInput
from schedules.tuned import Use
from target_specs.loader import load_spec

LENGTHS = (8, 13, 32)  # an odd one is a plan of its own
TOLERANCE = 1e-4  # float32 throughout, as the import's check


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("variants")


@pytest.fixture(scope="module", params=["gpu", "npu", "gpu+npu"])
def attention(folder, request):
    """The model, and its artefact of three lengths."""
    path = tiny.attention(folder / "attention.onnx")
    artefact = folder / f"attention-{request.param}.so"
    shapes = {"ids": (1, "L"), "mask": (1, "L")}
    build(
        path,
        target="host",
        output=artefact,
        inputs=shapes,
        length=LENGTHS,
        devices=request.param,
    )
    return path, hetero_tvm.load(artefact)


@pytest.fixture(scope="module")
def rows(folder):
    path = tiny.mlp(folder / "rows.onnx", free_rows=True)
    artefact = folder / "rows.so"
    build(path, target="host", output=artefact, inputs={"x": ("L", 32)}, length=LENGTHS)
    return path, hetero_tvm.load(artefact)


@pytest.fixture(scope="module")
def unmasked(folder):
    path = tiny.attention(folder / "unmasked.onnx", mask=False)
    artefact = folder / "unmasked.so"
    build(path, target="host", output=artefact, inputs={"ids": (1, "L")}, length=(8, 32))
    return path, hetero_tvm.load(artefact)


def sentence(size, mask=True):
    rng = np.random.default_rng(size)
    inputs = {"ids": rng.integers(0, 50, (1, size))}
    if mask:
        inputs["mask"] = rng.integers(0, 2, (1, size))
        inputs["mask"][0, 0] = 1
    return inputs


def check(path, model, inputs):
    want = tiny.run_with_onnxruntime(path, **inputs)
    got = model(**inputs)
    assert set(got) == set(want)
    for name, array in want.items():
        assert got[name].shape == array.shape
        error = np.linalg.norm(got[name] - array) / np.linalg.norm(array)
        assert error <= TOLERANCE, name


@pytest.mark.parametrize("size", [*LENGTHS, 1, 9, 31])
def test_built_and_filled_up_lengths(attention, size):
    check(*attention, sentence(size))


def test_variants_are_whole_plans(attention):
    manifest = attention[1].manifest
    assert [variant.length for variant in manifest.variants] == list(LENGTHS)
    assert [variant.function for variant in manifest.variants] == ["main_8", "main_13", "main_32"]
    for variant in manifest.variants:
        assert variant.inputs[0].shape == (1, variant.length)
        assert variant.outputs[0].shape == (1, variant.length, 16)
    assert manifest.inputs == manifest.variants[-1].inputs
    assert manifest.lengths.padding
    assert not manifest.lengths.chunking


def test_a_filled_up_output_is_a_view(attention):
    _, model = attention
    got = model(**sentence(9))["y"]
    assert got.shape == (1, 9, 16)
    assert got.base is not None


@pytest.mark.parametrize("size", [*LENGTHS, 2, 40, 45, 100])
def test_rows_are_cut(rows, size):
    path, model = rows
    check(path, model, {"x": np.random.default_rng(size).standard_normal((size, 32), np.float32)})


def test_one_look_up_a_call(rows, monkeypatch):
    _, model = rows
    x = np.zeros((40, 32), np.float32)
    model(x)
    monkeypatch.setattr(loader, "way", None)  # not asked again
    model(x)


def test_built_lengths_run_without_any_search(rows, monkeypatch):
    monkeypatch.setattr(lengths, "_cheapest", None)
    rows[1](np.zeros((13, 32), np.float32))


@pytest.mark.parametrize(
    ("size", "message"),
    [
        (9, r"length 9: built are 8, 32; filling up others is not offered: filling up \d+ to "),
        (33, r"length 33: built are 8, 32; filling up others is not offered: .* by .* relative"),
    ],
)
def test_other_lengths_are_refused_where_they_would_be_wrong(unmasked, size, message):
    path, model = unmasked
    check(path, model, sentence(8, mask=False))
    with pytest.raises(BadInput, match=message):
        model(**sentence(size, mask=False))


def test_too_long_for_filling(attention):
    with pytest.raises(BadInput, match=r"length 33: built are 8, 13, 32; cutting longer inputs is"):
        attention[1](**sentence(33))


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ({"ids": np.zeros((1, 8), int)}, r"missing mask=1xL:int64; the model takes ids=1xL:int64"),
        (
            {"ids": np.zeros((1, 8), int), "mask": np.ones((1, 9), int)},
            r"inputs differ in length: ids 8, mask 9",
        ),
        (
            {"ids": np.zeros((1, 0), int), "mask": np.ones((1, 0), int)},
            r"inputs of length 0: ids, mask",
        ),
        (
            {"ids": np.zeros(8, int), "mask": np.ones(8, int)},
            r"ids: shape \[8\] has no dimension 1",
        ),
        (
            {"ids": np.zeros((2, 8), int), "mask": np.ones((1, 8), int)},
            r"input ids: shape \[2, 8\], the model takes \[1, 8\]",
        ),
        (
            {"ids": np.zeros((1, 8), np.int32), "mask": np.ones((1, 8), int)},
            r"input ids: dtype int32, the model takes int64",
        ),
    ],
)
def test_wrong_inputs(attention, inputs, message):
    with pytest.raises(BadInput, match=message):
        attention[1](**inputs)


@pytest.mark.parametrize("devices", ["gpu", "npu"])
def test_weights_lie_once(folder, devices):
    path = tiny.attention(folder / "wide.onnx", wide=512)
    sizes = []
    for count in (1, 3):
        artefact = folder / f"wide-{devices}-{count}.so"
        build(
            path,
            target="host",
            output=artefact,
            inputs={"ids": (1, "L"), "mask": (1, "L")},
            length=LENGTHS[-count:],
            devices=devices,
            check=False,
        )
        sizes.append(artefact.stat().st_size)
    assert sizes[0] > 3 * 512 * 512 * 4  # the weights are most of it
    assert sizes[1] < 1.5 * sizes[0]


def test_equal_constants_are_one_object():
    pool = variants.ConstantPool()
    ones = np.ones((2, 3), np.float32)
    first = pool.shared(relax.const(ones))
    assert pool.shared(relax.const(ones.copy())).same_as(first)
    for other in (ones * 2, ones.reshape(3, 2), ones.view(np.int32)):
        assert not pool.shared(relax.const(other)).same_as(first)


def test_without_length_everything_is_as_it_was(folder):
    path = tiny.mlp(folder / "static.onnx")
    result = build(path, target="host", output=folder / "static.so")
    manifest = bundle.read_manifest(folder / "static.so")
    assert (manifest.variants, manifest.lengths) == ((), None)
    assert result.variants == {}
    assert "variants" not in result.to_dict()


def test_one_length_is_main_and_may_be_filled_up(folder):
    path = tiny.mlp(folder / "sole.onnx", free_rows=True)
    artefact = folder / "sole.so"
    result = build(path, target="host", output=artefact, inputs={"x": ("L", 32)}, length=16)
    assert [variant.function for variant in result.manifest.variants] == ["main"]
    check(path, hetero_tvm.load(artefact), {"x": np.ones((5, 32), np.float32)})


def test_without_a_proof_nothing_is_offered(folder):
    path = tiny.mlp(folder / "unproven.onnx", free_rows=True)
    artefact = folder / "unproven.so"
    shapes = {"x": ("L", 32)}
    build(path, target="host", output=artefact, inputs=shapes, length=(4, 8), check=False)
    with pytest.raises(BadInput, match="built are 4, 8; filling up others is not offered: not pro"):
        hetero_tvm.load(artefact)(np.ones((5, 32), np.float32))


def test_kernels_are_compiled_once_for_all(folder, monkeypatch):
    path = tiny.mlp(folder / "once.onnx", free_rows=True)
    ran = []
    counted = tuple(
        pipeline.Phase(
            name=phase.name,
            weight=phase.weight,
            plan=phase.plan,
            once=phase.once,
            run=lambda state, phase=phase: (ran.append(phase.name), phase.run(state))[1],
        )
        for phase in pipeline.PHASES
    )
    monkeypatch.setattr(pipeline, "PHASES", counted)
    shapes = {"x": ("L", 32)}
    build(path, target="host", output=folder / "once.so", inputs=shapes, length=LENGTHS)
    assert ran.count("place") == len(LENGTHS)
    assert ran.count("codegen") == 1


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--input", "x=Lx32"], "--input x=Lx32: L stands for the lengths of --length"),
        (["--input", "x=4x32", "--length", "4"], "--length needs an --input with a dimension wri"),
        (["--input", "x=Lx32", "--length", "0"], "write whole numbers above 0 with commas"),
        (["--input", "x=Lx32", "--length", "4;8"], "write whole numbers above 0 with commas"),
        (["--input", "x=Lx32", "--length", "8..4"], "write a range from a shorter to a longer"),
        (["--input", "x=Lx32", "--length", "4..8", "--no-check"], "is what --no-check leaves out"),
        (["--input", "x=4x32", "--length", "4..8"], "--length needs an --input with a dimension"),
        (["--input", "x=Lx32", "--length", "99999999999"], "'x' of shape [99999999999, 32] has"),
        (["--input", "x=4xL", "--length", "4"], "does not fit the model's x [rows, 32]"),
        (["--input", "x=4x32", "--pad", "x=0"], "--pad goes with --length"),
        (["--input", "x=Lx32", "--length", "4", "--pad", "y=0"], "--pad y: the length shows in x"),
        (["--input", "x=Lx32", "--length", "4", "--pad", "x"], "--pad x: write NAME=VALUE"),
    ],
)
def test_bad_flags_are_one_clear_line(folder, hetero, words, message):
    path = tiny.mlp(folder / "flags.onnx", free_rows=True)
    done = hetero("build", path, "-t", "host", "-o", folder / "flags.so", *words)
    assert done.returncode == 2
    assert message in done.stderr.strip().splitlines()[-1]
    assert not (folder / "flags.so").exists()


def test_verbs(folder, hetero):
    path = tiny.mlp(folder / "verbs.onnx", free_rows=True)
    artefact = folder / "verbs.so"
    flags = ["-t", "host", "--input", "x=Lx32", "--length", "32,8,8"]
    built = hetero("build", path, *flags, "-o", artefact, "--json")
    assert built.returncode == 0, built.stderr
    assert [variant["length"] for variant in built.json["variants"]] == [8, 32]
    assert built.json["lengths"]["padding"] is True
    np.savez(folder / "x.npz", x=np.ones((40, 32), np.float32))
    for words, length, way in (
        (["--length", "9"], 9, "9 -> 32"),
        ([], 32, "32"),
        (["--inputs", folder / "x.npz"], 40, "32 + 8"),
    ):
        ran = hetero("run", artefact, "--compare", path, *words, "--json")
        assert ran.returncode == 0, ran.stderr
        assert (ran.json["length"], ran.json["way"], ran.json["held"]) == (length, way, True)
    wrong = hetero("run", artefact, "--inputs", folder / "x.npz", "--length", "9")
    assert "--length 9: the given inputs are 40 long" in wrong.stderr
    planned = hetero("build", path, *flags, "--plan-only")
    assert "above, the plan for length 32" in planned.stdout


def test_python_takes_the_two_together_only(folder):
    path = tiny.mlp(folder / "api.onnx", free_rows=True)
    for wrong in ({"length": 4}, {"inputs": {"x": ("L", 32)}}):
        with pytest.raises(BadInput, match="belong together"):
            build(path, target="host", **wrong)
    with pytest.raises(BadInput, match="length 0: whole numbers above 0"):
        build(path, target="host", inputs={"x": ("L", 32)}, length=0)


@pytest.mark.skipif(
    importlib.util.find_spec("onnxruntime_qnn") is None,
    reason="onnxruntime-qnn is not installed (pip install 'hetero-tvm[qnn]')",
)
def test_lengths_for_a_device_share_what_the_npu_computes_with(folder):
    """Such an artefact loads on a device only, so it is looked at and not run."""
    path = tiny.mlp(folder / "shared.onnx", width=1 << 14, free_rows=True)
    sizes = {}
    for share in (None, True):
        artefact = folder / f"shared-{share}.so"
        configs = {
            length: BuildConfig(
                model=path,
                target="snapdragon-8-gen-3",
                output=artefact,
                inputs={"x": (length, 32)},
                devices="npu",
                share_npu_weights=share,
                estimate=False,
            )
            for length in (8, 32, 33)
        }
        built = variants.build({8: configs[8], 32: configs[32]}, longer=configs[33])
        assert built.manifest.npu_regions == 2
        sizes[share] = artefact.stat().st_size
        content = artefact.read_bytes()
        assert b"ep_cache_context" in content
        assert (b"_ctx_qnn.bin" in content) == (share is True)
    weights = path.stat().st_size // 2  # as the NPU has them, in half precision
    assert sizes[None] - sizes[True] > 0.8 * weights


def test_weights_are_shared_where_a_device_loads_them():
    def config(**more):
        return BuildConfig(model=Path("m.onnx"), target="host", output=None, **more)

    with_shared_weights = variants.with_shared_weights
    assert not with_shared_weights(config()).share_npu_weights
    assert with_shared_weights(config(os="linux-aarch64")).share_npu_weights
    asked = config(os="linux-aarch64", share_npu_weights=False)
    assert with_shared_weights(asked).share_npu_weights is False


def test_all_functions_tell_what_a_database_of_kernels_did():
    def state(*keys):
        config = BuildConfig(model=Path("m.onnx"), target="host", output=None)
        uses = tuple(Use(key=key, ops=(), tuned=False, why="no record") for key in keys)
        return State(config=config, spec=load_spec("host"), note=print, kernels=uses)

    states = {1: state("gemv", "norm"), 16: state("norm", "gemm")}
    merged = variants.Merger().state(states, of=1)
    assert [use.key for use in merged.kernels] == ["gemv", "norm", "gemm"]
    assert not merged.done
