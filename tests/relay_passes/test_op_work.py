"""Exact multiply-accumulates and bytes, against counts done by hand."""

import numpy as np
import pytest
from tvm import relax

from relay_passes.attention import AttentionAttrs, attention, update_kv
from relay_passes.op_work import op_work


def V(name, shape, dtype="float32"):
    return relax.Var(name, relax.TensorType(shape, dtype))


def C(shape, dtype="float32"):
    return relax.const(np.zeros(shape, dtype))


def typed(call):
    return relax.BlockBuilder().normalize(call)


@pytest.mark.parametrize(
    ("call", "kind", "macs", "rows"),
    [
        pytest.param(
            relax.op.matmul(V("x", [4, 8]), C([8, 16])), "matmul", 4 * 8 * 16, 4, id="weight"
        ),
        pytest.param(
            relax.op.matmul(V("x", [2, 4, 8]), C([8, 16])), "matmul", 1024, 8, id="batch_is_rows"
        ),
        pytest.param(
            relax.op.matmul(V("x", [2, 3, 4, 8]), V("y", [2, 3, 8, 5])),
            "batched_matmul",
            6 * 4 * 8 * 5,
            4,
            id="attention_scores",
        ),
        pytest.param(relax.op.matmul(V("x", [8]), C([8, 16])), "matmul", 128, 1, id="vector"),
        pytest.param(
            relax.op.nn.conv2d(V("x", [1, 3, 8, 8]), C([6, 3, 3, 3]), padding=1),
            "conv",
            6 * 64 * 27,
            64,
            id="conv2d",
        ),
        pytest.param(
            relax.op.nn.conv2d(V("x", [1, 8, 8, 4]), C([6, 4, 3, 3]), data_layout="NHWC"),
            "conv",
            36 * 6 * 36,
            36,
            id="conv2d_nhwc",
        ),
        pytest.param(
            relax.op.nn.conv2d(V("x", [1, 8, 9, 9]), C([8, 1, 3, 3]), groups=8, strides=2),
            "conv",
            8 * 16 * 9,
            16,
            id="depthwise",
        ),
        pytest.param(
            relax.op.nn.conv2d(V("x", [1, 8, 8, 8]), C([4, 4, 1, 1]), groups=2),
            "conv",
            4 * 64 * 4,
            64,
            id="grouped",
        ),
        pytest.param(
            relax.op.nn.conv1d(V("x", [2, 3, 10]), C([5, 3, 3])), "conv", 2 * 5 * 8 * 9, 16, id="1d"
        ),
        pytest.param(
            relax.op.nn.conv2d_transpose(V("x", [1, 4, 5, 5]), C([4, 6, 2, 2]), strides=2),
            "conv",
            4 * 25 * 6 * 4,
            25,
            id="transposed",
        ),
        pytest.param(
            relax.op.nn.attention(V("q", [1, 7, 2, 4]), V("k", [1, 9, 2, 4]), V("v", [1, 9, 2, 4])),
            "batched_matmul",
            2 * 7 * 9 * (4 + 4),
            7,
            id="attention",
        ),
        pytest.param(
            attention(
                V("q", [1, 6, 3, 4]),
                V("k", [1, 2, 16, 4]),
                V("v", [1, 2, 16, 4]),
                V("past", [1], "int32"),
                AttentionAttrs(scale=1.0),
            ),
            "batched_matmul",
            6 * 3 * 16 * (4 + 4),
            3,
            id="attention_on_a_full_cache",
        ),
        pytest.param(relax.op.add(V("x", [4]), V("y", [4])), "vector", 0, 1, id="add"),
        pytest.param(relax.op.reshape(V("x", [4, 2]), [8]), "view", 0, 1, id="view"),
    ],
)
def test_kind_and_macs(call, kind, macs, rows):
    work = op_work(typed(call))
    assert (work.kind, work.macs, work.rows) == (kind, macs, rows)


def test_attention_says_what_is_cache_and_what_are_scores():
    call = attention(
        V("q", [1, 6, 3, 4]),
        V("k", [1, 2, 16, 4]),
        V("v", [1, 2, 16, 8]),
        V("past", [1], "int32"),
        AttentionAttrs(scale=1.0),
    )
    work = op_work(typed(call))
    assert work.cache_bytes == 2 * 16 * (4 + 8) * 4
    assert work.score_bytes == 2 * 6 * 3 * 16 * 4  # written once, read once
    assert work.bytes == work.cache_bytes + 6 * 3 * (4 + 8) * 4 + 4


def test_bytes_count_weights_activations_and_result():
    work = op_work(typed(relax.op.matmul(V("x", [4, 8], "float16"), C([8, 16], "float16"))))
    assert work.weight_bytes == 8 * 16 * 2
    assert work.output_bytes == 4 * 16 * 2
    assert work.bytes == (4 * 8 + 8 * 16 + 4 * 16) * 2
    assert work.element_bytes == 2


def test_operands_inside_tuples_count():
    work = op_work(typed(relax.op.concat([V("x", [2, 3]), V("y", [2, 3])], axis=0)))
    assert work.bytes == (6 + 6 + 12) * 4


def test_take_reads_rows_not_the_table():
    work = op_work(typed(relax.op.take(C([1000, 8]), V("i", [4], "int64"), axis=0)))
    assert (work.weight_bytes, work.bytes) == (0, (4 * 8 + 4 * 8) * 4 + 4 * 8)


def test_cache_update_touches_its_rows_alone():
    cache, rows = V("cache", [1, 2, 1000, 8]), V("rows", [1, 2, 3, 8])
    work = op_work(typed(update_kv(cache, rows, V("past", [1], "int32"))))
    assert (work.bytes, work.output_bytes) == (2 * 48 * 4, 48 * 4)


def test_several_results_count():
    work = op_work(typed(relax.op.split(V("x", [2, 6]), 3, axis=1)))
    assert work.output_bytes == 12 * 4


@pytest.mark.parametrize(
    ("call", "fuses", "reduces"),
    [
        pytest.param(relax.op.nn.relu(V("x", [4])), True, False, id="element_wise"),
        pytest.param(relax.op.permute_dims(V("x", [4, 2])), True, False, id="index_map"),
        pytest.param(relax.op.nn.softmax(V("x", [4, 2])), False, True, id="reduction"),
        pytest.param(
            relax.op.nn.conv2d(V("x", [1, 8, 9, 9]), C([8, 1, 3, 3]), groups=8),
            False,
            True,
            id="depthwise_reduces_a_window",
        ),
        pytest.param(
            relax.op.nn.conv2d(V("x", [1, 8, 9, 9]), C([8, 8, 3, 3])), False, False, id="dense"
        ),
    ],
)
def test_flags(call, fuses, reduces):
    work = op_work(typed(call))
    assert (work.fuses, work.reduces) == (fuses, reduces)


@pytest.mark.parametrize(
    ("call", "depth", "columns"),
    [
        pytest.param(relax.op.matmul(V("x", [4, 8]), C([8, 16])), 8, 16, id="weight_right"),
        pytest.param(relax.op.matmul(C([16, 8]), V("x", [8, 4])), 8, 4, id="weight_left"),
        pytest.param(relax.op.matmul(V("x", [4, 8]), C([8])), 8, 1, id="vector_right"),
        pytest.param(relax.op.nn.relu(V("x", [4, 8])), 0, 0, id="no_product"),
    ],
)
def test_depth_and_columns(call, depth, columns):
    work = op_work(typed(call))
    assert (work.depth, work.columns) == (depth, columns)
