"""The grid, what lies between its points, and which order wins; the compiler where installed."""

import dataclasses

import onnx
import pytest
from test_cost_model import Work
from test_npu_profile import PROFILE, needs_qnn

from schedules import npu_costs, npu_estimate
from schedules.cost_model import CostModel
from schedules.npu_costs import COLUMNS, ROWS, NpuCosts, Product, product_of
from schedules.npu_estimate import EstimateUnavailable, NpuEstimate, Scale, proxy_for
from schedules.npu_profile import NoEstimate
from target_specs.loader import load_spec

SPEC = load_spec("snapdragon-8-gen-3")
HALF = Scale(0.5, "x 0.50")


@pytest.fixture
def compiler(monkeypatch):
    """Stands for the vendor's compiler: `us[order](rows, columns)`; `asked` are its products."""

    class Compiler:
        us = {"right": lambda m, n: 10 * m + n, "left": lambda m, n: 1e6}  # noqa: RUF012
        missing = {"right": 0, "left": 0}  # noqa: RUF012
        refused = ()
        proxy = dataclasses.replace(proxy_for(SPEC.npu)[0], alone_us=0.0, dma_gbps=1e9)
        asked = []  # noqa: RUF012

    def estimate_models(models, npu, *, weight_bytes, progress, **_rest):
        found = {}
        for name, content in models.items():
            model = onnx.ModelProto.FromString(content)
            order, shape = sizes_of(model)
            Compiler.asked.append((order, *shape))
            assert weight_bytes >= 2 * shape[1] * shape[2]
            progress("one more")
            if shape in Compiler.refused:
                found[name] = NoEstimate("refused")
                continue
            profile = dataclasses.replace(
                PROFILE,
                us=int(Compiler.us[order](shape[0], shape[2])),
                missing_ops=Compiler.missing[order],
                input_fill_bytes=2 * (shape[0] * shape[1] + 1000),
                intermediate_fill_bytes=300,
                intermediate_spill_bytes=200,
                output_spill_bytes=2 * shape[0] * shape[2],
            )
            found[name] = NpuEstimate(
                proxy=Compiler.proxy, proxy_why="", profile=profile, scale=HALF, cached=False
            )
        return found

    Compiler.asked = []
    monkeypatch.setattr(npu_costs, "estimate_models", estimate_models)
    monkeypatch.setattr(npu_costs, "scale_to", lambda npu, proxy: HALF)
    monkeypatch.setattr(npu_costs, "proxy_for", lambda npu: (Compiler.proxy, "the nearest"))
    return Compiler


def sizes_of(model):
    """Order and (rows, depth, columns) of a graph, read from its tensors."""
    (node,) = model.graph.node
    size = {
        value.name: [dim.dim_value for dim in value.type.tensor_type.shape.dim]
        for value in (*model.graph.input, *model.graph.output)
    }
    if node.input[0] == "w":
        return "left", (size["x"][1], size["x"][0], size["y"][0])
    rows = 1
    for extent in size["x"][:-1]:
        rows *= extent
    return "right", (rows, size["x"][-1], size["y"][-1])


def costs(gbps=1e6, cache_dir=None, **options):
    return NpuCosts(SPEC.npu, gbps, cache_dir=cache_dir, **options)


def test_shares_are_prepared_on_the_grid(compiler):
    assert costs().prepare([Product(100, 64, 1500)]) == len(compiler.asked)
    assert set(compiler.asked) == {
        (order, rows, 64, columns)
        for order in ("right", "left")
        for rows in (32, 64, 128)  # 100 rows are 128 in steps of 32
        for columns in (512, 1024, 1500)
    }


def test_wholes_alone_are_prepared_as_they_are(compiler):
    found = costs()
    found.prepare([Product(100, 64, 1500), Product(128, 64, 1500)], shares=False)
    assert sorted(compiler.asked) == [("left", 128, 64, 1500), ("right", 128, 64, 1500)]
    found.prepare([Product(128, 64, 1500)], shares=False)
    assert len(compiler.asked) == 2  # nothing is asked twice


def test_progress_counts_all(compiler):
    lines = []
    costs(progress=lines.append).prepare([Product(512, 64, 16384)])
    assert len(lines) == 2 * len(ROWS) * len(COLUMNS)
    assert lines[-1] == f"estimated {len(lines)} of {len(lines)} matrix products"


