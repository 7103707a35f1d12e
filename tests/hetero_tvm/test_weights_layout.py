"""Where weights lie, and that a manifest says it both ways."""

from __future__ import annotations

import dataclasses
import json

import pytest

from hetero_tvm.frontend.tensor_spec import TensorSpec
from hetero_tvm.typed_json import from_object
from hetero_tvm.weights_layout import Weights, aligned

TENSORS = (
    TensorSpec(name="weight_0", dtype="uint8", shape=(5000,)),
    TensorSpec(name="weight_1", dtype="float32", shape=(2, 3)),
    TensorSpec(name="weight_2", dtype="float32", shape=(1,)),
)
PLACES = (0, 8192, 12288)


def test_each_begins_on_a_page():
    assert [aligned(n) for n in (0, 1, 4096, 4097)] == [0, 4096, 4096, 8192]


def test_description_survives_json():
    weights = Weights(
        offset=4096,
        nbytes=16384,
        sha256="00",
        tensors=TENSORS,
        places=PLACES,
        of_function={"main_1": (0, 2)},
    )
    assert from_object(Weights, json.loads(json.dumps(dataclasses.asdict(weights)))) == weights
    weights.check()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"offset": 100}, "weights at 100"),
        ({"offset": -4096}, "weights at -4096"),
        ({"nbytes": 12291}, "weight_2 at 12288 of 12291 bytes"),
        ({"places": (0, 8192)}, "2 places of 3 weights"),
        ({"places": (0, 8192, 12290)}, "weight_2 at 12290"),
        ({"places": (0, -128, 12288)}, "weight_1 at -128"),
        ({"of_function": {"main": (3,)}}, "main takes weights that are not there"),
        ({"of_function": {"main": (-1,)}}, "main takes weights that are not there"),
        ({"tensors": (dataclasses.replace(TENSORS[0], dtype="O"),)}, "weight_0 is of no type 'O'"),
    ],
)
def test_what_cannot_be_in_a_file(change, said):
    good = Weights(
        offset=0, nbytes=16384, sha256="00", tensors=TENSORS, places=PLACES, of_function={}
    )
    with pytest.raises(ValueError, match=said):
        dataclasses.replace(good, **change).check()
