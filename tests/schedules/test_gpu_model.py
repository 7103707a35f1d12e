"""A model that learns from measured kernels, and says how well."""

import dataclasses
import importlib.util
import json

import pytest

from schedules import gpu_model
from schedules.cost_model import CostModel
from schedules.gpu_model import FEWEST, GpuModelUnavailable, Record, read_records, train
from target_specs.loader import load_spec

needs_xgboost = pytest.mark.skipif(
    importlib.util.find_spec("xgboost") is None,
    reason="xgboost is not installed (pip install 'hetero-tvm[tune]')",
)
SPEC = load_spec("host")
SHAPES = [(m, k, n) for m in (1, 16, 64, 256) for k in (256, 1024) for n in (256, 1024, 4096)]


def record(rows, depth, columns, us=None, kind="matmul"):
    roofline = CostModel(SPEC).product_us("gpu", rows, depth, columns, weight_bits=32)
    return Record(
        kind=kind,
        rows=rows,
        depth=depth,
        columns=columns,
        macs=rows * depth * columns,
        bytes=4 * (rows * depth + depth * columns + rows * columns),
        element_bytes=4,
        reduces=False,
        us=us if us is not None else roofline * (4.0 if rows < 32 else 1.5),
        roofline_us=roofline,
    )


RECORDS = [record(*shape) for shape in SHAPES]


@needs_xgboost
def test_beats_the_roofline_on_what_it_had_not_seen():
    model = train(RECORDS)
    assert model.error < 0.2
    assert 0.25 < model.roofline_error < 0.8
    few, many = record(8, 512, 2048), record(128, 512, 2048)
    assert model.predict_us(few, few.roofline_us) == pytest.approx(4 * few.roofline_us, rel=0.25)
    assert model.predict_us(many, many.roofline_us) == pytest.approx(
        1.5 * many.roofline_us, rel=0.25
    )
    assert f"{len(RECORDS)} measured kernels" in model.summary


@needs_xgboost
def test_same_records_same_model():
    shape = record(48, 512, 512)
    guesses = {train(RECORDS).predict_us(shape, 100.0) for _ in range(2)}
    assert len(guesses) == 1


@needs_xgboost
def test_says_nothing_of_kinds_it_has_not_seen_nor_when_it_guesses_worse():
    model = train(RECORDS)
    assert model.predict_us(record(8, 64, 64, kind="conv"), 100.0) is None
    worse = dataclasses.replace(model, error=0.9, roofline_error=0.5)
    assert worse.predict_us(RECORDS[0], 100.0) is None


@needs_xgboost
def test_the_cost_model_follows_measurements():
    model = CostModel(SPEC, gpu_model=train(RECORDS))
    roofline = CostModel(SPEC)
    alone = roofline.product_us("gpu", 16, 1024, 1024, weight_bits=32)
    found = model.product_us("gpu", 16, 1024, 1024, weight_bits=32)
    assert found == pytest.approx(4 * alone, rel=0.25)
    both = model.product_us("gpu", 16, 1024, 1024, weight_bits=32, both=True)
    slower = roofline.product_us("gpu", 16, 1024, 1024, weight_bits=32, both=True) / alone
    assert both == pytest.approx(found * slower)
    assert model.product_us("npu", 16, 1024, 1024) == roofline.product_us("npu", 16, 1024, 1024)


def test_refusals(monkeypatch):
    with pytest.raises(GpuModelUnavailable, match=f"3 records; {FEWEST} are the fewest"):
        train(RECORDS[:3])
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(GpuModelUnavailable, match=r"pip install 'hetero-tvm\[tune\]'"):
        train(RECORDS)


def test_records_survive_the_disk(tmp_path):
    gpu_model.write_records(tmp_path / "a.jsonl", RECORDS[:5])
    gpu_model.write_records(tmp_path / "b.jsonl", RECORDS[5:])
    assert read_records(tmp_path) == RECORDS
    assert read_records(tmp_path / "a.jsonl") == RECORDS[:5]


@pytest.mark.parametrize(
    "line",
    [
        pytest.param("{", id="no_json"),
        pytest.param("[]", id="another_document"),
        pytest.param('{"kind": "matmul"}', id="figures_missing"),
        pytest.param(json.dumps(dataclasses.asdict(RECORDS[0]) | {"us": 0}), id="no_time"),
        pytest.param(json.dumps(dataclasses.asdict(RECORDS[0]) | {"kind": "x"}), id="no_kind"),
    ],
)
def test_a_bad_line_is_named(tmp_path, line):
    path = tmp_path / "a.jsonl"
    path.write_text(json.dumps(dataclasses.asdict(RECORDS[0])) + "\n" + line + "\n")
    with pytest.raises(ValueError, match=r"a\.jsonl:2: not a record"):
        read_records(path)
