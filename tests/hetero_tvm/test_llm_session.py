"""A whole language model on the OpenCL device: built once, asked in many ways."""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import hetero_tvm
from hetero_tvm import runtime
from hetero_tvm.bundle import read_manifest
from hetero_tvm.errors import BadInput
from schedules import cost_model
from tests.hetero_tvm.tiny_llm import Reference, TinyLlm, build

TOLERANCE = 2e-5  # float32, see test_llm_import
CONTEXT = 40
PROMPT = [5, 9, 33, 60, 2, 17, 41, 8, 8, 30, 12]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return build(TinyLlm(window=9), tmp_path_factory.mktemp("llm") / "model")


@pytest.fixture(scope="module")
def artefact(folder, opencl):
    output = folder.parent / "llm.so"
    hetero_tvm.build(
        folder, target="host", output=output, devices="gpu", context=CONTEXT, prefill=[4]
    )
    return output


@pytest.fixture
def session(artefact):
    return hetero_tvm.load_llm(artefact)


def reference_logits(folder, tokens):
    return Reference(folder / "model.onnx").step(tokens)


def assert_same(got, want):
    assert np.abs(got - want).max() <= TOLERANCE * np.abs(want).max()


def test_greedy_tokens_are_those_of_onnx_runtime(session, folder):
    want = Reference(folder / "model.onnx").greedy(PROMPT, 24)
    got = list(session.generate(PROMPT, max_new_tokens=24, stop_tokens=()))
    assert got == want
    # The last token is only said, not taken in.
    assert session.tokens == (*PROMPT, *want[:-1])


def test_stops_at_a_stop_token_and_does_not_say_it(session, folder):
    want = Reference(folder / "model.onnx").greedy(PROMPT, 12)
    stop = want[5]
    got = list(session.generate(PROMPT, max_new_tokens=12, stop_tokens=[stop]))
    assert got == want[: want.index(stop)]


def test_ends_where_the_cache_is_full(session):
    got = list(session.generate(PROMPT, max_new_tokens=1000, stop_tokens=()))
    assert len(PROMPT) + len(got) == CONTEXT + 1
    assert len(session.tokens) == CONTEXT


def test_what_was_in_the_cache_before_a_reset_does_not_matter(session, folder):
    session.prefill(PROMPT[::-1] * 3)
    session.reset()
    assert_same(session.prefill(PROMPT), reference_logits(folder, PROMPT))


def test_reset_to_a_prefix_keeps_it(session, folder):
    session.prefill(PROMPT)
    session.reset(5)
    assert session.tokens == tuple(PROMPT[:5])
    want = reference_logits(folder, [*PROMPT[:5], 7, 7])
    assert_same(session.prefill([7, 7]), want)


def test_fork_goes_its_own_way(session, folder):
    session.prefill(PROMPT)
    other = session.fork()
    other.decode(1)
    session.decode(50)
    assert_same(other.decode(3), reference_logits(folder, [*PROMPT, 1, 3]))
    assert_same(session.decode(3), reference_logits(folder, [*PROMPT, 50, 3]))


def test_saved_cache_goes_on_in_another_session(session, artefact, folder, tmp_path):
    session.prefill(PROMPT)
    session.save(tmp_path / "kv.npz")
    other = hetero_tvm.load_llm(artefact)
    other.load(tmp_path / "kv.npz")
    assert other.tokens == tuple(PROMPT)
    assert_same(other.decode(4), reference_logits(folder, [*PROMPT, 4]))


def test_cache_is_one_piece_of_memory_that_never_moves_or_grows(session):
    def addresses():
        return [runtime.host_view(cache).ctypes.data for cache in session._caches.values()]

    before = addresses()
    session.prefill(PROMPT)
    for token in range(20):
        session.decode(token)
    assert addresses() == before
    assert session.cache_bytes == 2 * 2 * 2 * CONTEXT * 16 * 4  # layers, K and V, heads, .., float


def test_a_token_costs_the_same_work_early_and_late_but_for_attention(session):
    """Launches, copies and memory of a step do not depend on how much the cache holds."""

    def spent(token):
        runtime.reset_counters()
        session.decode(token)
        found = runtime.counters()
        return {name: found[name] for name in ("kernel_launches", "copies", "bytes_allocated")}

    session.decode(1)
    early = spent(2)
    session.prefill(PROMPT * 2)
    assert early["kernel_launches"] > 0
    # What a step allocates is its logits, in a pool that rounds: no more than a few pages.
    assert early["bytes_allocated"] <= 4 * 4096
    assert spent(3) == early


