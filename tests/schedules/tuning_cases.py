"""Small kernels to tune, and a pool of devices that answers without any device."""

from __future__ import annotations

import functools
import os
import sys
import zlib
from pathlib import Path

import on_gpu
import pytest
import tvm
from tvm import relax, tirx
from tvm.s_tir import dlight

from hetero_tvm import errors, runtime
from relay_passes.lower_gpu import lower_gpu
from schedules.defaults import default_legalizations, default_rules
from schedules.limits import limits
from schedules.measure import Outcome
from schedules.trial_process import Identity, Place
from schedules.trials import entry_of, plain
from schedules.tuner import Job
from schedules.tuning_records import describe
from schedules.tvm_target import target_text, tvm_target
from schedules.verify import Reference

GPU = on_gpu.gpu_spec()
LIMIT = limits(GPU)
TARGET = tvm_target(GPU)


def needs_opencl():
    """Skip without a device; does not open it in this process."""
    try:
        if not runtime.opencl_devices():
            pytest.skip("no OpenCL device")
    except errors.EnvironmentProblem as problem:
        pytest.skip(str(problem))


def unscheduled(build, *types, gpu=GPU) -> list[tirx.PrimFunc]:
    """The kernels of `build`, before scheduling."""
    mod = lower_gpu(
        on_gpu.module(build, *types),
        target=tvm_target(gpu),
        legalizations=default_legalizations(gpu),
        rules=(),
    )
    return [func for func in mod.functions.values() if isinstance(func, tirx.PrimFunc)]


@functools.cache
def product(rows=24, depth=40, columns=64) -> tirx.PrimFunc:
    """relu(x @ w)."""
    weight = on_gpu.normal(0, depth, columns)
    (func,) = unscheduled(
        lambda x: relax.op.nn.relu(relax.op.matmul(x, relax.const(weight))),
        ((rows, depth), "float32"),
    )
    return func


@functools.cache
def addition(rows=16, columns=64) -> tirx.PrimFunc:
    """x + y."""
    (func,) = unscheduled(lambda x, y: relax.op.add(x, y), *[((rows, columns), "float32")] * 2)
    return func


def job(func, name="kernel", calls=1) -> Job:
    """A job of the tuner."""
    with TARGET:
        default = dlight.ApplyDefaultSchedule(*default_rules(GPU))(
            tvm.IRModule({"main": plain(func)})
        )
    default = tvm.IRModule({"main": plain(entry_of(default))})
    return Job(kernel=describe(name, func), func=func, default=default, calls=calls)


def worker(*command: str) -> Place:
    """A process that serves this machine's device; by default the tuner's own."""
    command = command or ("-m", "hetero_tvm.trial_worker", "--device", "local")
    here = os.pathsep.join([str(Path(__file__).parent), *filter(None, sys.path)])
    return Place(
        "local",
        (sys.executable, *command, "--target", target_text(GPU)),
        (("PYTHONPATH", here),),
    )


class FakePool:
    """Times by a rule of the kernel's text; results by LLVM, right unless told otherwise."""

    def __init__(self, func, *, driver="1", wrong=lambda mod: False, default_s=2e-3):
        self.identity = Identity(device="fake", driver=driver)
        self.places = ["fake"]
        self.reference = Reference(plain(func))
        self.wrong = wrong
        self.default_s = default_s
        self.default = job(func).default.script()
        self.timed = []

    def seconds(self, mod):
        text = mod.script()
        if text == self.default:
            return self.default_s
        if self.wrong(mod):  # tempting
            return 1e-5
        return 1e-3 * (1 + zlib.crc32(text.encode()) % 997 / 997)

    def time(self, modules, *, slow_s=None, beside=None):
        self.timed += [zlib.crc32(mod.script().encode()) for mod in modules]
        return [Outcome(seconds=(self.seconds(mod),), place="fake") for mod in modules]

    def race(self, modules, default):
        theirs = self.seconds(default)
        return [
            {
                "seconds": ours,
                "default": theirs,
                "gain": theirs / ours,
                "low": 0.99 * theirs / ours,
                "high": 1.01 * theirs / ours,
            }
            for ours in map(self.seconds, modules)
        ]

    def outputs(self, mod, inputs):
        arrays = {
            place: array.astype("float32")
            for place, array in self.reference.compute(inputs).items()
        }
        if self.wrong(mod):
            arrays = {place: array + 1 for place, array in arrays.items()}
        return Outcome(seconds=(), arrays=arrays)