@pytest.mark.parametrize(
    ("rows", "columns", "us"),
    [
        pytest.param(128, 1024, 10 * 128 + 1024, id="a_point"),
        pytest.param(128, 1280, 10 * 128 + 1280, id="on_a_line_along_columns"),
        pytest.param(96, 1024, 10 * 96 + 1024, id="a_step_between_two_points"),
        pytest.param(65, 1024, 10 * 96 + 1024, id="the_whole_step_and_never_across_it"),
        pytest.param(1, 1024, 10 * 32 + 1024, id="one_row_is_a_step"),
        pytest.param(128, 3, 10 * 128 + 512, id="below_the_grid_its_smallest"),
        pytest.param(1024, 1024, 2 * (10 * 512 + 1024), id="rows_above_the_grid_in_proportion"),
        pytest.param(128, 65536, 4 * (10 * 128 + 16384), id="columns_above_the_grid_too"),
    ],
)
def test_between_points(compiler, rows, columns, us):
    found = costs()
    found.prepare([Product(512, 64, 16384)])
    assert found.product(Product(rows, 64, columns)).compute_us == pytest.approx(us / 2)


def test_what_was_not_prepared_has_no_estimate(compiler):
    found = costs()
    found.prepare([Product(128, 64, 1024)])
    assert found.product(Product(128, 65, 1024)) is None  # another depth
    assert found.product(Product(256, 64, 1024)) is None  # more rows, and not the grid's last
    assert found.product(Product(128, 64, 2048)) is None
    assert found.product(Product(128, 64, 1024, weight_bits=4)) is None
    assert found.product(Product(128, 64, 1024, weight_bits=32)) is not None  # computed as 16


def test_a_refusal_leaves_a_hole(compiler):
    compiler.refused = ((128, 64, 1024),)
    found = costs()
    found.prepare([Product(128, 64, 1024)])
    assert found.product(Product(128, 64, 1024)) is None
    assert found.product(Product(64, 64, 1024)) is not None


@pytest.mark.parametrize(
    ("right", "left", "missing", "order"),
    [
        pytest.param(100, 200, {}, "right", id="cheaper"),
        pytest.param(200, 100, {}, "left", id="transposed_is_cheaper"),
        pytest.param(200, 100, {"left": 3}, "right", id="a_lower_bound_does_not_win"),
        pytest.param(100, 200, {"right": 3}, "left", id="not_even_for_models_order"),
        pytest.param(200, 100, {"right": 3, "left": 3}, "right", id="both_are_lower_bounds"),
    ],
)
def test_order(compiler, right, left, missing, order):
    compiler.us = {"right": lambda m, n: right, "left": lambda m, n: left}
    compiler.missing = {"right": 0, "left": 0} | missing
    found = costs()
    found.prepare([Product(32, 64, 512)])
    cost = found.product(Product(32, 64, 512))
    assert cost.order == order
    assert cost.compute_us == pytest.approx((right if order == "right" else left) / 2)
    assert cost.lower_bound == (order in missing)
    assert ("a lower bound: 3 without a cost" in cost.why) == cost.lower_bound


def test_memory_is_the_targets(compiler):
    compiler.us = {"right": lambda m, n: 2, "left": lambda m, n: 2}
    found = costs(gbps=0.1)  # 2500 bytes take 25 µs: activations stay on the chip
    found.prepare([Product(32, 64, 512)])
    cost = found.product(Product(32, 64, 512))
    assert (cost.memory_bytes, cost.spill_bytes) == (2500, 500)
    assert cost.us == pytest.approx(25)
    assert cost.us_with(0.5) == pytest.approx(50)  # the other device takes half
    assert cost.provenance == "vendor-estimated"


def test_what_only_a_product_alone_pays_is_taken_off(compiler):
    compiler.us = {"right": lambda m, n: 40, "left": lambda m, n: 90}
    # 2 * 32 * (64 + 512) bytes at 1e9 a second are 36.864 µs, and 2 µs more
    compiler.proxy = dataclasses.replace(compiler.proxy, alone_us=2.0, dma_gbps=1.0)
    found = costs()
    found.prepare([Product(32, 64, 512)], shares=False)
    cost = found.product(Product(32, 64, 512))
    assert cost.compute_us == pytest.approx((40 - 38.864) / 2, abs=SPEC.npu.op_us)
    assert cost.compute_us == SPEC.npu.op_us  # an operator costs at least that
    compiler.us = {"right": lambda m, n: 400, "left": lambda m, n: 900}
    found = costs()
    found.prepare([Product(32, 64, 512)], shares=False)
    assert found.product(Product(32, 64, 512)).compute_us == pytest.approx((400 - 38.864) / 2)


