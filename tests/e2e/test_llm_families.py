"""Small models of the families that people have, built whole and held against ONNX Runtime.

The files of optimum are in `tests/hetero_tvm/frontend/families`; onnxruntime-genai's builder
exports the same models anew (`examples/llm_families.py`).
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import hetero_tvm
from examples import llm_families
from tests.hetero_tvm.tiny_llm import Reference

pytestmark = pytest.mark.nightly
OPTIMUM = Path(__file__).parent.parent / "hetero_tvm" / "frontend" / "families"
TOLERANCE = 1e-4  # relative; float32 on both sides, the NPU's stand-in among them


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Exporter -> the folder of its models."""
    out = tmp_path_factory.mktemp("families")
    llm_families.genai(out)
    return {"optimum": OPTIMUM, "genai": out}


@pytest.mark.parametrize("exporter", llm_families.EXPORTERS)
@pytest.mark.parametrize("family", llm_families.FAMILIES)
@pytest.mark.parametrize("devices", ["gpu", "gpu+npu"])
def test_family_agrees_with_onnx_runtime(folders, exporter, family, devices, tmp_path, opencl):
    """At up to 50 tokens and behind them: the windows are 8. onnxruntime-genai's longrope ends at
    16 tokens, optimum's has one table for all lengths."""
    folder, output = folders[exporter] / family, tmp_path / "llm.so"
    short = (exporter, family) == ("genai", "phi3")
    lengths, context = ((5, 10), 16) if short else ((5, 20, 50), 64)
    hetero_tvm.build(
        folder, target="host", output=output, devices=devices, context=context, prefill=[8]
    )
    session, rng = hetero_tvm.load_llm(output), np.random.default_rng(5)
    for length in lengths:
        reference = Reference(folder / "model.onnx")
        session.reset()
        tokens = [int(t) for t in rng.integers(3, 96, length + 6)]
        pairs = [(session.prefill(tokens[:length]).copy(), reference.step(tokens[:length]))]
        for token in tokens[length:]:
            pairs.append((session.decode(token).copy(), reference.step([token])))
        for got, want in pairs:
            assert np.abs(got - want).max() <= TOLERANCE * np.abs(want).max()
