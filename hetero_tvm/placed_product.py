"""One product that runs where it is told to: what a device's doctor sends there.

    y = relu(x @ weight)      x [64, 256]; on the GPU, on the NPU, or half of the rows on each

It is built as any model is, but that no planner is asked: a driver that builds no kernel, an NPU of
another architecture, or memory that both do not share shows, whatever a plan would choose.
"""

from __future__ import annotations

import dataclasses
import hashlib
from pathlib import Path
from typing import Literal

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from tvm import IRModule

from hetero_tvm import bundle, compiler, pipeline, runtime
from hetero_tvm.build_state import State
from hetero_tvm.bundle import Manifest
from hetero_tvm.config import BuildConfig
from hetero_tvm.device_os import DeviceOs, this_os
from relay_passes.op_work import op_name
from relay_passes.plan import OpPlan, Plan, Split
from relay_passes.program import read_program
from target_specs.loader import load_spec

Place = Literal["gpu", "npu", "split"]
ROWS, SIZE = 64, 256  # [64, 256] x [256, 256]
TOLERANCE = {"float32": 1e-4, "float16": 1e-2}  # relative error, as `run --compare` has them
_OPSET, _IR_VERSION = 18, 9


@dataclasses.dataclass(frozen=True, kw_only=True)
class Product:
    """One artefact, and how exact it has to be."""

    path: Path
    manifest: Manifest
    tolerance: float

    def draw(self) -> np.ndarray:
        """A fresh `x`."""
        return np.random.default_rng().standard_normal((ROWS, SIZE)).astype(np.float32)

    def error(self, x: np.ndarray, found: np.ndarray) -> float:
        """Relative error of what came of `x`, against float64."""
        wanted = np.maximum(x.astype(np.float64) @ _weight().astype(np.float64), 0)
        return float(np.linalg.norm(found.astype(np.float64) - wanted) / np.linalg.norm(wanted))


def placed_product(
    place: Place, dtype: str, target: str, system: DeviceOs, cache_dir: Path
) -> Product:
    """Build it for a target and a system; what was built before is taken from `cache_dir`.

    Raises:
        HeteroError: it cannot be built here.
    """
    spec = load_spec(target)
    versions = [runtime.package_version(name) for name in ("apache-tvm", "onnxruntime-qnn")]
    key = (place, dtype, spec, system.name, bundle.FORMAT_VERSION, versions)
    digest = hashlib.sha256(repr(key).encode()).hexdigest()[:16]
    folder = cache_dir / "placed_products"
    path = folder / f"{place}-{dtype}-{digest}.so"
    half = dtype == "float16" or (place != "gpu" and spec.npu.provider == "qnn")
    tolerance = TOLERANCE["float16" if half else "float32"]
    if path.is_file():
        return Product(path=path, manifest=bundle.read_manifest(path), tolerance=tolerance)
    folder.mkdir(parents=True, exist_ok=True)
    model = path.with_suffix(".onnx")
    with bundle.whole_file(model) as temporary:
        temporary.write_bytes(_model().SerializeToString())
    runtime.load()
    state = State(
        config=BuildConfig(
            model=model,
            target=target,
            output=path,
            os=None if system == this_os() else system.name,
            dtype=dtype,
            measure=False,
            cache_dir=cache_dir,
        ),
        spec=spec,
        note=lambda line: None,
    )
    for phase in pipeline.PHASES:
        if phase.name == "place":
            state = dataclasses.replace(state, plan=_plan(state.mod, place))
        else:
            state = phase.run(state)
    return Product(path=path, manifest=compiler.write_artefact(path, state), tolerance=tolerance)


def _plan(mod: IRModule, place: Place) -> Plan:
    """Every operator of the program where it is told to be."""
    split = Split(kind="activation", axis=0, at=ROWS // 2, extent=ROWS)
    ops = tuple(
        OpPlan(
            name=node.name,
            op=op_name(node.call),
            device="gpu+npu" if place == "split" else place,
            reason="to see that it works there",
            cost_us={},
            declined={},
            macs=0,
            split=split if place == "split" else None,
            region=None if place == "gpu" else 0,
        )
        for node in read_program(mod)
    )
    return Plan(ops=ops, predicted_us=0.0)


def _weight() -> np.ndarray:
    return np.random.default_rng(0).standard_normal((SIZE, SIZE), np.float32) / SIZE**0.5


def _model() -> onnx.ModelProto:
    nodes = [
        helper.make_node("MatMul", ["x", "weight"], ["product"], name="product"),
        helper.make_node("Relu", ["product"], ["y"], name="relu"),
    ]
    shape = [ROWS, SIZE]
    graph = helper.make_graph(
        nodes,
        "placed_product",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, shape)],
        [numpy_helper.from_array(_weight(), "weight")],
    )
    opsets = [helper.make_opsetid("", _OPSET)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=_IR_VERSION)