def test_which_work_is_a_product():
    weight = Work(kind="matmul", macs=4 * 8 * 16, rows=4, depth=8, columns=16, weight_bytes=512)
    assert product_of(weight) == Product(4, 8, 16, 32)
    assert product_of(dataclasses.replace(weight, weight_bytes=64)) == Product(4, 8, 16, 4)
    assert product_of(dataclasses.replace(weight, weight_bytes=0)) is None
    assert product_of(dataclasses.replace(weight, macs=2 * 4 * 8 * 16)) is None  # a weight each
    assert product_of(dataclasses.replace(weight, kind="batched_matmul")) is None
    assert product_of(Work(kind="vector")) is None


def test_only_qualcomms(monkeypatch):
    with pytest.raises(EstimateUnavailable):
        NpuCosts(load_spec("host").npu, 10.0, cache_dir=None)


def test_the_cost_model_asks_for_estimates_first(compiler):
    compiler.us = {"right": lambda m, n: 4000, "left": lambda m, n: 8000}
    found = costs(gbps=SPEC.memory.one_device_gbps)
    found.prepare([Product(128, 1024, 1024), Product(128, 1024, 1024, 4)])
    model, roofline = CostModel(SPEC, npu_costs=found), CostModel(SPEC)
    assert model.product_us("npu", 128, 1024, 1024) == pytest.approx(2000)
    assert model.product_us("npu", 128, 512, 1024) == roofline.product_us("npu", 128, 512, 1024)
    assert model.product_us("gpu", 128, 1024, 1024) == roofline.product_us("gpu", 128, 1024, 1024)
    assert model.npu_matmul(128, 1024, 1024).provenance == "vendor-estimated"
    assert model.npu_matmul(128, 512, 1024).provenance == "modelled"
    assert model.npu_matmul(128, 512, 1024).us == roofline.product_us("npu", 128, 512, 1024)
    assert model.npu_matmul(128, 1024, 1024, "int4").us == pytest.approx(2000)


def test_a_lower_bound_counts_only_above_the_roofline(compiler):
    compiler.us = {"right": lambda m, n: 2, "left": lambda m, n: 2}
    compiler.missing = {"right": 1, "left": 1}
    found = costs(gbps=SPEC.memory.one_device_gbps)
    found.prepare([Product(128, 1024, 1024)])
    cost = CostModel(SPEC, npu_costs=found).npu_matmul(128, 1024, 1024)
    assert cost.provenance == "modelled"
    assert cost.us == CostModel(SPEC).product_us("npu", 128, 1024, 1024)
    compiler.missing = {"right": 0, "left": 0}
    found = costs(gbps=SPEC.memory.one_device_gbps)
    found.prepare([Product(128, 1024, 1024)])
    complete = CostModel(SPEC, npu_costs=found).npu_matmul(128, 1024, 1024)
    assert complete.provenance == "vendor-estimated"
    assert complete.us < cost.us


@needs_qnn
def test_the_compilers_own_words(tmp_path, monkeypatch):
    """Steps of 32 rows, weights of fewer bits, and the cache."""
    asked = [Product(64, 256, 512), Product(64, 256, 512, 4)]
    found = costs(gbps=SPEC.memory.one_device_gbps, cache_dir=tmp_path)
    assert found.prepare(asked) == 6  # two row counts; two orders in 16 bits, one in 4
    half, nibble = (found.product(product) for product in asked)
    assert half.us >= found.product(Product(32, 256, 512)).us
    assert half.memory_bytes == pytest.approx(2 * 256 * 512, rel=0.05)
    assert nibble.memory_bytes < half.memory_bytes
    again = costs(gbps=SPEC.memory.one_device_gbps, cache_dir=tmp_path)
    monkeypatch.setattr(npu_estimate, "profile_models", lambda waiting, *a, **k: dict(waiting))
    again.prepare(asked)
    assert again.product(asked[0]) == half


@needs_qnn
@pytest.mark.nightly  # six compilations, the largest of 117 MB of weights
@pytest.mark.parametrize(
    ("rows", "depth", "us"), [(128, 4096, 912), (256, 4096, 1884), (256, 14336, 23445)]
)
def test_close_to_published(rows, depth, us):
    """arXiv 2501.14794 table 3, the last one being the shape that the NPU is slow on."""
    found = costs(gbps=SPEC.memory.one_device_gbps)
    found.prepare([Product(rows, depth, 4096)], shares=False)
    assert found.product(Product(rows, depth, 4096)).us == pytest.approx(us, rel=0.2)
