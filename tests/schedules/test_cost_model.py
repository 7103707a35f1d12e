"""The roofline, term by term, on figures that can be checked in the head."""

import dataclasses

import pytest

from schedules.cost_model import CostModel
from schedules.npu_region_costs import RegionCost
from target_specs.loader import list_specs, load_spec


@dataclasses.dataclass(frozen=True, kw_only=True)
class Work:
    kind: str = "vector"
    name: str = ""
    macs: int = 0
    bytes: int = 0
    weight_bytes: int = 0
    cache_bytes: int = 0
    score_bytes: int = 0
    output_bytes: int = 0
    element_bytes: int = 2
    rows: int = 1
    depth: int = 0
    columns: int = 0
    fuses: bool = False
    reduces: bool = False


BASE = load_spec("snapdragon-8-gen-3")
SPEC = dataclasses.replace(
    BASE,
    memory=dataclasses.replace(BASE.memory, one_device_gbps=40.0, two_devices_gbps=60.0),
    gpu=dataclasses.replace(
        BASE.gpu, matmul_gflops=1000.0, float32_rate=0.5, vector_gbps=40.0, reduction_gbps=20.0,
        matmul_at_rows=None, launch_us=10.0, handover_us=400.0,
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


def test_an_operator_costs_in_its_region_what_the_vendor_says():
    work = Work(name="a", bytes=4_000_000, output_bytes=2_000_000)
    alone = MODEL.cost_us(work, "npu")
    inside = dataclasses.replace(
        MODEL, npu_regions={"a": RegionCost(factor=3.0, why="an estimate")}
    )
    assert inside.cost_us(work, "npu") == pytest.approx(3 * alone)
    assert inside.cost_us(work, "gpu") == MODEL.cost_us(work, "gpu")
    other = dataclasses.replace(work, name="b")
    assert inside.cost_us(other, "npu") == pytest.approx(alone)
    assert inside.provenance(work, "npu") == "vendor-estimated"
    assert inside.provenance(other, "npu") == "modelled"
    # Half of the rows take half of what the whole takes there.
    half = dataclasses.replace(work, bytes=2_000_000, output_bytes=1_000_000)
    assert inside.cost_us(half, "npu") == pytest.approx(3 * MODEL.cost_us(half, "npu"))


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
    assert "by 128 tokens" in model.origin(Work(kind="matmul", macs=1), "gpu").source
    deep = Work(kind="matmul", macs=1, rows=256, depth=14336, columns=4096)
    assert "14336" in model.origin(deep, "npu").source


# Published latencies on this SoC (arXiv 2501.14794 table 3), weights in 4 bits.
GPU_TABLE = [  # depth, columns, rows, µs
    pytest.param(4096, 4096, 128, 7306, 0.05, id="attention_128"),
    pytest.param(4096, 4096, 193, 9000, 0.05, id="attention_193"),
    pytest.param(4096, 4096, 256, 10841, 0.05, id="attention_256"),
    pytest.param(14336, 4096, 256, 35231, 0.05, id="ffn_down_256"),
    pytest.param(14336, 4096, 384, 50000, 0.10, id="ffn_down_384"),
]
# One token. An isolated row holds 200 to 300 µs of launch and synchronisation; the rest is traffic.
GPU_DECODE = [  # the last one reaches half the bandwidth that the paper prints for whole tokens
    pytest.param(4096, 4096, 511, 0.15, id="attention"),
    pytest.param(4096, 28672, 1903, 0.15, id="gate_and_up"),
    pytest.param(14336, 4096, 1467, 0.37, id="ffn_down"),
]


@pytest.mark.parametrize(("depth", "columns", "rows", "us", "error"), GPU_TABLE)
def test_gpu_close_to_published(depth, columns, rows, us, error):
    found = CostModel(BASE).product_us("gpu", rows, depth, columns, weight_bits=4)
    assert found == pytest.approx(us, rel=error)


@pytest.mark.parametrize(("depth", "columns", "us", "error"), GPU_DECODE)
def test_gpu_decode_close_to_published(depth, columns, us, error):
    found = CostModel(BASE).product_us("gpu", 1, depth, columns, weight_bits=4) + 250
    assert found == pytest.approx(us, rel=error)


@pytest.mark.parametrize(
    ("depth", "rows", "us", "error"),
    [
        pytest.param(4096, 128, 912, 0.05, id="attention_128"),
        pytest.param(4096, 256, 1884, 0.05, id="attention_256"),
        pytest.param(14336, 256, 23445, 0.05, id="ffn_down_256"),
        pytest.param(14336, 384, 32000, 0.15, id="ffn_down_384"),
    ],
)
def test_npu_close_to_published(depth, rows, us, error):
    found = CostModel(BASE).product_us("npu", rows, depth, 4096, weight_bits=4)
    assert found == pytest.approx(us, rel=error)


def test_a_deep_activation_must_stay_on_the_chip():
    model = CostModel(BASE)
    fits, fills = (model.product_us("npu", rows, 14336, 4096) for rows in (192, 256))
    assert fills > 3 * fits
    assert model.product_us("npu", 1024, 8192, 4096) < 4.1 * model.product_us(
        "npu", 256, 8192, 4096
    )


def at_rows(*figures):
    return CostModel(
        dataclasses.replace(
            SPEC, gpu=dataclasses.replace(SPEC.gpu, matmul_at_rows=figures, launch_us=1.0)
        )
    )


@pytest.mark.parametrize(
    ("rows", "us"),
    [
        # 2 * rows * 100 * 1000 operations; 100 rows at 10e9 a second take 2000 µs
        pytest.param(50, 1000, id="before_the_first_figure_its_rate_holds"),
        pytest.param(100, 2000, id="first_figure"),
        pytest.param(150, 2500, id="time_between_two_is_on_a_line"),
        pytest.param(200, 3000, id="last_figure"),
        pytest.param(400, 6000, id="behind_it_its_rate_holds"),
    ],
)
def test_rate_at_rows(rows, us):
    model = at_rows((100, 10.0), (200, 200 * 200_000 / 3e6))
    assert model.product_us("gpu", rows, 100, 1000) == pytest.approx(us + 1)
    work = Work(kind="batched_matmul", macs=rows * 100_000, rows=rows)
    assert model.cost_us(work, "gpu") != pytest.approx(us + 1)  # the table is of weights alone


def test_products_in_fewer_bits_read_less():
    # 4e6 weights of 4 bits are 2e6 bytes, at 40e9 a second 50 µs; activations are 4000 * 2 bytes
    assert MODEL.product_us("gpu", 1, 2000, 2000, weight_bits=4) == pytest.approx(60.2)
    assert MODEL.product_us("gpu", 1, 2000, 2000, weight_bits=8) == pytest.approx(110.2)
    assert MODEL.product_us("gpu", 1, 2000, 2000, weight_bits=16) == pytest.approx(210.2)
    assert MODEL.product_us("npu", 1, 2000, 2000, weight_bits=4) == pytest.approx(52.2, rel=0.02)


def test_a_weight_that_the_gpu_has_in_fewer_bits_is_read_so():
    """The whole's, and that of a part, which has the whole's name."""
    model = CostModel(SPEC, packed={"up": 0.25})
    weight = {"kind": "matmul", "macs": 1, "weight_bytes": 4_000_000}
    whole = Work(name="up", bytes=4_400_000, **weight)
    assert model.gpu_bytes(whole) == 1_400_000
    assert model.cost_us(whole, "gpu") == pytest.approx(35.0 + 10)
    assert MODEL.cost_us(whole, "gpu") == pytest.approx(110.0 + 10)
    other = dataclasses.replace(whole, name="down")
    assert model.cost_us(other, "gpu") == MODEL.cost_us(other, "gpu")
    part = dataclasses.replace(whole, weight_bytes=2_000_000, bytes=2_200_000)
    assert model.cost_us(part, "gpu") == pytest.approx(17.5 + 10)


def test_an_npu_reads_codes_for_so_many_rows_as_its_spec_says():
    npu = dataclasses.replace(SPEC.npu, coded_rows=64)
    spec = dataclasses.replace(SPEC, npu=npu)
    model = CostModel(spec, packed={"up": 0.25})
    weight = {"kind": "matmul", "macs": 1, "weight_bytes": 4_000_000, "bytes": 4_000_000}
    whole = Work(name="up", rows=64, **weight)
    assert model.cost_us(whole, "npu") == pytest.approx(25.0 + 1)  # 1e6 bytes at 40 GB/s
    assert CostModel(spec).cost_us(whole, "npu") == pytest.approx(100.0 + 1)
    many = dataclasses.replace(whole, rows=65)
    assert model.cost_us(many, "npu") == CostModel(spec).cost_us(many, "npu")


def test_what_was_measured_of_floats_is_scaled_to_fewer_bits():
    class Twice:
        def predict_us(self, work, roofline_us):
            return 2 * roofline_us

    work = Work(name="up", kind="matmul", macs=1, bytes=4_400_000, weight_bytes=4_000_000)
    model = CostModel(SPEC, gpu_model=Twice(), packed={"up": 0.25})
    assert model.cost_us(work, "gpu") == pytest.approx(2 * (35.0 + 10))


def test_both_at_once_share_the_memory_and_only_that():
    # two devices get 60 of 2 * 40: each keeps 3/4 of its rate to memory
    reads = Work(kind="matmul", macs=1, bytes=3_000_000, weight_bytes=3_000_000, rows=32)
    assert MODEL.cost_us(reads, "gpu", both=True) == pytest.approx(100 + 10)
    assert MODEL.cost_us(reads, "npu", both=True) == pytest.approx(100 + 1)
    fused = Work(bytes=900_000, output_bytes=300_000, fuses=True)
    assert MODEL.cost_us(fused, "gpu", both=True) == pytest.approx(10.0)
    computes = Work(kind="matmul", macs=50_000_000, rows=32)
    on_chip = Work(bytes=4_000_000)
    for work, device in [(computes, "gpu"), (computes, "npu"), (on_chip, "npu")]:
        assert MODEL.cost_us(work, device, both=True) == MODEL.cost_us(work, device)


def test_devices_that_share_their_cores_slow_each_other_down():
    halved = dataclasses.replace(
        SPEC,
        gpu=dataclasses.replace(SPEC.gpu, both_rate=0.5),
        npu=dataclasses.replace(SPEC.npu, both_rate=0.25),
    )
    work = Work(kind="matmul", macs=50_000_000, rows=32)
    assert CostModel(halved).cost_us(work, "gpu", both=True) == pytest.approx(210.0)
    assert CostModel(halved).cost_us(work, "npu", both=True) == pytest.approx(81.0)
    assert CostModel(halved).cost_us(work, "npu") == MODEL.cost_us(work, "npu")


def test_a_measured_row_keeps_what_both_leave_each_other_of_memory():
    figures = ((1, 100.0), (64, 400.0))
    gpu = dataclasses.replace(
        SPEC.gpu, matmul_at_rows=figures, launch_us=1.0, both_rate=0.5, both_row_rate=0.25
    )
    model = CostModel(dataclasses.replace(SPEC, gpu=gpu))
    for rows, us in [(1, 4 * 10), (64, 2 * 160)]:  # 500,000 macs a row are 10 and 2.5 us
        work = Work(kind="matmul", macs=500_000 * rows, rows=rows)
        assert model.cost_us(work, "gpu", both=True) == pytest.approx(us + 1)
    between = Work(kind="matmul", macs=500_000 * 33, rows=33)  # 32 of 63 of the way, in time
    assert model.cost_us(between, "gpu", both=True) == pytest.approx(40 + 280 * 32 / 63 + 1)


def test_attention_reads_what_is_filled_on_the_gpu_and_all_of_a_cache_on_the_npu():
    work = Work(kind="batched_matmul", macs=4_000, bytes=5_000_000, cache_bytes=4_000_000)
    for rows, macs, nbytes in [(1, 2_000, 3_000_000), (2, 1_333, 2_333_333)]:
        filled = dataclasses.replace(work, rows=rows, macs=macs, bytes=nbytes, cache_bytes=0)
        whole = dataclasses.replace(work, rows=rows)
        assert MODEL.cost_us(whole, "gpu") == pytest.approx(MODEL.cost_us(filled, "gpu"))
    assert MODEL.cost_us(work, "npu") == pytest.approx(100 + 1)  # 4e6 at 40e9 a second
    small = dataclasses.replace(work, bytes=5_000, cache_bytes=5_000)
    between = dataclasses.replace(small, score_bytes=2_000_000)
    more = 2_000_000 / SPEC.npu.reduction_gbps / 1e3
    assert MODEL.cost_us(between, "npu") == pytest.approx(more + 1, abs=1.0)
    assert MODEL.cost_us(between, "gpu") == MODEL.cost_us(small, "gpu")


@pytest.mark.parametrize("name", list_specs())
@pytest.mark.parametrize("context", [256, 2048, 16384])
@pytest.mark.parametrize(("heads", "kv_heads", "depth"), [(9, 3, 64), (32, 8, 128)])
def test_no_cpu_could_take_a_tokens_attention_for_less(name, context, heads, kv_heads, depth):
    """That is why it is not offered: it would read as much, and both devices wait."""
    model = CostModel(load_spec(name))
    cache = 2 * context * kv_heads * depth * 2
    work = Work(
        kind="batched_matmul", macs=2 * context * heads * depth, bytes=cache, cache_bytes=cache,
        depth=depth, columns=context,
    )  # fmt: skip
    filled = dataclasses.replace(work, bytes=cache // 2, cache_bytes=0)
    waits = model.waiting().wait_us
    there_and_back = waits["cpu", "gpu"] + waits["gpu", "cpu"]
    assert model.cost_us(filled, "cpu") + there_and_back > model.cost_us(work, "gpu")


@pytest.mark.parametrize("device", ["gpu", "npu"])
@pytest.mark.parametrize("rows", [1, 33, 128, 300])
@pytest.mark.parametrize("name", list_specs())
def test_a_part_never_costs_more_than_the_whole(name, rows, device):
    model = CostModel(load_spec(name))
    whole = model.product_us(device, rows, 1024, 4096)
    parts = [model.product_us(device, rows, 1024, columns) for columns in range(512, 4097, 512)]
    assert parts == sorted(parts)
    assert parts[-1] == whole
    assert parts[0] + parts[-2] >= whole  # cutting alone saves nothing


def test_waiting():
    fast = dataclasses.replace(
        SPEC,
        gpu=dataclasses.replace(SPEC.gpu, flag_us=3.0),
        npu=dataclasses.replace(SPEC.npu, flag_us=2.0, submit_us=15.0),
    )
    costs = CostModel(fast).waiting()
    assert costs.wait_us == {
        ("cpu", "gpu"): 3.0,
        ("npu", "gpu"): 3.0,
        ("cpu", "npu"): 2.0,
        ("gpu", "npu"): 77.0,
        ("gpu", "cpu"): 10.0,
        ("npu", "cpu"): 0.0,
    }
    assert costs.region_us == 15.0
    assert costs.border_us_per_byte * 8e6 == pytest.approx(100.0)  # float32 as float16, 40e9 a s
    assert CostModel(fast).waiting(element_bytes=2).border_us_per_byte * 8e6 == pytest.approx(200.0)


def test_waiting_as_drivers_do_it():
    costs = MODEL.waiting(fast=False)
    assert costs.wait_us["npu", "gpu"] == costs.wait_us["cpu", "gpu"] == 400.0
    assert costs.wait_us["gpu", "npu"] == 75.0
    assert costs.region_us == 250.0
