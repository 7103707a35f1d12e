"""A small tar of candidates, unpacked; and the program in it, run as on a machine without us."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
import tarfile

import pytest
import tuning_cases as cases

from hetero_tvm import runtime
from hetero_tvm.candidates.pack import PROGRAM_FOLDER, pack
from schedules import kernel_search
from schedules.proposals import propose
from schedules.tuning_db import TuningDb
from schedules.tuning_records import Where

FIRST = Where(device="", driver="", limits=cases.LIMIT.text)


def emit(folder, monkeypatch, count=3, func=None):
    """The tar `folder/c.tar` and its contents in `folder/hetero_candidates`; database `db`."""
    pytest.importorskip("xgboost")
    monkeypatch.setattr(kernel_search, "_POPULATION", 10)
    monkeypatch.setattr(kernel_search, "_FRESH", 8)
    monkeypatch.setattr(kernel_search, "_GENERATIONS", 1)
    common = {"limit": cases.LIMIT, "target": cases.TARGET, "seed": 1}
    jobs = [cases.job(func or cases.addition())]
    proposals = propose(jobs, TuningDb(folder / "db"), FIRST, count=count, **common)
    told = []
    packed = pack(
        folder / "c.tar", proposals, only=None, db=folder / "db", tell=told.append, **common
    )
    unpack(folder)
    return packed, jobs[0], told


def unpack(folder):
    """`c.tar`, as a user does."""
    with tarfile.open(folder / "c.tar") as tar:
        # Not an argument before Python 3.11.4.
        tar.extraction_filter = getattr(tarfile, "data_filter", None)
        tar.extractall(folder)


def choices(folder):
    """Sketch and choices of every candidate but the default."""
    about = json.loads((folder / PROGRAM_FOLDER / "candidates.json").read_text())
    return [
        json.dumps(chosen["choice"], sort_keys=True)
        for kernel in about["kernels"]
        for chosen in kernel["candidates"][1:]
    ]


def change(folder, name, content):
    """Replace a file of the candidates, and its hash in the list."""
    root = folder / PROGRAM_FOLDER
    (root / name).write_bytes(content)
    about = json.loads((root / "candidates.json").read_text())
    about["files"][name] = hashlib.sha256(content).hexdigest()
    (root / "candidates.json").write_text(json.dumps(about))


def library():
    """An OpenCL library to load by its path; skips where there is none."""
    found = runtime.library_paths()["opencl.fallback_library"]
    if found is None:
        pytest.skip("no OpenCL library of a package")
    return str(found)


def run(folder, *flags):
    """`python -I run.py`, with nothing of this environment."""
    return subprocess.run(
        [sys.executable, "-I", f"{PROGRAM_FOLDER}/run.py", "--library", library(), *flags],
        capture_output=True,
        text=True,
        check=False,
        cwd=folder,
        env={"PATH": "/usr/bin:/bin"},
    )


def results(folder, name="results.json"):
    """What it wrote."""
    return json.loads((folder / name).read_text())
