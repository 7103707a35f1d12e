"""Evaluate one ONNX node on known inputs in ONNX Runtime: folded constants are its own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import onnx
import onnxruntime

_NATIVE_KINDS = "fiub"  # numpy kinds that ONNX Runtime takes as a feed; int4 and bfloat16 are not
_IR_VERSION = 10


def quiet_options(threads: int = 1) -> onnxruntime.SessionOptions:
    """Session options that keep ONNX Runtime from writing to the terminal."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    # Left alone, 4-bit products round their activations to 8 bits: fast, and no reference.
    options.add_session_config_entry("session.qdq_matmulnbits_accuracy_level", "1")
    return options


def evaluate_node(
    node: onnx.NodeProto,
    inputs: Mapping[str, np.ndarray],
    opsets: Sequence[onnx.OperatorSetIdProto],
) -> list[np.ndarray]:
    """The node's outputs in order; what an unnamed one would hold is computed as well.

    Raises ONNX Runtime's own exceptions when it does not know the operator.
    """
    named = onnx.NodeProto()
    named.CopyFrom(node)
    for index, name in enumerate(node.output):
        named.output[index] = name or f"unread_{index}"
    native = {n: a for n, a in inputs.items() if a.dtype.kind in _NATIVE_KINDS and not _exotic(a)}
    graph = onnx.helper.make_graph(
        [named],
        "constant",
        [
            onnx.helper.make_tensor_value_info(
                name, onnx.helper.np_dtype_to_tensor_dtype(array.dtype), array.shape
            )
            for name, array in native.items()
        ],
        [onnx.helper.make_empty_tensor_value_info(name) for name in named.output],
        initializer=[
            onnx.numpy_helper.from_array(array, name)
            for name, array in inputs.items()
            if name not in native
        ],
    )
    model = onnx.helper.make_model(graph, opset_imports=opsets, ir_version=_IR_VERSION)
    options = quiet_options()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    return [np.asarray(value) for value in session.run(None, native)]


def _exotic(array: np.ndarray) -> bool:
    """Is this one of the types that numpy itself does not have?"""
    return array.dtype.isbuiltin != 1
