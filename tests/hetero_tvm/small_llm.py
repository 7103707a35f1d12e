"""A tiny ONNX language model with every form of product that exporters write."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

VOCABULARY, WIDTH, INNER = 320, 32, 48


def weights(seed: int, dtype=np.float32) -> dict[str, np.ndarray]:
    """embed, up, down (stored transposed), gate (of a Gemm) and its bias, head."""
    rng = np.random.default_rng(seed)
    shapes = {
        "embed": (VOCABULARY, WIDTH),
        "up": (WIDTH, INNER),
        "down": (WIDTH, INNER),
        "gate": (WIDTH, WIDTH),
        "bias": (WIDTH,),
        "head": (WIDTH, VOCABULARY),
    }
    return {
        name: (rng.standard_normal(shape) / shape[0] ** 0.5).astype(dtype)
        for name, shape in shapes.items()
    }


def logits(values: dict[str, np.ndarray], tokens: list[int]) -> np.ndarray:
    """What the model computes, in float64."""
    wide = {name: array.astype(np.float64) for name, array in values.items()}
    inner = np.tanh(wide["embed"][tokens] @ wide["up"]) @ wide["down"].T
    return (inner @ wide["gate"].T + wide["bias"]) @ wide["head"]


def write(folder: Path, values: dict[str, np.ndarray], *, external: bool = False) -> Path:
    """The model's file, in a folder that is made."""
    folder.mkdir(parents=True, exist_ok=True)
    kind = helper.np_dtype_to_tensor_dtype(values["up"].dtype)
    nodes = [
        helper.make_node("Gather", ["embed", "input_ids"], ["x"]),
        helper.make_node("MatMul", ["x", "up"], ["u"], name="/layers.0/up"),
        helper.make_node("Tanh", ["u"], ["t"]),
        helper.make_node("Transpose", ["down"], ["down_t"], perm=[1, 0]),
        helper.make_node("MatMul", ["t", "down_t"], ["d"], name="/layers.0/down"),
        helper.make_node("Reshape", ["d", "rows"], ["d2"]),
        helper.make_node("Gemm", ["d2", "gate", "bias"], ["g"], name="/layers.0/gate", transB=1),
        helper.make_node("Reshape", ["g", "batch"], ["g3"]),
        helper.make_node("MatMul", ["g3", "head"], ["raw"], name="/lm_head"),
        helper.make_node("Cast", ["raw"], ["logits"], to=TensorProto.FLOAT),
    ]
    tensors = [numpy_helper.from_array(array, name) for name, array in values.items()]
    tensors += [
        numpy_helper.from_array(np.int64([-1, WIDTH]), "rows"),
        numpy_helper.from_array(np.int64([1, -1, WIDTH]), "batch"),
    ]
    sequence = [1, "sequence"]
    inputs = [
        helper.make_tensor_value_info("input_ids", TensorProto.INT64, sequence),
        helper.make_tensor_value_info("attention_mask", TensorProto.INT64, [1, "total"]),
        helper.make_tensor_value_info("past_key_values.0.key", kind, [1, 2, "past", 8]),
    ]
    output = helper.make_tensor_value_info("logits", TensorProto.FLOAT, [*sequence, VOCABULARY])
    graph = helper.make_graph(nodes, "small", inputs, [output], tensors)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    path = folder / "model.onnx"
    onnx.save(model, path, save_as_external_data=external, size_threshold=0, location="weights.bin")
    return path
