"""Which lengths between standards get a variant, and that these run right on the NPU's graphs."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import tiny_models as tiny

import hetero_tvm
from hetero_tvm import between, lengths
from hetero_tvm.between import Span, choose
from hetero_tvm.build import build
from hetero_tvm.errors import BadInput
from relay_passes.plan import OpPlan, Plan, Split

TOLERANCE = 1e-4  # float32 throughout, as the import's check


@pytest.mark.parametrize(
    ("span", "standards"),
    [
        (Span(1, 512), (1, 32, 64, 128, 256, 512)),
        (Span(40, 300), (64, 128, 256, 300)),
        (Span(32, 64), (32, 64)),
        (Span(2, 20), (2, 20)),
        (Span(70, 100), (100,)),
    ],
)
def test_standards_are_powers_of_two_and_the_ends(span, standards):
    assert span.standards == standards


def plan_of(us, split=None, macs=100):
    op = OpPlan(
        name="product",
        op="relax.matmul",
        device="gpu+npu" if split else "npu",
        reason="",
        cost_us={"gpu": us, "npu": us},
        declined={},
        macs=macs,
        split=split,
    )
    return Plan(ops=(op,), predicted_us=us)


def choosing(us_of, *, chunking=False, split_at=None, asked=None, span=(64, 256), **more):
    """`choose` where a whole plan takes a µs a row, and one between standards `us_of(length)`."""

    def plan(length, rows):
        if asked is not None:
            asked[length] = rows
        if not rows:
            cut = Split(kind="activation", axis=0, at=split_at, extent=length) if split_at else None
            return plan_of(float(length), cut)
        return plan_of(us_of(length), Split(kind="activation", axis=0, at=64, extent=length))

    return choose(Span(*span), plan, tile=1, chunking=lambda _: chunking, **more)


def test_what_saves_enough_is_built():
    chosen = choosing(lambda length: 0.7 * length)
    assert set(chosen.plans) == {64, 128, 256}
    assert chosen.built == (64, 112, 128, 160, 192, 224, 256)  # four between
    one = chosen.between[-1]
    assert (one.length, one.padding_us, one.chunking_us, one.kind) == (224, 256, None, "activation")
    assert one.saves == pytest.approx(1 - 0.7 * 224 / 256)


def test_nothing_is_built_that_saves_less_than_the_gain():
    assert choosing(lambda length: 256.0).built == (64, 128, 256)
    padded = {80: 128, 96: 128, 112: 128, 160: 256, 192: 256, 224: 256}
    assert choosing(lambda length: 0.91 * padded[length]).built == (64, 128, 256)
    found = choosing(lambda length: 0.91 * padded[length], gain=0.05)
    # Beside 112, which 80 and 96 can be filled up to for nearly as little, they save too little.
    assert found.built == (64, 112, 128, 224, 256)


def test_the_one_that_saves_most_over_all_lengths_is_taken_first():
    assert choosing(lambda length: float(length), most=1).built == (64, 128, 192, 256)


def test_cutting_is_an_alternative():
    chosen = choosing(lambda length: float(length), chunking=True)
    one = next(one for one in chosen.between if one.length == 160)
    assert (one.padding_us, one.chunking_us, one.way) == (256.0, 192.0, "64 + 64 + 32 -> 64")
    assert chosen.built == (64, 80, 96, 112, 128, 256)  # 192 can be cut into 3 times 64


def test_rows_on_offer_are_standards_and_those_of_their_plans():
    asked = {}
    choosing(lambda length: float(length), split_at=48, asked=asked)
    assert asked[64] == asked[256] == {}
    assert asked[96] == {96: (48, 64)}
    assert asked[192] == {192: (48, 64, 128)}


def test_lengths_that_cannot_gain_are_not_planned():
    asked = {}

    def plan(length, rows):
        asked[length] = rows
        return plan_of(10.0)  # as on an NPU that works on whole tiles

    chosen = choose(Span(32, 64), plan, tile=32, chunking=lambda _: False)
    assert (set(asked), chosen.between) == ({32, 64}, ())


def test_on_a_tile():
    asked = {}

    def plan(length, rows):
        asked[length] = rows
        return plan_of(float(length))

    choose(Span(64, 256), plan, tile=32, chunking=lambda _: False)
    assert sorted(asked) == [64, 96, 128, 160, 192, 224, 256]


# --- built and run -----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("between")


def built(folder, name, path, inputs, length):
    """(the ONNX file, the artefact, the artefact loaded)."""
    made = build(
        path,
        target="host",
        output=folder / name,
        inputs=inputs,
        length=length,
        measure=False,
    )
    return path, made, hetero_tvm.load(made.path)


@pytest.fixture(scope="module")
def rows(folder):
    """Two layers: rows are cut, and inputs may be, too."""
    path = tiny.mlp(folder / "rows.onnx", free_rows=True, width=1024)
    return built(folder, "rows.so", path, {"x": ("L", 32)}, "32..128")


@pytest.fixture(scope="module")
def columns(folder):
    """A weight that takes longer to read than to compute with for few rows: columns are cut."""
    path = tiny.product(folder / "columns.onnx", depth=512, columns=1024)
    return built(folder, "columns.so", path, {"x": ("L", 512)}, "2..32")


def check(path, model, size):
    width = model.manifest.inputs[0].shape[1]
    x = np.random.default_rng(size).standard_normal((size, width), np.float32)
    want = tiny.run_with_onnxruntime(path, x=x)["y"]
    got = model(x=x)["y"]
    assert got.shape == want.shape
    assert np.linalg.norm(got - want) / np.linalg.norm(want) <= TOLERANCE


def way_of(model, size):
    return lengths.words(model._way(size))


def kind_at(made, length):
    return {one.length: one.kind for one in made.chosen.between if one.built}.get(length)


def test_a_length_between_runs_as_an_activation_split(rows):
    path, made, model = rows
    between_ones = [n for n in model.lengths if n not in Span(32, 128).standards]
    assert between_ones
    for length in between_ones:
        assert kind_at(made, length) == "activation"
        assert way_of(model, length) == str(length)
        check(path, model, length)


def test_a_length_between_is_filled_up(rows):
    path, _, model = rows
    found = way_of(model, 29)
    assert "+" not in found
    assert found.startswith("29 -> ")
    check(path, model, 29)
    check(path, model, 1)


def test_a_length_is_cut(rows):
    path, _, model = rows
    assert "+" in way_of(model, 200)
    check(path, model, 200)


def test_a_length_between_runs_as_a_hybrid_split(columns):
    path, made, model = columns
    hybrids = [one.length for one in made.chosen.between if one.built and one.kind == "hybrid"]
    assert hybrids
    for length in hybrids:
        (variant,) = (v for v in model.manifest.variants if v.length == length)
        kinds = {op["split"]["kind"] for op in variant.plan["ops"] if op["split"] and op["macs"]}
        assert "hybrid" in kinds
        check(path, model, length)
        check(path, model, length - 1)


def test_the_npu_has_only_rows_of_graphs_that_are_there(rows):
    """A variant between standards adds GPU kernels: its NPU graph is the one of a standard."""
    _, made, model = rows
    for variant in model.manifest.variants:
        if variant.length in made.chosen.plans:
            continue
        on_offer = made.chosen.npu_rows[variant.length]
        products = [op for op in variant.plan["ops"] if op["macs"]]
        assert all(op["device"] != "npu" for op in products)
        assert all(op["split"]["at"] in on_offer for op in products if op["split"])


def test_equal_regions_of_several_lengths_are_once_in_the_artefact(rows):
    """16 rows of 32 and of 40 are the same graph on the same weights."""
    path, _, model = rows
    regions = sum(variant.npu_regions for variant in model.manifest.variants)
    assert 0 < model.manifest.npu_regions < regions
    for size in model.lengths:
        check(path, model, size)


def test_one_look_up_a_call(rows, monkeypatch):
    _, _, model = rows
    x = np.zeros((70, 32), np.float32)
    model(x)
    monkeypatch.setattr("hetero_tvm.loader.way", None)  # not asked again
    model(x)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        pytest.param({"length": "64..8"}, "from a shorter to a longer length", id="backwards"),
        pytest.param({"length": "8..x"}, "from a shorter to a longer length", id="no_number"),
        pytest.param({"length": "8..16", "check": False}, "--no-check leaves out", id="unproven"),
    ],
)
def test_ranges_that_mean_nothing(folder, more, message):
    path = tiny.mlp(folder / "refused.onnx", free_rows=True)
    with pytest.raises(BadInput, match=message):
        build(path, target="host", inputs={"x": ("L", 32)}, output=folder / "no.so", **more)
    assert not Path(folder / "no.so").exists()


def test_a_model_that_cannot_be_filled_up_is_told(folder):
    path = tiny.attention(folder / "unmasked.onnx", mask=False)
    with pytest.raises(BadInput, match=r"--length 8\.\.32: lengths that are not built cannot be"):
        build(
            path,
            target="host",
            inputs={"ids": (1, "L")},
            output=folder / "no.so",
            length="8..32",
            measure=False,
        )


def test_chosen_as_plain_data():
    data = choosing(lambda length: 0.7 * length).to_dict()
    assert data["span"] == [64, 256]
    assert data["least_gain"] == between.GAIN
    assert data["standards"][0] == {"length": 64, "predicted_us": 64.0}
    built = [one["length"] for one in data["between"] if one["built"]]
    assert sorted([64, 128, 256, *built]) == data["built"]
    assert dataclasses.is_dataclass(between.Between)
