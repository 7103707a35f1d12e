"""Products over the sequence length: the data behind the picture, and the picture."""

import dataclasses
import importlib.util

import pytest

from hetero_tvm import plan_plot
from hetero_tvm.errors import BadInput, EnvironmentProblem
from hetero_tvm.plan_plot import LONGEST, default_lengths, draw, product_series
from schedules.cost_model import CostModel
from target_specs.loader import load_spec

needs_matplotlib = pytest.mark.skipif(
    importlib.util.find_spec("matplotlib") is None,
    reason="matplotlib is not installed (pip install 'hetero-tvm[plot]')",
)
COSTS = CostModel(load_spec("snapdragon-8-gen-3"))


@pytest.fixture(scope="module")
def series():
    return product_series(COSTS, 4096, 4096, "float16")


def test_lengths_cover_the_axis_and_both_sides_of_every_step():
    lengths = default_lengths()
    assert lengths[0] == 1
    assert lengths[-1] == LONGEST
    assert list(lengths) == sorted(set(lengths))
    assert {32, 33, 64, 65, 992, 993} <= set(lengths)


def test_both_is_never_slower_than_the_better_one(series):
    single = [min(pair) for pair in zip(series.gpu_us, series.npu_us, strict=True)]
    assert all(both <= one for both, one in zip(series.split_us, single, strict=True))
    assert any(both < 0.9 * one for both, one in zip(series.split_us, single, strict=True))
    for kind, both, one in zip(series.kinds, series.split_us, single, strict=True):
        if kind in ("gpu", "npu"):
            assert both == one
        else:
            assert kind in ("weight", "hybrid", "activation")
            assert both < one


def test_the_npu_takes_32_rows_at_a_time(series):
    at = dict(zip(series.lengths, series.npu_us, strict=True))
    for length in (256, 512, 800):
        flat, step = at[length] - at[length - 16], at[length + 1] - at[length]
        assert step > 10 * flat >= 0


def test_times_are_those_of_the_cost_model_with_submission_and_the_wait(series):
    waits = COSTS.waiting(element_bytes=2)
    index = series.lengths.index(256)
    gpu = COSTS.product_us("gpu", 256, 4096, 4096)
    assert series.gpu_us[index] == pytest.approx(gpu + waits.wait_us["cpu", "gpu"])
    npu = COSTS.product_us("npu", 256, 4096, 4096) + waits.region_us + waits.wait_us["cpu", "npu"]
    border = 256 * 4096 * 2 * waits.border_us_per_byte  # the result
    assert series.npu_us[index] == pytest.approx(npu + border)


def test_an_npu_without_steps_takes_any_length():
    found = product_series(CostModel(load_spec("host")), 512, 512, "float32", (1, 100, 101))
    assert found.lengths == (1, 100, 101)
    assert "hybrid" not in found.kinds


def test_the_provenance_is_said(series):
    assert series.gpu_origin.startswith("modelled, rate published: ")
    assert series.npu_origin.startswith("modelled, rate published: ")


@needs_matplotlib
def test_the_picture_is_a_png_with_axes_and_words(series, tmp_path, monkeypatch):
    from matplotlib.figure import Figure

    figures = []
    made = Figure.__init__

    def remember(self, *args, **kwargs):
        figures.append(self)
        made(self, *args, **kwargs)

    monkeypatch.setattr(Figure, "__init__", remember)
    path = tmp_path / "p.png"
    draw(path, "a-target", "float16", [series, dataclasses.replace(series, columns=14336)])
    assert path.read_bytes().startswith(b"\x89PNG\r\n\x1a\n")
    (figure,) = figures
    assert len(figure.axes) == 4
    for axes in figure.axes:
        assert axes.get_xlabel() == "sequence length (tokens)"
        assert axes.get_ylabel() == "time (ms)"
        assert [text.get_text() for text in axes.get_legend().get_texts()] == [
            "GPU only",
            "NPU only",
            "split between both, where it pays",
        ]
        for line, times in zip(axes.lines, (series.gpu_us, series.npu_us), strict=False):
            assert line.get_ydata() == pytest.approx([us / 1e3 for us in times])
    assert "a-target" in figure.get_suptitle()
    assert "rate published" in figure.get_supxlabel()


@needs_matplotlib
def test_a_picture_that_cannot_be_written_is_one_line(series, tmp_path):
    with pytest.raises(EnvironmentProblem, match="cannot write"):
        draw(tmp_path / "gone" / "p.png", "t", "float16", [series])


def test_what_is_wrong_is_said_before_the_work(tmp_path, monkeypatch):
    with pytest.raises(BadInput, match=r"the picture is a PNG; name it so, as in p\.png"):
        plan_plot.check(tmp_path / "p.svg")
    with pytest.raises(BadInput, match="does not exist"):
        plan_plot.check(tmp_path / "gone" / "p.png")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(EnvironmentProblem, match=r"pip install 'hetero-tvm\[plot\]'"):
        plan_plot.check(tmp_path / "p.png")


def test_estimates_cover_the_series():
    """Grown from these two, no length or share is outside what was asked for."""
    found = plan_plot.products("float16")
    assert [(p.depth, p.columns) for p in found] == list(plan_plot.WEIGHTS)
    assert {p.rows for p in found} == {max(default_lengths())}
    assert {p.weight_bits for p in plan_plot.products("float32")} == {32}
