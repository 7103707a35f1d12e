"""One operator on both devices: right numbers, both at work, one buffer, nothing copied.

Plans are by hand, so that every kind of split runs whatever the planner would choose. Tolerances as
in `test_models`: 1e-4 on the host, 1e-2 on the simulated HTP, which computes in float16.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import random

import forced_plans
import numpy as np
import onnx
import pytest
import tiny_models as tiny
import tvm
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from numpy_relax import evaluate
from onnx import helper
from split_models import CASES, model_of, weight_of
from split_programs import legal_cuts, models, plan_of, random_plan
from tvm import relax

import hetero_tvm
from hetero_tvm import pipeline, runtime, vm_lowering
from hetero_tvm.build_state import State
from hetero_tvm.config import BuildConfig
from relay_passes import npu_support
from relay_passes.lower_cpu import HOST_ATTR
from relay_passes.op_work import static_shape
from relay_passes.ordering import violations
from relay_passes.plan_memory import npu_or_kernel
from relay_passes.program import read_program
from target_specs.loader import load_spec

HAS_QNN = importlib.util.find_spec("onnxruntime_qnn") is not None
pytestmark = pytest.mark.usefixtures("opencl")
needs_qnn = pytest.mark.skipif(not HAS_QNN, reason="onnxruntime-qnn is not installed")


@dataclasses.dataclass
class Built:
    state: State
    path: object
    model: hetero_tvm.loader.Model
    x: np.ndarray
    want: np.ndarray


def build(case, folder, target="host"):
    onnx = case.write(folder / "model.onnx")
    plan = forced_plans.by_operator(case.places)
    state = forced_plans.build(onnx, folder / "model.so", plan, target)
    spec = state.model.inputs[0]
    x = np.random.default_rng(0).standard_normal(spec.shape, np.float32)
    (want,) = tiny.run_with_onnxruntime(onnx, **{spec.name: x}).values()
    model = hetero_tvm.load(folder / "model.so")
    return Built(state, folder / "model.so", model, x, want)


def check_numbers(built, tolerance):
    """The only output is right, relative to its size; what the runtime counted meanwhile."""
    tensors = built.model.feed({built.model.manifest.inputs[0].name: built.x})
    for _ in range(3):  # memory comes back from the pool in other orders
        runtime.reset_counters()
        result = built.model.call(tensors)
        counted = runtime.counters()
        (got,) = built.model.fetch(result).values()
        assert got.shape == built.want.shape
        assert np.linalg.norm(got - built.want) <= tolerance * np.linalg.norm(built.want)
    return counted


@pytest.mark.parametrize("name", CASES)
def test_both_devices_share_every_kind_of_split(tmp_path, name):
    built = build(CASES[name], tmp_path)
    splits = [op for op in built.state.plan.ops if op.split is not None]
    assert splits, "nothing is cut"
    counted = check_numbers(built, 1e-4)
    assert counted["kernel_launches"] >= 1
    assert counted["npu_runs"] >= 1
    assert counted["bytes_copied"] == 0
    assert "concat" not in kernels(built.state)
    assert order(built.state) == []


def test_a_packed_product_is_cut_once_for_all_that_is_in_it(tmp_path):
    """Gate, up, their product and the one behind it: one job of the NPU, waited for once."""
    counted = check_numbers(build(CASES["packed_product_by_rows"], tmp_path), 1e-4)
    assert counted["npu_runs"] == 1
    assert counted["npu_waits"] <= 1


@needs_qnn
@pytest.mark.parametrize("name", CASES)
def test_on_the_simulated_htp(tmp_path, name):
    built = build(CASES[name], tmp_path, "snapdragon-8-gen-3")
    assert built.model.simulated
    counted = check_numbers(built, 1e-2)
    assert counted["npu_runs"] >= 1
    assert counted["bytes_copied"] == 0


def kernels(state):
    """The OpenCL C of a build."""
    (source,) = [
        device.inspect_source()
        for module in state.executable.mod.imports
        for device in [module, *module.imports]
        if device.kind == "opencl"
    ]
    return source


def order(state):
    """What the checker of order says about a lowered build."""
    regions = [region.symbol for region in state.regions]
    names = [step.info.name for step in vm_lowering.lower_to_vm(regions)]
    steps = vm_lowering.lower_to_vm(regions)[: names.index("PlanMemory") + 1]
    return violations(tvm.transform.Sequential(steps)(state.mod), npu_or_kernel(regions, HOST_ATTR))


# --- one buffer ----------------------------------------------------------------------------------


def traced(built):
    """(callee, addresses and sizes of its tensors) of every call of one run, and the result."""
    address = tvm.get_global_func("hetero_tvm.tensor_address")
    calls = []

    def note(_func, name, before_run, _result, *args):
        if before_run:
            tensors = [arg for arg in args if isinstance(arg, tvm.runtime.Tensor)]
            calls.append((name, [(address(t), _nbytes(t)) for t in tensors]))

    device = runtime.open_opencl()
    machine = relax.VirtualMachine(tvm.runtime.load_module(str(built.path)), device)
    machine.set_instrument(note)
    result = machine["main"](tvm.runtime.tensor(built.x, device))
    result = result if isinstance(result, tvm.runtime.Tensor) else result[0]
    device.sync()
    return calls, (address(result), _nbytes(result)), result


def _nbytes(tensor):
    return int(np.prod(tensor.shape)) * np.dtype(str(tensor.dtype)).itemsize


@pytest.mark.parametrize(
    "name",
    ["weight", "weight_odd", "weight_of_many_rows", "activation", "activation_chain", "conv_rows"],
)
def test_both_parts_are_written_into_the_output_itself(tmp_path, name):
    """The NPU's part begins where the result begins, the GPU's where the NPU's ends."""
    built = build(CASES[name], tmp_path)
    calls, (begin, nbytes), _ = traced(built)
    on_npu = [tensors[-1] for callee, tensors in calls if callee.startswith("npu_region")]
    (npu_begin, npu_bytes) = on_npu[-1]
    assert npu_begin == begin
    on_gpu = [tensors[-1] for callee, tensors in calls if _is_kernel(callee, tensors)]
    assert (begin + npu_bytes, nbytes - npu_bytes) in on_gpu
    assert 0 < npu_bytes < nbytes


