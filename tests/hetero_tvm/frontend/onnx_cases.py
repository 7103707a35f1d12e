"""Small ONNX models for tests, and the check that one of them imports with the right numbers."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, compose, helper, numpy_helper
from tvm import relax

from hetero_tvm.frontend import import_model
from relay_passes.rewrite_bindings import dataflow_bindings

FLOAT, INT32, INT64, UINT8 = (
    TensorProto.FLOAT,
    TensorProto.INT32,
    TensorProto.INT64,
    TensorProto.UINT8,
)
RNG = np.random.default_rng(7)
# Two float32 evaluations of one operator differ by a few roundings of 6e-8.
ONE_OPERATOR = 5e-6


def randn(*shape):
    return RNG.standard_normal(shape).astype("float32")


def node(op, inputs, outputs, **attributes):
    """`node("Add", "a b", "y")`; `_` stands for an absent input or output."""
    split = [["" if word == "_" else word for word in text.split()] for text in (inputs, outputs)]
    return helper.make_node(op, *split, **attributes)


def model(nodes, inputs, outputs, weights=None, opset=17):
    """A model; `inputs` maps names to shapes or (type, shape), `outputs` is a string of names."""
    values = []
    for name, kind in inputs.items():
        dtype, shape = kind if isinstance(kind, tuple) else (FLOAT, kind)
        values.append(helper.make_tensor_value_info(name, dtype, shape))
    graph = helper.make_graph(
        nodes,
        "test",
        values,
        [helper.make_empty_tensor_value_info(name) for name in outputs.split()],
        initializer=[
            numpy_helper.from_array(np.asarray(array), name)
            for name, array in (weights or {}).items()
        ],
    )
    opsets = [helper.make_opsetid("", opset), helper.make_opsetid("com.microsoft", 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=11 if opset > 21 else 10)


def one(op, inputs, weights=None, opset=17, outputs="y", names=None, **attributes):
    """A model of one node whose operands are `inputs` and then `weights`, or as `names` says."""
    names = names or " ".join([*inputs, *(weights or {})])
    return model(
        [node(op, names, outputs, **attributes)], inputs, outputs.replace("_", ""), weights, opset
    )


def merged(cases):
    """All models of `cases` (name -> model) as one: one compilation checks them all."""
    parts = []
    for name, part in cases.items():
        part = compose.add_prefix(part, f"{name}/")
        for index, inner in enumerate(part.graph.node):
            inner.name = f"{name}/{inner.op_type}_{index}"
        parts.append(part)
    whole = onnx.ModelProto()
    whole.CopyFrom(parts[0])
    for part in parts[1:]:
        assert [o.version for o in part.opset_import] == [o.version for o in whole.opset_import]
        for field in ("node", "input", "output", "initializer"):
            getattr(whole.graph, field).extend(getattr(part.graph, field))
    return whole


def save(proto, folder):
    path = Path(folder) / "model.onnx"
    path.write_bytes(proto.SerializeToString())
    return path


def check(proto, folder, tolerance=ONE_OPERATOR, **options):
    """Import with the self-check on; every output within `tolerance`, relative in the 2-norm."""
    imported = import_model(save(proto, folder), **options)
    worst = {error.name: error.relative for error in imported.errors}
    assert len(worst) == len(proto.graph.output)
    assert max(worst.values()) <= tolerance, worst
    return imported


def op_counts(imported_or_mod):
    """Relax operators of `main` and how often each occurs."""
    mod = getattr(imported_or_mod, "mod", imported_or_mod)
    return Counter(
        binding.value.op.name.removeprefix("relax.")
        if isinstance(binding.value, relax.Call)
        else type(binding.value).__name__
        for binding in dataflow_bindings(mod["main"])
    )
