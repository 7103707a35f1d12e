import json
import tarfile
from pathlib import PurePosixPath

import emitted
import pytest
import tuning_cases as cases
from attention_cases import attention
from tvm import relax

from hetero_tvm.candidates.pack import PROGRAM_FOLDER
from schedules.attention import prefill_kernel, step_kernel
from schedules.attention_space import PAST


def test_plain_files_below_one_folder(tmp_path, monkeypatch):
    """Nothing that unpacking could put elsewhere, and no library of ours."""
    packed, job, told = emitted.emit(tmp_path, monkeypatch)
    assert (packed.kernels, packed.candidates, told) == (1, 3, [])
    with tarfile.open(tmp_path / "c.tar") as tar:
        members = tar.getmembers()
    assert packed.bytes == (tmp_path / "c.tar").stat().st_size
    for member in members:
        path = PurePosixPath(member.name)
        assert member.isfile() and not path.is_absolute() and ".." not in path.parts
        assert path.parts[0] == PROGRAM_FOLDER
    about = json.loads((tmp_path / PROGRAM_FOLDER / "candidates.json").read_text())
    assert about["id"] == packed.id and about["kernels"][0]["key"] == job.kernel.key
    kept = json.loads((tmp_path / "db" / "emitted" / f"{packed.id}.json").read_text())
    assert kept == about


def test_inputs_are_seeds_and_results_float64s(tmp_path, monkeypatch):
    emitted.emit(tmp_path, monkeypatch)
    root = tmp_path / PROGRAM_FOLDER
    (kernel,) = json.loads((root / "candidates.json").read_text())["kernels"]
    assert [draw["edge"] for draw in kernel["draws"]] == [False, True]
    assert kernel["outputs"] == [2] and kernel["expected"] == [[2, "float32"]]
    assert (root / kernel["draws"][0]["expected"][0]).stat().st_size == 16 * 64 * 4
    assert next(c["name"] for c in kernel["candidates"]) == "k0_default"


@pytest.mark.parametrize(
    ("kernel", "case"),
    [
        pytest.param(prefill_kernel, attention(rows=9), id="prefill"),
        pytest.param(step_kernel, attention(window=40, value_dim=7), id="decode"),
    ],
)
def test_attention_goes_along_with_a_cache_that_is_half_full_then_full(
    kernel, case, tmp_path, monkeypatch
):
    """Its results are right where nothing but the tar is, for every tile."""
    packed, _, told = emitted.emit(tmp_path, monkeypatch, func=kernel(case, cases.GPU))
    assert (packed.kernels, told) == (1, []) and packed.candidates > 0
    listing = json.loads((tmp_path / PROGRAM_FOLDER / "candidates.json").read_text())
    most = case.max_context - case.rows
    assert [draw["fixed"] for draw in listing["kernels"][0]["draws"]] == [
        [[PAST, most // 2]],
        [[PAST, most]],
    ]
    done = emitted.run(tmp_path)
    assert done.returncode == 0, done.stderr
    found = emitted.results(tmp_path)["results"]
    assert len(found) == packed.candidates + 1
    assert {result["how"] for result in found.values()} == {"ok"}


def test_what_the_runner_cannot_run_is_left_out(tmp_path, monkeypatch):
    (func,) = cases.unscheduled(lambda x: relax.op.abs(x), ((16, 64), "bfloat16"))
    packed, _, told = emitted.emit(tmp_path, monkeypatch, func=func)
    assert packed.kernels == 0 and "the runner knows no bfloat16" in told[0]
