"""ONNX operators as simpler ones, and operators that ONNX itself defines by others."""

import ml_dtypes
import pytest

from hetero_tvm.errors import BadInput
from hetero_tvm.frontend import import_model
from tests.hetero_tvm.frontend.onnx_cases import (
    INT64,
    RNG,
    check,
    merged,
    model,
    node,
    one,
    op_counts,
    randn,
    save,
)


def test_hard_sigmoid_joins_the_convolution_before_it(tmp_path):
    nodes = [node("Conv", "x w b", "c"), node("HardSigmoid", "c", "y", alpha=0.3, beta=0.4)]
    proto = model(nodes, {"x": [1, 3, 4, 4]}, "y", {"w": randn(2, 3, 1, 1), "b": randn(2)}, 11)
    assert op_counts(check(proto, tmp_path)) == {"nn.conv2d": 1, "add": 1, "clip": 1}


@pytest.mark.parametrize(
    ("equation", "a", "b"),
    [
        ("bhid,bhjd->bhij", [2, 3, 4, 5], [2, 3, 6, 5]),
        ("ij,jk->ik", [3, 4], [4, 5]),
        ("bnd,hd->bhn", [2, 3, 4], [5, 4]),
        ("abc,abd->cd", [2, 3, 4], [2, 3, 5]),
        ("abx,bc->ac", [2, 3, 4], [3, 5]),
        ("i,j->ij", [3], [4]),
    ],
)
def test_einsum_of_two_is_one_product(tmp_path, equation, a, b):
    counts = op_counts(check(one("Einsum", {"a": a, "b": b}, equation=equation), tmp_path))
    assert counts["matmul"] == 1
    assert "einsum" not in counts


def test_einsum_of_one(tmp_path):
    cases = {
        "turn": one("Einsum", {"a": [2, 3, 4]}, equation="abc->cb"),
        "sum": one("Einsum", {"a": [2, 3, 4]}, equation="abc->b"),
    }
    check(merged(cases), tmp_path)


def test_operators_of_opset_23_and_24(tmp_path):
    query = {"q": [1, 4, 6, 8], "k": [1, 2, 6, 8], "v": [1, 2, 6, 8]}
    flat = {"q": [1, 4, 16], "k": [1, 6, 16], "v": [1, 6, 16], "m": [4, 6]}
    past = {name: [1, 2, 4, 8] for name in "qkv"} | {"pk": [1, 2, 3, 8], "pv": [1, 2, 3, 8]}
    caches = {"c": randn(16, 4), "s": randn(16, 4)}
    turned = {"x": [1, 2, 4, 8], "p": (INT64, [1, 4])}
    cases = {
        "grouped": one("Attention", query, opset=23, is_causal=1),
        "flat": one("Attention", flat, opset=23, q_num_heads=2, kv_num_heads=2),
        "past": one("Attention", past, opset=23, names="q k v _ pk pv", outputs="y nk nv"),
        "rotary": one("RotaryEmbedding", turned, caches, opset=23, names="x c s p"),
    }
    check(merged(cases), tmp_path)
    check(one("Swish", {"x": [2, 5]}, opset=24, alpha=1.3), tmp_path)


def test_definitions_take_defaults_from_the_schema(tmp_path):
    cases = {
        "mean_variance": one("MeanVarianceNormalization", {"x": [2, 4, 3, 3]}, opset=21),
        "groups": one(
            "GroupNormalization", {"x": [2, 4, 3]}, {"g": randn(4), "b": randn(4)}, 21, num_groups=2
        ),
    }
    check(merged(cases), tmp_path)


def test_four_bit_weights_fold(tmp_path):
    nodes = [
        node("DequantizeLinear", "w s", "f", axis=0, block_size=32),
        node("MatMul", "x f", "y"),
    ]
    weights = {"w": RNG.integers(-8, 8, (64, 6)).astype(ml_dtypes.int4), "s": randn(2, 6)}
    imported = check(model(nodes, {"x": [3, 64]}, "y", weights, 21), tmp_path)
    assert op_counts(imported) == {"matmul": 1}


def test_all_unsupported_nodes_are_listed(tmp_path):
    nodes = [
        node("NonZero", "x", "n", name="where"),
        node("Cast", "n", "f", to=1),  # behind an unsupported node: not its own fault
        node("Foo", "x", "g", domain="com.example", name="foo"),
        node("Relu", "g", "y"),
    ]
    proto = model(nodes, {"x": [4]}, "f y")
    proto.opset_import.add(domain="com.example", version=1)
    with pytest.raises(BadInput) as caught:
        import_model(save(proto, tmp_path))
    assert str(caught.value) == (
        "2 nodes cannot be imported: 'where' (NonZero); 'foo' (com.example.Foo). "
        "Replace them in the model, or add a rule in hetero_tvm/frontend"
    )
