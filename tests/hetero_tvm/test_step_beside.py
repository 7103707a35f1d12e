"""A step that a process beside ours lowers is the one that would be lowered here."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
from pathlib import Path

import pytest

from hetero_tvm import kept_steps, step_beside
from hetero_tvm.config import BuildConfig
from hetero_tvm.llm_build import build as build_llm
from hetero_tvm.progress import Progress
from tests.hetero_tvm.tiny_llm import TinyLlm, build

SPEC = TinyLlm(layers=1, hidden=128, inner=96, vocabulary=300)


class Steps(Progress):
    """Remembers what was done and said; may be interrupted at a step."""

    def __init__(self, interrupt_at=None):
        super().__init__(quiet=True)
        self.names, self.notes, self.weights = [], [], {}
        self.at = interrupt_at

    def begin(self, weights):
        self.weights = weights

    def step(self, name, detail=""):
        self.names.append(name)
        if name == self.at:
            raise KeyboardInterrupt

    def note(self, message):
        self.notes.append(message)


@pytest.fixture
def make(tmp_path, opencl):
    """Builds into a cache of its own: the artefact's bytes, and what was done."""
    folder = build(SPEC, tmp_path / "model")

    def make(cache, interrupt_at=None, most_bytes=1 << 30, prefill=(8, 12), **flags):
        config = BuildConfig(
            model=folder,
            target="host",
            output=tmp_path / "llm.so",
            cache_dir=tmp_path / cache,
            llm_cache_bytes=most_bytes,
            **flags,
        )
        steps = Steps(interrupt_at)
        build_llm(config, prefill=prefill, capacity=24, progress=steps)
        return config.output.read_bytes(), steps

    return make


@pytest.fixture
def beside(monkeypatch):
    """Small models' steps are lowered beside too, whatever cores there are."""
    monkeypatch.setattr(step_beside, "pays", lambda model: True)


def _children():
    tasks = Path("/proc/self/task").glob("*/children")
    return {pid for task in tasks for pid in task.read_text().split()}


@pytest.mark.parametrize("flags", [{"devices": "gpu"}, {"devices": "npu"}, {"gpu_share": 0.5}])
def test_it_is_the_same_byte_by_byte(make, monkeypatch, tmp_path, flags):
    here, steps = make("here", **flags)
    assert "lower_gpu 12" in steps.names
    monkeypatch.setattr(step_beside, "pays", lambda model: True)
    there, steps = make("there", **flags)
    assert "beside 12" in steps.names
    assert not [name for name in steps.names if name in ("import 12", "place 12", "lower_gpu 12")]
    assert set(steps.names) == set(steps.weights)  # all that is shown was announced
    assert there == here
    assert "kept 12" in make("there", **flags)[1].names
    names = [
        {path.name for path in (tmp_path / c / "llm_steps").iterdir()} for c in ("here", "there")
    ]
    assert names[0] == names[1]


def test_where_it_fails_the_step_is_lowered_here(make, beside, monkeypatch):
    wanted, _ = make("whole")
    monkeypatch.setattr(step_beside, "_MODULE", "hetero_tvm.there_is_no_such_module")
    found, steps = make("failed")
    assert "lower_gpu 12" in steps.names
    assert found == wanted


def test_ctrl_c_leaves_no_process_and_no_file(make, beside, tmp_path):
    before = _children()
    with pytest.raises(KeyboardInterrupt):
        make("cache", interrupt_at="lower_gpu 8")
    assert _children() == before
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []
    kept = [*tmp_path.glob(f"cache/{kept_steps.STEPS}/.*"), *tmp_path.glob("cache/llm_weights/.*")]
    assert kept == []


def test_one_step_is_left_beside_only_where_another_is_lowered_meanwhile(make, beside):
    """Before the first build ONNX Runtime runs, behind the first step; then there is no other."""
    assert "beside 8" not in make("cache", prefill=[8])[1].names
    names = make("cache", prefill=[8], gpu_share=0.5)[1].names
    assert names[-6:] == ["reference", "beside 8", "share_npu", "codegen", "link", "compare"]


def test_where_nothing_is_kept_nothing_is_lowered_beside(make, beside):
    assert "lower_gpu 12" in make("cache", most_bytes=0)[1].names


def test_a_process_whose_parent_is_another_ends():
    run = subprocess.run(
        [sys.executable, "-m", "hetero_tvm.step_beside"],
        input='{"parent": 1}\n',
        text=True,
        capture_output=True,
        check=False,
        timeout=60,
    )
    assert run.returncode == 143
    assert run.stdout == ""


def test_small_models_and_a_single_core_have_none(tmp_path, monkeypatch):
    model = tmp_path / "model.onnx"
    model.write_bytes(b"")
    assert not step_beside.pays(model)
    with (tmp_path / "model.onnx.data").open("wb") as file:
        file.truncate(1 << 27)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1})
    assert step_beside.pays(model)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0})
    assert not step_beside.pays(model)


def test_a_configuration_arrives_as_it_was_sent(tmp_path):
    config = BuildConfig(
        model=tmp_path,
        target="host",
        output=tmp_path / "a.so",
        devices="gpu+npu",
        split=False,
        off_npu=("a", "b*"),
        gpu_share=0.5,
        memory_limit=1 << 30,
        cache_dir=tmp_path / "cache",
    )
    sent = step_beside._plain(config)
    assert (
        step_beside._config({k: list(v) if isinstance(v, tuple) else v for k, v in sent.items()})
        == config
    )
    fields = {field.name for field in dataclasses.fields(BuildConfig)}
    assert fields - sent.keys() == step_beside._NOT_SENT
