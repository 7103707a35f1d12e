"""Devices that wait for each other: NPU jobs, GPU fences, and the order that waits make.

Time appears in no assertion. A job that must be still running has a gate, which the test opens; a
kernel that must be still running takes ten thousand times as long as the call that launches it.
"""

import ctypes
import gc
import itertools
import os
import random
import subprocess
import threading
import traceback
from pathlib import Path

import dma_buf_shims
import numpy as np
import pytest
import tvm
from runtime_harness import (
    ADD_ONE,
    ADD_ONE_ARGS,
    INT32,
    POINTER,
    X,
    fresh,
    onnx_region,
    opencl_module,
)

from hetero_tvm import errors, runtime

runtime.load()
N = 256
WAIT = tvm.get_global_func("hetero_tvm.wait")
CPU, GPU, NPU = 0, 1, 2
SLOW_US = 50_000  # long enough for a mistake to show; no test relies on it
SLOW_ROUNDS = 30_000_000  # of the kernel's loop: some 100 ms

SET = """
__kernel void set(__global float* out, int n, int value) {
  int i = get_global_id(0);
  if (i < n) out[i] = (float)value;
}
"""


def npu(symbol="npu", **options):
    """A region on the null provider: y = x."""
    region = onnx_region(symbol, "Identity", (N,))
    return runtime.npu_module([region], "null", {k: str(v) for k, v in options.items()})[symbol]


class Gated:
    """A job that runs until `open()`: y = x, where x is all ones by then."""

    def __init__(self, device):
        self.source, self.target = tensors(device, 2)
        npu("gated", gate=1)(self.source, self.target)

    def open(self):
        HOST(self.source)[1:] = 1
        HOST(self.source)[0] = 1  # the gate, hence last

    def is_running(self):
        return runtime.counters()["npu_runs"] == 0


@pytest.fixture(autouse=True)
def explicit_waits():
    """What compiled code says is all there is; nothing is left over from the test before."""
    runtime.sync()
    runtime.configure_sync(implicit_waits=False, fast=True)
    runtime.reset_counters()
    yield
    runtime.sync()
    runtime.configure_sync(implicit_waits=False)


