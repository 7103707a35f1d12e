"""Where weights lie, and that a manifest says it both ways."""

from __future__ import annotations

import dataclasses
import json

from hetero_tvm.frontend.tensor_spec import TensorSpec
from hetero_tvm.weights_layout import ALIGNMENT, Weights, aligned, offsets

TENSORS = (
    TensorSpec(name="weight_0", dtype="uint8", shape=(5000,)),
    TensorSpec(name="weight_1", dtype="float32", shape=(2, 3)),
    TensorSpec(name="weight_2", dtype="float32", shape=(1,)),
)


def test_each_begins_on_a_page():
    assert [aligned(n) for n in (0, 1, 4096, 4097)] == [0, 4096, 4096, 8192]
    assert offsets(TENSORS) == [0, 2 * ALIGNMENT, 3 * ALIGNMENT]


def test_description_survives_json():
    weights = Weights(
        offset=4096, nbytes=16384, sha256="00", tensors=TENSORS, of_function={"main_1": (0, 2)}
    )
    assert Weights.from_dict(json.loads(json.dumps(dataclasses.asdict(weights)))) == weights
