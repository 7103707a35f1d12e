# ruff: noqa: N805 -- a TVMScript module is not a class
"""What each device does of a placed operator."""

import pytest
from tvm.script import ir as I
from tvm.script import relax as R

from relay_passes.part_work import early_works, part_work, sharding_of
from relay_passes.plan import OpPlan, Split
from relay_passes.planner.problem import Cut
from relay_passes.program import read_program


@I.ir_module
class Product:
    @R.function
    def main(x: R.Tensor((64, 8), "float32")) -> R.Tensor((64, 32), "float32"):
        with R.dataflow():
            y = R.matmul(x, R.const([[1.0] * 32] * 8, "float32"))
            R.output(y)
        return y


(NODE,) = read_program(Product)


def placed(device, split=None, early=None):
    return OpPlan(
        name="y", op="relax.matmul", device=device, reason="", cost_us={}, declined={}, macs=0,
        split=split, early=early,
    )  # fmt: skip


def test_a_whole_operator_is_its_devices():
    assert part_work(NODE, placed("npu"), "npu") is NODE.work
    assert NODE.work.name == "y"
    assert part_work(NODE, placed("npu"), "gpu") is None


def test_a_split_operator_is_in_parts_under_its_own_name():
    rows = placed("gpu+npu", Split(kind="activation", axis=0, at=48, extent=64))
    assert sharding_of(NODE, rows).axis == 0
    parts = {device: part_work(NODE, rows, device) for device in ("npu", "gpu", "cpu")}
    assert (parts["npu"].rows, parts["gpu"].rows, parts["cpu"]) == (48, 16, None)
    assert parts["npu"].name == parts["gpu"].name == "y"
    # Columns with the NPU's rows filled up go by the rule of columns.
    hybrid = placed("gpu+npu", Split(kind="hybrid", axis=1, at=8, extent=32))
    assert part_work(NODE, hybrid, "gpu").columns == 24


def test_what_is_early_is_whole_and_in_two_parts_too():
    early = placed("gpu", early=Cut(0, 48, 64))
    assert part_work(NODE, early, "gpu") is NODE.work
    assert part_work(NODE, early, "npu") is None
    first, second = early_works(NODE, early)
    assert (first.rows, second.rows) == (48, 16)
    with pytest.raises(AssertionError, match="y is computed as a whole"):
        early_works(NODE, placed("gpu"))
