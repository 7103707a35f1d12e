"""Constants are read as images where the target has a texture path, and come out the same."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tvm
from on_gpu import assert_close, device, gpu_spec, lower, module, normal, run_lowered
from tvm import relax

from hetero_tvm import runtime
from schedules.image_reads import FROM_MEMORY, IMAGES_KEY, with_image_types
from schedules.launches import launches_of
from schedules.tvm_target import tvm_target

_PHONE = "snapdragon-8-gen-3"
_HERE = Path(__file__).parent


def _product(rows: int, depth: int, columns: int, dtype: str):
    x, weight = normal(1, rows, depth, dtype=dtype), normal(2, depth, columns, dtype=dtype)
    lowered = lower(
        module(lambda v: relax.op.matmul(v, relax.const(weight)), (x.shape, dtype)), _PHONE
    )
    return lowered, x, x.astype(np.float64) @ weight.astype(np.float64)


def _sources(lowered: tvm.IRModule, most: int | None) -> str:
    """The one kernel of `lowered` for a phone whose images have up to `most` pixels."""
    gpu = dataclasses.replace(gpu_spec(_PHONE), image_pixels=most)
    (name,) = (var for var in lowered.functions if var.name_hint != "main")
    kernel = lowered[name].with_attr("global_symbol", "main")
    return launches_of(tvm.IRModule({"main": kernel}), tvm_target(gpu)).source


def test_the_target_says_how_large_an_image_may_be():
    keys = [str(key) for key in tvm_target(gpu_spec(_PHONE)).keys]
    assert f"{IMAGES_KEY}{gpu_spec(_PHONE).image_pixels}" in keys
    assert not any(IMAGES_KEY in str(key) for key in tvm_target(gpu_spec("host")).keys)


@pytest.mark.parametrize(
    ("dtype", "declared"), [("float32", "hetero_image_float_t"), ("float16", "hetero_image_half_t")]
)
def test_a_weight_is_an_image_if_it_is_small_enough(dtype, declared):
    lowered, _, _ = _product(64, 512, 64, dtype)
    pixels = 512 * 64 // 4
    image = f"{declared} /*{pixels}*/ "
    assert image in _sources(lowered, pixels)
    assert image not in _sources(lowered, pixels - 1)
    assert image not in _sources(lowered, None)


def test_an_activation_stays_memory():
    """What another kernel made is promised to be aligned as a constant is, and is none."""

    def build(x):
        return relax.op.nn.relu(relax.op.matmul(relax.op.nn.softmax(x), relax.const(weight)))

    weight = normal(2, 512, 64)
    lowered = lower(module(build, ((64, 512), "float32")), _PHONE)
    product = next(var for var in lowered.functions if "matmul" in var.name_hint)
    alone = tvm.IRModule({"main": lowered[product].with_attr("global_symbol", "main")})
    source = launches_of(alone, tvm_target(gpu_spec(_PHONE))).source
    definition = source[source.rindex("__kernel") :]
    assert definition.split(")")[0].count("hetero_image_") == 1


def test_launches_without_our_runtime_read_memory():
    lowered, _, _ = _product(64, 512, 64, "float32")
    assert _sources(lowered, 1 << 20).startswith(FROM_MEMORY)


def test_a_source_without_images_stays():
    assert with_image_types("__kernel void f() {}") == "__kernel void f() {}"


@pytest.mark.parametrize("rows", [1, 64])
def test_a_processor_reads_memory(rows):
    """The same kernel where nobody asks for images."""
    lowered, x, want = _product(rows, 512, 64, "float32")
    device()
    before = runtime.counters()["image_arguments"]
    (got,) = run_lowered(lowered, [x], target=_PHONE)
    assert runtime.counters()["image_arguments"] == before
    assert_close(got, want, 1e-5)


_SCRIPT = """
import json, sys
import numpy as np
from on_gpu import gpu_spec, lower, normal, run_lowered
from test_image_reads import _product
from tvm import relax
from hetero_tvm import runtime
from schedules.w4a16 import W4Weight, w4a16_product

PHONE = "snapdragon-8-gen-3"
errors = {}

def note(name, got, want):
    errors[name] = float(np.abs(got.astype(np.float64) - want).max() / np.abs(want).max())

products = [(64, "float32"), (1, "float16"), (1, "float32"), (64, "float16")]
for rows, dtype in products[: int(sys.argv[1])]:
    lowered, x, want = _product(rows, 512, 64, dtype)
    note(f"{dtype} of {rows} rows", run_lowered(lowered, [x], target=PHONE)[0], want)
random = np.random.default_rng(5)
weight = W4Weight(
    codes=random.integers(0, 16, (1024, 64)).astype(np.uint8),
    scales=random.random((32, 64), dtype=np.float32) + np.float32(0.01),
    zeros=None,
    group=32,
)
builder = relax.BlockBuilder()
x = relax.Var("x", relax.TensorType((1, 1024), "float32"))
with builder.function("main", [x]):
    with builder.dataflow():
        made = builder.emit(relax.op.nn.relu(x))
        out = builder.emit_output(w4a16_product(builder, gpu_spec(PHONE), made, weight))
    builder.emit_func_output(out)
data = np.abs(normal(3, 1, 1024))
(got,) = run_lowered(lower(builder.get(), PHONE), [data], target=PHONE)
note("codes of four bits", got, data.astype(np.float64) @ weight.dequantised())
print(json.dumps({"errors": errors, "images": runtime.counters()["image_arguments"]}))
"""


@pytest.mark.parametrize(("memory", "products"), [("svm", 4), ("coarse_svm", 1), ("buffer", 1)])
def test_images_over_every_kind_of_memory_give_the_same(memory, products):
    device()
    found = runtime.opencl_devices()[0]
    if not found["image_pixels"]:
        pytest.skip(f"{found['name']} has no images over buffers")
    paths = os.pathsep.join([str(_HERE), *filter(None, sys.path)])
    wanted = {"HETERO_OPENCL_IMAGES": "1", "HETERO_OPENCL_MEMORY": memory, "PYTHONPATH": paths}
    done = subprocess.run(
        [sys.executable, "-c", _SCRIPT, str(products)],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | wanted,
    )
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout.splitlines()[-1])
    assert answer["images"] == products + 2  # one for each product; words and scales
    for name, error in answer["errors"].items():
        # Sums of 512 and 1024 products in float32; results in half are rounded to 11 bits.
        assert error <= (1e-3 if "float16" in name else 1e-5), name
