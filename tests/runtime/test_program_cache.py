"""The disk cache of OpenCL programs: cold, warm, damaged, shared."""

import subprocess
import sys

import pytest
from runtime_harness import environment, fresh

pytestmark = pytest.mark.usefixtures("opencl")

# Builds COUNT kernels and runs one; prints the counters and the seconds that building took.
BUILD = """
import json, sys, time
import numpy as np, tvm
from hetero_tvm import runtime
from runtime_harness import ADD_ONE, ADD_ONE_ARGS, X, opencl_module
device = runtime.open_opencl()
count, salt = int(sys.argv[1]), sys.argv[2]
names = [f"add_one_{i}" for i in range(count)]
module = opencl_module(
    {name: (ADD_ONE_ARGS, X) for name in names},
    {name: ADD_ONE.replace("add_one", name) + f"// {salt}" for name in names},
)
started = time.perf_counter()
runtime.prepare(module)
seconds = time.perf_counter() - started
tensor = tvm.runtime.tensor(np.zeros(64, "float32"), device)
module[names[-1]](tensor, tensor, 64, 0, 1, 64)
assert tensor.numpy().tolist() == [1.0] * 64
print(json.dumps({**runtime.counters(), "seconds": seconds}))
"""


def build(cache, count=3, salt="", **variables):
    done = fresh(BUILD, count, salt, HETERO_CACHE_DIR=str(cache), **variables)
    assert done.returncode == 0, done.stderr
    return done.json


def cached(result):
    return result["cache_hits"], result["cache_misses"], result["cache_corrupt"]


def test_cold_then_warm(tmp_path):
    assert cached(build(tmp_path)) == (0, 3, 0)
    files = sorted((tmp_path / "opencl").iterdir())
    assert len(files) == 3
    assert {file.suffix for file in files} == {".clbin"}  # nothing half-written is left
    assert cached(build(tmp_path)) == (3, 0, 0)


def test_other_source_is_another_entry(tmp_path):
    build(tmp_path)
    assert cached(build(tmp_path, salt="changed")) == (0, 3, 0)
    assert cached(build(tmp_path)) == (3, 0, 0)


def truncated(content):
    return content[: len(content) // 2]


def flipped(content):
    middle = len(content) - 100  # inside the binary
    return content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]


def test_damaged_entries_are_rebuilt(tmp_path):
    damages = [truncated, flipped, lambda _: b"", lambda _: b"something else", lambda c: c + b"x"]
    build(tmp_path, count=len(damages))
    for file, damage in zip((tmp_path / "opencl").iterdir(), damages, strict=True):
        file.write_bytes(damage(file.read_bytes()))
    assert cached(build(tmp_path, count=len(damages))) == (0, len(damages), len(damages))
    assert cached(build(tmp_path, count=len(damages))) == (len(damages), 0, 0)


def test_entry_of_another_driver_is_not_used(tmp_path):
    """An entry says what it was built for, whatever its file is called."""
    build(tmp_path)
    for file in (tmp_path / "opencl").iterdir():
        content = file.read_bytes()
        at = content.index(b"OpenCL")
        file.write_bytes(content[:at] + b"OpenXX" + content[at + 6 :])
    assert cached(build(tmp_path))[:2] == (0, 3)


def test_unwritable_directory_costs_time_only(tmp_path):
    (tmp_path / "file").write_text("a file where the directory would be")
    assert cached(build(tmp_path / "file")) == (0, 3, 0)


def test_processes_may_share_it(tmp_path):
    command = [sys.executable, "-c", BUILD, "3", ""]
    environ = environment(HETERO_CACHE_DIR=str(tmp_path))
    running = [subprocess.Popen(command, env=environ, stdout=subprocess.PIPE) for _ in range(3)]
    for process in running:
        process.communicate(timeout=120)
    assert [process.returncode for process in running] == [0, 0, 0]
    assert cached(build(tmp_path)) == (3, 0, 0)
    assert len(list((tmp_path / "opencl").iterdir())) == 3


def test_defaults_to_the_users_cache(tmp_path):
    variables = {"HOME": str(tmp_path), "XDG_CACHE_HOME": ""}
    done = fresh(BUILD, 1, "", HETERO_CACHE_DIR="", **variables)
    assert done.returncode == 0, done.stderr
    assert len(list((tmp_path / ".cache" / "hetero_tvm" / "opencl").iterdir())) == 1


def test_warm_start_of_sixty_kernels(tmp_path):
    cold = build(tmp_path, count=60)
    warm = build(tmp_path, count=60)
    assert cached(warm) == (60, 0, 0)
    # Under 0.2 s on two quiet cores; the bound is for a machine that does other things too.
    assert warm["seconds"] < min(1.0, cold["seconds"]), (cold["seconds"], warm["seconds"])
