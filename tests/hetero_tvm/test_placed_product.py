"""One product on each part: it runs where it was told to, and wrong numbers are seen."""

import numpy as np
import pytest

from hetero_tvm import loader
from hetero_tvm.device_os import this_os
from hetero_tvm.placed_product import placed_product


@pytest.mark.parametrize(
    ("place", "dtype", "regions"),
    [("gpu", "float32", 0), ("gpu", "float16", 0), ("npu", "float32", 1), ("split", "float32", 1)],
)
def test_runs_there(opencl, tmp_path, place, dtype, regions):
    product = placed_product(place, dtype, "host", this_os(), tmp_path)
    devices = {op["device"] for op in product.manifest.plan["ops"]}
    assert devices == {"gpu+npu" if place == "split" else place}
    assert product.manifest.npu_regions == regions and product.manifest.dtype == dtype
    model, x = loader.load(product.path), product.draw()
    found = model(x=x)["y"]
    assert product.error(x, found) <= product.tolerance
    assert (product.error(x, found) > 1e-5) == (dtype == "float16")  # it did compute in halves
    assert not np.array_equal(x, product.draw())
    wrong = found.copy()
    wrong[0] = 0
    assert product.error(x, wrong) > product.tolerance


def test_is_built_once(tmp_path):
    first = placed_product("gpu", "float32", "host", this_os(), tmp_path)
    made = first.path.stat().st_mtime_ns
    again = placed_product("gpu", "float32", "host", this_os(), tmp_path)
    assert again.path == first.path and again.path.stat().st_mtime_ns == made