def _is_kernel(callee, tensors):
    return tensors and not callee.startswith(("npu_region", "vm.", "hetero_tvm."))


def test_a_join_in_the_middle_of_the_program_is_one_buffer(tmp_path):
    """The NPU's relu reads both parts of the sum as one tensor."""
    built = build(CASES["activation_joined_for_the_npu"], tmp_path)
    calls, *_ = traced(built)
    regions = [tensors for callee, tensors in calls if callee.startswith("npu_region")]
    (whole, nbytes), _ = regions[1]
    part, part_bytes = regions[0][-1]
    assert (whole, nbytes) == (part, 7 * 48 * 4)
    on_gpu = [tensors[-1] for callee, tensors in calls if _is_kernel(callee, tensors)]
    assert (whole + part_bytes, nbytes - part_bytes) in on_gpu


def test_rows_of_an_image_are_stored_and_read_without_a_pass_over_memory(tmp_path):
    """Kernels compute channels last, and so the parts lie: one permutation, of the input."""
    built = build(CASES["conv_rows_chain"], tmp_path)
    calls, *_ = traced(built)
    on_gpu = [callee for callee, tensors in calls if _is_kernel(callee, tensors)]
    first, *rest = on_gpu
    assert "transpose" in first
    assert not any(word in name for name in rest for word in ("transpose", "slice")), rest


# --- convolutions by rows ------------------------------------------------------------------------


