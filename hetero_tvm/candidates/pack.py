"""Candidates for a device that cannot be reached, as one tar that anybody can run.

    hetero_candidates/
      run.py                 the program: Python and OpenCL, nothing else
      README.txt             what to type
      candidates.json        every file's hash, every kernel's candidates, seeds of inputs
      kernels/K.cl           OpenCL C of one candidate
      expected/K_D_P.bin     what kernel K has to write to parameter P for the inputs of draw D
      hetero_tvm/            the program's modules
    schedules/             how it races

What was sent is kept in the database's folder, `emitted/<id>.json`, so that results can be told
from those of other candidates.
"""

from __future__ import annotations

import dataclasses
import hashlib
import io
import json
import os
import tarfile
import zlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tvm

from hetero_tvm.candidates.runner import FORMAT, PROGRAM
from hetero_tvm.candidates.values import DTYPES, drawn
from schedules import race
from schedules.attention_space import PAST
from schedules.launches import Launches, NoLaunch, launches_of
from schedules.limits import Limits
from schedules.proposals import Proposal
from schedules.trials import plain
from schedules.tuner import Job
from schedules.tuning_records import Where, kernel_record
from schedules.verify import TOLERANCE, Reference

PROGRAM_FOLDER = "hetero_candidates"
EMITTED = "emitted"
_MODULES = ("runner", "server", "opencl", "values")
_DRAWS = (False, True)  # edge values?
_PROGRAM = """\
import sys
from pathlib import Path

if sys.version_info < (3, 9):
    sys.exit("run.py needs Python 3.9 or newer")
HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))

from hetero_tvm.candidates.runner import main

if __name__ == "__main__":
    sys.exit(main(HERE))
"""
_README = """\
Candidate kernels of hetero-tvm, to be measured on this machine's OpenCL device.

    python3 run.py

needs Python 3.9 or newer and an OpenCL library, and no network. It writes results.json; take that
file back to where this folder was made, and there type

    hetero-tvm tune --absorb results.json --db THE_DATABASE
"""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Packed:
    """What went into a tar."""

    id: str
    kernels: int
    candidates: int
    bytes: int


def pack(
    path: Path,
    proposals: Sequence[Proposal],
    *,
    limit: Limits,
    target: tvm.target.Target,
    seed: int,
    only: Where | None,
    db: Path,
    tell: Callable[[str], None],
    show: Callable[[int], None] = lambda done: None,
) -> Packed:
    """Write the tar `path`, and keep in the folder `db` what was sent.

    Args:
        path: of the tar.
        proposals: what to measure.
        limit, target: of the device.
        seed: of the inputs.
        only: the device and driver that they are for; None: any.
        db: of the database.
        tell: called with a line about each kernel that is left out.
        show: called with how many candidates are built.
    """
    content: dict[str, bytes] = {}
    kernels: list[dict[str, Any]] = []
    built = 0
    for proposal in proposals:
        number = len(kernels)
        kept = _candidates(proposal, number, target, content, tell)
        if kept is None:
            continue
        built += len(kept) - 1
        show(built)
        kernels.append({**_inputs(proposal.job, number, seed, content), "candidates": kept})
    files = {name: hashlib.sha256(data).hexdigest() for name, data in content.items()}
    about: dict[str, Any] = {
        "format": FORMAT,
        "only": None if only is None else {"device": only.device, "driver": only.driver},
        "limits": limit.text,
        "kernels": kernels,
        "files": files,
    }
    about["id"] = hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()[:32]
    content["candidates.json"] = json.dumps(about).encode()
    _write_tar(path, {**content, **_program()})
    _keep(db, about)
    return Packed(id=about["id"], kernels=len(kernels), candidates=built, bytes=path.stat().st_size)


def pack_program(path: Path) -> None:
    """Write a tar of the program alone, to ask a device what it is."""
    _write_tar(path, _program())


def _candidates(
    proposal: Proposal,
    number: int,
    target: tvm.target.Target,
    content: dict[str, bytes],
    tell: Callable[[str], None],
) -> list[dict[str, Any]] | None:
    """The default and the candidates of a kernel; None where it cannot be run alone."""
    job = proposal.job
    unknown = {dtype for _, dtype in job.kernel.parameters} - set(DTYPES)
    if unknown:
        tell(f"{job.kernel.name} is left out: the runner knows no {', '.join(sorted(unknown))}")
        return None
    try:
        default = launches_of(job.default, target)
    except (NoLaunch, tvm.error.InternalError, RuntimeError) as error:
        tell(f"{job.kernel.name} is left out: {_first(error)}")
        return None
    kept = [_entry(f"k{number}_default", default, content)]
    lost = 0
    for place, candidate in enumerate(proposal.candidates):
        try:
            launches = launches_of(candidate.mod, target)
        except (NoLaunch, tvm.error.InternalError, RuntimeError):
            lost += 1
            continue
        kept.append(
            {
                **_entry(f"k{number}_{place}", launches, content),
                "choice": {"sketch": candidate.choice.sketch, **candidate.choice.as_dict},
                "scheduled": candidate.scheduled,
            }
        )
    if lost:
        tell(f"{job.kernel.name}: {lost} schedules cannot be built and are left out")
    return kept


