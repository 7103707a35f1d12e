"""What a file stores in four or eight bits is what the import's float matrices came from."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
import small_llm

from hetero_tvm.block_quantization import Settings
from hetero_tvm.frontend.contrib_ops import dequantise_blocks
from hetero_tvm.frontend.four_bit_weights import four_bit_weights
from hetero_tvm.quantize_onnx import Model


def _quantized(tmp_path, how: Settings) -> onnx.ModelProto:
    model = Model(small_llm.write(tmp_path / "m", small_llm.weights(0)))
    model.write(tmp_path / "q.onnx", {layer.name: how for layer in model.layers})
    return onnx.load(tmp_path / "q.onnx")


@pytest.mark.parametrize(("bits", "group"), [(4, 16), (8, 32)])
@pytest.mark.parametrize("symmetric", [True, False])
def test_every_weight_is_found_as_it_is_imported(tmp_path, symmetric, bits, group):
    proto = _quantized(tmp_path, Settings(bits=bits, group=group, symmetric=symmetric))
    found = four_bit_weights(proto)
    assert [(entry.depth, len(entry.packed)) for entry in found] == [
        (32, 48),
        (48, 32),
        (32, 32),
        (32, 320),
    ]
    # A depth of 48 in groups of 32 has no kernel of eight bits, so no weight of ours either.
    for entry in found if bits == 4 else [entry for entry in found if entry.depth == 32]:
        imported = dequantise_blocks(
            entry.packed,
            entry.scales,
            entry.zeros,
            columns=len(entry.packed),
            rows=entry.depth,
            bits=bits,
            block=group,
        )
        weight = entry.weight()
        np.testing.assert_allclose(weight.dequantised(), imported.T, rtol=1e-6, atol=1e-7)
        assert (entry.zeros is None) == symmetric


def test_what_no_kernel_reads_is_left_out(tmp_path):
    proto = _quantized(tmp_path, Settings())
    names = [tensor.name for tensor in proto.graph.initializer if "zeros" in tensor.name]
    proto.graph.initializer.remove(
        next(tensor for tensor in proto.graph.initializer if tensor.name == names[0])
    )
    assert len(four_bit_weights(proto)) == 3
