"""Matrix products against ONNX Runtime."""

from tests.hetero_tvm.frontend.onnx_cases import check, one, op_counts, randn


def test_gemm_with_weights_is_matmul_and_add(tmp_path):
    weights = {"w": randn(6, 4), "b": randn(6)}
    proto = one("Gemm", {"x": [5, 4]}, weights, alpha=0.5, beta=2.0, transB=1)
    assert op_counts(check(proto, tmp_path)) == {"matmul": 1, "add": 1}


def test_gemm_without_weights(tmp_path):
    inputs = {"x": [4, 5], "w": [6, 4], "b": [6]}
    check(one("Gemm", inputs, alpha=0.5, beta=2.0, transA=1, transB=1), tmp_path)


def test_batched_matmul(tmp_path):
    assert op_counts(check(one("MatMul", {"a": [2, 3, 4], "b": [4, 5]}), tmp_path)) == {"matmul": 1}