def test_products_on_the_npu_give_the_same_tokens(folder, session, tmp_path):
    output = tmp_path / "npu.so"
    hetero_tvm.build(
        folder, target="host", output=output, devices="npu", context=CONTEXT, prefill=[4]
    )
    other = hetero_tvm.load_llm(output)
    assert other.manifest.npu_regions > 0
    want = list(session.generate(PROMPT, max_new_tokens=12, stop_tokens=()))
    assert list(other.generate(PROMPT, max_new_tokens=12, stop_tokens=())) == want
    assert_same(other.decode(5), session.decode(5))


def test_a_prompts_attention_on_the_npu_gives_the_same_tokens(
    folder, session, tmp_path, monkeypatch
):
    monkeypatch.setattr(cost_model, "_EMPTY_IN_PROMPT", -1e4)  # the GPU reads it so often
    output = tmp_path / "npu.so"
    result = hetero_tvm.build(
        folder, target="host", output=output, devices="npu", context=CONTEXT, prefill=[4]
    )
    devices = {
        rows: {op.device for op in plan.ops if op.op == "hetero.attention"}
        for rows, plan in result.variants.items()
    }
    assert devices == {1: {"gpu"}, 4: {"npu"}}
    other = hetero_tvm.load_llm(output)
    assert len(PROMPT) > 4  # chunks behind others, and one that is filled up
    want = list(session.generate(PROMPT, max_new_tokens=12, stop_tokens=()))
    assert list(other.generate(PROMPT, max_new_tokens=12, stop_tokens=())) == want
    assert_same(other.prefill([3, 5, 7, 9, 11]), session.prefill([3, 5, 7, 9, 11]))


def cosine(got, want):
    got, want = got.astype(np.float64), want.astype(np.float64)
    return float(got @ want / np.linalg.norm(got) / np.linalg.norm(want))


def test_float16_file_follows_the_float32_model(tmp_path, opencl):
    whole = build(TinyLlm(packed=False), tmp_path / "float32")
    half = build(TinyLlm(packed=False, dtype="float16"), tmp_path / "float16")
    output = tmp_path / "half.so"
    hetero_tvm.build(
        half, target="host", output=output, devices="gpu", context=CONTEXT, prefill=[4]
    )
    session, reference = hetero_tvm.load_llm(output), Reference(whole / "model.onnx")
    assert session.cache_bytes == 2 * 2 * 2 * CONTEXT * 16 * 2
    got = session.prefill(PROMPT)
    assert got.dtype == np.float32
    assert cosine(got, reference.step(PROMPT)) > 0.9999  # float16 is right to 3 or 4 digits
    for token in (7, 60, 7, 13):
        assert cosine(session.decode(token), reference.step([token])) > 0.9999


@pytest.mark.skipif(
    importlib.util.find_spec("onnxruntime_qnn") is None, reason="onnxruntime-qnn is not installed"
)
def test_layers_like_smollm2s_on_the_simulated_htp(tmp_path, opencl):
    """Both devices work; the NPU's part is compiled for HTP, and computes in float16."""
    spec = TinyLlm(heads=9, groups=3, depth=64, hidden=576, inner=1536, vocabulary=512)
    folder = build(spec, tmp_path / "model")
    output = tmp_path / "htp.so"
    result = hetero_tvm.build(
        folder, target="snapdragon-8-gen-3", output=output, context=32, prefill=[8]
    )
    assert all(plan.regions > 0 for plan in result.variants.values())
    session, reference = hetero_tvm.load_llm(output), Reference(folder / "model.onnx")
    assert session.simulated
    assert cosine(session.prefill(PROMPT), reference.step(PROMPT)) > 0.999
    for token in (7, 60):
        assert cosine(session.decode(token), reference.step([token])) > 0.999


@pytest.mark.parametrize(
    ("tokens", "message"),
    [
        pytest.param([], "no tokens given", id="nothing"),
        pytest.param([3, 64], "token 64: the model's are 0 to 63", id="unknown_token"),
        pytest.param(
            [1] * 41, "41 tokens in one sequence, this artefact holds 40; shorten", id="too_long"
        ),
    ],
)
def test_refuses_bad_tokens_and_stays_as_it_was(session, tokens, message):
    session.prefill([1, 2])
    if len(tokens) > 40:
        session.reset()
    before = session.tokens
    with pytest.raises(BadInput, match=message):
        session.prefill(tokens)
    assert session.tokens == before


