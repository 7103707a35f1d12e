"""Builds of language models go on from what earlier ones lowered, and give the same bytes."""

from __future__ import annotations

import dataclasses
import os
import signal
import subprocess
import sys
import time

import pytest

import hetero_tvm
from hetero_tvm import bundle, kept_steps
from hetero_tvm.config import BuildConfig
from hetero_tvm.errors import BadInput
from hetero_tvm.llm_build import build as build_llm
from hetero_tvm.progress import Progress
from tests.hetero_tvm.tiny_llm import TinyLlm, build

# Weights of more than a page, or none would be kept apart.
SPEC = TinyLlm(layers=1, hidden=128, inner=96, vocabulary=300)


class Steps(Progress):
    """Remembers what was done; may be interrupted at a step."""

    def __init__(self, interrupt_at=None):
        super().__init__(quiet=True)
        self.names = []
        self.at = interrupt_at

    def step(self, name, detail=""):
        self.names.append(name)
        if name == self.at:
            raise KeyboardInterrupt
        super().step(name, detail)


@pytest.fixture
def folder(tmp_path):
    return build(SPEC, tmp_path / "model")


@pytest.fixture
def made(folder, tmp_path, opencl):
    """Builds into a cache of its own: the artefact's bytes, and what was done."""

    def make(cache="cache", interrupt_at=None, most_bytes=1 << 30, **flags):
        output = tmp_path / "llm.so"
        output.unlink(missing_ok=True)
        config = BuildConfig(
            model=folder,
            target="host",
            output=output,
            cache_dir=tmp_path / cache,
            llm_cache_bytes=most_bytes,
            **flags,
        )
        steps = Steps(interrupt_at)
        build_llm(config, prefill=[8], capacity=24, progress=steps)
        return output.read_bytes(), steps.names

    return make


def test_an_interrupted_build_goes_on_at_its_step(made, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        made(interrupt_at="lower_gpu 8")
    assert not (tmp_path / "llm.so").exists()
    found, names = made()
    assert [name for name in names if name.endswith(" 1")] == ["kept 1"]
    assert "place 8" in names
    whole, names = made(cache="another")
    assert "place 1" in names
    assert found == whole  # byte by byte


def test_the_same_build_is_not_made_twice_and_with_other_flags_it_is(made, folder):
    first, _ = made(devices="gpu")
    again, names = made(devices="gpu")
    assert names == ["kept 1", "reference", "kept 8", "share_npu", "codegen", "link", "compare"]
    assert again == first
    assert "place 1" in made(devices="gpu", gpu_share=0.5)[1]
    build(dataclasses.replace(SPEC, hidden=64), folder)
    assert "place 1" in made(devices="gpu")[1]


def test_regions_of_the_npu_find_their_weights_again(made, tmp_path):
    first, _ = made(devices="npu")
    again, names = made(devices="npu")
    assert "kept 8" in names
    assert again == first
    assert bundle.read_manifest(tmp_path / "llm.so").npu_regions
    session = hetero_tvm.load_llm(tmp_path / "llm.so")
    assert len(list(session.generate([1, 2, 3], max_new_tokens=4, stop_tokens=()))) == 4


def _damage(path):
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


def test_what_is_damaged_or_gone_is_made_again(made, tmp_path):
    first, _ = made(devices="gpu")
    steps, weights = (tmp_path / "cache" / part for part in (kept_steps.STEPS, kept_steps.WEIGHTS))
    for part in (steps, weights):
        for path in part.iterdir():
            _damage(path)
        again, names = made(devices="gpu")
        assert "lower_gpu 1" in names
        assert again == first


def test_the_cache_is_bounded(made, tmp_path):
    made(devices="gpu")
    old = tmp_path / "cache" / kept_steps.STEPS / "old.bin"
    old.write_bytes(bytes(1 << 20))
    os.utime(old, (1e9, 1e9))
    assert "kept 8" in made(devices="gpu", most_bytes=1000)[1]
    assert not old.exists()
    # What a build used itself stays.
    assert len(list((tmp_path / "cache" / kept_steps.STEPS).iterdir())) == 3


def test_ctrl_c_then_the_same_command_goes_on(folder, tmp_path, opencl):
    cache = tmp_path / "cache"
    output = tmp_path / "llm.so"
    flags = ["-t", "host", "-o", str(output), "--context", "24", "--prefill", "8"]
    command = [sys.executable, "-m", "hetero_tvm.build", str(folder), *flags]
    env = {**os.environ, "HETERO_CACHE_DIR": str(cache), "HETERO_LLM_CACHE_GB": "1"}
    first = subprocess.Popen(command, env=env, stderr=subprocess.PIPE, text=True)
    until = time.monotonic() + 60
    while not list(cache.glob(f"{kept_steps.STEPS}/*.bin")) and time.monotonic() < until:
        time.sleep(0.01)
    first.send_signal(signal.SIGINT)
    said = first.communicate()[1]
    assert first.returncode == 130, said
    assert "Traceback" not in said
    assert not output.exists()
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=True)
    assert "steps of 1 tokens: kept by an earlier build" in done.stderr
    assert "place 1 " not in done.stderr
    assert output.exists()


def test_nothing_is_kept_where_the_user_says_so(made, folder, tmp_path, monkeypatch):
    monkeypatch.setenv("HETERO_LLM_CACHE_GB", "0")
    monkeypatch.setenv("HETERO_CACHE_DIR", str(tmp_path / "none"))
    hetero_tvm.build(
        folder, target="host", output=tmp_path / "x.so", devices="gpu", context=24, prefill=[8]
    )
    assert not (tmp_path / "none" / kept_steps.STEPS).exists()
    assert not (tmp_path / "none" / kept_steps.WEIGHTS).exists()
    monkeypatch.setenv("HETERO_LLM_CACHE_GB", "much")
    with pytest.raises(BadInput, match="HETERO_LLM_CACHE_GB=much: gigabytes, 0 or more"):
        BuildConfig(model=folder, target="host", output=None)
