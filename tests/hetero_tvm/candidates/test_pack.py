import json
import tarfile
from pathlib import PurePosixPath

import emitted
import tuning_cases as cases
from tvm import relax

from hetero_tvm.candidates.pack import PROGRAM_FOLDER


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


def test_what_the_runner_cannot_run_is_left_out(tmp_path, monkeypatch):
    (func,) = cases.unscheduled(lambda x: relax.op.abs(x), ((16, 64), "bfloat16"))
    packed, _, told = emitted.emit(tmp_path, monkeypatch, func=func)
    assert packed.kernels == 0 and "the runner knows no bfloat16" in told[0]
