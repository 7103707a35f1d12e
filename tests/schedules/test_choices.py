import pytest
import tuning_cases
from tvm import s_tir

from schedules.choices import Choices, fitted


@pytest.mark.parametrize(
    ("factors", "size", "parts", "want"),
    [
        pytest.param([2, 8], 16, 2, [2, 8], id="fits"),
        pytest.param([1, 8], 12, 2, [2, 6], id="largest_divisor_below"),
        pytest.param([9, 9, 9, 9], 8, 2, [1, 8], id="more_parts_than_wanted"),
        pytest.param([4], 6, 3, [2, 1, 3], id="fewer_parts_than_wanted"),
    ],
)
def test_choices_of_other_shapes_are_made_to_fit(factors, size, parts, want):
    assert fitted(factors, size, parts, 16) == want


@pytest.mark.parametrize(
    ("wanted", "want"),
    [
        pytest.param(8, 8, id="there"),
        pytest.param(20, 8, id="the_largest_below"),
        pytest.param(1, 4, id="less_than_all"),
    ],
)
def test_picks_of_other_devices_are_made_to_fit(wanted, want):
    sch = s_tir.Schedule(tuning_cases.addition())
    choose = Choices({"items": [wanted]})
    assert int(sch.get(choose.pick(sch, "items", (4, 8, 32)))) == want
    assert choose.names == ["items"]
