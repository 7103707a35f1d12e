"""The roofline, term by term, on figures that can be checked in the head."""

import dataclasses

import pytest

from schedules.cost_model import CostModel
from target_specs.loader import load_spec


@dataclasses.dataclass(frozen=True, kw_only=True)
class Work:
    kind: str = "vector"
    macs: int = 0
    bytes: int = 0
    weight_bytes: int = 0
    output_bytes: int = 0
    element_bytes: int = 2
    rows: int = 1
    fuses: bool = False
    reduces: bool = False


BASE = load_spec("snapdragon-8-gen-3")
SPEC = dataclasses.replace(
    BASE,
    memory=dataclasses.replace(BASE.memory, one_device_gbps=40.0),
    gpu=dataclasses.replace(
        BASE.gpu, matmul_gflops=1000.0, float32_rate=0.5, vector_gbps=40.0, reduction_gbps=20.0,
        launch_us=10.0, handover_us=400.0,
    ),
    npu=dataclasses.replace(
        BASE.npu, tile=32, matmul_gflops=5000.0, vector_gbps=200.0, reduction_gbps=50.0, op_us=1.0,
        launch_us=250.0, handover_us=75.0,
    ),
)  # fmt: skip
MODEL = CostModel(SPEC)


@pytest.mark.parametrize(
    ("work", "device", "us"),
    [
        pytest.param(Work(kind="view", output_bytes=4096), "gpu", 0.0, id="view_is_free"),
        # 2 * 50e6 operations at 1e12 a second = 100 µs, and one launch
        pytest.param(Work(kind="matmul", macs=50_000_000), "gpu", 110.0, id="gpu_computes"),
        pytest.param(
            Work(kind="matmul", macs=50_000_000, element_bytes=4), "gpu", 210.0, id="in_float32"
        ),
        # 4e6 bytes at 40e9 a second = 100 µs
        pytest.param(Work(kind="matmul", macs=1, bytes=4_000_000), "gpu", 110.0, id="gpu_reads"),
        pytest.param(Work(bytes=4_000_000, reduces=True), "gpu", 210.0, id="gpu_reduces"),
        # inside its producer's kernel: only the second operand is read
        pytest.param(
            Work(bytes=1_200_000, output_bytes=400_000, fuses=True), "gpu", 10.0, id="gpu_fuses"
        ),
        pytest.param(Work(kind="matmul", macs=50_000_000, rows=32), "npu", 21.0, id="npu_computes"),
        pytest.param(
            Work(kind="matmul", macs=50_000_000, rows=16), "npu", 41.0, id="half_a_tile_is_wasted"
        ),
        pytest.param(
            Work(kind="matmul", macs=50_000_000, rows=33), "npu", 1 + 20 * 64 / 33, id="second_tile"
        ),
        # weights come from memory, activations are on the chip
        pytest.param(
            Work(kind="matmul", macs=1, rows=32, bytes=4_000_000, weight_bytes=4_000_000),
            "npu",
            101.0,
            id="npu_reads_weights",
        ),
        pytest.param(Work(bytes=4_000_000), "npu", 21.0, id="npu_on_chip"),
        pytest.param(Work(bytes=4_000_000, element_bytes=4), "npu", 11.0, id="npu_halves_float32"),
        pytest.param(Work(bytes=4_000_000, reduces=True), "npu", 81.0, id="npu_reduces"),
        pytest.param(
            Work(kind="conv", macs=50_000_000, bytes=4_000_000, reduces=True),
            "npu",
            81.0,
            id="depthwise_is_not_for_the_matrix_unit",
        ),
        pytest.param(Work(bytes=4_000_000), "cpu", 100.0, id="cpu"),
    ],
)
def test_cost(work, device, us):
    assert MODEL.cost_us(work, device) == pytest.approx(us)


@pytest.mark.parametrize(
    ("source", "target", "us"),
    [
        ("gpu", "npu", 650.0),
        ("npu", "gpu", 75.0),
        ("cpu", "npu", 250.0),
        ("cpu", "gpu", 10.0),
        ("gpu", "cpu", 400.0),
        ("npu", "cpu", 0.0),
    ],
)
def test_handover(source, target, us):
    assert MODEL.handover_us(source, target, 0) == pytest.approx(us)


def test_the_npu_reads_what_is_handed_over():
    # 8e6 bytes of float32 arrive as 4e6 of float16, at 40e9 a second
    assert MODEL.handover_us("npu", "gpu", 8_000_000) == pytest.approx(175.0)
    assert MODEL.handover_us("gpu", "cpu", 8_000_000) == pytest.approx(400.0)


def test_a_stand_in_computes_in_the_models_own_type():
    host = CostModel(load_spec("host"))
    wide = Work(bytes=4_000_000, element_bytes=4)
    assert host.cost_us(wide, "npu") == host.cost_us(
        dataclasses.replace(wide, element_bytes=2), "npu"
    )


def test_origin_is_that_of_the_deciding_figure():
    model = CostModel(BASE)
    assert model.origin(Work(kind="matmul", macs=1), "npu").provenance == "published"
    assert model.origin(Work(kind="batched_matmul", macs=1), "npu").provenance == "scaled"
    assert model.origin(Work(), "gpu").provenance == "published"


# Published latencies of whole matmuls on this SoC (arXiv 2501.14794 table 3), weights in 4 bits.
@pytest.mark.parametrize(
    ("rows", "inner", "columns", "gpu_us", "npu_us"),
    [(128, 4096, 4096, 7306, 912), (256, 4096, 4096, 10841, 1884)],
)
def test_close_to_published(rows, inner, columns, gpu_us, npu_us):
    work = Work(kind="matmul", macs=rows * inner * columns, rows=rows, bytes=inner * columns // 2)
    model = CostModel(BASE)
    assert model.cost_us(work, "npu") == pytest.approx(npu_us, rel=0.05)
    # A spec has one GPU rate for all sizes; the paper's own three differ by a factor of 1.4.
    assert model.cost_us(work, "gpu") == pytest.approx(gpu_us, rel=0.25)