@pytest.fixture
def gpu(opencl):
    """`gpu(out, source, slow=False)`: out = source + 1."""
    kernel = opencl_module({"add_one": (ADD_ONE_ARGS, X)}, {"add_one": ADD_ONE})["add_one"]

    def add_one(out, source, slow=False):
        kernel(out, source, N, SLOW_ROUNDS if slow else 0, N // 64, 64)

    return add_one


@pytest.fixture
def fill(opencl):
    kernel = opencl_module({"set": ((POINTER, INT32, INT32), X)}, {"set": SET})["set"]
    return lambda out, value: kernel(out, N, value, N // 64, 64)


def tensors(device, count, value=0.0):
    return [tvm.runtime.tensor(np.full(N, value, "float32"), device) for _ in range(count)]


@pytest.fixture
def null():
    return tvm.device("ext_dev", 0)


def test_call_returns_before_the_job_is_done(null):
    job = Gated(null)
    assert job.is_running()
    job.open()
    WAIT(CPU, NPU)
    assert not job.is_running()
    np.testing.assert_array_equal(job.target.numpy(), np.ones(N))


def test_jobs_keep_their_order(null):
    chain = tensors(null, 20)
    runtime.host_view(chain[0])[:] = 5
    step = npu(latency_us=100)
    for source, target in itertools.pairwise(chain):
        step(source, target)
    np.testing.assert_array_equal(chain[-1].numpy(), np.full(N, 5))


@pytest.mark.parametrize("read", ["numpy", "host_view", "sync"])
def test_reading_a_result_waits_for_the_npu(opencl, read):
    source, target = tensors(opencl, 2)
    runtime.host_view(source)[:] = 3
    npu(latency_us=SLOW_US)(source, target)
    if read == "sync":
        opencl.sync()
        assert runtime.counters()["npu_runs"] == 1
    values = runtime.host_view(target) if read == "host_view" else target.numpy()
    np.testing.assert_array_equal(values, np.full(N, 3))


def test_host_tensors_need_no_wait():
    """TVM reads `cpu` tensors without asking anybody."""
    source = tvm.runtime.tensor(np.full(N, 2, "float32"), tvm.cpu())
    target = tvm.runtime.tensor(np.zeros(N, "float32"), tvm.cpu())
    npu(latency_us=10_000)(source, target)
    np.testing.assert_array_equal(target.numpy(), np.full(N, 2))


def test_implicit_waits_make_a_call_blocking(opencl, gpu):
    runtime.configure_sync(implicit_waits=True)
    source, between, target = tensors(opencl, 3)
    gpu(between, source, slow=True)
    npu(latency_us=10_000)(between, target)
    assert runtime.counters()["npu_runs"] == 1
    np.testing.assert_array_equal(target.numpy(), np.ones(N))


@pytest.mark.parametrize("fast", [True, False], ids=["fast", "finish"])
def test_npu_waits_for_the_gpu_and_the_host_does_not(opencl, gpu, fast):
    runtime.configure_sync(fast=fast)
    source, between, target = tensors(opencl, 3)
    gpu(between, source)  # whatever happens only once happens here
    opencl.sync()
    runtime.reset_counters()
    gpu(target, source, slow=True)
    gpu(between, target)
    WAIT(NPU, GPU)
    npu()(between, target)
    assert runtime.counters()["npu_runs"] == 0  # the worker still waits, this thread does not
    np.testing.assert_array_equal(target.numpy(), np.full(N, 2))


@pytest.mark.parametrize("fast", [True, False], ids=["fast", "finish"])
def test_gpu_waits_for_the_npu(opencl, gpu, fast):
    runtime.configure_sync(fast=fast)
    source, between, target = tensors(opencl, 3)
    runtime.host_view(source)[:] = 7
    npu(latency_us=SLOW_US)(source, between)
    WAIT(GPU, NPU)
    gpu(target, between)
    np.testing.assert_array_equal(target.numpy(), np.full(N, 8))


def test_without_a_wait_devices_run_at_the_same_time(opencl, gpu):
    """GPU kernels start and end while an NPU job runs, and an NPU job while a kernel runs."""
    a, b, c, d = tensors(opencl, 4)
    job = Gated(opencl)
    gpu(d, c)
    runtime.gpu_wait()
    assert HOST(d)[0] == 1
    assert job.is_running()
    job.open()
    runtime.sync()
    runtime.reset_counters()
    gpu(d, c, slow=True)
    npu()(a, b)
    WAIT(CPU, NPU)
    waits = runtime.counters()["gpu_waits"]
    runtime.gpu_wait()
    assert (waits, runtime.counters()["gpu_waits"]) == (0, 1)  # the kernel was still running


def test_host_waits_for_one_device_only(opencl, gpu):
    source, target = tensors(opencl, 2)
    job = Gated(opencl)
    gpu(target, source)
    WAIT(CPU, GPU)
    assert job.is_running()
    np.testing.assert_array_equal(HOST(target), np.ones(N))
    job.open()


def test_waits_that_are_kept_anyway_do_nothing(null):
    job = Gated(null)
    for pair in ((CPU, CPU), (GPU, GPU), (NPU, NPU), (GPU, CPU), (NPU, CPU)):
        WAIT(*pair)
    assert job.is_running()
    job.open()


@pytest.mark.parametrize("pair", [(3, 0), (0, -1)])
def test_unknown_device_is_refused(pair):
    with pytest.raises(ValueError, match=r"wait\(.*\): devices are 0 cpu, 1 gpu, 2 npu"):
        WAIT(*pair)


def test_waits_are_counted_by_pair(null):
    for waiter, on in ((CPU, GPU), (CPU, NPU), (GPU, NPU), (NPU, GPU), (NPU, GPU)):
        WAIT(waiter, on)
    counted = runtime.counters()
    names = ("wait_cpu_on_gpu", "wait_cpu_on_npu", "wait_gpu_on_npu", "wait_npu_on_gpu")
    assert [counted[name] for name in names] == [1, 1, 1, 2]
    assert (counted["gpu_waits"], counted["npu_waits"]) == (0, 0)  # nothing was running


@pytest.mark.parametrize(
    "wait",
    [lambda _: WAIT(CPU, NPU), lambda _: WAIT(GPU, NPU), lambda t: t.numpy()],
    ids=["cpu", "gpu", "copy"],
)
def test_failure_comes_with_the_next_wait_once(null, wait):
    source, target = tensors(null, 2, 4.0)
    failing = npu("breaks", fail=1)
    failing(source, target)
    failing(source, target)
    npu()(source, target)  # a failure does not stop jobs that may be another thread's
    with pytest.raises(errors.DeviceFailure, match=r"^NPU region breaks: failed as asked$"):
        while True:  # the first wait may come before the failure
            wait(target)
    # The second failing job may have failed after that was thrown; then it is over.
    try:
        runtime.sync()
    except errors.DeviceFailure:
        runtime.sync()
    np.testing.assert_array_equal(target.numpy(), np.full(N, 4))
    assert runtime.counters()["npu_runs"] == 1


def test_failure_of_the_model_is_the_callers(null):
    """What can be known at once is said at once."""
    region = onnx_region("broken", "Neg", (N,))
    region.onnx = b"not a model"
    call = runtime.npu_module([region], "cpu", {})["broken"]
    source, target = tensors(null, 2)
    with pytest.raises(errors.DeviceFailure, match=r"^NPU region broken: "):
        call(source, target)
    with pytest.raises(ValueError, match=r"NPU region npu: tensor 'x' is float32\[3\]"):
        npu()(tvm.runtime.empty((3,), "float32", null), target)
    runtime.sync()


def test_job_keeps_its_tensors_and_its_module(opencl):
    job = Gated(opencl)
    target = job.target
    address = tvm.get_global_func("hetero_tvm.tensor_address")(job.source)
    del job
    gc.collect()  # only the job refers to its input and its module now
    others = [tvm.runtime.empty((N,), "float32", opencl) for _ in range(10)]
    for other in others:
        HOST(other)[:] = -1  # would open the gate if it were the input's memory, given out again
    assert runtime.counters()["npu_runs"] == 0
    source = np.frombuffer((ctypes.c_float * N).from_address(address), "float32")
    source[1:] = 1
    source[0] = 1
    np.testing.assert_array_equal(target.numpy(), np.ones(N))


def test_memory_planned_by_the_virtual_machine_outlives_its_job(opencl):
    """Relax gives storage back when a function ends; a job that still runs must keep it."""
    from tvm import relax
    from tvm.s_tir import dlight

    kind = relax.TensorType((N,), "float32")
    builder = relax.BlockBuilder()
    x, y = relax.Var("x", kind), relax.Var("y", kind)
    with builder.function("main", [x, y]):
        a = builder.emit(relax.op.nn.relu(x))
        builder.emit(
            relax.Call(
                relax.ExternFunc("hetero_tvm.wait"),
                [relax.prim_value(NPU), relax.prim_value(GPU)],
                ty_args=[relax.ObjectType()],
            )
        )
        builder.emit(relax.Call(relax.ExternFunc("npu"), [a, y], ty_args=[relax.ObjectType()]))
        builder.emit_func_output(x)
    target = tvm.target.Target({"kind": "opencl", "max_threads_per_block": 256}, host="llvm")
    with target:
        mod = relax.get_pipeline("zero")(builder.get())
        mod = dlight.ApplyDefaultSchedule(dlight.gpu.Fallback())(mod)
    built = tvm.compile(mod, target=target)
    region = onnx_region("npu", "Identity", (N,))
    built.mod.import_module(runtime.npu_module([region], "null", {"latency_us": str(SLOW_US)}))
    machine = relax.VirtualMachine(built, opencl)
    given, results = tensors(opencl, 3), tensors(opencl, 3)
    for i, (source, result) in enumerate(zip(given, results, strict=True)):
        runtime.host_view(source)[:] = i + 1
        machine["main"](source, result)
    assert runtime.counters()["npu_runs"] < 3
    for i, result in enumerate(results):
        np.testing.assert_array_equal(result.numpy(), np.full(N, i + 1))


def random_schedule(device, gpu, fill, regions, seed, steps):
    """Random kernels and jobs over a few tensors, with the waits that their data need.

    What a wait does not say is left to chance: a needed wait that did nothing shows as a wrong
    number sooner or later, since every operation's result depends on the one before.
    """
    rng = random.Random(seed)
    held = tensors(device, 5)
    model = [np.zeros(N, "float32") for _ in held]
    last = [CPU] * len(held)  # who wrote a tensor last
    readers = [set() for _ in held]  # who has read it since
    for step in range(steps):
        target, source = rng.sample(range(len(held)), 2)
        who = rng.choice([GPU, GPU, NPU, NPU, CPU])
        needed = {last[source], last[target], *readers[target]} - {who, CPU}
        for on in sorted(needed):
            WAIT(who, on)
        if who == GPU and rng.random() < 0.3:
            fill(held[target], step)
            model[target][:] = step
        elif who == GPU:
            gpu(held[target], held[source])
            model[target] = model[source] + 1
        elif who == NPU:
            rng.choice(regions)(held[source], held[target])
            model[target] = model[source].copy()
        else:
            view = HOST(held[target])
            view[:] = HOST(held[source]) + 2
            model[target] = model[source] + 2
        if who != GPU or model[target] is not model[source]:
            readers[source].add(who)
        last[target], readers[target] = who, set()
    for tensor, expected in zip(held, model, strict=True):
        np.testing.assert_array_equal(tensor.numpy(), expected, err_msg=f"seed {seed}")


def HOST(tensor):
    """A tensor's memory, with no wait of its own."""
    return np.asarray(runtime._Memory(tensor, "<f4"))


@pytest.mark.parametrize("fast", [True, False], ids=["fast", "finish"])
@pytest.mark.parametrize("seed", range(6))
def test_random_schedules(opencl, gpu, fill, seed, fast):
    runtime.configure_sync(fast=fast)
    regions = [npu(), npu(latency_us=300), npu(latency_us=2000)]
    random_schedule(opencl, gpu, fill, regions, seed, 120)


@pytest.fixture
def half_of_the_gpu():
    runtime.configure_sync(gpu_share=0.5)
    yield
    tvm.get_global_func("hetero_tvm.setting_set")("gpu.share", "")  # as if nobody had said a word


def test_who_has_half_of_the_gpu_leaves_gaps(opencl, gpu, half_of_the_gpu):
    """Eight kernels that each take more than our half of a frame, looked at every four."""
    source, out = tensors(opencl, 2)
    for _ in range(8):
        gpu(out, source, slow=True)
    runtime.sync()
    counted = runtime.counters()
    frame_us = 16_667
    assert counted["gpu_gap_us"] >= 2 * frame_us / 2
    assert counted["gpu_waits"] >= 2
    assert HOST(out)[0] == 1


def test_who_has_all_of_the_gpu_leaves_none(opencl, gpu):
    source, out = tensors(opencl, 2)
    for _ in range(8):
        gpu(out, source, slow=True)
    assert runtime.counters()["gpu_waits"] == 0
    runtime.sync()
    assert runtime.counters()["gpu_gap_us"] == 0


def test_what_others_had_anyway_is_no_gap_of_ours(opencl, gpu, half_of_the_gpu):
    """Between two kernels the caller does something else for much longer than they take."""
    source, out = tensors(opencl, 2)
    for _ in range(8):
        gpu(out, source)
        runtime.sync()
        threading.Event().wait(0.05)
    assert runtime.counters()["gpu_gap_us"] == 0


TAKE = tvm.get_global_func("hetero_tvm.gpu_share")  # in millionths
EIGHT = 8  # kernels, looked at every four


def gap_of(opencl, gpu):
    """What eight slow kernels of this thread left to others, in microseconds."""
    source, out = tensors(opencl, 2)
    before = runtime.counters()["gpu_gap_us"]
    for _ in range(EIGHT):
        gpu(out, source, slow=True)
    runtime.sync()
    return runtime.counters()["gpu_gap_us"] - before


def test_a_programs_own_share_is_its_threads(opencl, gpu):
    TAKE(500_000)
    try:
        elsewhere = []
        other = threading.Thread(target=lambda: elsewhere.append(gap_of(opencl, gpu)))
        other.start()
        other.join()
        assert elsewhere == [0]
        assert gap_of(opencl, gpu) > 0
    finally:
        TAKE(1_000_000)
    assert gap_of(opencl, gpu) == 0


def test_the_users_share_goes_before_a_programs(opencl, gpu, half_of_the_gpu):
    runtime.configure_sync(gpu_share=1.0)
    TAKE(500_000)
    try:
        assert gap_of(opencl, gpu) == 0
    finally:
        TAKE(1_000_000)


def test_a_program_that_fails_gives_its_share_back(opencl, gpu):
    def fails():
        TAKE(500_000)
        raise ValueError("on purpose")

    with pytest.raises(ValueError, match="on purpose"):
        runtime.whole_call(tvm.runtime.convert(fails))
    assert gap_of(opencl, gpu) == 0


@pytest.mark.parametrize("share", [0, -5, 1_000_001])
def test_a_programs_share_is_a_share(share):
    with pytest.raises(ValueError, match="above 0, at most 1"):
        TAKE(share)


def test_eight_threads_share_half_of_the_gpu(opencl, gpu, fill, half_of_the_gpu):
    test_eight_threads_at_once(opencl, gpu, fill)


def test_eight_threads_at_once(opencl, gpu, fill):
    """Waits are the process's, not the thread's: they may wait for more, never for less."""
    failed = []
    regions = [npu(), npu(latency_us=200)]

    def work(seed):
        try:
            random_schedule(opencl, gpu, fill, regions, seed, 60)
        except Exception:  # noqa: BLE001 the main thread reports it
            failed.append(traceback.format_exc())

    threads = [threading.Thread(target=work, args=(100 + i,)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failed, failed[0]


SCHEDULE = """
import json, pytest, test_ordering as t
from hetero_tvm import runtime
from runtime_harness import *
device = runtime.open_opencl()
(about,) = [d for d in runtime.opencl_devices() if d["selected"]]
runtime.configure_sync(implicit_waits=False)
add = opencl_module({"add_one": (ADD_ONE_ARGS, X)}, {"add_one": ADD_ONE})["add_one"]
put = opencl_module({"set": ((POINTER, INT32, INT32), X)}, {"set": t.SET})["set"]
gpu = lambda out, source: add(out, source, t.N, 0, t.N // 64, 64)
fill = lambda out, value: put(out, t.N, value, t.N // 64, 64)
for fast, poll_cpu in ((True, True), (True, False), (False, False)):
    runtime.configure_sync(fast=fast, poll_cpu=poll_cpu)
    for seed in range(4):
        t.random_schedule(device, gpu, fill, [t.npu(), t.npu(latency_us=500)], seed, 100)
print(json.dumps(about["memory"]))
"""


@pytest.mark.usefixtures("opencl")
@pytest.mark.parametrize("memory", ["svm", "dma_buf", "coarse_svm", "buffer"])
def test_random_schedules_with_every_kind_of_memory(memory):
    driver = dma_buf_shims.variables() if memory == "dma_buf" else {}
    done = fresh(SCHEDULE, **driver, HETERO_OPENCL_MEMORY=memory)
    assert done.json == memory, done.stderr


PENDING = """
import os, sys, numpy as np, tvm
from hetero_tvm import errors, runtime
from runtime_harness import *
runtime.load()
runtime.configure_sync(implicit_waits=False)
device = tvm.device("ext_dev", 0)
region = onnx_region("slow", "Identity", (256,))
slow = runtime.npu_module([region], "null", {"latency_us": "100000"})["slow"]
a, b = (tvm.runtime.tensor(np.zeros(256, "float32"), device) for _ in range(2))
for _ in range(50): slow(a, b)
"""


def test_exit_with_pending_jobs():
    """The running job is waited for, the others never run: 50 of them would take five seconds."""
    done = fresh(PENDING + "print(runtime.counters()['npu_runs'])")
    assert done.returncode == 0, done.stderr
    assert done.json < 50


def test_exit_with_pending_kernels_and_jobs(opencl):
    done = fresh(
        PENDING.replace("range(50)", "range(1)") + "device = runtime.open_opencl()\n"
        "k = opencl_module({'add_one': (ADD_ONE_ARGS, X)}, {'add_one': ADD_ONE})['add_one']\n"
        "c, d = (tvm.runtime.tensor(np.zeros(256, 'float32'), device) for _ in range(2))\n"
        "for _ in range(5): k(c, d, 256, 200000, 4, 64)\n"
        "runtime.wait('npu', 'gpu')\n"
        "slow(c, d)\n"
        "print('1')"
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
def test_forked_process_says_that_it_has_no_npu():
    done = fresh(
        PENDING + "child = os.fork()\n"
        "if child == 0:\n"
        "    said = []\n"
        "    for action in (lambda: runtime.wait('cpu', 'npu'), lambda: slow(a, b)):\n"
        "        try: action()\n"
        "        except errors.DeviceFailure as error: said.append(str(error))\n"
        "    ok = 'forked while the NPU was busy' in said[0] and 'spawn' in said[1]\n"
        "    os._exit(0 if ok else 1)\n"
        "print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))"
    )
    assert done.returncode == 0, done.stderr
    assert done.json == 0


SHARES = "setting gpu.share is '{}': give a share above 0 and at most 1, as in 60% or 0.6"


@pytest.mark.parametrize(
    ("variable", "value", "message"),
    [
        ("HETERO_FAST_SYNC", "no", "setting sync.fast is 'no': give 0 or 1"),
        ("HETERO_IMPLICIT_WAITS", "2", "setting sync.implicit_waits is '2': give 0 or 1"),
        ("HETERO_GPU_SHARE", "1.1", SHARES.format("1.1")),
        ("HETERO_GPU_SHARE", "60 %", SHARES.format("60 %")),
        ("HETERO_GPU_SHARE", "%", SHARES.format("%")),
    ],
)
def test_wrong_switch_is_refused(variable, value, message):
    done = fresh(
        "import json\nfrom hetero_tvm import errors, runtime\n"
        "try: runtime.load()\n"
        "except errors.BadInput as error: print(json.dumps(str(error)))",
        **{variable: value},
    )
    assert done.json == message, done.stderr


def test_threads_of_the_host_can_be_set_from_outside():
    script = (
        "import json, numpy as np, tvm\nfrom hetero_tvm import runtime\n"
        "from runtime_harness import *\n"
        "module = runtime.npu_module([onnx_region('r', 'Neg', (4,))], 'cpu', {'threads': '1'})\n"
        "try: runtime.prepare(module)\n"
        "except ValueError as error: print(json.dumps(str(error)))\n"
        "else: print(json.dumps('built'))"
    )
    assert fresh(script, HETERO_NPU_THREADS="2").json == "built"
    refused = fresh(script, HETERO_NPU_THREADS="many").json
    assert refused == "HETERO_NPU_THREADS is 'many', not a number"


# A driver whose events say "submitted" for ever, and which counts how often it is asked.
STUBBORN = """
#include <stdint.h>
#include <stdio.h>
int32_t clGetEventInfo(void* event, uint32_t key, size_t size, void* out, size_t* needed) {
  static int asked = 0;
  if (asked++ == 0) fprintf(stderr, "asked\\n");
  *(int32_t*)out = 2;
  return 0;
}
"""


def test_driver_whose_events_only_move_when_waited_for(opencl, tmp_path):
    (about,) = [device for device in runtime.opencl_devices() if device["selected"]]
    real = Path(about["library"])
    if not real.is_file():
        pytest.skip(f"{real} is not a file that can be linked with")
    (tmp_path / "stubborn.c").write_text(STUBBORN)
    library = tmp_path / "libstubborn.so"
    command = ["cc", "-shared", "-fPIC", tmp_path / "stubborn.c", "-o", library]
    command += ["-Wl,--no-as-needed", real, f"-Wl,-rpath,{real.parent}"]
    subprocess.run(command, check=True)
    done = fresh(SCHEDULE, HETERO_OPENCL_LIB=str(library), HETERO_POLL_CPU="1")
    assert done.json == about["memory"], done.stderr
    assert "asked" in done.stderr