def _entry(name: str, launches: Launches, content: dict[str, bytes]) -> dict[str, Any]:
    file = f"kernels/{name}.cl"
    content[file] = launches.source.encode()
    return {
        "name": name,
        "file": file,
        "launches": [dataclasses.asdict(step) for step in launches.steps],
        "scratch": list(launches.scratch),
    }


def _inputs(job: Job, number: int, seed: int, content: dict[str, bytes]) -> dict[str, Any]:
    """What a kernel is, which inputs it is run on, and what it has to write."""
    reference = Reference(plain(job.func))
    draws, dtypes = [], {}
    for lane, edge in enumerate(_DRAWS):
        # Attention is timed with its cache half full; its edge is a full one, with usual values:
        # scores of large ones are more than float32 can tell.
        fixed: dict[int, int] = {}
        if reference.written is not None:
            most = reference.written.most_past
            fixed, edge = {PAST: most if edge else most // 2}, False
        draw_seed = 1000 * seed + lane
        arrays: list[np.ndarray] = []
        checks: list[int | None] = []
        for place, (shape, dtype) in enumerate(reference.parameters):
            if place in reference.outputs:
                arrays.append(np.zeros(shape, dtype))
                checks.append(None)
                continue
            if place in fixed:
                data = np.full(shape, fixed[place], dtype).tobytes()
            else:
                data = drawn(draw_seed, place, int(np.prod(shape)), dtype, edge=edge)
            arrays.append(np.frombuffer(data, dtype).reshape(shape))
            checks.append(zlib.crc32(data))
        expected = []
        for place, array in reference.compute(arrays).items():
            name = f"expected/k{number}_{lane}_{place}.bin"
            with np.errstate(over="ignore"):  # beyond float32 is infinite there too
                kept = array.astype("float32") if array.dtype.kind == "f" else array
            content[name], dtypes[place] = kept.tobytes(), str(kept.dtype)
            expected.append(name)
        draws.append(
            {
                "seed": draw_seed,
                "edge": edge,
                "fixed": [list(pair) for pair in fixed.items()],
                "crc32": checks,
                "expected": expected,
            }
        )
    written = [str(reference.parameters[place][1]) for place in reference.outputs]
    return {
        "key": job.kernel.key,
        "name": job.kernel.name,
        "record": kernel_record(job.kernel),
        "parameters": [[list(shape), dtype] for shape, dtype in reference.parameters],
        "outputs": list(reference.outputs),
        "expected": [[place, dtypes[place]] for place in reference.outputs],
        "tolerance": max(TOLERANCE.get(dtype, 0.0) for dtype in written),
        "draws": draws,
    }


def _program() -> dict[str, bytes]:
    here = Path(__file__).parent
    files = {
        f"hetero_tvm/candidates/{name}.py": (here / f"{name}.py").read_bytes() for name in _MODULES
    }
    return {
        "schedules/__init__.py": b"",
        "schedules/race.py": Path(race.__file__).read_bytes(),
        PROGRAM: _PROGRAM.encode(),
        "README.txt": _README.encode(),
        "hetero_tvm/__init__.py": b"",
        "hetero_tvm/candidates/__init__.py": b"",
        **files,
    }


def _write_tar(path: Path, files: Mapping[str, bytes]) -> None:
    """Plain files below one folder; whole or not at all."""
    beside = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with tarfile.open(beside, "w") as tar:
            for name in sorted(files):
                about = tarfile.TarInfo(f"{PROGRAM_FOLDER}/{name}")
                about.size = len(files[name])
                about.mode = 0o644
                tar.addfile(about, io.BytesIO(files[name]))
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)


def _keep(db: Path, about: Mapping[str, Any]) -> None:
    folder = db / EMITTED
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / f"{about['id']}.json"
    beside = file.with_suffix(".part")
    beside.write_text(json.dumps(about))
    beside.replace(file)


def _first(error: BaseException) -> str:
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[-1][:200]
