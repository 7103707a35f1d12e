"""One tiny model for each part of a device: what runs is made as any artefact is, and checked.

`cpu` sorts (compiled by LLVM), `gpu` multiplies (an OpenCL kernel), `npu` multiplies on the NPU.
All come from the compiler that made the real artefact, for the same target: a driver that builds no
kernel, an NPU of another architecture or a library that does not load shows here, by its part.
"""

from __future__ import annotations

import dataclasses
import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from hetero_tvm import bundle, compiler, reference
from hetero_tvm.bundle import Manifest
from hetero_tvm.config import BuildConfig
from hetero_tvm.device_os import os_of, this_os
from hetero_tvm.errors import HeteroError
from hetero_tvm.progress import Progress
from target_specs.loader import list_specs

PARTS = ("cpu", "gpu", "npu")
_ROWS, _DEEP, _WIDE = 64, 64, 128  # enough that a product is worth a matrix unit
_OPSET, _IR_VERSION = 18, 9


@dataclasses.dataclass(frozen=True, kw_only=True)
class PartTest:
    """The artefact for one part; without one, the reason."""

    part: str
    path: Path | None = None
    manifest: Manifest | None = None
    why_not: str = ""


def part_tests(artefact: Manifest, cache_dir: Path) -> list[PartTest]:
    """Tests for the parts that `artefact` uses; they are built once and kept in `cache_dir`."""
    parts = [part for part in PARTS if part != "npu" or artefact.npu_regions]
    return [_part_test(part, artefact, cache_dir) for part in parts]


def _part_test(part: str, artefact: Manifest, cache_dir: Path) -> PartTest:
    if artefact.target not in list_specs():
        return PartTest(
            part=part, why_not=f"target {artefact.target} is not among those of this installation"
        )
    key = [
        part,
        artefact.target,
        artefact.os,
        artefact.host,
        artefact.format_version,
        *artefact.versions.items(),
    ]
    digest = hashlib.sha256(repr(key).encode()).hexdigest()[:16]
    target_os = os_of(artefact.os, artefact.host) or this_os()
    here = target_os == this_os()
    folder = cache_dir / "part_tests"
    path = folder / f"{part}-{digest}.so"
    folder.mkdir(parents=True, exist_ok=True)
    try:
        if path.is_file():
            return PartTest(part=part, path=path, manifest=bundle.read_manifest(path))
        model = folder / f"{part}-{digest}.onnx"
        with bundle.whole_file(model) as temporary:
            temporary.write_bytes(_model(part).SerializeToString())
        built = compiler.build(
            BuildConfig(
                model=model,
                target=artefact.target,
                output=path,
                os=None if here else target_os.name,
                devices="npu" if part == "npu" else "gpu",
                cache_dir=cache_dir,
            ),
            Progress(quiet=True),
        )
    except HeteroError as error:
        return PartTest(part=part, why_not=f"its test cannot be built here: {error}")
    used = {op.device for op in built.plan.ops}
    if part not in used:
        return PartTest(part=part, why_not=f"the planner put its test on {', '.join(sorted(used))}")
    return PartTest(part=part, path=path, manifest=built.manifest)


def outputs_of(test: PartTest) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Inputs of a test that was built, and what must come out."""
    assert test.manifest is not None and test.manifest.reference is not None
    return reference.inputs(test.manifest.reference, test.manifest.ranges), dict(
        test.manifest.reference
    )


def _model(part: str) -> onnx.ModelProto:
    rng = np.random.default_rng(0)
    if part == "cpu":
        nodes = [helper.make_node("TopK", ["x", "k"], ["y", "indices"], name="sort")]
        weights = {"k": np.array([8])}
        outputs = [
            helper.make_tensor_value_info("y", TensorProto.FLOAT, [_ROWS, 8]),
            helper.make_tensor_value_info("indices", TensorProto.INT64, [_ROWS, 8]),
        ]
    else:
        nodes = [helper.make_node("MatMul", ["x", "w"], ["y"], name="product")]
        weights = {"w": rng.standard_normal((_DEEP, _WIDE), np.float32) / _DEEP**0.5}
        outputs = [helper.make_tensor_value_info("y", TensorProto.FLOAT, [_ROWS, _WIDE])]
    graph = helper.make_graph(
        nodes,
        f"{part}_test",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [_ROWS, _DEEP])],
        outputs,
        [numpy_helper.from_array(array, name) for name, array in weights.items()],
    )
    opsets = [helper.make_opsetid("", _OPSET)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=_IR_VERSION)
