"""A process whose OpenCL and ONNX Runtime fail as they are told; one JSON request a line.

    python fault_subject.py ARTEFACT [sound]

{"opencl": PLAN, "ort": PLAN, "load": true, "trace": false}: load the artefact anew, or keep it, and
run it under these plans (`fault_shims`), then once more without. The answer: how both ended
("right", "wrong", or "error" with its kind and message), the seconds they took, and how often each
call happened. {"measure": true}: resident memory, threads, open files and device memory.
"""

from __future__ import annotations

import gc
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import fault_shims
import numpy as np


class Subject:
    """A loaded artefact, and what its answers should be."""

    def __init__(self, artefact: Path) -> None:
        self._artefact = artefact
        self._model: Any = None
        stored = np.load(artefact.with_suffix(".npz"))
        self._inputs = {k[3:]: v for k, v in stored.items() if k.startswith("in ")}
        self._outputs = {k[4:]: v for k, v in stored.items() if k.startswith("out ")}

    def run(self, load: bool, trace: bool) -> dict[str, Any]:
        """How loading, where it has to be, and one run end."""
        import hetero_tvm
        from hetero_tvm.errors import HeteroError

        began = time.monotonic()
        try:
            if load or self._model is None:
                self._model = None
                self._model = hetero_tvm.load(self._artefact)
            found = self._traced() if trace else self._model.run(self._inputs)
            # float32 sums of 64 terms in another order
            close = {k: np.allclose(found[k], v, 1e-4, 1e-4) for k, v in self._outputs.items()}
            ended: dict[str, Any] = {"outcome": "right" if all(close.values()) else "wrong"}
        except (HeteroError, ValueError) as error:
            ended = {"outcome": "error", "kind": type(error).__name__, "message": str(error)}
        except Exception as error:  # noqa: BLE001 - whatever else comes is a finding
            ended = {"outcome": "odd", "kind": type(error).__name__, "message": str(error)}
        return {**ended, "seconds": time.monotonic() - began}

    def _traced(self) -> Any:
        import tvm

        start = tvm.get_global_func("hetero_tvm.trace_start")
        stop = tvm.get_global_func("hetero_tvm.trace_stop")
        try:
            start(1000)
            return self._model.run(self._inputs)
        finally:
            stop()


def measure() -> dict[str, int]:
    """What must not grow."""
    from hetero_tvm import runtime

    gc.collect()
    status = Path("/proc/self/status").read_text()
    return {
        "resident_kib": int(status.split("VmRSS:")[1].split()[0]),
        "threads": int(status.split("Threads:")[1].split()[0]),
        "files": len(list(Path("/proc/self/fd").iterdir())),
        "device_bytes": runtime.held_bytes(),
    }


def main() -> None:
    """Serve requests until there are no more."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    opencl = fault_shims.Shim(fault_shims.opencl_shim())
    ort = fault_shims.Shim(fault_shims.ort_shim())
    subject = Subject(Path(sys.argv[1]))

    for line in sys.stdin:
        request = json.loads(line)
        if request.get("measure"):
            answer: dict[str, Any] = dict(measure())
        else:
            before = {c: opencl.count(c) for c in fault_shims.opencl_calls()}
            before |= {c: ort.count(c) for c in fault_shims.ort_calls()}
            opencl.plan(request.get("opencl", ""))
            ort.plan(request.get("ort", ""))
            how = (request.get("load", False), request.get("trace", False))
            answer = {"under": subject.run(*how)}
            after = {c: opencl.count(c) for c in fault_shims.opencl_calls()}
            after |= {c: ort.count(c) for c in fault_shims.ort_calls()}
            answer["counts"] = {c: after[c] - before[c] for c in after}
            opencl.plan("")
            ort.plan("")
            answer["after"] = subject.run(load=False, trace=False)
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


if __name__ == "__main__":
    main()
