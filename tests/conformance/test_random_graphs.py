"""Random graphs: GPU, NPU, both on one operator, and the CPU agree with ONNX Runtime, or one line
says what is not taken.

The CPU's part is the import's own check, which every build makes. For long:

    HETERO_RANDOM_GRAPHS_S=3600 pytest -m nightly tests/conformance/test_random_graphs.py
"""

from __future__ import annotations

import os
import random
import tempfile
import time
from collections import Counter
from pathlib import Path

import forced_plans
import numpy as np
import onnx
import onnxruntime
import pytest
from hypothesis import HealthCheck, Phase, given, note, seed, settings
from hypothesis import strategies as st
from split_programs import random_plan

import hetero_tvm
from hetero_tvm import errors
from hetero_tvm.frontend.self_check import coarsest_types, is_close
from relay_passes import npu_support
from target_specs.loader import load_spec
from tests.conformance.random_graphs import drawn, graphs

pytestmark = pytest.mark.usefixtures("opencl")

MODES = ("gpu", "npu", "split")
# Several roundings, in another order than ONNX Runtime's; half precision rounds at 5e-4 each.
TOLERANCE = {"float32": 1e-4, "float64": 1e-4, "float16": 2e-2}
# What a model may be told; anything else is a wrong answer or a failure.
REFUSALS = (
    errors.UnsupportedModel,
    errors.WrongInputShapes,
    errors.ShapeMismatchError,
    errors.OpenShapeError,
    errors.ReferenceRefuses,
)


def able(call, device):
    return device != "npu" or npu_support.decline_reason(call, load_spec("host").npu) is None


def verdict(model, mode, number, folder):
    """`agrees`, `refused`, or `unknown` where ONNX Runtime itself has no kernel."""
    # A name of its own: the system gives a library that is still loaded again by its name.
    folder = Path(tempfile.mkdtemp(dir=folder))
    path = folder / "model.onnx"
    path.write_bytes(model.SerializeToString())
    if os.environ.get("HETERO_RANDOM_GRAPHS_LAST"):  # what takes the process along
        Path(os.environ["HETERO_RANDOM_GRAPHS_LAST"]).write_text(
            f"{mode} {number}\n{onnx.printer.to_text(model)}"
        )
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    rng = np.random.default_rng(number)
    inputs = {
        value.name: drawn(
            onnx.helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type).name,
            tuple(dim.dim_value for dim in value.type.tensor_type.shape.dim),
            rng,
        )
        for value in model.graph.input
    }
    try:
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        wanted = session.run(None, inputs)
    except Exception:  # noqa: BLE001 - ONNX Runtime's errors have no common base
        return "unknown"
    artefact = folder / "model.so"
    try:
        if mode == "split":
            plan = random.Random(number)
            forced_plans.build(path, artefact, lambda mod: random_plan(mod, plan, able=able))
        else:
            hetero_tvm.build(path, target="host", output=artefact, devices=mode, measure=False)
    except REFUSALS:
        return "refused"
    loaded = hetero_tvm.load(artefact)
    computed_in = coarsest_types(model.graph.node, dtypes(model))
    for _ in range(2):  # memory comes back from the pool in other orders
        found = loaded.run(inputs)
        for value, reference in zip(model.graph.output, wanted, strict=True):
            mine = found[value.name]
            assert (mine.dtype, mine.shape) == (reference.dtype, reference.shape), value.name
            kind = computed_in.get(value.name)
            assert is_close(mine, np.asarray(reference), TOLERANCE, kind), (value.name, mine)
    return "agrees"


def dtypes(model):
    """Value -> its type, of all that nodes give."""
    graph = onnx.shape_inference.infer_shapes(model).graph
    return {
        value.name: onnx.helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type).name
        for value in (*graph.value_info, *graph.output)
    }


def tried(most_nodes, empty, examples, counted, folder, phases=None):
    """A hypothesis test of so many examples; `counted` counts how they end."""

    @settings(
        max_examples=examples,
        suppress_health_check=list(HealthCheck),
        phases=phases or (Phase.explicit, Phase.reuse, Phase.generate, Phase.shrink),
    )
    @given(graphs(most_nodes, empty), st.sampled_from(MODES), st.integers(0, 2**32 - 1))
    def run(model, mode, number):
        note(onnx.printer.to_text(model))
        counted[verdict(model, mode, number, folder)] += 1

    return run


@pytest.mark.parametrize("empty", [False, True])
def test_random_graphs_agree(tmp_path, empty):
    counted = Counter()
    tried(3, empty, 4 if empty else 12, counted, tmp_path)()
    assert empty or counted["agrees"]


@pytest.mark.nightly
def test_random_graphs_agree_for_an_hour(tmp_path):
    """Seeds go up from the one that is printed."""
    counted, begin = Counter(), time.monotonic()
    lasts = float(os.environ.get("HETERO_RANDOM_GRAPHS_S", "3600"))
    first = int(os.environ.get("HETERO_RANDOM_GRAPHS_SEED", random.randrange(2**32)))
    for number in range(10**6):
        if time.monotonic() - begin > lasts:
            break
        seed(first + number)(tried(7, number % 4 == 3, 20, counted, tmp_path))()
    print(f"seed {first}: {dict(counted)} in {time.monotonic() - begin:.0f} s")
    assert counted["agrees"] > counted["unknown"]
