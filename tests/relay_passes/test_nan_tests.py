"""What an isnan rests on is found, back to the products, and nothing else is."""

import numpy as np
import tvm
from tvm import relax
from tvm.relax import op as O

from relay_passes.nan_tests import nan_declines

SHAPE = (2, 4, 8)


def _program(guard):
    builder = relax.BlockBuilder()
    x = relax.Var("x", relax.TensorType(SHAPE, "float32"))
    seen = relax.Var("seen", relax.TensorType((4, 8), "bool"))
    weight = relax.const(np.ones((8, 8), "float32"))
    with builder.function("main", [x, seen]):
        with builder.dataflow():
            before = builder.emit(O.nn.relu(x), "before")
            scores = builder.emit(O.matmul(before, weight), "scores")
            scaled = builder.emit(O.multiply(scores, relax.const(0.5)), "scaled")
            hidden = relax.const(np.float32(-np.inf))
            mask = builder.emit(O.where(seen, relax.const(np.float32(0)), hidden), "mask")
            masked = builder.emit(O.add(scaled, mask), "masked")
            last = p = builder.emit(O.nn.softmax(masked), "p")
            if guard is not None:
                is_nan = builder.emit(guard(p), "is_nan")
                last = builder.emit(O.where(is_nan, relax.const(np.float32(0)), p), "guarded")
            result = builder.emit_output(O.matmul(last, weight), "mixed")
        builder.emit_func_output(result)
    return tvm.IRModule({"main": builder.get()["main"]})


def test_what_a_guard_of_attention_rests_on():
    declined = nan_declines(_program(O.isnan))
    assert set(declined) == {"p", "masked", "mask", "scaled"}
    assert all("asks whether this is a number" in why for why in declined.values())


def test_infinities_are_asked_for_too():
    assert "p" in nan_declines(_program(O.isinf))
    assert "p" in nan_declines(_program(O.isfinite))


def test_without_a_question_nothing_is_kept_off():
    assert nan_declines(_program(None)) == {}
