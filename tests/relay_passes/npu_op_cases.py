"""One row per form in which the NPU side takes a Relax operator: the shared table of its tests.

`test_npu_support.py` asks the rules about every row, `npu_onnx/test_*.py` compares its numbers with
TVM's on the CPU, and `npu_onnx/test_on_htp.py` runs it on Qualcomm's simulator.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np
from tvm import relax
from tvm.relax import op as O

from relay_passes.attention import AttentionAttrs, attention

F32 = "float32"


@dataclasses.dataclass(frozen=True)
class Case:
    """`build(*variables)` is one call; `shapes` are its inputs, of `dtypes` (float32 if short).

    `low`, `high`: range of the random inputs. `htp`: relative error (norm) allowed on HTP, whose
    values have 11 bits: one rounding each of operands and result stays under 5e-4, so 2e-3 covers
    an operator and a few-step form; larger ones say why. None: not run there.
    """

    name: str
    build: Callable[..., relax.Expr]
    shapes: Sequence[tuple[int, ...]]
    dtypes: Sequence[str] = ()
    low: float = -2.0
    high: float = 2.0
    htp: float | None = 2e-3

    def function(self) -> relax.Function:
        """`main` of one operator, as a region holds it."""
        params = [
            relax.Var(f"x{i}", relax.TensorType(shape, self.dtype(i)))
            for i, shape in enumerate(self.shapes)
        ]
        builder = relax.BlockBuilder()
        with builder.function("main", params):
            with builder.dataflow():
                result = builder.emit(self.build(*params))
                if isinstance(result.ty, relax.TupleType):
                    fields = [
                        builder.emit(relax.TupleGetItem(result, i))
                        for i in range(len(result.ty.fields))
                    ]
                    outputs = builder.emit_output(relax.Tuple(fields))
                else:
                    outputs = builder.emit_output(result)
            builder.emit_func_output(outputs)
        return builder.get()["main"]

    def call(self) -> relax.Call:
        """The operator's call itself."""
        values = [binding.value for binding in self.function().body.blocks[0].bindings]
        (call,) = [value for value in values if isinstance(value, relax.Call)]
        return call

    def dtype(self, index: int) -> str:
        return self.dtypes[index] if index < len(self.dtypes) else F32

    def inputs(self, seed: int = 0) -> list[np.ndarray]:
        rng = np.random.default_rng(seed)
        return [self._random(rng, shape, self.dtype(i)) for i, shape in enumerate(self.shapes)]

    def _random(self, rng, shape, dtype):
        if dtype == "bool":
            return rng.integers(0, 2, shape).astype(bool)
        if dtype.startswith("int"):
            return rng.integers(int(self.low), int(self.high) + 1, shape).astype(dtype)
        return rng.uniform(self.low, self.high, shape).astype(dtype)


def const(*shape: int, seed: int = 1, low: float = -1.0, high: float = 1.0) -> relax.Expr:
    """A float32 weight."""
    rng = np.random.default_rng(seed)
    return relax.const(rng.uniform(low, high, shape).astype(F32))


def ints(*values: int) -> relax.Expr:
    return relax.const(np.asarray(values, "int32"))


def conv1d(x):
    return O.nn.conv1d(x, const(10, 6, 5), strides=2, padding=(2, 1))


def norm(channels: int) -> list[relax.Expr]:
    gamma, beta, mean = (const(channels, seed=seed) for seed in (2, 3, 4))
    return [gamma, beta, mean, const(channels, seed=5, low=0.5, high=2.0)]


def resize(mode, coordinates, rounding="round", size=(10, 21)):
    return lambda x: O.image.resize2d(
        x,
        size,
        method=mode,
        coordinate_transformation_mode=coordinates,
        rounding_method=rounding,
    )


POSITIVE = {"low": 0.1, "high": 4.0}
PLANE = (1, 7, 9)
IMAGE = (1, 6, 11, 13)  # [N, C, H, W]