@st.composite
def convolutions(draw):
    """Two convolutions with an activation between: odd sizes, strides, pads, dilation, groups."""
    nodes, weights, channels = [], [], draw(st.sampled_from([1, 3, 4, 8]))
    height, width = draw(st.integers(5, 23)), draw(st.integers(3, 9))
    given_shape, tensor = (1, channels, height, width), "x"
    for index in range(2):
        kernel = [draw(st.integers(1, 3)), draw(st.integers(1, min(3, width)))]
        dilation = [draw(st.integers(1, 2)) if k > 1 and height > 6 else 1 for k in kernel[:1]] + [
            1
        ]
        stride = [draw(st.integers(1, 2)), draw(st.integers(1, 2))]
        reach = [(k - 1) * d + 1 for k, d in zip(kernel, dilation, strict=True)]
        pads = [draw(st.integers(0, r - 1)) for r in (*reach, *reach)]
        groups = draw(st.sampled_from([g for g in (1, 2, channels) if channels % g == 0]))
        outputs = groups * draw(st.integers(1, 3))
        shape = (outputs, channels // groups, *kernel)
        weights.append(weight_of(f"w{index}", *shape))
        attributes = {"strides": stride, "pads": pads, "dilations": dilation, "group": groups}
        nodes.append(helper.make_node("Conv", [tensor, f"w{index}"], [f"c{index}"], **attributes))
        nodes.append(helper.make_node("Relu", [f"c{index}"], [f"r{index}"]))
        tensor, channels = f"r{index}", outputs
        height, width = (
            (size + pads[a] + pads[a + 2] - reach[a]) // stride[a] + 1
            for a, size in enumerate((height, width))
        )
        if height < 4 or width < 3:
            break
    nodes[-1].output[0] = "y"
    return model_of(nodes, given_shape, (1, channels, height, width), *weights)


def by_rows(rng):
    """Every operator cut by rows at random, alike its producer's where the two have one rule."""

    def plan(mod):
        nodes, chosen = read_program(mod), []
        for node in nodes:
            legal = [found for found in legal_cuts(node.call) if found[1].axis == 2]
            chosen.append(("gpu+npu", rng.choice(legal)) if legal else ("gpu", None))
        return plan_of(nodes, chosen)

    return plan


@given(convolutions(), st.integers(0, 2**32))
@settings(
    max_examples=12,
    deadline=None,
    suppress_health_check=list(HealthCheck),
    phases=(Phase.explicit, Phase.reuse, Phase.generate),
)
def test_rows_of_random_convolutions(tmp_path_factory, model, seed):
    folder = tmp_path_factory.mktemp("rows")
    onnx.save(model, folder / "model.onnx")
    plan = by_rows(random.Random(seed))
    state = forced_plans.build(folder / "model.onnx", folder / "model.so", plan)
    assert any(op.split is not None and op.split.axis == 2 for op in state.plan.ops)
    assert order(state) == []
    x = np.random.default_rng(seed).standard_normal(state.model.inputs[0].shape, np.float32)
    (want,) = tiny.run_with_onnxruntime(folder / "model.onnx", x=x).values()
    built = Built(state, None, hetero_tvm.load(folder / "model.so"), x, want)
    assert check_numbers(built, 1e-4)["bytes_copied"] == 0


# --- random models through the whole of the lowering ---------------------------------------------


def able(call, device):
    return device != "npu" or npu_support.decline_reason(call, load_spec("host").npu) is None


@given(models(), st.integers(0, 2**32))
@settings(
    max_examples=25,
    suppress_health_check=list(HealthCheck),
    phases=(Phase.explicit, Phase.reuse, Phase.generate),  # to shrink would take minutes
)
def test_random_models_on_real_devices(mod, seed):
    state = State(
        config=BuildConfig(model=None, target="host", output=None),
        spec=load_spec("host"),
        note=lambda line: None,
        mod=mod,
        plan=random_plan(mod, random.Random(seed), able=able),
    )
    names = [phase.name for phase in pipeline.PHASES]
    for phase in pipeline.PHASES[names.index("split") :]:
        state = phase.run(state)
    assert order(dataclasses.replace(state)) == []
    device = runtime.open_opencl()
    machine = relax.VirtualMachine(state.executable, device)
    rng = np.random.default_rng(0)
    shapes = [static_shape(param.ty) for param in mod["main"].params]
    inputs = [rng.uniform(-1, 1, shape).astype(np.float32) for shape in shapes]
    wanted = evaluate(mod, [array.astype(np.float64) for array in inputs])
    for _ in range(2):
        result = machine["main"](*(tvm.runtime.tensor(array, device) for array in inputs))
        got = [result] if isinstance(result, tvm.runtime.Tensor) else list(result)
        for ours, theirs, axes in zip(got, wanted, state.cut.output_axes, strict=True):
            seen = ours.numpy() if axes is None else np.transpose(ours.numpy(), axes)
            scale = max(1.0, float(np.abs(theirs).max()))
            np.testing.assert_allclose(seen, theirs, rtol=0, atol=1e-4 * scale)
