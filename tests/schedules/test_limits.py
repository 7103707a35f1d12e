import dataclasses

import on_gpu
import tuning_cases as cases

from schedules.limits import Limits, limits
from schedules.search_space import space_of
from schedules.trials import plain


def test_limits_are_the_specs():
    assert limits(on_gpu.gpu_spec()) == Limits(
        items=256, local_bytes=32768, private_bytes=256 << 10, lanes=16, is_core=True
    )
    wide = limits(on_gpu.gpu_spec("snapdragon-8-gen-3"))
    assert (
        not wide.is_core and wide.items == on_gpu.gpu_spec("snapdragon-8-gen-3").max_work_group_size
    )


def test_what_a_device_cannot_take_is_dropped():
    space = space_of(plain(cases.product()), cases.LIMIT)
    wide = {"rows": [1, 24, 1, 1], "columns": [1, 4, 1, 1, 16], "depth": [1, 40, 1]}
    assert space.draw("whole", wide) is not None
    narrow = dataclasses.replace(cases.LIMIT, items=64)
    assert space_of(plain(cases.product()), narrow).draw("whole", wide) is None
    tiny = dataclasses.replace(cases.LIMIT, private_bytes=32)
    assert space_of(plain(cases.product()), tiny).draw("whole", wide) is None
