"""Kernels of every family that has sketches: the names of these, a kernel, and the device."""

import dataclasses
import functools

import numpy as np
import on_gpu
import tuning_cases as cases
from tvm import relax

from relay_passes.lower_gpu import lower_gpu
from schedules.defaults import default_legalizations
from schedules.tvm_target import tvm_target
from schedules.w4a16 import W4Weight, w4a16_product

CORE = cases.GPU
# Limits that the processor's OpenCL can take too, where whatever is right anywhere must be right.
LOCKSTEP = dataclasses.replace(
    CORE, wave_size=32, vector_width=4, max_work_group_size=256, local_memory_bytes=32768
)
_TILES = {"whole", "stretched"}


def _product(rows, depth, columns, gpu):
    weight = relax.const(on_gpu.normal(0, depth, columns))
    (func,) = cases.unscheduled(
        lambda x: relax.op.nn.relu(relax.op.matmul(x, weight)), ((rows, depth), "float32"), gpu=gpu
    )
    return func


def _w4_product(rows, depth, columns, gpu):
    random = np.random.default_rng(0)
    weight = W4Weight(
        codes=random.integers(0, 16, (depth, columns)).astype(np.uint8),
        scales=random.random((depth // 32, columns), dtype=np.float32) + np.float32(0.01),
        zeros=None,
        group=32,
    )
    x = relax.Var("x", relax.TensorType((rows, depth), "float32"))
    builder = relax.BlockBuilder()
    with builder.function("main", [x]):
        with builder.dataflow():
            result = builder.emit_output(w4a16_product(builder, gpu, x, weight))
        builder.emit_func_output(result)
    legalizations = default_legalizations(gpu)
    mod = lower_gpu(builder.get(), target=tvm_target(gpu), legalizations=legalizations, rules=())
    (func,) = (func for var, func in mod.functions.items() if var.name_hint == "w4a16")
    return func


def _one(build, *types, gpu=CORE):
    (func,) = cases.unscheduled(build, *types, gpu=gpu)
    return func


def _rows(build, *shapes):
    return functools.partial(_one, build, *((shape, "float32") for shape in shapes), gpu=LOCKSTEP)


def _layer_norm(x, gamma, beta):
    return relax.op.nn.layer_norm(x, gamma, beta, axes=[-1])


# name -> sketches, what makes the kernel, the device's spec
FAMILIES = {
    "product": (_TILES, lambda: cases.product(), CORE),
    "shared_product": (
        {*_TILES, "local", "shared"},
        functools.partial(_product, 17, 16, 34, LOCKSTEP),
        LOCKSTEP,
    ),
    "few_rows": (
        {*_TILES, "local", "shared", "split_depth"},
        functools.partial(_product, 2, 64, 20, LOCKSTEP),
        LOCKSTEP,
    ),
    "w4_row": (
        {*_TILES, "local", "split_depth"},
        functools.partial(_w4_product, 1, 512, 24, LOCKSTEP),
        LOCKSTEP,
    ),
    "w4_product": (_TILES, functools.partial(_w4_product, 6, 64, 40, CORE), CORE),
    "w4_products": (_TILES, functools.partial(_w4_product, 64, 512, 768, CORE), CORE),
    "softmax": (
        {"rows"},
        functools.partial(_one, lambda x: relax.op.nn.softmax(x), ((6, 37), "float32")),
        CORE,
    ),
    "layer_norm": (
        {"rows"},
        functools.partial(
            _one,
            _layer_norm,
            ((6, 37), "float32"),
            ((37,), "float32"),
            ((37,), "float32"),
        ),
        CORE,
    ),
    "column_sum": (
        {"columns"},
        functools.partial(_one, lambda x: relax.op.sum(x, 0), ((9, 48), "float32")),
        CORE,
    ),
    "shared_column_sum": (
        {"columns", "shared_columns"},
        functools.partial(_one, lambda x: relax.op.sum(x, 0), ((90, 48), "float32")),
        LOCKSTEP,
    ),
    "column_maximum": (
        {"columns"},
        functools.partial(_one, lambda x: relax.op.max(x, 0), ((90, 48), "float32")),
        LOCKSTEP,
    ),
    "shared_softmax": (
        {"shared_rows", "kept_rows"},
        _rows(relax.op.nn.softmax, (6, 37)),
        LOCKSTEP,
    ),
    "shared_layer_norm": (
        {"shared_rows"},
        _rows(_layer_norm, (6, 150), (150,), (150,)),
        LOCKSTEP,
    ),
    "shared_sum_of_row": (
        {"shared_rows"},
        _rows(lambda x: relax.op.sum(relax.op.exp(x), [-1]), (2, 3, 300)),
        LOCKSTEP,
    ),
    "shared_rms_norm": (
        {"shared_rows", "kept_rows"},
        _rows(lambda x, g: relax.op.nn.rms_norm(x, g, axes=[-1]), (2, 3, 40), (40,)),
        LOCKSTEP,
    ),
    "transpose": (
        {"flat", "kept", "transposed"},
        _rows(lambda x: relax.op.permute_dims(relax.op.exp(x), [0, 2, 1]), (2, 48, 37)),
        LOCKSTEP,
    ),
    "addition": ({"flat", "kept"}, lambda: cases.addition(), CORE),
}
