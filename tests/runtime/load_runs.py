"""Many threads and processes on two artefacts: no wrong answer, and nothing grows.

    python tests/runtime/load_runs.py [--minutes 60] [--threads 8] [--processes 4]
    python tests/runtime/load_runs.py --loads 1000

Each thread has models of its own, of both artefacts in turns, and loads one anew now and then.
`--loads`: one thread loads, runs once and drops a model so often. Memory, threads and open files
are those at the end against those after a tenth of the work, when caches and pools are full.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import fault_runs
import numpy as np
from fault_subject import measure

_RELOAD_EVERY = 200  # runs of a thread
_GROWTH_KIB = 16 << 10  # of what allocators keep; a leak of one model's code or memory is more


def artefacts(folder: Path) -> list[Path]:
    """A model cut between GPU and NPU, and one with its activation on the NPU."""
    found = []
    for name in ("one", "two"):
        (folder / name).mkdir()
        found.append(fault_runs.build(folder / name, seed=len(found)))
    return found


def serve(paths: list[Path], seconds: float, threads: int, seed: int) -> dict[str, Any]:
    """What `threads` threads of this process saw in that time."""
    import hetero_tvm
    from hetero_tvm import runtime

    runtime.open_opencl()
    began = time.monotonic()
    wrong: list[str] = []
    runs = [0] * threads

    def work(number: int) -> None:
        chance = random.Random(seed * 1000 + number)
        stored = [np.load(path.with_suffix(".npz")) for path in paths]
        models = [hetero_tvm.load(path) for path in paths]
        while time.monotonic() - began < seconds and not wrong:
            which = chance.randrange(len(paths))
            if runs[number] % _RELOAD_EVERY == _RELOAD_EVERY - 1:
                models[which] = hetero_tvm.load(paths[which])
            try:
                got = models[which].run({"x": stored[which]["in x"]})["y"]
                if not np.allclose(got, stored[which]["out y"], 1e-4, 1e-4):
                    wrong.append(f"thread {number}: wrong numbers of {paths[which]}")
            except Exception as error:  # noqa: BLE001 - whatever it is, it is a finding
                wrong.append(f"thread {number}: {type(error).__name__}: {error}")
            runs[number] += 1

    pool = [threading.Thread(target=work, args=(number,)) for number in range(threads)]
    for thread in pool:
        thread.start()
    time.sleep(seconds / 10)
    early = measure()
    for thread in pool[:-1]:
        thread.join(max(0.0, began + seconds * 0.98 - time.monotonic()))
    late = measure()  # while all of them are at work, as before
    for thread in pool:
        thread.join()
    return {"runs": sum(runs), "wrong": wrong + growth(early, late), "early": early, "late": late}


def load_often(path: Path, loads: int) -> dict[str, Any]:
    """The same for one model that is loaded and dropped `loads` times."""
    import hetero_tvm

    stored = np.load(path.with_suffix(".npz"))
    wrong, early = [], {}
    for number in range(loads):
        got = hetero_tvm.load(path).run({"x": stored["in x"]})["y"]
        if not np.allclose(got, stored["out y"], 1e-4, 1e-4):
            wrong.append(f"load {number}: wrong numbers")
        if number == loads // 10:
            early = measure()
    late = measure()
    return {"runs": loads, "wrong": wrong + growth(early, late), "early": early, "late": late}


def growth(early: dict[str, int], late: dict[str, int]) -> list[str]:
    """What there is more of than may be."""
    allowed = {"resident_kib": _GROWTH_KIB, "threads": 2, "files": 2, "device_bytes": 1 << 20}
    return [
        f"{what} grew from {early[what]} to {late[what]}"
        for what, more in allowed.items()
        if late[what] > early[what] + more
    ]


def main() -> int:
    """Run; exit code 1 when something is wrong."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--threads", type=int, default=8)
    parser.add_argument("--processes", type=int, default=4)
    parser.add_argument("--loads", type=int, help="load one model so often instead")
    parser.add_argument("--of", type=Path, nargs="*", help=argparse.SUPPRESS)  # a child's artefacts
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    if args.of:
        if args.loads:
            print(json.dumps(load_often(args.of[0], args.loads)))
        else:
            print(json.dumps(serve(args.of, args.minutes * 60, args.threads, args.seed)))
        return 0
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, __file__, "--of", *map(str, artefacts(Path(folder)))]
        command += ["--minutes", str(args.minutes), "--threads", str(args.threads)]
        command += ["--loads", str(args.loads)] if args.loads else []
        processes = [
            subprocess.Popen(
                [*command, "--seed", str(number)],
                stdout=subprocess.PIPE,
                text=True,
                env={**os.environ, "HETERO_CACHE_DIR": folder},
            )
            for number in range(1 if args.loads else args.processes)
        ]
        told = [process.communicate()[0] for process in processes]
    wrong = 0
    for process, text in zip(processes, told, strict=True):
        if process.returncode != 0:
            print(f"a process ended with {process.returncode}")
            wrong += 1
            continue
        found = json.loads(text)
        wrong += len(found["wrong"])
        print(f"{found['runs']} runs, {found['early']} -> {found['late']}", *found["wrong"])
    return int(bool(wrong))


if __name__ == "__main__":
    sys.exit(main())