CASES = [
    Case("matmul_const_right", lambda x: O.matmul(x, const(33, 20)), [(7, 33)]),
    Case("matmul_const_left", lambda x: O.matmul(const(9, 33), x), [(33, 20)]),
    Case("matmul_batched", O.matmul, [(2, 3, 5, 33), (2, 3, 33, 6)]),
    Case("matmul_3d_by_2d", lambda x: O.matmul(x, const(33, 20)), [(2, 7, 33)]),
    Case("matmul_broadcast_batch", O.matmul, [(2, 3, 5, 17), (1, 3, 17, 6)]),
    Case("matmul_dynamic_2d", O.matmul, [(5, 17), (17, 6)]),
    Case("add", O.add, [PLANE, PLANE]),
    Case("add_broadcast", O.add, [(1, 5, 7, 9), (7, 1)]),
    Case("add_scalar", lambda x: O.add(x, relax.const(1.5, F32)), [PLANE]),
    Case("add_int32", O.add, [PLANE, PLANE], ("int32", "int32"), low=-50, high=50),
    Case("subtract", O.subtract, [PLANE, PLANE]),
    Case("subtract_int32", O.subtract, [PLANE, PLANE], ("int32", "int32"), low=-50, high=50),
    Case("multiply", O.multiply, [PLANE, (1, 7, 1)]),
    Case("multiply_int32", O.multiply, [PLANE, PLANE], ("int32", "int32"), low=-50, high=50),
    Case("divide", lambda x, y: O.divide(x, y), [PLANE, PLANE], **POSITIVE),
    Case("divide_by_scalar", lambda x: O.divide(x, relax.const(5.656, F32)), [PLANE]),
    Case("power_two", lambda x: O.power(x, relax.const(2.0, F32)), [PLANE]),
    Case("power_half", lambda x: O.power(x, relax.const(0.5, F32)), [PLANE], **POSITIVE),
    Case("power_three", lambda x: O.power(x, relax.const(3.0, F32)), [PLANE]),
    Case("maximum", O.maximum, [PLANE, PLANE]),
    Case("minimum", O.minimum, [PLANE, (9,)]),
    Case("exp", O.exp, [PLANE]),
    Case("log", O.log, [PLANE], **POSITIVE),
    Case("sqrt", O.sqrt, [PLANE], **POSITIVE),
    Case("rsqrt", O.rsqrt, [PLANE], **POSITIVE),
    Case("square", O.square, [PLANE]),
    Case("tanh", O.tanh, [PLANE]),
    Case("sigmoid", O.sigmoid, [PLANE], low=-6, high=6),
    Case("sigmoid_far_left", O.sigmoid, [PLANE], low=-10, high=-4, htp=6e-3),  # exp of 2^-8 steps
    Case("negative", O.negative, [PLANE]),
    Case("abs", O.abs, [PLANE]),
    Case("floor", O.floor, [PLANE]),
    Case("ceil", O.ceil, [PLANE]),
    Case("erf", O.erf, [PLANE], low=-4, high=4),
    Case("clip", lambda x: O.clip(x, -0.5, 1), [PLANE]),
    Case("relu", O.nn.relu, [PLANE]),
    Case("leakyrelu", lambda x: O.nn.leakyrelu(x, 0.2), [PLANE]),
    Case("gelu", O.nn.gelu, [PLANE], low=-5, high=5),
    Case("gelu_large", O.nn.gelu, [PLANE], low=-300, high=300),
    Case("gelu_tanh", O.nn.gelu_tanh, [PLANE], low=-5, high=5),
    Case("silu", O.nn.silu, [PLANE], low=-5, high=5),
    Case("softmax", lambda x: O.nn.softmax(x, axis=-1), [(2, 3, 40)], low=-4, high=4, htp=4e-3),
    Case("softmax_inner_axis", lambda x: O.nn.softmax(x, axis=1), [(2, 30, 4)], htp=4e-3),
    Case("log_softmax", lambda x: O.nn.log_softmax(x, axis=-1), [(2, 40)]),
    Case(
        "layer_norm", lambda x: O.nn.layer_norm(x, const(48), const(48, seed=2), [-1]), [(2, 5, 48)]
    ),
    Case(
        "layer_norm_eps",
        lambda x: O.nn.layer_norm(x, const(48), const(48, seed=2), [-1], 1e-12),
        [(5, 48)],
    ),
    Case("rms_norm", lambda x: O.nn.rms_norm(x, const(48), [-1], 1e-6), [(2, 5, 48)]),
    Case(
        "batch_norm",
        lambda x: relax.TupleGetItem(O.nn.batch_norm(x, *norm(6), axis=1, training=False), 0),
        [IMAGE],
    ),
    Case("mean_last", lambda x: O.mean(x, -1, True), [(2, 5, 33)]),
    Case("mean_spatial", lambda x: O.mean(x, [2, 3], True), [IMAGE], htp=4e-3),  # sums cancel
    Case("mean_all", lambda x: O.mean(x), [(3, 8)], **POSITIVE),
    Case("sum", lambda x: O.sum(x, [1]), [(2, 33, 5)], **POSITIVE),
    Case("max", lambda x: O.max(x, [0]), [(6, 33)]),
    Case("min", lambda x: O.min(x, [-1], True), [(6, 33)]),
    Case("variance", lambda x: O.variance(x, [-1], True), [(6, 33)]),
    Case("reshape", lambda x: O.reshape(x, (3, 35)), [(5, 3, 7)]),
    Case("reshape_5d", lambda x: O.reshape(x, (1, 5, 3, 7, 1)), [(5, 3, 7)]),
    Case("flatten", O.flatten, [(5, 3, 7)]),
    Case("expand_dims", lambda x: O.expand_dims(x, [1, 3]), [(5, 7)]),
    Case("squeeze", lambda x: O.squeeze(x, [0]), [(1, 5, 7)]),
    Case("permute_dims", lambda x: O.permute_dims(x, [0, 2, 1, 3]), [(1, 5, 3, 7)]),
    Case("permute_dims_5d", lambda x: O.permute_dims(x, [2, 0, 3, 1, 4]), [(1, 5, 3, 2, 7)]),
    Case("permute_dims_reverse", O.permute_dims, [(5, 3, 7)]),
    Case("permute_dims_int32", O.permute_dims, [(5, 3)], ("int32",), low=-9, high=9),
    Case("broadcast_to", lambda x: O.broadcast_to(x, (2, 5, 7)), [(5, 1)]),
    Case("concat", lambda x, y: O.concat([x, y], 1), [(1, 3, 7), (1, 5, 7)]),
    Case("stack", lambda x, y: O.stack([x, y], 1), [(4, 7), (4, 7)]),
    Case("split_even", lambda x: O.split(x, 3, axis=-1), [(2, 12)]),
    Case("split_uneven", lambda x: O.split(x, [2, 7], axis=1), [(2, 12, 3)]),
    Case(
        "strided_slice",
        lambda x: O.strided_slice(x, [1, 2], [1, -5], [8, 2**31], [2, 1]),
        [(2, 9, 11)],
    ),
    Case("take_const", lambda x: O.take(x, ints(4, 0, 2), axis=1), [(2, 5, 7)]),
    Case(
        "take_table",
        lambda i: O.take(const(40, 16), i, axis=0),
        [(2, 7)],
        ("int32",),
        low=0,
        high=39,
    ),
    Case("pad", lambda x: O.nn.pad(x, [0, 0, 0, 0, 1, 2, 3, 0], pad_value=0.5), [IMAGE]),
    Case("conv1d", conv1d, [(1, 6, 30)]),
    Case("conv2d", lambda x: O.nn.conv2d(x, const(10, 6, 3, 3), padding=1), [IMAGE]),
    Case("conv2d_1x1", lambda x: O.nn.conv2d(x, const(10, 6, 1, 1)), [IMAGE]),
    Case(
        "conv2d_strided",
        lambda x: O.nn.conv2d(x, const(10, 6, 3, 3), strides=2, padding=(1, 0, 2, 1)),
        [IMAGE],
    ),
    Case(
        "conv2d_dilated",
        lambda x: O.nn.conv2d(x, const(10, 6, 3, 3), dilation=2, padding=2),
        [IMAGE],
    ),
    Case(
        "conv2d_depthwise",
        lambda x: O.nn.conv2d(x, const(6, 1, 5, 5), padding=2, groups=6),
        [IMAGE],
    ),
    Case(
        "conv2d_grouped", lambda x: O.nn.conv2d(x, const(8, 3, 3, 3), padding=1, groups=2), [IMAGE]
    ),
    Case(
        "conv2d_transpose",
        lambda x: O.nn.conv2d_transpose(x, const(6, 4, 2, 2), strides=2),
        [IMAGE],
    ),
    Case(
        "conv2d_transpose_padded",
        lambda x: O.nn.conv2d_transpose(
            x, const(6, 4, 3, 3), strides=2, padding=1, output_padding=1
        ),
        [IMAGE],
    ),
    Case("max_pool2d", lambda x: O.nn.max_pool2d(x, (3, 3), (2, 2), (1, 1)), [IMAGE]),
    Case(
        "max_pool2d_uneven_pad", lambda x: O.nn.max_pool2d(x, (2, 2), (1, 1), (0, 0, 1, 1)), [IMAGE]
    ),
    Case("avg_pool2d", lambda x: O.nn.avg_pool2d(x, (3, 2), (3, 2)), [IMAGE], htp=3e-3),
    Case("adaptive_avg_pool2d", lambda x: O.nn.adaptive_avg_pool2d(x, (1, 1)), [IMAGE], htp=4e-3),
    Case(
        "adaptive_avg_pool2d_divides",
        lambda x: O.nn.adaptive_avg_pool2d(x, (4, 3)),
        [(1, 6, 8, 9)],
        htp=4e-3,
    ),
    Case(
        "resize2d_nearest_floor",
        resize("nearest_neighbor", "asymmetric", "floor", (22, 26)),
        [IMAGE],
    ),
    Case("resize2d_linear_half_pixel", resize("linear", "half_pixel", size=(22, 26)), [IMAGE]),
    Case(
        "resize2d_linear_align_corners", resize("linear", "align_corners", size=(21, 25)), [IMAGE]
    ),
    Case(
        "resize2d_nearest_half_pixel",
        resize("nearest_neighbor", "half_pixel", "round_prefer_floor", (22, 26)),
        [IMAGE],
    ),
    Case("relu_half", O.nn.relu, [PLANE], ("float16",)),
    Case("add_half", O.add, [PLANE, PLANE], ("float16", "float16")),
    Case("concat_half", lambda x, y: O.concat([x, y], 1), [PLANE, PLANE], ("float16", "float16")),
    Case("where_int32", O.where, [PLANE, PLANE, PLANE], ("bool", "int32", "int32")),
    Case("where", O.where, [PLANE, PLANE, PLANE], ("bool", F32, F32)),
    Case("equal", O.equal, [PLANE, PLANE], ("int32", "int32")),
    Case("not_equal", O.not_equal, [PLANE, PLANE], ("int32", "int32")),
    Case("less", O.less, [PLANE, PLANE]),
    Case("less_equal", O.less_equal, [PLANE, PLANE], ("int32", "int32")),
    Case("greater", O.greater, [PLANE, PLANE]),
    Case("greater_equal", O.greater_equal, [PLANE, PLANE], ("int32", "int32")),
    Case("logical_and", O.logical_and, [PLANE, PLANE], ("bool", "bool")),
    Case("logical_or", O.logical_or, [PLANE, PLANE], ("bool", "bool")),
    Case("logical_not", O.logical_not, [PLANE], ("bool",)),
    Case(
        "astype_int32_to_float", lambda x: O.astype(x, F32), [PLANE], ("int32",), low=-99, high=99
    ),
    Case("astype_bool_to_float", lambda x: O.astype(x, F32), [PLANE], ("bool",)),
    Case("astype_float_to_half", lambda x: O.astype(x, "float16"), [PLANE]),
    Case("astype_half_to_float", lambda x: O.astype(x, F32), [PLANE], ("float16",)),
    Case("argmax", lambda x: O.argmax(x, axis=1), [(2, 33, 3)]),
    Case("attention", O.nn.attention, [(1, 9, 3, 16)] * 3),
    *(
        Case(
            f"cached_attention_{name}",
            lambda q, k, v, past, a=attrs: attention(q, k, v, past, AttentionAttrs(**a)),
            [(1, 6, 4, 16), (1, groups, 24, 16), (1, groups, 24, 8), (1,)],
            [F32, F32, F32, "int32"],
            low=0.0,
            high=7.0,
        )
        for name, groups, attrs in (
            ("of_groups", 2, {"scale": 0.05}),
            ("of_all_heads", 6, {"scale": 0.05, "softcap": 3.0}),
            ("in_a_window", 3, {"scale": 0.05, "window": 5}),
            ("of_a_part", 2, {"scale": 0.05, "first": 9}),
        )
    ),
    Case(
        "attention_causal",
        lambda q, k, v: O.nn.attention(q, k, v, causal_mask="BottomRight"),
        [(1, 5, 3, 16), (1, 9, 3, 16), (1, 9, 3, 16)],
    ),
    Case(
        "attention_bias",
        lambda q, k, v, b: O.nn.attention(q, k, v, b),
        [(1, 9, 3, 16)] * 3 + [(1, 3, 9, 9)],
    ),
]
