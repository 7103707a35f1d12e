"""Operators between those of an NPU: in the emulator as TVM computes them."""

import numpy as np
import pytest
import tvm
from tvm import relax
from tvm.relax import op as O

from relay_passes.half_emulator import HalfEmulator, missing_ops
from relay_passes.half_emulator_ops import EMULATED
from relay_passes.npu_onnx.graph import EMITTERS

RNG = np.random.default_rng(3)


def var(name, shape, dtype="float32"):
    return relax.Var(name, relax.TensorType(shape, dtype))


def main_of(params, call):
    builder = relax.BlockBuilder()
    with builder.function("main", params):
        with builder.dataflow():
            result = builder.emit_output(builder.emit(call))
        builder.emit_func_output(result)
    return builder.get()


def by_tvm(mod, arrays):
    machine = relax.VirtualMachine(tvm.compile(mod, "llvm"), tvm.cpu())
    return machine["main"](*[tvm.runtime.tensor(array) for array in arrays]).numpy()


X = RNG.uniform(0.1, 0.9, (2, 3)).astype("float32")
QUANTISED = RNG.integers(0, 255, (2, 3)).astype("uint8")
SCALES = np.array([0.25, 0.5, 2.0], "float32")
ZEROS = np.array([1, 128, 7], "uint8")
CASES = {
    **{
        name: (lambda x, name=name: getattr(O, name)(x), [X * 5 if name == "round" else X])
        for name in "round sign sin cos tan sinh cosh asin acos atan asinh atanh".split()
    },
    "acosh": (O.acosh, [X + 1]),
    "mod": (O.mod, [(X - 0.5) * 9, X + 0.3]),
    "isnan": (O.isnan, [np.array([1, np.nan, np.inf], "float32")]),
    "isinf": (O.isinf, [np.array([1, np.nan, np.inf], "float32")]),
    "logical_xor": (O.logical_xor, [np.array([True, False]), np.array([True, True])]),
    "prod": (lambda x: O.prod(x, axis=1), [X]),
    "prod_of_all": (O.prod, [X]),
    "quantize": (
        lambda x: O.quantize(
            x, relax.const(SCALES), relax.const(ZEROS.astype("int8")), axis=1, out_dtype="int8"
        ),
        [X * 40],
    ),
    "dequantize": (
        lambda x: O.dequantize(x, relax.const(SCALES), relax.const(ZEROS), axis=1),
        [QUANTISED],
    ),
    "dequantize_one": (
        lambda x: O.dequantize(x, relax.const(0.5, "float32"), relax.const(3, "uint8")),
        [QUANTISED],
    ),
    **{
        f"grid_sample_{method}": (
            lambda x, grid, method=method: O.image.grid_sample(x, grid, method=method),
            [RNG.random((1, 2, 5, 4), "float32"), RNG.uniform(-1, 1, (1, 2, 3, 3)).astype("f4")],
        )
        for method in ("bilinear", "nearest")
    },
}


@pytest.mark.parametrize("name", CASES)
def test_results_are_those_of_tvm(name):
    call, arrays = CASES[name]
    params = [var(f"p{i}", a.shape, a.dtype.name) for i, a in enumerate(arrays)]
    mod = main_of(params, call(*params))
    func = mod["main"]
    assert missing_ops(func) == set()
    emulator = HalfEmulator(func, [], [{f"p{i}": array for i, array in enumerate(arrays)}])
    (found,) = (emulator._exact[0][output] for output in emulator._outputs)
    expected = by_tvm(mod, arrays)
    assert found.dtype == expected.dtype
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


def test_none_is_an_npu_s():
    assert not set(EMULATED) & set(EMITTERS)


def test_types_without_a_kernel_are_not_emulated():
    x = var("x", (2,), "float16")
    assert missing_ops(main_of([x], O.cosh(x))["main"]) == {"relax.cosh"}
