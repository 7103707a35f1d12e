"""Float16 by switches: off is float32, on is what rounding weights and results gives."""

import numpy as np
import pytest
import tvm
from tvm import relax
from tvm.relax import op as O

from relay_passes.half_emulator import HalfEmulator, bindings_of, missing_ops

RNG = np.random.default_rng(0)
WEIGHT = (np.linalg.qr(RNG.standard_normal((6, 6)))[0] / 2).astype("float32")  # keeps sizes
X = RNG.standard_normal((4, 6)).astype("float32")


def chain(*steps):
    """`main(x)` of one step after another; each step takes the values so far."""
    builder = relax.BlockBuilder()
    x = relax.Var("x", relax.TensorType((4, 6), "float32"))
    values = [x]
    with builder.function("main", [x]):
        with builder.dataflow():
            for index, step in enumerate(steps):
                values.append(builder.emit(step(*values), f"step{index}"))
            result = builder.emit_output(values[-1])
        builder.emit_func_output(result)
    return builder.get()["main"]


def half(x):
    return x.astype("float16").astype("float32")


def names_of(func):
    return [b.var.name for b in bindings_of(func) if isinstance(b.value, relax.Call)]


def product(*values):
    return O.matmul(values[-1], relax.const(WEIGHT))


def doubled(*values):
    return O.multiply(values[-1], relax.const(2.0, "float32"))


def test_all_switches_off_is_exact():
    func = chain(product, doubled, product)
    assert HalfEmulator(func, names_of(func), [{"x": X}]).error([]) == 0.0


def test_weights_and_results_are_rounded():
    func = chain(product, doubled)
    exact = (X @ WEIGHT) * 2
    rounded = half(X @ half(WEIGHT)) * 2
    emulator = HalfEmulator(func, names_of(func), [{"x": X}])
    expected = np.linalg.norm(exact - rounded) / np.linalg.norm(exact)
    # Float32 sums in another order are 1e-7 apart, float16 roundings 3e-4.
    assert emulator.error([range(0, 1)]) == pytest.approx(expected, rel=0.05)


def test_a_product_with_a_bias_is_rounded_once():
    bias = half(np.linspace(-1, 1, 6).astype("float32"))  # has no rounding of its own
    func = chain(product, lambda *values: O.add(values[-1], relax.const(bias)))
    exact = X @ WEIGHT + bias
    rounded = half(X @ half(WEIGHT) + bias)
    emulator = HalfEmulator(func, names_of(func), [{"x": X}])
    expected = np.linalg.norm(exact - rounded) / np.linalg.norm(exact)
    assert emulator.error([range(0, 2)]) == pytest.approx(expected, rel=0.05)


def test_errors_of_later_segments_do_not_need_the_earlier_ones():
    func = chain(*[product, doubled] * 30)  # more operators than segments
    names = names_of(func)
    emulator = HalfEmulator(func, names, [{"x": X}])
    assert len(emulator._segments) > 10
    last = emulator.error([range(len(names) - 1, len(names))])
    everything = emulator.error([range(len(names))])
    assert 0 < last < 4e-4 < everything


def test_tuples_are_never_cut():
    def halves(*values):
        return O.split(values[-1], 2, axis=1)

    def joined(*values):
        fields = [relax.TupleGetItem(values[-1], i) for i in (1, 0)]
        return O.concat(fields, axis=1)

    func = chain(*[halves, joined, doubled] * 12)
    names = names_of(func)
    assert HalfEmulator(func, names, [{"x": X}]).error([range(len(names))]) < 5e-4


def test_an_overflow_counts_as_the_largest_number():
    def far(*values):
        return O.multiply(values[-1], relax.const(1e6, "float32"))

    func = chain(far, lambda *values: O.multiply(values[-1], relax.const(1e-6, "float32")))
    error = HalfEmulator(func, names_of(func), [{"x": X}]).error([range(2)])
    assert 0.5 < error < 1.0


def test_operators_without_an_onnx_form_are_named():
    (name,) = missing_ops(chain(product, lambda *values: O.cumsum(values[-1], axis=1)))
    assert "relax.cumsum" in name


def masked(mask, x):
    """Zero where a row is masked as a whole: what infinity is compared with must be infinity."""
    builder = relax.BlockBuilder()
    with builder.function("main", [mask, x]):
        with builder.dataflow():
            lowest = relax.const(-np.inf, "float32")
            bias = builder.emit(O.where(mask, relax.const(0.0, "float32"), lowest), "bias")
            largest = builder.emit(O.max(bias, axis=[1], keepdims=True), "largest")
            none = builder.emit(O.equal(largest, lowest), "none")
            result = O.where(none, relax.const(0.0, "float32"), x)
            result = builder.emit_output(result, "result")
        builder.emit_func_output(result)
    return builder.get()["main"]


def test_infinity_is_a_number_for_what_computes_in_float16():
    mask = relax.Var("mask", relax.TensorType((4, 6), "bool"))
    x = relax.Var("x", relax.TensorType((4, 6), "float32"))
    rows = {"mask": np.arange(24).reshape(4, 6) > 5, "x": np.ones((4, 6), "float32")}
    func = masked(mask, x)
    assert HalfEmulator(func, ["bias"], [rows]).error([range(1)]) > 0.1
    # The largest of these is what it reads: only a strict look sees that reading rounds.
    assert HalfEmulator(func, ["largest"], [rows]).error([range(1)]) == 0.0
    assert HalfEmulator(func, ["largest"], [rows], strict=True).error([range(1)]) > 0.1


def test_a_strict_look_sees_numbers_that_cross_a_border():
    def moved(*values):
        return O.permute_dims(values[-1], axes=[1, 0])

    def cut(*values):
        return O.floor(values[-1])

    func = chain(moved, cut)
    rows = [{"x": np.ones((4, 6), "float32")}]  # exactly at the border
    assert HalfEmulator(func, ["step0"], rows).error([range(1)]) == 0.0
    assert HalfEmulator(func, ["step0"], rows, strict=True).error([range(1)]) == np.inf
    rows = [{"x": np.full((4, 6), 1.5, "float32")}]
    assert HalfEmulator(func, ["step0"], rows, strict=True).error([range(1)]) == 0.0


def test_a_strict_look_takes_whole_numbers_at_their_word():
    func = chain(product, lambda *values: O.astype(O.floor(values[-1]), "int32"))
    func = relax.transform.Normalize()(tvm.IRModule({"main": func}))["main"]
    weights = X * 1e3
    names = ["step0"]
    assert HalfEmulator(func, names, [{"x": weights}]).error([range(1)]) == 0.0
    assert HalfEmulator(func, names, [{"x": weights}], strict=True).error([range(1)]) == np.inf