def test_refuses_a_file_that_is_no_cache(session, tmp_path):
    (tmp_path / "kv.npz").write_bytes(b"nothing")
    with pytest.raises(BadInput, match="not a saved cache"):
        session.load(tmp_path / "kv.npz")


def test_is_not_run_as_a_function(artefact):
    with pytest.raises(BadInput, match=r"a language model; use hetero_tvm\.load_llm"):
        hetero_tvm.load(artefact)


def test_damaged_weights_are_found_before_anything_is_loaded(artefact, tmp_path):
    manifest = read_manifest(artefact)
    copy = tmp_path / "llm.so"
    shutil.copyfile(artefact, copy)
    with copy.open("r+b") as file:
        file.seek(manifest.weights.offset + 100)
        file.write(b"\xff\x00\xff")
    with pytest.raises(BadInput, match="its weights do not match their checksum"):
        hetero_tvm.load_llm(copy)


IN_MEMORY_OF = """
import sys
import hetero_tvm
from hetero_tvm import runtime
from hetero_tvm.bundle import read_manifest
from pathlib import Path
path, kind, *prompt = sys.argv[1:]
runtime.configure(opencl_memory=kind)
part = read_manifest(Path(path)).weights
mapped = runtime.map_weights(Path(path), offset=part.offset, nbytes=part.nbytes)
session = hetero_tvm.load_llm(path)
print(mapped is not None, *session.generate([*map(int, prompt)], max_new_tokens=9, stop_tokens=()))
"""


@pytest.mark.parametrize(("kind", "maps"), [("svm", True), ("buffer", True), ("coarse_svm", False)])
def test_weights_are_read_where_the_file_is_mapped(artefact, folder, kind, maps):
    """Or copied, where memory is of a kind that takes no foreign pages; the same numbers."""
    here = next(device for device in runtime.opencl_devices() if device["selected"])
    if here["memory"] != "svm" or here["type"] != "cpu":
        pytest.skip(f"{here['name']} may have no such memory")
    done = subprocess.run(
        [sys.executable, "-c", IN_MEMORY_OF, str(artefact), kind, *map(str, PROMPT)],
        capture_output=True,
        text=True,
        check=True,
    )
    mapped, *tokens = done.stdout.split()
    assert mapped == str(maps)
    assert [*map(int, tokens)] == Reference(folder / "model.onnx").greedy(PROMPT, 9)


def test_a_file_that_is_not_there_is_not_mapped(opencl, tmp_path):
    runtime.open_opencl()
    assert runtime.map_weights(tmp_path / "none.so", offset=0, nbytes=4096) is None
    with pytest.raises(ValueError, match="4096 bytes at -4096"):
        runtime.map_weights(tmp_path / "none.so", offset=-4096, nbytes=4096)


def test_a_view_of_another_type_lies_inside(opencl, tmp_path):
    file = tmp_path / "weights"
    np.arange(2048, dtype=np.float32).tofile(file)
    mapped = runtime.map_weights(file, offset=4096, nbytes=4096)
    if mapped is None:
        pytest.skip("this device copies")
    view = runtime.view_as(mapped, 128, (4, 5), "float32")
    np.testing.assert_array_equal(
        runtime.host_view(view), np.arange(1056, 1076, dtype=np.float32).reshape(4, 5)
    )
    with pytest.raises(ValueError, match="reaches beyond the tensor's 4096 bytes"):
        runtime.view_as(mapped, 4000, (4, 5), "float64")


def _weights_in_memory(path):
    """Of the mappings of an artefact's weights, in kB."""
    offset = f"{read_manifest(path).weights.offset:08x}"
    found, ours = 0, []
    for line in Path("/proc/self/smaps").read_text().splitlines():
        key, *fields = line.split()
        if not key.endswith(":"):
            is_ours = fields[-1:] == [str(path)] and fields[1] == offset
            ours += [line] if is_ours else []
        elif key == "Rss:" and is_ours:
            found += int(fields[0])
    assert ours
    return found


def test_weights_that_are_not_packed_give_the_same_numbers(tmp_path, opencl):
    folder = build(TinyLlm(), tmp_path / "model")
    output = tmp_path / "npu.so"
    hetero_tvm.build(
        folder, target="host", output=output, devices="npu", context=CONTEXT, prefill=[4]
    )
    with runtime.unpacked_npu_weights():
        plain = hetero_tvm.load_llm(output)
    assert _weights_in_memory(output) == 0  # though loading has read them
    logits = hetero_tvm.load_llm(output).prefill(PROMPT).copy()
    assert_same(plain.prefill(PROMPT), logits)
